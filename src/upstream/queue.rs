//! The queue of requests that found every endpoint full.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The requests waiting for a permit on an upstream.
#[derive(Debug, Default)]
pub struct Queue {
    /// The number of waiters in the line; changed under its lock.
    waiting: AtomicUsize,
    line: Mutex<WaitingLine>,
}

#[derive(Debug, Default)]
struct WaitingLine {
    /// The waiters' wakers, in order of arrival.
    waiters: BTreeMap<u64, Option<Waker>>,
    next: u64,
    /// The waiter that tried since the last permit was returned, and failed.
    tried: Option<u64>,
}

impl WaitingLine {
    fn first(&self) -> Option<u64> {
        self.waiters.first_key_value().map(|(number, _)| *number)
    }

    /// Returns the waker of the first waiter.
    fn first_waker(&self) -> Option<Waker> {
        self.waiters.first_key_value().and_then(|(_, waker)| waker.clone())
    }
}

impl Queue {
    /// Returns the number of waiters.
    pub fn len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns true if there are no waiters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Joins the end of the line, unless `max` wait already.
    pub fn join(self: &Arc<Queue>, max: usize) -> Option<Ticket> {
        let mut line = self.line();
        if line.waiters.len() >= max {
            return None;
        }
        let number = line.next;
        line.next += 1;
        line.waiters.insert(number, None);
        self.waiting.store(line.waiters.len(), Ordering::SeqCst);
        drop(line);
        // A permit freed before this is visible to any attempt after this, although that reads `Relaxed`.
        fence(Ordering::SeqCst);
        Some(Ticket { queue: Arc::clone(self), number })
    }

    /// Wakes the first waiter if there is one. Call it after a `SeqCst` write that returned a permit.
    pub fn permit_freed(&self) {
        if self.waiting.load(Ordering::SeqCst) != 0 {
            self.recheck();
        }
    }

    /// Wakes the first waiter to try again, since there may be a permit.
    pub fn recheck(&self) {
        let mut line = self.line();
        line.tried = None;
        let first = line.first_waker();
        drop(line);
        first.into_iter().for_each(Waker::wake);
    }

    fn line(&self) -> MutexGuard<'_, WaitingLine> {
        // A panic cannot leave this half done.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the line. Dropping it leaves the line.
#[derive(Debug)]
pub struct Ticket {
    queue: Arc<Queue>,
    number: u64,
}

impl Ticket {
    /// Waits until an attempt is worthwhile: this waiter is the first in line, and has not tried since the last permit
    /// was returned. Cancel-safe.
    pub async fn turn(&mut self) {
        poll_fn(|cx| self.poll_turn(cx)).await;
    }

    fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        let mut line = self.queue.line();
        if line.first() == Some(self.number) && line.tried != Some(self.number) {
            line.tried = Some(self.number);
            return Poll::Ready(());
        }
        if let Some(waker) = line.waiters.get_mut(&self.number)
            && !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut line = self.queue.line();
        let was_first = line.first() == Some(self.number);
        line.waiters.remove(&self.number);
        self.queue.waiting.store(line.waiters.len(), Ordering::SeqCst);
        // Whether or not it got a permit, another may be free, and this waiter was the one to try.
        let next = was_first.then(|| line.first_waker()).flatten();
        drop(line);
        next.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use futures_util::task::noop_waker;
    use futures_util::task::{ArcWake, waker};

    use super::*;

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl ArcWake for Flag {
        fn wake_by_ref(flag: &Arc<Flag>) {
            flag.0.store(true, Ordering::SeqCst);
        }
    }

    impl Flag {
        fn taken(&self) -> bool {
            self.0.swap(false, Ordering::SeqCst)
        }
    }

    fn is_turn(ticket: &Ticket, flag: &Arc<Flag>) -> bool {
        ticket.poll_turn(&Context::from_waker(&waker(Arc::clone(flag)))).is_ready()
    }

