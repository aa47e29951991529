//! What sessions count: how many, how long, how they ended, and every frame in between.
//!
//! Frames are counted apart (`frames`), for they are many. All else happens a few times in a session's life and is a
//! plain handle, fetched once for each route.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};

use crate::base::labels::variant_labels;
use crate::telemetry::counters::{Counters, seconds};
use crate::telemetry::labelled::{HistogramVec, IntCounterVec, IntGaugeVec};
use crate::telemetry::series::{SeriesGuard, SeriesRegistry};

mod frames;

use frames::AllFrames;
pub use frames::{ControlKind, Direction, MessageKind, RouteFrames};

/// One of the two we relay between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerLabel {
    /// The side that opened the session.
    Client,
    /// The endpoint that answers it.
    Server,
}

variant_labels! {
    PeerLabel {
        Client => "client",
        Server => "server",
    }
}

/// The rules that a peer may break with `validate: lenient`, for series that begin at 0.
const TOLERATED: [(PeerLabel, &str); 4] = [
    (PeerLabel::Client, "bad_length"),
    (PeerLabel::Client, "unmasked_frame"),
    (PeerLabel::Server, "bad_length"),
    (PeerLabel::Server, "masked_frame"),
];

/// The side that ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// The client sent Close, or was lost.
    Client,
    /// The server sent Close, or was lost.
    Server,
    /// We did: a deadline, a limit, a broken rule, a drain.
    Proxy,
}

variant_labels! {
    Initiator {
        Client => "client",
        Server => "server",
        Proxy => "proxy",
    }
}

/// How a session ended, as a set of labels that strangers cannot enlarge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndLabels {
    initiator: Initiator,
    code: &'static str,
    reason: &'static str,
}

impl EndLabels {
    /// An end by `initiator`, with the code of the Close that began it (if there was one) and our word for it.
    pub fn new(initiator: Initiator, code: Option<u16>, reason: &'static str) -> EndLabels {
        EndLabels { initiator, code: code_label(code), reason }
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
    tolerated: IntCounterVec,
    delays: IntCounterVec,
    pings: IntCounterVec,
    ping_rtt: HistogramVec,
    frames: AllFrames,
    by_listener: SeriesRegistry<3>,
    by_upstream: SeriesRegistry<2>,
    by_route: SeriesRegistry<1>,
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
            tolerated: IntCounterVec::new(
                Opts::new(
                    "wsluice_frames_tolerated_total",
                    "Frames that broke a rule of RFC 6455 and were taken all the same, by who sent them and the rule.",
                ),
                &["route", "peer", "rule"],
            )?,
            delays: IntCounterVec::new(
                Opts::new(
                    "wsluice_rate_delays_total",
                    "Waits of sessions that had sent all that `limits.rate` lets pass; up to 50 a second for each of them.",
                ),
                &["route", "direction"],
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
            by_listener: SeriesRegistry::new(["listener", "route", "upstream"]),
            by_upstream: SeriesRegistry::new(["route", "upstream"]),
            by_route: SeriesRegistry::new(["route"]),
        };
        metrics.by_listener.register(registry, &metrics.active)?;
        metrics.by_upstream.register(registry, &metrics.total)?;
        metrics.by_route.register(registry, &metrics.duration)?;
        metrics.by_route.register(registry, &metrics.closes)?;
        metrics.by_route.register(registry, &metrics.tolerated)?;
        metrics.by_route.register(registry, &metrics.delays)?;
        metrics.by_route.register(registry, &metrics.pings)?;
        metrics.by_route.register(registry, &metrics.ping_rtt)?;
        metrics.by_route.register(registry, &metrics.frames)?;
        Ok(metrics)
    }

    /// Returns the counters of one route on one listener. They continue existing series, or begin at 0; the series stay until
    /// the last of them is dropped. `endings` are those that are known beforehand.
    pub fn route(&self, listener: &str, route: &str, upstream: &str, endings: &[EndLabels]) -> RouteSessionMetrics {
        let held = (
            self.by_listener.guard([listener, route, upstream]),
            self.by_upstream.guard([route, upstream]),
            self.by_route.guard([route]),
        );
        let (closes, name) = (self.closes.clone(), route.to_owned());
        let (tolerated, of) = (self.tolerated.clone(), route.to_owned());
        let keepalive = |peer: PeerLabel| KeepaliveCounters {
            pings: self.pings.with_label_values(&[route, peer.label()]),
            rtt: self.ping_rtt.with_label_values(&[route, peer.label()]),
        };
        RouteSessionMetrics {
            active: self.active.with_label_values(&[listener, route, upstream]),
            total: self.total.with_label_values(&[route, upstream]),
            duration: self.duration.with_label_values(&[route]),
            closes: Counters::new(endings, move |end| {
                closes.with_label_values(&[&*name, end.initiator.label(), end.code, end.reason])
            }),
            tolerated: Counters::new(&TOLERATED, move |&(peer, rule): &(PeerLabel, &'static str)| {
                tolerated.with_label_values(&[&*of, peer.label(), rule])
            }),
            delays: Direction::ALL.map(|direction| self.delays.with_label_values(&[route, direction.label()])),
            client: keepalive(PeerLabel::Client),
            server: keepalive(PeerLabel::Server),
            frames: self.frames.route(route),
            _held: held,
        }
    }
}

