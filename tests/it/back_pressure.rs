//! Back-pressure from end to end: a peer that does not read stops the writer, and nothing is lost or mixed up.

use std::time::Duration;

use super::harness::{BINARY, Conn, Event, Frame, PING, Pair, TEXT, within};

/// The most that the kernel holds in four socket buffers (6 MB to receive and 4 MB to send each), and the proxy in its
/// own.
const HELD_MAX: usize = 24 << 20;
const FLOOD: usize = 48 << 20;

/// Floods from one end while the other does not read, then reads everything.
async fn flood(from: Conn, mut to: Conn, bytes: Vec<u8>) {
    let count = FLOOD / bytes.len();
    let (_keep, mut writer) = from.split();
    let mut accepted = 0;
    let mut sent = 0;
    // Ends when no byte was accepted for a long while. This is no promise about time: if a busy machine ends it early,
    // less was accepted, and the bound below holds all the more.
    use tokio::io::AsyncWriteExt;
    'flood: while sent < count {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match tokio::time::timeout(Duration::from_millis(500), writer.io.write(rest)).await {
                Ok(written) => {
                    let written = written.unwrap();
                    accepted += written;
                    rest = &rest[written..];
                }
                Err(_) => break 'flood,
            }
        }
        sent += 1;
    }
    assert!(accepted < HELD_MAX, "{accepted} bytes were taken though nobody reads");
    assert!(accepted > 0);
    let whole = bytes.repeat(count);
    let writing = tokio::spawn(async move {
        writer.io.write_all(&whole[accepted..]).await.unwrap();
        writer
    });
    within("the flood", async {
        for _ in 0..count {
            let found = to.read_exact(bytes.len()).await;
            // `assert_eq` would print all of it.
            assert!(found == bytes, "not the frame that was sent");
        }
    })
    .await;
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_server() {
    let pair = Pair::open(&["keepalive: { ping: off }"]).await;
    flood(pair.server, pair.client, Frame::binary(vec![0x5A; 60_000]).plain()).await;
}

#[tokio::test]
async fn a_server_that_does_not_read_stops_the_client() {
    let pair = Pair::open(&["keepalive: { ping: off }"]).await;
    flood(pair.client, pair.server, Frame::binary(vec![0xA5; 60_000]).masked()).await;
}

#[tokio::test]
async fn the_other_direction_goes_on_while_one_is_stuck() {
    let mut pair = Pair::open(&["keepalive: { ping: off }"]).await;
    // The server stops reading; the client fills everything up to it.
    let (mut reader, mut writer) = pair.client.split();
    let bytes = Frame::binary(vec![1; 60_000]).masked();
    let stuck = tokio::spawn(async move { while writer.send(&bytes).await.is_ok() {} });
    for n in 0..100 {
        let text = format!("tick {n}");
        pair.server.put(&Frame::text(&text)).await;
        assert_eq!(reader.event().await, Event::Frame(Frame::text(&text)));
    }
    stuck.abort();
}

/// Fills everything between the peers, from one that keeps sending and answers nothing to one that does not read.
#[tokio::test]
async fn a_peer_whose_pongs_wait_behind_back_pressure_is_not_dead() {
    for client_floods in [true, false] {
        let pair = Pair::open(&["keepalive: { ping: 400ms, pong: 390ms }"]).await;
        let (flooder, mut taker) = if client_floods { (pair.client, pair.server) } else { (pair.server, pair.client) };
        let (mut reader, mut writer) = flooder.split();
        let frame = Frame::binary(vec![1; 60_000]);
        let bytes = if client_floods { frame.masked() } else { frame.plain() };
        // It would answer Pings if its bytes arrived: each waits behind the flood.
        let stuck = tokio::spawn(async move { while writer.send(&bytes).await.is_ok() {} });
        // Some six times as long as until a peer counts as dead.
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        for n in 0..45 {
            ticks.tick().await;
            let text = Frame::text(&format!("tick {n}"));
            taker.put(&text).await;
            within("a tick", async {
                loop {
                    match reader.event().await {
                        Event::Frame(ping) if ping.opcode == PING => {}
                        event => return assert_eq!(event, Event::Frame(text)),
                    }
                }
            })
            .await;
        }
        let peer = if client_floods { "client" } else { "server" };
        assert!(pair.proxy.metric("wsluice_keepalive_pings_total", &[("route", "all"), ("peer", peer)]) <= 2.0);
        stuck.abort();
    }
}

