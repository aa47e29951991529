//! The protocol of a handover: the steps of both sides, and which messages each accepts. Without IO and clocks.
//!
//! ```text
//! old                                   new
//! Listener …, Offered  ──────────────▶  builds everything, accepts nothing
//!                      ◀──────────────  Ready (or Refused)
//! Known …, Counts …, Predecessor, Counts …, …, Take ▶ accepts
//!                      ◀──────────────  Taken
//! stops accepting, drains
//! Sessions …           ◀────────────▶  goes on with them (`transfer`)
//! Counts …             ──────────────▶  counts those that are left as load
//! ends                                  forgets them
//! ```

use std::time::Duration;

use super::message::HandoverMessage;

/// How long a step may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the start of the new process until it is ready: it opens listeners, reads certificates and looks up names.
    pub ready: Duration,
    /// From the message to take over until it has; only threads must be started.
    pub taken: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines { ready: Duration::from_secs(30), taken: Duration::from_secs(5) }
    }
}

/// The step of the old process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldStep {
    /// It waits for the new one to build everything.
    Ready,
    /// It waits for the new one to take over.
    Taken,
}

/// The step of the new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewStep {
    /// It receives what is handed over.
    Offer,
    /// It is ready and waits for the message to take over.
    Take,
    /// It has taken over and receives the old one's sessions and counts.
    Counts,
}

/// The meaning of a message in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEvent {
    /// It completes the step.
    Done,
    /// It is part of the step, which goes on.
    Part,
    /// It is unknown to this build; the step goes on.
    Ignored,
    /// The peer refuses.
    Refused,
    /// It is not allowed here: the peer violates the protocol.
    OutOfTurn,
}

impl OldStep {
    /// Returns the meaning of a message in this step.
    pub fn event(self, message: &HandoverMessage) -> StepEvent {
        match (self, message) {
            (OldStep::Ready, HandoverMessage::Ready) | (OldStep::Taken, HandoverMessage::Taken { .. }) => {
                StepEvent::Done
            }
            (_, HandoverMessage::Refused { .. }) => StepEvent::Refused,
            (_, HandoverMessage::Unknown) => StepEvent::Ignored,
            _ => StepEvent::OutOfTurn,
        }
    }

    /// Returns its time limit.
    pub fn deadline(self, deadlines: Deadlines) -> Duration {
        match self {
            OldStep::Ready => deadlines.ready,
            OldStep::Taken => deadlines.taken,
        }
    }

    /// Returns its name, for error messages.
    pub const fn name(self) -> &'static str {
        match self {
            OldStep::Ready => "ready",
            OldStep::Taken => "taken",
        }
    }
}

impl NewStep {
    /// Returns the meaning of a message in this step.
    pub fn event(self, message: &HandoverMessage) -> StepEvent {
        match (self, message) {
            (NewStep::Offer, HandoverMessage::Offered { .. }) | (NewStep::Take, HandoverMessage::Take) => {
                StepEvent::Done
            }
            (NewStep::Offer, HandoverMessage::Listener { .. })
            | (
                NewStep::Take,
                HandoverMessage::Predecessor { .. }
                | HandoverMessage::Counts { .. }
                | HandoverMessage::Known { .. }
                | HandoverMessage::Secrets,
            )
            | (
                NewStep::Counts,
                HandoverMessage::Counts { .. }
                | HandoverMessage::Sessions { .. }
                | HandoverMessage::Commit { .. }
                | HandoverMessage::Revoke { .. }
                | HandoverMessage::Moved,
            ) => StepEvent::Part,
            (_, HandoverMessage::Unknown) => StepEvent::Ignored,
            _ => StepEvent::OutOfTurn,
        }
    }

    /// Returns its time limit; `None` if it lasts as long as the old process.
    pub fn deadline(self, deadlines: Deadlines) -> Option<Duration> {
        match self {
            NewStep::Offer => Some(deadlines.taken),
            NewStep::Take => Some(deadlines.ready),
            NewStep::Counts => None,
        }
    }

    /// Returns its name, for error messages.
    pub const fn name(self) -> &'static str {
        match self {
            NewStep::Offer => "offer",
            NewStep::Take => "take",
            NewStep::Counts => "counts",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::listener::Address;

    fn all() -> Vec<HandoverMessage> {
        let address = Address::Unix("/x".into());
        vec![
            HandoverMessage::Listener { name: "x".into(), address, file: None },
            HandoverMessage::Offered { pid: 1, version: String::new(), upgrades: 1, moves: true },
            HandoverMessage::Ready,
            HandoverMessage::Refused { reason: "no".into() },
            HandoverMessage::Predecessor { pid: 1 },
            HandoverMessage::Counts { sessions: vec![] },
            HandoverMessage::Take,
            HandoverMessage::Taken { unwanted: vec![], takes_sessions: true },
            HandoverMessage::Unknown,
            HandoverMessage::Sessions { batch: 1, count: 1 },
            HandoverMessage::Judged { batch: 1, refused: vec![] },
            HandoverMessage::Unreceived { reason: String::new() },
            HandoverMessage::Commit { batch: 1 },
            HandoverMessage::Revoke { batch: 1 },
            HandoverMessage::Adopted { batch: 1 },
            HandoverMessage::Moved,
            HandoverMessage::Known { what: 1.into() },
            HandoverMessage::Secrets,
        ]
    }

    #[test]
    fn each_message_has_its_place() {
        use StepEvent::{Done, Ignored, OutOfTurn as Out, Part, Refused};
        let old = |step: OldStep| all().iter().map(|message| step.event(message)).collect::<Vec<_>>();
        let new = |step: NewStep| all().iter().map(|message| step.event(message)).collect::<Vec<_>>();
        assert_eq!(
            old(OldStep::Ready),
            [&[Out, Out, Done, Refused, Out, Out, Out, Out, Ignored][..], &[Out; 9]].concat()
        );
        assert_eq!(
            old(OldStep::Taken),
            [&[Out, Out, Out, Refused, Out, Out, Out, Done, Ignored][..], &[Out; 9]].concat()
        );
        assert_eq!(new(NewStep::Offer), [&[Part, Done, Out, Out, Out, Out, Out, Out, Ignored][..], &[Out; 9]].concat());
        assert_eq!(
            new(NewStep::Take),
            [&[Out, Out, Out, Out, Part, Part, Done, Out, Ignored][..], &[Out; 7], &[Part; 2]].concat()
        );
        let moves = [Part, Out, Out, Part, Part, Out, Part, Out, Out];
        assert_eq!(new(NewStep::Counts), [&[Out, Out, Out, Out, Out, Part, Out, Out, Ignored][..], &moves].concat());
    }

    #[test]
    fn every_step_but_the_last_ends() {
        let deadlines = Deadlines::default();
        assert_eq!(OldStep::Ready.deadline(deadlines), Duration::from_secs(30));
        assert_eq!(OldStep::Taken.deadline(deadlines), Duration::from_secs(5));
        assert!(NewStep::Offer.deadline(deadlines).is_some() && NewStep::Take.deadline(deadlines).is_some());
        assert_eq!(NewStep::Counts.deadline(deadlines), None);
    }
}
