//! Smooth weighted round robin: picks each candidate in turn, as often as its weight says, and spread out: 5, 1, 1
//! gives `a a b a c a a`.
//!
//! Works as in nginx and LVS: at each pick every candidate earns its weight; the one with the most credit is picked and
//! pays what all have earned. Over a round each gets exactly its weight.

use std::sync::{Mutex, PoisonError};

use super::Candidates;

/// Bounds credit and debt, whatever weights and exclusions do: a candidate that was away for long does not come back to
/// a series of picks.
const CREDIT_ROUNDS_MAX: i64 = 2;

/// The state of the rotation.
#[derive(Debug, Default)]
pub struct RoundRobin {
    start: usize,
    /// The credit of each candidate. The lock is held for one pass over the candidates, once a handshake.
    credits: Mutex<Vec<i64>>,
}

impl RoundRobin {
    /// Begins at candidate `start` (modulo their number). Pass a random number; otherwise many proxies that start
    /// together would all send their first session to the first server.
    pub fn new(start: usize) -> RoundRobin {
        RoundRobin { start, credits: Mutex::default() }
    }

    /// See [`super::Balancer::pick`]. While weights and exclusions stay the same, any series of picks as long as the
    /// sum of the weights (divided by their common divisor) picks each as often as its weight says.
    pub fn pick(&self, candidates: &impl Candidates) -> Option<usize> {
        let count = candidates.count();
        let start = self.start.checked_rem(count)?;
        let mut credits = self.credits.lock().unwrap_or_else(PoisonError::into_inner);
        credits.resize(count, 0);
        let mut total = 0;
        let mut richest: Option<usize> = None;
        for index in (start..count).chain(0..start) {
            if !candidates.is_open(index) {
                continue;
            }
            let weight = i64::from(candidates.weight(index));
            total += weight;
            credits[index] += weight;
            if richest.is_none_or(|richest| credits[index] > credits[richest]) {
                richest = Some(index);
            }
        }
        let richest = richest?;
        credits[richest] -= total;
        for credit in credits.iter_mut() {
            *credit = (*credit).clamp(-CREDIT_ROUNDS_MAX * total, CREDIT_ROUNDS_MAX * total);
        }
        Some(richest)
    }
}
