//! Whether new clients should be sent here: the answer of `/readyz`, and `wsluice_draining`.
//!
//! The process is alive if `/livez` answers at all. It is ready if the listeners accept and its end has not begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Registry};

/// The stage of the process. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lifecycle {
    /// Not all listeners accept yet.
    Starting,
    /// New sessions are accepted.
    Ready,
    /// No new sessions are accepted; the open ones are being closed.
    Draining,
}

/// The shared stage. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicU8>);

impl Readiness {
    /// Creates a stage of `Starting`.
    pub fn new() -> Readiness {
        Readiness::default()
    }

    /// Advances to `state`, unless it is further already.
    pub fn advance(&self, state: Lifecycle) {
        self.0.fetch_max(state as u8, Ordering::AcqRel);
    }

    /// Returns the stage.
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

/// The gauge, set at each scrape.
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
