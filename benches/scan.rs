//! What reading frame headers costs: one header, a chunk full of small frames, a step of the tunnel.
//!
//! A system call is 100–300 ns; a saturated message needs four of them. The figures here must stay small beside that.
//! Chunks hold whole frames only, so each iteration ends where it began and the next one sees the same state.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use wsluice::base::time::MonotonicTime;
use wsluice::ws::Side;
use wsluice::ws::frame::{FrameHeader, HEADER_BYTES_MAX, Opcode};
use wsluice::ws::scanner::{EndedMessage, Rsv, Rules, ScannedPart, Scanner, Violation};
use wsluice::ws::tunnel::{Observer, Tunnel, TunnelSettings, TunnelStep, Validation};

const CHUNK: usize = 16 * 1024;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// One binary frame of a client.
fn frame(payload: usize) -> Vec<u8> {
    let header = FrameHeader {
        fin: true,
        rsv: 0,
        opcode: Opcode::Binary,
        mask: Some(MASK),
        payload: payload as u64,
        shortest: true,
    };
    let mut bytes = [0; HEADER_BYTES_MAX];
    let length = header.encode(&mut bytes);
    let mut frame = bytes[..length].to_vec();
    frame.resize(length + payload, 0x5a);
    frame
}

/// As many frames as fit a chunk, at least one.
fn chunk(payload: usize) -> (Vec<u8>, usize) {
    let frame = frame(payload);
    let count = (CHUNK / frame.len()).max(1);
    (frame.repeat(count), count)
}

fn headers(c: &mut Criterion) {
    let mut group = c.benchmark_group("header");
    // The three lengths of a length (RFC 6455 §5.2).
    for payload in [125, 128, 65_536] {
        let bytes = frame(payload);
        group.bench_with_input(BenchmarkId::new("parse", payload), &bytes, |b, bytes| {
            b.iter(|| FrameHeader::parse(black_box(bytes)));
        });
    }
    group.finish();
}

fn scanner(c: &mut Criterion) {
    let mut group = c.benchmark_group("scanner");
    let rules = Rules {
        from: Side::Client,
        rsv: Rsv::None,
        frame_bytes_max: u64::MAX,
        message_bytes_max: u64::MAX,
        fragments_max: u32::MAX,
        tolerant: false,
    };
    for payload in [16, 128, 1024, 65_536] {
        let (bytes, count) = chunk(payload);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new("frames of 16 KiB", payload), &bytes, |b, bytes| {
            let mut scanner = Scanner::default();
            b.iter(|| scan(&mut scanner, &rules, black_box(bytes)));
        });
    }
    group.finish();
}

/// Goes through a chunk and returns how many messages ended in it.
fn scan(scanner: &mut Scanner, rules: &Rules, bytes: &[u8]) -> usize {
    let (mut at, mut messages) = (0, 0);
    while at < bytes.len() {
        match scanner.next(rules, &bytes[at..]) {
            Ok(ScannedPart::Data { header, ends }) => {
                at += header;
                messages += usize::from(ends.is_some());
            }
            Ok(ScannedPart::Payload { bytes, ends }) => {
                at += bytes;
                messages += usize::from(ends.is_some());
            }
            other => unreachable!("only whole data frames stand here, but {other:?}"),
        }
    }
    messages
}

/// Counts as a session does, in plain integers.
#[derive(Default)]
struct Counts {
    bytes: u64,
    messages: u64,
}

impl Observer for Counts {
    fn bytes(&mut self, _: Side, bytes: usize) {
        self.bytes += bytes as u64;
    }
    fn message(&mut self, _: Side, _: EndedMessage, count: u32) {
        self.messages += u64::from(count);
    }
    fn control(&mut self, _: Side, _: Opcode, _: u32) {}
    fn delayed(&mut self, _: Side) {}
    fn tolerated(&mut self, _: Side, _: Violation) {}
    fn pinged(&mut self, _: Side) {}
    fn round_trip(&mut self, _: Side, _: Duration) {}
}

fn tunnel(c: &mut Criterion) {
    let mut group = c.benchmark_group("tunnel");
    let start = MonotonicTime::from_micros(1_000_000);
    let settings = TunnelSettings {
        validation: Validation::Lenient,
        idle: Some(Duration::from_secs(300)),
        lifetime: None,
        ping: Some(Duration::from_secs(30)),
        pong: Duration::from_secs(10),
        frame_bytes_max: u64::MAX,
        message_bytes_max: u64::MAX,
        fragments_max: 100_000,
        control_per_second: Some(1000),
        rates: [None; 2],
    };
    let settings = Arc::new(settings);
    // One frame a read, as in a conversation, and as many as a read brings when the proxy is behind.
    for (name, (bytes, count)) in [("one message", (frame(128), 1)), ("messages of 16 KiB", chunk(128))] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new(name, 128), &bytes, |b, bytes| {
            let mut tunnel = Tunnel::new(Arc::clone(&settings), Rsv::None, [42, 43], start);
            let mut counts = Counts::default();
            b.iter(|| forward(&mut tunnel, start, black_box(bytes), &mut counts));
            black_box((counts.bytes, counts.messages));
        });
    }
    group.finish();
}

/// What the relay asks of the tunnel for each read: judge all of it, and look whether a frame of ours is due.
fn forward(tunnel: &mut Tunnel, now: MonotonicTime, bytes: &[u8], counts: &mut Counts) -> usize {
    let mut at = 0;
    while at < bytes.len() {
        match tunnel.handle_bytes(now, Side::Client, &bytes[at..], counts) {
            TunnelStep::Forward(taken) => at += taken,
            other => unreachable!("only whole data frames stand here, but {other:?}"),
        }
        black_box(tunnel.poll_inject(now, Side::Server, MASK, counts));
    }
    at
}

criterion_group!(benches, headers, scanner, tunnel);
criterion_main!(benches);
