//! Endpoints in turn, and the next one if one fails before the client got an answer.

use std::collections::BTreeMap;

use super::harness::{Frame, Handshake, Proxy, RawServer, in_turn, yaml};

/// Returns an address of this machine without a listener; it stays so while the returned socket is held.
struct Refusing {
    url: String,
    _held: socket2::Socket,
}

impl Refusing {
    fn new() -> Refusing {
        // Bound but not listening: connections are refused.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Refusing { url: format!("ws://{address}"), _held: socket }
    }
}

fn errors(proxy: &Proxy, endpoint: &str, reason: &str) -> f64 {
    let labels = [("upstream", "app"), ("endpoint", endpoint), ("reason", reason)];
    proxy.metric("wsluice_upstream_errors_total", &labels)
}

#[tokio::test]
async fn endpoints_are_taken_in_turn() {
    let mut servers = [RawServer::start().await, RawServer::start().await, RawServer::start().await];
    let urls: Vec<String> = servers.iter().map(|server| server.url().to_owned()).collect();
    let proxy = Proxy::start(&in_turn(&urls.iter().map(|url| &**url).collect::<Vec<_>>(), &[]));
    let mut open = vec![];
    for round in 0..9 {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let (a, b, c) = {
            let [a, b, c] = &mut servers;
            (a, b, c)
        };
        let mut upstream = tokio::select! {
            conn = a.accept() => conn,
            conn = b.accept() => conn,
            conn = c.accept() => conn,
        };
        upstream.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101, "round {round}");
        open.push((client, upstream));
    }
    for url in &urls {
        let labels = [("upstream", "app"), ("endpoint", &**url)];
        assert_eq!(proxy.metric("wsluice_endpoint_picks_total", &labels), 3.0);
        // A client sees its session a moment before the counters do.
        proxy.metric_becomes("wsluice_endpoint_sessions_active", &labels, 3.0).await;
    }
    drop(open);
    for url in &urls {
        proxy.metric_becomes("wsluice_endpoint_sessions_active", &[("upstream", "app"), ("endpoint", url)], 0.0).await;
    }
}

#[tokio::test]
async fn the_next_endpoint_is_tried_when_one_refuses_the_connection() {
    let (dead, mut alive) = (Refusing::new(), RawServer::start().await);
    let proxy = Proxy::start(&in_turn(&[&dead.url, alive.url()], &[]));
    for _ in 0..6 {
        let mut client = proxy.client().await;
        client.send([Handshake::new().bytes(), Frame::text("early").masked()].concat()).await;
        let mut upstream = alive.accept().await;
        upstream.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101);
        upstream.expect(&Frame::text("early")).await;
    }
    // Sessions that began with the living endpoint needed no second attempt.
    let failed = errors(&proxy, &dead.url, "connect");
    assert!((1.0..=6.0).contains(&failed), "{failed}");
    assert_eq!(proxy.metric("wsluice_upstream_retries_total", &[("upstream", "app")]), failed);
    proxy.idle().await;
    let attempts: u64 = proxy.log_lines(6).await.iter().map(|line| line["attempts"].as_u64().unwrap()).sum();
    assert_eq!(attempts as f64, 6.0 + failed);
}

#[tokio::test]
async fn the_next_endpoint_is_tried_when_a_handshake_fails_with_a_key_of_its_own() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
        "garbage\r\n\r\n",
        "",
    ] {
        let (mut bad, mut good) = (RawServer::start().await, RawServer::start().await);
        let proxy = Proxy::start(&in_turn(&[bad.url(), good.url()], &[]));
        let mut failed = 0;
        // In at least one of two turns the bad endpoint comes first.
        for _ in 0..2 {
            let mut client = proxy.client().await;
            client.send(Handshake::to("/x?y").with("Cookie", "a=b").bytes()).await;
            let mut first = None;
            let mut upstream = tokio::select! {
                mut conn = bad.accept() => {
                    failed += 1;
                    first = Some(conn.head().await);
                    conn.send(answer).await;
                    drop(conn);
                    good.accept().await
                }
                conn = good.accept() => conn,
            };
            let request = upstream.switch(&[]).await;
            assert_eq!(client.head().await.status(), 101, "{answer:?}");
            if let Some(first) = first {
                let without_key = |head: &super::harness::Head| {
                    let mut headers = head.headers.clone();
                    headers.retain(|(name, _)| name != "sec-websocket-key");
                    (head.line.clone(), headers)
                };
                assert_eq!(without_key(&first), without_key(&request));
                assert_ne!(first.get("sec-websocket-key"), request.get("sec-websocket-key"));
            }
        }
        assert!(failed >= 1, "{answer:?}");
        assert_eq!(proxy.metric("wsluice_upstream_retries_total", &[("upstream", "app")]), f64::from(failed));
    }
}