#[tokio::test]
async fn messages_of_16_mib_arrive_whole_in_both_directions_at_once() {
    let pair = Pair::open(&[]).await;
    let payload: Vec<u8> = (0..16u32 << 20).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
    let frame = Frame::binary(payload);
    let (up, down) = (frame.masked(), frame.plain());
    let (mut client, mut client_writer) = pair.client.split();
    let (mut server, mut server_writer) = pair.server.split();
    let ((), (), a, b) = tokio::join!(
        async { client_writer.send(&up).await.unwrap() },
        async { server_writer.send(&down).await.unwrap() },
        client.event(),
        server.event(),
    );
    assert!(a == Event::Frame(frame.clone()), "server to client");
    assert!(b == Event::Frame(frame), "client to server");
    pair.proxy.metric_becomes("wsluice_message_size_bytes_count", &[("route", "all"), ("direction", "in")], 1.0).await;
    pair.proxy.metric_becomes("wsluice_message_size_bytes_count", &[("route", "all"), ("direction", "out")], 1.0).await;
}

#[tokio::test]
async fn many_small_frames_arrive_in_order_in_both_directions_at_once() {
    const COUNT: u32 = 20_000;
    let pair = Pair::open(&["limits: { control: off }"]).await;
    let frame = |n: u32| match n % 3 {
        0 => Frame::new(BINARY, n.to_be_bytes()),
        1 => Frame::new(TEXT, vec![]),
        _ => Frame::new(PING, n.to_be_bytes()),
    };
    let up: Vec<u8> = (0..COUNT).flat_map(|n| frame(n).masked()).collect();
    let down: Vec<u8> = (0..COUNT).flat_map(|n| frame(n).plain()).collect();
    let (mut client, mut client_writer) = pair.client.split();
    let (mut server, mut server_writer) = pair.server.split();
    tokio::join!(
        async { client_writer.send(&up).await.unwrap() },
        async { server_writer.send(&down).await.unwrap() },
        async {
            for n in 0..COUNT {
                assert_eq!(client.event().await, Event::Frame(frame(n)));
            }
        },
        async {
            for n in 0..COUNT {
                assert_eq!(server.event().await, Event::Frame(frame(n)));
            }
        },
    );
    let count = |direction| {
        let of = |opcode| {
            let labels = [("route", "all"), ("direction", direction), ("opcode", opcode)];
            pair.proxy.metric("wsluice_messages_total", &labels)
        };
        of("binary") + of("text") + of("ping")
    };
    super::harness::eventually("all counted", || {
        (count("in") == f64::from(COUNT) && count("out") == f64::from(COUNT)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn peers_that_write_byte_by_byte_are_understood() {
    let mut pair = Pair::open(&[]).await;
    let frames = [Frame::text("slow"), Frame::ping("p"), Frame::binary(vec![6; 200]), Frame::close(4004, "end")];
    for frame in &frames {
        for byte in frame.masked() {
            pair.client.send([byte]).await;
        }
        pair.server.expect(frame).await;
        for byte in frame.plain() {
            pair.server.send([byte]).await;
        }
        pair.client.expect(frame).await;
    }
    pair.client.expect_end().await;
}

#[tokio::test]
async fn a_close_reaches_a_client_that_was_stuck_once_it_reads() {
    let mut pair = Pair::open(&["keepalive: { ping: off }", "timeouts: { lifetime: 300ms }"]).await;
    let bytes = Frame::binary(vec![1; 60_000]).plain();
    let (mut reader, mut writer) = pair.server.split();
    let writing = tokio::spawn(async move { while writer.send(&bytes).await.is_ok() {} });
    // The server sees the end while the client is stuck.
    assert!(matches!(reader.event().await, Event::Frame(close) if close.code() == Some(1001)));
    let close = within("the Close behind all frames", async {
        loop {
            let frame = pair.client.frame().await;
            if frame.opcode != BINARY {
                return frame;
            }
            assert_eq!(frame.payload.len(), 60_000);
        }
    })
    .await;
    assert_eq!(close.code(), Some(1012));
    writing.abort();
}
