//! A service that says who may come in: what it is asked, what becomes of its answers, and what if there is none.

use serde_json::json;
use wsluice::net::listener::Address;

use crate::harness::{Authority, Conn, Frame, Handshake, Head, Proxy, RawServer, yaml};
use crate::plain::{Site, head, ok};

/// A proxy before one server and one service.
struct Guarded {
    site: Site,
    service: RawServer,
}

impl Guarded {
    /// With these keys of `auth.forward`.
    async fn start(more: &str) -> Guarded {
        let service = RawServer::start().await;
        let url = service.url().replace("ws://", "http://");
        Guarded { site: Site::start(&[&auth(&format!("{url}/auth?v=1"), more)]).await, service }
    }

    /// Sends a request; returns its connection, that of the service, and what is asked there.
    async fn ask(&mut self, request: impl AsRef<[u8]>) -> (Conn, Conn, Head) {
        let mut client = self.site.proxy.client().await;
        client.send(request).await;
        let (service, question) = self.question().await;
        (client, service, question)
    }

    async fn question(&mut self) -> (Conn, Head) {
        let mut service = self.service.accept().await;
        let question = service.head().await;
        (service, question)
    }

    fn count(&self, result: &str) -> f64 {
        self.site.proxy.metric("wsluice_auth_requests_total", &[("route", "all"), ("result", result)])
    }
}

fn auth(url: &str, more: &str) -> String {
    format!("auth: {{ forward: {{ url: \"{url}\"{more} }} }}")
}

/// An answer without a body; the connection ends with it, so that the next question comes on another.
fn answer(lines: &[&str]) -> String {
    head(&[lines, &["Content-Length: 0", "Connection: close"]].concat())
}

