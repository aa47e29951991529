//! What is known of an endpoint while the process runs.
//!
//! It belongs to the endpoint, by upstream and name, and not to a configuration: a new weight, another neighbour or a new
//! file forgets none of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::moment::Moment;

/// How long an endpoint that failed is tried after the others; nginx's `fail_timeout` is as long.
pub const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// The live state of one endpoint.
#[derive(Debug, Default)]
pub struct Live {
    /// Sessions on it, those being opened included.
    load: AtomicU32,
    /// When it last failed, in microseconds; 0 if it has answered since.
    failed_at: AtomicU64,
}

impl Live {
    /// Sessions on it, those being opened included.
    pub fn load(&self) -> u32 {
        self.load.load(Ordering::Relaxed)
    }

    /// A seat on it, unless `max` are taken. Two workers can not both get the last one.
    pub fn enter(self: &Arc<Live>, max: u32) -> Option<Seat> {
        let more = |load: u32| (load < max).then(|| load + 1);
        self.load.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Seat(Arc::clone(self)))
    }

    /// It could not be connected to, or did not answer as it should.
    pub fn failed(&self, now: Moment) {
        self.failed_at.store(now.as_micros().max(1), Ordering::Relaxed);
    }

    /// It answered.
    pub fn answered(&self) {
        // Nearly always 0 already: workers then only read the cache line.
        if self.failed_at.load(Ordering::Relaxed) != 0 {
            self.failed_at.store(0, Ordering::Relaxed);
        }
    }

    /// Whether it failed so lately that others should be tried first.
    pub fn is_suspect(&self, now: Moment) -> bool {
        match self.failed_at.load(Ordering::Relaxed) {
            0 => false,
            at => now.since(Moment::from_micros(at)) < AFTER_FAILURE,
        }
    }
}

/// One session's place on an endpoint; dropping it gives it back.
#[derive(Debug)]
pub struct Seat(Arc<Live>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The live states of all endpoints, by the names of upstream and endpoint.
#[derive(Clone, Debug, Default)]
pub struct Lives(Arc<Mutex<HashMap<Name, Weak<Live>>>>);

/// Of the upstream, and of the endpoint in it.
type Name = (String, String);

impl Lives {
    /// The state of this endpoint, which is the same as long as anybody holds it: a configuration that names it, or a
    /// session on it. Those that nobody holds are forgotten on the way.
    pub fn of(&self, upstream: &str, endpoint: &str) -> Arc<Live> {
        let mut lives = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lives.retain(|_, live| live.strong_count() > 0);
        let name = (upstream.to_owned(), endpoint.to_owned());
        if let Some(live) = lives.get(&name).and_then(Weak::upgrade) {
            return live;
        }
        let live = Arc::<Live>::default();
        lives.insert(name, Arc::downgrade(&live));
        live
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn seats_are_bounded_and_come_back() {
        let live = Arc::<Live>::default();
        let seats: Vec<_> = (0..2).map(|_| live.enter(2).unwrap()).collect();
        assert!(live.enter(2).is_none());
        assert_eq!(live.load(), 2);
        drop(seats);
        assert_eq!(live.load(), 0);
    }

    #[test]
    fn workers_that_take_and_leave_at_once_neither_lose_a_seat_nor_exceed_the_limit() {
        let live = Arc::<Live>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let seat = live.enter(3);
                        assert!(live.load() <= 3);
                        drop(seat);
                    }
                });
            }
        });
        assert_eq!(live.load(), 0);
    }

    #[test]
    fn a_state_outlives_who_named_it_first_as_long_as_a_session_holds_it() {
        let lives = Lives::default();
        let seat = lives.of("chat", "ws://a:1").enter(u32::MAX).unwrap();
        assert_eq!(lives.of("chat", "ws://a:1").load(), 1);
        assert_eq!(lives.of("other", "ws://a:1").load(), 0);
        drop(seat);
        assert_eq!(lives.of("chat", "ws://a:1").load(), 0);
        drop(lives.of("chat", "ws://b:1"));
        assert_eq!(lives.0.lock().unwrap().len(), 1, "what nobody held was forgotten when the next was made");
    }
}
