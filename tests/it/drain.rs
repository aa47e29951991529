//! The end of the process, as sessions, requests and new connections see it.

use std::time::Duration;

use wsluice::control::{ControlRequest, DrainTarget};
use wsluice::telemetry::exposition;

use crate::harness::{Conn, Echo, Event, Frame, Handshake, Pair, Proxy, RawServer, eventually, in_turn, within, yaml};
use crate::plain::{get, ok};

fn draining(endpoint: &str, time: &str) -> String {
    yaml(&[endpoint], &[]) + &format!("drain: {{ time: {time} }}\n")
}

async fn pair(time: &str) -> Pair {
    let upstream = RawServer::start().await;
    let proxy = Proxy::start(&draining(upstream.url(), time));
    Pair::through(proxy, upstream, &Handshake::new(), &[]).await
}

#[tokio::test]
async fn a_session_ends_by_1012_to_the_client_and_1001_to_the_server() {
    let Pair { mut client, mut server, mut proxy, .. } = pair("1s").await;
    let peers = async {
        tokio::join!(client.expect_closed_with(1012), server.expect_closed_with(1001));
        client.finish().await;
    };
    let (drained, ()) = tokio::join!(proxy.drain(), peers);
    assert_eq!(drained.left, 0);
    let log = proxy.log_lines(1).await;
    let line = &log[0];
    assert_eq!((line["reason"].as_str(), line["close_code"].as_u64()), (Some("drain"), Some(1012)));
    assert_eq!(line["close_initiator"], "proxy");
    let labels = [("route", "all"), ("initiator", "proxy"), ("code", "1012"), ("reason", "drain")];
    assert_eq!(proxy.metric("wsluice_session_closes_total", &labels), 1.0);
}

#[tokio::test]
async fn a_session_in_the_middle_of_a_message_is_ended_between_frames() {
    let Pair { mut client, mut server, mut proxy, .. } = pair("1s").await;
    // The client has half a frame; a Close must come after its end.
    let frame = Frame::binary(vec![7; 3000]).plain();
    server.send(&frame[..1000]).await;
    client.read_exact(1000).await;
    let peers = async {
        // The server has no frame in progress, so its Close shows that the drain has reached this session.
        assert_eq!(server.expect_close().await.0, Some(1001));
        server.send(&frame[1000..]).await;
        server.put(&Frame::close(1001, "")).await;
        client.read_exact(2004).await;
        client.expect_closed_with(1012).await;
        client.finish().await;
        server.finish().await;
    };
    let (drained, ()) = tokio::join!(proxy.drain(), peers);
    assert_eq!(drained.left, 0);
}

#[tokio::test]
async fn peers_that_do_not_answer_are_cut_when_the_time_is_over() {
    let Pair { client, server, mut proxy, .. } = pair("100ms").await;
    let begun = std::time::Instant::now();
    let drained = within("the end of the time", proxy.drain()).await;
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert_eq!(drained.left, 1);
    drop(proxy);
    let (mut client, mut server) = (client, server);
    assert_eq!(client.expect_close().await.0, Some(1012));
    assert_eq!(server.expect_close().await.0, Some(1001));
    for conn in [&mut client, &mut server] {
        assert!(matches!(conn.event().await, Event::End | Event::Reset));
    }
}

