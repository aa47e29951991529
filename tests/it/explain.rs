//! `wsluice check --request`: what it tells of a request is what a running proxy does with it.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use wsluice::config::load_str;
use wsluice::explain::{AskedRequest, Explanation, explain};

use crate::auth::SECRET;
use crate::harness::{Conn, Echo, Handshake, Proxy, RawServer};
use crate::process::{run, text};

/// Routes of every kind, before an echo server.
fn yaml(echo: &str) -> String {
    format!(
        r#"
workers: 1
listeners:
  - {{ name: other, bind: "127.0.0.1:0" }}
  - {{ name: plain, bind: "127.0.0.1:0", trusted_proxies: [127.0.0.1] }}
routes:
  - {{ name: inside, match: {{ listeners: [other], path: {{ prefix: / }} }}, upstream: app }}
  - {{ name: put, match: {{ methods: [PUT], path: {{ exact: /ws }} }}, upstream: app }}
  - {{ name: tenant, match: {{ path: {{ exact: /ws }}, headers: {{ X-Tenant: acme }} }}, upstream: app, origins: {{ missing: deny }} }}
  - name: strict
    match: {{ path: {{ prefix: /strict }} }}
    upstream: app
    http: reject
    paths: {{ encoded_slash: refuse }}
    origins: {{ allow: ["https://a.example"] }}
    rewrite: {{ strip_prefix: /strict }}
    headers: {{ request: {{ set: {{ X-Real: "{{client.ip}}" }}, remove: [X-Secret] }} }}
  - {{ name: old, match: {{ path: {{ prefix: /old }} }}, redirect: "https://new.example{{request.target}}" }}
  - {{ name: health, match: {{ path: {{ exact: /healthz }} }}, respond: {{ body: ok }} }}
  - {{ name: v1, match: {{ path: {{ exact: /v }}, query: {{ v: "1" }}, subprotocols: [chat] }}, upstream: app }}
  - name: guarded
    match: {{ path: {{ prefix: /guarded }} }}
    upstream: app
    auth: {{ jwt: {{ keys: {{ secret: {SECRET} }}, algorithms: [HS256], from: [authorization, {{ query: t }}] }} }}
    headers: {{ request: {{ set: {{ X-User: "{{claims.sub}}" }} }} }}
  - {{ name: near, match: {{ path: {{ prefix: /near }} }}, upstream: app, addresses: {{ allow: [127.0.0.0/8], deny: [127.0.0.9] }} }}
  - {{ name: chat, match: {{ hosts: [chat.example], path: {{ regex: "/c[0-9]+" }} }}, upstream: app }}
upstreams:
  app: {{ endpoints: ["{echo}"] }}
"#
    )
}

fn asked(url: &str, fields: &[(&str, &str)]) -> AskedRequest {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let target: wsluice::ping::Target = url.parse().unwrap();
    AskedRequest {
        is_handshake: !target.is_http,
        target,
        method: http::Method::GET,
        origin: None,
        subprotocols: vec![],
        headers,
        client: "127.0.0.1".parse().unwrap(),
        listener: Some("plain".to_owned()),
        certificate: None,
    }
}

fn told(yaml: &str, asked: &AskedRequest) -> Explanation {
    explain(&load_str("wsluice.yaml", yaml, &|_| None).unwrap(), asked).unwrap()
}

