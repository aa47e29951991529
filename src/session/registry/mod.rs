//! Registry of connections and sessions; tells each when and why to close.
//!
//! hyper forgets a connection once it is upgraded, so sessions are counted here. Each task holds a `Guard`. A session
//! has joined with a description of itself (`M`), by which it is found: to list it, to find the quietest ones, and to
//! stop some of them. Each gets its own time to stop, spread evenly over a span with jitter inside its slot, so that
//! clients do not reconnect all at once. When the process ends, all sessions are stopped that way and all other
//! connections at once, and the owner of `SessionRegistry` waits for the last guard to go.
//!
//! Of several times to stop the earliest holds. One can be cancelled until it has come (`stops`).
//!
//! A scan takes a worker's slab in slices and releases the lock in between: a worker that wants to accept waits for a
//! thousand entries, not for a hundred thousand. An entry that is there all along is still seen exactly once.
//!
//! Entering and leaving cost a lock of the worker's own slab. A task that has left its waker is woken when something is
//! posted for it, and until then reads only `Guard::signals`: a shared cache line that is written only when something
//! is posted.

mod guard;
mod stops;

use std::any::Any;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use slab::Slab;
use tokio::sync::Notify;

use crate::base::time::MonotonicTime;
use crate::base::worker::{self, PerWorker};
use crate::session::stop::{StopNotice, StopReason};
use crate::ws::tunnel::QUIET_WAIT;
pub use guard::{Guard, Notice};
use stops::Stops;

/// How many entries are visited under one lock of a worker's slab: some ten microseconds, in which that worker cannot
/// accept.
const SLICE_ENTRIES: usize = 1024;

/// The pause between two slices: without it, the thread that released the lock would take it again before a waiter is
/// awake.
const SLICE_PAUSE: Duration = Duration::from_micros(20);

/// All connections and sessions of the process.
#[derive(Debug)]
pub struct SessionRegistry<M> {
    workers: PerWorker<Mutex<WorkerEntries<M>>>,
    active: AtomicUsize,
    /// When the drain began, in microseconds; 0 before.
    begun: AtomicU64,
    /// When all should have stopped.
    by: AtomicU64,
    /// How often something was posted to guards. On a cache line of its own: each session reads it at every wake-up,
    /// while `active` is written for each connection.
    signals: CachePadded<AtomicU64>,
    idle: Notify,
}

/// The entries of one worker.
#[derive(Debug)]
struct WorkerEntries<M> {
    entries: Slab<Entry<M>>,
    /// How many are sessions.
    sessions: usize,
    /// How many have been asked to stop.
    stopping: usize,
    /// The generation of the next entry.
    generation: u32,
}

/// What is known of one guard, and what was posted for it.
#[derive(Debug)]
struct Entry<M> {
    /// Tells it from earlier entries with the same key.
    generation: u32,
    /// The number of its listener.
    listener: u32,
    /// The current request is the last one; means nothing to a session.
    last: bool,
    /// When to stop and why, as asked by all.
    stops: Stops,
    /// Wakes its task.
    waker: Option<Waker>,
    /// The description of the session, once it is one.
    member: Option<M>,
    /// Its last report.
    report: SessionReport,
    /// Asks it to go to another process.
    order: Option<MoveOrder>,
}

/// An order to sessions to go to another process. Each session takes it out of its entry; once all have, or have ended, what
/// the order holds is dropped, which tells whoever gave it.
#[derive(Clone, Debug)]
pub struct MoveOrder(Arc<dyn Any + Send + Sync>);

impl MoveOrder {
    /// Makes an order that holds where a session is to report.
    pub fn new<T: Any + Send + Sync>(report_to: T) -> MoveOrder {
        MoveOrder(Arc::new(report_to))
    }

    /// Returns where to report, if it is a `T`.
    pub fn report_to<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

/// What a session reports of itself on request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionReport {
    /// When data last passed.
    pub data_at: Option<MonotonicTime>,
    /// Bytes queued for its peers.
    pub queued: u32,
}

/// The id of a guard's entry. Unique: another guard under the same key has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    slab: u32,
    key: u32,
    generation: u32,
}

impl SessionId {
    /// Puts ids in an order in which workers take turns, each with its own in about the order in which they came.
    pub fn take_turns(ids: &mut [SessionId]) {
        ids.sort_unstable_by_key(|id| (id.key, id.slab));
    }
}

