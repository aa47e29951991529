//! Metrics of keys that are fetched, by their URL.

use prometheus::{Gauge, IntGauge, Opts, Registry};

use crate::base::clock;
use crate::base::labels::variant_labels;
use crate::config::HttpUrl;
use crate::telemetry::counters::{Counters, seconds};
use crate::telemetry::labelled::{GaugeVec, IntCounterVec, IntGaugeVec};
use crate::telemetry::series::{SeriesGuard, SeriesRegistry};

/// What comes of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// There are keys.
    Ok,
    /// The server could not be connected to, or broke off.
    Unreachable,
    /// There was no answer in time.
    Timeout,
    /// The server answered with another status than 200.
    Status,
    /// The answer is larger than any set of keys.
    TooLarge,
    /// The answer is no set of keys that can be used.
    Malformed,
}

variant_labels! {
    Fetched {
        Ok => "ok",
        Unreachable => "unreachable",
        Timeout => "timeout",
        Status => "status",
        TooLarge => "too_large",
        Malformed => "malformed",
    }
}

/// The families, before they have sources.
#[derive(Clone, Debug)]
pub struct Metrics {
    fetches: IntCounterVec,
    up: IntGaugeVec,
    succeeded: GaugeVec,
    keys: IntGaugeVec,
    by_url: SeriesRegistry<1>,
}

impl Metrics {
    /// Makes and registers the families.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let labels = &["url"];
        let metrics = Metrics {
            fetches: IntCounterVec::new(
                Opts::new("wsluice_jwks_fetches_total", "Times that keys were fetched, by what came of it."),
                &["url", "result"],
            )?,
            up: IntGaugeVec::new(
                Opts::new(
                    "wsluice_jwks_up",
                    "Whether the keys could be fetched the last time: 0 while old ones serve.",
                ),
                labels,
            )?,
            succeeded: GaugeVec::new(
                Opts::new(
                    "wsluice_jwks_last_success_timestamp_seconds",
                    "When keys were last fetched, in Unix time; 0 if never.",
                ),
                labels,
            )?,
            keys: IntGaugeVec::new(Opts::new("wsluice_jwks_keys", "Keys that tokens can be verified with."), labels)?,
            by_url: SeriesRegistry::new(["url"]),
        };
        metrics.by_url.register(registry, &metrics.fetches)?;
        metrics.by_url.register(registry, &metrics.up)?;
        metrics.by_url.register(registry, &metrics.succeeded)?;
        metrics.by_url.register(registry, &metrics.keys)?;
        Ok(metrics)
    }

    /// Returns the handles of one source, and keeps their series until they are dropped. A query is left out of the label:
    /// it may have a key in it.
    pub(super) fn source(&self, url: &HttpUrl) -> SourceMetrics {
        let url = url.to_string();
        let url = url.split('?').next().unwrap_or_default().to_owned();
        let held = self.by_url.guard([url.as_str()]);
        let (fetches, of) = (self.fetches.clone(), url.clone());
        SourceMetrics {
            fetches: Counters::new(&Fetched::ALL, move |result| fetches.with_label_values(&[&*of, result.label()])),
            up: self.up.with_label_values(&[&url]),
            succeeded: self.succeeded.with_label_values(&[&url]),
            keys: self.keys.with_label_values(&[&url]),
            _held: held,
        }
    }
}

/// The handles of one source.
#[derive(Debug)]
pub(super) struct SourceMetrics {
    fetches: Counters<Fetched>,
    up: IntGauge,
    succeeded: Gauge,
    keys: IntGauge,
    _held: SeriesGuard,
}

impl SourceMetrics {
    pub(super) fn fetched(&self, keys: usize) {
        self.fetches.inc(Fetched::Ok);
        self.up.set(1);
        self.succeeded.set(seconds(clock::since_epoch()));
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    pub(super) fn failed(&self, why: Fetched) {
        self.fetches.inc(why);
        self.up.set(0);
    }
}
