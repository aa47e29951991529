//! Which route a request takes, how it is changed on the way, and how many requests a route admits.

use super::harness::{Conn, Frame, Handshake, Proxy, RawServer, eventually};

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
async fn routes_are_told_apart_by_listener_and_method() {
    let mut servers = vec![];
    for _ in 0..3 {
        servers.push(RawServer::start().await);
    }
    let yaml = format!(
        r#"
workers: 1
listeners:
  - {{ name: public, bind: "127.0.0.1:0" }}
  - {{ name: inside, bind: "127.0.0.1:0" }}
routes:
  - {{ name: ops, upstream: ops, match: {{ listeners: [inside], path: {{ prefix: /ops }} }} }}
  - {{ name: read, upstream: read, match: {{ methods: [GET, HEAD], path: {{ prefix: /room }} }} }}
  - {{ name: write, upstream: write, match: {{ methods: [POST], path: {{ prefix: /room }} }} }}
upstreams:
  ops: {{ endpoints: [{:?}] }}
  read: {{ endpoints: [{:?}] }}
  write: {{ endpoints: [{:?}] }}
"#,
        servers[0].url(),
        servers[1].url(),
        servers[2].url()
    );
    let proxy = Proxy::start(&yaml);
    let plain = |method: &str, target: &str| {
        format!("{method} {target} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n").into_bytes()
    };
    // A handshake is a GET.
    for (listener, request, found) in [
        ("inside", Handshake::to("/ops/ws").bytes(), Some(0)),
        ("public", Handshake::to("/ops/ws").bytes(), None),
        ("public", Handshake::to("/room/1").bytes(), Some(1)),
        ("inside", plain("HEAD", "/room/1"), Some(1)),
        ("public", plain("POST", "/room/1"), Some(2)),
    ] {
        let mut client = Conn::connect(proxy.listener(listener)).await;
        client.send(request).await;
        match found {
            Some(index) => drop(servers[index].accept().await.head().await),
            None => assert_eq!(client.head().await.status(), 404),
        }
    }
    for (request, status, allow) in [
        (plain("DELETE", "/room/1"), 405, Some("GET, HEAD, POST")),
        (plain("get", "//room;x/1"), 405, Some("GET, HEAD, POST")),
        (plain("DELETE", "/nowhere"), 404, None),
    ] {
        let mut client = proxy.client().await;
        client.send(request).await;
        let head = client.head().await;
        assert_eq!((head.status(), head.get("allow")), (status, allow));
    }
    let refused = [("listener", "public"), ("route", ""), ("reason", "method")];
    assert_eq!(proxy.metric("wsluice_rejections_total", &refused), 2.0);
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
    let total = |route, upstream| proxy.metric("wsluice_sessions_total", &[("route", route), ("upstream", upstream)]);
    // A session is counted a moment after its 101.
    eventually("three sessions", || ((total("a", "one"), total("b", "two")) == (2.0, 1.0)).then_some(())).await;
}

#[tokio::test]
async fn no_spelling_of_a_path_goes_past_its_route() {
    let routes = r#"
  - { name: admin, upstream: one, match: { path: { prefix: /admin } }, origins: { allow: ["https://admin.example"] } }
  - { name: open, upstream: one, match: { path: { exact: /health } }, origins: { allow: ["*"] } }
  - { name: api, upstream: one, match: { path: { prefix: /api } }, origins: { allow: ["*"] }, paths: { encoded_slash: refuse } }
  - { name: git, upstream: one, match: { path: { regex: "/git/[^/]+" } }, origins: { allow: ["*"] }, paths: { encoded_slash: keep } }
  - { name: files, upstream: one, match: { path: { prefix: /files } }, origins: { allow: ["*"] } }
  - { name: rest, upstream: one, match: { path: { prefix: /rest } }, origins: { allow: ["*"] } }
  - { name: others, upstream: one, origins: { allow: ["https://others.example"] } }
"#;
    let (proxy, mut servers) = start(routes, &["one"]).await;
    let refused = [
        "/admin/ws",
        "/admin%2Fws",
        "/%2fadmin/ws",
        "//admin/ws",
        "/.//admin/ws",
        "/x/..//admin/ws",
        "/admin//ws",
        "/admin;x/ws",
        "/;x/admin/ws",
        "/admin;/",
        "/admin%3bx/ws",
        "/ad%6Din;x=%2f/ws",
        "/%61dmin%2fws",
        "//admin%2fws;x",
        // An exact path has no variants to check.
        "/health/x",
        "/xhealth",
    ];
    for target in refused {
        let mut client = proxy.client().await;
        let head = client.ask(&Handshake::to(target).with("Origin", "https://evil.example")).await;
        assert_eq!(head.status(), 403, "{target}");
        // A plain request has no origin to be judged by; it is the same route.
        let mut client = proxy.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\nHost: example.com\r\n\r\n")).await;
        let mut upstream = servers[0].accept().await;
        upstream.head().await;
        upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 200, "{target}");
    }
    for target in ["/api/a%2Fb", "/api%2Fa", "//api/a%2fb"] {
        let mut client = proxy.client().await;
        let head = client.ask(&Handshake::to(target).with("Origin", "https://evil.example")).await;
        assert_eq!(head.status(), 400, "{target}");
        let body = client.body(&head).await;
        let told = String::from_utf8_lossy(&body).into_owned();
        assert!(told.contains("paths.encoded_slash"), "{told}");
    }
    for (target, seen) in [
        ("//health", "/health"),
        ("/health;jsessionid=1?x=;//%2F", "/health?x=;//%2F"),
        ("/api;x//a", "/api/a"),
        ("/git/group%2fproject", "/git/group%2fproject"),
        ("/files/group%2fproject%2Fa", "/files/group%2fproject%2Fa"),
        ("/files//a;v=1/", "/files//a;v=1/"),
        ("/files/http://x/", "/files/http://x/"),
        ("//files/group%2fproject", "/files/group/project"),
    ] {
        let mut client = proxy.client().await;
        client.send(Handshake::to(target).with("Origin", "https://evil.example").bytes()).await;
        let mut upstream = servers[0].accept().await;
        assert_eq!(upstream.switch(&[]).await.target(), seen, "{target}");
        assert_eq!(client.head().await.status(), 101, "{target}");
    }
}
