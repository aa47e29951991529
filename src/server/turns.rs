//! Whose turn it is on a worker when thousands connect at once.
//!
//! The runtime polls its tasks in the order in which they became ready. So a message of a session would wait behind
//! every handshake that is ready, and in a storm these are thousands. A worker therefore polls only so many
//! handshakes before it looks at its sockets again, and sessions that became ready meanwhile come first. Those that have
//! begun go before most of the new ones: fewer are under way at the same time, and what each of them holds is given back
//! earlier.
//!
//! Nobody holds a place here: a client that says nothing is not polled, and delays no other. A connection with plain HTTP
//! counts as a handshake that has begun, however long it goes on; so a part of each turn is for new ones.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::task::yield_now;

/// How many polls of handshakes a worker makes before it looks at its sockets: with a signature for TLS in each, some
/// milliseconds.
const POLLS_A_TURN: usize = 8;

/// How many of them are for handshakes that have not begun, if so many wait.
const NEW_A_TURN: usize = 2;

struct Turns {
    /// Polls left in this turn.
    left: usize,
    /// Handshakes that have begun and wait for a later turn.
    begun: Queue,
    /// Those that have not.
    new: Queue,
    /// Whether the task that begins the next turn is there.
    is_next_due: bool,
}

impl Turns {
    /// Lets those go whose turn is next.
    fn next(&mut self) -> Vec<Waker> {
        let Turns { begun, new, .. } = self;
        let mut woken: Vec<_> = std::iter::from_fn(|| new.pop()).take(NEW_A_TURN).collect();
        let rest = POLLS_A_TURN - woken.len();
        woken.extend(std::iter::from_fn(|| begun.pop().or_else(|| new.pop())).take(rest));
        woken
    }
}

/// Handshakes that wait, first come, first served. Each stands in it once, so there are no more than connections.
struct Queue {
    wakers: VecDeque<Waker>,
    /// How many have been let go so far: the number of the first that waits.
    served: u64,
}

impl Queue {
    const fn new() -> Queue {
        Queue { wakers: VecDeque::new(), served: 0 }
    }

    /// Returns the number of the newcomer.
    fn push(&mut self, waker: Waker) -> u64 {
        self.wakers.push_back(waker);
        self.served + self.wakers.len() as u64 - 1
    }

    fn pop(&mut self) -> Option<Waker> {
        let waker = self.wakers.pop_front()?;
        self.served += 1;
        Some(waker)
    }
}

/// How a handshake stands.
#[derive(Clone, Copy)]
enum Standing {
    New,
    Begun,
    /// It waits, with this number in its queue.
    Waits {
        is_new: bool,
        number: u64,
    },
}

thread_local! {
    static TURNS: RefCell<Turns> = const {
        RefCell::new(Turns { left: POLLS_A_TURN, begun: Queue::new(), new: Queue::new(), is_next_due: false })
    };
}

/// Polls `handshake` when it is its turn.
pub fn in_turn<T>(mut handshake: impl Future<Output = T> + Unpin) -> impl Future<Output = T> {
    let mut standing = Standing::New;
    poll_fn(move |cx| {
        standing = wait_for_turn(standing, cx);
        if let Standing::Waits { .. } = standing {
            return Poll::Pending;
        }
        standing = Standing::Begun;
        Pin::new(&mut handshake).poll(cx)
    })
}

/// Begins a turn at once: the worker has nothing to do. Call it where its thread is about to sleep.
pub fn begin() {
    TURNS.with_borrow_mut(|turns| {
        // Otherwise the next one is about to begin.
        if !turns.is_next_due {
            turns.left = POLLS_A_TURN;
        }
    });
}

/// Takes a poll of this turn, or a number in the queue for a later one.
fn wait_for_turn(standing: Standing, cx: &Context<'_>) -> Standing {
    TURNS.with_borrow_mut(|turns| {
        let is_new = matches!(standing, Standing::New | Standing::Waits { is_new: true, .. });
        let queue = if is_new { &mut turns.new } else { &mut turns.begun };
        if let Standing::Waits { number, .. } = standing {
            // Something else may have woken it.
            return if number >= queue.served { standing } else { Standing::Begun };
        }
        if turns.left > 0 {
            turns.left -= 1;
            return standing;
        }
        let number = queue.push(cx.waker().clone());
        if !std::mem::replace(&mut turns.is_next_due, true) {
            tokio::spawn(begin_turns());
        }
        Standing::Waits { is_new, number }
    })
}

