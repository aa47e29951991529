//! Finishing politely: who is still working, and when each is to stop.
//!
//! hyper forgets a connection once it is upgraded, so sessions are counted here. Whoever works holds a `Guard`. When
//! the drain begins, each guard is given its own moment: those that asked for pace (`Guard::pace`) evenly over the
//! span with jitter inside their slot, so that clients do not reconnect all at once; all others at once. The owner of
//! `Drain` then waits for the last guard to go.
//!
//! Guards that belong to a group (the sessions of one endpoint) can be told apart from the others: which of them has been
//! quiet for longest, and to stop.
//!
//! Entering and leaving cost a lock of the worker's own slab. Whoever has left a waker hears of what is said by being
//! woken, and until then asks no more than `Guard::said`: a load of a line that all share and that is written only when
//! something is said.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use slab::Slab;
use tokio::sync::Notify;

use crate::moment::Moment;
use crate::worker::{self, Local};
use crate::ws::tunnel::Stopping;

/// All work of the process that is waited for at the end.
#[derive(Debug)]
pub struct Drain {
    working: Local<Mutex<Slab<Notice>>>,
    active: AtomicUsize,
    /// When the drain began, in microseconds; 0 before.
    begun: AtomicU64,
    /// How often something was said to guards. On a line of its own: each session reads it whenever it is woken, while
    /// `active` is written for each connection.
    said: CachePadded<AtomicU64>,
    idle: Notify,
}

/// What one guard is told.
#[derive(Debug, Default)]
struct Notice {
    /// When to stop and why, once that has been said.
    stop: Option<(Moment, Stopping)>,
    /// Who is to hear of it.
    waker: Option<Waker>,
    /// To which group it belongs; 0: to none. Those of a group are paced.
    group: u64,
    /// When data last passed, as told when last asked.
    data_at: Option<Moment>,
}

/// Where a guard's notice is: slab and key, counted in 32 bits, as each session holds them. The place of a guard that has
/// gone may become another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    slab: u32,
    key: u32,
}

impl Drain {
    /// Nobody works yet; the guards will be held by the tasks of so many workers.
    pub fn new(workers: usize) -> Arc<Drain> {
        Arc::new(Drain {
            working: Local::new(workers, Mutex::default),
            active: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            said: CachePadded::new(AtomicU64::new(1)),
            idle: Notify::new(),
        })
    }

    /// Counts the caller as working until the guard is dropped. After the drain has begun the guard is told at once.
    pub fn enter(self: &Arc<Drain>) -> Guard {
        self.active.fetch_add(1, Ordering::Relaxed);
        let slab = worker::index();
        let mut notices = lock(self.working.get());
        // Read with the slab locked: either `begin` comes to the notice later, or we see that it began; so nobody gets the
        // notice of another who was here before.
        let stop = match self.begun.load(Ordering::SeqCst) {
            0 => None,
            begun => Some((Moment::from_micros(begun), Stopping::Drain)),
        };
        let key = notices.insert(Notice { stop, ..Notice::default() });
        drop(notices);
        let place = Place { slab: slab as u32, key: key as u32 };
        Guard { drain: Arc::clone(self), place }
    }

    /// Tells all that work to stop: those of a group spread over `span` from `now`, the others at once. Only the first call
    /// counts. `random` gives numbers in 0..1 for the jitter. Returns how many are paced.
    pub fn begin(&self, now: Moment, span: Duration, mut random: impl FnMut() -> f64) -> usize {
        if self.begun.compare_exchange(0, now.as_micros(), Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return 0;
        }
        let (mut paced, mut prompt) = (Vec::new(), Vec::new());
        for (place, group) in self.places(|notice| Some(notice.group)) {
            let told = if group != 0 { &mut paced } else { &mut prompt };
            told.push(place);
        }
        self.tell(prompt.into_iter().map(|place| (place, now)), |_| true, Stopping::Drain);
        // Slabs hold the oldest first; without a shuffle all of one worker would go before the next one's.
        for i in (1..paced.len()).rev() {
            paced.swap(i, ((i + 1) as f64 * random()) as usize % (i + 1));
        }
        let (count, slot) = (paced.len(), span.as_secs_f64() / paced.len().max(1) as f64);
        let slots = paced.into_iter().enumerate();
        let told = slots.map(|(i, place)| (place, now + Duration::from_secs_f64(slot * (i as f64 + random()))));
        self.tell(told, |_| true, Stopping::Drain);
        count
    }

