//! Pages over HTTP/2, and requests for WebSockets that are no good.

use tokio::net::TcpStream;
use wsluice::net::listener::Address;

use super::super::harness::{Conn, H2Client, Handshake, Proxy, RawServer, within};
use super::{PLAIN, Site, both};

/// Answers the next request of the server, and returns its head and body.
async fn answers(server: &mut RawServer, answer: &str) -> (super::super::harness::Head, Vec<u8>, Conn) {
    let mut conn = server.accept().await;
    let head = conn.head().await;
    let body = conn.body(&head).await;
    conn.send(answer).await;
    (head, body, conn)
}

#[tokio::test]
async fn pages_pass_with_heads_bodies_and_trailers() {
    let mut site = Site::new(&[]).await;
    let asked = async {
        let request =
            site.client.request("POST", "/a?b", &[("content-length", "5"), ("cookie", "a=1"), ("cookie", "b=2")]);
        let (answer, mut send) = site.client.ask(request, false).await;
        send.send_data("hello".into(), true).unwrap();
        super::super::harness::whole(within("the answer", answer).await.unwrap()).await
    };
    let answer = "HTTP/1.1 201 Created\r\nConnection: keep-alive, x-hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n\
                  X-Own: 2\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let (answer, (head, body, _conn)) = tokio::join!(asked, answers(&mut site.server, answer));
    assert_eq!((head.target(), &body[..]), ("/a?b", &b"hello"[..]));
    assert_eq!((head.all("content-length"), head.all("cookie")), (vec!["5"], vec!["a=1; b=2"]));
    assert_eq!((answer.status(), &answer.body()[..]), (http::StatusCode::CREATED, &b"abc"[..]));
    assert_eq!(answer.headers()["x-own"], "2");
    for name in ["connection", "keep-alive", "x-hop", "transfer-encoding"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    assert!(answer.headers().contains_key("date"));
    let line = &site.proxy.log_lines(1).await[0];
    assert_eq!((&line["http"], &line["status"], &line["bytes_in"]), (&"2".into(), &201.into(), &5.into()), "{line}");
}

#[tokio::test]
async fn a_body_of_unknown_length_goes_on_in_chunks_and_its_expectation_is_met() {
    let mut site = Site::new(&[]).await;
    let asked = async {
        let request = site.client.request("PUT", "/", &[("expect", "100-continue")]);
        let (mut answer, mut send) = site.client.ask(request, false).await;
        let interim = within("100", std::future::poll_fn(|cx| answer.poll_informational(cx))).await;
        assert_eq!(interim.unwrap().unwrap().status(), 100);
        send.send_data("one".into(), false).unwrap();
        send.send_data("two".into(), true).unwrap();
        within("the answer", answer).await.unwrap().status()
    };
    let (status, (head, body, _conn)) =
        tokio::join!(asked, answers(&mut site.server, "HTTP/1.1 204 No Content\r\n\r\n"));
    assert_eq!((status.as_u16(), head.all("transfer-encoding"), &body[..]), (204, vec!["chunked"], &b"onetwo"[..]));
}

#[tokio::test]
async fn both_versions_are_told_apart_on_a_plain_listener() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&both(&[server.url()], &[]));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    server.accept().await.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    // Without being asked for, it is not spoken.
    let plain = Proxy::start(&super::super::harness::yaml(&[server.url()], &[]));
    let mut client = plain.client().await;
    client.send(wsluice::http2::frame::PREFACE).await;
    assert_eq!(client.head().await.status(), 400);
}

#[tokio::test]
async fn requests_for_websockets_that_are_no_good_are_answered_and_the_connection_goes_on() {
    let mut site = Site::new(&["match: { hosts: [example.com] }", "origins: { allow: [\"https://a.example\"] }"]).await;
    const V: (&str, &str) = ("sec-websocket-version", "13");
    for (protocol, more, status, reason) in [
        ("websocket", &[][..], 400, "websocket_version"),
        ("websocket", &[("sec-websocket-version", "8")], 400, "websocket_version"),
        ("websocket", &[V, ("sec-websocket-version", "13")], 400, "websocket_version"),
        ("websocket", &[V, ("content-length", "3")], 400, "handshake"),
        ("websocket", &[V, ("sec-websocket-protocol", "a, a")], 400, "handshake"),
        ("websocket", &[V, ("sec-websocket-extensions", ";")], 400, "handshake"),
        ("websocket", &[V, ("host", "other.example")], 400, "host"),
        ("websocket", &[V, ("origin", "https://evil.example")], 403, "origin"),
        ("connect-udp", &[V], 501, "protocol"),
        ("WebSocket", &[V], 501, "protocol"),
        ("", &[V], 501, "protocol"),
    ] {
        let request = site.client.connect_request(protocol, "/", more);
        let (answer, _send) = site.client.ask(request, false).await;
        let answer = within("the answer", answer).await.unwrap();
        assert_eq!(answer.status(), status, "{protocol} {more:?}");
        let body = super::super::harness::whole(answer).await;
        let said = String::from_utf8(body.body().to_vec()).unwrap();
        assert!(said.starts_with(&format!("{reason}: ")), "{protocol} {more:?}: {said}");
        if reason == "websocket_version" {
            assert_eq!(body.headers()["sec-websocket-version"], "13");
        }
    }
    // A plain CONNECT has neither scheme nor path.
    let (mut parts, ()) =
        http::Request::builder().method("CONNECT").uri("example.com:443").body(()).unwrap().into_parts();
    parts.version = http::Version::HTTP_2;
    let (answer, _send) = site.client.ask(http::Request::from_parts(parts, ()), false).await;
    assert_eq!(within("the answer", answer).await.unwrap().status(), 405);
    // It is a page to HTTP/2, without the 426 that cannot be obeyed there.
    let answer = site.client.get("/", &[("sec-websocket-version", "13"), ("host", "other.example")]).await;
    assert_eq!(answer.status(), 400);
    let (session, _server) = site_open(&mut site).await;
    assert_eq!(session.head.status, 200);
}

