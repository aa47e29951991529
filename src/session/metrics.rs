//! What sessions count: how many, how long, how they ended, and every frame in between.
//!
//! Frames are counted per worker (`Frames`) and summed when Prometheus asks: a counter that two workers share costs
//! each of them a cache miss a message. All else happens a few times in a session's life and is a plain handle,
//! fetched once for each route.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::telemetry::counters::{Active, Counters, seconds};
use crate::worker::Local;

/// Which way a frame travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    In,
    /// From the server to the client.
    Out,
}

impl Direction {
    const ALL: [Direction; 2] = [Direction::In, Direction::Out];

    fn label(self) -> &'static str {
        match self {
            Direction::In => "in",
            Direction::Out => "out",
        }
    }
}

/// One of the two we relay between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Who opened the session.
    Client,
    /// The endpoint that answers it.
    Server,
}

/// Who ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// The client sent Close, or was lost.
    Client,
    /// The server sent Close, or was lost.
    Server,
    /// We did: a deadline, a limit, a broken rule, a drain.
    Proxy,
}

impl Initiator {
    /// Its name in metrics and in the access log.
    pub fn label(self) -> &'static str {
        match self {
            Initiator::Client => "client",
            Initiator::Server => "server",
            Initiator::Proxy => "proxy",
        }
    }
}

/// What a message is made of (RFC 6455 §5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Opcode 1.
    Text,
    /// Opcode 2.
    Binary,
}

/// Which control frame (RFC 6455 §5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Opcode 8.
    Close,
    /// Opcode 9.
    Ping,
    /// Opcode 10.
    Pong,
}

/// How a session ended, as a set of labels that strangers cannot enlarge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    initiator: Initiator,
    code: &'static str,
    reason: &'static str,
}

impl Ending {
    /// An end by `initiator`, with the code of the Close that began it (if there was one) and our word for it.
    pub fn new(initiator: Initiator, code: Option<u16>, reason: &'static str) -> Ending {
        Ending { initiator, code: code_label(code), reason }
    }
}

/// Registered codes (RFC 6455 §7.4.1 and its registry) by number; those a peer may invent by their range (§7.4.2).
fn code_label(code: Option<u16>) -> &'static str {
    match code {
        None => "none",
        Some(1000) => "1000",
        Some(1001) => "1001",
        Some(1002) => "1002",
        Some(1003) => "1003",
        Some(1007) => "1007",
        Some(1008) => "1008",
        Some(1009) => "1009",
        Some(1010) => "1010",
        Some(1011) => "1011",
        Some(1012) => "1012",
        Some(1013) => "1013",
        Some(1014) => "1014",
        Some(3000..=3999) => "3xxx",
        Some(4000..=4999) => "4xxx",
        Some(_) => "other",
    }
}

/// From a second to a day. The steps are the timeouts that boxes on the way have by default (60 s nginx and cloud
/// balancers, 5 min and 15 min firewalls, 1 h NAT), so that sessions cut by one of them pile up in the step above it.
const SESSION_SECONDS: [f64; 11] = [0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0, 43_200.0, 86_400.0];

/// From a server beside us to the 10 s after which a peer counts as dead by default.
const PING_SECONDS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The families, before they have routes.
#[derive(Clone, Debug)]
pub struct Metrics {
    active: IntGaugeVec,
    total: IntCounterVec,
    duration: HistogramVec,
    closes: IntCounterVec,
    pings: IntCounterVec,
    ping_rtt: HistogramVec,
    frames: AllFrames,
}

