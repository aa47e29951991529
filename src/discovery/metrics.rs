//! What discovery counts, by upstream.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::Reason;
use crate::telemetry::counters::{Counters, seconds};

/// The families, before they have upstreams.
#[derive(Clone, Debug)]
pub struct Metrics {
    answered: GaugeVec,
    updates: IntCounterVec,
    endpoints: IntGaugeVec,
    errors: IntCounterVec,
}

impl Metrics {
    /// Makes and registers the families.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let labels = &["upstream", "provider"];
        let metrics = Metrics {
            // A time and not an age: Prometheus then tells the age at the moment of its query, and a proxy that hangs
            // grows old too.
            answered: GaugeVec::new(
                Opts::new(
                    "wsluice_discovery_last_answer_timestamp_seconds",
                    "When discovery last had a good answer of its source, in Unix time; 0 if never.",
                ),
                labels,
            )?,
            updates: IntCounterVec::new(
                Opts::new("wsluice_discovery_updates_total", "Times discovery changed the endpoints of an upstream."),
                labels,
            )?,
            endpoints: IntGaugeVec::new(
                Opts::new("wsluice_discovery_endpoints", "Endpoints that discovery has found for an upstream."),
                labels,
            )?,
            errors: IntCounterVec::new(
                Opts::new("wsluice_discovery_errors_total", "Answers that discovery did not get or use, by reason."),
                &["upstream", "provider", "reason"],
            )?,
        };
        registry.register(Box::new(metrics.answered.clone()))?;
        registry.register(Box::new(metrics.updates.clone()))?;
        registry.register(Box::new(metrics.endpoints.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        Ok(metrics)
    }

    /// The handles of one upstream; `provider` is the kind of its source.
    pub fn upstream(&self, upstream: &str, provider: &'static str) -> UpstreamMetrics {
        let (errors, of_upstream) = (self.errors.clone(), upstream.to_owned());
        UpstreamMetrics {
            answered: self.answered.with_label_values(&[upstream, provider]),
            updates: self.updates.with_label_values(&[upstream, provider]),
            endpoints: self.endpoints.with_label_values(&[upstream, provider]),
            errors: Counters::new(&Reason::LABELS, move |reason| {
                errors.with_label_values(&[&*of_upstream, provider, *reason])
            }),
        }
    }
}

/// What discovery for one upstream counts on.
#[derive(Debug)]
pub struct UpstreamMetrics {
    answered: Gauge,
    updates: IntCounter,
    endpoints: IntGauge,
    errors: Counters<&'static str>,
}

impl UpstreamMetrics {
    pub(super) fn answered(&self) {
        self.answered.set(seconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()));
    }

    pub(super) fn updated(&self, endpoints: usize) {
        self.updates.inc();
        self.endpoints.set(i64::try_from(endpoints).unwrap_or(i64::MAX));
    }

    pub(super) fn failed(&self, reason: Reason) {
        self.errors.inc(reason.label());
    }
}
