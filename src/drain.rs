//! Finishing politely: who is still working, and when each is to stop.
//!
//! hyper forgets a connection once it is upgraded, so sessions are counted here. Whoever works holds a `Guard`. When
//! the drain begins, each guard is given its own moment: those that asked for pace (`Guard::pace`) evenly over the
//! span with jitter inside their slot, so that clients do not reconnect all at once; all others at once. The owner of
//! `Drain` then waits for the last guard to go.
//!
//! Entering and leaving cost a lock of the worker's own slab. Whoever has left a waker hears of the drain by being woken,
//! and until then asks no more than `Guard::is_draining`: a load of a line that all share and nobody writes.

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

/// All work of the process that is waited for at the end.
#[derive(Debug)]
pub struct Drain {
    working: Local<Mutex<Slab<Notice>>>,
    active: AtomicUsize,
    /// When the drain began, in microseconds; 0 before. On a line of its own: each session reads it whenever it is woken,
    /// while `active` is written for each connection.
    begun: CachePadded<AtomicU64>,
    idle: Notify,
}

/// What one guard is told.
#[derive(Debug, Default)]
struct Notice {
    /// When to stop, once that has been said.
    at: Option<Moment>,
    /// Who is to hear of it.
    waker: Option<Waker>,
    paced: bool,
}

/// Where a notice is: slab and key, counted in 32 bits, as each session holds them.
#[derive(Clone, Copy, Debug)]
struct Place {
    slab: u32,
    key: u32,
}

impl Drain {
    /// Nobody works yet; the guards will be held by the tasks of so many workers.
    pub fn new(workers: usize) -> Arc<Drain> {
        Arc::new(Drain {
            working: Local::new(workers, Mutex::default),
            active: AtomicUsize::new(0),
            begun: CachePadded::new(AtomicU64::new(0)),
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
        let at = match self.begun.load(Ordering::SeqCst) {
            0 => None,
            begun => Some(Moment::from_micros(begun)),
        };
        let key = notices.insert(Notice { at, ..Notice::default() });
        drop(notices);
        let place = Place { slab: slab as u32, key: key as u32 };
        Guard { drain: Arc::clone(self), place }
    }

    /// Tells all that work to stop: paced ones spread over `span` from `now`, the others at once. Only the first call
    /// counts. `random` gives numbers in 0..1 for the jitter. Returns how many were paced.
    pub fn begin(&self, now: Moment, span: Duration, mut random: impl FnMut() -> f64) -> usize {
        if self.begun.compare_exchange(0, now.as_micros(), Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return 0;
        }
        let (mut paced, mut prompt) = (Vec::new(), Vec::new());
        for (slab, notices) in self.working.iter().enumerate() {
            for (key, notice) in lock(notices).iter() {
                let told = if notice.paced { &mut paced } else { &mut prompt };
                told.push(Place { slab: slab as u32, key: key as u32 });
            }
        }
        for place in prompt {
            self.tell(place, now);
        }
        // Slabs hold the oldest first; without a shuffle all of one worker would go before the next one's.
        for i in (1..paced.len()).rev() {
            paced.swap(i, ((i + 1) as f64 * random()) as usize % (i + 1));
        }
        let slot = span.as_secs_f64() / paced.len().max(1) as f64;
        for (i, place) in paced.iter().enumerate() {
            self.tell(*place, now + Duration::from_secs_f64(slot * (i as f64 + random())));
        }
        paced.len()
    }

    /// Says when to stop, unless that has been said: who entered since the drain began took it from there.
    fn tell(&self, place: Place, at: Moment) {
        let told = self.notice(place, |notice| {
            notice.at.get_or_insert(at);
            notice.waker.take()
        });
        // Woken, or dropped, without the lock.
        if let Some(waker) = told.flatten() {
            waker.wake();
        }
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
    /// From now on this work is to stop at its own moment of the drain, not at its beginning.
    pub fn pace(&self) {
        self.drain.notice(self.place, |notice| notice.paced = true);
    }

    /// Whether the drain has begun: before, there can be no notice.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.drain.is_draining()
    }

    /// When to stop; `Pending` while nothing is said. The last caller's waker is woken once something is: a task that has
    /// called this need not call again before.
    pub fn poll_notice(&self, cx: &Context<'_>) -> Poll<Moment> {
        let mut last = None;
        let at = self.drain.notice(self.place, |notice| {
            if notice.at.is_none() && !notice.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                last = notice.waker.replace(cx.waker().clone());
            }
            notice.at
        });
        // Dropped without the lock.
        drop(last);
        at.flatten().map_or(Poll::Pending, Poll::Ready)
    }

    /// When to stop, if that has been said.
    pub fn noticed(&self) -> Option<Moment> {
        self.drain.notice(self.place, |notice| notice.at).flatten()
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
        paced.iter().for_each(Guard::pace);
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
}
