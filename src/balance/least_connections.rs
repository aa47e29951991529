//! The fewest live sessions for its weight.
//!
//! Sessions last for hours, so what an endpoint holds says more than whose turn it is. An endpoint that joins is empty and
//! takes all that comes until it holds its share: slow start (a weight that grows) is what slows that down.

use super::{Candidates, Draw, is_lighter};

/// See [`super::Balancer::pick`]. Equals are taken from a random place on, so that proxies that know nothing of each
/// other do not all begin with the first.
pub fn pick(candidates: &impl Candidates, draw: Draw) -> Option<usize> {
    let count = candidates.count();
    let start = (draw.random % count.max(1) as u64) as usize;
    let mut best: Option<(usize, (u32, u32))> = None;
    for index in (start..count).chain(0..start) {
        if !candidates.is_open(index) {
            continue;
        }
        let held = (candidates.load(index), candidates.weight(index));
        if best.is_none_or(|(_, least)| is_lighter(held, least)) {
            best = Some((index, held));
        }
    }
    best.map(|(index, _)| index)
}