#[tokio::test]
async fn the_service_is_asked_about_the_request_and_the_server_gets_what_it_says() {
    let mut guarded = Guarded::start(", headers: [X-User, X-Groups, X-Absent], subject: X-User").await;
    let handshake = Handshake::to("/a/../ws/%2e/chat%20room?x=1&y=%2F")
        .with("Cookie", "session=1")
        .with("Authorization", "Bearer abc")
        .with("Origin", "http://example.com")
        .with("X-User", "root")
        .with("X_User", "root")
        .with("X-Absent", "root")
        .with("X-Forwarded-Uri", "/public")
        .with("X-Forwarded-For", "10.0.0.1")
        .with("X-Original-URL", "http://example.com/public")
        .with("X-Original-Method", "OPTIONS")
        .with("If-None-Match", "*");
    let (mut client, mut service, question) = guarded.ask(handshake.bytes()).await;
    assert_eq!(question.line, "GET /auth?v=1 HTTP/1.1");
    assert_eq!(question.get("host"), Some(&*guarded.service.address().to_string()));
    for (name, value) in [
        ("x-forwarded-method", "GET"),
        ("x-forwarded-uri", "/ws/chat%20room?x=1&y=%2F"),
        ("x-forwarded-host", "example.com"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-original-method", "GET"),
        ("x-original-url", "http://example.com/ws/chat%20room?x=1&y=%2F"),
        ("cookie", "session=1"),
        ("authorization", "Bearer abc"),
        ("origin", "http://example.com"),
    ] {
        assert_eq!(question.all(name), [value], "{name}");
    }
    for name in ["connection", "upgrade", "sec-websocket-key", "sec-websocket-version", "if-none-match", "x_user"] {
        assert_eq!(question.get(name), None, "{name}");
    }
    service.send(answer(&["HTTP/1.1 204 No Content", "X-User: ann", "X-Groups: a", "X-Groups: b", "X-Other: c"])).await;
    let mut server = guarded.site.upstream.accept().await;
    let seen = server.switch(&[]).await;
    assert_eq!((seen.all("x-user"), seen.all("x-groups")), (vec!["ann"], vec!["a, b"]));
    for name in ["x_user", "x-absent", "x-other"] {
        assert_eq!(seen.get(name), None, "{name}");
    }
    assert_eq!((seen.get("cookie"), seen.target()), (Some("session=1"), "/ws/chat%20room?x=1&y=%2F"));
    assert_eq!(client.head().await.status(), 101);
    server.put(&Frame::text("hello")).await;
    client.expect(&Frame::text("hello")).await;
    drop((client, server));
    let log = guarded.site.proxy.log_lines(1).await;
    assert_eq!((&log[0]["subject"], &log[0]["status"]), (&json!("ann"), &json!(101)));
    assert_eq!(guarded.count("allowed"), 1.0);
}

#[tokio::test]
async fn plain_requests_are_asked_about_without_their_bodies() {
    let mut guarded = Guarded::start(", headers: [X-User]").await;
    let post = head(&[
        "POST /form?a=b HTTP/1.1",
        "Host: example.com",
        "Content-Type: text/plain",
        "Content-Length: 5",
        "Expect: 100-continue",
        "Connection: Authorization",
        "Authorization: Basic YTpi",
    ]);
    let (mut client, mut service, question) = guarded.ask(post).await;
    assert_eq!(question.line, "GET /auth?v=1 HTTP/1.1");
    assert_eq!(
        (question.get("x-forwarded-method"), question.get("x-forwarded-uri")),
        (Some("POST"), Some("/form?a=b"))
    );
    for name in ["content-length", "content-type", "expect", "transfer-encoding", "authorization"] {
        assert_eq!(question.get(name), None, "{name}");
    }
    // Its body is of no use.
    service.send(head(&["HTTP/1.1 200 OK", "Content-Length: 3", "X-User: ann"]) + "yes").await;
    let mut server = guarded.site.upstream.accept().await;
    let seen = server.head().await;
    assert_eq!((seen.line.as_str(), seen.get("x-user")), ("POST /form?a=b HTTP/1.1", Some("ann")));
    assert!(client.head().await.line.starts_with("HTTP/1.1 100"));
    client.send("hello").await;
    assert_eq!(server.read_exact(5).await, b"hello");
    server.send(ok("done")).await;
    let answered = client.head().await;
    assert_eq!((answered.status(), client.body(&answered).await), (200, b"done".to_vec()));
}

#[tokio::test]
async fn any_other_answer_goes_to_the_client_as_it_is() {
    let mut guarded = Guarded::start(", cache: { time: 1h, by: [Cookie] }").await;
    for (answer, status, fields, body) in [
        (
            head(&[
                "HTTP/1.1 401 Unauthorized",
                "WWW-Authenticate: Bearer realm=\"a\"",
                "WWW-Authenticate: Basic realm=\"b\"",
                "Keep-Alive: timeout=5",
                "Content-Type: text/html",
                "Content-Length: 6",
            ]) + "log in",
            401,
            vec![("www-authenticate", "Bearer realm=\"a\""), ("content-type", "text/html")],
            "log in",
        ),
        (
            head(&[
                "HTTP/1.1 302 Found",
                "Location: https://id.example.com/login?to=%2Fws",
                "Set-Cookie: state=1; HttpOnly",
            ])
            .replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ngo\r\n0\r\n\r\n"),
            302,
            vec![("location", "https://id.example.com/login?to=%2Fws"), ("set-cookie", "state=1; HttpOnly")],
            "go",
        ),
        (head(&["HTTP/1.1 403 Forbidden", "Content-Length: 0"]), 403, vec![], ""),
        (head(&["HTTP/1.1 500 Internal Server Error", "Content-Length: 4"]) + "oops", 500, vec![], "oops"),
    ] {
        for handshake in [true, false] {
            let request = match handshake {
                true => String::from_utf8(Handshake::new().bytes()).unwrap(),
                false => head(&["GET / HTTP/1.1", "Host: example.com"]),
            };
            let before = guarded.count("denied");
            let (mut client, mut service, _) = guarded.ask(request).await;
            service.send(&answer).await;
            service.finish().await;
            let answered = client.head().await;
            assert_eq!(answered.status(), status);
            for (name, value) in &fields {
                assert!(answered.all(name).contains(value), "{name}: {answered:#?}");
            }
            assert_eq!(answered.get("keep-alive"), None);
            assert_eq!(answered.get("connection"), handshake.then_some("close"));
            assert_eq!(client.body(&answered).await, body.as_bytes());
            assert_eq!(guarded.count("denied"), before + 1.0);
        }
    }
    let labels = [("listener", "plain"), ("route", "all"), ("reason", "auth_denied")];
    assert_eq!(guarded.site.proxy.metric("wsluice_rejections_total", &labels), 8.0);
    let log = guarded.site.proxy.log_lines(8).await;
    assert!(log.iter().all(|line| line["reason"] == "auth_denied"), "{log:#?}");
    assert_eq!(guarded.site.upstream.connections().await, 0);
}

#[tokio::test]
async fn without_an_answer_the_door_is_closed() {
    let mut guarded = Guarded::start(", timeout: 300ms").await;
    let long = "x".repeat(300 << 10);
    for (answer, result) in [
        (None, "timeout"),
        (Some(String::new()), "unreachable"),
        (Some("HTTP/1.1 204".to_owned()), "unreachable"),
        (Some("no HTTP\r\n\r\n".to_owned()), "unreachable"),
        (Some(head(&["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"])), "bad_answer"),
        (Some(head(&["HTTP/1.1 403 Forbidden", &format!("Content-Length: {}", long.len())]) + &long), "bad_answer"),
        (Some(head(&["HTTP/1.1 403 Forbidden", "Content-Length: 10"]) + "short"), "unreachable"),
    ] {
        let before = guarded.count(result);
        let (mut client, mut service, _) = guarded.ask(Handshake::new().bytes()).await;
        if let Some(answer) = &answer {
            let _ = service.try_send(answer).await;
            service.finish().await;
        }
        let answered = client.head().await;
        let body = client.body(&answered).await;
        let shown = answer.map(|answer| answer.chars().take(30).collect::<String>());
        assert_eq!((answered.status(), body.starts_with(b"auth_unavailable: ")), (503, true), "{shown:?}");
        assert!(answered.get("retry-after").is_some());
        assert_eq!(guarded.count(result), before + 1.0, "{shown:?}");
    }
    assert_eq!(guarded.site.upstream.connections().await, 0);
}

#[tokio::test]
async fn where_the_route_says_so_it_is_opened_but_nobody_has_a_name() {
    let service = RawServer::start().await;
    let url = service.url().replace("ws://", "http://");
    drop(service);
    let mut site = Site::start(&[&auth(&url, ", headers: [X-User], on_failure: allow")]).await;
    let request = head(&["GET / HTTP/1.1", "Host: example.com", "X-User: root", "X.User: root"]);
    let (seen, answered) = site.exchange(&request, &ok("hi")).await;
    assert_eq!((seen.get("x-user"), seen.get("x.user"), answered.status()), (None, None, 200));
}

#[tokio::test]
async fn an_answer_is_remembered_by_what_the_route_names_and_only_if_it_lets_in() {
    let mut guarded = Guarded::start(", headers: [X-User], cache: { time: 1h, by: [Cookie, Authorization] }").await;
    let get = |target: &str, cookie: &str, more: &str| {
        head(&[&format!("GET {target} HTTP/1.1"), "Host: example.com", &format!("Cookie: {cookie}"), more])
    };
    let yes = |user: &str| answer(&["HTTP/1.1 200 OK", &format!("X-User: {user}")]);
    let (mut client, mut service, _) = guarded.ask(get("/", "a", "Accept: x")).await;
    service.send(yes("ann")).await;
    let mut server = guarded.site.upstream.accept().await;
    assert_eq!(server.head().await.get("x-user"), Some("ann"));
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
    drop(server);
    // The same user: nobody is asked.
    let (seen, _) = guarded.site.exchange(&get("/", "a", "Accept: y"), &ok("")).await;
    assert_eq!((seen.get("x-user"), guarded.count("remembered")), (Some("ann"), 1.0));
    // Another user, another target, another method.
    for (index, request) in [
        get("/", "b", "Accept: x"),
        get("/other", "a", "Accept: x"),
        get("/", "a", "Authorization: x"),
        get("/", "a", "X-A: b").replace("GET", "DELETE"),
    ]
    .into_iter()
    .enumerate()
    {
        let (mut client, mut service, _) = guarded.ask(request).await;
        match index {
            0 => service.send(answer(&["HTTP/1.1 403 Forbidden"])).await,
            _ => service.send(answer(&["HTTP/1.1 200 OK", "Cache-Control: private, no-store"])).await,
        }
        if index > 0 {
            let mut server = guarded.site.upstream.accept().await;
            server.head().await;
            server.send(ok("")).await;
        }
        client.head().await;
    }
    // Neither a refusal is remembered, nor what must not be.
    for request in [get("/", "b", "Accept: x"), get("/other", "a", "Accept: x")] {
        let (mut client, mut service, _) = guarded.ask(request).await;
        service.send(answer(&["HTTP/1.1 403 Forbidden"])).await;
        assert_eq!(client.head().await.status(), 403);
    }
    assert_eq!((guarded.count("denied"), guarded.count("remembered")), (3.0, 1.0));
}

#[tokio::test]
async fn an_open_session_is_asked_about_again_and_ends_when_the_service_says_no() {
    let mut guarded = Guarded::start(", recheck: 1s, cache: { time: 1h, by: [Cookie] }").await;
    let handshake = Handshake::to("/ws?a=b").with("Cookie", "session=1").with("Authorization", "Bearer x");
    let (mut client, mut service, first) = guarded.ask(handshake.bytes()).await;
    service.send(answer(&["HTTP/1.1 200 OK"])).await;
    let mut server = guarded.site.upstream.accept().await;
    server.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    // Whatever is remembered, it is asked; and an answer that says neither yes nor no ends nothing.
    for status in ["200 OK", "503 Service Unavailable", "429 Too Many Requests", "204 No Content"] {
        let (mut service, again) = guarded.question().await;
        assert_eq!((&again.line, &again.headers), (&first.line, &first.headers));
        service.send(answer(&[&format!("HTTP/1.1 {status}")])).await;
    }
    // Nor does one that never comes.
    drop(guarded.question().await);
    client.put(&Frame::text("still here")).await;
    server.expect(&Frame::text("still here")).await;
    let (mut service, _) = guarded.question().await;
    service.send(answer(&["HTTP/1.1 302 Found", "Location: /login"])).await;
    assert_eq!(client.expect_close().await.0, Some(4401));
    assert_eq!(server.expect_close().await.0, Some(1001));
    // What was remembered of it is forgotten.
    let (mut second, mut service, _) = guarded.ask(handshake.bytes()).await;
    service.send(answer(&["HTTP/1.1 401 Unauthorized"])).await;
    assert_eq!(second.head().await.status(), 401);
}

#[tokio::test]
async fn nobody_asks_about_a_session_that_has_ended_or_about_a_plain_request() {
    let mut guarded = Guarded::start(", recheck: 1s").await;
    let (mut client, mut service, _) = guarded.ask(head(&["GET / HTTP/1.1", "Host: example.com"])).await;
    service.send(answer(&["HTTP/1.1 200 OK"])).await;
    let mut plain = guarded.site.upstream.accept().await;
    plain.head().await;
    plain.send(ok("done")).await;
    assert_eq!(client.head().await.status(), 200);
    let mut sessions = vec![];
    for path in ["/ended", "/open"] {
        let (mut client, mut service, _) = guarded.ask(Handshake::to(path).bytes()).await;
        service.send(answer(&["HTTP/1.1 200 OK"])).await;
        let mut server = guarded.site.upstream.accept().await;
        server.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101);
        sessions.push((client, server));
    }
    drop(sessions.remove(0));
    let active = [("listener", "plain"), ("route", "all"), ("upstream", "app")];
    guarded.site.proxy.metric_becomes("wsluice_sessions_active", &active, 1.0).await;
    for _ in 0..2 {
        let (mut service, again) = guarded.question().await;
        assert_eq!(again.get("x-forwarded-uri"), Some("/open"));
        service.send(answer(&["HTTP/1.1 200 OK"])).await;
    }
}

