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

mod stops;

use std::fmt;
use std::future::poll_fn;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use slab::Slab;
use tokio::sync::Notify;

use crate::base::time::MonotonicTime;
use crate::base::worker::{self, Local};
use crate::session::stop::{StopNotice, StopReason};
use crate::ws::tunnel::QUIET_WAIT;
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

/// Somebody at work. Dropping it is the end of the work.
#[derive(Debug)]
pub struct Guard<M> {
    drain: Arc<SessionRegistry<M>>,
    slab: u32,
    key: u32,
}

impl<M> Guard<M> {
    /// Makes it a session: from now on it is told to stop at its own moment, and is found by what it is.
    pub fn join(&self, member: M, now: MonotonicTime) {
        let Some(working) = self.drain.working.at(self.slab as usize) else { return };
        let mut working = lock(working);
        let Some(notice) = working.notices.get_mut(self.key as usize) else { return };
        notice.told.data_at = Some(now);
        let last = notice.member.replace(member);
        working.sessions += usize::from(last.is_none());
    }

    /// Changes whenever something is said to anybody; never 0. Who is told is woken after it has changed.
    #[inline]
    pub fn said(&self) -> u64 {
        self.drain.said.load(Ordering::Relaxed)
    }

    /// When to stop, and why; `None` while nothing is said, or when it was taken back. The last caller's waker is woken
    /// once something else is said, or when it is asked to tell of itself: a task that has called this need not call again
    /// before [`Guard::said`] changes.
    pub fn look(&self, cx: &Context<'_>, told: SessionReport) -> Option<StopNotice> {
        let mut last = None;
        let stop = self.notice(|notice| {
            notice.told = told;
            if !notice.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                last = notice.waker.replace(cx.waker().clone());
            }
            notice.stops.in_force()
        });
        // Dropped without the lock.
        drop(last);
        stop.flatten()
    }

    /// When to stop, as a poll.
    pub fn poll_notice(&self, cx: &Context<'_>) -> Poll<MonotonicTime> {
        self.look(cx, SessionReport::default()).map_or(Poll::Pending, |stop| Poll::Ready(stop.at))
    }

    /// Whether the request that is under way, or comes next, is the last: ready when it is.
    pub fn poll_last_request(&self, cx: &Context<'_>) -> Poll<()> {
        let is_told = self.poll_notice(cx).is_ready();
        let is_last = is_told || self.notice(|notice| notice.last) == Some(true);
        if is_last { Poll::Ready(()) } else { Poll::Pending }
    }

    /// When to stop, if that has been said.
    pub fn noticed(&self) -> Option<MonotonicTime> {
        self.notice(|notice| notice.stops.first().map(|stop| stop.at)).flatten()
    }

    /// Waits for the notice. Cancel-safe.
    pub async fn notice_of_end(&self) -> MonotonicTime {
        poll_fn(|cx| self.poll_notice(cx)).await
    }

    fn notice<T>(&self, look: impl FnOnce(&mut Entry<M>) -> T) -> Option<T> {
        let working = self.drain.working.at(self.slab as usize)?;
        lock(working).notices.get_mut(self.key as usize).map(look)
    }
}

