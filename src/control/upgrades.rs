//! The next process on its way: started and waited for beside everything else that is done here.
//!
//! What can be noticed of it is nothing until it has taken over; see `handover`, which has the steps. Dropping it, or
//! [`Upgrades::end`], kills a process that has not.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use tokio::sync::oneshot;

use super::answer;
use super::error::ReloadError;
use crate::handover::systemd;
use crate::handover::{
    Attempt, Deadlines, HandoverOffer, Invocation, Metrics, Predecessors, ReadySuccessor, Reporter, UpgradeError,
};
use crate::upstream::endpoint_state::EndpointStates;

/// How the next process is called, and how long it may take.
#[derive(Debug)]
pub struct Succession {
    /// The call.
    pub invocation: Invocation,
    /// The times.
    pub deadlines: Deadlines,
}

/// Who asked, and waits for the number of the process that has taken over.
pub type Done = oneshot::Sender<Result<u32, ReloadError>>;

type Preparing = Pin<Box<dyn Future<Output = Result<ReadySuccessor, UpgradeError>>>>;
type Handing = Pin<Box<dyn Future<Output = (Result<Reporter, UpgradeError>, Predecessors)>>>;

/// The processes before this one and the one after it.
pub struct Upgrades {
    succession: Option<Succession>,
    stage: UpgradeStage,
    /// The processes before this one; elsewhere while they are handed on.
    predecessors: Predecessors,
    lives: EndpointStates,
    metrics: Metrics,
}

/// How far the next process has come.
enum UpgradeStage {
    /// There is none.
    None,
    /// It builds.
    Preparing(Preparing, Done),
    /// It has the word to take over.
    Handing(Handing, Done),
    /// It is this process, and has taken over.
    Replaced(u32),
    /// There will be none: this process ends.
    Ended,
}

impl fmt::Debug for Upgrades {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Upgrades { succession, predecessors, .. } = self;
        f.debug_struct("Upgrades").field("succession", succession).field("predecessors", predecessors).finish()
    }
}

impl Upgrades {
    /// None under way. Without `succession` there never is one.
    pub fn new(
        succession: Option<Succession>,
        predecessors: Predecessors,
        lives: EndpointStates,
        metrics: Metrics,
    ) -> Upgrades {
        Upgrades { succession, stage: UpgradeStage::None, predecessors, lives, metrics }
    }

    /// Why nothing may be changed now, if it may not.
    ///
    /// # Errors
    /// While the next process is on its way, after it has taken over, and at the end.
    pub fn allow_changes(&self) -> Result<(), ReloadError> {
        match &self.stage {
            UpgradeStage::None => Ok(()),
            UpgradeStage::Preparing(..) | UpgradeStage::Handing(..) => Err(ReloadError::Upgrading),
            UpgradeStage::Replaced(pid) => Err(ReloadError::Replaced(*pid)),
            UpgradeStage::Ended => Err(ReloadError::Ending),
        }
    }

    /// Starts the next process, with what `offer` gives. What comes of it is told by [`Upgrades::next`].
    pub fn begin(&mut self, offer: impl FnOnce() -> std::io::Result<HandoverOffer>, done: Done) {
        let succession = self.allow_changes().and_then(|()| self.succession.as_ref().ok_or(ReloadError::NoSuccession));
        let Succession { invocation, deadlines } = match succession {
            Ok(succession) => succession,
            Err(refused) => {
                tracing::warn!(reason = %refused, "no upgrade");
                return answer(done, Err(refused));
            }
        };
        let (mut command, deadlines) = (invocation.command(), *deadlines);
        systemd::for_successor(&mut command);
        let offer = offer().map_err(UpgradeError::Start);
        self.stage = UpgradeStage::Preparing(Box::pin(async move { offer?.start(command, deadlines).await }), done);
    }

    /// Waits until the next process has taken over, and counts what those before this one have meanwhile. Attempts that fail
    /// are told to who asked for them, and to the log, and nothing has happened. Cancel-safe.
    pub async fn next(&mut self) -> (Reporter, Done) {
        loop {
            match &mut self.stage {
                UpgradeStage::None | UpgradeStage::Replaced(_) | UpgradeStage::Ended => {
                    self.predecessors.follow(&self.lives, &self.metrics).await
                }
                UpgradeStage::Preparing(preparing, _) => {
                    let prepared = tokio::select! {
                        prepared = preparing => prepared,
                        () = self.predecessors.follow(&self.lives, &self.metrics) => continue,
                    };
                    let UpgradeStage::Preparing(_, done) = std::mem::replace(&mut self.stage, UpgradeStage::None)
                    else {
                        continue;
                    };
                    match prepared {
                        Ok(prepared) => {
                            // What they say meanwhile waits for the next process, which gets the ends of their lines.
                            let (before, lives) = (std::mem::take(&mut self.predecessors), self.lives.clone());
                            let handing = async move { (prepared.hand_over(&before, &lives).await, before) };
                            self.stage = UpgradeStage::Handing(Box::pin(handing), done);
                        }
                        Err(error) => self.failed(error, done),
                    }
                }
                UpgradeStage::Handing(handing, _) => {
                    let (handed, before) = handing.await;
                    let UpgradeStage::Handing(_, done) = std::mem::replace(&mut self.stage, UpgradeStage::None) else {
                        continue;
                    };
                    match handed {
                        Ok(reporter) => {
                            self.metrics.attempted(Attempt::Done);
                            self.stage = UpgradeStage::Replaced(reporter.successor());
                            // They are the next one's now.
                            before.forget(&self.lives, &self.metrics);
                            return (reporter, done);
                        }
                        Err(error) => {
                            self.predecessors = before;
                            self.failed(error, done);
                        }
                    }
                }
            }
        }
    }

    fn failed(&mut self, error: UpgradeError, done: Done) {
        self.metrics.attempted(error.attempt());
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(%error, cause, "the upgrade has failed: this process goes on as before");
        answer(done, Err(ReloadError::Upgrade(error)));
    }

    /// The end of this process has begun: a next one that is on its way is killed, and none is started any more. Returns
    /// whether another one has taken over before.
    pub fn end(&mut self) -> bool {
        if let UpgradeStage::Replaced(_) = self.stage {
            return true;
        }
        match std::mem::replace(&mut self.stage, UpgradeStage::Ended) {
            UpgradeStage::Preparing(_, done) | UpgradeStage::Handing(_, done) => {
                self.metrics.attempted(Attempt::Died);
                tracing::warn!("no upgrade: this process is told to end, and ends the one that it has started");
                answer(done, Err(ReloadError::Ending));
            }
            UpgradeStage::None | UpgradeStage::Replaced(_) | UpgradeStage::Ended => {}
        }
        false
    }
}