#[tokio::test]
async fn connections_that_wait_for_a_request_are_closed_and_nobody_else_comes_in() {
    let upstream = RawServer::start().await;
    let mut proxy = Proxy::start(&draining(upstream.url(), "20s"));
    let address = proxy.address().clone();
    let new = proxy.client().await;
    let mut used = proxy.client().await;
    used.send(get("/")).await;
    let mut upstream = upstream;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send(ok("")).await;
    assert_eq!(used.head().await.status(), 200);
    let peers = async {
        for mut conn in [new, used] {
            conn.expect_end().await;
            conn.finish().await;
        }
    };
    // Long before the time is over, since no session is left.
    let (drained, ()) = within("the drain", async { tokio::join!(proxy.drain(), peers) }).await;
    assert_eq!(drained.left, 0);
    let wsluice::net::listener::Address::Tcp(address) = address else { panic!("TCP") };
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_handshake_that_comes_too_late_is_sent_elsewhere() {
    let upstream = RawServer::start().await;
    let mut proxy = Proxy::start(&draining(upstream.url(), "20s"));
    let mut idle = proxy.client().await;
    let mut client = proxy.client().await;
    // A request is running on this connection, and the handshake after it is read once the drain has begun.
    client.send(get("/")).await;
    let mut upstream = upstream;
    let mut server = upstream.accept().await;
    server.head().await;
    let peers = async {
        // The end of another connection shows that all were notified. That no new one is accepted does not: it comes
        // first.
        idle.expect_end().await;
        server.send(ok("")).await;
        let answer = client.head().await;
        assert_eq!((answer.status(), answer.get("connection")), (200, Some("close")));
        client.expect_end().await;
        client.finish().await;
    };
    let (drained, ()) = tokio::join!(proxy.drain(), peers);
    assert_eq!(drained.left, 0);
}

#[tokio::test]
async fn a_stream_of_events_lives_as_long_as_it_may() {
    let mut upstream = RawServer::start().await;
    let mut proxy = Proxy::start(&draining(upstream.url(), "300ms"));
    let mut client = proxy.client().await;
    client.send(get("/events")).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.head().await;
    let address = proxy.address().clone();
    let events = async {
        let wsluice::net::listener::Address::Tcp(address) = address else { panic!("TCP") };
        eventually("the drain", || std::net::TcpStream::connect(address).is_err().then_some(())).await;
        server.send("3\r\none\r\n").await;
        assert_eq!(crate::plain::chunk(&mut client).await, b"one");
    };
    let (drained, ()) = tokio::join!(proxy.drain(), events);
    assert_eq!(drained.left, 1);
    drop(proxy);
    assert_eq!(client.read_to_end().await, b"", "cut, and not as if it were whole");
}

#[tokio::test]
async fn sessions_are_spread_over_the_time() {
    let echo = Echo::start().await;
    let mut proxy = Proxy::start(&draining(&echo.url(), "3s"));
    let mut clients = vec![];
    for _ in 0..10 {
        let mut client = proxy.client().await;
        client.open(&Handshake::new()).await;
        clients.push(client);
    }
    let begun = std::time::Instant::now();
    let ends = async {
        let each = clients.into_iter().map(|mut client: Conn| {
            tokio::spawn(async move {
                client.expect_closed_with(1012).await;
                begun.elapsed()
            })
        });
        let mut times = vec![];
        for end in each.collect::<Vec<_>>() {
            times.push(end.await.unwrap());
        }
        times.sort();
        times
    };
    let (drained, times) = tokio::join!(proxy.drain(), ends);
    assert_eq!(drained.left, 0);
    // Ten have 1.125 s; the rest is for those without a pause and for the last answers: the last one in the last tenth
    // (less a tick of the clock).
    assert!(times[9] >= Duration::from_millis(960), "{times:?}");
    assert!(times[9] - times[0] >= Duration::from_millis(500), "{times:?}");
}

#[tokio::test]
async fn it_is_told_who_is_still_where_a_drain_was_begun() {
    let (one, two) = (Echo::start().await, Echo::start().await);
    let text = in_turn(&[&one.url(), &two.url()], &[]) + "drain: { time: 1s }\n";
    let mut proxy = Proxy::start(&text);
    let mut clients = vec![];
    for _ in 0..4 {
        let mut client = proxy.client().await;
        client.open(&Handshake::new()).await;
        clients.push(client);
    }
    let kinds = |proxy: &Proxy| {
        let active = |kind| proxy.series("wsluice_drains_active", &[("kind", kind)]).unwrap();
        ["listener", "route", "upstream", "endpoint", "process"].map(active)
    };
    let stopping = |proxy: &Proxy, reason| proxy.series("wsluice_sessions_stopping", &[("reason", reason)]).unwrap();
    let left = |proxy: &Proxy, kind: &str, name: &str, endpoint: &str| {
        proxy.series("wsluice_drain_sessions_left", &[("kind", kind), ("name", name), ("endpoint", endpoint)])
    };
    assert_eq!((kinds(&proxy), stopping(&proxy, "route_drain")), ([0.0; 5], 0.0));
    assert!(!proxy.metrics().contains("wsluice_drain_sessions_left"));
    let route = DrainTarget::Route { name: "all".into() };
    let endpoint = DrainTarget::Endpoint { upstream: "app".into(), endpoint: one.url() };
    for target in [&endpoint, &route] {
        let (target, span) = (target.clone(), Duration::from_secs(600));
        proxy.app.control().request(|done| ControlRequest::Drain { target, span, done }).await.unwrap().unwrap();
    }
    assert_eq!(kinds(&proxy), [0.0, 1.0, 0.0, 1.0, 0.0]);
    assert_eq!(left(&proxy, "endpoint", "app", &one.url()), Some(2.0));
    assert_eq!(left(&proxy, "route", "all", ""), Some(4.0));
    // Each is closed once, at the earlier time.
    let told = |proxy: &Proxy| stopping(proxy, "endpoint_drain") + stopping(proxy, "route_drain");
    assert_eq!((told(&proxy), stopping(&proxy, "drain")), (4.0, 0.0));
    drop(clients.pop());
    eventually("one less", || (left(&proxy, "route", "all", "") == Some(3.0)).then_some(())).await;
    for target in [endpoint, route] {
        assert!(proxy.app.control().request(|done| ControlRequest::EndDrain { target, done }).await.unwrap().unwrap());
    }
    assert_eq!((kinds(&proxy), told(&proxy)), ([0.0; 5], 0.0));
    assert!(!proxy.metrics().contains("wsluice_drain_sessions_left"));
    let registry = proxy.app.registry().clone();
    let whole = async {
        let has = |line: &str| {
            let text = exposition::encode(&registry).unwrap();
            text.lines().any(|found| found == line).then_some(())
        };
        let left = r#"wsluice_drain_sessions_left{endpoint="",kind="process",name=""} 3"#;
        eventually("the drain of the process", || has(left)).await;
        has(r#"wsluice_drains_active{kind="process"} 1"#).unwrap();
        has(r#"wsluice_sessions_stopping{reason="drain"} 3"#).unwrap();
        for client in &mut clients {
            client.expect_closed_with(1012).await;
        }
        drop(clients);
    };
    let (drained, ()) = tokio::join!(proxy.drain(), whole);
    assert_eq!((drained.left, left(&proxy, "process", "", "")), (0, Some(0.0)));
}

#[tokio::test]
async fn who_has_connected_is_answered_although_nobody_accepts_any_more() {
    let mut upstream = RawServer::start().await;
    let mut proxy = Proxy::start(&draining(upstream.url(), "20s"));
    // One delays the drain, and two send their first request after it has begun.
    let mut busy = proxy.client().await;
    busy.send(get("/")).await;
    let mut server = upstream.accept().await;
    server.head().await;
    let (mut plain, mut late) = (proxy.client().await, proxy.client().await);
    let address = proxy.address().tcp().unwrap();
    let peers = async {
        eventually("the drain", || std::net::TcpStream::connect(address).is_err().then_some(())).await;
        late.send(Handshake::new().bytes()).await;
        let answer = late.head().await;
        assert_eq!((answer.status(), answer.get("connection")), (503, Some("close")));
        plain.send(get("/plain")).await;
        let mut other = upstream.accept().await;
        other.head().await;
        other.send(ok("")).await;
        let answer = plain.head().await;
        assert_eq!((answer.status(), answer.get("connection")), (200, Some("close")));
        server.send(ok("")).await;
        assert_eq!(busy.head().await.status(), 200);
        drop((busy, plain, late));
    };
    let (drained, ()) = tokio::join!(proxy.drain(), peers);
    assert_eq!(drained.left, 0);
}