#[tokio::test]
async fn an_answer_is_an_answer_and_not_tried_elsewhere() {
    let (mut one, mut two) = (RawServer::start().await, RawServer::start().await);
    let proxy = Proxy::start(&yaml(&[one.url(), two.url()], &[]));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut upstream = tokio::select! {
        conn = one.accept() => conn,
        conn = two.accept() => conn,
    };
    upstream.head().await;
    upstream.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy").await;
    let head = client.head().await;
    assert_eq!((head.status(), &*client.body(&head).await), (503, &b"busy"[..]));
    assert_eq!(one.connections().await + two.connections().await, 1);
    assert_eq!(proxy.metric("wsluice_upstream_retries_total", &[("upstream", "app")]), 0.0);
}

#[tokio::test]
async fn all_dead_is_502_after_each_was_tried_once() {
    let dead = [Refusing::new(), Refusing::new(), Refusing::new()];
    let urls: Vec<&str> = dead.iter().map(|dead| &*dead.url).collect();
    let proxy = Proxy::start(&yaml(&urls, &[]));
    let mut client = proxy.client().await;
    let head = client.ask(&Handshake::new()).await;
    assert_eq!(head.status(), 502);
    let body = String::from_utf8(client.body(&head).await).unwrap();
    assert!(body.starts_with("connect: ") && !body.contains("127.0.0.1"), "{body}");
    let tried: BTreeMap<_, _> = urls.iter().map(|url| (*url, errors(&proxy, url, "connect"))).collect();
    assert!(tried.values().all(|count| *count == 1.0), "{tried:?}");
    let line = &proxy.log_lines(1).await[0];
    assert_eq!((&line["attempts"], &line["reason"]), (&3.into(), &"connect".into()));
}

#[tokio::test]
async fn one_that_hangs_costs_the_time_for_handshakes_and_is_504() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &["timeouts: { handshake: 200ms, connect: 200ms }"]));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    let head = client.head().await;
    assert_eq!(head.status(), 504);
    assert!(client.body(&head).await.starts_with(b"upstream_timeout: "));
    // The connection that was awaited is closed too.
    assert_eq!(upstream.read_to_end().await, b"");
    let url = server.url().to_owned();
    assert_eq!(errors(&proxy, &url, "handshake_timeout"), 1.0);
}

#[tokio::test]
async fn half_an_answer_is_no_answer_in_time() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &["timeouts: { handshake: 200ms, connect: 200ms }"]));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n").await;
    assert_eq!(client.head().await.status(), 504);
    assert_eq!(upstream.read_to_end().await, b"");
}

#[tokio::test]
async fn a_session_that_is_lost_is_not_opened_again() {
    let (mut one, mut two) = (RawServer::start().await, RawServer::start().await);
    let proxy = Proxy::start(&yaml(&[one.url(), two.url()], &[]));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut upstream = tokio::select! {
        conn = one.accept() => conn,
        conn = two.accept() => conn,
    };
    upstream.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    drop(upstream);
    client.expect_end().await;
    assert_eq!(one.connections().await + two.connections().await, 1);
}

/// Returns an address where connecting hangs: the queue of its listener is full and nothing accepts.
struct Hanging {
    url: String,
    _listener: socket2::Socket,
    _queue: Vec<tokio::net::TcpStream>,
}

impl Hanging {
    async fn new() -> Hanging {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queue = vec![];
        let patience = std::time::Duration::from_millis(200);
        while let Ok(stream) = tokio::time::timeout(patience, tokio::net::TcpStream::connect(address)).await {
            queue.push(stream.unwrap());
            assert!(queue.len() < 100, "connecting does not hang");
        }
        Hanging { url: format!("ws://{address}"), _listener: listener, _queue: queue }
    }
}

#[tokio::test]
async fn the_next_endpoint_is_tried_when_connecting_to_one_hangs() {
    let (dead, mut alive) = (Hanging::new().await, RawServer::start().await);
    let proxy = Proxy::start(&in_turn(&[&dead.url, alive.url()], &["timeouts: { connect: 100ms, handshake: 10s }"]));
    for _ in 0..2 {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        alive.accept().await.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101);
    }
    assert!(errors(&proxy, &dead.url, "connect_timeout") >= 1.0);
}

#[tokio::test]
async fn all_hanging_is_504() {
    let dead = [Hanging::new().await, Hanging::new().await];
    let urls = [&*dead[0].url, &*dead[1].url];
    let proxy = Proxy::start(&yaml(&urls, &["timeouts: { connect: 100ms, handshake: 10s }"]));
    let mut client = proxy.client().await;
    let head = client.ask(&Handshake::new()).await;
    assert_eq!(head.status(), 504);
    assert!(client.body(&head).await.starts_with(b"connect_timeout: "));
    for url in urls {
        assert_eq!(errors(&proxy, url, "connect_timeout"), 1.0);
    }
}
