//! Frames that RFC 6455 forbids: 1002 for their sender and for the client, 1001 for a server that did not send them;
//! none is passed on.

use super::harness::{CLOSE, CONTINUATION, Frame, PING, PONG, Pair, TEXT};

fn bytes(frame: Frame, masked: bool) -> Vec<u8> {
    if masked { frame.masked() } else { frame.plain() }
}

/// Frames that are illegal from either side, and their names in the log; with `validate: strict` also unambiguous ones.
fn table(masked: bool, strict: bool) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let of = |frame: Frame| bytes(frame, masked);
    let bit = if masked { 0x80 } else { 0 };
    let key: &[u8] = if masked { &[1, 2, 3, 4] } else { &[] };
    let raw = |head: &[u8]| [head, key].concat();
    let wrong = if masked { "unmasked_frame" } else { "masked_frame" };
    let mut table = vec![
        ("masked as the other side", bytes(Frame::text("x"), !masked), wrong),
        ("RSV1", of(Frame::text("x").with_rsv(4)), "reserved_bits"),
        ("RSV2", of(Frame::text("x").with_rsv(2)), "reserved_bits"),
        ("RSV3", of(Frame::text("x").with_rsv(1)), "reserved_bits"),
        ("RSV1 on a Ping", of(Frame::ping("x").with_rsv(4)), "reserved_bits"),
        ("a long Ping", of(Frame::new(PING, vec![0; 126])), "bad_control"),
        ("a long Pong", of(Frame::new(PONG, vec![0; 126])), "bad_control"),
        ("a long Close", of(Frame::close(1000, &"r".repeat(124))), "bad_control"),
        ("a Ping in pieces", of(Frame::ping("x").unfinished()), "bad_control"),
        ("a Close in pieces", of(Frame::close(1000, "").unfinished()), "bad_control"),
        ("a continuation of nothing", of(Frame::new(CONTINUATION, "x")), "bad_fragment"),
        (
            "a message inside a message",
            [of(Frame::text("a").unfinished()), of(Frame::text("b"))].concat(),
            "bad_fragment",
        ),
        ("a length over 2^63", raw(&[0x82, bit | 127, 0x80, 0, 0, 0, 0, 0, 0, 0]), "bad_length"),
        ("a Close of one byte", of(Frame::new(CLOSE, [3])), "bad_close"),
    ];
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        table.push(("a reserved opcode", of(Frame::new(opcode, "x")), "reserved_opcode"));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        table.push(("a code that must not be sent", of(Frame::close(code, "")), "bad_close"));
    }
    if strict {
        table.extend([
            ("a length of 125 in two bytes", raw(&[0x82, bit | 126, 0, 125]), "bad_length"),
            ("a length of 65535 in eight bytes", raw(&[0x82, bit | 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]), "bad_length"),
            ("a Ping masked as the other side", bytes(Frame::ping("x"), !masked), wrong),
            ("a Pong masked as the other side", bytes(Frame::pong("twelve bytes"), !masked), wrong),
            ("a Close masked as the other side", bytes(Frame::close(1000, ""), !masked), wrong),
        ]);
    }
    table
}

#[tokio::test]
async fn an_illegal_frame_of_a_client_is_1002_and_does_not_reach_the_server() {
    client_frames_are_refused("strict").await;
    client_frames_are_refused("lenient").await;
}

async fn client_frames_are_refused(validate: &str) {
    let mut pair = Pair::open(&[&format!("validate: {validate}")]).await;
    for (n, (what, bytes, label)) in table(true, validate == "strict").iter().enumerate() {
        let (mut client, mut server) = pair.another().await;
        client.send([&Frame::text("before").masked()[..], bytes].concat()).await;
        server.expect(&Frame::text("before")).await;
        if *what == "a message inside a message" {
            server.expect(&Frame::text("a").unfinished()).await;
        }
        assert_eq!(server.expect_close().await.0, Some(1001), "{what}");
        assert_eq!(client.expect_close().await, (Some(1002), "protocol error".into()), "{what}");
        server.put(&Frame::close(1001, "")).await;
        server.finish().await;
        server.expect_end().await;
        // Nothing that it still sends counts.
        client.expect_end().await;
        client.finish().await;
        let log = pair.proxy.log_lines(n + 1).await;
        assert_eq!(log[n]["detail"], format!("client sent {label} (see `validate`)"), "{what}");
        assert_eq!(log[n]["reason"], "protocol_error", "{what}");
    }
}

#[tokio::test]
async fn an_illegal_frame_of_a_server_is_1002_and_does_not_reach_the_client() {
    server_frames_are_refused("strict").await;
    server_frames_are_refused("lenient").await;
}

async fn server_frames_are_refused(validate: &str) {
    let mut pair = Pair::open(&[&format!("validate: {validate}")]).await;
    for (n, (what, bytes, label)) in table(false, validate == "strict").iter().enumerate() {
        let (mut client, mut server) = pair.another().await;
        server.send([&Frame::text("before").plain()[..], bytes].concat()).await;
        client.expect(&Frame::text("before")).await;
        if *what == "a message inside a message" {
            client.expect(&Frame::text("a").unfinished()).await;
        }
        assert_eq!(client.expect_close().await, (Some(1002), "protocol error".into()), "{what}");
        assert_eq!(server.expect_close().await.0, Some(1002), "{what}");
        client.put(&Frame::close(1002, "")).await;
        client.expect_end().await;
        drop(client);
        server.finish().await;
        server.expect_end().await;
        let log = pair.proxy.log_lines(n + 1).await;
        assert_eq!(log[n]["detail"], format!("server sent {label} (see `validate`)"), "{what}");
        assert_eq!(log[n]["reason"], "protocol_error", "{what}");
    }
}

