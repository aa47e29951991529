//! The table of close codes (`proxy::outcome`), row by row, as both peers see it.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use super::harness::{BINARY, Conn, Event, Frame, Handshake, Pair, Proxy, RawServer, Writer, yaml};

/// How a session ended, in the metrics.
async fn counted(proxy: &Proxy, initiator: &str, code: &str, reason: &str) {
    let labels = [("route", "all"), ("initiator", initiator), ("code", code), ("reason", reason)];
    proxy.metric_becomes("wsluice_session_closes_total", &labels, 1.0).await;
    proxy
        .metric_becomes("wsluice_sessions_active", &[("listener", "plain"), ("route", "all"), ("upstream", "app")], 0.0)
        .await;
}

#[tokio::test]
async fn a_clients_close_reaches_the_server_untouched_and_so_does_the_answer() {
    let long = "r".repeat(123);
    for (close, code) in [
        (Frame::close(1000, "bye"), "1000"),
        (Frame::close(1001, ""), "1001"),
        (Frame::close(3000, "é"), "3xxx"),
        (Frame::close(4999, &long), "4xxx"),
        (Frame::new(super::harness::CLOSE, []), "none"),
    ] {
        let mut pair = Pair::open(&[]).await;
        pair.client.put(&close).await;
        pair.server.expect(&close).await;
        let answer = Frame::close(1000, "answer");
        pair.server.put(&answer).await;
        pair.client.expect(&answer).await;
        // RFC 6455 §7.1.1: the server ends the connection first, on both legs.
        pair.client.expect_end().await;
        pair.server.finish().await;
        pair.server.expect_end().await;
        drop(pair.client);
        counted(&pair.proxy, "client", code, "closed").await;
    }
}

#[tokio::test]
async fn a_servers_close_reaches_the_client_untouched_and_so_does_the_answer() {
    let mut pair = Pair::open(&[]).await;
    let close = Frame::close(4001, "kicked");
    pair.server.put(&close).await;
    pair.client.expect(&close).await;
    // Messages of the client on their way still arrive.
    pair.client.put(&Frame::text("last words")).await;
    pair.server.expect(&Frame::text("last words")).await;
    pair.client.put(&close).await;
    pair.server.expect(&close).await;
    pair.client.expect_end().await;
    pair.server.finish().await;
    pair.server.expect_end().await;
    drop(pair.client);
    counted(&pair.proxy, "server", "4xxx", "closed").await;
    let log = pair.proxy.log_lines(1).await;
    assert_eq!((&log[0]["close_initiator"], &log[0]["close_code"]), (&"server".into(), &4001.into()));
    assert_eq!(log[0]["close_reason"], "kicked");
}

#[tokio::test]
async fn two_closes_that_cross_are_the_answer_to_each_other() {
    let mut pair = Pair::open(&[]).await;
    pair.client.put(&Frame::close(1000, "client")).await;
    pair.server.put(&Frame::close(1001, "server")).await;
    pair.server.expect(&Frame::close(1000, "client")).await;
    pair.client.expect(&Frame::close(1001, "server")).await;
    pair.client.expect_end().await;
    pair.server.finish().await;
    pair.server.expect_end().await;
    drop(pair.client);
    pair.proxy.idle().await;
}

#[tokio::test]
async fn a_server_lost_without_close_is_what_the_route_says_after_all_it_sent() {
    for (reset, on_lost, code) in [
        (false, "on_upstream_lost: cut", None),
        (true, "on_upstream_lost: cut", None),
        (false, "http: proxy", None),
        (false, "on_upstream_lost: { close: 1012 }", Some(1012)),
        (true, "on_upstream_lost: { close: 1014 }", Some(1014)),
        (true, "on_upstream_lost: { close: 4321 }", Some(4321)),
    ] {
        let mut pair = Pair::open(&[on_lost]).await;
        pair.server.put(&Frame::text("last")).await;
        if reset {
            pair.client.expect(&Frame::text("last")).await;
            pair.server.reset();
        } else {
            drop(pair.server);
            pair.client.expect(&Frame::text("last")).await;
        }
        match code {
            Some(code) => assert_eq!(pair.client.expect_closed_with(code).await, "upstream lost"),
            // A FIN and no reset, which would discard earlier bytes.
            None => pair.client.expect_end().await,
        }
        drop(pair.client);
        counted(&pair.proxy, "server", "none", "upstream_lost").await;
    }
}