/// A session in a list.
#[derive(Clone, Debug)]
pub struct Listed<M> {
    /// Its id.
    pub id: SessionId,
    /// Its description.
    pub member: M,
    /// Its last report.
    pub report: SessionReport,
    /// When and why it will stop, if it was asked to.
    pub stop: Option<StopNotice>,
    /// When its credential expires.
    pub expires: Option<MonotonicTime>,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.slab, self.key, self.generation)
    }
}

impl FromStr for SessionId {
    type Err = BadSessionId;

    fn from_str(text: &str) -> Result<SessionId, BadSessionId> {
        let mut parts = text.split('-').map(|part| u32::from_str_radix(part, 16).map_err(|_| BadSessionId));
        let mut part = || parts.next().unwrap_or(Err(BadSessionId));
        let id = SessionId { slab: part()?, key: part()?, generation: part()? };
        // One text for each id: no sign, no leading zeros, nothing after it.
        if id.to_string() == text { Ok(id) } else { Err(BadSessionId) }
    }
}

/// A text that is not a [`SessionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a session: three hexadecimal numbers with hyphens between them, as in `0-1f-3a`")]
pub struct BadSessionId;

impl<M> SessionRegistry<M> {
    /// Creates an empty registry for the tasks of this many workers.
    pub fn new(workers: usize) -> Arc<SessionRegistry<M>> {
        Arc::new(SessionRegistry {
            workers: PerWorker::new(workers, || {
                Mutex::new(WorkerEntries { entries: Slab::new(), sessions: 0, stopping: 0, generation: 0 })
            }),
            active: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            by: AtomicU64::new(0),
            signals: CachePadded::new(AtomicU64::new(1)),
            idle: Notify::new(),
        })
    }

    /// Registers the caller, a connection of `listener`, until the guard is dropped. After the drain has begun the
    /// guard is asked to stop at once.
    pub fn enter(self: &Arc<SessionRegistry<M>>, listener: u32) -> Guard<M> {
        self.active.fetch_add(1, Ordering::Relaxed);
        let slab = worker::index();
        let mut worker = lock(self.workers.get());
        // Read with the slab locked: either `begin` reaches this entry later, or we see that it has begun; so no entry
        // gets the notice of an earlier one.
        let stop = match self.begun.load(Ordering::SeqCst) {
            0 => None,
            begun => {
                let (at, by) =
                    (MonotonicTime::from_micros(begun), MonotonicTime::from_micros(self.by.load(Ordering::SeqCst)));
                Some(StopNotice { at, by: Some(by), why: StopReason::Drain })
            }
        };
        let generation = worker.generation;
        worker.generation = generation.wrapping_add(1);
        worker.stopping += usize::from(stop.is_some());
        let (member, report) = (None, SessionReport::default());
        let entry = Entry {
            generation,
            listener,
            last: false,
            stops: Stops::new(stop),
            waker: None,
            member,
            report,
            order: None,
        };
        let key = worker.entries.insert(entry);
        drop(worker);
        Guard { registry: Arc::clone(self), slab: slab as u32, key: key as u32 }
    }

    /// Asks everything to stop: sessions spread over `span` from `now`, other connections at once. Only the first call
    /// counts. `random` returns numbers in 0..1 for the jitter. Returns the number of sessions.
    pub fn stop_all(&self, now: MonotonicTime, span: Duration, random: impl FnMut() -> f64) -> usize {
        if !self.is_draining() {
            self.by.store((now + span).as_micros(), Ordering::SeqCst);
        }
        if self.begun.compare_exchange(0, now.as_micros(), Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return 0;
        }
        let requests = self.collect_entries(|_, entry| entry.member.is_none().then_some(()));
        self.post(requests.into_iter().map(|(id, ())| (id, now)), Some(now + span), &StopReason::Drain);
        self.spread(|_, _| true, now, span, random, &StopReason::Drain)
    }

    /// Asks the connections of `listener` that are not sessions to stop now.
    pub fn stop_requests(&self, listener: u32, now: MonotonicTime, why: &StopReason) {
        let requests =
            self.collect_entries(|_, entry| (entry.member.is_none() && entry.listener == listener).then_some(()));
        self.post(requests.into_iter().map(|(id, ())| (id, now)), None, why);
    }

