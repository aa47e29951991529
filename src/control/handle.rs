//! What others see of `Control`: the configuration in force, and the way in which orders are given.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch as latest;
use tokio::sync::{mpsc, oneshot};

use super::active_config::ActiveConfig;
use super::error::ReloadError;
use super::evict::drains::{DrainProgress, DrainTarget};
use super::metrics::Trigger;
use super::reload::Changes;
use super::upgrades;
use crate::handover::DrainingPredecessor;
use crate::session::registry::SessionId;
use crate::session::stop::StopReason;
use crate::tls::certificates::Certificates;

/// What `Control` can be asked for. Each answer comes through `done`; it does not matter if nobody waits for it any more.
#[derive(Debug)]
pub enum ControlRequest {
    /// Read the configuration again and put it in force.
    Reload {
        /// On whose account.
        trigger: Trigger,
        /// What it changed, or why it was refused.
        done: oneshot::Sender<Result<Changes, ReloadError>>,
    },
    /// Say what is wrong with this configuration, or with the file as it is now.
    Check {
        /// Where it is from, and what it says; `None`: the file.
        text: Option<String>,
        /// Warnings, or what is wrong.
        done: oneshot::Sender<Result<Vec<String>, ReloadError>>,
    },
    /// Let no new sessions in there, and close those that are there.
    Drain {
        /// Where.
        target: DrainTarget,
        /// Over how long.
        span: Duration,
        /// How many sessions there are; `None`: there is no such target.
        done: oneshot::Sender<Option<usize>>,
    },
    /// Let them in again.
    EndDrain {
        /// Where.
        target: DrainTarget,
        /// Whether it was being drained; or why it cannot take them.
        done: oneshot::Sender<Result<bool, ReloadError>>,
    },
    /// Close sessions.
    Close {
        /// Where they are; those that have gone meanwhile are passed over.
        places: Vec<SessionId>,
        /// Over how long.
        span: Duration,
        /// With which code and reason.
        why: StopReason,
        /// How many were there, and were not told the same before.
        done: oneshot::Sender<usize>,
    },
    /// Start the next process, which takes over.
    Upgrade {
        /// Its number, when it has taken over, or why it has not.
        done: upgrades::Done,
    },
    /// The end of the process has begun: there is no next one, unless it has taken over already.
    End {
        /// When that is so.
        done: oneshot::Sender<()>,
    },
    /// Accept no more connections, for good.
    StopAccepting {
        /// When none are accepted any more.
        done: oneshot::Sender<()>,
    },
}

/// The way to `Control`, for all others. Clones are the same.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    pub(super) orders: mpsc::Sender<ControlRequest>,
    pub(super) in_force: Arc<ArcSwap<ActiveConfig>>,
    pub(super) drains: latest::Receiver<Vec<DrainProgress>>,
    pub(super) certificates: Certificates,
    pub(super) successor: latest::Receiver<Option<u32>>,
    pub(super) handovers: crate::handover::Metrics,
}

impl ControlHandle {
    /// The processes before this one that still have sessions.
    pub fn predecessors(&self) -> Vec<DrainingPredecessor> {
        self.handovers.each()
    }

    /// Whether a certificate is kept since its file has become bad.
    pub fn is_stale(&self) -> bool {
        self.certificates.is_stale()
    }

    /// The configuration in force.
    pub fn in_force(&self) -> Arc<ActiveConfig> {
        self.in_force.load_full()
    }

    /// What is being drained, now and later.
    pub fn watch_drains(&self) -> latest::Receiver<Vec<DrainProgress>> {
        self.drains.clone()
    }

    /// What is being drained.
    pub fn drains(&self) -> Vec<DrainProgress> {
        self.drains.borrow().clone()
    }

    /// Gives an order, and waits for the answer. `None`: the process is going. An order once given is carried out, also if
    /// nobody waits for the answer any more.
    pub async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> ControlRequest) -> Option<T> {
        let (done, answer) = oneshot::channel();
        self.orders.send(order(done)).await.ok()?;
        answer.await.ok()
    }

    /// Starts the next process, which takes over: sockets and all who wait there. Returns its number. What becomes of the
    /// sessions of this one is for its owner to say, who hears of it by [`ControlHandle::replaced`].
    ///
    /// # Errors
    /// Why it has not taken over; everything is as before then.
    pub async fn upgrade(&self) -> Result<u32, ReloadError> {
        self.ask(|done| ControlRequest::Upgrade { done }).await.unwrap_or(Err(ReloadError::Ending))
    }

    /// Waits until another process has taken over. Returns its number. Cancel-safe.
    pub async fn replaced(&self) -> u32 {
        match self.successor.clone().wait_for(Option::is_some).await.map(|pid| *pid) {
            Ok(Some(pid)) => pid,
            _ => std::future::pending().await,
        }
    }

    /// Whether another process has taken over.
    pub fn is_replaced(&self) -> bool {
        self.successor.borrow().is_some()
    }

    /// Reads the configuration again and puts it in force.
    ///
    /// # Errors
    /// If it is refused, and why.
    pub async fn reload(&self, trigger: Trigger) -> Result<Changes, ReloadError> {
        self.ask(|done| ControlRequest::Reload { trigger, done }).await.unwrap_or(Err(ReloadError::Ending))
    }
}
