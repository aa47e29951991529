//! The new process: takes what it is given, says when it is ready, and begins when it is told to.
//!
//! One type a step, used up by the next. Nothing that can be noticed from outside happens before [`Activated`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::getppid;
use tokio::time::timeout;

use super::ENVIRONMENT;
use super::channel::{Channel, ChannelError};
use super::message::HandoverMessage;
use super::offer::REASON_CHARS_MAX;
use super::predecessors::{Predecessor, Predecessors};
use super::steps::{Deadlines, NewStep, StepEvent};
use crate::net::listener::{Inheritance, Inherited};

/// The most descriptors that are taken; more than a machine has processors, for hundreds of listeners.
const DESCRIPTORS_MAX: usize = 1 << 14;

/// The most addresses that are said; each has at most 120 bytes, or a few times that with all of them escaped.
const UNWANTED_MAX: usize = 64;

/// Why this process does not take over. It is to end: the one that started it goes on.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// The environment says that a process hands over to this one, but standard input is not the line to it.
    #[error("{ENVIRONMENT} is set, but standard input is not what it promises: unset it to start anew")]
    NoLine,
    /// The process that wants to hand over is not the one that started this.
    #[error("{ENVIRONMENT} names a process that has not started this one, or has ended: unset it to start anew")]
    NotParent,
    /// The old one has ended or given up.
    #[error("the old process has gone while this one waited for \"{}\"", .0.name())]
    Gone(NewStep),
    /// The old one took too long.
    #[error("the old process has not said \"{}\" in time", .0.name())]
    Timeout(NewStep),
    /// The old one said something that has no place there.
    #[error("the old process said something else than \"{}\"", .0.name())]
    OutOfTurn(NewStep),
    /// More than can be meant.
    #[error("the old process hands over more than {DESCRIPTORS_MAX} sockets")]
    TooMany,
    /// The old one cannot be understood, or the line fails.
    #[error("the old process cannot be understood")]
    Channel(#[source] ChannelError),
    /// Standard input cannot be taken.
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
    /// The line to the process that started this one to hand over to it; `None` if nobody did. Takes standard input away, so
    /// it is called once, before anything reads from there.
    ///
    /// # Errors
    /// If what the environment says is not so.
    pub fn from_env(deadlines: Deadlines) -> Result<Option<Successor>, SuccessionError> {
        let Some(old) = std::env::var_os(ENVIRONMENT) else { return Ok(None) };
        // The mark is for one process; it is left to all that this one ever starts.
        let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
        if parent.as_deref() != old.to_str() {
            return Err(SuccessionError::NotParent);
        }
        let end = io::stdin().as_fd().try_clone_to_owned()?;
        let channel = Channel::adopt(end).ok_or(SuccessionError::NoLine)?;
        let nothing = std::fs::File::open("/dev/null")?;
        // A copy that nobody closes would make the old process believe that we live as long as a child of ours does.
        rustix::stdio::dup2_stdin(&nothing).map_err(io::Error::from)?;
        Ok(Some(Successor { channel, deadlines }))
    }

    /// The same from an end of a [`Channel`].
    pub fn new(channel: Channel, deadlines: Deadlines) -> Successor {
        Successor { channel, deadlines }
    }

    /// All that is handed over. Build everything with it, and accept nothing.
    ///
    /// # Errors
    /// See [`SuccessionError`].
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn inventory(self) -> Result<(PreparedSuccessor, Inheritance), SuccessionError> {
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
        let HandoverMessage::Offered { pid, version, upgrades } = last.await? else {
            return Err(SuccessionError::OutOfTurn(NewStep::Offer));
        };
        tracing::info!(pid, version, listeners = inheritance.left().len(), "taking over from another process");
        Ok((PreparedSuccessor { channel, deadlines, old: pid, upgrades }, inheritance))
    }
}

/// A process that has been given everything, and builds.
#[derive(Debug)]
pub struct PreparedSuccessor {
    channel: Channel,
    deadlines: Deadlines,
    old: u32,
    upgrades: u64,
}

