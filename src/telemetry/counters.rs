//! Metric handles fetched in advance, so that an event costs one addition and no look-up of labels by their text.

use std::fmt;
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};

/// Counters of one family that differ only in labels with a closed set of values: a status, a reason, an end.
///
/// The counters named at creation exist from then on, with 0: a rate needs the zero before the first event. They are
/// found by comparing keys one after the other, which for a dozen is faster than hashing text. A key that was not
/// named is still counted, at the price of a look-up.
pub struct Counters<K> {
    known: Box<[(K, IntCounter)]>,
    make: Box<dyn Fn(&K) -> IntCounter + Send + Sync>,
}

impl<K: Copy + PartialEq> Counters<K> {
    /// Makes the counters of `known` now, by `make`, and those of other keys on demand.
    pub fn new(known: &[K], make: impl Fn(&K) -> IntCounter + Send + Sync + 'static) -> Counters<K> {
        let known = known.iter().map(|key| (*key, make(key))).collect();
        Counters { known, make: Box::new(make) }
    }

    /// Counts one.
    pub fn inc(&self, key: K) {
        match self.known.iter().find(|(known, _)| *known == key) {
            Some((_, counter)) => counter.inc(),
            None => (self.make)(&key).inc(),
        }
    }
}

impl<K: fmt::Debug> fmt::Debug for Counters<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.known.iter().map(|(key, counter)| (key, counter.get()))).finish()
    }
}

/// Adds one to a gauge until it is dropped, however the task that holds it ends.
#[derive(Debug)]
pub struct Active(IntGauge);

impl Active {
    /// Adds one.
    pub fn new(gauge: &IntGauge) -> Active {
        gauge.inc();
        Active(gauge.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Returns a duration in seconds, as Prometheus wants it.
pub fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use prometheus::Opts;

    use super::*;
    use crate::telemetry::labelled::IntCounterVec;

    #[test]
    fn known_keys_start_at_zero_and_unknown_ones_are_counted_too() {
        let family = IntCounterVec::new(Opts::new("refused_total", "Refused."), &["reason"]).unwrap();
        let made = family.clone();
        let counters = Counters::new(&["origin", "rate"], move |reason| made.with_label_values(&[*reason]));
        counters.inc("rate");
        counters.inc("new");
        counters.inc("new");
        assert_eq!(format!("{counters:?}"), r#"{"origin": 0, "rate": 1}"#);
        assert_eq!(family.with_label_values(&["new"]).get(), 2);
    }

    #[test]
    fn what_is_active_is_counted_out_when_dropped() {
        let gauge = IntGauge::new("active", "Active.").unwrap();
        let (one, two) = (Active::new(&gauge), Active::new(&gauge));
        assert_eq!(gauge.get(), 2);
        drop(one);
        drop(two);
        assert_eq!(gauge.get(), 0);
    }
}