/// Begins turns until nobody waits.
async fn begin_turns() {
    loop {
        // The runtime looks at its sockets, and polls what it finds there first.
        yield_now().await;
        let woken: Vec<Waker> = TURNS.with_borrow_mut(|turns| {
            let woken = turns.next();
            turns.left = POLLS_A_TURN - woken.len();
            turns.is_next_due = !woken.is_empty();
            woken
        });
        if woken.is_empty() {
            return;
        }
        woken.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::cell::Cell;
    use std::future::ready;
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;

    /// Runs tasks on a worker of their own, so that turns begin anew.
    fn on_a_worker(test: impl AsyncFnOnce() + Send + 'static) {
        let worker = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            LocalSet::new().block_on(&runtime, test());
        });
        worker.join().unwrap();
    }

    #[test]
    fn a_session_waits_for_the_handshakes_of_one_turn() {
        on_a_worker(async || {
            let order = Rc::new(RefCell::new(Vec::new()));
            let note = |what: &'static str| {
                let order = Rc::clone(&order);
                move || order.borrow_mut().push(what)
            };
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..10 * POLLS_A_TURN {
                let (done, handshake) = (note("handshake"), in_turn(ready(())));
                tasks.spawn_local(async move {
                    handshake.await;
                    done();
                });
            }
            let done = note("session");
            tasks.spawn_local(async move { done() });
            tasks.join_all().await;
            assert_eq!(order.borrow().iter().position(|what| *what == "session"), Some(POLLS_A_TURN));
            assert_eq!(order.borrow().len(), 10 * POLLS_A_TURN + 1, "nobody is forgotten");
        });
    }

    #[test]
    fn what_has_begun_goes_before_what_is_new() {
        on_a_worker(async || {
            let (under_way, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..10 * POLLS_A_TURN {
                let (under_way, most) = (Rc::clone(&under_way), Rc::clone(&most));
                let mut has_begun = false;
                let handshake = poll_fn(move |cx| {
                    if std::mem::replace(&mut has_begun, true) {
                        under_way.set(under_way.get() - 1);
                        return Poll::Ready(());
                    }
                    under_way.set(under_way.get() + 1);
                    most.set(most.get().max(under_way.get()));
                    cx.waker().wake_by_ref();
                    Poll::Pending
                });
                tasks.spawn_local(in_turn(handshake));
            }
            tasks.join_all().await;
            assert!(most.get() <= POLLS_A_TURN + NEW_A_TURN, "{}", most.get());
        });
    }

    #[test]
    fn those_that_always_have_something_to_do_keep_nobody_out() {
        on_a_worker(async || {
            let mut busy = tokio::task::JoinSet::new();
            for _ in 0..10 * POLLS_A_TURN {
                busy.spawn_local(in_turn(poll_fn(|cx: &mut Context<'_>| {
                    cx.waker().wake_by_ref();
                    Poll::<()>::Pending
                })));
            }
            // All of them have begun, and wait.
            while TURNS.with_borrow(|turns| turns.begun.wakers.len() < 9 * POLLS_A_TURN) {
                yield_now().await;
            }
            let mut newcomers = tokio::task::JoinSet::new();
            for _ in 0..3 * POLLS_A_TURN {
                newcomers.spawn_local(in_turn(ready(())));
            }
            newcomers.join_all().await;
        });
    }

    #[test]
    fn who_is_woken_while_it_waits_keeps_its_one_place() {
        on_a_worker(async || {
            type Handshake = Pin<Box<dyn Future<Output = ()>>>;
            let mut noisy: Vec<Handshake> =
                (0..3 * POLLS_A_TURN).map(|_| Box::pin(in_turn(ready(()))) as Handshake).collect();
            let waiting = |noisy: &mut Vec<Handshake>| {
                let mut cx = Context::from_waker(Waker::noop());
                noisy.retain_mut(|handshake| handshake.as_mut().poll(&mut cx).is_pending());
                (noisy.len(), TURNS.with_borrow(|turns| turns.new.wakers.len()))
            };
            for _ in 0..3 {
                assert_eq!(waiting(&mut noisy), (2 * POLLS_A_TURN, 2 * POLLS_A_TURN));
            }
            // Each look at the sockets lets the next ones go.
            let mut rounds = 0;
            while waiting(&mut noisy).0 > 0 {
                yield_now().await;
                rounds += 1;
                assert!(rounds < 20, "somebody is forgotten");
            }
            assert!(rounds > 1, "all at once");
        });
    }

    #[test]
    fn an_idle_worker_has_a_whole_turn() {
        on_a_worker(async || {
            for _ in 0..3 {
                let mut cx = Context::from_waker(Waker::noop());
                for _ in 0..POLLS_A_TURN {
                    assert!(Box::pin(in_turn(ready(()))).as_mut().poll(&mut cx).is_ready());
                }
                begin();
            }
        });
    }
}
