//! The retry budget of an upstream: a share of its requests, so that retries do not multiply an outage.
//!
//! If three of four endpoints are down and nothing bounds retries, each request becomes up to four, just when the last
//! endpoint can bear least. A budget allows retries of single failures and stops them when most requests fail, as in
//! Finagle, linkerd and Envoy. It counts requests and retries over the last `WINDOW`, and always allows a few retries,
//! for upstreams with so few requests that the share would round to none.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::base::time::MonotonicTime;

/// How far back requests are counted, as in Finagle and linkerd.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Slots of the window; it advances by a second at a time.
const SLOTS: usize = 10;

/// The size of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudgetRule {
    /// Retries per hundred requests.
    pub percent: u32,
    /// Retries per second that are allowed in addition.
    pub min_per_second: u32,
}

/// The requests and retries of one upstream.
#[derive(Debug)]
pub struct RetryBudget {
    rule: RetryBudgetRule,
    slots: Mutex<[SecondCounts; SLOTS]>,
}

/// The counts of one second.
#[derive(Clone, Copy, Debug, Default)]
struct SecondCounts {
    second: u64,
    requests: u64,
    retries: u64,
}

impl RetryBudget {
    /// Creates a budget of which nothing is spent.
    pub fn new(rule: RetryBudgetRule) -> RetryBudget {
        RetryBudget { rule, slots: Mutex::default() }
    }

    /// Counts a request, which adds to the budget.
    pub fn request(&self, now: MonotonicTime) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slot(&mut slots, now).requests += 1;
    }

    /// Returns true if a request may be retried, and counts the retry.
    pub fn retry(&self, now: MonotonicTime) -> bool {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let may = self.has_left(&mut slots, now);
        slot(&mut slots, now).retries += u64::from(may);
        may
    }

    /// Returns true if no request may be retried now. Counts nothing.
    pub fn is_spent(&self, now: MonotonicTime) -> bool {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        !self.has_left(&mut slots, now)
    }

    fn has_left(&self, slots: &mut [SecondCounts; SLOTS], now: MonotonicTime) -> bool {
        let spent = slot(slots, now).second;
        let counted = slots.iter().filter(|slot| slot.second + SLOTS as u64 > spent);
        let (requests, retries) =
            counted.fold((0, 0), |(requests, retries), slot| (requests + slot.requests, retries + slot.retries));
        let allowed =
            requests * u64::from(self.rule.percent) / 100 + u64::from(self.rule.min_per_second) * WINDOW.as_secs();
        retries < allowed
    }
}

/// Returns the slot of this second, cleared if it held an earlier one. If another worker's clock is a tick ahead,
/// counts for its later second.
fn slot(slots: &mut [SecondCounts; SLOTS], now: MonotonicTime) -> &mut SecondCounts {
    let second = now.as_micros() / 1_000_000;
    let slot = &mut slots[second as usize % SLOTS];
    if slot.second < second {
        *slot = SecondCounts { second, ..SecondCounts::default() };
    }
    slot
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: RetryBudgetRule = RetryBudgetRule { percent: 20, min_per_second: 2 };

    fn at(secs: u64) -> MonotonicTime {
        MonotonicTime::from_micros(secs * 1_000_000)
    }

    fn spend(budget: &RetryBudget, now: MonotonicTime) -> usize {
        (0..100_000).take_while(|_| budget.retry(now)).count()
    }

    #[test]
    fn a_share_of_the_requests_and_a_little_besides() {
        let budget = RetryBudget::new(RULE);
        for _ in 0..100 {
            budget.request(at(50));
        }
        assert_eq!(spend(&budget, at(50)), 20 + 20);
        assert_eq!(spend(&budget, at(59)), 0, "it was spent within the window");
        assert_eq!(spend(&budget, at(60)), 20, "neither requests nor retries count any more");
    }

    #[test]
    fn nothing_at_all_is_allowed_where_both_are_zero() {
        let budget = RetryBudget::new(RetryBudgetRule { percent: 0, min_per_second: 0 });
        budget.request(at(1));
        assert!(!budget.retry(at(1)));
    }

    proptest! {
        #[test]
        fn a_retry_is_paid_for_by_the_window_it_falls_in(
            seconds in prop::collection::vec((0u64..4, 0u64..40, 0u64..40), 1..60),
        ) {
            let budget = RetryBudget::new(RULE);
            let mut now = 1_000;
            let mut history: Vec<(u64, u64, u64)> = vec![];
            for (pause, requests, retries) in seconds {
                now += pause;
                (0..requests).for_each(|_| budget.request(at(now)));
                let allowed = (0..retries).filter(|_| budget.retry(at(now))).count() as u64;
                history.push((now, requests, allowed));
                let window = history.iter().filter(|(second, ..)| second + 10 > now);
                let (earned, spent) = window.fold((0, 0), |sum, (_, requests, retries)| (sum.0 + requests, sum.1 + retries));
                prop_assert!(allowed == 0 || spent <= earned * 20 / 100 + 20);
                if 0 < allowed && allowed < retries {
                    prop_assert_eq!(spent, earned * 20 / 100 + 20, "refused only when all is spent");
                }
            }
        }
    }
}