    /// Lets connections that are not sessions, of the listeners that `select` accepts, end after the current request.
    /// One that becomes a session by that request goes on.
    pub fn last_requests(&self, select: impl Fn(u32) -> bool) {
        self.for_each_entry(|_, entry| {
            let is_meant = entry.member.is_none() && select(entry.listener);
            entry.last |= is_meant;
            is_meant
        });
    }

    /// Asks sessions to stop so that all are closed when `span` has passed: in random order, each at its own time,
    /// evenly with jitter inside its slot. The end of the span is left free, since the last ones may wait for a pause.
    /// A session that was asked for the same reason to be closed by then is skipped; one with an earlier time keeps it.
    /// `random` returns numbers in 0..1. Returns how many were selected.
    pub fn spread(
        &self,
        select: impl Fn(SessionId, &M) -> bool,
        now: MonotonicTime,
        span: Duration,
        mut random: impl FnMut() -> f64,
        why: &StopReason,
    ) -> usize {
        let end = now + span;
        let chosen = |id, entry: &Entry<M>| {
            let member = entry.member.as_ref().filter(|_| !entry.stops.has(why, end))?;
            select(id, member).then_some(())
        };
        let ids = self.collect_entries(chosen).into_iter().map(|(id, ())| id).collect();
        self.post_over(ids, now, span, &mut random, why)
    }

    /// Like [`spread`](Self::spread), for the sessions with these ids. Those that have ended are skipped.
    pub fn spread_over(
        &self,
        ids: impl IntoIterator<Item = SessionId>,
        now: MonotonicTime,
        span: Duration,
        mut random: impl FnMut() -> f64,
        why: &StopReason,
    ) -> usize {
        let is_left = |id: &SessionId| {
            self.with_entry(*id, |entry| entry.member.is_some() && !entry.stops.has(why, now + span))
                .unwrap_or_default()
        };
        let ids = ids.into_iter().filter(is_left).collect();
        self.post_over(ids, now, span, &mut random, why)
    }

    /// Gives each of `ids` a time within `span` and posts the stops.
    fn post_over(
        &self,
        mut ids: Vec<SessionId>,
        now: MonotonicTime,
        span: Duration,
        random: &mut impl FnMut() -> f64,
        why: &StopReason,
    ) -> usize {
        // Slabs hold the oldest first; without a shuffle all of one worker would stop before the next one's.
        for i in (1..ids.len()).rev() {
            ids.swap(i, ((i + 1) as f64 * random()) as usize % (i + 1));
        }
        let paced = span - QUIET_WAIT.min(span / 2);
        let (count, slot) = (ids.len(), paced.as_secs_f64() / ids.len().max(1) as f64);
        let slots = ids.into_iter().enumerate();
        let slots = slots.map(|(i, id)| (id, now + Duration::from_secs_f64(slot * (i as f64 + random()))));
        self.post(slots, Some(now + span), why);
        count
    }

    /// Asks sessions for a report, which arrives a moment later. Wakes each.
    pub fn request_reports(&self, select: impl Fn(SessionId, &M) -> bool) {
        self.for_each_entry(|id, entry| entry.member.as_ref().is_some_and(|member| select(id, member)));
    }

    /// Returns true if any entry has been asked to stop.
    pub fn is_any_stopping(&self) -> bool {
        self.workers.iter().any(|worker| lock(worker).stopping > 0)
    }

    /// Visits each session with its stop notice. Those that come or go meanwhile may be missed.
    pub fn for_each_session(&self, mut visit: impl FnMut(&M, Option<&StopNotice>)) {
        self.for_each_entry(|_, entry| {
            if let Some(member) = &entry.member {
                visit(member, entry.stops.first());
            }
            false
        });
    }

    /// Visits each session that has not been asked to stop.
    pub fn for_each_left(&self, mut visit: impl FnMut(&M)) {
        self.for_each_session(|member, stop| {
            if stop.is_none() {
                visit(member);
            }
        });
    }