impl<M> Drop for Guard<M> {
    fn drop(&mut self) {
        // A guard may be dropped elsewhere than where it was taken.
        let working = self.drain.working.at(self.slab as usize);
        let notice = working.and_then(|working| {
            let mut working = lock(working);
            let notice = working.notices.try_remove(self.key as usize)?;
            working.sessions -= usize::from(notice.member.is_some());
            working.told -= usize::from(!notice.stops.is_empty());
            Some(notice)
        });
        // Its waker and what it was a member of are dropped without the lock.
        drop(notice);
        if self.drain.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.drain.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;
    use crate::base::clock;

    fn at(seconds: u64) -> MonotonicTime {
        MonotonicTime::from_micros(seconds * 1_000_000)
    }

    fn told(seconds: u64) -> SessionReport {
        SessionReport { data_at: Some(at(seconds)), queued: 0 }
    }

    #[tokio::test]
    async fn each_gets_its_own_moment_evenly_over_the_span() {
        let drain = SessionRegistry::new(2);
        let paced: Vec<_> = (0..100).map(|_| drain.enter(1)).collect();
        paced.iter().for_each(|guard| guard.join(7, clock::now()));
        let prompt = drain.enter(1);
        let now = clock::now();
        let span = Duration::from_secs(100) + QUIET_WAIT;
        assert_eq!(drain.begin(now, span, fastrand::f64), 100);
        assert_eq!(prompt.notice_of_end().await, now);
        let mut offsets: Vec<_> =
            paced.iter().map(|guard| guard.noticed().map(|at| at.since(now).as_secs_f64())).collect();
        offsets.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        for (i, offset) in offsets.into_iter().enumerate() {
            let offset = offset.unwrap_or(-1.0);
            assert!((i as f64 - 0.001..=i as f64 + 1.001).contains(&offset), "{offset} is not in slot {i}");
        }
    }

    #[tokio::test]
    async fn the_last_guard_ends_the_wait_and_late_comers_are_told() {
        let drain = SessionRegistry::<()>::new(1);
        let first = drain.enter(1);
        drain.begin(clock::now(), Duration::ZERO, || 0.0);
        let late = drain.enter(1);
        late.notice_of_end().await;
        let waiting = tokio::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.wait_idle().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(late);
        assert!(waiting.await.is_ok());
        assert_eq!(drain.active(), 0);
    }

    #[tokio::test]
    async fn members_are_told_apart_and_the_quietest_is_known() {
        let drain = SessionRegistry::new(2);
        let cx = Context::from_waker(Waker::noop());
        let mut ours: Vec<_> = (0..4).map(|_| drain.enter(1)).collect();
        let other = drain.enter(1);
        for (guard, member) in ours.iter().map(|guard| (guard, 1)).chain([(&other, 2)]) {
            guard.join(member, at(1));
        }
        assert!(ours.iter().all(|guard| guard.look(&cx, told(1)).is_none()));
        let mut left = [0; 2];
        drain.for_each_left(|member| left[*member - 1] += 1);
        assert_eq!(left, [4, 1]);
        let before = other.said();
        drain.ask(|_, member| *member == 3);
        assert_eq!(other.said(), before, "nobody was there to be asked");
        drain.ask(|_, member| *member == 1);
        assert_ne!(other.said(), before);
        for (guard, data_at) in ours.iter().zip([5, 3, 9, 4]) {
            assert_eq!(guard.look(&cx, told(data_at)), None);
        }
        let order = drain.by_silence(None, |member| *member == 1);
        assert_eq!(order.iter().map(|place| place.key).collect::<Vec<_>>(), [1, 3, 0, 2].map(|i: usize| ours[i].key));
        let gone = ours.remove(1).key;
        // One of the four has gone, and another is at its place now.
        let newcomer = drain.enter(1);
        newcomer.join(1, at(2));
        assert_eq!(newcomer.key, gone);
        assert_eq!(drain.stop(order, at(10), &StopReason::Rebalance), 3);
        assert_eq!((newcomer.noticed(), other.noticed()), (None, None));
        assert_eq!(drain.stop(drain.by_silence(None, |member| *member == 2), at(10), &StopReason::EndpointDrain), 1);
        let stop = StopNotice { at: at(10), by: None, why: StopReason::EndpointDrain };
        assert_eq!(other.look(&cx, told(1)), Some(stop));
        assert_eq!(drain.by_silence(None, |member| *member == 2), [], "who was told is not told again");
    }

    #[test]
    fn of_two_moments_the_earlier_holds_and_what_lies_ahead_can_be_taken_back() {
        let drain = SessionRegistry::new(1);
        let cx = Context::from_waker(Waker::noop());
        let (one, two) = (drain.enter(1), drain.enter(1));
        one.join(1, at(0));
        two.join(2, at(0));
        let spread = |seconds, why| drain.spread(|_, _| true, at(seconds), Duration::ZERO, || 0.0, &why);
        spread(50, StopReason::EndpointDrain);
        spread(60, StopReason::Rebalance);
        let stop = StopNotice { at: at(50), by: Some(at(50)), why: StopReason::EndpointDrain };
        assert_eq!(one.look(&cx, told(0)), Some(stop));
        let before = one.said();
        drain.relent(|member, why| *member == 1 && *why == StopReason::EndpointDrain, at(40));
        assert_ne!(one.said(), before, "it hears of it");
        let next = StopNotice { at: at(60), by: Some(at(60)), why: StopReason::Rebalance };
        assert_eq!((one.look(&cx, told(0)), two.noticed()), (Some(next), Some(at(50))), "what was said besides holds");
        drain.relent(|member, _| *member == 1, at(40));
        assert_eq!((one.look(&cx, told(0)), two.noticed()), (None, Some(at(50))));
        drain.relent(|_, _| true, at(50));
        assert_eq!((one.noticed(), two.noticed()), (None, Some(at(50))), "the moment of one has come");
        spread(30, StopReason::Drain);
        assert_eq!((one.noticed(), two.noticed()), (Some(at(30)), Some(at(30))));
    }

    #[test]
    fn one_that_is_told_a_further_reason_is_not_told_the_first_one_again() {
        let drain = SessionRegistry::new(1);
        let guard = drain.enter(1);
        guard.join((), at(0));
        let hour = Duration::from_secs(3600);
        let spread = |now, lot: f64, why| drain.spread(|_, ()| true, now, hour, || lot, &why);
        spread(at(1), 0.9, StopReason::RouteDrain);
        let told = guard.noticed().unwrap();
        drain.spread(|_, ()| true, at(1), Duration::from_secs(100), || 0.5, &StopReason::ListenerDrain);
        let sooner = guard.noticed().unwrap();
        assert!(sooner < told);
        // The late comers of the route drain are looked for again and again: who has its lot draws no other.
        assert_eq!(
            drain.spread(|_, ()| true, at(2), hour - Duration::from_secs(1), || 0.0, &StopReason::RouteDrain),
            0
        );
        drain.relent(|(), why| *why == StopReason::ListenerDrain, at(3));
        let left = guard.look(&Context::from_waker(Waker::noop()), SessionReport::default());
        assert_eq!(left, Some(StopNotice { at: told, by: Some(at(1) + hour), why: StopReason::RouteDrain }));
    }

    #[test]
    fn who_hears_of_a_bound_alone_is_woken_and_again_when_it_is_taken_back() {
        let drain = SessionRegistry::new(1);
        let cx = Context::from_waker(Waker::noop());
        let guard = drain.enter(1);
        guard.join((), at(0));
        let say = |seconds, by, why| {
            let mut places = vec![];
            drain.walk(None, 9, |place, ()| places.push((place, at(seconds))));
            drain.tell(places.into_iter(), Some(at(by)), &why);
        };
        let hears = |what: &dyn Fn()| {
            guard.look(&cx, SessionReport::default());
            let before = guard.said();
            what();
            guard.said() != before
        };
        assert!(hears(&|| say(10, 100, StopReason::Reload)));
        assert!(hears(&|| say(20, 50, StopReason::RouteDrain)), "the bound is nearer");
        assert!(!hears(&|| say(30, 60, StopReason::UpstreamDrain)), "nothing of that holds");
        let relent = |why: StopReason| drain.relent(|(), told| *told == why, at(1));
        assert!(!hears(&|| relent(StopReason::UpstreamDrain)));
        assert!(hears(&|| relent(StopReason::RouteDrain)));
        assert_eq!(guard.look(&cx, SessionReport::default()).map(|stop| stop.by), Some(Some(at(100))));
        assert!(!hears(&|| relent(StopReason::RouteDrain)), "it is no more");
    }

    #[test]
    fn the_lock_goes_in_between_and_nobody_is_missed_or_seen_twice() {
        let drain = SessionRegistry::new(1);
        let mut guards: Vec<_> = (0..3 * AT_ONCE).map(|_| drain.enter(1)).collect();
        guards.iter().enumerate().for_each(|(i, guard)| guard.join(i, at(0)));
        let (mut seen, mut next, mut slices) = (vec![], Some(0), 0);
        while let Some(from) = next {
            let mut count = 0;
            next = lock(drain.working.iter().next().unwrap()).slice(from, |_, notice| {
                count += 1;
                seen.extend(notice.member);
            });
            assert!(count <= AT_ONCE, "{count} under one lock");
            slices += 1;
            // Meanwhile one that was seen goes, and one that was not, and others come at their places.
            let gone = [1, 2 * AT_ONCE + slices].map(|i| guards[i].key);
            guards.retain(|guard| !gone.contains(&guard.key));
            guards.extend((0..2).map(|_| drain.enter(1)));
        }
        assert!(slices >= 3, "{slices}");
        let there: Vec<_> = guards.iter().filter_map(|guard| guard.notice(|notice| notice.member).flatten()).collect();
        assert!(there.iter().all(|member| seen.contains(member)), "who was there all along was seen");
        let before = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), before, "once");
    }

    /// Wakes by entering: whoever holds the lock of the slab would wait for itself.
    struct Enters(Arc<SessionRegistry<usize>>, AtomicUsize);

    impl std::task::Wake for Enters {
        fn wake(self: Arc<Enters>) {
            drop(self.0.enter(1));
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_is_woken_may_take_the_lock_at_once() {
        let drain = SessionRegistry::new(1);
        let enters = Arc::new(Enters(Arc::clone(&drain), AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&enters));
        let guards: Vec<_> = (0..2 * AT_ONCE + 7).map(|_| drain.enter(1)).collect();
        let look =
            || guards.iter().for_each(|guard| drop(guard.look(&Context::from_waker(&waker), SessionReport::default())));
        let woken = || enters.1.swap(0, Ordering::Relaxed);
        look();
        drain.last_requests(|listener| listener == 1);
        assert_eq!(woken(), guards.len());
        look();
        drain.stop_requests(1, at(1), &StopReason::ListenerDrain);
        assert_eq!(woken(), guards.len());
        guards.iter().for_each(|guard| guard.join(1, at(1)));
        look();
        drain.ask(|_, _| true);
        assert_eq!(woken(), guards.len());
    }

    #[test]
    fn the_end_of_the_process_holds_when_an_earlier_moment_is_taken_back() {
        let drain = SessionRegistry::new(1);
        let guard = drain.enter(1);
        guard.join((), at(0));
        let soon = Duration::from_secs(20);
        drain.spread(|_, ()| true, at(10), Duration::ZERO, || 0.0, &StopReason::RouteDrain);
        drain.begin(at(1), soon, || 0.9);
        assert_eq!(guard.noticed(), Some(at(10)));
        drain.relent(|(), why| *why == StopReason::RouteDrain, at(2));
        let left = guard.noticed().unwrap();
        assert!(at(10) < left && left < at(1) + soon, "{left:?}");
    }

    #[test]
    fn who_is_told_again_goes_earlier_and_never_draws_another_lot() {
        let drain = SessionRegistry::new(1);
        let guard = drain.enter(1);
        guard.join((), at(0));
        let long = Duration::from_secs(100);
        let spread = |now, span, lot: f64| drain.spread(|_, _| true, now, span, || lot, &StopReason::Reload);
        assert_eq!(spread(at(1), long, 0.9), 1);
        let told = guard.noticed();
        // Late comers of the same are looked for: what is left of the same span.
        assert_eq!(spread(at(2), long - Duration::from_secs(1), 0.0), 0);
        assert_eq!(guard.noticed(), told);
        assert_eq!(spread(at(3), Duration::ZERO, 0.0), 1);
        assert_eq!(guard.noticed(), Some(at(3)));
    }

    #[test]
    fn all_sessions_are_seen_in_many_short_walks_that_change_does_not_disturb() {
        let drain = SessionRegistry::new(2);
        let mut guards: Vec<_> = (0..10).map(|_| drain.enter(1)).collect();
        guards.iter().enumerate().filter(|(i, _)| *i != 4).for_each(|(i, guard)| guard.join(i, at(0)));
        assert_eq!(drain.sessions(), 9, "one is no session yet");
        let (mut seen, mut after, mut walks) = (vec![], None, 0);
        loop {
            walks += 1;
            assert!(walks < 99, "{after:?}");
            after = drain.walk(after, 2, |place, member| seen.push((place, *member)));
            if walks == 2 {
                // One that was seen, and the one that the next walk would begin after.
                guards.retain(|guard| ![0, 3].contains(&guard.key));
                assert_eq!(drain.sessions(), 7);
            }
            if after.is_none() {
                break;
            }
        }
        assert!(walks >= 5, "{walks}");
        assert_eq!(seen.iter().map(|(_, member)| *member).collect::<Vec<_>>(), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
        let listed = |at: usize| drain.listed(seen[at].0).map(|listed| listed.member);
        assert_eq!((listed(0), listed(1)), (None, Some(1)));
        // Another at the place of one that has gone.
        let newcomer = drain.enter(1);
        newcomer.join(77, at(1));
        assert!([0, 3].contains(&newcomer.key) && listed(0).is_none() && listed(3).is_none());
    }

    #[test]
    fn those_at_a_place_tell_of_themselves_and_close_alone() {
        let drain = SessionRegistry::new(1);
        let cx = Context::from_waker(Waker::noop());
        let guards = [drain.enter(1), drain.enter(1)];
        guards.iter().enumerate().for_each(|(i, guard)| guard.join(i, at(0)));
        guards.iter().for_each(|guard| drop(guard.look(&cx, told(1))));
        let mut places = vec![];
        drain.walk(None, 9, |place, _| places.push(place));
        assert!(drain.has_told(places[0]));
        drain.ask_at([places[0]]);
        assert_eq!((drain.has_told(places[0]), drain.has_told(places[1])), (false, true));
        guards[0].look(&cx, told(7));
        assert!(drain.has_told(places[0]));
        assert_eq!(drain.listed(places[0]).unwrap().told, told(7));
        let spread = || drain.spread_over([places[1]], at(9), Duration::ZERO, || 0.0, &StopReason::Rebalance);
        assert_eq!((spread(), spread()), (1, 0), "who was told is not told again");
        assert_eq!(guards.each_ref().map(Guard::noticed), [None, Some(at(9))]);
        drop(guards);
        assert!(drain.has_told(places[0]), "nobody waits for who has gone");
        assert_eq!(spread(), 0);
    }

    #[test]
    fn a_listener_is_rid_of_its_requests_and_keeps_its_sessions() {
        let drain = SessionRegistry::new(1);
        let guards = [1, 1, 2].map(|listener| drain.enter(listener));
        guards[0].join((), at(0));
        drain.stop_requests(1, at(5), &StopReason::Drain);
        assert_eq!(guards.each_ref().map(Guard::noticed), [None, Some(at(5)), None]);
    }

    #[test]
    fn a_survey_sees_every_session_once_and_what_it_was_told() {
        let drain = SessionRegistry::new(1);
        let mut guards: Vec<_> = (0..2 * AT_ONCE + 10).map(|_| drain.enter(1)).collect();
        let survey = || {
            let (mut seen, mut told) = (vec![], 0);
            drain.survey(|member: &usize, stop| {
                seen.push(*member);
                told += usize::from(stop.is_some());
            });
            (seen, told)
        };
        assert_eq!((survey(), drain.is_anybody_told()), ((vec![], 0), false), "none is a session yet");
        guards.iter().enumerate().for_each(|(i, guard)| guard.join(i, at(0)));
        guards.swap_remove(5);
        let (seen, told) = survey();
        assert_eq!((seen, told), ((0..2 * AT_ONCE + 10).filter(|i| *i != 5).collect(), 0));
        let spread = |seconds, why| drain.spread(|_, i| i % 2 == 0, at(seconds), Duration::ZERO, || 0.0, &why);
        let even = spread(50, StopReason::RouteDrain);
        spread(40, StopReason::Reload);
        assert_eq!((survey().1, drain.is_anybody_told()), (even, true));
        drain.relent(|_, why| *why == StopReason::RouteDrain, at(0));
        assert_eq!(survey().1, even, "the earlier moment holds");
        guards.retain(|guard| guard.noticed().is_none());
        assert_eq!((survey().1, drain.is_anybody_told()), (0, false));
        spread(50, StopReason::Reload);
        drain.begin(at(1), Duration::ZERO, || 0.0);
        let late = drain.enter(1);
        assert!(drain.is_anybody_told());
        drop(guards);
        assert!(drain.is_anybody_told());
        drop(late);
        assert!(!drain.is_anybody_told());
    }

    #[test]
    fn a_last_request_may_open_a_session_which_is_told_nothing() {
        let drain = SessionRegistry::new(1);
        let cx = Context::from_waker(Waker::noop());
        let (session, request) = (drain.enter(1), drain.enter(2));
        session.join(1, at(0));
        assert!(request.poll_last_request(&cx).is_pending());
        drain.last_requests(|_| true);
        assert!(request.poll_last_request(&cx).is_ready() && session.poll_last_request(&cx).is_pending());
        request.join(2, at(1));
        assert_eq!((request.noticed(), session.noticed()), (None, None));
        assert_eq!(drain.spread(|_, _| true, at(2), Duration::ZERO, || 0.0, &StopReason::Upgrade), 2);
        assert!(drain.enter(1).poll_last_request(&cx).is_pending(), "only those that were there");
    }

    #[test]
    fn a_place_is_written_in_one_way() {
        let place = SessionId { slab: 1, key: 31, generation: 0xabc };
        assert_eq!(place.to_string(), "1-1f-abc");
        assert_eq!("1-1f-abc".parse::<SessionId>().unwrap(), place);
        for text in ["", "1-1f", "1-1f-abc-0", "01-1f-abc", "+1-1f-abc", "1-1F-abc", "1-1f-100000000", "x-y-z"] {
            assert!(text.parse::<SessionId>().is_err(), "{text}");
        }
    }
}
