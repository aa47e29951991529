//! Metrics of discovery, by upstream.

use prometheus::{Gauge, IntCounter, IntGauge, Opts, Registry};

use super::DiscoveryErrorKind;
use crate::base::clock;
use crate::telemetry::counters::{Counters, seconds};
use crate::telemetry::labelled::{GaugeVec, IntCounterVec, IntGaugeVec};
use crate::telemetry::series::{SeriesGuard, SeriesRegistry};

/// The families, before they have upstreams.
#[derive(Clone, Debug)]
pub struct Metrics {
    answered: GaugeVec,
    updates: IntCounterVec,
    endpoints: IntGaugeVec,
    errors: IntCounterVec,
    by_upstream: SeriesRegistry<2>,
}

impl Metrics {
    /// Makes and registers the families.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let labels = &["upstream", "provider"];
        let metrics = Metrics {
            // A time, not an age: Prometheus then computes the age at the time of its query, and a proxy that hangs
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
            by_upstream: SeriesRegistry::new(["upstream", "provider"]),
        };
        metrics.by_upstream.register(registry, &metrics.answered)?;
        metrics.by_upstream.register(registry, &metrics.updates)?;
        metrics.by_upstream.register(registry, &metrics.endpoints)?;
        metrics.by_upstream.register(registry, &metrics.errors)?;
        Ok(metrics)
    }

    /// Returns the handles of one upstream, and keeps their series until they are dropped; `provider` is the kind of
    /// its source.
    pub fn upstream(&self, upstream: &str, provider: &'static str) -> DiscoveryMetrics {
        let held = self.by_upstream.guard([upstream, provider]);
        let (errors, of_upstream) = (self.errors.clone(), upstream.to_owned());
        DiscoveryMetrics {
            answered: self.answered.with_label_values(&[upstream, provider]),
            updates: self.updates.with_label_values(&[upstream, provider]),
            endpoints: self.endpoints.with_label_values(&[upstream, provider]),
            errors: Counters::new(&DiscoveryErrorKind::ALL.map(DiscoveryErrorKind::label), move |reason| {
                errors.with_label_values(&[&*of_upstream, provider, *reason])
            }),
            _held: held,
        }
    }
}

/// The handles of discovery for one upstream.
#[derive(Debug)]
pub struct DiscoveryMetrics {
    answered: Gauge,
    updates: IntCounter,
    endpoints: IntGauge,
    errors: Counters<&'static str>,
    _held: SeriesGuard,
}

impl DiscoveryMetrics {
    pub(super) fn answered(&self) {
        self.answered.set(seconds(clock::since_epoch()));
    }

    pub(super) fn updated(&self, endpoints: usize) {
        self.updates.inc();
        self.endpoints.set(i64::try_from(endpoints).unwrap_or(i64::MAX));
    }

    pub(super) fn failed(&self, reason: DiscoveryErrorKind) {
        self.errors.inc(reason.label());
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;
    use crate::telemetry::exposition::encode;

    #[test]
    fn series_go_when_the_upstream_is_told_by_another() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let (dns, etcd) = (metrics.upstream("chat", "dns"), metrics.upstream("chat", "etcd"));
        dns.failed(DiscoveryErrorKind::Timeout);
        dns.updated(3);
        drop(dns);
        let text = encode(&registry).unwrap();
        assert!(text.contains(r#"provider="etcd""#) && !text.contains(r#"provider="dns""#), "{text}");
        drop(etcd);
        assert_eq!(encode(&registry).unwrap(), "");
    }
}