    /// Returns the sessions that have not been asked to stop by `when` (`None`: at all), quietest first.
    pub fn quietest_first(&self, when: Option<MonotonicTime>, select: impl Fn(&M) -> bool) -> Vec<SessionId> {
        let is_stopping = |stop: &StopNotice| when.is_none_or(|when| stop.at <= when);
        let is_left = |entry: &Entry<M>| {
            !entry.stops.first().is_some_and(is_stopping) && entry.member.as_ref().is_some_and(&select)
        };
        let mut left = self.collect_entries(|_, entry| is_left(entry).then_some(entry.report.data_at));
        left.sort_unstable_by_key(|(id, data_at)| (*data_at, *id));
        left.into_iter().map(|(id, _)| id).collect()
    }

    /// Returns the ids of all sessions that `select` accepts.
    pub fn session_ids(&self, select: impl Fn(SessionId, &M) -> bool) -> Vec<SessionId> {
        let found = |id, entry: &Entry<M>| entry.member.as_ref().is_some_and(|member| select(id, member)).then_some(());
        self.collect_entries(found).into_iter().map(|(id, ())| id).collect()
    }

    /// Gives sessions an order to go to another process. Those that have ended are skipped.
    pub fn order(&self, ids: impl IntoIterator<Item = SessionId>, order: &MoveOrder) {
        let give = |id| {
            self.with_entry(id, |entry| {
                entry.order = Some(order.clone());
                entry.waker.take()
            })
            .flatten()
        };
        let wakers = ids.into_iter().filter_map(give).collect();
        self.wake(wakers);
    }

    /// Asks sessions to stop in their next pause. Those that have ended or were asked before are skipped. Returns how
    /// many were asked.
    pub fn stop(&self, ids: impl IntoIterator<Item = SessionId>, now: MonotonicTime, why: &StopReason) -> usize {
        self.post(ids.into_iter().map(|id| (id, now)), None, why)
    }

    /// Sets when the credential of a session expires; `None`: never. Returns false if the session has ended.
    pub fn set_expiry(&self, id: SessionId, expires: Option<MonotonicTime>) -> bool {
        let set = |entry: &mut Entry<M>| {
            entry.member.as_ref()?;
            entry.stops.set_expiry(expires);
            Some(entry.waker.take())
        };
        let Some(waker) = self.with_entry(id, set).flatten() else { return false };
        self.wake(waker.into_iter().collect());
        true
    }

    /// Cancels stops for reasons that `is_over` selects, unless their time has come.
    pub fn cancel_stop(&self, is_over: impl Fn(&M, &StopReason) -> bool, now: MonotonicTime) {
        self.for_each_entry(|_, entry| {
            let Some(member) = &entry.member else { return false };
            entry.stops.cancel(|why| is_over(member, why), now)
        });
    }

    /// Does the same for the sessions with these ids.
    pub fn request_reports_at(&self, ids: impl IntoIterator<Item = SessionId>) {
        let wakers = ids.into_iter().filter_map(|id| self.with_entry(id, |entry| entry.waker.take())?).collect();
        self.wake(wakers);
    }

    /// Returns true if the session has reported since it was asked, or has ended.
    pub fn has_reported(&self, id: SessionId) -> bool {
        self.with_entry(id, |entry| entry.waker.is_some()).unwrap_or(true)
    }

    /// Visits the next sessions after `after`, in the order of their ids, within `steps` slots. Returns the id to
    /// continue after; `None` when there are no more. A session that is there all along is visited exactly once,
    /// whatever comes and goes between two calls.
    ///
    /// Take many short walks to see all sessions without blocking their workers for long.
    pub fn walk(
        &self,
        after: Option<SessionId>,
        mut steps: usize,
        mut visit: impl FnMut(SessionId, &M),
    ) -> Option<SessionId> {
        // By slab and key: the generation is no part of the order.
        let (first, mut key) = after.map_or((0, 0), |after| (after.slab as usize, after.key as usize + 1));
        steps = steps.max(1);
        for (slab, worker) in self.workers.iter().enumerate().skip(first) {
            let worker = lock(worker);
            while key < worker.entries.capacity() && steps > 0 {
                if let Some(Entry { generation, member: Some(member), .. }) = worker.entries.get(key) {
                    visit(SessionId { slab: slab as u32, key: key as u32, generation: *generation }, member);
                }
                (key, steps) = (key + 1, steps - 1);
            }
            if steps == 0 {
                return Some(SessionId { slab: slab as u32, key: key as u32 - 1, generation: 0 });
            }
            key = 0;
        }
        None
    }

