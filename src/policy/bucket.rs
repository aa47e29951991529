//! Rate limit: a token bucket that gives each caller the time of its slot.
//!
//! This is the generic cell rate algorithm (GCRA, ITU-T I.371), a token bucket kept as one number: the theoretical
//! arrival time. Each caller gets its slot at once, in order of arrival, so it waits with one sleep and there is no
//! queue to keep; the longest wait (`rate` × `wait`) bounds the number of waiters.
//!
//! Invariant: any span of length `t` holds at most `burst + rate · t` slots. An unused slot (the client left) is lost,
//! since later callers have their times already.
//!
//! A refused caller learns when to come back, each one slot later than the one before, as if the queue went on beyond
//! the bound. Callers that obey come back at the rate and not all at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::time::MonotonicTime;

/// The furthest promise: a caller that ignores it and keeps asking must not delay the others for hours.
const PROMISE_MAX: Duration = Duration::from_secs(60);

/// The rate of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionRate {
    /// Nanoseconds between two slots, rounded up, so the rate is rather too low than too high.
    interval: u64,
    /// Nanoseconds of burst.
    slack: u64,
    /// The longest wait, in nanoseconds.
    wait: u64,
}

impl AdmissionRate {
    /// Admits `per_second` slots a second, and `burst` at once after a pause; refuses a slot further away than `wait`.
    /// Both numbers count as at least 1.
    pub fn new(per_second: u32, burst: u32, wait: Duration) -> AdmissionRate {
        let interval = 1_000_000_000_u64.div_ceil(u64::from(per_second.max(1)));
        AdmissionRate { interval, slack: interval * u64::from(burst.max(1)), wait: nanos(wait) }
    }

    /// Admits a slot every `interval`, and `burst` at once after a pause; refuses a slot that is not free.
    pub fn every(interval: Duration, burst: u32) -> AdmissionRate {
        let interval = nanos(interval).max(1);
        AdmissionRate { interval, slack: interval.saturating_mul(u64::from(burst.max(1))), wait: 0 }
    }

    /// Returns the arrival time after one more slot, in nanoseconds; `arrival` is that after the one before. For slots that are
    /// not waited for.
    ///
    /// # Errors
    /// If the slot is not free yet: when it is.
    pub fn next(self, arrival: u64, now: MonotonicTime) -> Result<u64, RateExceeded> {
        let now = now.as_micros().saturating_mul(1000);
        let next = arrival.max(now).saturating_add(self.interval);
        match (next - now).checked_sub(self.slack) {
            None | Some(0) => Ok(next),
            Some(after) => Err(RateExceeded { after: Duration::from_nanos(after) }),
        }
    }

    /// Returns the share of one of so many instances: no more than all of it together.
    pub fn share(self, instances: u32) -> AdmissionRate {
        let instances = u64::from(instances.max(1));
        let burst = (self.burst() / instances).max(1);
        let interval = self.interval.saturating_mul(instances);
        AdmissionRate { interval, slack: interval.saturating_mul(burst), wait: self.wait }
    }

    /// Returns the time between two slots.
    pub fn interval(self) -> Duration {
        Duration::from_nanos(self.interval)
    }

    /// Returns how many slots may be taken at once.
    pub fn burst(self) -> u64 {
        self.slack / self.interval
    }

    /// Shortens the longest wait to `left`.
    pub fn within(self, left: Duration) -> AdmissionRate {
        AdmissionRate { wait: self.wait.min(nanos(left)), ..self }
    }
}

/// The slots taken so far; shared by threads.
#[derive(Debug, Default)]
pub struct Bucket {
    /// Theoretical arrival time (GCRA), ns.
    given: AtomicU64,
    /// The same including the slots promised to refused callers.
    promised: AtomicU64,
}

/// The next slot is too far away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateExceeded {
    /// How long from now until a slot is free.
    pub after: Duration,
}

