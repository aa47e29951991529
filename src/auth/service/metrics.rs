//! Metrics of questions to services, by route.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, Opts, Registry};

use crate::base::labels::variant_labels;
use crate::telemetry::counters::{Counters, seconds};
use crate::telemetry::labelled::{HistogramVec, IntCounterVec};
use crate::telemetry::series::{SeriesGuard, SeriesRegistry};

/// From a service on the same machine to the longest that it may take by default.
const SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// What comes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The service lets in.
    Allowed,
    /// It does not.
    Denied,
    /// The answer to another one was remembered.
    Remembered,
    /// An equal one was asked at the same time.
    Shared,
    /// The service could not be reached.
    Unreachable,
    /// It took too long.
    Timeout,
    /// What it sent is no answer, or too long.
    BadAnswer,
}

variant_labels! {
    Asked {
        Allowed => "allowed",
        Denied => "denied",
        Remembered => "remembered",
        Shared => "shared",
        Unreachable => "unreachable",
        Timeout => "timeout",
        BadAnswer => "bad_answer",
    }
}

/// The families, before they have routes.
#[derive(Clone, Debug)]
pub struct Metrics {
    asked: IntCounterVec,
    duration: HistogramVec,
    by_route: SeriesRegistry<1>,
}

impl Metrics {
    /// Makes and registers the families.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let metrics = Metrics {
            asked: IntCounterVec::new(
                Opts::new("wsluice_auth_requests_total", "Questions to auth.forward services, by what came of them."),
                &["route", "result"],
            )?,
            duration: HistogramVec::new(
                HistogramOpts::new(
                    "wsluice_auth_request_duration_seconds",
                    "Time that auth.forward services took to answer.",
                )
                .buckets(SECONDS.into()),
                &["route"],
            )?,
            by_route: SeriesRegistry::new(["route"]),
        };
        metrics.by_route.register(registry, &metrics.asked)?;
        metrics.by_route.register(registry, &metrics.duration)?;
        Ok(metrics)
    }

    /// Returns the handles of a route's service, and keeps their series until they are dropped.
    pub fn route(&self, route: &str) -> ServiceMetrics {
        let (asked, name) = (self.asked.clone(), route.to_owned());
        ServiceMetrics {
            asked: Counters::new(&Asked::ALL, move |result| asked.with_label_values(&[&*name, result.label()])),
            duration: self.duration.with_label_values(&[route]),
            _held: self.by_route.guard([route]),
        }
    }
}

/// The handles of one service.
#[derive(Debug)]
pub struct ServiceMetrics {
    asked: Counters<Asked>,
    duration: Histogram,
    _held: SeriesGuard,
}

impl ServiceMetrics {
    pub(super) fn count(&self, result: Asked) {
        self.asked.inc(result);
    }

    pub(super) fn answered(&self, after: Duration) {
        self.duration.observe(seconds(after));
    }
}
