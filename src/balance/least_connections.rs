//! Picks the endpoint with the fewest live sessions for its weight.
//!
//! Sessions last for hours, so an endpoint's load says more than whose turn it is. A new endpoint is empty and takes
//! every session until it holds its share; slow start (a weight that grows) slows that down.

use super::{Candidates, Draw, is_lighter};

/// See [`super::Balancer::pick`]. Starts at a random candidate among equals, so that independent proxies do not all
/// begin with the first.
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