impl Metrics {
    /// Makes and registers the families, with a shard of the frame counters for each of `workers`.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub fn register(registry: &Registry, workers: usize) -> prometheus::Result<Metrics> {
        let metrics = Metrics {
            active: IntGaugeVec::new(
                Opts::new("wsluice_sessions_active", "Sessions relayed at this moment."),
                &["listener", "route", "upstream"],
            )?,
            total: IntCounterVec::new(
                Opts::new("wsluice_sessions_total", "Sessions opened: handshakes both sides agreed on."),
                &["route", "upstream"],
            )?,
            duration: HistogramVec::new(
                HistogramOpts::new(
                    "wsluice_session_duration_seconds",
                    "Time from the handshake to the end of a session.",
                )
                .buckets(SESSION_SECONDS.into()),
                &["route"],
            )?,
            closes: IntCounterVec::new(
                Opts::new(
                    "wsluice_session_closes_total",
                    "Sessions ended, by who ended them, the close code sent first (none: connection lost), and why.",
                ),
                &["route", "initiator", "code", "reason"],
            )?,
            pings: IntCounterVec::new(
                Opts::new("wsluice_keepalive_pings_total", "Pings of our own, sent to see whether a peer is alive."),
                &["route", "peer"],
            )?,
            ping_rtt: HistogramVec::new(
                HistogramOpts::new("wsluice_ping_rtt_seconds", "Time from a Ping of our own to its Pong.")
                    .buckets(PING_SECONDS.into()),
                &["route", "peer"],
            )?,
            frames: AllFrames::new(workers)?,
        };
        registry.register(Box::new(metrics.active.clone()))?;
        registry.register(Box::new(metrics.total.clone()))?;
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.closes.clone()))?;
        registry.register(Box::new(metrics.pings.clone()))?;
        registry.register(Box::new(metrics.ping_rtt.clone()))?;
        registry.register(Box::new(metrics.frames.clone()))?;
        Ok(metrics)
    }

    /// The handles of one route as one listener serves it; all of them count from 0 from now on. `endings` are those
    /// that can be named beforehand.
    pub fn route(&self, listener: &str, route: &str, upstream: &str, endings: &[Ending]) -> RouteMetrics {
        let (closes, name) = (self.closes.clone(), route.to_owned());
        let keepalive = |peer| Keepalive {
            pings: self.pings.with_label_values(&[route, peer]),
            rtt: self.ping_rtt.with_label_values(&[route, peer]),
        };
        RouteMetrics {
            active: self.active.with_label_values(&[listener, route, upstream]),
            total: self.total.with_label_values(&[route, upstream]),
            duration: self.duration.with_label_values(&[route]),
            closes: Counters::new(endings, move |end| {
                closes.with_label_values(&[&*name, end.initiator.label(), end.code, end.reason])
            }),
            client: keepalive("client"),
            server: keepalive("server"),
            frames: self.frames.route(route),
        }
    }
}

/// What sessions of one route count on.
#[derive(Debug)]
pub struct RouteMetrics {
    active: IntGauge,
    total: IntCounter,
    duration: Histogram,
    closes: Counters<Ending>,
    client: Keepalive,
    server: Keepalive,
    frames: Arc<RouteFrames>,
}

#[derive(Debug)]
struct Keepalive {
    pings: IntCounter,
    rtt: Histogram,
}

impl RouteMetrics {
    /// Counts a session that begins; it is active until the answer is dropped.
    pub fn begin(&self) -> Active {
        self.total.inc();
        Active::new(&self.active)
    }

    /// Counts a session that ended after `lasted`.
    pub fn end(&self, ending: Ending, lasted: Duration) {
        self.closes.inc(ending);
        self.duration.observe(seconds(lasted));
    }

    /// Counts a Ping of our own to `peer`.
    pub fn ping(&self, peer: Peer) {
        self.keepalive(peer).pings.inc();
    }

    /// Counts the Pong to it.
    pub fn pong(&self, peer: Peer, after: Duration) {
        self.keepalive(peer).rtt.observe(seconds(after));
    }

    /// The counters of the data path.
    pub fn frames(&self) -> &Arc<RouteFrames> {
        &self.frames
    }

    fn keepalive(&self, peer: Peer) -> &Keepalive {
        match peer {
            Peer::Client => &self.client,
            Peer::Server => &self.server,
        }
    }
}

