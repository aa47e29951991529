//! Rates inside a session: `delay` slows down and loses nothing, `close` ends with 1008; floods of control frames and of
//! fragments.

use std::time::{Duration, Instant};

use super::harness::{BINARY, CONTINUATION, Conn, Event, Frame, Handshake, Pair, Proxy, RawServer, TEXT, yaml};

/// Reads texts and returns them, in order.
async fn texts(conn: &mut Conn, count: usize) -> Vec<String> {
    let mut all = vec![];
    while all.len() < count {
        let frame = conn.frame().await;
        assert_eq!(frame.opcode, TEXT);
        all.push(String::from_utf8(frame.payload).unwrap());
    }
    all
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

/// All of them in one write, as a flood comes.
fn from_client(texts: &[String]) -> Vec<u8> {
    texts.iter().flat_map(|text| Frame::text(text).masked()).collect()
}

fn from_server(texts: &[String]) -> Vec<u8> {
    texts.iter().flat_map(|text| Frame::text(text).plain()).collect()
}

/// The client has got 1008, and the server 1001, if it was the client.
async fn refused(client: &mut Conn, server: &mut Conn, server_code: u16, reason: &str) {
    assert_eq!(client.expect_closed_with(1008).await, reason);
    server.expect_closed_with(server_code).await;
}

const SLOW: &str = "limits: { rate: { messages: 50/s, burst: 10 } }";

#[tokio::test]
async fn delay_slows_a_client_to_the_rate_and_loses_nothing() {
    let mut pair = Pair::open(&[SLOW]).await;
    let started = Instant::now();
    let all = numbers(60);
    pair.client.send(from_client(&all)).await;
    assert_eq!(texts(&mut pair.server, 60).await, all);
    // 50 above the burst, at 50 a second. It may take longer, and never less.
    assert!(started.elapsed() >= Duration::from_millis(980), "{:?}", started.elapsed());
    assert!(pair.proxy.metric("wsluice_rate_delays_total", &[("route", "all"), ("direction", "in")]) >= 1.0);
    assert_eq!(pair.proxy.metric("wsluice_rate_delays_total", &[("route", "all"), ("direction", "out")]), 0.0);
    // The other direction has no rate.
    pair.server.send(from_server(&numbers(1000))).await;
    assert_eq!(texts(&mut pair.client, 1000).await, numbers(1000));
}

#[tokio::test]
async fn delay_slows_a_server_and_bytes_alike() {
    let mut pair = Pair::open(&["limits: { server_rate: { bytes: 100KiB/s, burst_bytes: 16KiB } }"]).await;
    let started = Instant::now();
    let large = Frame::binary(vec![7; 80 << 10]);
    pair.server.put(&large).await;
    pair.server.put(&Frame::text("behind it")).await;
    assert!(pair.client.frame().await == large);
    pair.client.expect(&Frame::text("behind it")).await;
    assert!(started.elapsed() >= Duration::from_millis(600), "{:?}", started.elapsed());
    assert!(pair.proxy.metric("wsluice_rate_delays_total", &[("route", "all"), ("direction", "out")]) >= 1.0);
}

#[tokio::test]
async fn the_other_direction_and_answers_to_pings_go_on_while_one_is_delayed() {
    let mut pair = Pair::open(&["limits: { rate: { messages: 1/s, burst: 1 } }"]).await;
    // The Ping passes before the message that must wait.
    let begin = [Frame::text("0").masked(), Frame::ping("p").masked(), Frame::text("1").masked()].concat();
    pair.client.send(begin).await;
    pair.server.expect(&Frame::text("0")).await;
    pair.server.expect(&Frame::ping("p")).await;
    pair.server.put(&Frame::pong("p")).await;
    pair.client.expect(&Frame::pong("p")).await;
    for n in 0..100 {
        let text = Frame::text(&n.to_string());
        pair.server.put(&text).await;
        pair.client.expect(&text).await;
    }
    pair.server.expect(&Frame::text("1")).await;
}

#[tokio::test]
async fn back_pressure_reaches_a_delayed_client_and_bounds_what_is_held() {
    let pair = Pair::open(&["limits: { rate: { bytes: 64KiB/s, burst_bytes: 64KiB } }"]).await;
    let (_reader, mut writer) = pair.client.split();
    let frame = Frame::binary(vec![1; 60_000]).masked();
    let mut accepted = 0;
    // Ends when the kernel takes no more; on a busy machine earlier, and the bound holds all the more.
    while accepted < 64 << 20 {
        match tokio::time::timeout(Duration::from_millis(500), writer.send(&frame)).await {
            Ok(sent) => sent.unwrap(),
            Err(_) => break,
        }
        accepted += frame.len();
    }
    assert!(accepted < 24 << 20, "{accepted} bytes were taken of a client that may send 64 KiB a second");
    drop(pair.server);
}

#[tokio::test]
async fn a_delayed_client_is_not_taken_for_idle() {
    let limits = "limits: { rate: { messages: 1/s, burst: 1 } }";
    let mut pair = Pair::open(&["timeouts: { idle: 500ms }", limits]).await;
    let all = numbers(4);
    pair.client.send(from_client(&all)).await;
    assert_eq!(texts(&mut pair.server, 4).await, all, "though each waited for longer than the idle time");
    assert_eq!(pair.client.expect_closed_with(1001).await, "idle timeout");
}

#[tokio::test]
async fn close_ends_the_session_of_a_client_that_is_too_fast() {
    let mut pair = Pair::open(&["limits: { rate: { messages: 1/s, burst: 5, then: close } }"]).await;
    let (mut other, mut others_server) = pair.another().await;
    let all = numbers(50);
    pair.client.send(from_client(&all)).await;
    let passed = texts(&mut pair.server, 5).await;
    assert_eq!(passed, all[..5]);
    refused(&mut pair.client, &mut pair.server, 1001, "rate exceeded").await;
    // Each session has its own.
    other.send(from_client(&all[..5])).await;
    assert_eq!(texts(&mut others_server, 5).await, all[..5]);
    other.put(&Frame::close(1000, "")).await;
    others_server.expect_closed_with(1000).await;
    drop((pair.client, other));
    pair.proxy.idle().await;
    let closes = [("route", "all"), ("initiator", "proxy"), ("code", "1008"), ("reason", "rate_limit")];
    assert_eq!(pair.proxy.metric("wsluice_session_closes_total", &closes), 1.0);
    let lines = pair.proxy.log_lines(2).await;
    let line = lines.iter().find(|line| line["reason"] == "rate_limit").unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!((&line["close_code"], &line["detail"]), (&1008.into(), &"sent by the client".into()), "{line}");
}

#[tokio::test]
async fn close_counts_a_server_too_and_a_frame_above_the_burst_never_half_leaves() {
    let rate = "limits: { server_rate: { bytes: 8KiB/s, burst_bytes: 8KiB, then: close } }";
    let mut pair = Pair::open(&[rate]).await;
    pair.server.put(&Frame::binary(vec![1; 4000])).await;
    pair.client.expect(&Frame::binary(vec![1; 4000])).await;
    pair.server.put(&Frame::binary(vec![2; 9000])).await;
    refused(&mut pair.client, &mut pair.server, 1008, "rate exceeded").await;
}

#[tokio::test]
async fn a_reload_gives_new_sessions_the_new_rate_and_leaves_the_others_theirs() {
    let mut upstream = RawServer::start().await;
    let fast = yaml(&[upstream.url()], &["limits: { rate: { messages: 1000/s, burst: 100, then: close } }"]);
    let strict = yaml(&[upstream.url()], &["limits: { rate: { messages: 1/s, burst: 2, then: close } }"]);
    let mut proxy = Proxy::start(&fast);
    let mut before = proxy.client().await;
    before.send(Handshake::new().bytes()).await;
    let mut server_before = upstream.accept().await;
    server_before.switch(&[]).await;
    before.head().await;
    proxy.reload(&strict).await.unwrap();
    let mut pair = Pair::through(proxy, upstream, &Handshake::new(), &[]).await;
    before.send(from_client(&numbers(50))).await;
    assert_eq!(texts(&mut server_before, 50).await, numbers(50));
    pair.client.send(from_client(&numbers(3))).await;
    assert_eq!(texts(&mut pair.server, 2).await, numbers(2));
    refused(&mut pair.client, &mut pair.server, 1001, "rate exceeded").await;
}

#[tokio::test]
async fn a_drain_ends_a_delayed_session_with_its_close() {
    let upstream = RawServer::start().await;
    let yaml = yaml(&[upstream.url()], &["limits: { rate: { messages: 1/s, burst: 1 } }"]);
    let proxy = Proxy::start(&format!("{yaml}drain: {{ time: 8s }}\n"));
    let mut pair = Pair::through(proxy, upstream, &Handshake::new(), &[]).await;
    pair.client.send(from_client(&numbers(500))).await;
    pair.server.expect(&Frame::text("0")).await;
    let Pair { mut client, mut server, mut proxy, .. } = pair;
    let closing = tokio::spawn(async move {
        // The texts that still pass, and then the Close.
        while server.frame().await.opcode == TEXT {}
        server.put(&Frame::close(1001, "")).await;
        server.finish().await;
        server.expect_end().await;
    });
    let (drained, ()) = tokio::join!(proxy.drain(), async {
        assert_eq!(client.expect_closed_with(1012).await, "service restart");
    });
    closing.await.unwrap();
    assert_eq!(drained.left, 0, "{drained:?}");
}

#[tokio::test]
async fn a_server_that_closes_is_answered_though_the_client_is_delayed() {
    let mut pair = Pair::open(&["limits: { rate: { messages: 20/s, burst: 1 } }"]).await;
    let all = numbers(10);
    pair.client.send(from_client(&all)).await;
    pair.server.put(&Frame::close(4001, "enough")).await;
    pair.client.expect(&Frame::close(4001, "enough")).await;
    pair.client.put(&Frame::close(4001, "")).await;
    assert_eq!(texts(&mut pair.server, 10).await, all);
    pair.server.expect(&Frame::close(4001, "")).await;
    pair.server.finish().await;
    pair.client.expect_end().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_is_delayed_is_heard_out() {
    let mut pair = Pair::open(&["limits: { rate: { messages: 20/s, burst: 1 } }"]).await;
    let all = numbers(10);
    pair.client.send(from_client(&all)).await;
    pair.client.finish().await;
    assert_eq!(texts(&mut pair.server, 10).await, all);
    pair.server.expect_closed_with(1001).await;
}

#[tokio::test]
async fn a_half_message_waits_for_its_rest_and_costs_one_token() {
    let mut pair = Pair::open(&["limits: { rate: { messages: 1/s, burst: 1, then: close } }"]).await;
    let whole = Frame::text("in two halves").masked();
    let (half, rest) = whole.split_at(9);
    pair.client.send(half).await;
    // The half has left when an answer to what came before it is here.
    pair.server.put(&Frame::text("meanwhile")).await;
    pair.client.expect(&Frame::text("meanwhile")).await;
    pair.client.send(rest).await;
    pair.server.expect(&Frame::text("in two halves")).await;
}

#[tokio::test]
async fn a_rate_of_bytes_holds_where_no_frames_are_read() {
    let route = ["validate: off", "limits: { rate: { bytes: 64KiB/s, burst_bytes: 8KiB } }"];
    let mut pair = Pair::open(&route).await;
    let started = Instant::now();
    let bytes: Vec<u8> = (0..40 << 10).map(|n: u32| n as u8).collect();
    pair.client.send(&bytes).await;
    assert!(pair.server.read_exact(bytes.len()).await == bytes);
    assert!(started.elapsed() >= Duration::from_millis(480), "{:?}", started.elapsed());

    let route = ["validate: off", "limits: { rate: { bytes: 1KiB/s, burst_bytes: 8KiB, then: close } }"];
    let mut pair = Pair::open(&route).await;
    pair.client.send(&bytes).await;
    assert!(bytes.starts_with(&pair.server.read_to_end().await));
    pair.client.read_to_end().await;
    drop((pair.client, pair.server));
    pair.proxy.idle().await;
    assert_eq!(pair.proxy.log_lines(1).await[0]["reason"], "rate_limit");
}

#[tokio::test]
async fn a_flood_of_control_frames_ends_the_session_without_any_setting() {
    let mut pair = Pair::open(&[]).await;
    let (mut other, mut others_server) = pair.another().await;
    // As many as come at once from behind a stalled network are no flood.
    pair.client.send(Frame::ping("").masked().repeat(500)).await;
    for _ in 0..500 {
        pair.server.expect(&Frame::ping("")).await;
    }
    // Within one second or two, there are too many of them.
    let (mut reader, mut writer) = pair.client.split();
    let flood = Frame::ping("").masked().repeat(1000);
    let writing = tokio::spawn(async move { while writer.send(&flood).await.is_ok() {} });
    let close = reader.event().await;
    let Event::Frame(close) = close else { panic!("{close:?}") };
    assert_eq!(close.close_body(), (Some(1008), "too many control frames".into()));
    drop(reader);
    while pair.server.frame().await == Frame::ping("") {}
    writing.abort();
    // A server that floods gets the code itself.
    let flood = Frame::pong("x").plain().repeat(5000);
    let _ = others_server.try_send(&flood).await;
    let close = loop {
        let frame = other.frame().await;
        if frame != Frame::pong("x") {
            break frame;
        }
    };
    assert_eq!(close.code(), Some(1008));
    assert_eq!(others_server.frame().await.code(), Some(1008));
    drop((other, others_server, pair.server));
    pair.proxy.idle().await;
    let closes = [("route", "all"), ("initiator", "proxy"), ("code", "1008"), ("reason", "control_limit")];
    assert_eq!(pair.proxy.metric("wsluice_session_closes_total", &closes), 2.0);
}

#[tokio::test]
async fn a_message_of_very_many_empty_frames_ends_the_session_without_any_setting() {
    let mut pair = Pair::open(&[]).await;
    let first = Frame::new(BINARY, vec![]).unfinished();
    let empty = Frame::new(CONTINUATION, vec![]).unfinished();
    pair.server.send(first.plain()).await;
    let flood = empty.plain().repeat(100_000);
    pair.server.send(&flood).await;
    let Pair { mut client, mut server, proxy, .. } = pair;
    client.expect(&first).await;
    for _ in 0..99_999 {
        client.expect(&empty).await;
    }
    assert_eq!(client.expect_closed_with(1008).await, "too many fragments");
    server.expect_closed_with(1008).await;
    drop(client);
    proxy.idle().await;
    let closes = [("route", "all"), ("initiator", "proxy"), ("code", "1008"), ("reason", "fragment_limit")];
    assert_eq!(proxy.metric("wsluice_session_closes_total", &closes), 1.0);
}

#[tokio::test]
async fn what_is_off_ends_nothing() {
    let mut pair = Pair::open(&["limits: { control: off, fragments: off, rate: off }"]).await;
    let pings = Frame::ping("").masked().repeat(5000);
    let (mut reader, mut writer) = pair.client.split();
    writer.send(&pings).await.unwrap();
    for _ in 0..5000 {
        pair.server.expect(&Frame::ping("")).await;
    }
    pair.server.put(&Frame::text("still here")).await;
    assert_eq!(reader.event().await, Event::Frame(Frame::text("still here")));
}