#[tokio::test]
async fn a_client_lost_without_close_is_1001_to_the_server_after_all_it_sent() {
    for reset in [false, true] {
        let mut pair = Pair::open(&[]).await;
        pair.client.put(&Frame::text("last")).await;
        if reset {
            pair.server.expect(&Frame::text("last")).await;
            pair.client.reset();
        } else {
            drop(pair.client);
            pair.server.expect(&Frame::text("last")).await;
        }
        pair.server.expect_closed_with(1001).await;
        counted(&pair.proxy, "client", "none", "client_lost").await;
    }
}

#[tokio::test]
async fn idle_is_1001_to_both() {
    let mut pair = Pair::open(&["timeouts: { idle: 100ms }"]).await;
    assert_eq!(pair.client.expect_closed_with(1001).await, "idle timeout");
    pair.server.expect_closed_with(1001).await;
    drop(pair.client);
    counted(&pair.proxy, "proxy", "1001", "idle").await;
}

#[tokio::test]
async fn lifetime_is_1012_to_the_client_and_1001_to_the_server() {
    let mut pair = Pair::open(&["timeouts: { lifetime: 100ms }"]).await;
    assert_eq!(pair.client.expect_closed_with(1012).await, "lifetime reached");
    pair.server.expect_closed_with(1001).await;
    drop(pair.client);
    counted(&pair.proxy, "proxy", "1012", "lifetime").await;
}

#[tokio::test]
async fn drain_is_1012_to_the_client_and_1001_to_the_server() {
    let upstream = RawServer::start().await;
    let proxy = Proxy::start(&format!("{}drain: {{ time: 200ms }}\n", yaml(&[upstream.url()], &[])));
    let Pair { mut client, mut server, mut proxy, .. } = Pair::through(proxy, upstream, &Handshake::new(), &[]).await;
    let peers = tokio::spawn(async move {
        let reason = client.expect_closed_with(1012).await;
        server.expect_closed_with(1001).await;
        reason
    });
    assert_eq!(proxy.drain().await.left, 0);
    assert_eq!(peers.await.unwrap(), "service restart");
    counted(&proxy, "proxy", "1012", "drain").await;
}

#[tokio::test]
async fn a_close_of_the_proxy_waits_for_the_end_of_the_frame_that_is_on_its_way() {
    let mut pair = Pair::open(&["timeouts: { lifetime: 100ms }"]).await;
    let large = Frame::binary(vec![5; 1000]);
    let bytes = large.plain();
    pair.server.send(&bytes[..500]).await;
    // The server gets its Close at once; the frame towards the client is finished first.
    assert_eq!(pair.server.expect_close().await.0, Some(1001));
    assert_eq!(pair.client.read_exact(500).await, bytes[..500]);
    pair.server.send(&bytes[500..]).await;
    assert_eq!(pair.client.read_exact(bytes.len() - 500).await, bytes[500..]);
    assert_eq!(pair.client.expect_close().await.0, Some(1012));
    // Nothing follows a Close, and later bytes are read and dropped until the answer.
    pair.server.put(&Frame::text("too late")).await;
    pair.client.put(&Frame::text("too late")).await;
    pair.client.put(&Frame::close(1012, "")).await;
    pair.client.expect_end().await;
    pair.server.put(&Frame::close(1001, "")).await;
    pair.server.finish().await;
    pair.server.expect_end().await;
    drop(pair.client);
    pair.proxy.idle().await;
}

#[tokio::test]
async fn a_close_may_stand_between_the_fragments_of_a_message() {
    let mut pair = Pair::open(&["timeouts: { lifetime: 100ms }"]).await;
    pair.server.put(&Frame::text("a").unfinished()).await;
    pair.client.expect(&Frame::text("a").unfinished()).await;
    pair.client.expect_closed_with(1012).await;
    pair.server.expect_closed_with(1001).await;
}