/// Upper bounds of message sizes: powers of 4 from 64 bytes (chat, ticks) to 16 MiB (the largest limit seen in use).
const SIZES: usize = 10;
const SIZE_SMALLEST_LOG4: u32 = 3;

/// The bucket of a message of `bytes`: the smallest power of 4 that holds it, counted from 64. `SIZES` is "larger".
fn size_bucket(bytes: u64) -> usize {
    let log2 = u64::BITS - bytes.saturating_sub(1).leading_zeros(); // rounded up
    (log2.div_ceil(2).saturating_sub(SIZE_SMALLEST_LOG4) as usize).min(SIZES)
}

/// Frames relayed on one route: one relaxed addition a count, on a cache line that only this worker writes.
#[derive(Debug)]
pub struct RouteFrames {
    shards: Local<[Frames; 2]>,
}

/// One worker's counts in one direction. How many messages there were is the sum of their sizes' buckets: one addition
/// less a message, and the two can never disagree.
#[derive(Debug, Default)]
struct Frames {
    sizes: [[AtomicU64; SIZES + 1]; 2],
    payload: AtomicU64,
    control: [AtomicU64; 3],
    bytes: AtomicU64,
}

impl RouteFrames {
    fn new(workers: usize) -> RouteFrames {
        RouteFrames { shards: Local::new(workers, Default::default) }
    }

    /// Counts a whole message with `bytes` of payload, all its fragments together.
    #[inline]
    pub fn message(&self, direction: Direction, data: Data, bytes: u64) {
        let shard = &self.shards.get()[direction as usize];
        shard.sizes[data as usize][size_bucket(bytes)].fetch_add(1, Relaxed);
        shard.payload.fetch_add(bytes, Relaxed);
    }

    /// Counts a control frame that was relayed.
    #[inline]
    pub fn control(&self, direction: Direction, control: Control) {
        self.shards.get()[direction as usize].control[control as usize].fetch_add(1, Relaxed);
    }

    /// Counts bytes relayed, headers included.
    #[inline]
    pub fn bytes(&self, direction: Direction, bytes: u64) {
        self.shards.get()[direction as usize].bytes.fetch_add(bytes, Relaxed);
    }

    fn sum(&self, direction: Direction, of: impl Fn(&Frames) -> &AtomicU64) -> u64 {
        self.shards.iter().map(|shard| of(&shard[direction as usize]).load(Relaxed)).sum()
    }
}

/// All routes' frames, as a collector that sums the shards when it is asked.
#[derive(Clone, Debug)]
struct AllFrames {
    workers: usize,
    routes: Arc<Mutex<BTreeMap<String, Arc<RouteFrames>>>>,
    messages: Desc,
    bytes: Desc,
    size: Desc,
}

impl AllFrames {
    fn new(workers: usize) -> prometheus::Result<AllFrames> {
        let desc = |name: &str, help: &str, labels: &[&str]| {
            Desc::new(name.into(), help.into(), labels.iter().map(|&label| label.into()).collect(), Default::default())
        };
        Ok(AllFrames {
            workers,
            routes: Arc::default(),
            messages: desc(
                "wsluice_messages_total",
                "Messages and control frames relayed; direction in is from the client to the server.",
                &["route", "direction", "opcode"],
            )?,
            bytes: desc("wsluice_bytes_total", "Bytes of frames relayed, headers included.", &["route", "direction"])?,
            size: desc("wsluice_message_size_bytes", "Payload of a whole message.", &["route", "direction"])?,
        })
    }

    /// The counters of `route`, the same ones each time it is asked for.
    fn route(&self, route: &str) -> Arc<RouteFrames> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(routes.entry(route.into()).or_insert_with(|| Arc::new(RouteFrames::new(self.workers))))
    }
}

