//! Metrics of probes: how long they take, why they fail, and the state of each endpoint.

use std::time::Duration;

use prometheus::{HistogramOpts, Opts, Registry};

use crate::telemetry::counters::seconds;
use crate::telemetry::labelled::{HistogramVec, IntCounterVec, IntGaugeVec};
use crate::telemetry::series::{SeriesGuard, SeriesRegistry};

/// From a server in the same rack to the 2 s that a probe may take by default, and somewhat beyond.
const DURATION_SECONDS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5];

/// The families, before they have endpoints.
#[derive(Clone, Debug)]
pub struct Metrics {
    duration: HistogramVec,
    failures: IntCounterVec,
    up: IntGaugeVec,
    transitions: IntCounterVec,
    by_kind: SeriesRegistry<2>,
    by_endpoint: SeriesRegistry<2>,
}

impl Metrics {
    /// Makes and registers the families.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let of_endpoint = ["upstream", "endpoint", "reason"];
        let metrics = Metrics {
            duration: HistogramVec::new(
                HistogramOpts::new("wsluice_probe_duration_seconds", "Time of a health check, passed or failed.")
                    .buckets(DURATION_SECONDS.into()),
                &["upstream", "kind"],
            )?,
            failures: IntCounterVec::new(
                Opts::new("wsluice_probe_failures_total", "Health checks that an endpoint failed, by reason."),
                &of_endpoint,
            )?,
            up: IntGaugeVec::new(
                Opts::new("wsluice_endpoint_up", "What health checks say of an endpoint: 1 up, 0 down."),
                &of_endpoint[..2],
            )?,
            transitions: IntCounterVec::new(
                Opts::new(
                    "wsluice_endpoint_transitions_total",
                    "Times an endpoint went up (reason `passed`) or down (why its last check failed).",
                ),
                &of_endpoint,
            )?,
            by_kind: SeriesRegistry::new(["upstream", "kind"]),
            by_endpoint: SeriesRegistry::new(["upstream", "endpoint"]),
        };
        metrics.by_kind.register(registry, &metrics.duration)?;
        metrics.by_endpoint.register(registry, &metrics.failures)?;
        metrics.by_endpoint.register(registry, &metrics.up)?;
        metrics.by_endpoint.register(registry, &metrics.transitions)?;
        Ok(metrics)
    }

    /// Returns the handles of one endpoint for this kind of probe, and keeps its series until they are dropped.
    pub fn endpoint(&self, upstream: &str, endpoint: &str, kind: &'static str) -> ProbeMetrics {
        let held = (self.by_kind.guard([upstream, kind]), self.by_endpoint.guard([upstream, endpoint]));
        let names = [upstream.to_owned(), endpoint.to_owned()];
        ProbeMetrics { families: self.clone(), names, kind, _held: held }
    }
}

/// The handles of one endpoint. Its series begin on first use: a dozen reasons for each endpoint would nearly all
/// stay 0.
#[derive(Debug)]
pub struct ProbeMetrics {
    families: Metrics,
    names: [String; 2],
    kind: &'static str,
    _held: (SeriesGuard, SeriesGuard),
}

impl ProbeMetrics {
    /// Counts a probe, its duration, and the reason if it failed.
    pub fn probed(&self, took: Duration, failed: Option<&'static str>) {
        let [upstream, endpoint] = self.names();
        self.families.duration.with_label_values(&[upstream, self.kind]).observe(seconds(took));
        if let Some(reason) = failed {
            self.families.failures.with_label_values(&[upstream, endpoint, reason]).inc();
        }
    }

    /// Sets the endpoint's state.
    pub fn set_up(&self, up: bool) {
        self.families.up.with_label_values(&self.names()).set(i64::from(up));
    }

    /// Counts that it went up or down, and why.
    pub fn changed(&self, reason: &'static str) {
        let [upstream, endpoint] = self.names();
        self.families.transitions.with_label_values(&[upstream, endpoint, reason]).inc();
    }

    fn names(&self) -> [&str; 2] {
        self.names.each_ref().map(String::as_str)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;
    use crate::telemetry::exposition::encode;

    #[test]
    fn an_endpoint_has_series_as_long_as_it_is_probed() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let endpoint = metrics.endpoint("chat", "ws://a:1", "websocket");
        endpoint.probed(Duration::from_millis(1), None);
        endpoint.probed(Duration::from_secs(2), Some("pong_timeout"));
        endpoint.set_up(false);
        endpoint.changed("pong_timeout");
        let text = encode(&registry).unwrap();
        for line in [
            r#"wsluice_endpoint_up{endpoint="ws://a:1",upstream="chat"} 0"#,
            r#"wsluice_endpoint_transitions_total{endpoint="ws://a:1",reason="pong_timeout",upstream="chat"} 1"#,
            r#"wsluice_probe_failures_total{endpoint="ws://a:1",reason="pong_timeout",upstream="chat"} 1"#,
            r#"wsluice_probe_duration_seconds_count{kind="websocket",upstream="chat"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        // Another weight makes another endpoint, which is probed before the other is let go or after.
        let next = metrics.endpoint("chat", "ws://a:1", "websocket");
        drop(endpoint);
        assert!(encode(&registry).unwrap().contains(r#"reason="pong_timeout",upstream="chat"} 1"#));
        drop(next);
        assert_eq!(encode(&registry).unwrap(), "");
    }
}
