//! Whether new clients should be sent here: the answer of `/readyz`, and `wsluice_draining`.
//!
//! Alive is whoever answers `/livez` at all. Ready is less: the listeners accept, and the end has not begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Registry};

/// Where the process is in its life. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lifecycle {
    /// Not all listeners accept yet.
    Starting,
    /// New sessions are welcome.
    Ready,
    /// No new sessions; those that are open are being ended.
    Draining,
}

/// The state, shared between who sets it and who tells it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicU8>);

impl Readiness {
    /// Starting.
    pub fn new() -> Readiness {
        Readiness::default()
    }

    /// Moves on to `state`; a state further on stays.
    pub fn advance(&self, state: Lifecycle) {
        self.0.fetch_max(state as u8, Ordering::AcqRel);
    }

    /// Where the process is.
    pub fn state(&self) -> Lifecycle {
        match self.0.load(Ordering::Acquire) {
            0 => Lifecycle::Starting,
            1 => Lifecycle::Ready,
            _ => Lifecycle::Draining,
        }
    }

    /// Registers `wsluice_draining`.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let gauge = IntGauge::new("wsluice_draining", "1 while sessions are being ended and no new ones accepted.")?;
        registry.register(Box::new(DrainingGauge { readiness: self.clone(), gauge }))
    }
}

/// The gauge, set from the one truth when it is asked for.
struct DrainingGauge {
    readiness: Readiness,
    gauge: IntGauge,
}

impl Collector for DrainingGauge {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(i64::from(self.readiness.state() == Lifecycle::Draining));
        self.gauge.collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;
    use crate::telemetry::exposition::encode;

    #[test]
    fn draining_is_for_good_and_the_metric_says_so() {
        let (registry, readiness) = (Registry::new(), Readiness::new());
        readiness.register(&registry).unwrap();
        assert_eq!(readiness.state(), Lifecycle::Starting);
        readiness.clone().advance(Lifecycle::Ready);
        assert_eq!(readiness.state(), Lifecycle::Ready);
        assert!(encode(&registry).unwrap().contains("\nwsluice_draining 0\n"));
        readiness.advance(Lifecycle::Draining);
        readiness.advance(Lifecycle::Ready);
        assert_eq!(readiness.state(), Lifecycle::Draining);
        assert!(encode(&registry).unwrap().contains("\nwsluice_draining 1\n"));
    }
}
