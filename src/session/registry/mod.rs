//! Who is still working, and when each is to stop: the way in which everything here ends politely.
//!
//! hyper forgets a connection once it is upgraded, so sessions are counted here. Whoever works holds a `Guard`; one that
//! has become a session has joined with what it is a member of (`M`). By that, sessions are found again: to list them, to
//! ask which has been quiet for longest, and to tell some of them to stop. Each is given its own moment: evenly over a
//! span with jitter inside its slot, so that clients do not reconnect all at once. When the process ends, all sessions are
//! told so, everybody else at once, and the owner of `SessionRegistry` waits for the last guard to go.
//!
//! Of several moments the earliest holds. What has been said can be taken back until its moment has come (`stops`).
//!
//! Whoever looks at all of them takes a worker's slab in slices, and the lock goes in between: a worker that wants to accept
//! waits for a thousand notices, and not for a hundred thousand. Who is there all along is seen once for all that.
//!
//! Entering and leaving cost a lock of the worker's own slab. Whoever has left a waker hears of what is said by being
//! woken, and until then asks no more than `Guard::said`: a load of a line that all share and that is written only when
//! something is said.

mod guard;
mod stops;

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
use crate::base::worker::{self, Local};
use crate::session::stop::{StopNotice, StopReason};
use crate::ws::tunnel::QUIET_WAIT;
pub use guard::Guard;
use stops::Stops;

/// How many sessions are looked at with a worker's slab locked: some ten microseconds, in which that worker could not
/// accept.
const AT_ONCE: usize = 1024;

/// Between two such looks, for whoever waits for the lock: without it, who has just let go of it would have it again before
/// the other is awake.
const BREATH: Duration = Duration::from_micros(20);

/// All work of the process that is waited for at the end.
#[derive(Debug)]
pub struct SessionRegistry<M> {
    working: Local<Mutex<Working<M>>>,
    active: AtomicUsize,
    /// When the drain began, in microseconds; 0 before.
    begun: AtomicU64,
    /// When all are to have stopped then.
    by: AtomicU64,
    /// How often something was said to guards. On a line of its own: each session reads it whenever it is woken, while
    /// `active` is written for each connection.
    said: CachePadded<AtomicU64>,
    idle: Notify,
}

/// Those of one worker.
#[derive(Debug)]
struct Working<M> {
    notices: Slab<Entry<M>>,
    /// How many of them are sessions.
    sessions: usize,
    /// How many of them say when to stop.
    told: usize,
    /// The generation of the next to enter.
    generation: u32,
}

/// What is known of one guard, and what it is told.
#[derive(Debug)]
struct Entry<M> {
    /// Tells it from those that were at its place before.
    generation: u32,
    /// Where its connection came in.
    listener: u32,
    /// No request may follow the one that is under way, which is nothing to a session.
    last: bool,
    /// When to stop and why, by all who have said so.
    stops: Stops,
    /// Who is to hear of it.
    waker: Option<Waker>,
    /// What it is, once it is a session.
    member: Option<M>,
    /// What it said when last asked.
    told: SessionReport,
}

/// What a session tells of itself when it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionReport {
    /// When data last passed.
    pub data_at: Option<MonotonicTime>,
    /// Bytes that wait for a peer to take them.
    pub queued: u32,
}

/// Where a guard's notice is. It names this guard alone, also when another has taken its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    slab: u32,
    key: u32,
    generation: u32,
}

/// A session as it is listed.
#[derive(Clone, Debug)]
pub struct Listed<M> {
    /// Its name here.
    pub place: SessionId,
    /// What it is.
    pub member: M,
    /// What it said when last asked.
    pub told: SessionReport,
    /// When it is to stop, and why, if it was told to.
    pub stop: Option<StopNotice>,
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
        let place = SessionId { slab: part()?, key: part()?, generation: part()? };
        // One text for each: neither a sign, nor zeros in front, nor anything behind.
        if place.to_string() == text { Ok(place) } else { Err(BadSessionId) }
    }
}

/// A text that is not a [`SessionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a session: three hexadecimal numbers with hyphens between them, as in `0-1f-3a`")]
pub struct BadSessionId;

impl<M> SessionRegistry<M> {
    /// Nobody works yet; the guards will be held by the tasks of so many workers.
    pub fn new(workers: usize) -> Arc<SessionRegistry<M>> {
        Arc::new(SessionRegistry {
            working: Local::new(workers, || {
                Mutex::new(Working { notices: Slab::new(), sessions: 0, told: 0, generation: 0 })
            }),
            active: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            by: AtomicU64::new(0),
            said: CachePadded::new(AtomicU64::new(1)),
            idle: Notify::new(),
        })
    }

