//! How connections to servers begin, are shared, and end: no session is lost by that.

use std::time::Duration;

use h2::Reason;
use h2::server::Builder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::super::harness::{Authority, Conn, Frame, H2Server, Io, RawServer, eventually, within, yaml};
use super::{APP, Entrance, FRONTS, Front, Site, config};

const CONNECTIONS: &str = "wsluice_upstream_http2_connections_active";

fn with_streams(max: u32) -> Builder {
    let mut settings = Builder::new();
    settings.enable_connect_protocol().max_concurrent_streams(max);
    settings
}

#[tokio::test]
async fn handshakes_at_once_share_one_dial_and_its_connection() {
    let mut site = Site::new(Front::H2, &[]).await;
    let mut clients = vec![];
    for _ in 0..20 {
        let request = site.entrance.client.connect_request("websocket", "/", &[("sec-websocket-version", "13")]);
        clients.push(site.entrance.client.ask(request, false).await);
    }
    let mut conn = site.server.accept().await;
    let mut sessions = vec![];
    for _ in 0..20 {
        sessions.push(conn.open(&[]).await);
    }
    for (answer, _) in &mut clients {
        assert_eq!(within("an answer", answer).await.unwrap().status(), 200);
    }
    assert_eq!(site.proxy().metric(CONNECTIONS, &APP), 1.0);
    let endpoint = [("upstream", "app"), ("endpoint", site.server.url())];
    assert_eq!(site.proxy().metric("wsluice_endpoint_sessions_active", &endpoint), 20.0);
}

#[tokio::test]
async fn a_connection_has_no_more_streams_than_the_server_allows_and_the_next_is_made_ahead() {
    let server = H2Server::with(with_streams(2), None).await;
    let mut site = Site::of(Front::H1, server, &[]).await;
    let (mut one, mut one_server, mut conn) = site.open().await;
    let (two, two_server) = site.open_on(&mut conn).await;
    // The places have run out: another is made though nobody asks.
    let mut next = site.server.accept().await;
    let (mut three, mut three_server) = site.open_on(&mut next).await;
    for (client, server) in [(&mut one, &mut one_server), (&mut three, &mut three_server)] {
        client.conn.put(&Frame::text("x")).await;
        server.conn.expect(&Frame::text("x")).await;
    }
    assert_eq!((conn.requests(), next.requests()), (2, 1));
    // A place that is free again is used before others.
    drop((two, two_server));
    site.proxy().metric_becomes("wsluice_upstream_http2_streams_active", &APP, 2.0).await;
    let (_four, _four_server) = site.open_on(&mut conn).await;
}

#[tokio::test]
async fn a_goaway_lets_sessions_live_and_sends_new_ones_to_another_connection() {
    for front in FRONTS {
        let mut site = Site::new(front, &[]).await;
        let (mut old, mut old_server, conn) = site.open().await;
        conn.goaway();
        eventually("a GOAWAY", || {
            (site.proxy().metric("wsluice_upstream_http2_goaways_total", &APP) > 0.0).then_some(())
        })
        .await;
        let (mut new, mut new_server, _next) = site.open().await;
        for (client, server) in [(&mut old, &mut old_server), (&mut new, &mut new_server)] {
            client.conn.put(&Frame::text("x")).await;
            server.conn.expect(&Frame::text("x")).await;
        }
        old.conn.put(&Frame::close(1000, "")).await;
        old_server.conn.expect(&Frame::close(1000, "")).await;
        old_server.conn.put(&Frame::close(1000, "")).await;
        old.conn.expect(&Frame::close(1000, "")).await;
        // The last stream has ended.
        conn.ended().await;
    }
}

/// Reads frames until a HEADERS, and returns its stream.
async fn headers(stream: &mut tokio::net::TcpStream) -> u32 {
    loop {
        let mut header = [0; 9];
        within("a frame", stream.read_exact(&mut header)).await.unwrap();
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; length as usize];
        within("a payload", stream.read_exact(&mut payload)).await.unwrap();
        if header[3] == 1 {
            return u32::from_be_bytes(header[5..].try_into().unwrap());
        }
    }
}

