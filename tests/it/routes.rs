//! Which route a request takes, what becomes of it on the way, and how many may be there at a time.

use super::harness::{Frame, Handshake, Proxy, RawServer};

/// A proxy with one upstream for each name; a route's section is named as its upstream.
async fn start(routes: &str, upstreams: &[&str]) -> (Proxy, Vec<RawServer>) {
    let mut servers = vec![];
    let mut yaml =
        format!("workers: 1\nlisteners:\n  - {{ name: plain, bind: \"127.0.0.1:0\" }}\nroutes:\n{routes}upstreams:\n");
    for name in upstreams {
        let server = RawServer::start().await;
        yaml.push_str(&format!("  {name}: {{ endpoints: [{:?}] }}\n", server.url()));
        servers.push(server);
    }
    (Proxy::start(&yaml), servers)
}

#[tokio::test]
async fn the_first_route_that_matches_all_criteria_wins() {
    let routes = r#"
  - { name: exact, upstream: exact, match: { hosts: [chat.example.com], path: { exact: /ws } } }
  - { name: wild, upstream: wild, match: { hosts: ["*.example.com"], path: { prefix: /ws } } }
  - { name: regex, upstream: regex, match: { path: { regex: "/room/[0-9]+" } } }
  - { name: header, upstream: header, match: { headers: { x-version: "2" } } }
  - { name: query, upstream: query, match: { query: { v: "2" } } }
  - { name: protocol, upstream: protocol, match: { subprotocols: [mqtt] } }
  - { name: rest, upstream: rest, match: { hosts: [example.com] } }
"#;
    let names = ["exact", "wild", "regex", "header", "query", "protocol", "rest"];
    let (proxy, mut servers) = start(routes, &names).await;
    let to = |host: &str, target: &str| Handshake::to(target).set("Host", host);
    for (handshake, name) in [
        (to("chat.example.com", "/ws"), Some("exact")),
        (to("CHAT.Example.com.:8080", "/ws?x"), Some("exact")),
        (to("chat.example.com", "/x/../ws"), Some("exact")),
        (to("chat.example.com", "/ws/a"), Some("wild")),
        (to("a.b.example.com", "/ws"), Some("wild")),
        (to("a.b.example.com", "/wsx"), None),
        (to("example.com", "/ws"), Some("rest")),
        (to("elsewhere.com", "/room/12"), Some("regex")),
        (to("elsewhere.com", "/room/12a"), None),
        (to("elsewhere.com", "/a/room/12"), None),
        (to("elsewhere.com", "/").with("X-Version", "2"), Some("header")),
        (to("elsewhere.com", "/").with("X-Version", "3"), None),
        (to("elsewhere.com", "/?a=1&v=2"), Some("query")),
        (to("elsewhere.com", "/?v=22"), None),
        (to("elsewhere.com", "/").with("Sec-WebSocket-Protocol", "chat, mqtt"), Some("protocol")),
        (to("elsewhere.com", "/").with("Sec-WebSocket-Protocol", "mqttx"), None),
        (to("elsewhere.com", "/"), None),
    ] {
        let mut client = proxy.client().await;
        client.send(handshake.bytes()).await;
        match name.and_then(|name| names.iter().position(|found| *found == name)) {
            Some(index) => {
                servers[index].accept().await.switch(&[]).await;
                assert_eq!(client.head().await.status(), 101, "{handshake:?}");
            }
            None => {
                let head = client.head().await;
                assert_eq!(head.status(), 404, "{handshake:?}");
                assert!(client.body(&head).await.starts_with(b"no_route: "));
            }
        }
    }
    let not_found = [("listener", "plain"), ("route", ""), ("reason", "no_route")];
    assert_eq!(proxy.metric("wsluice_rejections_total", &not_found), 7.0);
}

