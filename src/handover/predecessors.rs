//! Earlier processes: their sessions come here, and those that remain count as load until they end.
//!
//! Each reports its sessions every second, over the channel of its handover. When this process is replaced itself, the next
//! one gets these channels, so that no count is lost if the process in the middle ends first. A closed channel means that the
//! process has ended.

use std::collections::HashMap;
use std::fmt;
use std::future::pending;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::timeout;

use super::batch::{Inbound, unpack};
use super::channel::{Channel, ChannelError};
use super::message::{Count, HandoverMessage, MessageError};
use super::metrics::{DrainingPredecessor, Metrics};
use super::steps::{NewStep, StepEvent};
use super::transfer::{Taker, TakerEvent};
use crate::upstream::endpoint_state::{EndpointKey, EndpointStates};

/// The most endpoints kept for one process: far more than a configuration has.
const NAMES_MAX: usize = 1 << 16;
/// How long a process that is replaced waits to say what it has decided about a batch.
const SETTLE_WAIT: Duration = Duration::from_secs(1);

/// The most bytes of their names together: 64 for each.
const NAME_BYTES_MAX: usize = 64 * NAMES_MAX;

/// An earlier process.
#[derive(Debug)]
pub(super) struct Predecessor {
    pub(super) pid: u32,
    channel: Channel,
    pub(super) sessions: HashMap<EndpointKey, u32>,
    /// The bytes of all names in `sessions`.
    name_bytes: usize,
    /// Whether more of its sessions will come.
    pub(super) is_moving: bool,
    /// The batch that it has sent.
    held: Option<HeldBatch>,
    /// What it is to be told next.
    reply: Option<HandoverMessage>,
}

/// The new process's opinion of a batch of sessions.
pub struct Judgement {
    /// The sessions that cannot be taken, by their place in the batch, and why.
    pub refused: Vec<(u32, String)>,
    /// Lets the others go on here; returns their endpoints. Dropped uncalled, it drops them without touching their sockets.
    pub start: Box<dyn FnOnce() -> Vec<EndpointKey>>,
}

impl fmt::Debug for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judgement").field("refused", &self.refused).finish_non_exhaustive()
    }
}

/// A batch of which no socket is touched yet.
#[derive(Debug)]
struct HeldBatch {
    batch: u64,
    state: Taker,
    judgement: Judgement,
}

/// What was heard of a process.
enum Heard {
    /// Its sessions per endpoint, or the end of a transfer.
    Report,
    /// Sessions have begun to go on here.
    Arrived(usize),
}

impl Predecessor {
    pub(super) fn new(pid: u32, channel: Channel) -> Predecessor {
        Predecessor { pid, channel, sessions: HashMap::new(), name_bytes: 0, is_moving: false, held: None, reply: None }
    }

    /// Sets the present numbers of these endpoints.
    pub(super) fn update(&mut self, counts: Vec<Count>) {
        for Count { upstream, endpoint, sessions } in counts {
            let bytes = upstream.len() + endpoint.len();
            let name = (upstream, endpoint);
            if sessions == 0 {
                self.name_bytes -= self.sessions.remove(&name).map_or(0, |_| bytes);
            } else if let Some(known) = self.sessions.get_mut(&name) {
                *known = sessions;
            } else if self.sessions.len() < NAMES_MAX && self.name_bytes + bytes <= NAME_BYTES_MAX {
                self.name_bytes += bytes;
                self.sessions.insert(name, sessions);
            }
        }
    }

    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    #[cfg(test)]
    pub(super) fn into_channel(self) -> Channel {
        self.channel
    }

    pub(super) async fn send(&mut self, message: &HandoverMessage) -> Result<(), ChannelError> {
        self.channel.send(message, &[]).await
    }

    /// Waits until it has reported or given something, and answers it. Cancel-safe.
    async fn next(&mut self, judge: &Judge<'_>) -> Result<Heard, ChannelError> {
        loop {
            let arrived = self.say().await?;
            if arrived > 0 {
                return Ok(Heard::Arrived(arrived));
            }
            let (message, descriptors) = match self.channel.receive().await {
                Ok(received) => received,
                Err(ChannelError::Message(error @ MessageError::Descriptors { .. })) => {
                    tracing::warn!(pid = self.pid, %error, "sessions of an earlier process have not arrived");
                    self.reply = Some(HandoverMessage::Unreceived { reason: error.to_string() });
                    continue;
                }
                Err(error) => return Err(error),
            };
            if NewStep::Counts.event(&message) != StepEvent::Part {
                continue;
            }
            match message {
                HandoverMessage::Counts { sessions } => {
                    self.update(sessions);
                    return Ok(Heard::Report);
                }
                HandoverMessage::Moved => {
                    self.is_moving = false;
                    return Ok(Heard::Report);
                }
                message => self.reply = self.answer(message, descriptors, judge),
            }
        }
    }

