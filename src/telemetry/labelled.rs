//! Families of metrics: one name, with series that differ in the values of their labels.
//!
//! prometheus has such families of its own, `IntCounterVec` and others, but finds a series by a hash of its label
//! values run together without a separator: `{route="a",upstream="ab"}` and `{route="aa",upstream="b"}` are one
//! series, under the labels of whichever came first. Names are free here, so that can happen; these families have the
//! same methods and find a series by its values.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use prometheus::core::{Atomic, Collector, Desc, Describer, GenericCounter, GenericGauge};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Counter, Error, Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts};

use super::series::{Family, Labels};

/// Counters of whole numbers.
pub type IntCounterVec = Labelled<IntCounter>;
/// Counters.
pub type CounterVec = Labelled<Counter>;
/// Gauges of whole numbers.
pub type IntGaugeVec = Labelled<IntGauge>;
/// Gauges.
pub type GaugeVec = Labelled<Gauge>;
/// Histograms.
pub type HistogramVec = Labelled<Histogram>;

/// A kind of metric that a family can be made of.
pub trait MetricKind: prometheus::core::Metric + 'static {
    /// Its name, its help, and other options.
    type Opts: Describer + Clone + Send + Sync + 'static;

    /// Its type in Prometheus.
    const TYPE: MetricType;

    /// Makes a metric with these names and values of labels.
    ///
    /// # Errors
    /// If a name is not valid.
    fn make(opts: Self::Opts, labels: &Labels<'_>) -> prometheus::Result<Self>;

    /// Returns the options with these label names, whose values are not known yet.
    fn open(opts: Self::Opts, labels: &[&str]) -> Self::Opts;
}

fn closed(opts: Opts, labels: &Labels<'_>) -> Opts {
    labels.iter().fold(opts, |opts, (name, value)| opts.const_label(*name, *value))
}

fn open(opts: Opts, labels: &[&str]) -> Opts {
    labels.iter().fold(opts, |opts, name| opts.variable_label(*name))
}

impl<P: Atomic + 'static> MetricKind for GenericCounter<P> {
    type Opts = Opts;

    const TYPE: MetricType = MetricType::COUNTER;

    fn make(opts: Opts, labels: &Labels<'_>) -> prometheus::Result<Self> {
        GenericCounter::with_opts(closed(opts, labels))
    }

    fn open(opts: Opts, labels: &[&str]) -> Opts {
        open(opts, labels)
    }
}

impl<P: Atomic + 'static> MetricKind for GenericGauge<P> {
    type Opts = Opts;

    const TYPE: MetricType = MetricType::GAUGE;

    fn make(opts: Opts, labels: &Labels<'_>) -> prometheus::Result<Self> {
        GenericGauge::with_opts(closed(opts, labels))
    }

    fn open(opts: Opts, labels: &[&str]) -> Opts {
        open(opts, labels)
    }
}

impl MetricKind for Histogram {
    type Opts = HistogramOpts;

    const TYPE: MetricType = MetricType::HISTOGRAM;

    fn make(mut opts: HistogramOpts, labels: &Labels<'_>) -> prometheus::Result<Self> {
        opts.common_opts = closed(opts.common_opts, labels);
        Histogram::with_opts(opts)
    }

    fn open(mut opts: HistogramOpts, labels: &[&str]) -> HistogramOpts {
        opts.common_opts = open(opts.common_opts, labels);
        opts
    }
}

/// A family. Clones share the same series.
pub struct Labelled<M: MetricKind>(Arc<FamilyState<M>>);

struct FamilyState<M: MetricKind> {
    opts: M::Opts,
    desc: Desc,
    /// Names of the labels.
    names: Box<[Box<str>]>,
    /// The series by their label values.
    series: RwLock<HashMap<Box<[Box<str>]>, M>>,
}

impl<M: MetricKind> FamilyState<M> {
    fn labels<'a>(&'a self, values: &'a [Box<str>]) -> Vec<(&'a str, &'a str)> {
        self.names.iter().zip(values).map(|(name, value)| (&**name, &**value)).collect()
    }
}

impl<M: MetricKind> Labelled<M> {
    /// Makes a family without series.
    ///
    /// # Errors
    /// If its name, its help or the name of a label is not valid.
    pub fn new(opts: M::Opts, names: &[&str]) -> prometheus::Result<Labelled<M>> {
        let desc = M::open(opts.clone(), names).describe()?;
        // Finds everything that could be wrong with a series.
        M::make(opts.clone(), &names.iter().map(|name| (*name, "")).collect::<Vec<_>>())?;
        let names = names.iter().map(|name| Box::from(*name)).collect();
        Ok(Labelled(Arc::new(FamilyState { opts, desc, names, series: RwLock::default() })))
    }

    /// Returns the series with these label values, in the order of their names; makes it if there is none.
    ///
    /// # Panics
    /// If the number of values differs from the number of names.
    pub fn with_label_values<V: AsRef<str>>(&self, values: &[V]) -> M {
        assert_eq!(values.len(), self.0.names.len(), "a value for each label of {}", self.0.desc.fq_name);
        let values = key(values);
        if let Some(found) = self.read().get(&values) {
            return found.clone();
        }
        let mut series = self.0.series.write().unwrap_or_else(PoisonError::into_inner);
        let make = |values: &[Box<str>]| {
            let labels = self.0.labels(values);
            M::make(self.0.opts.clone(), &labels).expect("one was made by `new`, and values may be anything")
        };
        series.entry(values).or_insert_with_key(|values| make(values)).clone()
    }

