//! Metrics of upstreams: picks, connects, failures and retries, and the sessions on each endpoint.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, HistogramTimer, IntCounter, IntGauge, Opts, Registry};

use crate::balance::sticky::Returned;
use crate::base::labels::variant_labels;
use crate::health::outlier::EjectionReason;
use crate::telemetry::counters::{Active, Counters, seconds};
use crate::telemetry::labelled::{HistogramVec, IntCounterVec, IntGaugeVec};
use crate::telemetry::series::{SeriesGuard, SeriesRegistry};

/// From a server in the same rack to the 5 s that connecting may take by default. Connections whose first packet was
/// lost once or twice arrive at 1 s and 3 s.
const CONNECT_SECONDS: [f64; 13] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 3.0, 5.0];

/// From a permit that is returned at once to the longest default wait of a handshake.
const QUEUE_SECONDS: [f64; 9] = [0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The result of a handshake at an upstream with an admission rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It was admitted at once.
    AtOnce,
    /// It waited for its slot.
    Delayed,
    /// Its slot was too far away.
    Refused,
}

variant_labels! {
    Admitted {
        AtOnce => "at_once",
        Delayed => "delayed",
        Refused => "refused",
    }
}

/// The metric families.
#[derive(Clone, Debug)]
pub struct Metrics {
    connect_duration: HistogramVec,
    retries: IntCounterVec,
    retries_denied: IntCounterVec,
    stale_connections: IntCounterVec,
    ejected: IntGaugeVec,
    ejections: IntCounterVec,
    endpoint_sessions: IntGaugeVec,
    endpoint_requests: IntGaugeVec,
    picks: IntCounterVec,
    errors: IntCounterVec,
    queue_length: IntGaugeVec,
    queue_wait: HistogramVec,
    admissions: IntCounterVec,
    sticky: IntCounterVec,
    http2_connections: IntGaugeVec,
    http2_streams: IntGaugeVec,
    http2_stalls: IntCounterVec,
    http2_goaways: IntCounterVec,
    by_upstream: SeriesRegistry<1>,
    by_endpoint: SeriesRegistry<2>,
}