impl Bucket {
    /// Takes a slot and returns how long to wait for it.
    ///
    /// Fails if the wait would be longer than allowed, and says when to come back. No slot is taken then.
    /// If the wait were longer than allowed: when to come back. No slot is taken then.
    pub fn take(&self, pace: AdmissionRate, now: MonotonicTime) -> Result<Duration, RateExceeded> {
        let now = now.as_micros().saturating_mul(1000);
        // Relaxed: threads need to agree on this number only.
        let taken = self.given.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |given| {
            let next = given.max(now).saturating_add(pace.interval);
            (next - now <= pace.slack.saturating_add(pace.wait)).then_some(next)
        });
        match taken {
            Ok(given) => {
                let next = given.max(now).saturating_add(pace.interval);
                Ok(Duration::from_nanos((next - now).saturating_sub(pace.slack)))
            }
            Err(given) => Err(RateExceeded { after: self.promise(pace, given, now) }),
        }
    }

    /// Returns the next slot after all that were given or promised.
    fn promise(&self, pace: AdmissionRate, given: u64, now: u64) -> Duration {
        let next = |promised: u64| {
            let next = promised.max(given).saturating_add(pace.interval);
            next.min(now.saturating_add(nanos(PROMISE_MAX)))
        };
        let (Ok(before) | Err(before)) =
            self.promised.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |promised| Some(next(promised)));
        Duration::from_nanos(next(before).saturating_sub(now).saturating_sub(pace.slack))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    const START: MonotonicTime = MonotonicTime::from_micros(1_000_000_000);

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_burst_goes_at_once_the_next_at_the_rate_and_the_rest_not_at_all() {
        let (bucket, pace) = (Bucket::default(), AdmissionRate::new(10, 3, secs(0.5)));
        let taken: Vec<_> = (0..10).map(|_| bucket.take(pace, START)).collect();
        let waits: Vec<_> = taken.iter().filter_map(|taken| taken.ok()).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200, 300, 400, 500]);
        // They may come back where the queue would have gone on.
        assert_eq!(taken[8..], [Err(RateExceeded { after: secs(0.6) }), Err(RateExceeded { after: secs(0.7) })]);
        // After a pause the bucket is full again, but not overfull.
        let later = START + secs(100.0);
        let waits: Vec<_> = (0..4).map(|_| bucket.take(pace, later).unwrap().as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100]);
    }

    #[test]
    fn a_crowd_that_comes_back_when_it_was_told_to_is_let_in() {
        let (bucket, pace) = (Bucket::default(), AdmissionRate::new(100, 10, secs(1.0)));
        let refused: Vec<_> = (0..1000).filter_map(|_| bucket.take(pace, START).err()).collect();
        assert_eq!(refused.len(), 1000 - 110);
        for RateExceeded { after } in refused {
            assert!(bucket.take(pace, START + after).unwrap() <= secs(0.02), "{after:?}");
        }
    }

    #[test]
    fn callers_that_never_listen_delay_nobody_for_long() {
        let (bucket, pace) = (Bucket::default(), AdmissionRate::new(1, 1, secs(0.0)));
        let furthest = (0..10_000).filter_map(|_| bucket.take(pace, START).err()).map(|refused| refused.after).max();
        assert!(furthest.unwrap() <= PROMISE_MAX);
    }

    /// The most slots of any span, as the difference to what may be in it; `slots` are sorted, in nanoseconds.
    fn excess(slots: &[u64], per_second: u32, burst: u32) -> f64 {
        // For a span from slot i to slot j: j - i + 1 <= burst + rate * (slot j - slot i). So the largest value of
        // (j - rate * slot j) - (i - rate * slot i) over i <= j must be below burst.
        let (mut least, mut excess) = (f64::INFINITY, f64::NEG_INFINITY);
        for (index, slot) in slots.iter().enumerate() {
            let ahead = index as f64 - f64::from(per_second) * (slot - slots[0]) as f64 / 1e9;
            least = least.min(ahead);
            excess = excess.max(ahead - least + 1.0 - f64::from(burst));
        }
        excess
    }

    proptest! {
        #[test]
        fn no_span_has_more_than_the_burst_and_its_share(
            per_second in 1_u32..5000,
            burst in 1_u32..50,
            wait in 0_u64..3_000_000,
            gaps in prop::collection::vec((0_u64..5000, 1_usize..20), 1..100),
        ) {
            let (bucket, pace) = (Bucket::default(), AdmissionRate::new(per_second, burst, Duration::from_micros(wait)));
            let (mut now, mut slots) = (START, vec![]);
            for (gap, crowd) in gaps {
                now = now + Duration::from_micros(gap * gap / 100);
                for _ in 0..crowd {
                    match bucket.take(pace, now) {
                        Ok(after) => {
                            prop_assert!(after <= Duration::from_micros(wait));
                            slots.push(now.as_micros() * 1000 + after.as_nanos() as u64);
                        }
                        Err(refused) => prop_assert!(refused.after > Duration::from_micros(wait)),
                    }
                }
            }
            prop_assert!(slots.is_sorted(), "first come, first served");
            prop_assert!(excess(&slots, per_second, burst) <= 1e-6);
        }
    }

    proptest! {
        /// As long as each instance may have one of the burst.
        #[test]
        fn the_shares_of_all_instances_are_no_more_than_the_whole(per_second in 1_u32..5000, instances in 1_u32..50, more in 0_u32..50) {
            let burst = instances + more;
            let whole = AdmissionRate::new(per_second, burst, Duration::ZERO);
            let share = whole.share(instances);
            let each = share.slack.div_ceil(share.interval);
            prop_assert!(each >= 1 && each * u64::from(instances) <= u64::from(burst));
            prop_assert_eq!(share.interval, whole.interval * u64::from(instances));
        }
    }

    #[test]
    fn threads_that_ask_at_once_get_slots_of_their_own() {
        let (bucket, pace) = (Bucket::default(), AdmissionRate::new(1000, 5, secs(100.0)));
        let slots = Mutex::new(vec![]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let slot = bucket.take(pace, START).unwrap().as_nanos() as u64;
                        slots.lock().unwrap().push(slot);
                    }
                });
            }
        });
        let mut slots = slots.into_inner().unwrap();
        slots.sort_unstable();
        assert!(excess(&slots, 1000, 5) <= 1e-6);
        assert_eq!(slots.last(), Some(&(3995 * 1_000_000)));
    }
}