    /// Removes a series. Handles of it go on counting, but are not shown any more.
    ///
    /// # Errors
    /// If there is none.
    pub fn remove_label_values<V: AsRef<str>>(&self, values: &[V]) -> prometheus::Result<()> {
        let mut series = self.0.series.write().unwrap_or_else(PoisonError::into_inner);
        let gone = series.remove(&key(values));
        gone.map(drop).ok_or_else(|| Error::Msg("there is no such series".to_owned()))
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Box<[Box<str>]>, M>> {
        // A panic cannot leave anything half done inside.
        self.0.series.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key<V: AsRef<str>>(values: &[V]) -> Box<[Box<str>]> {
    values.iter().map(|value| Box::from(value.as_ref())).collect()
}

impl<M: MetricKind> Collector for Labelled<M> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(self.0.desc.fq_name.clone());
        family.set_help(self.0.desc.help.clone());
        family.set_field_type(M::TYPE);
        family.set_metric(self.read().values().map(M::metric).collect());
        vec![family]
    }
}

impl<M: MetricKind> Family for Labelled<M> {
    fn remove_where(&self, gone: &dyn Fn(&Labels<'_>) -> bool) {
        let mut series = self.0.series.write().unwrap_or_else(PoisonError::into_inner);
        series.retain(|values, _| !gone(&self.0.labels(values)));
    }
}

impl<M: MetricKind> Clone for Labelled<M> {
    fn clone(&self) -> Labelled<M> {
        Labelled(Arc::clone(&self.0))
    }
}

impl<M: MetricKind> fmt::Debug for Labelled<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Labelled")
            .field("name", &self.0.desc.fq_name)
            .field("series", &self.read().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
#[expect(clippy::disallowed_types, reason = "ours are compared with theirs")]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::telemetry::exposition::encode;

    #[test]
    fn series_are_told_apart_wherever_one_value_ends_and_the_next_begins() {
        let registry = Registry::new();
        let family = IntCounterVec::new(Opts::new("c_total", "C."), &["route", "upstream"]).unwrap();
        registry.register(Box::new(family.clone())).unwrap();
        for (count, values) in [(1, ["a", "ab"]), (2, ["aa", "b"]), (3, ["", "aab"]), (4, ["a\u{ff}", "\0"])] {
            family.with_label_values(&values).inc_by(count);
        }
        family.with_label_values(&["a", "ab"]).inc_by(10);
        let text = encode(&registry).unwrap();
        for line in [
            "c_total{route=\"a\",upstream=\"ab\"} 11",
            "c_total{route=\"aa\",upstream=\"b\"} 2",
            "c_total{route=\"\",upstream=\"aab\"} 3",
            "c_total{route=\"a\u{ff}\",upstream=\"\0\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        family.remove_label_values(&["a", "ab"]).unwrap();
        assert!(family.remove_label_values(&["a", "ab"]).is_err());
        assert_eq!(encode(&registry).unwrap().matches("c_total{").count(), 3, "its neighbours stay");
    }

    #[test]
    fn each_kind_is_shown_as_prometheus_shows_it() {
        let registry = Registry::new();
        let theirs = Registry::new();
        let buckets = || HistogramOpts::new("h_seconds", "H.").buckets(vec![0.5, 1.0]);
        let (ours, same) =
            (HistogramVec::new(buckets(), &["b", "a"]), prometheus::HistogramVec::new(buckets(), &["b", "a"]));
        let (ours, same) = (ours.unwrap(), same.unwrap());
        registry.register(Box::new(ours.clone())).unwrap();
        theirs.register(Box::new(same.clone())).unwrap();
        let gauge = || Opts::new("g", "G.");
        let (gauges, same_gauges) = (GaugeVec::new(gauge(), &["a"]), prometheus::GaugeVec::new(gauge(), &["a"]));
        let (gauges, same_gauges) = (gauges.unwrap(), same_gauges.unwrap());
        registry.register(Box::new(gauges.clone())).unwrap();
        theirs.register(Box::new(same_gauges.clone())).unwrap();
        assert_eq!(encode(&registry).unwrap(), "", "without series there is nothing to show");
        for values in [["x", "y"], ["y", "x"]] {
            ours.with_label_values(&values).observe(0.7);
            same.with_label_values(&values).observe(0.7);
        }
        gauges.with_label_values(&["\"quoted\"\\"]).set(-1.5);
        same_gauges.with_label_values(&["\"quoted\"\\"]).set(-1.5);
        assert_eq!(encode(&registry).unwrap(), encode(&theirs).unwrap());
    }

    #[test]
    fn a_name_that_is_none_is_refused_when_the_family_is_made() {
        assert!(IntGaugeVec::new(Opts::new("no-name", "N."), &["a"]).is_err());
        assert!(IntGaugeVec::new(Opts::new("name", "N."), &["no-label"]).is_err());
        assert!(IntGaugeVec::new(Opts::new("name", "N."), &["twice", "twice"]).is_err());
        assert!(HistogramVec::new(HistogramOpts::new("name", "N."), &["le"]).is_err());
    }
}