impl Metrics {
    /// Creates and registers the families.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let metrics = Metrics {
            connect_duration: HistogramVec::new(
                HistogramOpts::new(
                    "wsluice_upstream_connect_duration_seconds",
                    "Time to connect to an endpoint, TLS included.",
                )
                .buckets(CONNECT_SECONDS.into()),
                &["upstream"],
            )?,
            retries: IntCounterVec::new(
                Opts::new("wsluice_upstream_retries_total", "Times the next endpoint was tried after one had failed."),
                &["upstream"],
            )?,
            retries_denied: IntCounterVec::new(
                Opts::new(
                    "wsluice_upstream_retries_denied_total",
                    "Times no other endpoint was tried since the retry budget was spent.",
                ),
                &["upstream"],
            )?,
            stale_connections: IntCounterVec::new(
                Opts::new(
                    "wsluice_upstream_stale_connections_total",
                    "Plain requests sent again since the server had closed the used connection that they went on.",
                ),
                &["upstream"],
            )?,
            ejected: IntGaugeVec::new(
                Opts::new(
                    "wsluice_endpoint_ejected",
                    "Whether an endpoint is left out, while others take sessions, since live traffic failed on it: 1 until it answers again.",
                ),
                &["upstream", "endpoint"],
            )?,
            ejections: IntCounterVec::new(
                Opts::new("wsluice_endpoint_ejections_total", "Times an endpoint was ejected, by reason."),
                &["upstream", "endpoint", "reason"],
            )?,
            endpoint_sessions: IntGaugeVec::new(
                Opts::new("wsluice_endpoint_sessions_active", "Sessions on an endpoint at this moment."),
                &["upstream", "endpoint"],
            )?,
            endpoint_requests: IntGaugeVec::new(
                Opts::new(
                    "wsluice_endpoint_requests_active",
                    "Plain HTTP requests under way on an endpoint at this moment.",
                ),
                &["upstream", "endpoint"],
            )?,
            picks: IntCounterVec::new(
                Opts::new("wsluice_endpoint_picks_total", "Times the balancer chose an endpoint."),
                &["upstream", "endpoint"],
            )?,
            errors: IntCounterVec::new(
                Opts::new("wsluice_upstream_errors_total", "Failures that an endpoint is to blame for, by reason."),
                &["upstream", "endpoint", "reason"],
            )?,
            queue_length: IntGaugeVec::new(
                Opts::new(
                    "wsluice_upstream_queue_length",
                    "Requests that wait at this moment for an endpoint with room.",
                ),
                &["upstream"],
            )?,
            queue_wait: HistogramVec::new(
                HistogramOpts::new(
                    "wsluice_upstream_queue_wait_seconds",
                    "Time that requests waited for an endpoint with room, those that gave up included.",
                )
                .buckets(QUEUE_SECONDS.into()),
                &["upstream"],
            )?,
            admissions: IntCounterVec::new(
                Opts::new(
                    "wsluice_upstream_admissions_total",
                    "Handshakes judged by the upstream's admission rate, by what became of them.",
                ),
                &["upstream", "result"],
            )?,
            sticky: IntCounterVec::new(
                Opts::new(
                    "wsluice_upstream_sticky_total",
                    "Requests answered by an upstream with an affinity cookie, by what their cookie led to.",
                ),
                &["upstream", "result"],
            )?,
            http2_connections: IntGaugeVec::new(
                Opts::new(
                    "wsluice_upstream_http2_connections_active",
                    "Connections of HTTP/2 to servers open at this moment.",
                ),
                &["upstream"],
            )?,
            http2_streams: IntGaugeVec::new(
                Opts::new(
                    "wsluice_upstream_http2_streams_active",
                    "Streams of servers open at this moment: sessions and plain requests.",
                ),
                &["upstream"],
            )?,
            http2_stalls: IntCounterVec::new(
                Opts::new(
                    "wsluice_upstream_http2_stalls_total",
                    "Times something to send to a server had to wait for a window of its stream or its connection.",
                ),
                &["upstream"],
            )?,
            http2_goaways: IntCounterVec::new(
                Opts::new(
                    "wsluice_upstream_http2_goaways_total",
                    "GOAWAY frames of servers: they take no new streams on a connection.",
                ),
                &["upstream"],
            )?,
            by_upstream: SeriesRegistry::new(["upstream"]),
            by_endpoint: SeriesRegistry::new(["upstream", "endpoint"]),
        };
        metrics.by_upstream.register(registry, &metrics.connect_duration)?;
        metrics.by_upstream.register(registry, &metrics.retries)?;
        metrics.by_upstream.register(registry, &metrics.retries_denied)?;
        metrics.by_upstream.register(registry, &metrics.stale_connections)?;
        metrics.by_endpoint.register(registry, &metrics.ejected)?;
        metrics.by_endpoint.register(registry, &metrics.ejections)?;
        metrics.by_endpoint.register(registry, &metrics.endpoint_sessions)?;
        metrics.by_endpoint.register(registry, &metrics.endpoint_requests)?;
        metrics.by_endpoint.register(registry, &metrics.picks)?;
        metrics.by_endpoint.register(registry, &metrics.errors)?;
        metrics.by_upstream.register(registry, &metrics.queue_length)?;
        metrics.by_upstream.register(registry, &metrics.queue_wait)?;
        metrics.by_upstream.register(registry, &metrics.admissions)?;
        metrics.by_upstream.register(registry, &metrics.sticky)?;
        for gauge in [&metrics.http2_connections, &metrics.http2_streams] {
            metrics.by_upstream.register(registry, gauge)?;
        }
        for counter in [&metrics.http2_stalls, &metrics.http2_goaways] {
            metrics.by_upstream.register(registry, counter)?;
        }
        Ok(metrics)
    }

    /// Returns the handles of one upstream as a whole; its series exist until they are dropped.
    pub fn upstream(&self, upstream: &str) -> UpstreamMetrics {
        let held = self.by_upstream.guard([upstream]);
        UpstreamMetrics {
            connect_duration: self.connect_duration.with_label_values(&[upstream]),
            retries: self.retries.with_label_values(&[upstream]),
            queue_length: self.queue_length.with_label_values(&[upstream]),
            queue_wait: self.queue_wait.with_label_values(&[upstream]),
            admissions: Counters::new(&Admitted::ALL, {
                let (family, upstream) = (self.admissions.clone(), upstream.to_owned());
                move |result| family.with_label_values(&[&*upstream, result.label()])
            }),
            sticky: Counters::new(&Returned::ALL, {
                let (family, upstream) = (self.sticky.clone(), upstream.to_owned());
                move |result| family.with_label_values(&[&*upstream, result.label()])
            }),
            retries_denied: self.retries_denied.with_label_values(&[upstream]),
            stale_connections: self.stale_connections.with_label_values(&[upstream]),
            _held: held,
        }
    }

    /// Returns the handles of one upstream whose servers may speak HTTP/2; its series exist until they are dropped.
    pub fn http2(&self, upstream: &str) -> Http2Metrics {
        let held = self.by_upstream.guard([upstream]);
        Http2Metrics {
            connect_duration: self.connect_duration.with_label_values(&[upstream]),
            connections: self.http2_connections.with_label_values(&[upstream]),
            streams: self.http2_streams.with_label_values(&[upstream]),
            stalls: self.http2_stalls.with_label_values(&[upstream]),
            goaways: self.http2_goaways.with_label_values(&[upstream]),
            _held: Some(held),
        }
    }

    /// The handles of one endpoint, named as in the configuration, and their series, until they are dropped. `reasons` are the labels of all its failures.
    pub fn endpoint(&self, upstream: &str, endpoint: &str, reasons: &[&'static str]) -> EndpointMetrics {
        let held = self.by_endpoint.guard([upstream, endpoint]);
        let (errors, of_upstream, of_endpoint) = (self.errors.clone(), upstream.to_owned(), endpoint.to_owned());
        let ejections =
            EjectionReason::ALL.map(|why| self.ejections.with_label_values(&[upstream, endpoint, why.label()]));
        EndpointMetrics {
            sessions: self.endpoint_sessions.with_label_values(&[upstream, endpoint]),
            requests: self.endpoint_requests.with_label_values(&[upstream, endpoint]),
            picks: self.picks.with_label_values(&[upstream, endpoint]),
            ejected: self.ejected.with_label_values(&[upstream, endpoint]),
            ejections,
            errors: Counters::new(reasons, move |reason| {
                errors.with_label_values(&[&*of_upstream, &*of_endpoint, *reason])
            }),
            _held: held,
        }
    }
}