    /// Returns the session as it is now, with its last report; `None` if it has ended.
    pub fn listed(&self, id: SessionId) -> Option<Listed<M>>
    where
        M: Clone,
    {
        let listed = |entry: &mut Entry<M>| {
            let (member, report, stops) = (entry.member.clone()?, entry.report, &entry.stops);
            Some(Listed { id, member, report, stop: stops.in_force(), expires: stops.expires() })
        };
        self.with_entry(id, listed)?
    }

    /// Calls `visit` on the entry with this id, if it still exists.
    fn with_entry<T>(&self, id: SessionId, visit: impl FnOnce(&mut Entry<M>) -> T) -> Option<T> {
        let mut worker = lock(self.workers.iter().nth(id.slab as usize)?);
        let entry = worker.entries.get_mut(id.key as usize)?;
        (entry.generation == id.generation).then(|| visit(entry))
    }

    /// Collects what `visit` returns for the entries, with their ids.
    fn collect_entries<T>(&self, visit: impl Fn(SessionId, &Entry<M>) -> Option<T>) -> Vec<(SessionId, T)> {
        let mut found = vec![];
        self.for_each_entry(|id, entry| {
            found.extend(visit(id, entry).map(|it| (id, it)));
            false
        });
        found
    }

    /// Visits all entries, a slice at a time; wakes those for which `visit` returns true.
    fn for_each_entry(&self, mut visit: impl FnMut(SessionId, &mut Entry<M>) -> bool) {
        for (slab, worker) in self.workers.iter().enumerate() {
            let mut next = Some(0);
            while let Some(from) = next {
                let mut wakers = vec![];
                next = lock(worker).slice(from, |key, entry| {
                    let id = SessionId { slab: slab as u32, key: key as u32, generation: entry.generation };
                    if visit(id, entry) {
                        wakers.extend(entry.waker.take());
                    }
                });
                self.wake(wakers);
                if next.is_some() {
                    std::thread::sleep(SLICE_PAUSE);
                }
            }
        }
    }

    /// Posts when to stop and why; an earlier time stays. Returns how many stop earlier than before.
    fn post(
        &self,
        ids: impl Iterator<Item = (SessionId, MonotonicTime)>,
        by: Option<MonotonicTime>,
        why: &StopReason,
    ) -> usize {
        let (mut count, mut wakers) = (0, vec![]);
        for (id, at) in ids {
            let Some(worker) = self.workers.at(id.slab as usize) else { continue };
            let WorkerEntries { entries, stopping, .. } = &mut *lock(worker);
            let Some(entry) = entries.get_mut(id.key as usize) else { continue };
            if entry.generation != id.generation {
                continue;
            }
            *stopping += usize::from(entry.stops.is_empty());
            let outcome = entry.stops.add(StopNotice { at, by, why: why.clone() });
            if outcome.is_changed {
                wakers.extend(entry.waker.take());
            }
            count += usize::from(outcome.is_earlier);
        }
        self.wake(wakers);
        count
    }

    /// Wakes tasks once everything is noted, without holding a lock.
    fn wake(&self, wakers: Vec<Waker>) {
        if wakers.is_empty() {
            return;
        }
        self.signals.fetch_add(1, Ordering::Release);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Returns true once the drain has begun.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.begun.load(Ordering::Relaxed) != 0
    }

    /// Returns the number of sessions.
    pub fn sessions(&self) -> usize {
        self.workers.iter().map(|worker| lock(worker).sessions).sum()
    }

    /// Returns the number of guards.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Waits until no guard is left. Cancel-safe.
    pub async fn wait_idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.active() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl<M> WorkerEntries<M> {
    /// Visits one slice of entries, from this key on. Returns the key to continue at; `None` at the end.
    fn slice(&mut self, from: usize, mut visit: impl FnMut(usize, &mut Entry<M>)) -> Option<usize> {
        let end = self.entries.capacity().min(from + SLICE_ENTRIES);
        for key in from..end {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            let was_stopping = !entry.stops.is_empty();
            visit(key, entry);
            let is_stopping = !entry.stops.is_empty();
            self.stopping = self.stopping + usize::from(is_stopping) - usize::from(was_stopping);
        }
        (end < self.entries.capacity()).then_some(end)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic cannot leave the content half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
