//! The power of two choices: picks two candidates at random and takes the less loaded one.
//!
//! Balances nearly as evenly as least connections. If many proxies share endpoints and each knows only its own
//! sessions, they do not all choose the one that looks empty.

use super::{Candidates, Draw, is_lighter};

/// See [`super::Balancer::pick`]. Draws both in proportion to their weights, and two different ones if there are two.
pub fn pick(candidates: &impl Candidates, draw: Draw) -> Option<usize> {
    let first = draw_one(candidates, draw.random, None)?;
    let Some(second) = draw_one(candidates, draw.random.rotate_left(32), Some(first)) else {
        return Some(first);
    };
    let held = |index| (candidates.load(index), candidates.weight(index));
    Some(if is_lighter(held(second), held(first)) { second } else { first })
}

/// Draws an open candidate other than `without`.
fn draw_one(candidates: &impl Candidates, random: u64, without: Option<usize>) -> Option<usize> {
    let weight = |index: usize| match Some(index) != without && candidates.is_open(index) {
        true => u64::from(candidates.weight(index)),
        false => 0,
    };
    let total: u64 = (0..candidates.count()).map(weight).sum();
    // The upper bits of a product instead of a remainder do not favour small numbers.
    let mut place = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    let mut last = None;
    for index in 0..candidates.count() {
        let weight = weight(index);
        if weight > place {
            return Some(index);
        }
        place -= weight;
        if weight > 0 {
            last = Some(index);
        }
    }
    // Weights may shrink between the two passes.
    last
}
