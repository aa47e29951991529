//! Removes series that nobody uses any more.
//!
//! Names of routes, listeners and upstreams come and go with reloads, but a family of metrics keeps every series it
//! ever had. So every user of handles also holds a [`SeriesGuard`] for their label values, and series without a guard
//! are removed. A route that a reload changes is held by the sessions of the old configuration and by the new one:
//! its counters go on.
//!
//! The last holder is often a session that ends on a worker. Dropping its guard does nothing else: finding the series
//! of a name takes a walk through the whole family, since some are made only on first use (a rare status), and with a
//! thousand routes that takes tens of milliseconds. Instead all unused series are removed together: before the
//! families are collected (a scrape never sees them), and when the number of label values has doubled (nobody needs
//! to scrape).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

/// Values of labels, in the order of their names.
pub type Values<const N: usize> = [Box<str>; N];

/// Names and values of the labels of one series.
pub type Labels<'a> = [(&'a str, &'a str)];

/// A family of metrics that can lose series.
pub trait Family: Send + Sync {
    /// Removes every series for which `gone` returns true.
    fn remove_where(&self, gone: &dyn Fn(&Labels<'_>) -> bool);
}

/// The families whose series share some labels, and the guards of their label values. Clones share the same registry.
#[derive(Clone)]
pub struct SeriesRegistry<const N: usize> {
    labels: [&'static str; N],
    table: Arc<Mutex<SeriesTable<N>>>,
}

struct SeriesTable<const N: usize> {
    families: Vec<Box<dyn Family>>,
    held: HashMap<Values<N>, Weak<()>>,
    /// Sweeps once there are this many values.
    sweep_at: usize,
}

/// The least number of values at which the table is swept without a scrape.
const SWEEP_MIN: usize = 64;

/// A family that is swept before it is collected.
struct Swept<F, const N: usize> {
    family: F,
    registry: SeriesRegistry<N>,
}

impl<F: Collector, const N: usize> Collector for Swept<F, N> {
    fn desc(&self) -> Vec<&Desc> {
        self.family.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.registry.lock().sweep(&self.registry.labels);
        self.family.collect()
    }
}

/// Keeps the series of some label values. Clones keep the same ones.
#[derive(Clone, Debug)]
#[must_use = "what nobody holds is taken out"]
pub struct SeriesGuard(#[expect(dead_code, reason = "it is there to be counted")] Arc<()>);

impl<const N: usize> SeriesRegistry<N> {
    /// Makes a registry for families that have these labels and perhaps others.
    pub fn new(labels: [&'static str; N]) -> SeriesRegistry<N> {
        let table = SeriesTable { families: vec![], held: HashMap::new(), sweep_at: SWEEP_MIN };
        SeriesRegistry { labels, table: Arc::new(Mutex::new(table)) }
    }

    /// Registers a family whose series are removed once no guard holds them.
    ///
    /// # Errors
    /// If its name is taken.
    pub fn register<F>(&self, registry: &Registry, family: &F) -> prometheus::Result<()>
    where
        F: Family + Collector + Clone + 'static,
    {
        registry.register(Box::new(Swept { family: family.clone(), registry: self.clone() }))?;
        self.lock().families.push(Box::new(family.clone()));
        Ok(())
    }

    /// Holds the series with these values. Take the guard first and fetch the handles then: a removal under way is
    /// complete when this returns, and what is held stays.
    pub fn guard(&self, values: [&str; N]) -> SeriesGuard {
        let mut table = self.lock();
        let values = values.map(Box::from);
        if let Some(held) = table.held.get(&values).and_then(Weak::upgrade) {
            return SeriesGuard(held);
        }
        if table.held.len() >= table.sweep_at {
            table.sweep(&self.labels);
            table.sweep_at = SWEEP_MIN.max(2 * table.held.len());
        }
        let new = Arc::new(());
        table.held.insert(values, Arc::downgrade(&new));
        SeriesGuard(new)
    }

    fn lock(&self) -> MutexGuard<'_, SeriesTable<N>> {
        // Nothing inside can be left half done by a panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const N: usize> SeriesTable<N> {
    /// Removes the series without a guard. The table stays locked until all are removed, so that `guard` cannot come
    /// between.
    fn sweep(&mut self, labels: &[&'static str; N]) {
        let nobody = |_: &Values<N>, holders: &mut Weak<()>| holders.strong_count() == 0;
        let gone: HashSet<Values<N>> = self.held.extract_if(nobody).map(|(values, _)| values).collect();
        if gone.is_empty() {
            return;
        }
        for family in &self.families {
            family.remove_where(&|series| {
                let value = |name| series.iter().find(|label| label.0 == name).map_or("", |label| label.1);
                gone.contains(&labels.map(|name| value(name).into()))
            });
        }
    }
}

impl<const N: usize> fmt::Debug for SeriesRegistry<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeriesRegistry")
            .field("labels", &self.labels)
            .field("held", &self.lock().held.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use prometheus::{HistogramOpts, Opts};

    use super::*;
    use crate::telemetry::exposition::encode;
    use crate::telemetry::labelled::{HistogramVec, IntCounterVec};

    /// Two families with one series registry.
    fn families() -> (Registry, IntCounterVec, HistogramVec, SeriesRegistry<2>) {
        let registry = Registry::new();
        let counters = IntCounterVec::new(Opts::new("c_total", "C."), &["reason", "listener", "route"]).unwrap();
        let histograms = HistogramVec::new(HistogramOpts::new("h", "H."), &["listener", "route"]).unwrap();
        let shelf = SeriesRegistry::new(["listener", "route"]);
        shelf.register(&registry, &counters).unwrap();
        shelf.register(&registry, &histograms).unwrap();
        (registry, counters, histograms, shelf)
    }

    #[test]
    fn what_nobody_holds_is_taken_out_whatever_its_other_labels_are() {
        let (registry, counters, histograms, shelf) = families();
        let (gone, stays) = (shelf.guard(["l", "gone"]), shelf.guard(["l", "stays"]));
        for route in ["gone", "stays", "held by nobody ever"] {
            counters.with_label_values(&["first", "l", route]).inc();
            counters.with_label_values(&["made late", "l", route]).inc();
            histograms.with_label_values(&["l", route]).observe(1.0);
        }
        assert!(encode(&registry).unwrap().contains("gone"), "it is still held");
        drop(gone);
        let text = encode(&registry).unwrap();
        assert!(!text.contains("gone"), "{text}");
        assert_eq!(text.matches(r#"route="stays""#).count(), 2 + 14, "{text}");
        assert!(text.contains("held by nobody ever"), "what was never held is not ours");
        assert_eq!(shelf.lock().held.len(), 1);
        drop(stays);
    }

    #[test]
    fn a_counter_goes_on_from_one_holder_to_the_next() {
        let (registry, counters, _, shelf) = families();
        let count = || counters.with_label_values(&["", "l", "r"]);
        let old = shelf.guard(["l", "r"]);
        count().inc();
        let new = shelf.guard(["l", "r"]);
        drop(old);
        encode(&registry).unwrap();
        assert_eq!(count().get(), 1);
        // Also if nobody held it for a moment, as long as nobody looked.
        drop(new);
        let again = shelf.guard(["l", "r"]);
        encode(&registry).unwrap();
        assert_eq!(count().get(), 1);
        drop(again);
        encode(&registry).unwrap();
        assert_eq!(count().get(), 0);
    }

    #[test]
    fn what_nobody_looks_at_is_bounded_too() {
        let (_registry, counters, _, shelf) = families();
        let stays: Vec<_> = (0..100).map(|route| shelf.guard(["stays", &route.to_string()])).collect();
        for route in 0..5000 {
            let route = route.to_string();
            let _held = shelf.guard(["l", &route]);
            counters.with_label_values(&["", "l", &route]).inc();
        }
        let series: usize = counters.collect().iter().map(|family| family.get_metric().len()).sum();
        assert!(series <= 2 * stays.len(), "{series}");
        assert!(shelf.lock().held.len() <= 2 * stays.len() + 2);
    }

    #[test]
    fn nothing_is_taken_from_those_who_hold_meanwhile() {
        let (registry, counters, _, shelf) = families();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    encode(&registry).unwrap();
                }
            });
            let holders: Vec<_> = (1..=3)
                .map(|holder| {
                    let (shelf, counters) = (&shelf, &counters);
                    scope.spawn(move || {
                        for _ in 0..20_000 {
                            let held = shelf.guard(["l", "r"]);
                            let mine = counters.with_label_values(&["", "l", "r"]);
                            let before = mine.get();
                            // If the family had another by now, this would not be seen in mine.
                            (0..holder).for_each(|_| counters.with_label_values(&["", "l", "r"]).inc());
                            assert!(mine.get() >= before + holder, "a series that is held was taken out");
                            drop(held);
                        }
                    })
                })
                .collect();
            let ended: Vec<_> = holders.into_iter().map(|holder| holder.join()).collect();
            over.store(true, Ordering::Relaxed);
            looking.join().unwrap();
            ended.into_iter().for_each(|ended| ended.unwrap());
        });
        assert_eq!(encode(&registry).unwrap(), "");
    }
}
