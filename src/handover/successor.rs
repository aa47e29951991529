//! The new process: receives what is handed over, reports when it is ready, and takes over when it is told to.
//!
//! Each step is a type that the next one consumes. Nothing is visible from outside before [`Activated`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::getppid;
use tokio::time::timeout;

use super::ENVIRONMENT;
use super::batch::read_secret;
use super::channel::{Channel, ChannelError};
use super::message::HandoverMessage;
use super::offer::{Known, REASON_CHARS_MAX};
use super::predecessors::{Predecessor, Predecessors};
use super::steps::{Deadlines, NewStep, StepEvent};
use crate::net::listener::{Inheritance, Inherited};

/// The most descriptors that are accepted: enough for hundreds of listeners with a socket per worker.
const DESCRIPTORS_MAX: usize = 1 << 14;

/// The most things that the old process may tell: endpoints and drains.
const KNOWN_MAX: usize = 1 << 16;

/// The most addresses in the last message; each has at most 120 bytes, or a few times that if all are escaped.
const UNWANTED_MAX: usize = 64;

/// Why this process does not take over. It must end; the one that started it goes on.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// The environment announces a handover, but standard input is not its channel.
    #[error("{ENVIRONMENT} is set, but standard input is not what it promises: unset it to start anew")]
    NoLine,
    /// The process named in the environment is not the parent of this one.
    #[error("{ENVIRONMENT} names a process that has not started this one, or has ended: unset it to start anew")]
    NotParent,
    /// The old process has ended or given up.
    #[error("the old process has gone while this one waited for \"{}\"", .0.name())]
    Gone(NewStep),
    /// The old process took too long.
    #[error("the old process has not said \"{}\" in time", .0.name())]
    Timeout(NewStep),
    /// The old process violated the protocol.
    #[error("the old process said something else than \"{}\"", .0.name())]
    OutOfTurn(NewStep),
    /// Too many sockets to be plausible.
    #[error("the old process hands over more than {DESCRIPTORS_MAX} sockets")]
    TooMany,
    /// The old process cannot be understood, or the channel fails.
    #[error("the old process cannot be understood")]
    Channel(#[source] ChannelError),
    /// Standard input cannot be used.
    #[error("standard input cannot be taken")]
    Io(#[from] io::Error),
}

/// A process that was started to take over.
#[derive(Debug)]
pub struct Successor {
    channel: Channel,
    deadlines: Deadlines,
}

impl Successor {
    /// Returns the channel to the process that hands over to this one; `None` if there is none. Takes over standard input, so
    /// it must be called once, before anything reads from there.
    ///
    /// # Errors
    /// If the environment is wrong.
    pub fn from_env(deadlines: Deadlines) -> Result<Option<Successor>, SuccessionError> {
        let Some(old) = std::env::var_os(ENVIRONMENT) else { return Ok(None) };
        // The variable is meant for one process, but all children of this one inherit it.
        let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
        if parent.as_deref() != old.to_str() {
            return Err(SuccessionError::NotParent);
        }
        let end = io::stdin().as_fd().try_clone_to_owned()?;
        let channel = Channel::adopt(end).ok_or(SuccessionError::NoLine)?;
        let nothing = std::fs::File::open("/dev/null")?;
        // Close the copy: otherwise a child of ours would keep the channel open after our end.
        rustix::stdio::dup2_stdin(&nothing).map_err(io::Error::from)?;
        Ok(Some(Successor { channel, deadlines }))
    }

    /// Creates it from one end of a [`Channel`].
    pub fn new(channel: Channel, deadlines: Deadlines) -> Successor {
        Successor { channel, deadlines }
    }

    /// Receives everything that is handed over. The caller builds everything with it and accepts nothing yet.
    ///
    /// # Errors
    /// See [`SuccessionError`].
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn receive_offer(self) -> Result<(PreparedSuccessor, Inheritance), SuccessionError> {
        let Successor { mut channel, deadlines } = self;
        let (mut inheritance, mut count) = (Inheritance::default(), 0);
        let last = within(&mut channel, NewStep::Offer, deadlines, |message, sockets| {
            count += sockets.len();
            if count > DESCRIPTORS_MAX {
                return Err(SuccessionError::TooMany);
            }
            if let HandoverMessage::Listener { name, address, file } = message {
                inheritance.add(Some(&name), address, Inherited { sockets, file });
            }
            Ok(())
        });
        let HandoverMessage::Offered { pid, version, upgrades, moves } = last.await? else {
            return Err(SuccessionError::OutOfTurn(NewStep::Offer));
        };
        tracing::info!(pid, version, listeners = inheritance.left().len(), "taking over from another process");
        Ok((PreparedSuccessor { channel, deadlines, old: pid, upgrades, moves }, inheritance))
    }
}

/// A process that has received everything and builds.
#[derive(Debug)]
pub struct PreparedSuccessor {
    channel: Channel,
    deadlines: Deadlines,
    old: u32,
    upgrades: u64,
    moves: bool,
}

impl PreparedSuccessor {
    /// Returns the id of the old process.
    pub fn old(&self) -> u32 {
        self.old
    }

    /// Reports that everything is built, and waits for the message to take over.
    ///
    /// # Errors
    /// See [`SuccessionError`].
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn ready(mut self) -> Result<Activated, SuccessionError> {
        let failed = |error| failure(NewStep::Take, error);
        self.channel.send(&HandoverMessage::Ready, &[]).await.map_err(failed)?;
        let (mut own, mut known) = (vec![], Known::default());
        // `None` for a process whose channel did not arrive.
        let mut named: Vec<Option<Predecessor>> = vec![];
        let last = within(&mut self.channel, NewStep::Take, self.deadlines, |message, descriptors| {
            match message {
                HandoverMessage::Predecessor { pid } => {
                    let end = descriptors.into_iter().next().and_then(Channel::adopt);
                    named.push(end.map(|end| Predecessor::new(pid, end)));
                }
                HandoverMessage::Known { what } => known.facts.push(what),
                HandoverMessage::Secrets => match descriptors.into_iter().next().map(read_secret) {
                    Some(Ok(secrets)) => known.secrets = secrets,
                    Some(Err(error)) => tracing::warn!(%error, "the keys of tickets cannot be read"),
                    None => {}
                },
                HandoverMessage::Counts { sessions } => match named.last_mut() {
                    None => own.extend(sessions),
                    Some(Some(predecessor)) => predecessor.update(sessions),
                    Some(None) => {}
                },
                _ => {}
            }
            if named.len() > DESCRIPTORS_MAX || known.facts.len() > KNOWN_MAX {
                Err(SuccessionError::TooMany)
            } else {
                Ok(())
            }
        });
        last.await?;
        let mut old = Predecessor::new(self.old, self.channel);
        old.is_moving = self.moves;
        old.update(own);
        let each = named.into_iter().flatten().chain([old]).collect();
        Ok(Activated { predecessors: Predecessors::new(each), upgrades: self.upgrades, known })
    }

    /// Refuses to take over. The old process goes on, and logs the reason.
    pub async fn refuse(mut self, reason: &str) {
        // A longer one would not fit a message; it is in our own log.
        let reason = reason.chars().take(REASON_CHARS_MAX).collect();
        // An error means that the old process has gone, so it does not wait.
        let _ = timeout(self.deadlines.taken, self.channel.send(&HandoverMessage::Refused { reason }, &[])).await;
    }
}

/// A process that has been told to take over.
#[derive(Debug)]
pub struct Activated {
    /// The processes before this one; the old process is the last.
    predecessors: Predecessors,
    upgrades: u64,
    known: Known,
}

impl Activated {
    /// Returns how often the service has been upgraded, this time included.
    pub fn upgrades(&self) -> u64 {
        self.upgrades
    }

    /// Returns what the old process has told, once.
    pub fn take_known(&mut self) -> Known {
        std::mem::take(&mut self.known)
    }

    /// Returns the processes before this one with their sessions, to be counted as load ([`Predecessors::show`]) before the
    /// first connection is accepted.
    pub fn predecessors(&mut self) -> &mut Predecessors {
        &mut self.predecessors
    }

    /// Reports that this process accepts, so that the old one stops. It is no error if that one has ended. `unwanted` are the
    /// sockets that no listener has claimed; connections that wait there are served by the old process.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn confirm(mut self, unwanted: Inheritance) -> Predecessors {
        // This many surely fit one message; more listeners are hardly removed at once.
        let unwanted = unwanted.left().take(UNWANTED_MAX).cloned().collect();
        if let Some(old) = self.predecessors.each.last_mut()
            && let Err(error) = old.send(&HandoverMessage::Taken { unwanted, takes_sessions: true }).await
        {
            tracing::warn!(pid = old.pid, %error, "the old process cannot be told that this one has taken over");
        }
        self.predecessors
    }
}

/// Receives the messages of a step, by its deadline. Returns the one that completed it.
async fn within(
    channel: &mut Channel,
    step: NewStep,
    deadlines: Deadlines,
    mut part: impl FnMut(HandoverMessage, Vec<OwnedFd>) -> Result<(), SuccessionError>,
) -> Result<HandoverMessage, SuccessionError> {
    let exchange = async {
        loop {
            let (message, descriptors) = channel.receive().await.map_err(|error| failure(step, error))?;
            match step.event(&message) {
                StepEvent::Done => return Ok(message),
                StepEvent::Part => part(message, descriptors)?,
                StepEvent::Ignored => {}
                StepEvent::Refused | StepEvent::OutOfTurn => return Err(SuccessionError::OutOfTurn(step)),
            }
        }
    };
    match step.deadline(deadlines) {
        Some(deadline) => timeout(deadline, exchange).await.map_err(|_| SuccessionError::Timeout(step))?,
        None => exchange.await,
    }
}

fn failure(step: NewStep, error: ChannelError) -> SuccessionError {
    match error {
        ChannelError::Gone => SuccessionError::Gone(step),
        error => SuccessionError::Channel(error),
    }
}