    /// Says what it is to be told, if there is anything. Returns how many sessions go on here since that was said. Cancel-safe.
    async fn say(&mut self) -> Result<usize, ChannelError> {
        let Some(reply) = &self.reply else { return Ok(0) };
        self.channel.send(reply, &[]).await?;
        let is_adopted = matches!(self.reply.take(), Some(HandoverMessage::Adopted { .. }));
        // It has let go of them: without a wait in between, they go on here.
        let Some(held) = self.held.take_if(|_| is_adopted) else { return Ok(0) };
        let endpoints = (held.judgement.start)();
        endpoints.iter().for_each(|endpoint| self.one_less(endpoint));
        Ok(endpoints.len())
    }

    /// Returns the answer to a message about a batch.
    fn answer(
        &mut self,
        message: HandoverMessage,
        descriptors: Vec<OwnedFd>,
        judge: &Judge<'_>,
    ) -> Option<HandoverMessage> {
        match message {
            HandoverMessage::Sessions { batch, count } => Some(match unpack(count, descriptors) {
                Ok(sessions) => {
                    let judgement = judge(sessions);
                    let refused = judgement.refused.clone();
                    self.held = Some(HeldBatch { batch, state: Taker::Judged, judgement });
                    HandoverMessage::Judged { batch, refused }
                }
                Err(error) => HandoverMessage::Unreceived { reason: error.to_string() },
            }),
            HandoverMessage::Commit { batch } => {
                let Some(held) = self.held.as_mut().filter(|held| held.batch == batch) else {
                    return Some(HandoverMessage::Unreceived { reason: "it is no longer there".into() });
                };
                held.state = held.state.on(TakerEvent::Commit);
                (held.state == Taker::Adopted).then_some(HandoverMessage::Adopted { batch })
            }
            HandoverMessage::Revoke { batch } => {
                if let Some(held) = self.held.take_if(|held| held.batch == batch)
                    && held.state.on(TakerEvent::Revoke) != Taker::Dropped
                {
                    self.held = Some(held);
                }
                None
            }
            _ => None,
        }
    }

    /// Counts a session less, which has come here.
    fn one_less(&mut self, endpoint: &EndpointKey) {
        let (upstream, name) = endpoint;
        let left = self.sessions.get(endpoint).copied().unwrap_or_default().saturating_sub(1);
        self.update(vec![Count { upstream: upstream.clone(), endpoint: name.clone(), sessions: left }]);
    }
}

/// Judges a batch of sessions.
type Judge<'a> = dyn Fn(Vec<Inbound>) -> Judgement + 'a;

/// All earlier processes that still drain. Dropping it forgets them.
#[derive(Debug, Default)]
pub struct Predecessors {
    pub(super) each: Vec<Predecessor>,
    /// The totals last recorded.
    shown: HashMap<EndpointKey, u32>,
}

impl Predecessors {
    pub(super) fn new(each: Vec<Predecessor>) -> Predecessors {
        Predecessors { each, shown: HashMap::new() }
    }

    /// Returns how many still drain.
    pub fn len(&self) -> usize {
        self.each.len()
    }

