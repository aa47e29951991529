//! The protocol by which a batch of sessions goes from the old process to the new one. Without IO and clocks.
//!
//! ```text
//! old                                     new
//! takes the sessions apart
//! Sessions         ────────────────────▶  reads and judges them, touches no socket
//!                  ◀────────────────────  Judged
//! Commit           ────────────────────▶
//!                  ◀────────────────────  Adopted
//! lets go of them                         reads and writes their sockets
//! ```
//!
//! Both processes have the sockets from the first message to the last, and at most one of them may touch them. The rules:
//!
//! * Before `Commit` the batch is the old process's. It takes it back when the new one is late or has gone, and says
//!   `Revoke`; then there is no `Commit` any more.
//! * The new process touches nothing before it has sent `Adopted`, and it sends that only upon `Commit`.
//! * After `Commit` the old process waits, however long. `Adopted` means that it has let go. If the new process ends without
//!   it, that one has touched nothing, and the old one goes on: what a process has sent before its end is always received.
//!
//! * A new process that does not have the batch of a `Commit` (it has let go of it, being replaced itself) says
//!   `Unreceived`: then the old one goes on.
//!
//! So whenever one of them is stopped or killed, a session is in exactly one process; it ends only with the process that has
//! it. The test below goes through all orders of all steps and failures.

/// Where a batch stands, as the old process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Giver {
    /// The batch was sent. The old process may take it back.
    Offered,
    /// The new process may take it.
    Committed,
    /// The new process has it.
    Given,
    /// The old process goes on with it.
    Kept,
}

/// What the old process learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GiverEvent {
    /// The new process can take it.
    Judged,
    /// It has arrived incomplete.
    Unreceived,
    /// The new process has taken it.
    Adopted,
    /// The new process is late.
    Late,
    /// The new process has ended, and all that it had sent has been received.
    Gone,
}

/// What the old process sends then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GiverReply {
    /// Nothing.
    Nothing,
    /// The new process may take it.
    Commit,
    /// The old process keeps it.
    Revoke,
}

impl Giver {
    /// Returns the next state, and what is to be sent.
    pub fn on(self, event: GiverEvent) -> (Giver, GiverReply) {
        match (self, event) {
            (Giver::Offered, GiverEvent::Judged) => (Giver::Committed, GiverReply::Commit),
            (Giver::Offered, GiverEvent::Late) => (Giver::Kept, GiverReply::Revoke),
            (Giver::Offered | Giver::Committed, GiverEvent::Gone | GiverEvent::Unreceived) => {
                (Giver::Kept, GiverReply::Nothing)
            }
            (Giver::Committed, GiverEvent::Adopted) => (Giver::Given, GiverReply::Nothing),
            // Late news of a batch that is settled, or a peer that does not keep to the order: it changes nothing.
            (state, _) => (state, GiverReply::Nothing),
        }
    }

    /// Returns true once nothing can change any more.
    pub const fn is_settled(self) -> bool {
        matches!(self, Giver::Given | Giver::Kept)
    }
}

/// Where a batch stands, as the new process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Taker {
    /// It was judged. No socket is touched.
    Judged,
    /// It is taken: `Adopted` is to be sent, and then the sessions go on here.
    Adopted,
    /// It is dropped.
    Dropped,
}

/// What the new process learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TakerEvent {
    /// It may take the batch.
    Commit,
    /// The old process keeps it.
    Revoke,
    /// The old process has ended.
    Gone,
    /// The new process is replaced itself.
    Replaced,
}