#[tokio::test]
async fn what_a_client_says_in_fields_of_the_route_reaches_neither_the_service_nor_the_server() {
    let service = RawServer::start().await;
    let url = service.url().replace("ws://", "http://");
    let set = "headers: { request: { set: { X-Subject: \"{tls.client.subject}\", X-Tenant: acme, Authorization: Basic eA==, \
               Cookie: a=b }, remove: [X-Secret] } }";
    let auth = auth(&format!("{url}/auth"), ", headers: [X-User]");
    let mut guarded = Guarded { site: Site::start(&[&auth, set]).await, service };
    let request = Handshake::new()
        .with("X-Subject", "CN=admin")
        .with("X-Tenant", "other")
        .with("X-User", "root")
        .with("X-Secret", "key")
        .with("Authorization", "Bearer x")
        .with("Cookie", "session=1");
    let (_client, mut service, question) = guarded.ask(request.bytes()).await;
    for name in ["x-subject", "x-tenant", "x-user"] {
        assert_eq!(question.get(name), None, "{name}");
    }
    // Who the client is, the service must be told.
    assert_eq!((question.get("authorization"), question.get("cookie")), (Some("Bearer x"), Some("session=1")));
    assert_eq!(question.get("x-secret"), Some("key"));
    service.send(answer(&["HTTP/1.1 200 OK"])).await;
    let mut server = guarded.site.upstream.accept().await;
    let seen = server.switch(&[]).await;
    let got = ["x-subject", "x-tenant", "x-user", "x-secret", "authorization", "cookie"].map(|name| seen.get(name));
    assert_eq!(got, [None, Some("acme"), None, None, Some("Basic eA=="), Some("a=b")]);
}