impl Collector for AllFrames {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.messages, &self.bytes, &self.size]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut messages, mut bytes, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        for (route, frames) in &routes {
            for direction in Direction::ALL {
                let on_route = [("direction", direction.label()), ("route", route)];
                let of_size = |data: Data, i: usize| frames.sum(direction, |shard| &shard.sizes[data as usize][i]);
                let text: [u64; SIZES + 1] = std::array::from_fn(|i| of_size(Data::Text, i));
                let binary: [u64; SIZES + 1] = std::array::from_fn(|i| of_size(Data::Binary, i));
                let control = |control| frames.sum(direction, |shard| &shard.control[control as usize]);
                for (opcode, count) in [
                    ("text", text.iter().sum()),
                    ("binary", binary.iter().sum()),
                    ("close", control(Control::Close)),
                    ("ping", control(Control::Ping)),
                    ("pong", control(Control::Pong)),
                ] {
                    messages.push(counter(&[on_route[0], ("opcode", opcode), on_route[1]], count));
                }
                bytes.push(counter(&on_route, frames.sum(direction, |shard| &shard.bytes)));
                let counts = std::array::from_fn(|i| text[i] + binary[i]);
                sizes.push(histogram(&on_route, counts, frames.sum(direction, |shard| &shard.payload)));
            }
        }
        vec![
            family(&self.messages, MetricType::COUNTER, messages),
            family(&self.bytes, MetricType::COUNTER, bytes),
            family(&self.size, MetricType::HISTOGRAM, sizes),
        ]
    }
}

fn family(desc: &Desc, kind: MetricType, metrics: Vec<proto::Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(desc.fq_name.clone());
    family.set_help(desc.help.clone());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn labelled(labels: &[(&str, &str)]) -> proto::Metric {
    let pairs = labels.iter().map(|&(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.into());
        pair.set_value(value.into());
        pair
    });
    proto::Metric::from_label(pairs.collect())
}

fn counter(labels: &[(&str, &str)], value: u64) -> proto::Metric {
    let mut metric = labelled(labels);
    let mut counter = proto::Counter::default();
    counter.set_value(value as f64);
    metric.set_counter(counter);
    metric
}

