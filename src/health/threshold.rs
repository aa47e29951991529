//! Rise and fall: how many probes in a row change the health of an endpoint.
//!
//! The first probe decides at once, as in HAProxy and Envoy: one result is better than none. Until then the health is
//! unknown, and the endpoint takes sessions: a proxy that has just started must not turn clients away before the first
//! probe; a client that meets a dead endpoint then is retried on another.

use serde::{Deserialize, Serialize};

/// The thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthThresholds {
    /// Passes in a row until an endpoint that was down is up.
    pub rise: u32,
    /// Failures in a row until an endpoint that was up is down.
    pub fall: u32,
}

/// The health of an endpoint, from probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// No probe has ended yet, or there are none.
    #[default]
    Unknown,
    /// It passes its probes.
    Up,
    /// It fails its probes.
    Down,
}

/// The state from which a verdict follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Threshold {
    health: Health,
    /// Results in a row that contradict `health`.
    against: u32,
}

impl Threshold {
    /// Goes on with a health that was found before.
    pub fn known(health: Health) -> Threshold {
        Threshold { health, against: 0 }
    }

    /// Returns the current health.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Records the result of a probe; returns the health if it changed.
    pub fn observe(&mut self, rule: HealthThresholds, passed: bool) -> Option<Health> {
        let (seen, needed) = if passed { (Health::Up, rule.rise) } else { (Health::Down, rule.fall) };
        if seen == self.health {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        if self.health != Health::Unknown && self.against < needed {
            return None;
        }
        *self = Threshold { health: seen, against: 0 };
        Some(seen)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: HealthThresholds = HealthThresholds { rise: 2, fall: 3 };

    fn seen(results: &[bool]) -> Vec<Option<Health>> {
        let mut threshold = Threshold::default();
        results.iter().map(|passed| threshold.observe(RULE, *passed)).collect()
    }

    #[test]
    fn the_first_probe_decides_and_further_ones_must_agree() {
        assert_eq!(seen(&[true]), [Some(Health::Up)]);
        assert_eq!(seen(&[false, true, true]), [Some(Health::Down), None, Some(Health::Up)]);
        assert_eq!(seen(&[true, false, false, false]), [Some(Health::Up), None, None, Some(Health::Down)]);
    }

    #[test]
    fn a_result_in_between_starts_the_count_anew() {
        assert_eq!(seen(&[true, false, false, true, false, false])[1..], [None; 5]);
        assert_eq!(seen(&[false, true, false, true])[1..], [None; 3]);
    }

    proptest! {
        #[test]
        fn a_verdict_changes_exactly_when_that_many_in_a_row_say_otherwise(
            results in prop::collection::vec(any::<bool>(), 1..60),
            rise in 1u32..5,
            fall in 1u32..5,
        ) {
            let mut threshold = Threshold::default();
            for (index, passed) in results.iter().enumerate() {
                let before = threshold.health();
                let changed = threshold.observe(HealthThresholds { rise, fall }, *passed);
                let row = results[..=index].iter().rev().take_while(|other| *other == passed).count() as u32;
                let expected = match (before, passed) {
                    (Health::Unknown, true) => Some(Health::Up),
                    (Health::Unknown, false) => Some(Health::Down),
                    (Health::Down, true) if row >= rise => Some(Health::Up),
                    (Health::Up, false) if row >= fall => Some(Health::Down),
                    _ => None,
                };
                prop_assert_eq!(changed, expected);
                prop_assert_eq!(threshold.health(), expected.unwrap_or(before));
            }
        }
    }
}