#[tokio::test]
async fn a_peer_that_never_answers_is_let_go_after_a_while() {
    let mut pair = Pair::open(&["timeouts: { lifetime: 50ms }"]).await;
    assert_eq!(pair.client.expect_close().await.0, Some(1012));
    assert_eq!(pair.server.expect_close().await.0, Some(1001));
    let started = Instant::now();
    assert_eq!(pair.client.read_to_end().await, b"");
    assert_eq!(pair.server.read_to_end().await, b"");
    assert!(started.elapsed().as_millis() >= 1500, "the echo was not waited for: {:?}", started.elapsed());
    pair.proxy.idle().await;
}

#[tokio::test]
async fn the_clients_stream_ends_right_behind_the_close_for_a_broken_rule() {
    let mut pair = Pair::open(&[]).await;
    pair.client.send([0xff; 20]).await;
    assert_eq!(pair.client.expect_close().await, (Some(1002), "protocol error".into()));
    // Neither it nor the server has answered.
    pair.client.expect_end().await;
    // Bytes on their way are read: neither side resets the connection.
    pair.client.send(vec![0xff; 100_000]).await;
    pair.client.put(&Frame::close(1002, "")).await;
    pair.client.finish().await;
    pair.server.expect_closed_with(1001).await;
    drop(pair.client);
    counted(&pair.proxy, "proxy", "1002", "protocol_error").await;
}

#[tokio::test]
async fn a_server_that_never_answers_a_close_is_answered_for() {
    let mut pair = Pair::open(&[]).await;
    pair.client.put(&Frame::close(4002, "going")).await;
    pair.server.expect(&Frame::close(4002, "going")).await;
    let asked = Instant::now();
    // Browsers would report 1006 after 10 s.
    assert_eq!(pair.client.expect_close().await, (Some(4002), String::new()));
    pair.client.expect_end().await;
    assert!(asked.elapsed().as_millis() >= 4500, "it had no time to answer: {:?}", asked.elapsed());
    drop(pair.client);
    counted(&pair.proxy, "client", "4xxx", "closed").await;
}

#[tokio::test]
async fn bytes_that_wait_for_a_server_that_is_gone_keep_no_close_from_being_read() {
    let mut pair = Pair::open(&["on_upstream_lost: { close: 1012 }"]).await;
    // The server reads nothing; the client fills everything on the way to it.
    let (mut reader, mut writer) = pair.client.split();
    let bytes = Frame::binary(vec![1; 60_000]).masked();
    let mut rest = &bytes[..];
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), writer.io.write(rest)).await {
        rest = &rest[written.unwrap()..];
        if rest.is_empty() {
            rest = &bytes;
        }
    }
    // It ends its stream and accepts nothing: no reset shows that it is gone.
    pair.server.finish().await;
    assert!(matches!(reader.event().await, Event::Frame(close) if close.code() == Some(1012)));
    writer.send(rest).await.unwrap();
    writer.put(&Frame::close(1012, "")).await.unwrap();
    // Its answer was read: an orderly end, without an early reset by the proxy.
    assert_eq!(reader.event().await, Event::End);
    drop((reader, writer));
    counted(&pair.proxy, "server", "none", "upstream_lost").await;
}

#[tokio::test]
async fn a_server_that_goes_while_it_owes_an_answer_is_answered_for() {
    let mut pair = Pair::open(&[]).await;
    pair.client.put(&Frame::close(4002, "going")).await;
    pair.server.expect(&Frame::close(4002, "going")).await;
    drop(pair.server);
    assert_eq!(pair.client.expect_close().await, (Some(4002), String::new()));
    pair.client.expect_end().await;
    drop(pair.client);
    counted(&pair.proxy, "client", "4xxx", "closed").await;
}