fn histogram(labels: &[(&str, &str)], counts: [u64; SIZES + 1], sum: u64) -> proto::Metric {
    let mut below = 0;
    let buckets = counts[..SIZES].iter().zip(SIZE_SMALLEST_LOG4..).map(|(count, log4)| {
        below += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(4f64.powi(log4 as i32));
        bucket.set_cumulative_count(below);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(sum as f64);
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::exposition::encode;
    use crate::worker;

    fn closed() -> Ending {
        Ending::new(Initiator::Client, Some(1000), "closed")
    }

    #[test]
    fn a_route_counts_from_zero_before_its_first_session() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry, 2).unwrap();
        let _route = metrics.route("public", "chat", "backend", &[closed()]);
        let text = encode(&registry).unwrap();
        for line in [
            r#"wsluice_sessions_active{listener="public",route="chat",upstream="backend"} 0"#,
            r#"wsluice_sessions_total{route="chat",upstream="backend"} 0"#,
            r#"wsluice_session_closes_total{code="1000",initiator="client",reason="closed",route="chat"} 0"#,
            r#"wsluice_messages_total{direction="in",opcode="text",route="chat"} 0"#,
            r#"wsluice_bytes_total{direction="out",route="chat"} 0"#,
            r#"wsluice_message_size_bytes_bucket{direction="in",route="chat",le="+Inf"} 0"#,
            r#"wsluice_ping_rtt_seconds_count{peer="server",route="chat"} 0"#,
            r#"wsluice_keepalive_pings_total{peer="client",route="chat"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn frames_of_all_workers_are_summed() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry, 2).unwrap();
        let route = metrics.route("public", "chat", "backend", &[]);
        std::thread::scope(|scope| {
            for index in 0..2 {
                let frames = Arc::clone(route.frames());
                scope.spawn(move || {
                    worker::enter(index);
                    frames.message(Direction::In, Data::Text, 64);
                    frames.message(Direction::In, Data::Binary, 65);
                    frames.message(Direction::In, Data::Text, 1 << 30);
                    frames.control(Direction::Out, Control::Pong);
                    frames.bytes(Direction::In, 143);
                });
            }
        });
        let text = encode(&registry).unwrap();
        for line in [
            r#"wsluice_messages_total{direction="in",opcode="text",route="chat"} 4"#,
            r#"wsluice_messages_total{direction="in",opcode="binary",route="chat"} 2"#,
            r#"wsluice_messages_total{direction="out",opcode="pong",route="chat"} 2"#,
            r#"wsluice_bytes_total{direction="in",route="chat"} 286"#,
            r#"wsluice_message_size_bytes_bucket{direction="in",route="chat",le="64"} 2"#,
            r#"wsluice_message_size_bytes_bucket{direction="in",route="chat",le="256"} 4"#,
            r#"wsluice_message_size_bytes_bucket{direction="in",route="chat",le="16777216"} 4"#,
            r#"wsluice_message_size_bytes_bucket{direction="in",route="chat",le="+Inf"} 6"#,
            r#"wsluice_message_size_bytes_sum{direction="in",route="chat"} 2147483906"#,
            r#"wsluice_message_size_bytes_count{direction="in",route="chat"} 6"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn a_route_asked_for_again_goes_on_counting() {
        let metrics = Metrics::register(&Registry::new(), 1).unwrap();
        let (one, two) = (metrics.route("a", "chat", "u", &[]), metrics.route("b", "chat", "u", &[]));
        assert!(Arc::ptr_eq(one.frames(), two.frames()));
    }

    #[test]
    fn a_session_is_active_until_it_is_dropped_and_its_end_is_counted() {
        let registry = Registry::new();
        let route = Metrics::register(&registry, 1).unwrap().route("public", "chat", "backend", &[closed()]);
        let active = route.begin();
        assert_eq!((route.active.get(), route.total.get()), (1, 1));
        drop(active);
        route.end(closed(), Duration::from_secs(61));
        route.end(Ending::new(Initiator::Proxy, Some(4321), "rate"), Duration::from_secs(1));
        route.ping(Peer::Server);
        route.pong(Peer::Server, Duration::from_millis(2));
        assert_eq!((route.active.get(), route.total.get()), (0, 1));
        let text = encode(&registry).unwrap();
        for line in [
            r#"wsluice_session_closes_total{code="1000",initiator="client",reason="closed",route="chat"} 1"#,
            r#"wsluice_session_closes_total{code="4xxx",initiator="proxy",reason="rate",route="chat"} 1"#,
            r#"wsluice_session_duration_seconds_bucket{route="chat",le="60"} 1"#,
            r#"wsluice_session_duration_seconds_bucket{route="chat",le="300"} 2"#,
            r#"wsluice_ping_rtt_seconds_bucket{peer="server",route="chat",le="0.0025"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn peers_cannot_make_up_labels() {
        let labels: std::collections::BTreeSet<_> = (0..=u16::MAX).map(|code| code_label(Some(code))).collect();
        assert_eq!(labels.len(), 15);
        assert_eq!(code_label(Some(1005)), "other", "never on the wire (RFC 6455 §7.4.1)");
        assert_eq!(code_label(None), "none");
    }

    proptest! {
        #[test]
        fn a_message_falls_into_the_smallest_bucket_that_holds_it(bytes in prop_oneof![0..1u64 << 26, any::<u64>()]) {
            let bound = |bucket: usize| 4u64.pow(SIZE_SMALLEST_LOG4 + bucket as u32);
            let bucket = size_bucket(bytes);
            prop_assert!(bucket == SIZES || bytes <= bound(bucket));
            prop_assert!(bucket == 0 || bytes > bound(bucket - 1));
        }
    }
}