    /// Counts the caller, who came in by `listener`, as working until the guard is dropped. After the drain has begun the
    /// guard is told at once.
    pub fn enter(self: &Arc<SessionRegistry<M>>, listener: u32) -> Guard<M> {
        self.active.fetch_add(1, Ordering::Relaxed);
        let slab = worker::index();
        let mut working = lock(self.working.get());
        // Read with the slab locked: either `begin` comes to the notice later, or we see that it began; so nobody gets the
        // notice of another who was here before.
        let stop = match self.begun.load(Ordering::SeqCst) {
            0 => None,
            begun => {
                let (at, by) =
                    (MonotonicTime::from_micros(begun), MonotonicTime::from_micros(self.by.load(Ordering::SeqCst)));
                Some(StopNotice { at, by: Some(by), why: StopReason::Drain })
            }
        };
        let generation = working.generation;
        working.generation = generation.wrapping_add(1);
        working.told += usize::from(stop.is_some());
        let (member, told) = (None, SessionReport::default());
        let notice = Entry { generation, listener, last: false, stops: Stops::new(stop), waker: None, member, told };
        let key = working.notices.insert(notice);
        drop(working);
        Guard { drain: Arc::clone(self), slab: slab as u32, key: key as u32 }
    }

    /// Tells all that work to stop: sessions spread over `span` from `now`, the others at once. Only the first call
    /// counts. `random` gives numbers in 0..1 for the jitter. Returns how many sessions there are.
    pub fn begin(&self, now: MonotonicTime, span: Duration, random: impl FnMut() -> f64) -> usize {
        if !self.is_draining() {
            self.by.store((now + span).as_micros(), Ordering::SeqCst);
        }
        if self.begun.compare_exchange(0, now.as_micros(), Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return 0;
        }
        let prompt = self.places(|_, notice| notice.member.is_none().then_some(()));
        self.tell(prompt.into_iter().map(|(place, ())| (place, now)), Some(now + span), &StopReason::Drain);
        self.spread(|_, _| true, now, span, random, &StopReason::Drain)
    }

    /// Tells the connections of `listener` that are no sessions, or not yet, to stop now.
    pub fn stop_requests(&self, listener: u32, now: MonotonicTime, why: &StopReason) {
        let prompt = self.places(|_, notice| (notice.member.is_none() && notice.listener == listener).then_some(()));
        self.tell(prompt.into_iter().map(|(place, ())| (place, now)), None, why);
    }

    /// Has connections that are no sessions, of listeners that `select` means by their numbers, end with the request that is
    /// under way. One that becomes a session by that request is one like all others.
    pub fn last_requests(&self, select: impl Fn(u32) -> bool) {
        self.each(|_, notice| {
            let is_meant = notice.member.is_none() && select(notice.listener);
            notice.last |= is_meant;
            is_meant
        });
    }

    /// Tells sessions to stop so that all have been closed when `span` has passed: each at its own moment, evenly and with
    /// jitter inside its slot, but for the end of the span, in which the last ones may wait for a pause; in an order that is
    /// left to chance. One that was told for the same reason to be gone by then is passed over, and one that was told an
    /// earlier moment keeps that. `random` gives numbers in 0..1. Returns how many there are.
    pub fn spread(
        &self,
        select: impl Fn(SessionId, &M) -> bool,
        now: MonotonicTime,
        span: Duration,
        mut random: impl FnMut() -> f64,
        why: &StopReason,
    ) -> usize {
        let end = now + span;
        let chosen = |place, notice: &Entry<M>| {
            let member = notice.member.as_ref().filter(|_| !notice.stops.has(why, end))?;
            select(place, member).then_some(())
        };
        let places = self.places(chosen).into_iter().map(|(place, ())| place).collect();
        self.pace(places, now, span, &mut random, why)
    }

    /// The same for the sessions at `places`. Those that have gone meanwhile are passed over too.
    pub fn spread_over(
        &self,
        places: impl IntoIterator<Item = SessionId>,
        now: MonotonicTime,
        span: Duration,
        mut random: impl FnMut() -> f64,
        why: &StopReason,
    ) -> usize {
        let is_left = |place: &SessionId| {
            self.at(*place, |notice| notice.member.is_some() && !notice.stops.has(why, now + span)).unwrap_or_default()
        };
        let places = places.into_iter().filter(is_left).collect();
        self.pace(places, now, span, &mut random, why)
    }