/// What sessions of one route count on.
#[derive(Debug)]
pub struct RouteSessionMetrics {
    active: IntGauge,
    total: IntCounter,
    duration: Histogram,
    closes: Counters<EndLabels>,
    tolerated: Counters<(PeerLabel, &'static str)>,
    /// By direction.
    delays: [IntCounter; 2],
    client: KeepaliveCounters,
    server: KeepaliveCounters,
    frames: Arc<RouteFrames>,
    _held: (SeriesGuard, SeriesGuard, SeriesGuard),
}

#[derive(Debug)]
struct KeepaliveCounters {
    pings: IntCounter,
    rtt: Histogram,
}

impl RouteSessionMetrics {
    /// Counts a session that begins; it is active until its `end`, which a session owes on whatever way it goes.
    pub fn begin(&self) {
        self.total.inc();
        self.active.inc();
    }

    /// Counts a session that came from another process, where it counts as opened.
    pub fn arrived(&self) {
        self.active.inc();
    }

    /// Counts a session that went to another process, where its end will count.
    pub fn left(&self) {
        self.active.dec();
    }

    /// Counts a session that ended after `lasted`.
    pub fn end(&self, ending: EndLabels, lasted: Duration) {
        self.active.dec();
        self.closes.inc(ending);
        self.duration.observe(seconds(lasted));
    }

    /// Counts a frame of `peer` that broke this rule and was taken all the same.
    pub fn tolerated(&self, peer: PeerLabel, rule: &'static str) {
        self.tolerated.inc((peer, rule));
    }

    /// Counts a wait of a session that had sent all that it may in this direction.
    pub fn delayed(&self, direction: Direction) {
        self.delays[direction as usize].inc();
    }

    /// Counts a Ping of our own to `peer`.
    pub fn ping(&self, peer: PeerLabel) {
        self.keepalive(peer).pings.inc();
    }

    /// Counts the Pong to it.
    pub fn pong(&self, peer: PeerLabel, after: Duration) {
        self.keepalive(peer).rtt.observe(seconds(after));
    }

    /// The counters of the data path.
    pub fn frames(&self) -> &Arc<RouteFrames> {
        &self.frames
    }

    fn keepalive(&self, peer: PeerLabel) -> &KeepaliveCounters {
        match peer {
            PeerLabel::Client => &self.client,
            PeerLabel::Server => &self.server,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;
    use crate::telemetry::exposition::encode;

    fn closed() -> EndLabels {
        EndLabels::new(Initiator::Client, Some(1000), "closed")
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
            r#"wsluice_rate_delays_total{direction="in",route="chat"} 0"#,
            r#"wsluice_frames_tolerated_total{peer="client",route="chat",rule="unmasked_frame"} 0"#,
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
    fn series_go_with_the_last_who_counts_on_them() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry, 1).unwrap();
        let old = metrics.route("public", "chat", "before", &[]);
        old.begin();
        old.end(EndLabels::new(Initiator::Proxy, Some(4321), "rate"), Duration::from_secs(1));
        old.frames().message(Direction::In, MessageKind::Text, 5, 1);
        // A reload gave the route another upstream; then its last session ends.
        let new = metrics.route("public", "chat", "after", &[]);
        assert!(Arc::ptr_eq(old.frames(), new.frames()));
        assert!(encode(&registry).unwrap().contains(r#"upstream="before""#), "the session still counts");
        drop(old);
        let text = encode(&registry).unwrap();
        assert!(!text.contains("before"), "{text}");
        for line in [
            r#"wsluice_sessions_active{listener="public",route="chat",upstream="after"} 0"#,
            r#"wsluice_session_closes_total{code="4xxx",initiator="proxy",reason="rate",route="chat"} 1"#,
            r#"wsluice_messages_total{direction="in",opcode="text",route="chat"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        drop(new);
        assert!(!encode(&registry).unwrap().contains("chat"));
        assert_eq!(metrics.route("public", "chat", "after", &[]).total.get(), 0);
    }

    #[test]
    fn a_session_is_active_until_its_end_which_is_counted() {
        let registry = Registry::new();
        let route = Metrics::register(&registry, 1).unwrap().route("public", "chat", "backend", &[closed()]);
        route.begin();
        route.begin();
        assert_eq!((route.active.get(), route.total.get()), (2, 2));
        route.end(closed(), Duration::from_secs(61));
        route.end(EndLabels::new(Initiator::Proxy, Some(4321), "rate"), Duration::from_secs(1));
        route.ping(PeerLabel::Server);
        route.pong(PeerLabel::Server, Duration::from_millis(2));
        assert_eq!((route.active.get(), route.total.get()), (0, 2));
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
}
