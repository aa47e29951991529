//! Variables in values of headers: what they say about a request, and what no request can make of them.

use std::collections::BTreeMap;

use crate::harness::{Handshake, Head};
use crate::harness::{Proxy, RawServer, yaml};
use crate::plain::{Site, get, head, ok, with_listener};

const SET: &str = r#"{ X-Ip: "{client.ip}", X-Port: "{client.port}", X-Method: "{request.method}", X-Scheme: "{request.scheme}",
  X-Host: "{request.host}", X-Request-Port: "{request.port}", X-Authority: "{request.authority}", X-Path: "{request.path}",
  X-Query: "{request.query}", X-Target: "{request.target}", X-Rewritten: "{rewrite.target}", X-Prefix: "{rewrite.prefix}",
  X-Rewritten-Path: "{rewrite.path}", X-Listener: "{listener.name}", X-Listener-Port: "{listener.port}",
  X-Route: "{route.name}", X-Upstream: "{upstream.name}", X-Tls: "{tls.version}", X-Id: "{request.id}",
  X-Both: "a {{b} {route.name}/{upstream.name}", X-Json: '{{"a":"{request.method}"}' }"#;

fn set(head: &Head) -> BTreeMap<&str, &str> {
    head.headers.iter().filter(|(name, _)| name.starts_with("x-")).map(|(name, value)| (&**name, &**value)).collect()
}