/// Begins HTTP/2 by hand, with extended CONNECT.
async fn by_hand(server: &mut H2Server) -> tokio::net::TcpStream {
    let mut stream = server.accept_tcp().await;
    within("the preface", stream.read_exact(&mut [0; 24])).await.unwrap();
    let settings = [&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1][..], &[0, 0, 0, 4, 1, 0, 0, 0, 0]].concat();
    stream.write_all(&settings).await.unwrap();
    stream
}

#[tokio::test]
async fn what_a_server_that_goes_did_not_look_at_goes_on_another_connection() {
    // GOAWAY (last stream 0), RST_STREAM (REFUSED_STREAM).
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for front in FRONTS {
        let mut site = Site::new(front, &[]).await;
        let Site { entrance, server } = &mut site;
        let (mut client, (mut session, _conns)) = tokio::join!(entrance.open("/", &[]), async {
            let mut first = by_hand(server).await;
            headers(&mut first).await;
            first.write_all(&goaway).await.unwrap();
            let mut second = server.accept().await;
            let mut refused = second.stream().await;
            refused.respond.send_reset(Reason::REFUSED_STREAM);
            (second.open(&[]).await, (first, second))
        });
        client.conn.put(&Frame::text("x")).await;
        session.conn.expect(&Frame::text("x")).await;
        let errors: Vec<_> = site
            .proxy()
            .metrics()
            .lines()
            .filter(|line| line.starts_with("wsluice_upstream_errors_total{"))
            .map(str::to_owned)
            .collect();
        assert!(errors.iter().all(|line| line.ends_with(" 0")), "{errors:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_as_it_is_used_again_costs_no_session() {
    let mut site = Site::new(Front::H1, &[]).await;
    let (first, first_server, mut conn) = site.open().await;
    let Site { entrance, server } = &mut site;
    let (mut client, (mut session, _next)) = tokio::join!(entrance.open("/", &[]), async {
        conn.stream().await;
        conn.lose();
        let mut next = server.accept().await;
        (next.open(&[]).await, next)
    });
    client.conn.put(&Frame::text("x")).await;
    session.conn.expect(&Frame::text("x")).await;
    drop((first, first_server));
}

#[tokio::test]
async fn without_extended_connect_h2_is_a_502_that_says_so() {
    for front in FRONTS {
        let server = H2Server::with(Builder::new(), None).await;
        let mut site = Site::of(front, server, &[]).await;
        let Site { entrance, server } = &mut site;
        let (refused, _conn) = tokio::join!(entrance.try_open("/", &[]), server.accept());
        let (status, body) = refused.err().unwrap();
        assert_eq!((status, body.split(':').next()), (502, Some("upstream_handshake")));
        let labels = [("upstream", "app"), ("endpoint", site.server.url()), ("reason", "no_extended_connect")];
        assert_eq!(site.proxy().metric("wsluice_upstream_errors_total", &labels), 1.0);
        let line = &site.proxy().log_lines(1).await[0];
        assert!(line["detail"].as_str().unwrap().contains("SETTINGS_ENABLE_CONNECT_PROTOCOL"), "{line}");
    }
}

#[tokio::test]
async fn a_server_of_http1_alone_is_a_502_that_says_so_where_h2_is_wanted() {
    let authority = Authority::new();
    let mut tls = rustls::ServerConfig::clone(&authority.server(&["127.0.0.1"]));
    for alpn in [vec![], vec![b"http/1.1".to_vec()]] {
        tls.alpn_protocols = alpn.clone();
        let server = RawServer::start_tls(tls.clone().into()).await;
        let yaml = config("h2", &[server.url()], &[]);
        let yaml = yaml.replace("{ protocol:", &format!("{{ tls: {{ ca: {:?} }}, protocol:", authority.ca()));
        let mut entrance = Entrance::new(Front::H1, &yaml).await;
        let refused = entrance.try_open("/", &[]).await;
        assert_eq!(refused.err().map(|(status, _)| status), Some(502));
        // Without ALPN it says nothing; with it, it ends the handshake.
        let reason = if alpn.is_empty() { "not_http2" } else { "tls" };
        let labels = [("upstream", "app"), ("endpoint", server.url()), ("reason", reason)];
        assert_eq!(entrance.proxy.metric("wsluice_upstream_errors_total", &labels), 1.0, "{reason}");
    }
    // In plain text, what answers is no HTTP/2.
    let mut server = RawServer::start().await;
    let mut entrance = Entrance::new(Front::H1, &config("h2", &[server.url()], &[])).await;
    let (refused, ()) = tokio::join!(entrance.try_open("/", &[]), async {
        let mut conn = server.accept().await;
        conn.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    });
    assert_eq!(refused.err().map(|(status, _)| status), Some(502));
    let labels = [("upstream", "app"), ("endpoint", server.url()), ("reason", "http2")];
    assert_eq!(entrance.proxy.metric("wsluice_upstream_errors_total", &labels), 1.0);
}

/// A server by TLS that has HTTP/2 with these settings, and HTTP/1.1.
async fn by_tls(authority: &Authority, settings: Builder, alpn: &[&[u8]]) -> (H2Server, String) {
    let mut tls = rustls::ServerConfig::clone(&authority.server(&["127.0.0.1"]));
    tls.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let server = H2Server::with(settings, Some(tls.into())).await;
    let yaml = config("auto", &[server.url()], &[]);
    let yaml = yaml.replace("{ protocol: auto,", &format!("{{ tls: {{ ca: {:?} }},", authority.ca()));
    (server, yaml)
}

#[tokio::test]
async fn by_default_a_server_without_extended_connect_gets_websockets_by_http1_and_is_remembered() {
    let authority = Authority::new();
    let (mut server, yaml) = by_tls(&authority, Builder::new(), &[b"h2", b"http/1.1"]).await;
    let mut entrance = Entrance::new(Front::H2, &yaml).await;
    for round in 0..3 {
        let (mut client, mut session) = tokio::join!(entrance.open("/", &[]), async {
            if round == 0 {
                // It is asked what it can do.
                drop(server.accept().await);
            }
            let stream = server.accept_tls().await;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            let mut conn = Conn::server(Io::TlsServer(Box::new(stream)));
            conn.switch(&[]).await;
            conn
        });
        client.conn.put(&Frame::text("x")).await;
        session.expect(&Frame::text("x")).await;
    }
    assert_eq!(server.accepted(), 4);
    let lines: Vec<_> = entrance.proxy.log().into_iter().filter(|line| line["message"] == "request").collect();
    assert!(lines.is_empty(), "no request has failed: {lines:?}");
}

#[tokio::test]
async fn by_default_a_server_of_http1_alone_gets_its_first_websocket_on_its_first_connection() {
    let authority = Authority::new();
    for alpn in [&[&b"http/1.1"[..]][..], &[]] {
        let (mut server, yaml) = by_tls(&authority, Builder::new(), alpn).await;
        let mut entrance = Entrance::new(Front::H1, &yaml).await;
        for count in 1..4 {
            let (mut client, mut session) = tokio::join!(entrance.open("/", &[]), async {
                let stream = server.accept_tls().await;
                let mut conn = Conn::server(Io::TlsServer(Box::new(stream)));
                conn.switch(&[]).await;
                conn
            });
            client.conn.put(&Frame::text("x")).await;
            session.expect(&Frame::text("x")).await;
            assert_eq!(server.accepted(), count);
        }
    }
}

#[tokio::test]
async fn by_default_a_server_in_plain_text_is_asked_by_http1() {
    let mut server = RawServer::start().await;
    let mut entrance = Entrance::new(
        Front::H1,
        &yaml(&[server.url()], &[])
            .replace(r#"bind: "127.0.0.1:0" }"#, r#"bind: "127.0.0.1:0", protocols: [h2, http/1.1] }"#),
    )
    .await;
    let (_client, _session) = tokio::join!(entrance.open("/", &[]), async {
        let mut conn = server.accept().await;
        conn.switch(&[]).await;
        conn
    });
    assert_eq!(entrance.proxy.series(CONNECTIONS, &APP), None);
}

#[tokio::test]
async fn a_connection_without_streams_ends_and_one_with_a_session_outlives_its_endpoint() {
    let mut site = Site::new(Front::H1, &[]).await;
    let (mut client, mut session, conn) = site.open().await;
    let other = RawServer::start().await;
    let text = site.proxy().yaml().replace(site.server.url(), other.url()).replace("protocol: h2", "protocol: h1");
    site.entrance.proxy.reload(&text).await.unwrap();
    // Longer than a connection without streams is kept: nothing can be waited for but time.
    tokio::time::sleep(Duration::from_secs(5)).await;
    client.conn.put(&Frame::text("still")).await;
    session.conn.expect(&Frame::text("still")).await;
    client.conn.put(&Frame::close(1000, "")).await;
    session.conn.expect(&Frame::close(1000, "")).await;
    session.conn.put(&Frame::close(1000, "")).await;
    client.conn.expect(&Frame::close(1000, "")).await;
    conn.ended().await;
    eventually("no series", || site.proxy().series(CONNECTIONS, &APP).is_none_or(|it| it == 0.0).then_some(())).await;

    let mut site = Site::new(Front::H1, &[]).await;
    let (client, session, conn) = site.open().await;
    drop((client, session));
    conn.ended().await;
    site.proxy().metric_becomes(CONNECTIONS, &APP, 0.0).await;
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time() {
    let mut site = Site::new(Front::H1, &["timeouts: { connect: 200ms }"]).await;
    let Site { entrance, server } = &mut site;
    let (refused, _stream) = tokio::join!(entrance.try_open("/", &[]), server.accept_tcp());
    assert_eq!(refused.err().map(|(status, _)| status), Some(504));
}

#[tokio::test]
async fn probes_go_by_the_same_protocol() {
    for (check, is_websocket) in [
        ("websocket: { path: /up, every: 300ms, timeout: 300ms }", true),
        ("http: { path: /up, every: 300ms, timeout: 300ms }", false),
    ] {
        let mut server = H2Server::start().await;
        let yaml = config("h2", &[server.url()], &[]);
        let yaml = yaml.replace("{ protocol:", &format!("{{ health: {{ {check} }}, protocol:"));
        let entrance = Entrance::new(Front::H1, &yaml).await;
        let mut conn = server.accept().await;
        let kind = if is_websocket { "websocket" } else { "http" };
        let mut stream = conn.stream().await;
        assert_eq!(
            (stream.request.uri().path(), stream.request.uri().authority().unwrap().as_str()),
            ("/up", &*server.address().to_string())
        );
        if is_websocket {
            let mut session = stream.open(&[]);
            let ping = session.conn.frame().await;
            session.conn.put(&Frame::pong(ping.payload)).await;
            let close = session.conn.frame().await;
            assert_eq!(close.code(), Some(1000));
            session.conn.put(&close).await;
        } else {
            stream.respond(200, &[], "ok");
        }
        let count = || entrance.proxy.series("wsluice_probe_duration_seconds_count", &[APP[0], ("kind", kind)]);
        eventually("a probe", || count().filter(|count| *count > 0.0)).await;
        let failed = entrance.proxy.metrics();
        let mut failed = failed.lines().filter(|line| line.starts_with("wsluice_probe_failures_total{"));
        assert!(failed.all(|line| line.ends_with(" 0")));
        conn.ended().await;
    }
}
