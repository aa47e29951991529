//! Metrics of handovers, and of the sessions of earlier processes.

use std::collections::HashMap;

use prometheus::{IntGauge, Opts, Registry};
use tokio::sync::watch;

use crate::base::labels::variant_labels;
use crate::telemetry::labelled::{IntCounterVec, IntGaugeVec};
use crate::upstream::endpoint_state::EndpointKey;

/// The result of an attempt to start the next process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It has taken over.
    Done,
    /// It could not be started at all.
    StartFailed,
    /// It ended before it was ready.
    NotReady,
    /// It ended or was killed after it was ready.
    Died,
    /// It missed the deadline of a step and was killed.
    Timeout,
    /// It refused or violated the protocol.
    Refused,
}

variant_labels! {
    Attempt {
        Done => "done",
        StartFailed => "start_failed",
        NotReady => "not_ready",
        Died => "died",
        Timeout => "timeout",
        Refused => "refused",
    }
}

/// The metrics of handovers.
#[derive(Clone, Debug)]
pub struct Metrics {
    inherited: IntGauge,
    predecessors: IntGauge,
    sessions: IntGaugeVec,
    upgrades: IntCounterVec,
    arrived: IntCounterVec,
    /// The processes, for the status of the API.
    each: watch::Sender<Vec<DrainingPredecessor>>,
}

/// An earlier process that still drains its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainingPredecessor {
    /// Its process id.
    pub pid: u32,
    /// Its sessions, as last reported.
    pub sessions: u32,
}

impl Metrics {
    /// Creates and registers the metrics.
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
            arrived: IntCounterVec::new(
                Opts::new(
                    "wsluice_moved_sessions_total",
                    "Sessions that the process before has offered to this one: arrived ones go on here, refused ones end there.",
                ),
                &["result"],
            )?,
            each: watch::Sender::default(),
        };
        for result in ["arrived", "refused"] {
            metrics.arrived.with_label_values(&[result]);
        }
        for attempt in Attempt::ALL {
            metrics.upgrades.with_label_values(&[attempt.label()]);
        }
        registry.register(Box::new(metrics.inherited.clone()))?;
        registry.register(Box::new(metrics.predecessors.clone()))?;
        registry.register(Box::new(metrics.sessions.clone()))?;
        registry.register(Box::new(metrics.upgrades.clone()))?;
        registry.register(Box::new(metrics.arrived.clone()))?;
        Ok(metrics)
    }

    /// Records how many listeners have inherited sockets.
    pub fn inherited(&self, listeners: usize) {
        self.inherited.set(listeners as i64);
    }

    /// Returns the earlier processes, the latest last.
    pub fn each(&self) -> Vec<DrainingPredecessor> {
        self.each.borrow().clone()
    }

    /// Records all processes that still drain.
    pub(super) fn draining(&self, each: Vec<DrainingPredecessor>) {
        self.each.send_replace(each);
    }

    /// Records how often the service was upgraded up to this process. Each process continues the count; otherwise no scrape
    /// would ever see one.
    pub fn upgraded(&self, upgrades: u64) {
        self.upgrades.with_label_values(&[Attempt::Done.label()]).inc_by(upgrades);
    }

    /// Returns how often the service has been upgraded.
    pub fn upgrades(&self) -> u64 {
        self.upgrades.with_label_values(&[Attempt::Done.label()]).get()
    }

    /// Counts sessions that came from the process before.
    pub fn arrived(&self, sessions: usize) {
        if sessions > 0 {
            self.arrived.with_label_values(&["arrived"]).inc_by(sessions as u64);
        }
    }

    /// Counts a session of the process before that cannot go on here.
    pub fn refused(&self) {
        self.arrived.with_label_values(&["refused"]).inc();
    }

    /// Counts the result of an attempt.
    pub fn attempted(&self, attempt: Attempt) {
        self.upgrades.with_label_values(&[attempt.label()]).inc();
    }

    /// Records how many processes still drain, with their sessions `now` and `before`.
    pub fn predecessors(&self, count: usize, now: &HashMap<EndpointKey, u32>, before: &HashMap<EndpointKey, u32>) {
        self.predecessors.set(count as i64);
        for (upstream, endpoint) in before.keys().filter(|name| !now.contains_key(*name)) {
            // The series may not exist.
            let _ = self.sessions.remove_label_values(&[upstream, endpoint]);
        }
        for ((upstream, endpoint), sessions) in now {
            self.sessions.with_label_values(&[upstream, endpoint]).set(i64::from(*sessions));
        }
    }
}