    fn pace(
        &self,
        mut places: Vec<SessionId>,
        now: MonotonicTime,
        span: Duration,
        random: &mut impl FnMut() -> f64,
        why: &StopReason,
    ) -> usize {
        // Slabs hold the oldest first; without a shuffle all of one worker would go before the next one's.
        for i in (1..places.len()).rev() {
            places.swap(i, ((i + 1) as f64 * random()) as usize % (i + 1));
        }
        let paced = span - QUIET_WAIT.min(span / 2);
        let (count, slot) = (places.len(), paced.as_secs_f64() / places.len().max(1) as f64);
        let slots = places.into_iter().enumerate();
        let slots = slots.map(|(i, place)| (place, now + Duration::from_secs_f64(slot * (i as f64 + random()))));
        self.tell(slots, Some(now + span), why);
        count
    }

    /// Has sessions tell of themselves; what they tell is known a moment later. Wakes each.
    pub fn ask(&self, select: impl Fn(SessionId, &M) -> bool) {
        self.each(|place, notice| notice.member.as_ref().is_some_and(|member| select(place, member)));
    }

    /// Whether anybody who is still there has been told to stop.
    pub fn is_anybody_told(&self) -> bool {
        self.working.iter().any(|working| lock(working).told > 0)
    }

    /// Looks at each session, and at what it was told. Those that come or go meanwhile may be missed.
    pub fn survey(&self, mut look: impl FnMut(&M, Option<&StopNotice>)) {
        self.each(|_, notice| {
            if let Some(member) = &notice.member {
                look(member, notice.stops.first());
            }
            false
        });
    }

    /// Looks at each session that has not been told to stop.
    pub fn for_each_left(&self, mut look: impl FnMut(&M)) {
        self.survey(|member, stop| {
            if stop.is_none() {
                look(member);
            }
        });
    }

    /// Sessions that have not been told to stop by `when`, the one that was quiet for longest first; `None`: at all.
    pub fn by_silence(&self, when: Option<MonotonicTime>, select: impl Fn(&M) -> bool) -> Vec<SessionId> {
        let is_told = |stop: &StopNotice| when.is_none_or(|when| stop.at <= when);
        let is_left = |notice: &Entry<M>| {
            !notice.stops.first().is_some_and(is_told) && notice.member.as_ref().is_some_and(&select)
        };
        let mut left = self.places(|_, notice| is_left(notice).then_some(notice.told.data_at));
        left.sort_unstable_by_key(|(place, data_at)| (*data_at, *place));
        left.into_iter().map(|(place, _)| place).collect()
    }

    /// Tells sessions to stop in their next pause. Those that have gone meanwhile, or were told before, are passed over. Returns how many
    /// were told.
    pub fn stop(&self, places: impl IntoIterator<Item = SessionId>, now: MonotonicTime, why: &StopReason) -> usize {
        self.tell(places.into_iter().map(|place| (place, now)), None, why)
    }

    /// Takes back what was said to sessions for a reason that `is_over`, and whose moment has not come.
    pub fn relent(&self, is_over: impl Fn(&M, &StopReason) -> bool, now: MonotonicTime) {
        self.each(|_, notice| {
            let Some(member) = &notice.member else { return false };
            notice.stops.take_back(|why| is_over(member, why), now)
        });
    }

    /// The same for the sessions at `places`.
    pub fn ask_at(&self, places: impl IntoIterator<Item = SessionId>) {
        let wakers = places.into_iter().filter_map(|place| self.at(place, |notice| notice.waker.take())?).collect();
        self.wake(wakers);
    }

    /// Whether the session at `place` has told of itself since it was asked, or has gone.
    pub fn has_told(&self, place: SessionId) -> bool {
        self.at(place, |notice| notice.waker.is_some()).unwrap_or(true)
    }

