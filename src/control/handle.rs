//! The controller's interface for the rest of the process: reads what is in force, and sends requests.

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
use super::upgrades::{self, Upgraded};
use crate::handover::DrainingPredecessor;
use crate::session::registry::SessionId;
use crate::session::stop::StopReason;
use crate::tls::certificates::Certificates;

/// A request to the controller. The reply comes through `done`; a request is handled even if nobody waits for the reply.
#[derive(Debug)]
pub enum ControlRequest {
    /// Reads the configuration again and puts it in force.
    Reload {
        /// What caused it.
        trigger: Trigger,
        /// What has changed, or why it was refused.
        done: oneshot::Sender<Result<Changes, ReloadError>>,
    },
    /// Checks a configuration without putting it in force.
    Check {
        /// The configuration; `None` for the file as it is now.
        text: Option<String>,
        /// Warnings, or what is wrong.
        done: oneshot::Sender<Result<Vec<String>, ReloadError>>,
    },
    /// Refuses new sessions on a target and closes the existing ones.
    Drain {
        /// What is drained.
        target: DrainTarget,
        /// The time over which sessions are closed.
        span: Duration,
        /// The number of sessions that will close; `None` if there is no such target.
        done: oneshot::Sender<Option<usize>>,
    },
    /// Ends a drain.
    EndDrain {
        /// What is drained.
        target: DrainTarget,
        /// Whether it was being drained, or why its listener cannot be opened again.
        done: oneshot::Sender<Result<bool, ReloadError>>,
    },
    /// Closes sessions.
    Close {
        /// Which sessions; those that have ended meanwhile are passed over.
        sessions: Vec<SessionId>,
        /// The time over which they are closed.
        span: Duration,
        /// The close code and reason.
        why: StopReason,
        /// The number of sessions that will close because of this request.
        done: oneshot::Sender<usize>,
    },
    /// Starts the next process, which takes over.
    Upgrade {
        /// The new process, and what became of the sessions; or why it has not taken over.
        done: upgrades::Done,
    },
    /// Begins the end of the process: a next process that has not taken over yet is killed.
    End {
        /// Answered when that is done.
        done: oneshot::Sender<()>,
    },
    /// Stops accepting connections, for good.
    StopAccepting {
        /// Answered when no more are accepted.
        done: oneshot::Sender<()>,
    },
}

/// The interface of the controller. Clones share it.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    pub(super) requests: mpsc::Sender<ControlRequest>,
    pub(super) in_force: Arc<ArcSwap<ActiveConfig>>,
    pub(super) drains: latest::Receiver<Vec<DrainProgress>>,
    pub(super) certificates: Certificates,
    pub(super) successor: latest::Receiver<Option<u32>>,
    pub(super) moved: latest::Receiver<bool>,
    pub(super) handovers: crate::handover::Metrics,
}

impl ControlHandle {
    /// Returns the earlier processes that still have sessions.
    pub fn predecessors(&self) -> Vec<DrainingPredecessor> {
        self.handovers.each()
    }

    /// Returns true if an old certificate is kept because its file has become invalid.
    pub fn is_stale(&self) -> bool {
        self.certificates.is_stale()
    }

    /// Returns the configuration in force.
    pub fn in_force(&self) -> Arc<ActiveConfig> {
        self.in_force.load_full()
    }

    /// Returns the drains, now and after each change.
    pub fn watch_drains(&self) -> latest::Receiver<Vec<DrainProgress>> {
        self.drains.clone()
    }

    /// Returns the drains.
    pub fn drains(&self) -> Vec<DrainProgress> {
        self.drains.borrow().clone()
    }

    /// Sends a request and waits for the reply. Returns `None` if the process is shutting down. A request that was sent is
    /// handled even if this future is dropped.
    pub async fn request<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> ControlRequest) -> Option<T> {
        let (done, answer) = oneshot::channel();
        self.requests.send(request(done)).await.ok()?;
        answer.await.ok()
    }

    /// Starts the next process, which takes over the listening sockets, the connections that wait there, and the sessions if
    /// they are to move. Returns once they have. The owner of this process decides about sessions that stay, after
    /// [`ControlHandle::replaced`].
    ///
    /// # Errors
    /// If it has not taken over; this process goes on as before.
    pub async fn upgrade(&self) -> Result<Upgraded, ReloadError> {
        self.request(|done| ControlRequest::Upgrade { done }).await.unwrap_or(Err(ReloadError::Ending))
    }

    /// Waits until another process has taken over. Returns its process id. Cancel-safe.
    pub async fn replaced(&self) -> u32 {
        match self.successor.clone().wait_for(Option::is_some).await.map(|pid| *pid) {
            Ok(Some(pid)) => pid,
            _ => std::future::pending().await,
        }
    }

    /// Waits until the sessions that can have gone to the process that has taken over. Cancel-safe.
    pub async fn moved(&self) {
        // An error means that the controller has ended.
        let _ = self.moved.clone().wait_for(|moved| *moved).await;
    }

    /// Returns true if another process has taken over.
    pub fn is_replaced(&self) -> bool {
        self.successor.borrow().is_some()
    }

    /// Reads the configuration again and puts it in force.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn reload(&self, trigger: Trigger) -> Result<Changes, ReloadError> {
        self.request(|done| ControlRequest::Reload { trigger, done }).await.unwrap_or(Err(ReloadError::Ending))
    }
}
