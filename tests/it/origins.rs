//! Which pages may open a WebSocket: others get 403, and the operator learns what to change.

use super::harness::{Authority, Conn, Handshake, Proxy, RawServer, yaml};
use super::plain::with_listener;

/// What the client gets: 101, or the refusal's status.
async fn status(proxy: &Proxy, server: &mut RawServer, handshake: &Handshake, allowed: bool) -> u16 {
    let mut client = proxy.client().await;
    client.send(handshake.bytes()).await;
    if allowed {
        server.accept().await.switch(&[]).await;
    }
    client.head().await.status()
}

#[tokio::test]
async fn a_policy_lets_in_whom_it_names_and_nobody_else() {
    let same = "origins: { allow: [same-origin] }";
    let list = r#"origins: { allow: ["https://app.example.com", "https://*.example.org", "http://localhost:*"], missing: deny }"#;
    let any = r#"origins: { allow: ["*"] }"#;
    let null = "origins: { allow: [\"null\"] }";
    let apps = r#"origins: { allow: ["file://", "capacitor://localhost", { exact: "https://device.example/ws" }] }"#;
    let none: &[&str] = &[];
    for (policy, origins, allowed) in [
        // No policy: the same origin, or none.
        ("", none, true),
        ("", &["http://example.com"], true),
        // TLS may end before the proxy, so the scheme only implies the port.
        ("", &["https://example.com"], true),
        ("", &["https://example.com:8443"], false),
        ("", &["http://evil.com"], false),
        (same, &["http://example.com:80"], true),
        (same, &["HTTP://EXAMPLE.com"], true),
        (same, &["http://example.com:8080"], false),
        (same, &["http://example.com.evil.com"], false),
        (same, &["http://sub.example.com"], false),
        (same, &["null"], false),
        (same, &[""], false),
        (same, &["example.com"], false),
        (same, &["http://example.com/path"], false),
        (same, &["http://example.com", "http://example.com"], false),
        (same, &["http://example.com http://evil.com"], false),
        (list, &["https://app.example.com"], true),
        (list, &["https://app.example.com:443"], true),
        (list, &["http://app.example.com"], false),
        (list, &["https://app.example.com:444"], false),
        (list, &["https://a.b.example.org"], true),
        (list, &["https://example.org"], false),
        (list, &["https://evilexample.org"], false),
        (list, &["http://localhost"], true),
        (list, &["http://localhost:5173"], true),
        (list, &["http://example.com"], false),
        (list, none, false),
        (any, &["http://evil.com"], true),
        (any, &["null"], true),
        (any, none, true),
        (any, &["file://"], true),
        (any, &["https://device.example/ws"], true),
        (any, &["localhost:12345"], true),
        (any, &[""], true),
        (any, &["https://device.example/ws", "http://example.com"], true),
        ("", &["file://"], false),
        ("", &["ws://example.com"], true),
        ("", &["wss://example.com"], true),
        ("", &["wss://evil.com"], false),
        ("", &["ws://example.com/path"], false),
        (list, &["wss://app.example.com"], true),
        (list, &["ws://app.example.com"], false),
        (apps, &["file://"], true),
        (apps, &["capacitor://localhost"], true),
        (apps, &["https://device.example/ws"], true),
        (apps, &["https://device.example"], false),
        (apps, &["null"], false),
        (null, &["null"], true),
        (null, &["http://example.com"], false),
    ] {
        let mut server = RawServer::start().await;
        let lines = [policy];
        let proxy = Proxy::start(&yaml(&[server.url()], if policy.is_empty() { &[] } else { &lines }));
        let handshake = origins.iter().fold(Handshake::new(), |handshake, origin| handshake.with("Origin", origin));
        let expected = if allowed { 101 } else { 403 };
        assert_eq!(status(&proxy, &mut server, &handshake, allowed).await, expected, "{policy} {origins:?}");
        assert_eq!(server.connections().await, usize::from(allowed), "{policy} {origins:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_counted_and_logged_with_what_was_allowed_and_the_client_learns_nothing_of_it() {
    let mut server = RawServer::start().await;
    let origins = r#"origins: { allow: [same-origin, "https://*.corp.example"] }"#;
    let proxy = Proxy::start(&yaml(&[server.url()], &[origins]));
    let mut client = proxy.client().await;
    let head = client.ask(&Handshake::new().with("Origin", "https://evil.com")).await;
    assert_eq!(head.status(), 403);
    let body = String::from_utf8(client.body(&head).await).unwrap();
    assert!(body.starts_with("origin: ") && !body.contains("corp"), "{body}");
    let line = &proxy.log_lines(1).await[0];
    assert_eq!((&line["reason"], &line["status"], &line["route"]), (&"origin".into(), &403.into(), &"all".into()));
    let detail = line["detail"].as_str().unwrap();
    for word in ["https://evil.com", "same-origin", "https://*.corp.example"] {
        assert!(detail.contains(word), "{detail}");
    }
    let refused = [("listener", "plain"), ("route", "all"), ("reason", "origin")];
    proxy.metric_becomes("wsluice_rejections_total", &refused, 1.0).await;
    let answered = [("listener", "plain"), ("route", "all"), ("http", "1.1"), ("code", "403")];
    proxy.metric_becomes("wsluice_handshakes_total", &answered, 1.0).await;
    assert_eq!(server.connections().await, 0);
}

#[tokio::test]
async fn plain_http_is_not_asked_for_its_origin() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &["origins: { allow: [same-origin] }"]));
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\nOrigin: https://other.com\r\n\r\n").await;
    let mut upstream = server.accept().await;
    assert_eq!(upstream.head().await.get("origin"), Some("https://other.com"));
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
}

