//! Size limits to the byte (1009), and the two clocks of a session: idle, which only data resets, and lifetime.

use std::time::Duration;

use super::harness::{CONTINUATION, Conn, Event, Frame, Pair};

const SIZES: &str = "limits: { frame: 1000B, message: 1500B }";

fn piece(length: usize) -> Frame {
    Frame::new(CONTINUATION, vec![2; length])
}

/// Both peers see the end: 1009 for the client whoever was too large, 1001 for the server.
async fn too_large(client: &mut Conn, server: &mut Conn, reason: &str) {
    assert_eq!(client.expect_closed_with(1009).await, reason);
    server.expect_closed_with(1001).await;
}

#[tokio::test]
async fn a_frame_of_the_limit_passes_and_one_byte_more_does_not() {
    let mut pair = Pair::open(&[SIZES]).await;
    for length in [0, 999, 1000] {
        let frame = Frame::binary(vec![1; length]);
        pair.client.put(&frame).await;
        pair.server.expect(&frame).await;
        pair.server.put(&frame).await;
        pair.client.expect(&frame).await;
    }
    let (mut client, mut server) = pair.another().await;
    pair.client.put(&Frame::binary(vec![1; 1001])).await;
    too_large(&mut pair.client, &mut pair.server, "frame too large").await;
    server.put(&Frame::text(&"x".repeat(1001))).await;
    too_large(&mut client, &mut server, "frame too large").await;
    drop((client, pair.client));
    pair.proxy.idle().await;
    let closes = [("route", "all"), ("initiator", "proxy"), ("code", "1009"), ("reason", "frame_limit")];
    assert_eq!(pair.proxy.metric("wsluice_session_closes_total", &closes), 2.0);
}

#[tokio::test]
async fn a_message_counts_over_all_its_fragments() {
    let mut pair = Pair::open(&[SIZES]).await;
    let whole =
        [Frame::binary(vec![1; 1000]).unfinished(), Frame::ping("between"), piece(400).unfinished(), piece(100)];
    // Twice: a new message begins anew.
    for _ in 0..2 {
        for frame in &whole {
            pair.client.put(frame).await;
            pair.server.expect(frame).await;
            pair.server.put(frame).await;
            pair.client.expect(frame).await;
        }
    }
    let (mut client, mut server) = pair.another().await;
    for frame in &whole[..3] {
        pair.client.put(frame).await;
        pair.server.expect(frame).await;
        server.put(frame).await;
        client.expect(frame).await;
    }
    pair.client.put(&piece(101)).await;
    too_large(&mut pair.client, &mut pair.server, "message too large").await;
    server.put(&piece(101)).await;
    too_large(&mut client, &mut server, "message too large").await;
    drop((client, pair.client));
    pair.proxy.idle().await;
    let closes = [("route", "all"), ("initiator", "proxy"), ("code", "1009"), ("reason", "message_limit")];
    assert_eq!(pair.proxy.metric("wsluice_session_closes_total", &closes), 2.0);
}

#[tokio::test]
async fn a_frame_that_is_too_large_is_refused_by_its_header() {
    let mut pair = Pair::open(&[SIZES]).await;
    // The header announces 2^62 bytes, of which none comes.
    pair.client.send([0x82, 0xFF, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]).await;
    assert_eq!(pair.client.expect_close().await.0, Some(1009));
    pair.server.expect_closed_with(1001).await;
}

#[tokio::test]
async fn control_frames_are_not_limited_by_the_size_of_messages() {
    let mut pair = Pair::open(&["limits: { frame: 10B, message: 10B }"]).await;
    pair.client.put(&Frame::ping(vec![1; 125])).await;
    pair.server.expect(&Frame::ping(vec![1; 125])).await;
    let close = Frame::close(4000, &"r".repeat(123));
    pair.server.put(&close).await;
    pair.client.expect(&close).await;
}

/// Sends `frame` again and again until the session is closed from elsewhere; how often it went.
async fn until_closed(conn: &mut Conn, frame: &Frame, every: Duration) -> (usize, Frame) {
    let mut ticks = tokio::time::interval(every);
    for sent in 0.. {
        ticks.tick().await;
        if conn.try_send(frame.masked()).await.is_err() {
            panic!("no Close");
        }
        if let Ok(Event::Frame(frame)) = tokio::time::timeout(Duration::ZERO, conn.event()).await {
            return (sent, frame);
        }
    }
    unreachable!()
}

#[tokio::test]
async fn pings_do_not_keep_an_idle_session_alive() {
    let mut pair = Pair::open(&["timeouts: { idle: 300ms }"]).await;
    let (pings, close) = until_closed(&mut pair.client, &Frame::ping("alive"), Duration::from_millis(20)).await;
    assert_eq!(close.close_body(), (Some(1001), "idle timeout".into()));
    assert!(pings > 0);
    loop {
        let frame = pair.server.frame().await;
        if frame != Frame::ping("alive") {
            assert_eq!(frame.code(), Some(1001));
            break;
        }
    }
}

#[tokio::test]
async fn data_in_either_direction_keeps_a_session_alive() {
    // Each message waits for its arrival, and in all they take several times the idle time.
    let mut pair = Pair::open(&["timeouts: { idle: 400ms }"]).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let frame = Frame::text("data");
    for n in 0..12 {
        ticks.tick().await;
        if n < 6 {
            pair.client.put(&frame).await;
            pair.server.expect(&frame).await;
        } else {
            pair.server.put(&frame).await;
            pair.client.expect(&frame).await;
        }
    }
    assert_eq!(pair.client.expect_closed_with(1001).await, "idle timeout");
}

#[tokio::test]
async fn a_busy_session_ends_at_its_lifetime_too() {
    let mut pair = Pair::open(&["timeouts: { lifetime: 300ms, idle: 10s }"]).await;
    let (_, close) = until_closed(&mut pair.client, &Frame::text("busy"), Duration::from_millis(10)).await;
    assert_eq!(close.close_body(), (Some(1012), "lifetime reached".into()));
    pair.client.put(&Frame::close(1012, "")).await;
    pair.client.expect_end().await;
}

#[tokio::test]
async fn without_limits_nothing_ends_a_session() {
    let mut pair = Pair::open(&[]).await;
    let large = Frame::binary(vec![9; 3 << 20]);
    let (mut reader, mut writer) = pair.client.split();
    let sent = large.clone();
    let sending = tokio::spawn(async move { writer.put(&sent).await.map(|()| writer) });
    assert!(pair.server.frame().await == large);
    let mut writer = sending.await.unwrap().unwrap();
    writer.put(&Frame::close(1000, "")).await.unwrap();
    pair.server.expect_closed_with(1000).await;
    assert!(matches!(reader.event().await, Event::Frame(close) if close.code() == Some(1000)));
}
