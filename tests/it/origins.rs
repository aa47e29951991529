//! Which pages may open a WebSocket: refused ones get 403, and the operator is told what to change.

use super::harness::{Handshake, Proxy, RawServer, yaml};

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
    let none: &[&str] = &[];
    for (policy, origins, allowed) in [
        // Nothing said: the same origin, or none.
        ("", none, true),
        ("", &["http://example.com"], true),
        // TLS may end before us, so the scheme says nothing but which port is meant.
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
    let answered = [("listener", "plain"), ("route", "all"), ("code", "403")];
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
