//! Metrics of drains: the sessions that are still there.
//!
//! Nothing is counted when sessions open and close. Each scrape walks all sessions once, and only while there is a drain or
//! a session has been told to stop: 100,000 sessions and one drain take some milliseconds of the admin thread.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Opts, Registry};
use tokio::sync::watch;

use super::drains::{DrainProgress, DrainTarget};
use crate::session::Sessions;
use crate::session::stop::StopReason;
use crate::telemetry::labelled::IntGaugeVec;

/// The label of a drain of the whole process.
const PROCESS: &str = "process";
const KINDS: [&str; 5] = ["listener", "route", "upstream", "endpoint", PROCESS];

/// Computes the metrics at each scrape.
struct DrainCollector {
    sessions: Arc<Sessions>,
    drains: watch::Receiver<Vec<DrainProgress>>,
    desc: Vec<Desc>,
}

/// The families with the values of one scrape.
struct DrainFamilies {
    active: IntGaugeVec,
    left: IntGaugeVec,
    stopping: IntGaugeVec,
}

/// Registers the metrics. `drains` are those of the operator.
///
/// # Errors
/// If one of the names is taken.
pub fn register(
    registry: &Registry,
    sessions: Arc<Sessions>,
    drains: watch::Receiver<Vec<DrainProgress>>,
) -> prometheus::Result<()> {
    let families = DrainFamilies::new()?;
    let desc = families.all().into_iter().flat_map(Collector::desc).cloned().collect();
    registry.register(Box::new(DrainCollector { sessions, drains, desc }))
}

impl DrainFamilies {
    fn new() -> prometheus::Result<DrainFamilies> {
        Ok(DrainFamilies {
            active: IntGaugeVec::new(
                Opts::new(
                    "wsluice_drains_active",
                    "Drains that were begun and not ended, by what is drained; its sessions may all have gone.",
                ),
                &["kind"],
            )?,
            left: IntGaugeVec::new(
                Opts::new(
                    "wsluice_drain_sessions_left",
                    "Sessions that are still there where a drain was begun and not ended.",
                ),
                &["kind", "name", "endpoint"],
            )?,
            stopping: IntGaugeVec::new(
                Opts::new(
                    "wsluice_sessions_stopping",
                    "Sessions that have been told to stop, now or at their moment, and are still there, by reason.",
                ),
                &["reason"],
            )?,
        })
    }

    fn all(&self) -> [&IntGaugeVec; 3] {
        [&self.active, &self.left, &self.stopping]
    }
}

impl DrainTarget {
    /// Returns its kind and names as labels.
    fn labels(&self) -> [&str; 3] {
        match self {
            DrainTarget::Listener { name } => ["listener", name, ""],
            DrainTarget::Route { name } => ["route", name, ""],
            DrainTarget::Upstream { name } => ["upstream", name, ""],
            DrainTarget::Endpoint { upstream, endpoint } => ["endpoint", upstream, endpoint],
        }
    }
}

impl Collector for DrainCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.desc.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(families) = DrainFamilies::new() else { return vec![] };
        let drains = self.drains.borrow().clone();
        let is_ending = self.sessions.is_draining();
        let mut left = vec![0; drains.len()];
        let mut stopping: HashMap<&str, i64> = StopReason::LABELS.map(|reason| (reason, 0)).into();
        let mut all = 0;
        if is_ending || !drains.is_empty() || self.sessions.is_any_stopping() {
            self.sessions.for_each_session(|member, stop| {
                all += 1;
                if let Some(stop) = stop {
                    *stopping.entry(stop.why.label()).or_default() += 1;
                }
                for (drain, left) in drains.iter().zip(&mut left) {
                    *left += i64::from(drain.target.has(member));
                }
            });
        }
        for kind in KINDS {
            let drains = drains.iter().filter(|drain| drain.target.labels()[0] == kind).count();
            families.active.with_label_values(&[kind]).set(drains as i64);
        }
        for (drain, left) in drains.iter().zip(left) {
            families.left.with_label_values(&drain.target.labels()).set(left);
        }
        if is_ending {
            families.active.with_label_values(&[PROCESS]).set(1);
            families.left.with_label_values(&[PROCESS, "", ""]).set(all);
        }
        for (reason, count) in stopping {
            families.stopping.with_label_values(&[reason]).set(count);
        }
        families.all().into_iter().flat_map(Collector::collect).collect()
    }
}