#[tokio::test]
async fn a_close_reason_that_is_no_utf8_is_1007() {
    let mut pair = Pair::open(&[]).await;
    pair.client.put(&Frame::new(CLOSE, *b"\x03\xe8\xff\xfe")).await;
    assert_eq!(pair.client.expect_close().await.0, Some(1007));
    pair.server.expect_closed_with(1001).await;

    let (mut client, mut server) = pair.another().await;
    server.put(&Frame::new(CLOSE, *b"\x03\xe8\xff\xfe")).await;
    assert_eq!(client.expect_close().await.0, Some(1007));
    assert_eq!(server.expect_close().await.0, Some(1007));
}

#[tokio::test]
async fn everything_legal_passes_in_both_directions() {
    let mut pair = Pair::open(&[]).await;
    let legal = [
        Frame::text(""),
        Frame::text("é"),
        Frame::binary(vec![]),
        Frame::binary(vec![0; 125]),
        Frame::binary(vec![1; 126]),
        Frame::binary(vec![2; 65535]),
        Frame::binary(vec![3; 65536]),
        Frame::new(TEXT, "in ").unfinished(),
        Frame::ping(vec![4; 125]),
        Frame::new(CONTINUATION, "").unfinished(),
        Frame::pong("unasked"),
        Frame::new(CONTINUATION, "pieces"),
        Frame::ping(""),
        // The fragments of a text lie between its two ends.
        Frame::new(TEXT, vec![0xFF, 0xFE]),
    ];
    for frame in &legal {
        pair.client.put(frame).await;
        pair.server.put(frame).await;
    }
    for frame in &legal {
        pair.server.expect(frame).await;
        pair.client.expect(frame).await;
    }
}

#[tokio::test]
async fn with_validation_off_a_session_is_a_blind_pipe() {
    let mut pair = Pair::open(&["validate: off"]).await;
    let garbage: Vec<u8> = (0..100_000u32).map(|i| (i * 7) as u8).collect();
    pair.client.send(&garbage).await;
    assert!(pair.server.read_exact(garbage.len()).await == garbage);
    pair.server.send(&garbage).await;
    assert!(pair.client.read_exact(garbage.len()).await == garbage);
    // One half ends, the other stays open.
    pair.client.finish().await;
    assert_eq!(pair.server.read_to_end().await, b"");
    pair.server.send("still here").await;
    assert_eq!(pair.client.read_exact(10).await, b"still here");
    pair.server.finish().await;
    assert_eq!(pair.client.read_to_end().await, b"");
    let log = pair.proxy.log_lines(1).await;
    assert_eq!((&log[0]["reason"], &log[0]["bytes_in"]), (&"finished".into(), &100_000.into()));
}

#[tokio::test]
async fn a_half_closed_blind_pipe_is_ended_while_bytes_flow() {
    for (route, reason) in [("timeouts: { lifetime: 500ms }", "lifetime"), ("timeouts: { idle: 300ms }", "idle")] {
        let mut pair = Pair::open(&["validate: off", route]).await;
        pair.client.finish().await;
        assert_eq!(pair.server.read_to_end().await, b"");
        let (_reader, mut writer) = pair.server.split();
        if reason == "lifetime" {
            // Until the proxy closes it.
            let writing = tokio::spawn(async move {
                while writer.send(b"bytes").await.is_ok() {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            });
            super::harness::within("the end of a writer", writing).await.unwrap();
        }
        drop(pair.client);
        let log = pair.proxy.log_lines(1).await;
        assert_eq!(log[0]["reason"], reason);
    }
}

#[tokio::test]
async fn what_only_breaks_a_rule_passes_and_is_counted() {
    let mut pair = Pair::open(&[]).await;
    let tolerated = |peer, rule| [("route", "all"), ("peer", peer), ("rule", rule)];
    // As old clients of MQTT write a length, and present ones answer a Ping.
    let text = Frame::text(&"x".repeat(300));
    let short = text.masked();
    let long = [&[short[0], 0x80 | 127, 0, 0, 0, 0, 0, 0, 1, 44][..], &short[4..]].concat();
    pair.client.send(&long).await;
    assert_eq!(pair.server.read_exact(long.len()).await, long);
    for frame in [Frame::pong("unmasked"), Frame::ping("unmasked")] {
        pair.client.send(frame.plain()).await;
        // The server's end reads masked frames only.
        pair.server.expect(&frame).await;
        pair.server.send(frame.masked()).await;
        pair.client.expect(&frame).await;
    }
    pair.client.send(Frame::close(1000, "bye").plain()).await;
    pair.server.expect_closed_with(1000).await;
    for (peer, rule, count) in
        [("client", "bad_length", 1.0), ("client", "unmasked_frame", 3.0), ("server", "masked_frame", 2.0)]
    {
        pair.proxy.metric_becomes("wsluice_frames_tolerated_total", &tolerated(peer, rule), count).await;
    }
    assert_eq!(pair.proxy.log_lines(1).await[0]["reason"], "closed");
}

#[tokio::test]
async fn a_blind_pipe_ends_in_the_other_order_too() {
    let mut pair = Pair::open(&["validate: off"]).await;
    pair.server.send("last").await;
    pair.server.finish().await;
    assert_eq!(pair.client.read_to_end().await, b"last");
    pair.client.send("more").await;
    assert_eq!(pair.server.read_exact(4).await, b"more");
    pair.client.finish().await;
    assert_eq!(pair.server.read_to_end().await, b"");
    pair.proxy.idle().await;
}
