//! Counts relayed frames: each worker counts for itself, a scrape adds the counts up.
//!
//! A counter shared by two workers costs each a cache miss per message. Here a count is an addition, without a lock, on
//! a cache line that only one worker writes; a collector sums them once per scrape.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};

use crate::base::labels::variant_labels;
use crate::base::worker::PerWorker;
use crate::telemetry::series::{Family, Labels};

/// The direction in which a frame travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    In,
    /// From the server to the client.
    Out,
}

variant_labels! {
    Direction {
        In => "in",
        Out => "out",
    }
}

/// The kind of a message (RFC 6455 §5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Opcode 1.
    Text,
    /// Opcode 2.
    Binary,
}

/// The kind of a control frame (RFC 6455 §5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlKind {
    /// Opcode 8.
    Close,
    /// Opcode 9.
    Ping,
    /// Opcode 10.
    Pong,
}

/// Upper bounds of message sizes: powers of 4 from 64 bytes (chat, ticks) to 16 MiB (the largest limit seen in use).
const SIZES: usize = 10;
const SIZE_SMALLEST_LOG4: u32 = 3;

/// Returns the bucket of a message of `bytes`: the smallest power of 4 that holds it, counted from 64. `SIZES` is
/// "larger".
fn size_bucket(bytes: u64) -> usize {
    let log2 = u64::BITS - bytes.saturating_sub(1).leading_zeros(); // rounded up
    (log2.div_ceil(2).saturating_sub(SIZE_SMALLEST_LOG4) as usize).min(SIZES)
}

/// Frames relayed on one route. Each worker counts on its own cache line, so only workers may count.
#[derive(Debug)]
pub struct RouteFrames {
    shards: PerWorker<[Frames; 2]>,
}

/// One worker's counts in one direction. The number of messages is the sum of the size buckets: this saves one addition
/// per message, and the two cannot disagree.
#[derive(Debug, Default)]
struct Frames {
    sizes: [[AtomicU64; SIZES + 1]; 2],
    payload: AtomicU64,
    control: [AtomicU64; 3],
    bytes: AtomicU64,
}

impl RouteFrames {
    fn new(workers: usize) -> RouteFrames {
        RouteFrames { shards: PerWorker::new(workers, Default::default) }
    }

    /// Counts `count` whole messages with `bytes` of payload each, all fragments together.
    #[inline]
    pub fn message(&self, direction: Direction, kind: MessageKind, bytes: u64, count: u32) {
        let shard = &self.shards.get()[direction as usize];
        add(&shard.sizes[kind as usize][size_bucket(bytes)], count.into());
        add(&shard.payload, bytes * u64::from(count));
    }

    /// Counts relayed control frames.
    #[inline]
    pub fn control(&self, direction: Direction, control: ControlKind, count: u32) {
        add(&self.shards.get()[direction as usize].control[control as usize], count.into());
    }

    /// Counts bytes relayed, headers included.
    #[inline]
    pub fn bytes(&self, direction: Direction, bytes: u64) {
        add(&self.shards.get()[direction as usize].bytes, bytes);
    }

    fn sum(&self, direction: Direction, of: impl Fn(&Frames) -> &AtomicU64) -> u64 {
        self.shards.iter().map(|shard| of(&shard[direction as usize]).load(Relaxed)).sum()
    }
}

/// Adds to this worker's own counter. No other thread writes it, so nothing is lost between load and store, and no
/// locked instruction is needed, which would cost more than the rest of the work on a small frame.
#[inline]
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// Frames of all routes; a collector that sums the shards at each scrape.
#[derive(Clone, Debug)]
pub(super) struct AllFrames {
    workers: usize,
    routes: Arc<Mutex<BTreeMap<String, Arc<RouteFrames>>>>,
    messages: Desc,
    bytes: Desc,
    size: Desc,
}

impl AllFrames {
    pub(super) fn new(workers: usize) -> prometheus::Result<AllFrames> {
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

    /// Returns the counters of `route`: the same ones each time, until they are removed.
    pub(super) fn route(&self, route: &str) -> Arc<RouteFrames> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(routes.entry(route.into()).or_insert_with(|| Arc::new(RouteFrames::new(self.workers))))
    }
}

impl Family for AllFrames {
    fn remove_where(&self, gone: &dyn Fn(&Labels<'_>) -> bool) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|route, _| !gone(&[("route", route)]));
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
                let of_size =
                    |kind: MessageKind, i: usize| frames.sum(direction, |shard| &shard.sizes[kind as usize][i]);
                let text: [u64; SIZES + 1] = std::array::from_fn(|i| of_size(MessageKind::Text, i));
                let binary: [u64; SIZES + 1] = std::array::from_fn(|i| of_size(MessageKind::Binary, i));
                let control = |control| frames.sum(direction, |shard| &shard.control[control as usize]);
                for (opcode, count) in [
                    ("text", text.iter().sum()),
                    ("binary", binary.iter().sum()),
                    ("close", control(ControlKind::Close)),
                    ("ping", control(ControlKind::Ping)),
                    ("pong", control(ControlKind::Pong)),
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
    use prometheus::Registry;
    use proptest::prelude::*;

    use super::*;
    use crate::base::worker;
    use crate::telemetry::exposition::encode;

    #[test]
    fn frames_of_all_workers_are_summed() {
        let registry = Registry::new();
        let all = AllFrames::new(2).unwrap();
        registry.register(Box::new(all.clone())).unwrap();
        let route = all.route("chat");
        std::thread::scope(|scope| {
            for index in 0..2 {
                let frames = Arc::clone(&route);
                scope.spawn(move || {
                    worker::enter(index);
                    frames.message(Direction::In, MessageKind::Text, 64, 1);
                    frames.message(Direction::In, MessageKind::Binary, 65, 1);
                    frames.message(Direction::In, MessageKind::Text, 1 << 30, 1);
                    frames.control(Direction::Out, ControlKind::Pong, 1);
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