    /// Has the guards of a group say when data last passed; [`Drain::by_silence`] knows it a moment later. Wakes each.
    pub fn ask(&self, group: u64) {
        let mut wakers = vec![];
        for slab in self.working.iter() {
            let mut notices = lock(slab);
            let members = notices.iter_mut().filter(|(_, notice)| notice.group == group);
            wakers.extend(members.filter_map(|(_, notice)| notice.waker.take()));
        }
        self.wake(wakers);
    }

    /// How many guards of each of these groups have not been told to stop.
    pub fn left(&self, groups: &[u64]) -> Vec<u32> {
        let mut left = vec![0; groups.len()];
        for slab in self.working.iter() {
            for (_, notice) in lock(slab).iter().filter(|(_, notice)| notice.group != 0 && notice.stop.is_none()) {
                if let Some(at) = groups.iter().position(|group| *group == notice.group) {
                    left[at] += 1;
                }
            }
        }
        left
    }

    /// The guards of a group that have not been told to stop, the one that was quiet for longest first.
    pub fn by_silence(&self, group: u64) -> Vec<Place> {
        let is_left = |notice: &Notice| (notice.group == group && notice.stop.is_none()).then_some(notice.data_at);
        let mut members = self.places(is_left);
        members.sort_unstable_by_key(|(place, data_at)| (*data_at, *place));
        members.into_iter().map(|(place, _)| place).collect()
    }

    /// Tells some of a group to stop now. Those that have gone meanwhile, or were told before, are passed over. Returns how
    /// many were told.
    pub fn stop(&self, group: u64, places: impl IntoIterator<Item = Place>, now: Moment, why: Stopping) -> usize {
        self.tell(places.into_iter().map(|place| (place, now)), |notice| notice.group == group, why)
    }

    /// What `look` finds in all notices, with their places.
    fn places<T>(&self, look: impl Fn(&Notice) -> Option<T>) -> Vec<(Place, T)> {
        let mut found = vec![];
        for (slab, notices) in self.working.iter().enumerate() {
            let notices = lock(notices);
            let place = |key| Place { slab: slab as u32, key: key as u32 };
            found.extend(notices.iter().filter_map(|(key, notice)| Some((place(key), look(notice)?))));
        }
        found
    }

