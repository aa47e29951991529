//! Upgrades: starts the next process and waits for it to take over, while the controller goes on with other requests.
//!
//! Nothing changes here until it has taken over; `handover` has the steps. Dropping [`Upgrades`], or [`Upgrades::end`],
//! kills a process that has not taken over.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use tokio::sync::oneshot;

use super::answer;
use super::departures::MoveReport;
use super::error::ReloadError;
use crate::handover::Judgement;
use crate::handover::batch::Inbound;
use crate::handover::systemd;
use crate::handover::{
    Attempt, Deadlines, HandoverOffer, Invocation, Known, Metrics, Predecessors, ReadySuccessor, Reporter, UpgradeError,
};
use crate::upstream::endpoint_state::EndpointStates;

/// How to start the next process, and how long it may take.
#[derive(Debug)]
pub struct Succession {
    /// The command line.
    pub invocation: Invocation,
    /// The time limits.
    pub deadlines: Deadlines,
}

/// The outcome of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// The process that has taken over, by its id.
    pub successor: u32,
    /// What became of the sessions; `None` if they were not to move.
    pub sessions: Option<MoveReport>,
}

/// Receives the outcome.
pub type Done = oneshot::Sender<Result<Upgraded, ReloadError>>;

type Preparing = Pin<Box<dyn Future<Output = Result<ReadySuccessor, UpgradeError>>>>;
type Handing = Pin<Box<dyn Future<Output = (Result<Reporter, UpgradeError>, Predecessors)>>>;

/// The processes before and after this one.
pub struct Upgrades {
    succession: Option<Succession>,
    stage: UpgradeStage,
    /// The processes before this one; empty while they are handed on.
    predecessors: Predecessors,
    states: EndpointStates,
    metrics: Metrics,
}

/// The state of the next process.
enum UpgradeStage {
    /// There is none.
    None,
    /// It prepares.
    Preparing(Preparing, Done),
    /// It has been told to take over.
    Handing(Handing, Done),
    /// This process, by its id, has taken over.
    Replaced(u32),
    /// There will be none, as this process ends.
    Ended,
}

impl fmt::Debug for Upgrades {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Upgrades { succession, predecessors, .. } = self;
        f.debug_struct("Upgrades").field("succession", succession).field("predecessors", predecessors).finish()
    }
}

impl Upgrades {
    /// Starts with no upgrade under way. Without `succession` none can begin.
    pub fn new(
        succession: Option<Succession>,
        predecessors: Predecessors,
        states: EndpointStates,
        metrics: Metrics,
    ) -> Upgrades {
        Upgrades { succession, stage: UpgradeStage::None, predecessors, states, metrics }
    }

    /// Checks whether the configuration may be changed now.
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

    /// Starts the next process and gives it what `offer` returns. [`Upgrades::next`] drives it from there.
    pub fn begin(&mut self, offer: impl FnOnce() -> std::io::Result<HandoverOffer>, done: Done) {
        let succession = self.allow_changes().and_then(|()| self.succession.as_ref().ok_or(ReloadError::NoSuccession));
        // Two moves at a time would let sessions wait twice.
        let succession = match self.predecessors.moving() {
            Some(pid) => Err(ReloadError::Arriving(pid)),
            None => succession,
        };
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

    /// Waits until the next process has taken over, and keeps counting the sessions of earlier processes meanwhile. An
    /// attempt that fails is answered and logged, and changes nothing. `judge` decides on sessions that arrive from earlier
    /// processes, `known` returns what the next one is told. Cancel-safe.
    pub async fn next(
        &mut self,
        judge: &dyn Fn(Vec<Inbound>) -> Judgement,
        known: &dyn Fn() -> Known,
    ) -> (Reporter, Done) {
        loop {
            match &mut self.stage {
                UpgradeStage::None | UpgradeStage::Replaced(_) | UpgradeStage::Ended => {
                    self.predecessors.follow(&self.states, &self.metrics, judge).await
                }
                UpgradeStage::Preparing(preparing, _) => {
                    let prepared = tokio::select! {
                        prepared = preparing => prepared,
                        () = self.predecessors.follow(&self.states, &self.metrics, judge) => continue,
                    };
                    let UpgradeStage::Preparing(_, done) = std::mem::replace(&mut self.stage, UpgradeStage::None)
                    else {
                        continue;
                    };
                    match prepared {
                        Ok(prepared) => {
                            // Their reports wait meanwhile for the next process, which gets these channels.
                            let (mut before, states) = (std::mem::take(&mut self.predecessors), self.states.clone());
                            let known = known();
                            let handing = async move {
                                before.settle().await;
                                (prepared.hand_over(&before, &states, known).await, before)
                            };
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
                            // The successor counts them now.
                            before.forget(&self.states, &self.metrics);
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

    /// Begins the end of this process: kills a next one that has not taken over, and starts no other. Returns true if another
    /// process has taken over before.
    pub fn end(&mut self) -> bool {
        if let UpgradeStage::Replaced(_) = self.stage {
            return true;
        }
        match std::mem::replace(&mut self.stage, UpgradeStage::Ended) {
            UpgradeStage::Preparing(_, done) | UpgradeStage::Handing(_, done) => {
                self.metrics.attempted(Attempt::Died);
                tracing::warn!("no upgrade: this process is ending, and has killed the one it had started");
                answer(done, Err(ReloadError::Ending));
            }
            UpgradeStage::None | UpgradeStage::Replaced(_) | UpgradeStage::Ended => {}
        }
        false
    }
}