    /// Shows the next sessions, in the order of their places, those after `after`: as many as are found within `steps`
    /// places. Returns after which to go on; `None` when there are no more. A session that is there all along is shown once,
    /// whatever comes and goes between two calls.
    ///
    /// Whoever wants to see all of them without being in the way of their workers for long takes many walks.
    pub fn walk(
        &self,
        after: Option<SessionId>,
        mut steps: usize,
        mut look: impl FnMut(SessionId, &M),
    ) -> Option<SessionId> {
        // By slab and key: generations do not put those of one place in an order.
        let (first, mut key) = after.map_or((0, 0), |after| (after.slab as usize, after.key as usize + 1));
        steps = steps.max(1);
        for (slab, working) in self.working.iter().enumerate().skip(first) {
            let working = lock(working);
            while key < working.notices.capacity() && steps > 0 {
                if let Some(Entry { generation, member: Some(member), .. }) = working.notices.get(key) {
                    look(SessionId { slab: slab as u32, key: key as u32, generation: *generation }, member);
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

    /// The session at `place` as it is now, with what it last told; `None` if it has gone.
    pub fn listed(&self, place: SessionId) -> Option<Listed<M>>
    where
        M: Clone,
    {
        let listed = |notice: &mut Entry<M>| {
            let (member, told, stop) = (notice.member.clone()?, notice.told, notice.stops.in_force());
            Some(Listed { place, member, told, stop })
        };
        self.at(place, listed)?
    }

    /// What `look` says of the notice at `place`, unless that has gone.
    fn at<T>(&self, place: SessionId, look: impl FnOnce(&mut Entry<M>) -> T) -> Option<T> {
        let mut working = lock(self.working.iter().nth(place.slab as usize)?);
        let notice = working.notices.get_mut(place.key as usize)?;
        (notice.generation == place.generation).then(|| look(notice))
    }

    /// What `look` finds in all notices, with their places.
    fn places<T>(&self, look: impl Fn(SessionId, &Entry<M>) -> Option<T>) -> Vec<(SessionId, T)> {
        let mut found = vec![];
        self.each(|place, notice| {
            found.extend(look(place, notice).map(|it| (place, it)));
            false
        });
        found
    }

    /// Looks at all notices, a slice of them at a time; has those hear of it of which `look` says so.
    fn each(&self, mut look: impl FnMut(SessionId, &mut Entry<M>) -> bool) {
        for (slab, working) in self.working.iter().enumerate() {
            let mut next = Some(0);
            while let Some(from) = next {
                let mut wakers = vec![];
                next = lock(working).slice(from, |key, notice| {
                    let place = SessionId { slab: slab as u32, key: key as u32, generation: notice.generation };
                    if look(place, notice) {
                        wakers.extend(notice.waker.take());
                    }
                });
                self.wake(wakers);
                if next.is_some() {
                    std::thread::sleep(BREATH);
                }
            }
        }
    }

    /// Says when to stop and why, unless an earlier moment has been said. Returns to how many.
    fn tell(
        &self,
        places: impl Iterator<Item = (SessionId, MonotonicTime)>,
        by: Option<MonotonicTime>,
        why: &StopReason,
    ) -> usize {
        let (mut count, mut wakers) = (0, vec![]);
        for (place, at) in places {
            let Some(working) = self.working.at(place.slab as usize) else { continue };
            let Working { notices, told, .. } = &mut *lock(working);
            let Some(notice) = notices.get_mut(place.key as usize) else { continue };
            if notice.generation != place.generation {
                continue;
            }
            *told += usize::from(notice.stops.is_empty());
            let heard = notice.stops.say(StopNotice { at, by, why: why.clone() });
            if heard.is_news {
                wakers.extend(notice.waker.take());
            }
            count += usize::from(heard.is_earlier);
        }
        self.wake(wakers);
        count
    }

    /// Wakes without any lock, when all has been noted: who is woken looks.
    fn wake(&self, wakers: Vec<Waker>) {
        if wakers.is_empty() {
            return;
        }
        self.said.fetch_add(1, Ordering::Release);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether the drain has begun.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.begun.load(Ordering::Relaxed) != 0
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.working.iter().map(|working| lock(working).sessions).sum()
    }

    /// How many guards there are.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Waits until nobody works any more. Cancel-safe.
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

impl<M> Working<M> {
    /// Looks at the notices that are at the next places from this one on. Returns where to go on; `None`: that was all.
    fn slice(&mut self, from: usize, mut look: impl FnMut(usize, &mut Entry<M>)) -> Option<usize> {
        let end = self.notices.capacity().min(from + AT_ONCE);
        for key in from..end {
            let Some(notice) = self.notices.get_mut(key) else { continue };
            let was_told = !notice.stops.is_empty();
            look(key, notice);
            let is_told = !notice.stops.is_empty();
            self.told = self.told + usize::from(is_told) - usize::from(was_told);
        }
        (end < self.notices.capacity()).then_some(end)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing inside can be left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
