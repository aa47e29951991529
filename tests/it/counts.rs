//! The metrics count every message and byte.

use std::collections::BTreeMap;

use super::harness::{
    BINARY, CONTINUATION, Frame, Handshake, PING, PONG, Pair, Proxy, RawServer, TEXT, eventually, yaml,
};

/// The expected counts of a script of frames.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    bytes: f64,
    messages: BTreeMap<&'static str, f64>,
    /// Sizes of messages.
    sizes: Vec<usize>,
}

impl Counts {
    fn of(frames: &[Frame], masked: bool) -> Counts {
        let mut counts = Counts::default();
        let (mut kind, mut size) = ("", 0);
        for frame in frames {
            let bytes = if masked { frame.masked() } else { frame.plain() };
            counts.bytes += bytes.len() as f64;
            match frame.opcode {
                PING => *counts.messages.entry("ping").or_default() += 1.0,
                PONG => *counts.messages.entry("pong").or_default() += 1.0,
                opcode => {
                    match opcode {
                        TEXT => (kind, size) = ("text", 0),
                        BINARY => (kind, size) = ("binary", 0),
                        _ => {}
                    }
                    size += frame.payload.len();
                    if frame.fin {
                        *counts.messages.entry(kind).or_default() += 1.0;
                        counts.sizes.push(size);
                    }
                }
            }
        }
        counts
    }

    /// Panics if a series differs.
    fn check(&self, proxy: &Proxy, direction: &str, closes: f64) {
        let route = [("route", "all"), ("direction", direction)];
        for opcode in ["text", "binary", "ping", "pong"] {
            let expected = self.messages.get(opcode).copied().unwrap_or(0.0);
            let found = proxy.metric("wsluice_messages_total", &with(direction, "opcode", opcode));
            assert_eq!(found, expected, "{direction} {opcode}");
        }
        assert_eq!(
            proxy.metric("wsluice_messages_total", &with(direction, "opcode", "close")),
            closes,
            "{direction} close"
        );
        for bound in (3..=12).map(|log4| 4usize.pow(log4)) {
            let expected = self.sizes.iter().filter(|size| **size <= bound).count() as f64;
            let found = proxy.metric("wsluice_message_size_bytes_bucket", &with(direction, "le", &bound.to_string()));
            assert_eq!(found, expected, "{direction} messages up to {bound}");
        }
        let sum: usize = self.sizes.iter().sum();
        assert_eq!(proxy.metric("wsluice_message_size_bytes_sum", &route), sum as f64, "{direction}");
        assert_eq!(proxy.metric("wsluice_message_size_bytes_count", &route), self.sizes.len() as f64, "{direction}");
        assert_eq!(proxy.metric("wsluice_bytes_total", &route), self.bytes, "{direction} bytes");
    }
}

fn with<'a>(direction: &'a str, name: &'a str, value: &'a str) -> [(&'a str, &'a str); 3] {
    [("route", "all"), ("direction", direction), (name, value)]
}

/// Generates frames of all kinds and of sizes around the bounds of the buckets, some messages in pieces.
fn script(seed: u64, count: usize) -> Vec<Frame> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut frames = vec![];
    let sizes = [0, 1, 63, 64, 65, 125, 126, 255, 256, 257, 1024, 1025, 4096, 4097, 65_535, 65_536];
    while frames.len() < count {
        let opcode = if rng.bool() { TEXT } else { BINARY };
        // Large ones are rare, to save time.
        let most = if rng.usize(..50) == 0 { sizes.len() } else { 12 };
        let size = sizes[rng.usize(..most)];
        match rng.usize(..6) {
            0 => frames.push(Frame::ping(vec![1; rng.usize(..=125)])),
            1 => frames.push(Frame::pong(vec![2; rng.usize(..=125)])),
            2 => {
                let pieces = rng.usize(1..5);
                frames.push(Frame::new(opcode, vec![3; size]).unfinished());
                for _ in 1..pieces {
                    frames.push(Frame::new(CONTINUATION, vec![4; rng.usize(..100)]).unfinished());
                    frames.push(Frame::ping("between"));
                }
                frames.push(Frame::new(CONTINUATION, vec![5; rng.usize(..100)]));
            }
            _ => frames.push(Frame::new(opcode, vec![6; size])),
        }
    }
    frames
}