/// The handles of one upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    connect_duration: Histogram,
    retries: IntCounter,
    queue_length: IntGauge,
    queue_wait: Histogram,
    admissions: Counters<Admitted>,
    sticky: Counters<Returned>,
    retries_denied: IntCounter,
    stale_connections: IntCounter,
    _held: SeriesGuard,
}

impl UpstreamMetrics {
    /// Counts a connection, TLS included.
    pub fn connected(&self, took: Duration) {
        self.connect_duration.observe(seconds(took));
    }

    /// Counts an attempt on another endpoint.
    pub fn retry(&self) {
        self.retries.inc();
    }

    /// Counts a request that waits for an endpoint with room until the result is dropped, and measures its wait.
    pub fn waiting(&self) -> (Active, HistogramTimer) {
        (Active::new(&self.queue_length), self.queue_wait.start_timer())
    }

    /// Counts the result of a handshake at the gate.
    pub fn admission(&self, admitted: Admitted) {
        self.admissions.inc(admitted);
    }

    /// Counts whether a client came back by its cookie.
    pub fn sticky(&self, returned: Returned) {
        self.sticky.inc(returned);
    }

    /// Counts a retry that the spent budget forbids.
    pub fn retry_denied(&self) {
        self.retries_denied.inc();
    }

    /// Counts a request that is sent again to the same endpoint, on a new connection.
    pub fn stale_connection(&self) {
        self.stale_connections.inc();
    }
}

/// The handles of one upstream's connections of HTTP/2.
#[derive(Debug)]
pub struct Http2Metrics {
    connect_duration: Histogram,
    /// Connections open now.
    pub connections: IntGauge,
    /// Streams open now.
    pub streams: IntGauge,
    /// Waits for a window.
    pub stalls: IntCounter,
    /// GOAWAY frames of servers.
    pub goaways: IntCounter,
    _held: Option<SeriesGuard>,
}

