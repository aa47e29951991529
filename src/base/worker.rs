//! The index of the calling worker, and values that each worker has of its own.
//!
//! A worker is one thread with one current-thread runtime; both sockets of a session live on it. What would be a
//! contended cache line between workers (counters, pools of HTTP connections) is a `PerWorker`: one padded value each.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use tokio::task::yield_now;

use crate::base::time::MonotonicTime;

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// Makes the calling thread worker `index`, for as long as it lives.
pub fn enter(index: usize) {
    INDEX.with(|cell| cell.set(index));
}

/// Returns the calling thread's worker, counted from 0. Threads that are not workers (tests, the admin thread) return
/// 0.
pub fn index() -> usize {
    INDEX.with(Cell::get)
}

/// Makes the runtime poll the task again after all ready tasks and after checking the sockets. A waker alone would only
/// queue it behind ready tasks, and the runtime then checks its sockets only once in 61 polls.
pub fn yield_to_all(cx: &mut Context<'_>) {
    let _ = pin!(yield_now()).poll(cx);
}

/// One `T` for each worker.
#[derive(Debug)]
pub struct PerWorker<T> {
    values: Box<[CachePadded<T>]>,
}

impl<T> PerWorker<T> {
    /// Makes one value for each of `workers` workers.
    ///
    /// # Panics
    /// If `workers` is 0.
    pub fn new(workers: usize, mut make: impl FnMut() -> T) -> PerWorker<T> {
        assert!(workers > 0, "at least one worker");
        PerWorker { values: (0..workers).map(|_| CachePadded::new(make())).collect() }
    }

    /// Returns the calling worker's value.
    #[inline]
    pub fn get(&self) -> &T {
        let index = index();
        // A division would cost more than the rest.
        self.values.get(index).unwrap_or_else(|| &self.values[index % self.values.len()])
    }

    /// Returns the value of worker `index`, if there is such a worker.
    pub fn at(&self, index: usize) -> Option<&T> {
        self.values.get(index % self.values.len()).map(|value| &**value)
    }

    /// Returns all workers' values, for summing up.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter().map(|value| &**value)
    }
}

/// When each worker's loop last ran: a worker that hangs, or computes for too long, stops running it. Clones share
/// the same times.
#[derive(Clone, Debug)]
pub struct WorkerHeartbeat(Arc<PerWorker<AtomicU64>>);

impl WorkerHeartbeat {
    /// Begins with a beat of each worker `now`.
    ///
    /// # Panics
    /// If `workers` is 0.
    pub fn new(workers: usize, now: MonotonicTime) -> WorkerHeartbeat {
        WorkerHeartbeat(Arc::new(PerWorker::new(workers, || AtomicU64::new(now.as_micros()))))
    }

    /// Records that the calling worker's loop runs.
    pub fn beat(&self, now: MonotonicTime) {
        self.0.get().store(now.as_micros(), Ordering::Relaxed);
    }

    /// Returns the worker with the oldest beat, and its age.
    pub fn stalest(&self, now: MonotonicTime) -> (usize, Duration) {
        let silence =
            self.0.iter().map(|at| now.since(MonotonicTime::from_micros(at.load(Ordering::Relaxed)))).enumerate();
        silence.max_by_key(|(_, silence)| *silence).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_does_not_go_round_is_found() {
        let at = |seconds: u64| MonotonicTime::from_micros(seconds * 1_000_000);
        let pulse = WorkerHeartbeat::new(2, at(1));
        assert_eq!(pulse.stalest(at(1)).1, Duration::ZERO);
        let beat = pulse.clone();
        std::thread::spawn(move || {
            enter(0);
            beat.beat(at(8));
        })
        .join()
        .expect("it ends");
        assert_eq!(pulse.stalest(at(9)), (1, Duration::from_secs(8)));
    }

    #[test]
    fn each_worker_sees_its_own_value() {
        let local = PerWorker::new(2, || std::sync::atomic::AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let local = &local;
                scope.spawn(move || {
                    enter(worker);
                    local.get().fetch_add(worker + 1, std::sync::atomic::Ordering::Relaxed);
                });
            }
        });
        let sums: Vec<_> = local.iter().map(|v| v.load(std::sync::atomic::Ordering::Relaxed)).collect();
        assert_eq!(sums, [1, 2]);
    }
}