#[tokio::test]
async fn what_is_told_is_what_happens() {
    let echo = Echo::start().await;
    let yaml = yaml(&echo.url());
    let proxy = Proxy::start(&yaml);
    let token = crate::auth::of("ann");
    let (bearer, in_query) = (format!("Bearer {token}"), format!("ws://h/guarded?t={token}"));
    let bearer = ("Authorization", bearer.as_str());
    let (origin, bad_origin) = (("Origin", "https://a.example"), ("Origin", "https://b.example"));
    let mut refused = 0;
    for (url, fields) in [
        ("ws://h/ws", &[][..]),
        ("ws://h/ws", &[("X-Tenant", "acme")]),
        ("ws://h/ws", &[("X-Tenant", "acme"), ("Origin", "http://h")]),
        ("ws://h/ws", &[("X-Tenant", "acme"), bad_origin]),
        ("ws://h/strict/a", &[origin]),
        ("ws://h/strict/a", &[bad_origin]),
        ("ws://h/strict/a%2Fb", &[origin]),
        ("ws://h/strict/../strict/a?b=c", &[origin]),
        ("ws://h//strict/a", &[origin]),
        ("http://h/strict/a", &[]),
        ("ws://h/old/a?b", &[]),
        ("http://h/old/a?b", &[]),
        ("http://h/healthz", &[]),
        ("ws://h/healthz", &[]),
        ("ws://h/v?v=1", &[("Sec-WebSocket-Protocol", "chat")]),
        ("ws://h/v?v=1", &[("Sec-WebSocket-Protocol", "other")]),
        ("ws://h/v?v=2", &[("Sec-WebSocket-Protocol", "chat")]),
        ("ws://chat.example/c12", &[]),
        ("ws://chat.example/cx", &[]),
        ("ws://h/c12", &[("Host", "chat.example:99")]),
        ("ws://h/c12", &[("Host", "a b")]),
        ("ws://h/nowhere", &[("Sec-WebSocket-Version", "12")]),
        ("ws://h/strict/a", &[origin, ("Sec-WebSocket-Version", "12")]),
        ("ws://h/strict/a", &[origin, ("Sec-WebSocket-Key", "short")]),
        ("ws://h/%zz", &[]),
        ("ws://h/near", &[]),
        ("ws://h/near", &[("X-Forwarded-For", "127.0.0.9, 127.0.0.1")]),
        ("http://h/near", &[("X-Forwarded-For", "192.0.2.7")]),
        ("ws://h/guarded", &[]),
        ("http://h/guarded", &[]),
        ("ws://h/guarded", &[("Authorization", "Bearer a.b.c")]),
        ("ws://h/guarded", &[bearer]),
        ("ws://h/guarded", &[bearer, ("Origin", "https://evil.example")]),
        (in_query.as_str(), &[]),
    ] {
        let request = asked(url, fields);
        let explanation = told(&yaml, &request);
        let mut handshake = Handshake::to(&request.target.path).set("Host", &request.target.authority());
        if !request.is_handshake {
            for name in ["Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"] {
                handshake = handshake.without(name);
            }
        }
        for (name, value) in fields {
            handshake = handshake.set(name, value);
        }
        let mut client = Conn::connect(proxy.listener("plain")).await;
        let status = client.ask(&handshake).await.status();
        match explanation.status {
            Some(expected) => {
                refused += 1;
                assert_eq!(status, expected.as_u16(), "{url} {fields:?}\n{explanation}");
            }
            None => assert!(status == 101, "{url} {fields:?}: {status}\n{explanation}"),
        }
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn of_addresses_it_tells_the_list_that_decides() {
    let text =
        yaml("ws://127.0.0.1:9").replace("{ name: other,", "{ name: other, addresses: { deny: [192.0.2.0/24] },");
    let shown = |client: &str, url: &str, listener: &str| {
        let asked =
            AskedRequest { client: client.parse().unwrap(), listener: Some(listener.to_owned()), ..asked(url, &[]) };
        told(&text, &asked).to_string()
    };
    let near = text.lines().position(|line| line.contains("name: near")).unwrap() + 1;
    let line = format!("wsluice.yaml:{near}");
    for (client, words) in [
        ("127.0.0.9", "403 Forbidden `address`: 127.0.0.9 is in a network of `deny`"),
        ("192.0.2.7", "403 Forbidden `address`: 192.0.2.7 is in no network of `allow`"),
        ("127.0.0.7", "the client's, 127.0.0.7, is let in"),
    ] {
        let shown = shown(client, "ws://h/near", "plain");
        assert!(shown.lines().any(|told| told.contains(words) && told.contains(&line)), "{shown}");
    }
    assert!(shown("192.0.2.7", "ws://h/", "other").contains("no connection gets here: 192.0.2.7 is in a network"));
    assert!(shown("192.0.3.7", "ws://h/", "other").contains("connections of 192.0.3.7 are let in"));
}

#[test]
fn of_a_token_it_tells_whom_it_lets_in_or_that_only_the_process_has_the_keys() {
    let text = yaml("ws://127.0.0.1:9");
    let bearer = format!("Bearer {}", crate::auth::of("ann"));
    let asked = asked("ws://h/guarded", &[("Authorization", &bearer)]);
    let shown = told(&text, &asked).to_string();
    for words in ["the token, of ann, lets in", "x-user: ann"] {
        assert!(shown.contains(words), "no {words} in\n{shown}");
    }
    assert!(!shown.contains("Bearer"), "the server does not get it\n{shown}");
    let keys = format!("keys: {{ secret: {SECRET} }}, algorithms: [HS256]");
    let fetched = "keys: { url: \"https://id.example/jwks\" }, audience: a, algorithms: [ES256]";
    assert!(text.contains(&keys));
    // Signed otherwise than the route allows: that can be told without keys.
    assert_eq!(told(&text.replace(&keys, fetched), &asked).status.map(|status| status.as_u16()), Some(401));
    let bearer = format!("Bearer {}", crate::harness::Issuer::new("a").token("ann"));
    let asked = self::asked("ws://h/guarded", &[("Authorization", &bearer)]);
    let explanation = told(&text.replace(&keys, fetched), &asked);
    assert_eq!(explanation.status, None);
    assert!(
        explanation.to_string().contains("the keys of https://id.example/jwks, which only the running process fetches")
    );
}

#[tokio::test]
async fn the_head_that_is_told_is_the_head_that_is_sent() {
    let mut server = RawServer::start().await;
    let yaml = yaml(server.url());
    let proxy = Proxy::start(&yaml);
    let fields = [
        ("Origin", "https://a.example"),
        ("X-Secret", "1"),
        ("X-Forwarded-For", "192.0.2.7"),
        ("X-Forwarded-Proto", "https"),
        ("Cookie", "a=b"),
    ];
    let explanation = told(&yaml, &asked("ws://h/strict/room?x=1", &fields)).to_string();
    let mut client = Conn::connect(proxy.listener("plain")).await;
    let mut handshake = Handshake::to("/strict/room?x=1").set("Host", "h");
    for (name, value) in fields {
        handshake = handshake.set(name, value);
    }
    client.send(handshake.bytes()).await;
    let head = server.accept().await.head().await;
    assert_eq!(head.target(), "/room?x=1");
    assert_eq!(head.get("x-real"), Some("192.0.2.7"));
    assert!(explanation.contains("/room?x=1, rewritten"), "{explanation}");
    assert!(!explanation.contains("x-secret"), "{explanation}");
    for name in ["host", "origin", "cookie", "x-real", "x-forwarded-for", "x-forwarded-proto", "forwarded"] {
        let line = format!("{name}: {}", head.get(name).unwrap());
        assert!(explanation.to_lowercase().contains(&line.to_lowercase()), "{line}:\n{explanation}");
    }
}

#[tokio::test]
async fn each_line_names_the_line_of_the_file_that_decides() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wsluice.yaml");
    std::fs::write(
        &file,
        r#"listeners:
  - name: public
    bind: "0.0.0.0:8443"
    tls: { certificates: [{ cert: /none.crt, key: /none.key }] }
routes:
  - name: api
    match: { path: { prefix: /api } }
    upstream: app
  - name: chat
    match:
      path: { prefix: /ws }
    upstream: app
    origins:
      allow: ["https://a.example"]
    http: reject
upstreams:
  app:
    endpoints: ["ws://127.0.0.1:9000", { url: "ws://127.0.0.1:9001", priority: 1 }]
"#,
    )
    .unwrap();
    let file = file.to_str().unwrap();
    // The certificate need not be there: this is asked at a desk.
    for (arguments, lines) in [
        (
            &["--request", "wss://chat.example:8443/ws", "--origin", "https://a.example"][..],
            &[
                ("listener", "public, 0.0.0.0:8443, TLS", 2),
                ("route", "api: no, the path /ws is not /api or below it", 7),
                ("", "chat: matches", 9),
                ("origin", "https://a.example is allowed", 14),
                ("upstream", "app: the endpoint with the fewest sessions", 18),
            ][..],
        ),
        (
            &["--request", "wss://chat.example:8443/ws", "--origin", "https://b.example"],
            &[("answer", "403 Forbidden `origin`", 14)],
        ),
        (&["--request", "https://chat.example:8443/ws"], &[("answer", "426 Upgrade Required `not_websocket`", 15)]),
        (&["--request", "wss://chat.example:8443/"], &[("answer", "404 Not Found `no_route`", 6)]),
    ] {
        let output = run(&[&["check", "--config", file], arguments].concat());
        let (out, err) = text(&output);
        assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{out}");
        for (step, part, line) in lines {
            let place = format!("{file}:{line}");
            let is_it = |shown: &&str| shown.starts_with(step) && shown.contains(part) && shown.ends_with(&place);
            assert!(out.lines().any(|shown| is_it(&shown)), "{step} {part} {line}:\n{out}");
        }
    }
    let output = run(&["check", "--config", file, "--request", "wss://a/", "--listener", "pubic"]);
    assert!(output.status.code() == Some(1) && text(&output).1.contains("did you mean `public`?"), "{output:?}");
    for wrong in
        [&["--origin", "https://a.example"][..], &["--request", "a"], &["--request", "ws://a/", "--client", "b"]]
    {
        assert_eq!(run(&[&["check", "--config", file], wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_line_may_stand_in_the_defaults_or_in_an_included_file() {
    let dir = tempfile::tempdir().unwrap();
    let (file, more) = (dir.path().join("wsluice.yaml"), dir.path().join("more.yaml"));
    let main = "defaults:\n  route:\n    origins: { allow: [\"https://a.example\"] }\ninclude: [more.yaml]\n\
                upstreams: { app: { endpoints: [\"ws://127.0.0.1:9000\"] } }\n";
    std::fs::write(&file, main).unwrap();
    let routes =
        "routes:\n- { name: api, match: { path: { prefix: /api } }, upstream: app }\n- { name: all, upstream: app }\n";
    std::fs::write(&more, routes).unwrap();
    let request = ["--request", "ws://a/x", "--origin", "https://b.example"];
    let output = run(&[&["check", "--config", file.to_str().unwrap()], &request[..]].concat());
    let (out, err) = text(&output);
    assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{out}");
    for (part, place) in [
        ("api: no, the path /x is not /api or below it", format!("{}:2", more.display())),
        ("all: matches", format!("{}:3", more.display())),
        ("403 Forbidden `origin`", format!("{}:3", file.display())),
    ] {
        assert!(out.lines().any(|line| line.contains(part) && line.ends_with(&place)), "{part} {place}:\n{out}");
    }
}

#[test]
fn a_secret_of_the_configuration_is_not_told() {
    let yaml = "routes:\n- { name: a, upstream: 'ws://127.0.0.1:9', headers: { request: { set: { Authorization: 'Bearer ${TOKEN}', \
                X-Api-Key: abcdef, X-Plain: shown } } } }\n";
    let loaded = load_str("wsluice.yaml", yaml, &|name| (name == "TOKEN").then(|| "s3cr3t".to_owned())).unwrap();
    for url in ["ws://a/", "http://a/"] {
        let mut asked = asked(url, &[]);
        asked.listener = None;
        let told = explain(&loaded, &asked).unwrap().to_string();
        assert!(!told.contains("s3cr3t") && !told.contains("abcdef"), "{told}");
        assert!(told.contains("x-plain: shown") && told.contains("authorization: "), "{told}");
    }
}

#[test]
fn each_policy_that_lets_a_request_pass_is_told() {
    let yaml = "routes:\n- { name: a, upstream: app, limits: { connections: 7, body: 2KiB } }\nupstreams:\n  app:\n    endpoints: ['ws://127.0.0.1:9']\n    \
                admission: { rate: 5/s, wait: 2s }\n    queue: { length: 3, wait: 4s }\n";
    for (url, parts, others) in [
        (
            "ws://a/",
            &[
                "WebSocket version 13",
                "none, which is allowed",
                "at most 7 sessions",
                "at most 5/s handshakes",
                "3 wait for up to 4s",
            ][..],
            &["a body of"][..],
        ),
        (
            "http://a/",
            &["plain requests are forwarded", "a body of at most 2KiB", "3 wait for up to 4s"],
            &["handshakes"],
        ),
    ] {
        let mut asked = asked(url, &[]);
        asked.listener = None;
        let told = told(yaml, &asked).to_string();
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        assert!(!others.iter().any(|part| told.contains(part)), "{told}");
    }
}

#[cfg(feature = "redis")]
#[test]
fn limits_that_instances_share_are_told_without_the_store_and_the_files_of_its_tls() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wsluice.yaml");
    let text = "routes: [{ name: a, upstream: a, limits: { per_client: { sessions: 5 } } }]\n\
                upstreams: { a: { endpoints: [ws://127.0.0.1:1] } }\n\
                shared: { redis: { url: 'rediss://me:hunter2@redis.test', tls: { ca: /nowhere/ca.crt } } }\n";
    std::fs::write(&file, text).unwrap();
    let output = run(&["check", "--config", file.to_str().unwrap(), "--request", "ws://127.0.0.1:8080/"]);
    let (out, err) = crate::process::text(&output);
    assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("on all instances together, which redis.test:6379 counts"), "{out}");
    assert!(!out.contains("hunter2"), "{out}");
}