#[tokio::test]
async fn the_service_gets_only_the_headers_that_are_named() {
    let mut guarded = Guarded::start(", request_headers: [cookie]").await;
    let request = Handshake::new().with("Cookie", "a=b").with("Authorization", "Bearer x").with("X-Y", "z");
    let (_client, _service, question) = guarded.ask(request.bytes()).await;
    assert_eq!((question.get("cookie"), question.get("authorization"), question.get("x-y")), (Some("a=b"), None, None));
    assert_eq!((question.get("x-forwarded-for"), question.get("x-forwarded-uri")), (Some("127.0.0.1"), Some("/")));
}

#[tokio::test]
async fn what_the_request_itself_decides_comes_first() {
    let mut guarded = Guarded::start("").await;
    for (request, status) in [
        (Handshake::new().with("Origin", "https://evil.example"), 403),
        (Handshake::new().set("Sec-WebSocket-Key", "x"), 400),
        (Handshake::new().set("Host", "a b"), 400),
    ] {
        let mut client = guarded.site.proxy.client().await;
        client.send(request.bytes()).await;
        assert_eq!(client.head().await.status(), status);
    }
    assert_eq!(guarded.service.connections().await, 0);
}

#[tokio::test]
async fn a_service_that_is_the_route_itself_is_noticed() {
    let upstream = RawServer::start().await;
    let mut proxy = Proxy::start(&yaml(&[upstream.url()], &[]));
    let Address::Tcp(address) = proxy.address().clone() else { panic!("it listens on TCP") };
    let guarded = yaml(&[upstream.url()], &[&auth(&format!("http://{address}/"), "")]);
    proxy.reload(&guarded.replace("127.0.0.1:0", &address.to_string())).await.unwrap();
    let mut client = proxy.client().await;
    client.send(head(&["GET / HTTP/1.1", "Host: example.com"])).await;
    assert_eq!(client.head().await.status(), 508);
}

#[tokio::test]
async fn a_service_is_asked_by_tls_and_nobody_else_is_believed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mut service = RawServer::start_tls(authority.server(&["localhost"])).await;
    let url = format!("https://localhost:{}/auth", service.address().port());
    for (ca, status) in [(authority.ca(), 200), (other.ca(), 503)] {
        let mut site = Site::start(&[&auth(&url, &format!(", tls: {{ ca: {} }}", ca.display()))]).await;
        let mut client = site.proxy.client().await;
        client.send(head(&["GET / HTTP/1.1", "Host: example.com"])).await;
        if status == 200 {
            let mut asked = service.accept().await;
            asked.head().await;
            asked.send(answer(&["HTTP/1.1 200 OK"])).await;
            let mut server = site.upstream.accept().await;
            server.head().await;
            server.send(ok("")).await;
        }
        assert_eq!(client.head().await.status(), status);
    }
}
