//! The old process: starts the next one, hands over, and reports its remaining sessions.
//!
//! Nothing changes here until the new process has said that it accepts, so there is nothing to undo: if anything goes wrong,
//! the new process is killed and this one goes on. Dropping an attempt does the same.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::time::timeout;
use zeroize::Zeroizing;

use super::batch::write_secret;
use super::channel::{Channel, ChannelError};
use super::message::{DESCRIPTORS_MAX, HandoverMessage, MessageError, counts};
use super::metrics::Attempt;
use super::predecessors::Predecessors;
use super::steps::{Deadlines, OldStep, StepEvent};
use super::{ENVIRONMENT, REPORT_EVERY};
use crate::net::listener::{Address, Bound, FileId};
use crate::upstream::endpoint_state::{EndpointKey, EndpointStates};

/// How long to wait for the exit status of a process that has closed its end of the channel.
const EXIT_WAIT: Duration = Duration::from_millis(500);

/// The longest reason of a refusal ([`PreparedSuccessor::refuse`](super::PreparedSuccessor::refuse)).
pub(super) const REASON_CHARS_MAX: usize = 2000;

/// Why the next process has not taken over. It has ended, and this one goes on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// It could not be started.
    #[error("the new process could not be started")]
    Start(#[source] io::Error),
    /// It ended before it was ready; its own log says why.
    #[error("the new process ended before it was ready{}", exit_detail(.0))]
    NotReady(Option<ExitStatus>),
    /// It ended after it was ready and before it had taken over.
    #[error("the new process ended before it had taken over{}", exit_detail(.0))]
    Died(Option<ExitStatus>),
    /// It took too long.
    #[error("the new process has not said \"{}\" within {after:?}", step.name())]
    Timeout {
        /// The step that took too long.
        step: OldStep,
        /// The time limit.
        after: Duration,
    },
    /// It has refused.
    #[error("the new process refused: {0}")]
    Refused(String),
    /// It violated the protocol.
    #[error("the new process said something else than \"{}\"", .0.name())]
    OutOfTurn(OldStep),
    /// It is not a compatible wsluice.
    #[error("the new process cannot be understood")]
    Unintelligible(#[source] MessageError),
    /// The channel failed.
    #[error("the line to the new process failed")]
    Line(#[source] io::Error),
}

fn exit_detail(status: &Option<ExitStatus>) -> String {
    match status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!(" (exit code {code})"),
            (None, Some(signal)) => format!(" (signal {signal})"),
            (None, None) => String::new(),
        },
        None => String::new(),
    }
}

impl UpgradeError {
    /// Returns the result for the metric.
    pub fn attempt(&self) -> Attempt {
        match self {
            UpgradeError::Start(_) => Attempt::StartFailed,
            UpgradeError::NotReady(_) => Attempt::NotReady,
            UpgradeError::Died(_) | UpgradeError::Line(_) => Attempt::Died,
            UpgradeError::Timeout { .. } => Attempt::Timeout,
            UpgradeError::Refused(_) | UpgradeError::OutOfTurn(_) | UpgradeError::Unintelligible(_) => Attempt::Refused,
        }
    }
}

/// What the next process gets.
#[derive(Debug, Default)]
pub struct HandoverOffer {
    listeners: Vec<OfferedListener>,
    upgrades: u64,
    moves: bool,
}

#[derive(Debug)]
struct OfferedListener {
    name: String,
    address: Address,
    file: Option<FileId>,
    sockets: Vec<OwnedFd>,
}

impl HandoverOffer {
    /// Creates an empty offer, after this number of upgrades of the service.
    pub fn after(upgrades: u64) -> HandoverOffer {
        HandoverOffer { upgrades, ..HandoverOffer::default() }
    }

    /// Announces whether the sessions of this process are given to the next one.
    pub fn set_moves(&mut self, moves: bool) {
        self.moves = moves;
    }