    /// Returns true if none is left.
    pub fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    /// Returns their process ids, the latest last.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.each.iter().map(|predecessor| predecessor.pid)
    }

    /// Returns the sessions of all of them, by endpoint.
    pub fn total(&self) -> HashMap<EndpointKey, u32> {
        let mut total = HashMap::new();
        for (name, sessions) in self.each.iter().flat_map(|predecessor| &predecessor.sessions) {
            let sum: &mut u32 = total.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*sessions);
        }
        total
    }

    /// Keeps `states` and `metrics` up to date while it is polled. Cancel-safe: a report that was received is recorded.
    pub async fn follow(&mut self, states: &EndpointStates, metrics: &Metrics, judge: &Judge<'_>) {
        loop {
            self.show(states, metrics);
            metrics.arrived(self.next(judge).await);
        }
    }

    /// Returns the process, by its id, of which more sessions will come.
    pub fn moving(&self) -> Option<u32> {
        self.each.iter().find(|each| each.is_moving).map(|each| each.pid)
    }

    /// Finishes what is under way with batches, since this process is replaced and its lines go to the next one: what is to
    /// be said is said, and batches that have not been taken are let go of; those who sent them go on with them.
    pub async fn settle(&mut self) {
        for each in &mut self.each {
            // There is room for it, unless the line is broken: whoever has sent a batch reads.
            if timeout(SETTLE_WAIT, each.say()).await.is_err() {
                tracing::warn!(pid = each.pid, "an earlier process does not hear what became of its sessions");
            }
            if each.held.as_ref().is_some_and(|held| held.state.on(TakerEvent::Replaced) == Taker::Dropped) {
                each.held = None;
            }
        }
    }

    /// Records the known sessions.
    pub fn show(&mut self, states: &EndpointStates, metrics: &Metrics) {
        let total = self.total();
        let sum = |sessions: &HashMap<EndpointKey, u32>| {
            sessions.values().fold(0, |sum: u32, more| sum.saturating_add(*more))
        };
        let each = self.each.iter().map(|each| DrainingPredecessor { pid: each.pid, sessions: sum(&each.sessions) });
        metrics.draining(each.collect());
        metrics.predecessors(self.len(), &total, &self.shown);
        states.set_inherited(total.clone());
        self.shown = total;
    }

    /// Stops counting them; the successor now does.
    pub fn forget(mut self, states: &EndpointStates, metrics: &Metrics) {
        self.each.clear();
        self.show(states, metrics);
    }

    /// Waits until one of them reports or ends; forever if there is none. Cancel-safe.
    ///
    /// Returns how many sessions have arrived.
    async fn next(&mut self, judge: &Judge<'_>) -> usize {
        if self.each.is_empty() {
            return pending().await;
        }
        let next = self.each.iter_mut().map(|predecessor| Box::pin(predecessor.next(judge)));
        let (heard, index, _) = select_all(next).await;
        match heard {
            Ok(Heard::Arrived(sessions)) => return sessions,
            Ok(Heard::Report) => {}
            Err(error) => {
                let pid = self.each.remove(index).pid;
                match error {
                    ChannelError::Gone => tracing::info!(pid, "an earlier process has ended"),
                    error => tracing::warn!(pid, %error, "an earlier process cannot be understood any more"),
                }
            }
        }
        0
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::telemetry::exposition::encode;
    use crate::upstream;

    fn count(endpoint: &str, sessions: u32) -> Count {
        Count { upstream: "chat".to_owned(), endpoint: endpoint.to_owned(), sessions }
    }

    #[test]
    fn numbers_are_kept_until_others_come() {
        let mut one = Predecessor::new(1, Channel::pair().unwrap().0);
        one.update(vec![count("a", 3), count("b", 4)]);
        one.update(vec![count("b", 0), count("c", 1)]);
        let mut other = Predecessor::new(2, Channel::pair().unwrap().0);
        other.update(vec![count("a", u32::MAX - 1), count("never", 0)]);
        let name = |endpoint: &str| ("chat".to_owned(), endpoint.to_owned());
        let both = Predecessors::new(vec![one, other]);
        assert_eq!(both.total(), HashMap::from([(name("a"), u32::MAX), (name("c"), 1)]));
    }

    #[test]
    fn names_without_end_are_not_kept() {
        let mut one = Predecessor::new(1, Channel::pair().unwrap().0);
        one.update(vec![count("a", 1)]);
        let long = |i: usize, sessions| count(&format!("{i}{}", "x".repeat(50_000)), sessions);
        let kept = NAME_BYTES_MAX / 50_000;
        for i in 0..2 * kept {
            one.update(vec![long(i, 1)]);
        }
        assert!(one.sessions.len() <= kept + 1 && one.name_bytes <= NAME_BYTES_MAX);
        // Known endpoints are still updated, and make room for others when they end.
        one.update(vec![count("a", 2)]);
        assert_eq!(one.sessions[&("chat".to_owned(), "a".to_owned())], 2);
        for i in 0..2 * kept {
            one.update(vec![long(i, 0)]);
        }
        assert_eq!((one.sessions.len(), one.name_bytes), (1, "chata".len()));
        for i in 0..2 * NAMES_MAX {
            one.update(vec![count(&i.to_string(), 1)]);
        }
        assert_eq!(one.sessions.len(), NAMES_MAX);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_they_have_is_load_here_until_they_end() {
        let (registry, states) = (Registry::new(), EndpointStates::default());
        let metrics = Metrics::register(&registry).unwrap();
        let families = upstream::metrics::Metrics::register(&registry).unwrap();
        let live = states.of("chat", "a", || families.endpoint("chat", "a", &[]));
        let ((mut first, end), (mut second, other_end)) = (Channel::pair().unwrap(), Channel::pair().unwrap());
        let mut both = Predecessors::new(vec![Predecessor::new(1, end), Predecessor::new(2, other_end)]);
        let says = |sessions| HandoverMessage::Counts { sessions: vec![count("a", sessions)] };
        first.send(&says(5), &[]).await.unwrap();
        second.send(&HandoverMessage::Unknown, &[]).await.unwrap();
        second.send(&says(2), &[]).await.unwrap();
        let shown = |text: &str| encode(&registry).unwrap().contains(text);

        let sees = async |both: &mut Predecessors, load: u32| {
            let deadline = std::time::Duration::from_secs(5);
            let look = async {
                while live.load() != load {
                    both.next(&|_| unreachable!()).await;
                    both.show(&states, &metrics);
                }
            };
            tokio::time::timeout(deadline, look).await.unwrap();
        };
        sees(&mut both, 7).await;
        assert!(shown("wsluice_predecessors 2"));
        assert_eq!(metrics.each(), [(1, 5), (2, 2)].map(|(pid, sessions)| DrainingPredecessor { pid, sessions }));
        assert!(shown(r#"wsluice_predecessor_sessions{endpoint="a",upstream="chat"} 7"#));
        drop(first);
        sees(&mut both, 2).await;
        assert_eq!(both.pids().collect::<Vec<_>>(), [2]);
        // A process that sends garbage is forgotten too.
        let raw = second.into_descriptor();
        rustix::net::send(&raw, b"nonsense", rustix::net::SendFlags::empty()).unwrap();
        sees(&mut both, 0).await;
        assert!(both.is_empty() && metrics.each().is_empty() && shown("wsluice_predecessors 0"));
        assert!(!shown("wsluice_predecessor_sessions{"));
        let waiting = tokio::time::timeout(
            std::time::Duration::from_millis(20),
            both.follow(&states, &metrics, &|_| unreachable!()),
        );
        assert!(waiting.await.is_err(), "without anybody it waits, and does not spin");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_decided_of_a_batch_is_said_before_the_line_goes_on() {
        let ((mut first, end), (mut second, other_end)) = (Channel::pair().unwrap(), Channel::pair().unwrap());
        let (mut one, mut two) = (Predecessor::new(1, end), Predecessor::new(2, other_end));
        let started = std::rc::Rc::new(std::cell::Cell::new(false));
        let start = std::rc::Rc::clone(&started);
        let begins = move || {
            start.set(true);
            vec![("chat".to_owned(), "a".to_owned())]
        };
        let judgement = Judgement { refused: vec![], start: Box::new(begins) };
        one.held = Some(HeldBatch { batch: 3, state: Taker::Adopted, judgement });
        one.reply = Some(HandoverMessage::Adopted { batch: 3 });
        let judgement = Judgement { refused: vec![], start: Box::new(|| unreachable!("it is not committed")) };
        two.held = Some(HeldBatch { batch: 4, state: Taker::Judged, judgement });
        let mut both = Predecessors::new(vec![one, two]);
        both.settle().await;
        assert_eq!(first.receive().await.unwrap().0, HandoverMessage::Adopted { batch: 3 });
        assert!(started.get());
        // Whoever has the line next does not have the other batch.
        second.send(&HandoverMessage::Commit { batch: 4 }, &[]).await.unwrap();
        let answer = tokio::select! {
            answer = second.receive() => answer.unwrap().0,
            _ = both.next(&|_| unreachable!()) => unreachable!("there is nothing to report"),
        };
        assert!(matches!(answer, HandoverMessage::Unreceived { .. }), "{answer:?}");
    }
}