#[tokio::test]
async fn variables_say_what_is_so_in_both_directions() {
    let lines = [
        "rewrite: { strip_prefix: /app }",
        &format!("headers: {{ request: {{ set: {SET} }}, response: {{ set: {SET} }} }}"),
    ];
    let mut site = Site::start(&lines).await;
    let port = site.proxy.address().tcp().unwrap().port().to_string();
    let plain =
        head(&["GET /app/./a%7e?b=c&d HTTP/1.1", "Host: Example.com:8443", "X-Ip: 6.6.6.6", "X-Tls: 9", "X-Id: mine"]);
    let shaken =
        Handshake::to("/app/./a%7e?b=c&d").set("Host", "Example.com:8443").with("X-Ip", "6.6.6.6").with("X-Tls", "9");
    for request in [plain, String::from_utf8(shaken.bytes()).unwrap()] {
        let (mut client, mut server, seen) = site.ask(&request).await;
        let client_port = client.io.tcp().unwrap().local_addr().unwrap().port().to_string();
        if request.contains("Upgrade") {
            server.send(crate::harness::switching(&seen, &[("X-Tls", "server")])).await;
        } else {
            server.send(ok("")).await;
        }
        let answer = client.head().await;
        for side in [set(&seen), set(&answer)] {
            for (name, value) in [
                ("x-ip", "127.0.0.1"),
                ("x-port", client_port.as_str()),
                ("x-method", "GET"),
                ("x-scheme", "http"),
                ("x-host", "example.com"),
                ("x-request-port", &port),
                ("x-authority", "example.com:8443"),
                ("x-path", "/app/a~"),
                ("x-query", "b=c&d"),
                ("x-target", "/app/a~?b=c&d"),
                ("x-rewritten", "/a~?b=c&d"),
                ("x-rewritten-path", "/a~"),
                ("x-prefix", "/app"),
                ("x-listener", "plain"),
                ("x-listener-port", &port),
                ("x-route", "all"),
                ("x-upstream", "app"),
                ("x-both", "a {b} all/app"),
                ("x-json", r#"{"a":"GET"}"#),
            ] {
                assert_eq!(side.get(name).copied(), Some(value), "{name}");
            }
            // Without TLS there is no version, and neither side's own passes for it.
            assert_eq!(side.get("x-tls"), None);
        }
        let (seen, answer) = (set(&seen), set(&answer));
        assert_eq!(seen["x-id"], answer["x-id"]);
        assert_eq!(seen["x-id"].len(), 36, "a UUID: {}", seen["x-id"]);
    }
}

#[tokio::test]
async fn no_request_can_break_out_of_a_value() {
    let mut site =
        Site::start(&[r#"headers: { request: { set: { X-Query: "<{request.query}>", X-Path: "{request.path}" } } }"#])
            .await;
    for (target, query, path) in [
        ("/?a=%0d%0aX-Evil:%20y", "<a=%0d%0aX-Evil:%20y>", "/"),
        ("/a?\"é<b>", "<%22%C3%A9%3Cb%3E>", "/a"),
        ("/é?", "<>", "/%C3%A9"),
        ("/", "<>", "/"),
    ] {
        let (seen, _) = site.exchange(&get(target), &ok("")).await;
        assert_eq!(
            (seen.get("x-query"), seen.get("x-path"), seen.get("x-evil")),
            (Some(query), Some(path), None),
            "{target}"
        );
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_tells_is_what_variables_say() {
    let server = RawServer::start().await;
    let lines = [
        r#"headers: { request: { set: { X-Says: "{request.scheme}://{request.authority} {request.port} {client.ip} {client.port}" } } }"#,
    ];
    let text = with_listener(&yaml(&[server.url()], &lines), &["trusted_proxies: [127.0.0.1]"]);
    let mut site = Site { proxy: Proxy::start(&text), upstream: server };
    for (fields, says) in [
        (
            &["X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: a.example"][..],
            "https://a.example 443 203.0.113.9",
        ),
        (
            &["X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https", "X-Forwarded-Port: 8443"],
            "https://example.com 8443 203.0.113.9",
        ),
        (&["Forwarded: for=203.0.113.9;host=\"b.example:81\";proto=http"], "http://b.example:81 81 203.0.113.9"),
    ] {
        let request = head(&[&["GET / HTTP/1.1", "Host: example.com"], fields].concat());
        let (seen, _) = site.exchange(&request, &ok("")).await;
        assert_eq!(seen.get("x-says"), Some(says), "{fields:?}");
    }
}

/// What a server gets of the headers that `send` can name, with what the client sends.
async fn sent(listener: &[&str], lines: &[&str], target: &str, fields: &[&str]) -> [Head; 2] {
    let server = RawServer::start().await;
    let text = with_listener(&yaml(&[server.url()], lines), listener);
    let mut site = Site { proxy: Proxy::start(&text), upstream: server };
    let start = format!("GET {target} HTTP/1.1");
    let (plain, _) = site.exchange(&head(&[&[start.as_str(), "Host: example.com"], fields].concat()), &ok("")).await;
    let mut handshake = Handshake::to(target);
    for field in fields {
        let (name, value) = field.split_once(": ").unwrap();
        handshake = handshake.with(name, value);
    }
    let mut client = site.proxy.client().await;
    client.send(handshake.bytes()).await;
    let shaken = site.upstream.accept().await.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    drop(client);
    // Both lines of the log have the id that was sent.
    let log = site.proxy.log_lines(2).await;
    for (line, head) in log.iter().zip([&plain, &shaken]) {
        if let Some(id) = head.get("x-request-id") {
            assert_eq!(line["request_id"].as_str(), Some(id), "{line}");
        }
    }
    [plain, shaken]
}

const SEND: &str = "headers: { send: [X-Real-IP, x-forwarded-port, X-FORWARDED-PREFIX, X-Request-Id] }";
const STRANGERS: [&str; 7] = [
    "X-Real-IP: 6.6.6.6",
    "X-Forwarded-Port: 1",
    "X-Forwarded-Prefix: /evil",
    "X-Request-Id: mine",
    "X_Real_IP: 6.6.6.6",
    "X_Request_Id: mine",
    "X.Forwarded.Prefix: /evil",
];

#[tokio::test]
async fn headers_that_are_sent_by_name_say_what_is_so_and_nothing_of_a_stranger() {
    let heads = sent(&[], &[SEND, "rewrite: { strip_prefix: /app/ }"], "/app/a", &STRANGERS).await;
    let ids: Vec<&str> = heads.iter().map(|head| head.get("x-request-id").unwrap()).collect();
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.len() == 36), "{ids:?}");
    for head in &heads {
        assert_eq!(head.target(), "/a");
        assert_eq!((head.get("x-real-ip"), head.get("x-forwarded-prefix")), (Some("127.0.0.1"), Some("/app")));
        assert!(head.get("x-forwarded-port").unwrap().parse::<u16>().unwrap() > 1);
        assert!(head.headers.iter().all(|(name, _)| !name.contains(['_', '.'])), "{head:#?}");
    }
    // Nothing was taken off.
    for head in sent(&[], &[SEND], "/app/a", &STRANGERS).await {
        assert_eq!(head.get("x-forwarded-prefix"), None);
    }
}

#[tokio::test]
async fn headers_that_are_sent_by_name_go_on_from_what_a_trusted_proxy_says() {
    let trusted = ["trusted_proxies: [127.0.0.1]"];
    let lines = [SEND, "rewrite: { strip_prefix: /app }"];
    let fields = [
        "X-Forwarded-For: 203.0.113.9",
        "X-Real-IP: 6.6.6.6",
        "X-Forwarded-Port: 8443",
        "X-Forwarded-Prefix: /outer/",
        "X-Request-Id: r-1",
    ];
    for head in sent(&trusted, &lines, "/app/a", &fields).await {
        assert_eq!((head.get("x-real-ip"), head.get("x-forwarded-port")), (Some("203.0.113.9"), Some("8443")));
        assert_eq!((head.get("x-forwarded-prefix"), head.get("x-request-id")), (Some("/outer/app"), Some("r-1")));
    }
    let long = format!("X-Request-Id: {}", "x".repeat(129));
    for id in ["X-Request-Id: a b", "X-Request-Id: \"a\"", &long] {
        for head in sent(&trusted, &lines, "/", &["X-Forwarded-Prefix: //evil.example", id]).await {
            assert_eq!((head.get("x-request-id").unwrap().len(), head.get("x-forwarded-prefix")), (36, None), "{id}");
        }
    }
}