impl Http2Metrics {
    /// Counts what nobody sees: a probe's connection is no load.
    pub fn unseen() -> Http2Metrics {
        Http2Metrics {
            connect_duration: Histogram::with_opts(HistogramOpts::new("unseen", "unseen")).expect("a valid name"),
            connections: IntGauge::new("unseen", "unseen").expect("a valid name"),
            streams: IntGauge::new("unseen", "unseen").expect("a valid name"),
            stalls: IntCounter::new("unseen", "unseen").expect("a valid name"),
            goaways: IntCounter::new("unseen", "unseen").expect("a valid name"),
            _held: None,
        }
    }

    /// Counts a connection, TLS and SETTINGS included.
    pub fn connected(&self, took: Duration) {
        self.connect_duration.observe(seconds(took));
    }
}

/// The handles of one endpoint.
#[derive(Debug)]
pub struct EndpointMetrics {
    sessions: IntGauge,
    requests: IntGauge,
    picks: IntCounter,
    ejected: IntGauge,
    ejections: [IntCounter; EjectionReason::ALL.len()],
    errors: Counters<&'static str>,
    _held: SeriesGuard,
}

impl EndpointMetrics {
    /// Counts that the balancer chose it.
    pub fn pick(&self) {
        self.picks.inc();
    }

    /// Counts one session more.
    pub fn session_begins(&self) {
        self.sessions.inc();
    }

    /// Counts one session less.
    pub fn session_ends(&self) {
        self.sessions.dec();
    }

    /// Counts one running plain request more.
    pub fn request_begins(&self) {
        self.requests.inc();
    }

    /// Counts one running plain request less.
    pub fn request_ends(&self) {
        self.requests.dec();
    }

    /// Counts an ejection.
    pub fn ejection(&self, why: EjectionReason) {
        self.ejections[why as usize].inc();
    }

    /// Shows whether it is ejected.
    pub fn show_ejected(&self, ejected: bool) {
        self.ejected.set(i64::from(ejected));
    }

    /// Counts a failure of the endpoint.
    pub fn error(&self, reason: &'static str) {
        self.errors.inc(reason);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;
    use crate::telemetry::exposition::encode;

    #[test]
    fn endpoints_count_picks_sessions_and_failures() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let upstream = metrics.upstream("chat");
        let endpoint = metrics.endpoint("chat", "ws://10.0.0.11:9000", &["refused", "timeout"]);
        endpoint.pick();
        endpoint.error("refused");
        endpoint.ejection(EjectionReason::EarlyEnds);
        endpoint.show_ejected(true);
        upstream.retry();
        upstream.connected(Duration::from_millis(1));
        endpoint.session_begins();
        let text = encode(&registry).unwrap();
        for line in [
            r#"wsluice_endpoint_picks_total{endpoint="ws://10.0.0.11:9000",upstream="chat"} 1"#,
            r#"wsluice_endpoint_sessions_active{endpoint="ws://10.0.0.11:9000",upstream="chat"} 1"#,
            r#"wsluice_upstream_errors_total{endpoint="ws://10.0.0.11:9000",reason="refused",upstream="chat"} 1"#,
            r#"wsluice_upstream_errors_total{endpoint="ws://10.0.0.11:9000",reason="timeout",upstream="chat"} 0"#,
            r#"wsluice_endpoint_ejected{endpoint="ws://10.0.0.11:9000",upstream="chat"} 1"#,
            r#"wsluice_endpoint_ejections_total{endpoint="ws://10.0.0.11:9000",reason="early_ends",upstream="chat"} 1"#,
            r#"wsluice_endpoint_ejections_total{endpoint="ws://10.0.0.11:9000",reason="failures",upstream="chat"} 0"#,
            r#"wsluice_upstream_retries_total{upstream="chat"} 1"#,
            r#"wsluice_upstream_retries_denied_total{upstream="chat"} 0"#,
            r#"wsluice_upstream_connect_duration_seconds_bucket{upstream="chat",le="0.001"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }
    #[test]
    fn series_go_with_the_last_who_counts_on_them() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let (upstream, endpoint) = (metrics.upstream("chat"), metrics.endpoint("chat", "ws://a:1", &["refused"]));
        endpoint.error("not named before");
        drop(upstream);
        let text = encode(&registry).unwrap();
        assert!(!text.contains("wsluice_upstream_retries_total{"), "{text}");
        assert!(text.contains("not named before"), "a session is on the endpoint still: {text}");
        drop(endpoint);
        assert_eq!(encode(&registry).unwrap(), "");
    }
}