async fn site_open(site: &mut Site) -> (super::H2Session, Conn) {
    tokio::join!(site.client.open("/", &[("origin", "https://a.example")]), async {
        let mut server = site.server.accept().await;
        server.switch(&[]).await;
        server
    })
}

#[tokio::test]
async fn a_route_for_websockets_alone_refuses_pages_without_an_upgrade_that_cannot_be() {
    let mut site = Site::new(&["http: reject"]).await;
    let answer = site.client.get("/", &[]).await;
    assert_eq!((answer.status(), answer.headers().get("upgrade")), (http::StatusCode::BAD_REQUEST, None));
    assert!(answer.body().starts_with(b"not_websocket: "));
}

#[tokio::test]
async fn lengths_that_disagree_reach_nobody() {
    let mut site = Site::new(&[]).await;
    let request = site.client.request("POST", "/", &[("content-length", "5"), ("content-length", "6")]);
    let (answer, mut send) = site.client.ask(request, false).await;
    send.send_data("hello".into(), true).unwrap();
    // By the crate or by us: it is refused.
    match within("the answer", answer).await {
        Ok(answer) => assert_eq!(answer.status(), 400),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    assert_eq!(site.server.connections().await, 0);
}

#[tokio::test]
async fn a_request_that_the_client_cancels_is_logged_and_given_up() {
    let mut site = Site::new(&[]).await;
    let (answer, mut send) = site.client.ask(site.client.request("GET", "/slow", &[]), true).await;
    let mut server = site.server.accept().await;
    server.head().await;
    send.send_reset(h2::Reason::CANCEL);
    drop(answer);
    server.expect_gone().await;
    let line = &site.proxy.log_lines(1).await[0];
    assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client_gone".into()), "{line}");
}

#[tokio::test]
async fn no_more_streams_are_open_than_allowed() {
    let server = RawServer::start().await;
    let yaml = both(&[server.url()], &[]).replace("protocols:", "limits: { streams: 3 }, protocols:");
    let proxy = Proxy::start(&yaml);
    let mut client = H2Client::connect(proxy.address()).await;
    assert_eq!(client.send.current_max_send_streams(), 3);
    let mut open = vec![];
    for _ in 0..3 {
        open.push(client.ask(client.request("GET", "/", &[]), true).await);
    }
    proxy.metric_becomes("wsluice_http2_streams_active", &PLAIN, 3.0).await;
}

#[tokio::test]
async fn a_head_of_too_many_fields_is_refused_and_one_of_too_many_bytes_too() {
    let server = RawServer::start().await;
    let limits = "limits: { headers: 10, header_bytes: 4KiB }, protocols:";
    let proxy = Proxy::start(&both(&[server.url()], &[]).replace("protocols:", limits));
    let mut client = H2Client::connect(proxy.address()).await;
    let names: Vec<String> = (0..20).map(|i| format!("x-{i}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "1")).collect();
    assert_eq!(client.get("/", &many).await.status(), 431);
    let long = "v".repeat(5000);
    let (answer, _) = client.ask(client.request("GET", "/", &[("x-long", &long)]), true).await;
    assert_eq!(within("the answer", answer).await.unwrap().status(), 431);
}

#[tokio::test]
async fn a_body_that_the_client_does_not_take_ends_after_the_time_to_send() {
    let mut server = RawServer::start().await;
    let yaml = both(&[server.url()], &[]).replace("protocols:", "timeouts: { send: 200ms }, protocols:");
    let proxy = Proxy::start(&yaml);
    let mut client = H2Client::connect(proxy.address()).await;
    let (answer, _) = client.ask(client.request("GET", "/", &[]), true).await;
    let mut conn = server.accept().await;
    conn.head().await;
    let sending = tokio::spawn(async move {
        let body = vec![7; 4 << 20];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = conn.try_send([head.as_bytes(), &body].concat()).await;
    });
    let mut answer = within("the answer", answer).await.unwrap();
    proxy
        .metric_becomes("wsluice_connection_errors_total", &[("listener", "plain"), ("reason", "send_timeout")], 1.0)
        .await;
    // What was on its way comes, and then the reset.
    let ended = within("the end", async {
        loop {
            match answer.body_mut().data().await {
                Some(Ok(_)) => {}
                ended => break ended,
            }
        }
    });
    assert_eq!(ended.await.unwrap().unwrap_err().reason(), Some(h2::Reason::CANCEL));
    let _ = within("the server", sending).await;
}

#[tokio::test]
async fn a_listener_may_keep_websockets_off_http_2() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&both(&[server.url()], &[]).replace("protocols:", "extended_connect: off, protocols:"));
    let Address::Tcp(address) = proxy.address() else { panic!("TCP") };
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut send, connection) = within("SETTINGS", h2::client::handshake(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::builder().uri("http://example.com/").body(()).unwrap();
    let (page, _) = send.send_request(request, true).unwrap();
    let (answer, _conn) = tokio::join!(within("the page", page), async {
        let mut conn = server.accept().await;
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        conn
    });
    assert_eq!(answer.unwrap().status(), 200);
    assert!(!send.is_extended_connect_protocol_enabled());
    drop(send);
    within("the end", driver).await.unwrap().unwrap();
}
