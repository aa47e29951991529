//! Metrics of the shared store, by its server, and of denied subjects.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntGauge, Opts, Registry};

use super::answer::{Away, Verdict};
use crate::base::labels::variant_labels;
use crate::telemetry::counters::{Counters, seconds};
use crate::telemetry::labelled::{HistogramVec, IntCounterVec, IntGaugeVec};
use crate::telemetry::series::{SeriesGuard, SeriesRegistry};

/// From a store on the same machine to the longest that anybody lets it take.
const SECONDS: [f64; 10] = [0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 5.0];

/// What comes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The client may open a session.
    Allowed,
    /// It has opened too many in too short a time.
    TooFast,
    /// It has too many.
    TooMany,
    /// It was told to wait, and has not: the store is not asked.
    Waiting,
}

variant_labels! {
    Asked {
        Allowed => "allowed",
        TooFast => "client_rate",
        TooMany => "client_sessions",
        Waiting => "remembered",
    }
}

impl Asked {
    /// Returns what an answer counts as.
    pub const fn of(verdict: Verdict) -> Asked {
        match verdict {
            Verdict::Allowed => Asked::Allowed,
            Verdict::TooFast(_) => Asked::TooFast,
            Verdict::TooMany => Asked::TooMany,
        }
    }
}

/// What was done for a handshake about which the store could not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The share of this instance was judged.
    Local,
    /// It was let in.
    Allow,
    /// It was not.
    Deny,
}

variant_labels! {
    Fallback {
        Local => "local",
        Allow => "allow",
        Deny => "deny",
    }
}

/// The families, before they have servers.
#[derive(Clone, Debug)]
pub struct Metrics {
    up: IntGaugeVec,
    asked: IntCounterVec,
    failures: IntCounterVec,
    fallbacks: IntCounterVec,
    duration: HistogramVec,
    by_server: SeriesRegistry<1>,
    denied: IntGauge,
}

impl Metrics {
    /// Makes and registers the families.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let counter = |name: &str, about: &str, label: &'static str| {
            IntCounterVec::new(Opts::new(name, about), &["server", label])
        };
        let metrics = Metrics {
            up: IntGaugeVec::new(
                Opts::new("wsluice_shared_store_up", "Whether the shared store answers: 0 while `on_failure` holds."),
                &["server"],
            )?,
            asked: counter(
                "wsluice_shared_store_questions_total",
                "Handshakes that the shared store was asked about, by what came of it.",
                "result",
            )?,
            failures: counter(
                "wsluice_shared_store_failures_total",
                "Times that the shared store did not answer as it should.",
                "reason",
            )?,
            fallbacks: counter(
                "wsluice_shared_store_fallbacks_total",
                "Handshakes that were judged without the shared store, as `on_failure` says.",
                "on_failure",
            )?,
            duration: HistogramVec::new(
                HistogramOpts::new(
                    "wsluice_shared_store_duration_seconds",
                    "Time that handshakes waited for the shared store's answer.",
                )
                .buckets(SECONDS.into()),
                &["server"],
            )?,
            by_server: SeriesRegistry::new(["server"]),
            denied: IntGauge::new("wsluice_denied_subjects", "Subjects that are denied now.")?,
        };
        metrics.by_server.register(registry, &metrics.up)?;
        metrics.by_server.register(registry, &metrics.asked)?;
        metrics.by_server.register(registry, &metrics.failures)?;
        metrics.by_server.register(registry, &metrics.fallbacks)?;
        metrics.by_server.register(registry, &metrics.duration)?;
        registry.register(Box::new(metrics.denied.clone()))?;
        Ok(metrics)
    }

    /// Returns the number of denied subjects.
    pub(super) fn denied(&self) -> IntGauge {
        self.denied.clone()
    }

    /// Returns the handles of one server, and keeps their series until they are dropped.
    pub(super) fn server(&self, server: &str) -> StoreMetrics {
        let counters = |family: &IntCounterVec| (family.clone(), server.to_owned());
        let ((asked, of_asked), (failures, of_failures), (fallbacks, of_fallbacks)) =
            (counters(&self.asked), counters(&self.failures), counters(&self.fallbacks));
        StoreMetrics {
            up: self.up.with_label_values(&[server]),
            asked: Counters::new(&Asked::ALL, move |it| asked.with_label_values(&[&*of_asked, it.label()])),
            failures: Counters::new(&Away::ALL, move |it| failures.with_label_values(&[&*of_failures, it.label()])),
            fallbacks: Counters::new(&Fallback::ALL, move |it| {
                fallbacks.with_label_values(&[&*of_fallbacks, it.label()])
            }),
            duration: self.duration.with_label_values(&[server]),
            _held: self.by_server.guard([server]),
        }
    }
}

/// The handles of one server.
#[derive(Debug)]
pub struct StoreMetrics {
    up: IntGauge,
    asked: Counters<Asked>,
    failures: Counters<Away>,
    fallbacks: Counters<Fallback>,
    duration: Histogram,
    _held: SeriesGuard,
}

impl StoreMetrics {
    /// Counts an answer that took so long.
    pub(super) fn answered(&self, asked: Asked, after: Duration) {
        self.asked.inc(asked);
        self.duration.observe(seconds(after));
    }

    /// Counts a client that was told to wait, and has not.
    pub fn waiting(&self) {
        self.asked.inc(Asked::Waiting);
    }

    /// Counts a handshake that is judged without the store.
    pub fn fell_back(&self, to: Fallback) {
        self.fallbacks.inc(to);
    }

    /// Counts a failure.
    pub(super) fn failed(&self, away: Away) {
        self.failures.inc(away);
    }

    /// Says whether the store answers.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only a build with Redis asks one"))]
    pub(super) fn set_up(&self, is_up: bool) {
        self.up.set(i64::from(is_up));
    }
}