#[tokio::test]
async fn a_script_of_thousands_of_frames_is_counted_exactly() {
    let pair = Pair::open(&["keepalive: { ping: off }", "limits: { control: off }"]).await;
    let (up, down) = (script(1, 3000), script(2, 3000));
    let up_bytes: Vec<u8> = up.iter().flat_map(Frame::masked).collect();
    let down_bytes: Vec<u8> = down.iter().flat_map(Frame::plain).collect();
    let (mut client, mut client_writer) = pair.client.split();
    let (mut server, mut server_writer) = pair.server.split();
    tokio::join!(
        async { client_writer.send(&up_bytes).await.unwrap() },
        async { server_writer.send(&down_bytes).await.unwrap() },
        async {
            for frame in &down {
                assert!(client.event().await == super::harness::Event::Frame(frame.clone()));
            }
        },
        async {
            for frame in &up {
                assert!(server.event().await == super::harness::Event::Frame(frame.clone()));
            }
        },
    );
    let (mut up_counts, mut down_counts) = (Counts::of(&up, true), Counts::of(&down, false));
    let sessions = [("listener", "plain"), ("route", "all"), ("upstream", "app")];
    assert_eq!(pair.proxy.metric("wsluice_sessions_active", &sessions), 1.0);

    // The end is counted, too.
    let close = Frame::close(1000, "done");
    client_writer.put(&close).await.unwrap();
    server.event().await;
    server_writer.put(&close).await.unwrap();
    client.event().await;
    drop((client, client_writer, server, server_writer));
    pair.proxy.idle().await;
    up_counts.bytes += close.masked().len() as f64;
    down_counts.bytes += close.plain().len() as f64;
    up_counts.check(&pair.proxy, "in", 1.0);
    down_counts.check(&pair.proxy, "out", 1.0);

    // The log agrees.
    let line = &pair.proxy.log_lines(1).await[0];
    for (way, counts) in [("in", &up_counts), ("out", &down_counts)] {
        assert_eq!(line[format!("bytes_{way}")].as_f64().unwrap(), counts.bytes);
        for (key, opcode) in [("text", "text"), ("binary", "binary"), ("pings", "ping"), ("pongs", "pong")] {
            let expected = counts.messages.get(opcode).copied().unwrap_or(0.0);
            assert_eq!(line[format!("{key}_{way}")].as_f64().unwrap(), expected, "{key}_{way}");
        }
    }
}

#[tokio::test]
async fn every_gauge_returns_to_zero_and_every_session_is_counted_once() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let url = server.url().to_owned();
    let mut open = vec![];
    for _ in 0..20 {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut upstream = server.accept().await;
        upstream.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101);
        open.push((client, upstream));
    }
    let gauges = |expected: f64| {
        let sessions = [("listener", "plain"), ("route", "all"), ("upstream", "app")];
        let endpoint = [("upstream", "app"), ("endpoint", &*url)];
        let found = [
            proxy.metric("wsluice_sessions_active", &sessions),
            proxy.metric("wsluice_endpoint_sessions_active", &endpoint),
            proxy.metric("wsluice_connections_active", &[("listener", "plain")]),
        ];
        (found == [expected; 3]).then_some(())
    };
    eventually("20 of everything", || gauges(20.0)).await;
    // Four kinds of end.
    let codes = ["closed", "client_lost", "upstream_lost", "protocol_error"];
    for (n, (mut client, mut upstream)) in open.into_iter().enumerate() {
        match codes[n % 4] {
            "closed" => {
                client.put(&Frame::close(1000, "")).await;
                upstream.expect_closed_with(1000).await;
            }
            "client_lost" => {
                client.reset();
                upstream.expect_closed_with(1001).await;
            }
            "upstream_lost" => {
                upstream.reset();
                client.expect_end().await;
            }
            _ => {
                client.send(Frame::text("unmasked").plain()).await;
                assert_eq!(client.expect_close().await.0, Some(1002));
                upstream.expect_closed_with(1001).await;
            }
        }
    }
    eventually("nothing left", || gauges(0.0)).await;
    proxy.idle().await;
    for (initiator, code, reason) in [
        ("client", "1000", "closed"),
        ("client", "none", "client_lost"),
        ("server", "none", "upstream_lost"),
        ("proxy", "1002", "protocol_error"),
    ] {
        let labels = [("route", "all"), ("initiator", initiator), ("code", code), ("reason", reason)];
        assert_eq!(proxy.metric("wsluice_session_closes_total", &labels), 5.0, "{reason}");
    }
    assert_eq!(proxy.metric("wsluice_sessions_total", &[("route", "all"), ("upstream", "app")]), 20.0);
    assert_eq!(proxy.metric("wsluice_session_duration_seconds_count", &[("route", "all")]), 20.0);
    assert_eq!(proxy.metric("wsluice_connections_total", &[("listener", "plain")]), 20.0);
    let handshakes = [("listener", "plain"), ("route", "all"), ("http", "1.1"), ("code", "101")];
    assert_eq!(proxy.metric("wsluice_handshakes_total", &handshakes), 20.0);
    assert_eq!(proxy.log_lines(20).await.len(), 20);
}
