//! A token bucket: how many messages or bytes a peer may still send.
//!
//! The bucket holds at most `burst` tokens and gains `per_second` a second. It counts in millionths of a token, so that a
//! microsecond of the clock gains a whole number of them: nothing is rounded, at any rate. It is not that of
//! `policy::bucket`, which gives callers of many threads a time each; this one belongs to one session, and is two numbers.
//!
//! Invariant: any span of length `t` takes at most `burst + per_second · t` tokens. A clock that stands still or goes
//! back gains none.

use serde::{Deserialize, Serialize};

use crate::base::time::MonotonicTime;

/// Parts of a token, as microseconds of a second.
const PARTS: u64 = 1_000_000;

/// The most tokens of a burst: as many as can be counted in parts.
const BURST_MAX: u64 = u64::MAX / PARTS;

/// How fast a bucket fills, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRate {
    per_second: u64,
    burst: u64,
}

impl TokenRate {
    /// Gains `per_second` tokens a second, up to `burst`. Both count as at least 1.
    pub fn new(per_second: u64, burst: u64) -> TokenRate {
        TokenRate { per_second: per_second.max(1), burst: burst.clamp(1, BURST_MAX) }
    }

    /// Returns the tokens gained in a second.
    pub const fn per_second(self) -> u64 {
        self.per_second
    }

    /// Returns the most tokens that a bucket holds.
    pub const fn burst(self) -> u64 {
        self.burst
    }
}

/// The tokens left at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBucket {
    /// In parts of a token.
    level: u64,
    /// When that was.
    at: MonotonicTime,
}

impl TokenBucket {
    /// Returns a full bucket.
    pub fn full(rate: TokenRate, now: MonotonicTime) -> TokenBucket {
        TokenBucket { level: rate.burst * PARTS, at: now }
    }

    /// Adds what was gained until `now`. Tokens are taken only after a refill at the time of taking: else the bucket would
    /// gain for a time in which it was full.
    #[inline]
    pub fn refill(&mut self, rate: TokenRate, now: MonotonicTime) {
        let elapsed = now.as_micros().saturating_sub(self.at.as_micros());
        let gained = elapsed.saturating_mul(rate.per_second);
        self.level = self.level.saturating_add(gained).min(rate.burst * PARTS);
        self.at = self.at.max(now);
    }

    /// Returns how many whole tokens are left.
    #[inline]
    pub fn tokens(&self) -> u64 {
        self.level / PARTS
    }

    /// Takes tokens, no more than there are.
    #[inline]
    pub fn take(&mut self, count: u64) {
        debug_assert!(count <= self.tokens(), "{count} of {}", self.tokens());
        self.level = self.level.saturating_sub(count.saturating_mul(PARTS));
    }

    /// Returns when there will be `count` tokens if none are taken, but no more than the burst.
    pub fn due(&self, rate: TokenRate, count: u64) -> MonotonicTime {
        let missing = (count.min(rate.burst) * PARTS).saturating_sub(self.level);
        MonotonicTime::from_micros(self.at.as_micros().saturating_add(missing.div_ceil(rate.per_second)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const START: MonotonicTime = MonotonicTime::from_micros(1_000_000_000);

    fn after(micros: u64) -> MonotonicTime {
        START + Duration::from_micros(micros)
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let rate = TokenRate::new(10, 3);
        let mut bucket = TokenBucket::full(rate, START);
        assert_eq!(bucket.tokens(), 3);
        bucket.take(3);
        assert_eq!((bucket.tokens(), bucket.due(rate, 1), bucket.due(rate, 2)), (0, after(100_000), after(200_000)));
        bucket.refill(rate, after(99_999));
        assert_eq!(bucket.tokens(), 0);
        bucket.refill(rate, after(100_000));
        assert_eq!(bucket.tokens(), 1);
        // After a pause it is full again, but not overfull.
        bucket.refill(rate, after(60_000_000));
        assert_eq!(bucket.tokens(), 3);
        assert_eq!(bucket.due(rate, 100), after(60_000_000), "more than the burst there never will be");
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gains_nothing() {
        let rate = TokenRate::new(1000, 5);
        let mut bucket = TokenBucket::full(rate, after(4000));
        bucket.take(5);
        for now in [4000, 0, 3999, 4000] {
            bucket.refill(rate, after(now));
            assert_eq!(bucket.tokens(), 0);
        }
        bucket.refill(rate, after(5000));
        assert_eq!(bucket.tokens(), 1, "and what it has seen already is not gained again");
    }

    #[test]
    fn no_figure_is_too_large_for_it() {
        let rate = TokenRate::new(u64::MAX, u64::MAX);
        let mut bucket = TokenBucket::full(rate, START);
        let burst = bucket.tokens();
        bucket.take(burst);
        assert_eq!(bucket.due(rate, u64::MAX), after(1));
        bucket.refill(rate, MonotonicTime::from_micros(u64::MAX));
        assert_eq!(bucket.tokens(), burst);
    }

    proptest! {
        /// Whoever takes as much as there is, at whatever times, gets no more in any span than is allowed.
        #[test]
        fn no_span_takes_more_than_the_burst_and_its_share(
            per_second in 1_u64..5_000_000,
            burst in 1_u64..100_000,
            steps in prop::collection::vec((0_u64..3000, 0_u64..=100), 1..80),
        ) {
            let rate = TokenRate::new(per_second, burst);
            let mut bucket = TokenBucket::full(rate, START);
            let (mut now, mut taken) = (0, vec![]);
            for (gap, percent) in steps {
                now += gap * gap;
                bucket.refill(rate, after(now));
                let count = bucket.tokens() * percent / 100;
                bucket.take(count);
                taken.push((now, count));
            }
            for (from, (begin, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (end, count) in &taken[from..] {
                    sum += u128::from(*count);
                    let share = u128::from(per_second) * u128::from(end - begin);
                    prop_assert!(sum * u128::from(PARTS) <= u128::from(burst) * u128::from(PARTS) + share);
                }
            }
        }

        /// It is neither early nor late.
        #[test]
        fn tokens_are_there_when_they_are_due_and_not_a_microsecond_before(
            per_second in 1_u64..5_000_000,
            burst in 1_u64..100_000,
            taken in 0_u64..=100,
            wanted in 1_u64..100_000,
        ) {
            let rate = TokenRate::new(per_second, burst);
            let mut bucket = TokenBucket::full(rate, START);
            bucket.take(burst * taken / 100);
            let (wanted, had) = (wanted.min(burst), bucket.tokens());
            let due = bucket.due(rate, wanted);
            if had >= wanted {
                prop_assert_eq!(due, START);
            } else {
                let mut before = bucket;
                before.refill(rate, MonotonicTime::from_micros(due.as_micros() - 1));
                prop_assert!(before.tokens() < wanted);
                bucket.refill(rate, due);
                prop_assert!(bucket.tokens() >= wanted);
            }
        }
    }
}