    /// Says when to stop and why, unless that has been said, to those that `concerns`. Returns to how many.
    fn tell(
        &self,
        places: impl Iterator<Item = (Place, Moment)>,
        concerns: impl Fn(&Notice) -> bool,
        why: Stopping,
    ) -> usize {
        let (mut count, mut wakers) = (0, vec![]);
        for (place, at) in places {
            let told = self.notice(place, |notice| {
                if notice.stop.is_some() || !concerns(notice) {
                    return None;
                }
                notice.stop = Some((at, why.clone()));
                Some(notice.waker.take())
            });
            if let Some(waker) = told.flatten() {
                count += 1;
                wakers.extend(waker);
            }
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

    /// What is noted at a place, if anybody is there any more.
    fn notice<T>(&self, place: Place, look: impl FnOnce(&mut Notice) -> T) -> Option<T> {
        let slab = self.working.at(place.slab as usize)?;
        lock(slab).get_mut(place.key as usize).map(look)
    }

    /// Whether the drain has begun.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.begun.load(Ordering::Relaxed) != 0
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing inside can be left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody at work. Dropping it is the end of the work.
#[derive(Debug)]
pub struct Guard {
    drain: Arc<Drain>,
    place: Place,
}

impl Guard {
    /// Makes it one of a `group`, which is not 0: from now on it is told to stop at its own moment of the drain, not at its
    /// beginning, and may be told apart from the others.
    pub fn join(&self, group: u64, now: Moment) {
        self.drain.notice(self.place, |notice| (notice.group, notice.data_at) = (group, Some(now)));
    }

    /// Changes whenever something is said to anybody; never 0. Who is told is woken after it has changed.
    #[inline]
    pub fn said(&self) -> u64 {
        self.drain.said.load(Ordering::Relaxed)
    }

    /// When to stop, and why; `None` while nothing is said. The last caller's waker is woken once something is, or when it
    /// is asked for `data_at`, the time at which data last passed: a task that has called this need not call again before
    /// [`Guard::said`] changes.
    pub fn look(&self, cx: &Context<'_>, data_at: Option<Moment>) -> Option<(Moment, Stopping)> {
        let mut last = None;
        let stop = self.drain.notice(self.place, |notice| {
            notice.data_at = data_at;
            if notice.stop.is_none() && !notice.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                last = notice.waker.replace(cx.waker().clone());
            }
            notice.stop.clone()
        });
        // Dropped without the lock.
        drop(last);
        stop.flatten()
    }

    /// When to stop, as a poll.
    pub fn poll_notice(&self, cx: &Context<'_>) -> Poll<Moment> {
        self.look(cx, None).map_or(Poll::Pending, |(at, _)| Poll::Ready(at))
    }

    /// When to stop, if that has been said.
    pub fn noticed(&self) -> Option<Moment> {
        self.drain.notice(self.place, |notice| notice.stop.as_ref().map(|(at, _)| *at)).flatten()
    }

    /// Waits for the notice. Cancel-safe.
    pub async fn notice(&self) -> Moment {
        poll_fn(|cx| self.poll_notice(cx)).await
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A guard may be dropped elsewhere than where it was taken.
        let notice = self
            .drain
            .working
            .at(self.place.slab as usize)
            .and_then(|slab| lock(slab).try_remove(self.place.key as usize));
        // Its waker is dropped without the lock.
        drop(notice);
        if self.drain.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.drain.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[tokio::test]
    async fn each_gets_its_own_moment_evenly_over_the_span() {
        let drain = Drain::new(2);
        let paced: Vec<_> = (0..100).map(|_| drain.enter()).collect();
        paced.iter().for_each(|guard| guard.join(7, clock::now()));
        let prompt = drain.enter();
        let now = clock::now();
        let span = Duration::from_secs(100);
        assert_eq!(drain.begin(now, span, fastrand::f64), 100);
        assert_eq!(prompt.notice().await, now);
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
        let drain = Drain::new(1);
        let first = drain.enter();
        drain.begin(clock::now(), Duration::ZERO, || 0.0);
        let late = drain.enter();
        late.notice().await;
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
    async fn a_group_is_told_apart_and_the_quietest_is_known() {
        let drain = Drain::new(2);
        let at = |seconds: u64| Moment::from_micros(seconds * 1_000_000);
        let cx = Context::from_waker(Waker::noop());
        let ours: Vec<_> = (0..4).map(|_| drain.enter()).collect();
        let other = drain.enter();
        for (guard, group) in ours.iter().map(|guard| (guard, 1)).chain([(&other, 2)]) {
            guard.join(group, at(1));
        }
        assert!(ours.iter().all(|guard| guard.look(&cx, Some(at(1))).is_none()));
        assert_eq!(drain.left(&[1, 2, 3]), [4, 1, 0]);
        let before = other.said();
        drain.ask(3);
        assert_eq!(other.said(), before, "nobody was there to be asked");
        drain.ask(1);
        assert_ne!(other.said(), before);
        for (guard, data_at) in ours.iter().zip([5, 3, 9, 4]) {
            assert_eq!(guard.look(&cx, Some(at(data_at))), None);
        }
        let order = drain.by_silence(1);
        assert_eq!(order, [1, 3, 0, 2].map(|i| ours[i].place));
        drop(ours.into_iter().nth(3));
        // One of the four has gone with the others of the iterator: places may be another's now.
        let newcomer = drain.enter();
        assert!(order.contains(&newcomer.place));
        assert_eq!(drain.stop(1, order, at(10), Stopping::Rebalance), 0, "nobody of the group is left");
        assert_eq!((newcomer.noticed(), other.noticed()), (None, None));
        assert_eq!(drain.stop(2, drain.by_silence(2), at(10), Stopping::EndpointDrain), 1);
        assert_eq!(other.look(&cx, Some(at(1))), Some((at(10), Stopping::EndpointDrain)));
        assert_eq!(drain.by_silence(2), [], "who was told is not told again");
    }
}