#[tokio::test]
async fn a_server_lost_inside_a_frame_ends_the_client_without_an_illegal_byte() {
    for extra in [0, 1, 2, 3, 4, 100] {
        let mut pair = Pair::open(&["on_upstream_lost: { close: 1012 }"]).await;
        let bytes = Frame::binary(vec![7; 1000]).plain();
        pair.server.put(&Frame::text("whole")).await;
        pair.server.send(&bytes[..extra]).await;
        drop(pair.server);
        pair.client.expect(&Frame::text("whole")).await;
        match extra {
            // An incomplete header was not passed on: there is a boundary, and so a Close.
            0..=3 => drop(pair.client.expect_closed_with(1012).await),
            // Inside the payload there is no boundary; the stream just ends.
            _ => assert_eq!(pair.client.event().await, Event::Cut(extra)),
        }
        drop(pair.client);
        counted(&pair.proxy, "server", "none", "upstream_lost").await;
    }
}

#[tokio::test]
async fn a_client_lost_inside_a_frame_ends_the_server_without_an_illegal_byte() {
    for extra in [0, 1, 7, 8, 100] {
        let mut pair = Pair::open(&[]).await;
        let bytes = Frame::binary(vec![7; 1000]).masked();
        pair.client.send(&bytes[..extra]).await;
        drop(pair.client);
        match extra {
            0..=7 => drop(pair.server.expect_closed_with(1001).await),
            _ => {
                assert_eq!(pair.server.event().await, Event::Cut(extra));
                drop(pair.server);
            }
        }
        pair.proxy.idle().await;
        let log = pair.proxy.log_lines(1).await;
        assert!(log[0]["reason"] == "client_lost", "{}", log[0]);
    }
}

// ---- at random places in the stream

/// What one peer does while both stream to each other, after it sent this many bytes.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Stream,
    Close(usize, u16),
    Die(usize),
    Oversize(usize),
}

/// What one peer has seen at the end.
#[derive(Debug)]
struct Seen {
    frames: u32,
    code: Option<u16>,
    last: Event,
}

const FRAME_MAX: usize = 20_000;

fn frame(sequence: u32, length: usize) -> Frame {
    let mut payload = sequence.to_be_bytes().to_vec();
    payload.resize(4 + length, sequence as u8);
    Frame::new(BINARY, payload)
}

/// Streams frames in pieces until it is stopped or the connection breaks. Returns true if it died as planned.
async fn write(mut writer: Writer, mut rng: fastrand::Rng, plan: Plan, stop: &OnceLock<u16>, server: bool) -> bool {
    let mut sent = 0;
    for sequence in 0.. {
        if let Plan::Oversize(at) = plan
            && sent >= at
            && stop.get().is_none()
            && writer.put(&frame(sequence, FRAME_MAX + 1)).await.is_err()
        {
            return false;
        }
        let closing = match plan {
            Plan::Close(at, code) if sent >= at => Some(code),
            _ => stop.get().copied(),
        };
        if let Some(code) = closing {
            let _ = writer.put(&Frame::close(code, "")).await;
            if server {
                let _ = writer.io.shutdown().await;
            }
            return false;
        }
        let scale = rng.usize(1..14);
        let frame = frame(sequence, rng.usize(..1 << scale));
        let bytes = if server { frame.plain() } else { frame.encode(Some(rng.u32(..).to_be_bytes())) };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let mut piece = rng.usize(1..=rest.len());
            if let Plan::Die(at) = plan {
                piece = piece.min(at - sent);
                if piece == 0 {
                    return true;
                }
            }
            if writer.send(&rest[..piece]).await.is_err() {
                return false;
            }
            rest = &rest[piece..];
            sent += piece;
        }
        // Other tasks of this thread need their turn even if the socket takes everything.
        tokio::task::yield_now().await;
    }
    false
}

