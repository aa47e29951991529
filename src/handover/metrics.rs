//! What is counted of handovers, and what earlier processes still have.

use std::collections::HashMap;

use prometheus::{IntGauge, Opts, Registry};
use tokio::sync::watch;

use crate::telemetry::labelled::{IntCounterVec, IntGaugeVec};
use crate::upstream::endpoint_state::EndpointKey;

/// What became of an attempt to start the next process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It has taken over.
    Done,
    /// It could not be started at all.
    StartFailed,
    /// It ended by itself before it was ready.
    NotReady,
    /// It ended, or was killed, when it was ready already.
    Died,
    /// It did not do the next step in time, and was killed.
    Timeout,
    /// It said that it would not, or what cannot be understood.
    Refused,
}

impl Attempt {
    /// All of them.
    pub const ALL: [Attempt; 6] =
        [Attempt::Done, Attempt::StartFailed, Attempt::NotReady, Attempt::Died, Attempt::Timeout, Attempt::Refused];

    /// As a label.
    pub const fn label(self) -> &'static str {
        match self {
            Attempt::Done => "done",
            Attempt::StartFailed => "start_failed",
            Attempt::NotReady => "not_ready",
            Attempt::Died => "died",
            Attempt::Timeout => "timeout",
            Attempt::Refused => "refused",
        }
    }
}

/// The metrics of handovers.
#[derive(Clone, Debug)]
pub struct Metrics {
    inherited: IntGauge,
    predecessors: IntGauge,
    sessions: IntGaugeVec,
    upgrades: IntCounterVec,
    /// What is told to people.
    each: watch::Sender<Vec<DrainingPredecessor>>,
}

/// A process before this one that still drains its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainingPredecessor {
    /// Its number.
    pub pid: u32,
    /// Sessions that it has, as it last said.
    pub sessions: u32,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let metrics = Metrics {
            inherited: IntGauge::new(
                "wsluice_inherited_listeners",
                "Listeners whose sockets came from the process before or from the service manager.",
            )?,
            predecessors: IntGauge::new(
                "wsluice_predecessors",
                "Processes before this one that still drain their sessions.",
            )?,
            sessions: IntGaugeVec::new(
                Opts::new(
                    "wsluice_predecessor_sessions",
                    "Sessions on an endpoint of processes before this one, which count as load.",
                ),
                &["upstream", "endpoint"],
            )?,
            upgrades: IntCounterVec::new(
                Opts::new("wsluice_upgrades_total", "Times the next process was started, by what became of it."),
                &["result"],
            )?,
            each: watch::Sender::default(),
        };
        for attempt in Attempt::ALL {
            metrics.upgrades.with_label_values(&[attempt.label()]);
        }
        registry.register(Box::new(metrics.inherited.clone()))?;
        registry.register(Box::new(metrics.predecessors.clone()))?;
        registry.register(Box::new(metrics.sessions.clone()))?;
        registry.register(Box::new(metrics.upgrades.clone()))?;
        Ok(metrics)
    }

    /// So many listeners have inherited sockets.
    pub fn inherited(&self, listeners: usize) {
        self.inherited.set(listeners as i64);
    }

    /// The processes before this one, the one right before it last.
    pub fn each(&self) -> Vec<DrainingPredecessor> {
        self.each.borrow().clone()
    }

    /// These are all that still drain.
    pub(super) fn draining(&self, each: Vec<DrainingPredecessor>) {
        self.each.send_replace(each);
    }

    /// The service has been upgraded so often, up to this process; each counts on from there, or a scrape would never see one.
    pub fn upgraded(&self, upgrades: u64) {
        self.upgrades.with_label_values(&[Attempt::Done.label()]).inc_by(upgrades);
    }

    /// How often the service has been upgraded.
    pub fn upgrades(&self) -> u64 {
        self.upgrades.with_label_values(&[Attempt::Done.label()]).get()
    }

    /// An attempt is over.
    pub fn attempted(&self, attempt: Attempt) {
        self.upgrades.with_label_values(&[attempt.label()]).inc();
    }

    /// So many processes still drain, with these sessions now and those `before`.
    pub fn predecessors(&self, count: usize, now: &HashMap<EndpointKey, u32>, before: &HashMap<EndpointKey, u32>) {
        self.predecessors.set(count as i64);
        for (upstream, endpoint) in before.keys().filter(|name| !now.contains_key(*name)) {
            // It is not there if it was never shown.
            let _ = self.sessions.remove_label_values(&[upstream, endpoint]);
        }
        for ((upstream, endpoint), sessions) in now {
            self.sessions.with_label_values(&[upstream, endpoint]).set(i64::from(*sessions));
        }
    }
}