impl Taker {
    /// Returns the next state.
    pub fn on(self, event: TakerEvent) -> Taker {
        match (self, event) {
            (Taker::Judged, TakerEvent::Commit) => Taker::Adopted,
            (Taker::Judged, TakerEvent::Revoke | TakerEvent::Gone | TakerEvent::Replaced) => Taker::Dropped,
            (state, _) => state,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    enum Said {
        Sessions,
        Judged,
        Unreceived,
        Commit,
        Revoke,
        Adopted,
    }

    /// Two processes and the line between them, about one batch.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct World {
        giver: Option<Giver>,
        /// `None` before it has read the batch.
        taker: Option<Taker>,
        giver_lives: bool,
        taker_lives: bool,
        to_taker: VecDeque<Said>,
        to_giver: VecDeque<Said>,
        /// The new process touches the sockets.
        taker_touches: bool,
        /// Each process saw the other one's end.
        giver_saw_end: bool,
        taker_saw_end: bool,
    }

    impl World {
        fn new() -> World {
            World {
                giver: Some(Giver::Offered),
                taker: None,
                giver_lives: true,
                taker_lives: true,
                to_taker: [Said::Sessions].into(),
                to_giver: VecDeque::new(),
                taker_touches: false,
                giver_saw_end: false,
                taker_saw_end: false,
            }
        }

        fn tell_giver(&self, event: GiverEvent) -> World {
            let mut next = self.clone();
            let (state, reply) = self.giver.map(|giver| giver.on(event)).unwrap();
            next.giver = Some(state);
            let said = match reply {
                GiverReply::Nothing => None,
                GiverReply::Commit => Some(Said::Commit),
                GiverReply::Revoke => Some(Said::Revoke),
            };
            // What is sent to a process that has ended is lost.
            next.to_taker.extend(said.filter(|_| next.taker_lives));
            next
        }

        /// All worlds that may follow.
        fn next(&self) -> Vec<World> {
            let mut all = vec![];
            if self.giver_lives {
                if let Some(said) = self.to_giver.front() {
                    let event = match said {
                        Said::Judged => GiverEvent::Judged,
                        Said::Unreceived => GiverEvent::Unreceived,
                        Said::Adopted => GiverEvent::Adopted,
                        other => panic!("{other:?} goes the other way"),
                    };
                    let mut next = self.tell_giver(event);
                    next.to_giver.pop_front();
                    all.push(next);
                } else if !self.taker_lives && !self.giver_saw_end {
                    let mut next = self.tell_giver(GiverEvent::Gone);
                    next.giver_saw_end = true;
                    all.push(next);
                }
                if self.giver == Some(Giver::Offered) {
                    all.push(self.tell_giver(GiverEvent::Late));
                }
                // It is killed: what it has sent is still received, what it has not read is lost.
                let mut killed = self.clone();
                (killed.giver_lives, killed.to_giver) = (false, VecDeque::new());
                all.push(killed);
            }
            if self.taker_lives {
                let mut heard = self.clone();
                if let Some(said) = heard.to_taker.pop_front() {
                    match said {
                        Said::Sessions => {
                            let mut lacking = heard.clone();
                            lacking.taker = Some(Taker::Dropped);
                            lacking.to_giver.extend([Said::Unreceived].iter().filter(|_| heard.giver_lives));
                            all.push(lacking);
                            heard.taker = Some(Taker::Judged);
                            heard.to_giver.extend([Said::Judged].iter().filter(|_| self.giver_lives));
                            all.push(heard);
                        }
                        Said::Commit | Said::Revoke => {
                            let event = if said == Said::Commit { TakerEvent::Commit } else { TakerEvent::Revoke };
                            let before = heard.taker;
                            heard.taker = heard.taker.map(|taker| taker.on(event));
                            if (before, heard.taker) == (Some(Taker::Judged), Some(Taker::Adopted)) {
                                if self.giver_lives {
                                    // Killed between the two: it has said nothing and touched nothing.
                                    let mut killed = heard.clone();
                                    (killed.taker_lives, killed.to_taker) = (false, VecDeque::new());
                                    all.push(killed);
                                    heard.to_giver.push_back(Said::Adopted);
                                    let mut killed = heard.clone();
                                    (killed.taker_lives, killed.to_taker) = (false, VecDeque::new());
                                    all.push(killed);
                                    heard.taker_touches = true;
                                } else {
                                    // It cannot be sent.
                                    heard.taker = Some(Taker::Dropped);
                                }
                            }
                            if said == Said::Commit && before == Some(Taker::Dropped) {
                                heard.to_giver.extend([Said::Unreceived].iter().filter(|_| self.giver_lives));
                            }
                            all.push(heard);
                        }
                        other => panic!("{other:?} goes the other way"),
                    }
                } else if !self.giver_lives && !self.taker_saw_end {
                    heard.taker = heard.taker.map(|taker| taker.on(TakerEvent::Gone));
                    heard.taker_saw_end = true;
                    all.push(heard);
                }
                if self.taker == Some(Taker::Judged) {
                    let mut replaced = self.clone();
                    replaced.taker = Some(Taker::Judged.on(TakerEvent::Replaced));
                    all.push(replaced);
                }
                let mut killed = self.clone();
                (killed.taker_lives, killed.to_taker) = (false, VecDeque::new());
                all.push(killed);
            }
            all
        }

        fn owners(&self) -> usize {
            let giver = self.giver_lives && self.giver == Some(Giver::Kept);
            let taker = self.taker_lives && self.taker_touches;
            usize::from(giver) + usize::from(taker)
        }
    }

    #[test]
    fn in_every_order_of_steps_and_failures_a_session_is_in_one_process() {
        let (mut seen, mut left) = (HashSet::new(), vec![World::new()]);
        let mut ends = HashSet::new();
        while let Some(world) = left.pop() {
            if !seen.insert(world.clone()) {
                continue;
            }
            assert!(world.owners() <= 1, "both touch the sockets: {world:?}");
            // A process that the old one has let go for has sent that it touches them.
            if world.giver == Some(Giver::Given) && world.taker_lives && world.giver_lives {
                assert!(world.taker_touches, "neither has them: {world:?}");
            }
            let next = world.next();
            let is_quiet =
                !next.iter().any(|next| next.giver_lives == world.giver_lives && next.taker_lives == world.taker_lives);
            if is_quiet {
                match (world.giver_lives, world.taker_lives) {
                    (true, true) => assert_eq!(world.owners(), 1, "{world:?}"),
                    // It has them, unless they were with the one that was killed.
                    (true, false) => assert!(world.giver.is_some_and(Giver::is_settled), "{world:?}"),
                    (false, true) => assert!(world.taker != Some(Taker::Judged), "held for ever: {world:?}"),
                    (false, false) => {}
                }
                ends.insert((world.giver_lives, world.taker_lives, world.giver, world.taker_touches));
            }
            left.extend(next);
        }
        assert!(seen.len() > 50, "{} worlds", seen.len());
        assert!(ends.contains(&(true, true, Some(Giver::Given), true)), "it can succeed");
        assert!(ends.contains(&(true, true, Some(Giver::Kept), false)), "it can be taken back");
        assert!(
            ends.contains(&(true, false, Some(Giver::Kept), false)),
            "the old one goes on after the end of the new one"
        );
    }
}