impl PreparedSuccessor {
    /// The number of the old process.
    pub fn old(&self) -> u32 {
        self.old
    }

    /// Everything is built: says so, and waits for the word to take over.
    ///
    /// # Errors
    /// See [`SuccessionError`].
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn ready(mut self) -> Result<Activated, SuccessionError> {
        let failed = |error| failure(NewStep::Take, error);
        self.channel.send(&HandoverMessage::Ready, &[]).await.map_err(failed)?;
        let mut own = vec![];
        // Without its end there is nothing to hear from one.
        let mut named: Vec<Option<Predecessor>> = vec![];
        let last = within(&mut self.channel, NewStep::Take, self.deadlines, |message, descriptors| {
            match message {
                HandoverMessage::Predecessor { pid } => {
                    let end = descriptors.into_iter().next().and_then(Channel::adopt);
                    named.push(end.map(|end| Predecessor::new(pid, end)));
                }
                HandoverMessage::Counts { sessions } => match named.last_mut() {
                    None => own.extend(sessions),
                    Some(Some(predecessor)) => predecessor.told(sessions),
                    Some(None) => {}
                },
                _ => {}
            }
            if named.len() > DESCRIPTORS_MAX { Err(SuccessionError::TooMany) } else { Ok(()) }
        });
        last.await?;
        let mut old = Predecessor::new(self.old, self.channel);
        old.told(own);
        let each = named.into_iter().flatten().chain([old]).collect();
        Ok(Activated { predecessors: Predecessors::new(each), upgrades: self.upgrades })
    }

    /// It will not be. The old process goes on, and says why in its log.
    pub async fn refuse(mut self, reason: &str) {
        // More would not fit a message, and is in our own log.
        let reason = reason.chars().take(REASON_CHARS_MAX).collect();
        // If nobody hears it, nobody waits for it.
        let _ = timeout(self.deadlines.taken, self.channel.send(&HandoverMessage::Refused { reason }, &[])).await;
    }
}

/// A process that has the word to take over.
#[derive(Debug)]
pub struct Activated {
    /// The old one is the last.
    predecessors: Predecessors,
    upgrades: u64,
}

impl Activated {
    /// How often the service has been upgraded, this time included.
    pub fn upgrades(&self) -> u64 {
        self.upgrades
    }

    /// The processes before this one, with what they have: to be shown ([`Predecessors::show`]) before the first connection
    /// is taken.
    pub fn predecessors(&mut self) -> &mut Predecessors {
        &mut self.predecessors
    }

    /// Connections are accepted: says so, which lets the old process stop. If that one is no more, all the better. `unwanted` is
    /// what nobody has asked for; those who wait there are the old one's to serve.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn taken(mut self, unwanted: Inheritance) -> Predecessors {
        // As many as surely fit one message; more listeners are not removed at once.
        let unwanted = unwanted.left().take(UNWANTED_MAX).cloned().collect();
        if let Some(old) = self.predecessors.each.last_mut()
            && let Err(error) = old.say(&HandoverMessage::Taken { unwanted }).await
        {
            tracing::warn!(pid = old.pid, %error, "the old process does not hear that it is over");
        }
        self.predecessors
    }
}

/// Hears what belongs to a step, by its deadline, and answers what ended it.
async fn within(
    channel: &mut Channel,
    step: NewStep,
    deadlines: Deadlines,
    mut part: impl FnMut(HandoverMessage, Vec<OwnedFd>) -> Result<(), SuccessionError>,
) -> Result<HandoverMessage, SuccessionError> {
    let exchange = async {
        loop {
            let (message, descriptors) = channel.receive().await.map_err(|error| failure(step, error))?;
            match step.hear(&message) {
                StepEvent::Done => return Ok(message),
                StepEvent::Part => part(message, descriptors)?,
                StepEvent::Nothing => {}
                StepEvent::No | StepEvent::OutOfTurn => return Err(SuccessionError::OutOfTurn(step)),
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
