//! Who says what when: the two sides as steps, each with what may be heard in it. Without IO and clocks.
//!
//! ```text
//! old                                   new
//! Listener …, Offered  ──────────────▶  builds everything, accepts nothing
//!                      ◀──────────────  Ready (or Refused)
//! Counts …, Predecessor, Counts …, …, Take ▶ accepts
//!                      ◀──────────────  Taken
//! stops accepting, drains
//! Counts …             ──────────────▶  counts them as load
//! ends                                  forgets them
//! ```

use std::time::Duration;

use super::message::HandoverMessage;

/// How long a step may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the start of the new process until it is ready; its listeners, certificates and the first look-up of names are
    /// in it.
    pub ready: Duration,
    /// From the word to take over until it is done, which is no more than to let threads go.
    pub taken: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines { ready: Duration::from_secs(30), taken: Duration::from_secs(5) }
    }
}

/// What the old process waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldStep {
    /// The new one has been given everything and builds.
    Ready,
    /// The new one has been told to take over.
    Taken,
}

/// What the new process waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewStep {
    /// The old one says what there is.
    Offer,
    /// It is ready.
    Take,
    /// It has taken over, and hears what the old one still has.
    Counts,
}

/// What a message means where it is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEvent {
    /// The step is over.
    Done,
    /// It belongs to this step, which goes on.
    Part,
    /// A later build knows what it means; the step goes on.
    Nothing,
    /// The other one will not.
    No,
    /// It has no place here: the other one does not keep to the order.
    OutOfTurn,
}

impl OldStep {
    /// What a message means now.
    pub fn hear(self, message: &HandoverMessage) -> StepEvent {
        match (self, message) {
            (OldStep::Ready, HandoverMessage::Ready) | (OldStep::Taken, HandoverMessage::Taken { .. }) => {
                StepEvent::Done
            }
            (_, HandoverMessage::Refused { .. }) => StepEvent::No,
            (_, HandoverMessage::Unknown) => StepEvent::Nothing,
            _ => StepEvent::OutOfTurn,
        }
    }

    /// How long it may take.
    pub fn deadline(self, deadlines: Deadlines) -> Duration {
        match self {
            OldStep::Ready => deadlines.ready,
            OldStep::Taken => deadlines.taken,
        }
    }

    /// For messages.
    pub const fn name(self) -> &'static str {
        match self {
            OldStep::Ready => "ready",
            OldStep::Taken => "taken",
        }
    }
}

impl NewStep {
    /// What a message means now.
    pub fn hear(self, message: &HandoverMessage) -> StepEvent {
        match (self, message) {
            (NewStep::Offer, HandoverMessage::Offered { .. }) | (NewStep::Take, HandoverMessage::Take) => {
                StepEvent::Done
            }
            (NewStep::Offer, HandoverMessage::Listener { .. })
            | (NewStep::Take, HandoverMessage::Predecessor { .. } | HandoverMessage::Counts { .. })
            | (NewStep::Counts, HandoverMessage::Counts { .. }) => StepEvent::Part,
            (_, HandoverMessage::Unknown) => StepEvent::Nothing,
            _ => StepEvent::OutOfTurn,
        }
    }

    /// How long it may take; `None` for as long as the old process lives.
    pub fn deadline(self, deadlines: Deadlines) -> Option<Duration> {
        match self {
            NewStep::Offer => Some(deadlines.taken),
            NewStep::Take => Some(deadlines.ready),
            NewStep::Counts => None,
        }
    }

    /// For messages.
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
            HandoverMessage::Offered { pid: 1, version: String::new(), upgrades: 1 },
            HandoverMessage::Ready,
            HandoverMessage::Refused { reason: "no".into() },
            HandoverMessage::Predecessor { pid: 1 },
            HandoverMessage::Counts { sessions: vec![] },
            HandoverMessage::Take,
            HandoverMessage::Taken { unwanted: vec![] },
            HandoverMessage::Unknown,
        ]
    }

    #[test]
    fn each_message_has_its_place() {
        use StepEvent::{Done, No, Nothing, OutOfTurn as Out, Part};
        let old = |step: OldStep| all().iter().map(|message| step.hear(message)).collect::<Vec<_>>();
        let new = |step: NewStep| all().iter().map(|message| step.hear(message)).collect::<Vec<_>>();
        assert_eq!(old(OldStep::Ready), [Out, Out, Done, No, Out, Out, Out, Out, Nothing]);
        assert_eq!(old(OldStep::Taken), [Out, Out, Out, No, Out, Out, Out, Done, Nothing]);
        assert_eq!(new(NewStep::Offer), [Part, Done, Out, Out, Out, Out, Out, Out, Nothing]);
        assert_eq!(new(NewStep::Take), [Out, Out, Out, Out, Part, Part, Done, Out, Nothing]);
        assert_eq!(new(NewStep::Counts), [Out, Out, Out, Out, Out, Part, Out, Out, Nothing]);
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
