//! Which addresses may connect to a listener, and which may use a route.

use crate::harness::{Conn, Frame, Handshake, Pair, Proxy, RawServer, yaml};
use crate::plain::{Site, get, ok, with_listener};

/// Connects, and waits for the end of the connection, with nothing said on either side.
async fn is_shut_out(proxy: &Proxy) {
    let mut client = proxy.client().await;
    assert_eq!(client.read_to_end().await, b"");
}

/// Sends a PROXY header for this client and a GET; returns the status, or 0 if the connection ends.
async fn announced(site: &mut Site, client: &str) -> u16 {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    let destination = if client.contains(':') { "2001:db8::1" } else { "198.51.100.1" };
    let mut conn = site.proxy.client().await;
    let header = format!("PROXY {family} {client} {destination} 4711 443\r\n");
    let _ = conn.try_send([header.as_bytes(), get("/").as_bytes()].concat()).await;
    answered(site, conn).await
}

async fn answered(site: &mut Site, mut conn: Conn) -> u16 {
    let served = async {
        let mut server = site.upstream.accept().await;
        server.head().await;
        server.send(ok("")).await;
        server.finish().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        head = conn.try_head() => head.map_or(0, |head| head.status()),
        () = served => 0,
    }
}

#[tokio::test]
async fn who_may_not_connect_is_shut_out_before_a_byte_and_a_reload_lets_him_in() {
    let mut server = RawServer::start().await;
    let text = yaml(&[server.url()], &[]);
    let with = |lines: &[&str]| with_listener(&text, lines);
    let mut proxy = Proxy::start(&with(&["addresses: { allow: [127.0.0.0/8, 10.0.0.0/8], deny: [127.0.0.1] }"]));
    for _ in 0..15 {
        is_shut_out(&proxy).await;
    }
    let labels = [("listener", "plain"), ("reason", "address")];
    proxy.metric_becomes("wsluice_connection_errors_total", &labels, 15.0).await;
    assert_eq!(proxy.metric("wsluice_connections_total", &[("listener", "plain")]), 0.0);
    proxy.reload(&with(&["addresses: { allow: [127.0.0.1] }"])).await.unwrap();
    let mut client = proxy.client().await;
    client.send(get("/")).await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    // Who is in stays in; new connections follow the file.
    proxy.reload(&with(&["addresses: { deny: [\"::ffff:127.0.0.0/104\"] }"])).await.unwrap();
    is_shut_out(&proxy).await;
    proxy.metric_becomes("wsluice_connection_errors_total", &labels, 16.0).await;
    upstream.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn with_a_proxy_header_the_client_that_it_announces_is_judged() {
    let addresses =
        "addresses: { allow: [203.0.113.0/24, \"2001:db8::/32\"], deny: [203.0.113.9, \"2001:db8:bad::/48\"] }";
    let mut site = Site::with_listener(&["proxy_protocol: require", addresses]).await;
    for (client, status) in [
        ("203.0.113.7", 200),
        ("203.0.113.9", 0),
        ("198.51.100.7", 0),
        ("2001:db8::7", 200),
        ("2001:db8:bad::7", 0),
        ("::ffff:203.0.113.7", 200),
        ("::ffff:203.0.113.9", 0),
    ] {
        assert_eq!(announced(&mut site, client).await, status, "{client}");
    }
    // A proxy that speaks for itself is judged by its own address.
    let mut conn = site.proxy.client().await;
    let _ = conn.try_send([b"PROXY UNKNOWN\r\n", get("/").as_bytes()].concat()).await;
    assert_eq!(answered(&mut site, conn).await, 0);
    let labels = [("listener", "plain"), ("reason", "address")];
    site.proxy.metric_becomes("wsluice_connection_errors_total", &labels, 5.0).await;
}

#[tokio::test]
async fn a_route_judges_the_client_that_trusted_proxies_tell_and_nobody_elses_word() {
    let route = ["addresses: { allow: [192.0.2.0/24], deny: [192.0.2.9] }"];
    let server = RawServer::start().await;
    let believed = with_listener(&yaml(&[server.url()], &route), &["trusted_proxies: [127.0.0.1]"]);
    let mut site = Site { proxy: Proxy::start(&believed), upstream: server };
    let ask = |line: &str| format!("GET / HTTP/1.1\r\nHost: example.com\r\n{line}\r\n\r\n");
    for (line, status) in [
        ("X-Forwarded-For: 192.0.2.7", 200),
        ("X-Forwarded-For: ::ffff:192.0.2.7", 200),
        ("X-Forwarded-For: 192.0.2.9", 403),
        ("X-Forwarded-For: 192.0.2.7, 198.51.100.7", 403),
        // Fields that contradict each other hide the client, which is no way round `deny`.
        ("X-Forwarded-For: 192.0.2.9\r\nForwarded: for=192.0.2.7", 403),
        ("X-A: b", 403),
    ] {
        let mut conn = site.proxy.client().await;
        conn.send(ask(line)).await;
        assert_eq!(answered(&mut site, conn).await, status, "{line}");
    }
    let log = site.proxy.log_lines(6).await;
    assert_eq!(log.iter().filter(|line| line["reason"] == "address").count(), 4, "{log:#?}");
    let labels = [("listener", "plain"), ("route", "all"), ("reason", "address")];
    assert_eq!(site.proxy.metric("wsluice_rejections_total", &labels), 4.0);

    // Of a peer that is not trusted, a field counts for nothing: it neither lets in nor keeps out.
    for (route, status) in [(route[0], 403), ("addresses: { deny: [192.0.2.7] }", 200)] {
        let mut site = Site::start(&[route]).await;
        let mut conn = site.proxy.client().await;
        conn.send(ask("X-Forwarded-For: 192.0.2.7")).await;
        assert_eq!(answered(&mut site, conn).await, status, "{route}");
    }
}

#[tokio::test]
async fn handshakes_and_answers_of_the_route_are_judged_too() {
    let server = RawServer::start().await;
    let text = yaml(&[server.url()], &["addresses: { deny: [127.0.0.1] }"]);
    let proxy = Proxy::start(&text);
    let mut client = proxy.client().await;
    assert_eq!(client.ask(&Handshake::new()).await.status(), 403);
    let answer = text.replace("upstream: app", "respond: { body: secret }");
    let answer = answer.split("upstreams:").next().unwrap().to_owned() + "upstreams: {}\n";
    let proxy = Proxy::start(&answer);
    let mut client = proxy.client().await;
    client.send(get("/")).await;
    assert_eq!(client.head().await.status(), 403);
    let mut pair = Pair::open(&["addresses: { allow: [127.0.0.1] }"]).await;
    pair.client.put(&Frame::text("in")).await;
    pair.server.expect(&Frame::text("in")).await;
}