/// Runs one peer. Returns `None` if it died as planned.
async fn peer(conn: Conn, seed: u64, plan: Plan, server: bool) -> Option<Seen> {
    let stop = OnceLock::new();
    let (mut reader, writer) = conn.split();
    let read = async {
        let mut seen = Seen { frames: 0, code: None, last: Event::End };
        loop {
            match reader.event().await {
                Event::Frame(found) if found.opcode == BINARY => {
                    assert_eq!(found, frame(seen.frames, found.payload.len() - 4), "frame {}", seen.frames);
                    seen.frames += 1;
                }
                Event::Frame(close) => {
                    seen.code = close.code();
                    let _ = stop.set(seen.code.expect("a code"));
                }
                last => return Seen { last, ..seen },
            }
        }
    };
    let write = async {
        if !write(writer, fastrand::Rng::with_seed(seed), plan, &stop, server).await {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        seen = read => Some(seen),
        () = write => None,
    }
}

async fn trial(pair: (Conn, Conn), seed: u64, client: Plan, server: Plan) -> (Option<Seen>, Option<Seen>) {
    tokio::join!(peer(pair.0, seed, client, false), peer(pair.1, !seed, server, true))
}

/// A living peer sees whole frames in order (which `peer` asserts), and then this Close and the end, or just the end if
/// the other peer died inside a frame.
fn check(what: &str, seed: u64, seen: Option<Seen>, code: u16, died: bool) {
    let seen = seen.unwrap_or_else(|| panic!("{what}, seed {seed}: dead"));
    match (&seen.last, seen.code) {
        (_, Some(found)) => assert_eq!(found, code, "{what}, seed {seed}: {seen:?}"),
        (Event::Cut(_) | Event::Reset | Event::End, None) if died => {}
        _ => panic!("{what}, seed {seed}: no Close: {seen:?}"),
    }
    if !died {
        assert_eq!(seen.last, Event::End, "{what}, seed {seed}");
    }
}

#[tokio::test]
async fn wherever_the_stream_is_cut_both_peers_see_whole_frames_and_one_right_close() {
    let mut server = RawServer::start().await;
    let route = [&*format!("limits: {{ frame: {FRAME_MAX}B }}"), "on_upstream_lost: { close: 1012 }"];
    let proxy = Proxy::start(&yaml(&[server.url()], &route));
    for seed in 0..250 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let scale = rng.usize(1..17);
        let at = rng.usize(..1 << scale);
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut upstream = server.accept().await;
        upstream.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101);
        let pair = (client, upstream);
        use Plan::{Close, Die, Oversize, Stream};
        match seed % 6 {
            0 => {
                let (client, _) = trial(pair, seed, Stream, Die(at)).await;
                check("server dies", seed, client, 1012, true);
            }
            1 => {
                let (_, server) = trial(pair, seed, Die(at), Stream).await;
                check("client dies", seed, server, 1001, true);
            }
            2 => {
                let (client, server) = trial(pair, seed, Oversize(at), Stream).await;
                check("client's frame too large: client", seed, client, 1009, false);
                check("client's frame too large: server", seed, server, 1001, false);
            }
            3 => {
                let (client, server) = trial(pair, seed, Stream, Oversize(at)).await;
                check("server's frame too large: client", seed, client, 1009, false);
                check("server's frame too large: server", seed, server, 1001, false);
            }
            4 => {
                let (client, server) = trial(pair, seed, Close(at, 4010), Stream).await;
                check("client closes: client", seed, client, 4010, false);
                check("client closes: server", seed, server, 4010, false);
            }
            _ => {
                let (client, server) = trial(pair, seed, Stream, Close(at, 4011)).await;
                check("server closes: client", seed, client, 4011, false);
                check("server closes: server", seed, server, 4011, false);
            }
        }
    }
    proxy.idle().await;
}

#[tokio::test]
async fn a_drain_in_the_midst_of_streams_ends_each_at_a_frames_end() {
    let mut server = RawServer::start().await;
    let mut proxy = Proxy::start(&format!("{}drain: {{ time: 2s }}\n", yaml(&[server.url()], &[])));
    let mut trials = tokio::task::JoinSet::new();
    for seed in 0..40 {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut upstream = server.accept().await;
        upstream.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101);
        trials.spawn(async move { (seed, trial((client, upstream), seed, Plan::Stream, Plan::Stream).await) });
    }
    let drained = proxy.drain().await;
    while let Some(trial) = trials.join_next().await {
        let (seed, (client, server)) = trial.unwrap();
        check("drain: client", seed, client, 1012, false);
        check("drain: server", seed, server, 1001, false);
    }
    assert_eq!(drained.left, 0);
}