#[tokio::test]
async fn prefixes_and_headers_are_rewritten_both_ways() {
    let routes = r#"
  - name: chat
    upstream: chat
    match: { path: { prefix: /ws } }
    rewrite: { strip_prefix: /ws, add_prefix: /v2/socket }
    headers:
      request: { set: { X-Tenant: acme, User-Agent: wsluice }, remove: [Cookie] }
      response: { set: { X-Served-By: wsluice }, remove: [Server] }
"#;
    let (proxy, mut servers) = start(routes, &["chat"]).await;
    for (target, seen) in [
        ("/ws", "/v2/socket/"),
        ("/ws/", "/v2/socket/"),
        ("/ws/a/b?c=d", "/v2/socket/a/b?c=d"),
        ("/ws/ws", "/v2/socket/ws"),
        ("/x/../ws/%7e", "/v2/socket/~"),
    ] {
        let mut client = proxy.client().await;
        client.send(Handshake::to(target).with("Cookie", "a=b").with("User-Agent", "x").bytes()).await;
        let request = servers[0].accept().await.switch(&[("Server", "raw"), ("X-Kept", "yes")]).await;
        assert_eq!(request.target(), seen);
        assert_eq!((request.get("x-tenant"), request.get("cookie")), (Some("acme"), None));
        assert_eq!(request.get("user-agent"), Some("wsluice"));
        let response = client.head().await;
        assert_eq!(response.status(), 101);
        assert_eq!((response.get("x-served-by"), response.get("server")), (Some("wsluice"), None));
        assert_eq!(response.get("x-kept"), Some("yes"));
    }
}

#[tokio::test]
async fn a_full_route_is_503_with_retry_after_until_somebody_goes() {
    let routes = "  - { name: chat, upstream: chat, limits: { connections: 2 } }\n";
    let (proxy, mut servers) = start(routes, &["chat"]).await;
    let mut open = vec![];
    for _ in 0..2 {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut server = servers[0].accept().await;
        server.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101);
        open.push((client, server));
    }
    let mut waits = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let mut client = proxy.client().await;
        let head = client.ask(&Handshake::new()).await;
        assert_eq!(head.status(), 503);
        let seconds: u32 = head.get("retry-after").unwrap().parse().unwrap();
        assert!((1..=10).contains(&seconds), "{seconds}");
        waits.insert(seconds);
        assert!(client.body(&head).await.starts_with(b"route_full: "));
    }
    assert!(waits.len() > 1, "all are to come back at the same moment");
    assert_eq!(servers[0].connections().await, 2);
    let full = [("listener", "plain"), ("route", "chat"), ("reason", "route_full")];
    assert_eq!(proxy.metric("wsluice_rejections_total", &full), 30.0);

    let (mut client, mut server) = open.pop().unwrap();
    client.put(&Frame::close(1000, "")).await;
    server.expect(&Frame::close(1000, "")).await;
    server.put(&Frame::close(1000, "")).await;
    client.expect_close().await;
    client.expect_end().await;
    drop((client, server));
    proxy
        .metric_becomes(
            "wsluice_sessions_active",
            &[("listener", "plain"), ("route", "chat"), ("upstream", "chat")],
            1.0,
        )
        .await;
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    servers[0].accept().await.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn a_handshake_that_fails_gives_its_place_back() {
    let routes = "  - { name: chat, upstream: chat, limits: { connections: 1 } }\n";
    let (proxy, mut servers) = start(routes, &["chat"]).await;
    for _ in 0..3 {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut server = servers[0].accept().await;
        server.head().await;
        server.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 403);
        client.read_to_end().await;
    }
}

#[tokio::test]
async fn routes_count_apart() {
    let routes = "  - { name: a, upstream: one, match: { path: { prefix: /a } } }\n  - { name: b, upstream: two }\n";
    let (proxy, mut servers) = start(routes, &["one", "two"]).await;
    for (target, index) in [("/a", 0), ("/b", 1), ("/a/x", 0)] {
        let mut client = proxy.client().await;
        client.send(Handshake::to(target).bytes()).await;
        servers[index].accept().await.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101);
    }
    // A session counts a moment after its 101.
    for (route, upstream, total) in [("a", "one", 2.0), ("b", "two", 1.0)] {
        proxy.metric_becomes("wsluice_sessions_total", &[("route", route), ("upstream", upstream)], total).await;
    }
}