    /// Adds a listener with its sockets. They stay open here.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn add(&mut self, name: &str, bound: &Bound) -> io::Result<()> {
        let sockets = bound.descriptors().map(|socket| socket.try_clone_to_owned()).collect::<io::Result<_>>()?;
        let (name, address) = (name.to_owned(), bound.address().clone());
        self.listeners.push(OfferedListener { name, address, file: bound.file(), sockets });
        Ok(())
    }

    /// Starts `command`, sends it everything that was added, and waits until it is ready. Its standard input is the channel.
    /// Dropping the future kills it.
    ///
    /// # Errors
    /// See [`UpgradeError`].
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn start(self, mut command: Command, deadlines: Deadlines) -> Result<ReadySuccessor, UpgradeError> {
        let (channel, end) = Channel::pair().map_err(UpgradeError::Start)?;
        command.env(ENVIRONMENT, std::process::id().to_string()).stdin(Stdio::from(end.into_descriptor()));
        let child = command.spawn().map_err(UpgradeError::Start)?;
        // It keeps the other end open; then we would never notice the end of the new process.
        drop(command);
        tracing::info!(pid = child.id(), listeners = self.listeners.len(), "starting the next process");
        self.send_over(channel, ChildProcess(Some(child)), deadlines).await
    }

    /// Sends everything that was added over the channel to a process.
    pub(super) async fn send_over(
        self,
        channel: Channel,
        child: ChildProcess,
        deadlines: Deadlines,
    ) -> Result<ReadySuccessor, UpgradeError> {
        let mut prepared = ReadySuccessor { child, channel, deadlines };
        prepared.within(OldStep::Ready, async |channel| self.send_all(channel).await).await?;
        Ok(prepared)
    }

    async fn send_all(&self, channel: &mut Channel) -> Result<(), ChannelError> {
        for OfferedListener { name, address, file, sockets } in &self.listeners {
            let message = HandoverMessage::Listener { name: name.clone(), address: address.clone(), file: *file };
            for sockets in sockets.chunks(DESCRIPTORS_MAX) {
                let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
                channel.send(&message, &sockets).await?;
            }
        }
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let upgrades = self.upgrades.saturating_add(1);
        let offered = HandoverMessage::Offered { pid: std::process::id(), version, upgrades, moves: self.moves };
        channel.send(&offered, &[]).await
    }
}

/// What the old process knows beside its sockets.
#[derive(Debug, Default)]
pub struct Known {
    /// Each is a message.
    pub facts: Vec<serde_json::Value>,
    /// What nobody else may see; empty if there is nothing.
    pub secrets: Zeroizing<Vec<u8>>,
}

/// A new process; it is killed when this is dropped, unless it has taken over.
#[derive(Debug)]
pub(super) struct ChildProcess(Option<Child>);

impl ChildProcess {
    /// Returns no process, for tests that hold both ends.
    #[cfg(test)]
    pub(super) fn none() -> ChildProcess {
        ChildProcess(None)
    }

    /// Returns its exit status, if it has ended or ends soon.
    async fn ended(&mut self) -> Option<ExitStatus> {
        let child = self.0.as_mut()?;
        let wait = async {
            loop {
                match child.try_wait() {
                    Ok(None) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Ok(status) => return status,
                    Err(_) => return None,
                }
            }
        };
        timeout(EXIT_WAIT, wait).await.ok().flatten()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        // Its id cannot be reused before we have waited for it. Killing fails if it has ended.
        let _ = child.kill();
        // Waiting takes as long as the kernel needs to clean up. If no thread starts, a zombie remains until we end.
        let _ = std::thread::Builder::new().name("reaper".into()).spawn(move || child.wait());
    }
}

/// A new process that is ready and waits to be told to take over. Dropping this kills it.
#[derive(Debug)]
pub struct ReadySuccessor {
    child: ChildProcess,
    channel: Channel,
    deadlines: Deadlines,
}

impl ReadySuccessor {
    /// Returns the id of the new process.
    pub fn pid(&self) -> u32 {
        self.child.0.as_ref().map_or(0, Child::id)
    }