/// Answers each handshake with 101.
fn switching(mut server: RawServer) -> String {
    let url = server.url().to_owned();
    tokio::spawn(async move {
        while let Some(mut socket) = server.next().await {
            tokio::spawn(async move { socket.switch(&[]).await });
        }
    });
    url
}

#[tokio::test]
async fn a_client_by_tls_that_says_http_is_let_in_where_the_route_says_so() {
    let url = switching(RawServer::start().await);
    let authority = Authority::new();
    let (cert, key) = authority.issue("listener", &["example.com"]);
    let tls = format!("tls: {{ certificates: [{{ cert: {cert:?}, key: {key:?} }}] }}");
    for (policy, origin, status) in [
        ("origins: {}", "https://example.com", 101),
        ("origins: {}", "wss://example.com", 101),
        ("origins: {}", "http://example.com", 403),
        ("origins: {}", "ws://example.com", 403),
        ("origins: { insecure: allow }", "http://example.com", 101),
        ("origins: { insecure: allow }", "ws://example.com", 101),
        ("origins: { insecure: allow }", "http://evil.example", 403),
    ] {
        let proxy = Proxy::start(&with_listener(&yaml(&[&url], &[policy]), &[&tls]));
        let mut client = Conn::connect_tls(proxy.address(), "example.com", authority.client()).await.unwrap();
        let answer = client.ask(&Handshake::new().with("Origin", origin)).await;
        assert_eq!(answer.status(), status, "{policy} {origin}");
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_origin_is_compared_with_the_host_that_it_was_asked_for() {
    let url = switching(RawServer::start().await);
    let behind = ["trusted_proxies: [127.0.0.1]"];
    let host = ("X-Forwarded-Host", "Public.example");
    let port = ("X-Forwarded-Port", "8443");
    let forwarded = ("Forwarded", "for=203.0.113.9;host=\"public.example:8443\";proto=https");
    for (listener, fields, origin, status) in [
        (&behind[..], &[host][..], "https://public.example", 101),
        (&behind, &[host], "https://inner", 403),
        (&behind, &[host], "https://public.example:8443", 403),
        (&behind, &[host, port], "https://public.example:8443", 101),
        (&behind, &[forwarded], "https://public.example:8443", 101),
        (&behind, &[forwarded], "https://public.example", 403),
        // Unreadable fields do not count, but the Host field does.
        (&behind, &[host, forwarded], "https://public.example", 403),
        (&behind, &[host, ("X-Forwarded-Host", "b.example")], "https://public.example", 403),
        (&behind, &[("X-Forwarded-Host", "public.example, b.example")], "https://public.example", 403),
        (&behind, &[("X-Forwarded-Host", "evil@public.example")], "https://public.example", 403),
        (&behind, &[("X-Forwarded-Host", "evil@public.example")], "https://inner", 101),
        (&behind, &[("Forwarded", "host=public.example, for=203.0.113.9")], "https://public.example", 403),
        // A stranger's fields do not count.
        (&[], &[host], "https://public.example", 403),
        (&[], &[forwarded], "https://public.example:8443", 403),
        (&[], &[host], "https://inner", 101),
    ] {
        let proxy = Proxy::start(&with_listener(&yaml(&[&url], &[]), listener));
        let handshake = Handshake::new().set("Host", "inner").with("Origin", origin);
        let handshake = fields.iter().fold(handshake, |handshake, (name, value)| handshake.with(name, value));
        let answer = proxy.client().await.ask(&handshake).await;
        assert_eq!(answer.status(), status, "{listener:?} {fields:?} {origin}");
    }
}

#[tokio::test]
async fn routes_go_by_the_host_field_also_behind_a_trusted_proxy() {
    let url = switching(RawServer::start().await);
    let matched = &["match: { hosts: [public.example] }"];
    let proxy = Proxy::start(&with_listener(&yaml(&[&url], matched), &["trusted_proxies: [127.0.0.1]"]));
    for (host, told, status) in [("inner", "public.example", 404), ("public.example", "other.example", 101)] {
        let handshake = Handshake::new().set("Host", host).with("X-Forwarded-Host", told);
        assert_eq!(proxy.client().await.ask(&handshake).await.status(), status, "{host}");
    }
}

#[tokio::test]
async fn scheme_and_host_are_the_same_in_both_kinds_of_fields_upstream() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&with_listener(&yaml(&[server.url()], &[]), &["trusted_proxies: [127.0.0.1]"]));
    for (fields, forwarded) in [
        (
            &[("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "public.example")][..],
            "for=127.0.0.1;host=public.example;proto=https",
        ),
        (
            &[("Forwarded", "for=203.0.113.9;host=public.example;proto=https")],
            "for=203.0.113.9;host=public.example;proto=https, for=127.0.0.1;host=public.example;proto=https",
        ),
    ] {
        let handshake = fields.iter().fold(Handshake::new(), |handshake, (name, value)| handshake.with(name, value));
        let mut client = proxy.client().await;
        client.send(handshake.bytes()).await;
        let mut socket = server.accept().await;
        let head = socket.switch(&[]).await;
        assert_eq!(head.get("forwarded"), Some(forwarded));
        assert_eq!(head.all("x-forwarded-proto"), ["https"]);
        assert_eq!(head.all("x-forwarded-host"), ["public.example"]);
        assert_eq!(client.head().await.status(), 101);
    }
}
