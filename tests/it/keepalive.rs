//! Keepalive: the proxy's own Pings, which the other side never sees, and the end of a dead peer.

use super::harness::{Conn, Event, Frame, PING, Pair, eventually, within};

/// As short as peers on a busy machine can reliably answer in.
const FAST: &str = "keepalive: { ping: 400ms, pong: 390ms }";

/// Answers Pings until something else comes.
async fn answer_until(conn: &mut Conn, what: &str) -> Frame {
    within(what, async {
        loop {
            let frame = conn.frame().await;
            if frame.opcode != PING {
                return frame;
            }
            conn.put(&Frame::pong(frame.payload)).await;
        }
    })
    .await
}

/// Reads Pings and answers them, `count` times.
async fn answer(conn: &mut Conn, count: usize) -> Vec<Frame> {
    let mut pings = vec![];
    for _ in 0..count {
        let ping = conn.frame().await;
        assert_eq!(ping.opcode, PING, "{ping:?}");
        conn.put(&Frame::pong(ping.payload.clone())).await;
        pings.push(ping);
    }
    pings
}

#[tokio::test]
async fn both_peers_are_pinged_and_neither_hears_of_the_other() {
    let mut pair = Pair::open(&[FAST]).await;
    // `answer` fails on anything but a Ping: a Pong of the other side would be one.
    let (client, server) = tokio::join!(answer(&mut pair.client, 3), answer(&mut pair.server, 3));
    for (i, ping) in client.iter().chain(&server).enumerate() {
        let again = client.iter().chain(&server).skip(i + 1).find(|other| other.payload == ping.payload);
        assert_eq!(again, None, "each Ping can be told from all others");
    }
    for peer in ["client", "server"] {
        let labels = [("route", "all"), ("peer", peer)];
        assert!(pair.proxy.metric("wsluice_keepalive_pings_total", &labels) >= 3.0);
        eventually("round trips", || {
            (pair.proxy.metric("wsluice_ping_rtt_seconds_count", &labels) >= 3.0).then_some(())
        })
        .await;
    }
    // None of it counts as traffic of a peer's own.
    for (direction, opcode) in [("in", "ping"), ("in", "pong"), ("out", "ping"), ("out", "pong")] {
        let labels = [("route", "all"), ("direction", direction), ("opcode", opcode)];
        assert_eq!(pair.proxy.metric("wsluice_messages_total", &labels), 0.0, "{direction} {opcode}");
    }
}

#[tokio::test]
async fn a_peers_own_pings_and_pongs_pass() {
    let mut pair = Pair::open(&["keepalive: { ping: off }"]).await;
    for payload in ["", "p", "twelve bytes"] {
        pair.client.put(&Frame::ping(payload)).await;
        pair.server.expect(&Frame::ping(payload)).await;
        pair.server.put(&Frame::pong(payload)).await;
        pair.client.expect(&Frame::pong(payload)).await;
        pair.server.put(&Frame::ping(payload)).await;
        pair.client.expect(&Frame::ping(payload)).await;
        pair.client.put(&Frame::pong(payload)).await;
        pair.server.expect(&Frame::pong(payload)).await;
    }
    // One that nobody asked for is legal (RFC 6455 §5.5.3).
    pair.client.put(&Frame::pong("unasked")).await;
    pair.server.expect(&Frame::pong("unasked")).await;
}

#[tokio::test]
async fn a_ping_with_the_payload_of_one_of_ours_is_answered_by_the_other_peer() {
    let mut pair = Pair::open(&[FAST]).await;
    // Both have been pinged, so that both payloads have been used.
    let (ours, _) = tokio::join!(answer(&mut pair.client, 1), answer(&mut pair.server, 1));
    let copy = Frame::ping(ours[0].payload.clone());
    pair.client.put(&copy).await;
    within("the copy at the server", async {
        loop {
            let frame = pair.server.frame().await;
            pair.server.put(&Frame::pong(frame.payload.clone())).await;
            if frame == copy {
                return;
            }
            assert_eq!(frame.opcode, PING);
        }
    })
    .await;
    let pong = answer_until(&mut pair.client, "the answer to the copy").await;
    assert_eq!(pong, Frame::pong(copy.payload));
}

#[tokio::test]
async fn a_dead_client_is_1001_to_the_server_and_both_sockets_are_freed() {
    let mut pair = Pair::open(&[FAST]).await;
    // The client reads nothing and says nothing; the server answers as it should.
    let close = answer_until(&mut pair.server, "the end of a dead client").await;
    assert_eq!(close.code(), Some(1001));
    pair.server.put(&Frame::close(1001, "")).await;
    pair.server.finish().await;
    pair.server.expect_end().await;
    // The client is still there and still silent: its socket is closed all the same.
    pair.proxy.idle().await;
    pair.proxy.metric_becomes("wsluice_connections_active", &[("listener", "plain")], 0.0).await;
    let closes = [("route", "all"), ("initiator", "proxy"), ("code", "none"), ("reason", "client_dead")];
    assert_eq!(pair.proxy.metric("wsluice_session_closes_total", &closes), 1.0);
    assert_eq!(pair.client.frame().await.opcode, PING);
    assert!(matches!(pair.client.event().await, Event::End | Event::Reset));
}

#[tokio::test]
async fn a_dead_server_is_1001_to_the_client_and_both_sockets_are_freed() {
    let mut pair = Pair::open(&[FAST]).await;
    let close = answer_until(&mut pair.client, "the end of a dead server").await;
    assert_eq!(close.close_body(), (Some(1001), "upstream dead".into()));
    pair.client.put(&Frame::close(1001, "")).await;
    pair.client.expect_end().await;
    drop(pair.client);
    pair.proxy.idle().await;
    assert_eq!(pair.server.frame().await.opcode, PING);
    assert!(matches!(pair.server.event().await, Event::End | Event::Reset));
    let closes = [("route", "all"), ("initiator", "proxy"), ("code", "1001"), ("reason", "upstream_dead")];
    assert_eq!(pair.proxy.metric("wsluice_session_closes_total", &closes), 1.0);
}

#[tokio::test]
async fn whoever_sends_data_is_alive_without_a_pong() {
    let mut pair = Pair::open(&[FAST]).await;
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
    for _ in 0..15 {
        ticks.tick().await;
        pair.client.put(&Frame::text("up")).await;
        pair.server.put(&Frame::text("down")).await;
    }
    let mut texts = (0, 0);
    while texts != (15, 15) {
        for (conn, count, text) in [(&mut pair.client, &mut texts.0, "down"), (&mut pair.server, &mut texts.1, "up")] {
            if *count < 15 {
                let frame = conn.frame().await;
                match frame.opcode {
                    PING => {}
                    _ => {
                        assert_eq!(frame, Frame::text(text));
                        *count += 1;
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn no_ping_stands_inside_a_frame() {
    let mut pair = Pair::open(&[FAST]).await;
    let bytes = Frame::binary(vec![3; 1500]).plain();
    // Three times the time after which a Ping to the silent client is due.
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
    for piece in bytes.chunks(126) {
        ticks.tick().await;
        pair.server.send(piece).await;
    }
    assert!(pair.client.read_exact(bytes.len()).await == bytes);
    assert_eq!(pair.client.frame().await.opcode, PING);
}