    #[test]
    fn one_permit_wakes_the_first_alone_and_one_that_leaves_passes_it_on() {
        let queue = Arc::<Queue>::default();
        let flags: [Arc<Flag>; 3] = Default::default();
        let mut tickets: Vec<_> = (0..3).map(|_| queue.join(3).unwrap()).collect();
        assert!(queue.join(3).is_none(), "the line is full");
        let turns = |tickets: &[Ticket]| -> Vec<_> {
            tickets.iter().map(|ticket| is_turn(ticket, &flags[ticket.number as usize])).collect()
        };
        assert_eq!(turns(&tickets), [true, false, false], "the first tries at once");
        assert_eq!(turns(&tickets), [false; 3], "and then not again");
        queue.permit_freed();
        assert_eq!([0, 1, 2].map(|index: usize| flags[index].taken()), [true, false, false]);
        assert_eq!(turns(&tickets), [true, false, false]);
        // It got the permit.
        drop(tickets.remove(0));
        assert_eq!([0, 1, 2].map(|index: usize| flags[index].taken()), [false, true, false]);
        // The client of the second leaves before it has tried; the third has its turn.
        drop(tickets.remove(0));
        assert!(flags[2].taken());
        assert_eq!(turns(&tickets), [true]);
        drop(tickets);
        assert!(queue.is_empty());
        assert!(queue.join(1).unwrap().poll_turn(&Context::from_waker(&noop_waker())).is_ready());
    }

    #[test]
    fn leaving_from_the_middle_wakes_nobody() {
        let queue = Arc::<Queue>::default();
        let flags: [Arc<Flag>; 3] = Default::default();
        let mut tickets: Vec<_> = (0..3).map(|_| queue.join(3).unwrap()).collect();
        for (ticket, flag) in tickets.iter().zip(&flags) {
            is_turn(ticket, flag);
        }
        drop(tickets.remove(1));
        assert!(flags.iter().all(|flag| !flag.taken()));
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn a_moved_waiter_is_woken_at_its_new_place() {
        let queue = Arc::<Queue>::default();
        let flags: [Arc<Flag>; 2] = Default::default();
        let ticket = queue.join(1).unwrap();
        assert!(is_turn(&ticket, &flags[0]));
        flags.iter().for_each(|flag| assert!(!is_turn(&ticket, flag)));
        queue.recheck();
        assert_eq!(flags.each_ref().map(|flag| flag.taken()), [false, true], "only the last waker is woken");
    }

    /// Seats as an upstream has them: the same atomics in the same order.
    struct Seats {
        taken: AtomicUsize,
        queue: Arc<Queue>,
    }

    const SEATS: usize = 3;

    impl Seats {
        fn enter(&self) -> bool {
            let more = |taken: usize| (taken < SEATS).then_some(taken + 1);
            self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
        }

        fn leave(&self) {
            self.taken.fetch_sub(1, Ordering::SeqCst);
            self.queue.permit_freed();
        }

        async fn wait(&self) {
            if self.queue.is_empty() && self.enter() {
                return;
            }
            let mut ticket = self.queue.join(usize::MAX).unwrap();
            loop {
                ticket.turn().await;
                if self.enter() {
                    return;
                }
            }
        }
    }

    #[test]
    fn workers_that_come_wait_give_up_and_leave_at_once_never_leave_anybody_waiting_for_a_free_permit() {
        let permits = Arc::new(Seats { taken: AtomicUsize::new(0), queue: Arc::default() });
        std::thread::scope(|scope| {
            for worker in 0..4_u64 {
                let permits = Arc::clone(&permits);
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    let tasks = tokio::task::LocalSet::new();
                    let clients = (0..8_u64).map(|client| {
                        let (permits, mut random) =
                            (Arc::clone(&permits), fastrand::Rng::with_seed(worker * 8 + client));
                        tasks.spawn_local(async move {
                            for _ in 0..400 {
                                if random.u8(..8) == 0 {
                                    // An impatient client: it may leave at any moment, even just when it is woken.
                                    let wait = Duration::from_micros(random.u64(..1500));
                                    if tokio::time::timeout(wait, permits.wait()).await.is_err() {
                                        continue;
                                    }
                                } else {
                                    // A lost wake-up is lost for ever: all others wait as well.
                                    let wait = tokio::time::timeout(Duration::from_secs(20), permits.wait());
                                    wait.await.expect("a wake-up was lost");
                                }
                                if random.bool() {
                                    tokio::task::yield_now().await;
                                }
                                permits.leave();
                            }
                        })
                    });
                    let clients = clients.collect::<Vec<_>>();
                    runtime.block_on(tasks.run_until(async {
                        for client in clients {
                            client.await.unwrap();
                        }
                    }));
                });
            }
        });
        assert_eq!((permits.taken.load(Ordering::SeqCst), permits.queue.len()), (0, 0));
    }
}