    /// Tells the new process what is `known`, and to take over, and waits until it accepts. After that, stop accepting here, leave the files of
    /// Unix sockets ([`Bound::leave_file`]), drop `predecessors`, and drain. Predecessors must not be polled meanwhile.
    ///
    /// # Errors
    /// See [`UpgradeError`]; this process goes on as before, with its predecessors.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn hand_over(
        mut self,
        predecessors: &Predecessors,
        states: &EndpointStates,
        known: Known,
    ) -> Result<Reporter, UpgradeError> {
        let sessions = states.counts();
        let say = async |channel: &mut Channel| {
            let Known { facts, secrets } = known;
            if !secrets.is_empty() {
                match write_secret(&secrets) {
                    Ok(file) => channel.send(&HandoverMessage::Secrets, &[file.as_fd()]).await?,
                    // It can do without.
                    Err(error) => tracing::warn!(%error, "the next process does not get the keys of tickets"),
                }
            }
            for what in facts {
                match channel.send(&HandoverMessage::Known { what }, &[]).await {
                    // It can do without.
                    Err(ChannelError::Message(error)) => {
                        tracing::warn!(%error, "the next process is not told something")
                    }
                    sent => sent?,
                }
            }
            for message in counts(&sessions, &HashMap::new()) {
                channel.send(&message, &[]).await?;
            }
            for predecessor in &predecessors.each {
                channel.send(&HandoverMessage::Predecessor { pid: predecessor.pid }, &[predecessor.end()]).await?;
                for message in counts(&predecessor.sessions, &HashMap::new()) {
                    channel.send(&message, &[]).await?;
                }
            }
            channel.send(&HandoverMessage::Take, &[]).await
        };
        let HandoverMessage::Taken { unwanted, takes_sessions } = self.within(OldStep::Taken, say).await? else {
            return Err(UpgradeError::OutOfTurn(OldStep::Taken));
        };
        let successor = self.pid();
        // It must not be killed any more.
        self.child.0 = None;
        Ok(Reporter { successor, unwanted, takes_sessions, channel: self.channel, reported: sessions, batch: 0 })
    }

    /// Sends with `say`, and waits for the message that completes the step, by its deadline.
    async fn within(
        &mut self,
        step: OldStep,
        say: impl AsyncFnOnce(&mut Channel) -> Result<(), ChannelError>,
    ) -> Result<HandoverMessage, UpgradeError> {
        let after = step.deadline(self.deadlines);
        let channel = &mut self.channel;
        let exchange = async {
            match say(channel).await {
                // It may have sent its reason before it ended.
                Ok(()) | Err(ChannelError::Gone) => {}
                Err(error) => return Err(error),
            }
            loop {
                let (message, _closed) = channel.receive().await?;
                match step.event(&message) {
                    StepEvent::Done => return Ok(Ok(message)),
                    StepEvent::Part | StepEvent::Ignored => {}
                    StepEvent::OutOfTurn => return Ok(Err(UpgradeError::OutOfTurn(step))),
                    StepEvent::Refused => {
                        let HandoverMessage::Refused { reason } = message else { continue };
                        let reason = reason.chars().take(REASON_CHARS_MAX).collect();
                        return Ok(Err(UpgradeError::Refused(reason)));
                    }
                }
            }
        };
        match timeout(after, exchange).await {
            Err(_) => Err(UpgradeError::Timeout { step, after }),
            Ok(Ok(done)) => done,
            Ok(Err(ChannelError::Message(error))) => Err(UpgradeError::Unintelligible(error)),
            Ok(Err(ChannelError::Io(error))) => Err(UpgradeError::Line(error)),
            Ok(Err(ChannelError::Gone)) => {
                let status = self.child.ended().await;
                Err(match step {
                    OldStep::Ready => UpgradeError::NotReady(status),
                    OldStep::Taken => UpgradeError::Died(status),
                })
            }
        }
    }
}

/// Gives the sessions of the old process to the new one ([`give`](Reporter::give)), and reports the remaining ones. Dropping it, or the end of the process, means that none
/// is left.
#[derive(Debug)]
pub struct Reporter {
    successor: u32,
    unwanted: Vec<Address>,
    takes_sessions: bool,
    pub(super) channel: Channel,
    reported: HashMap<EndpointKey, u32>,
    /// The number of the last batch of sessions.
    pub(super) batch: u64,
}

impl Reporter {
    /// Returns the id of the process that has taken over.
    pub fn successor(&self) -> u32 {
        self.successor
    }

    /// Returns the addresses on which the new process does not listen. Accept the connections that wait there
    /// ([`Acceptor::into_waiting`]) before closing them.
    ///
    /// [`Acceptor::into_waiting`]: crate::net::listener::Acceptor::into_waiting
    pub fn unwanted(&self) -> &[Address] {
        &self.unwanted
    }

    /// Returns whether the new process takes sessions; earlier builds do not.
    pub fn takes_sessions(&self) -> bool {
        self.takes_sessions
    }

    /// Reports the remaining sessions, and that all that can go have gone.
    ///
    /// # Errors
    /// If the peer is gone.
    pub async fn moved(&mut self, sessions: HashMap<EndpointKey, u32>) -> Result<(), ChannelError> {
        self.report(sessions).await?;
        self.channel.send(&HandoverMessage::Moved, &[]).await
    }

    /// Reports every second until the peer is gone: the new process has ended, and so have those after it. Waits while the
    /// peer does not read. Dropping the future ends it.
    pub async fn run(mut self, states: &EndpointStates) {
        loop {
            if let Err(error) = self.report(states.counts()).await {
                tracing::warn!(pid = self.successor, %error, "no process receives the number of remaining sessions any more");
                return;
            }
            tokio::time::sleep(REPORT_EVERY).await;
        }
    }

    /// Reports the remaining sessions. Cancel-safe: what was not sent is sent the next time.
    ///
    /// # Errors
    /// If the peer is gone.
    pub async fn report(&mut self, sessions: HashMap<EndpointKey, u32>) -> Result<(), ChannelError> {
        for message in counts(&sessions, &self.reported) {
            self.channel.send(&message, &[]).await?;
        }
        self.reported = sessions;
        Ok(())
    }
}
