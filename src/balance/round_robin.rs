//! One after the other: each candidate that is not excluded once a turn.
//!
//! The cursor is the place after the last pick, not a counter of picks. A counter modulo `n` that skips ahead over an
//! excluded candidate gives that one's whole share to its neighbour; here the turn goes on behind the one that was taken.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How often a pick that lost its place to another worker looks again. After that it takes what it found: the turn is
/// then uneven by one, and no one spins.
const RETRIES: usize = 8;

/// The state of the turn: where the next pick begins to look.
#[derive(Debug, Default)]
pub struct RoundRobin {
    cursor: AtomicUsize,
}

impl RoundRobin {
    /// Begins at candidate `start` (modulo their number). Give it a random one: many proxies that start together would
    /// else all send their first session to the first server.
    pub fn new(start: usize) -> RoundRobin {
        RoundRobin { cursor: AtomicUsize::new(start) }
    }

    /// See [`super::Balancer::pick`]. While exclusions stay the same, of `m` candidates left each is picked once in any
    /// `m` picks in a row.
    pub fn pick(&self, n: usize, excluded: impl Fn(usize) -> bool) -> Option<usize> {
        if n == 0 {
            return None;
        }
        // Relaxed: the cursor orders nothing but itself.
        let mut cursor = self.cursor.load(Ordering::Relaxed);
        let mut retries = RETRIES;
        loop {
            let start = cursor % n;
            let found = (start..n).chain(0..start).find(|&index| !excluded(index))?;
            match self.cursor.compare_exchange_weak(cursor, found + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Err(current) if retries > 0 => {
                    cursor = current;
                    retries -= 1;
                }
                _ => return Some(found),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use crate::balance::Balancer;
    use proptest::prelude::*;

    #[test]
    fn candidates_take_turns() {
        let balancer = Balancer::RoundRobin(RoundRobin::new(2));
        let picks: Vec<_> = (0..7).map(|_| balancer.pick(3, |_| false).unwrap()).collect();
        assert_eq!(picks, [2, 0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn without_candidates_there_is_no_pick() {
        let turn = RoundRobin::new(usize::MAX);
        assert_eq!(turn.pick(0, |_| false), None);
        assert_eq!(turn.pick(3, |_| true), None);
        assert_eq!(turn.pick(1, |_| false), Some(0));
    }

    #[test]
    fn a_retry_goes_to_the_next_and_the_turn_goes_on_behind_it() {
        let turn = RoundRobin::new(0);
        assert_eq!(turn.pick(3, |_| false), Some(0));
        assert_eq!(turn.pick(3, |i| i == 0), Some(1));
        assert_eq!(turn.pick(3, |_| false), Some(2));
    }

    #[test]
    fn workers_that_pick_at_once_share_evenly() {
        const PICKS: usize = 3000;
        let turn = RoundRobin::new(0);
        let counts: [AtomicUsize; 4] = Default::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..PICKS {
                        counts[turn.pick(4, |i| i == 2).unwrap()].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let counts = counts.map(AtomicUsize::into_inner);
        assert_eq!(counts.iter().sum::<usize>(), 4 * PICKS);
        assert_eq!(counts[2], 0);
        for index in [0, 1, 3] {
            let share = 4 * PICKS / 3;
            assert!(counts[index].abs_diff(share) < share / 10, "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn every_candidate_left_is_picked_once_a_turn(
            start in any::<usize>(),
            excluded in proptest::collection::vec(any::<bool>(), 1..12),
            before in proptest::collection::vec(1usize..12, 0..5),
        ) {
            let turn = RoundRobin::new(start);
            for n in before {
                turn.pick(n, |_| false);
            }
            let left: Vec<usize> = (0..excluded.len()).filter(|&i| !excluded[i]).collect();
            for _ in 0..2 {
                let mut picked: Vec<_> = left.iter().map(|_| turn.pick(excluded.len(), |i| excluded[i]).unwrap()).collect();
                picked.sort_unstable();
                prop_assert_eq!(&picked, &left);
            }
            prop_assert_eq!(turn.pick(excluded.len(), |i| excluded[i]).is_none(), left.is_empty());
        }

        #[test]
        fn nobody_is_picked_twice_while_another_waits(n in 1usize..8, calls in proptest::collection::vec(any::<u8>(), 1..60)) {
            // Whatever is excluded from call to call: the pick is the first allowed one behind the last pick.
            let turn = RoundRobin::new(0);
            let mut last = n - 1;
            for mask in calls {
                let excluded = |i: usize| mask & (1 << i) != 0;
                let expected = (1..=n).map(|step| (last + step) % n).find(|&i| !excluded(i));
                prop_assert_eq!(turn.pick(n, excluded), expected);
                last = expected.unwrap_or(last);
            }
        }
    }
}
