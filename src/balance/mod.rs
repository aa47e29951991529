//! Balancing: picks the endpoint of an upstream for the next session.
//!
//! Each algorithm is a file here and a variant of [`Balancer`]. The set is closed, so it is an enum and not a trait,
//! and a pick is a match and not an indirect call. An algorithm reads weights and loads from [`Candidates`], and
//! randomness and the request's key from [`Draw`]; none knows endpoints, reads a clock or draws a number.

pub mod hash;
pub mod least_connections;
pub mod random_two;
pub mod rebalance;
pub mod round_robin;
pub mod sticky;

pub use hash::Hash;
pub use round_robin::RoundRobin;

/// The endpoints of one upstream as algorithms see them, by index.
///
/// Results may change between two calls, since they are read from live state.
pub trait Candidates {
    /// Returns their number; it stays the same during one pick.
    fn count(&self) -> usize;

    /// Returns true if it must not be chosen: it was tried for this request, or is full, ejected or draining.
    fn is_excluded(&self, index: usize) -> bool;

    /// Returns its share of new sessions, relative to the others' (in any unit). 0 takes none, as if excluded.
    fn weight(&self, index: usize) -> u32;

    /// Returns the number of sessions on it, including those being opened.
    fn load(&self, index: usize) -> u32;

    /// Returns a number derived from its name: the same in every process and after every restart.
    fn identity(&self, index: usize) -> u64;

    /// Returns true if it may be chosen.
    fn is_open(&self, index: usize) -> bool {
        !self.is_excluded(index) && self.weight(index) > 0
    }
}

/// The inputs of one pick besides the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Hash of the route's balance key; only [`Balancer::Hash`] reads it.
    pub key: u64,
    /// A random number, new for each pick.
    pub random: u64,
}

/// A balancing algorithm with its state, shared by all workers.
#[derive(Debug)]
pub enum Balancer {
    /// The candidate with the fewest sessions for its weight.
    LeastConnections,
    /// Each in turn, as often as its weight says.
    RoundRobin(RoundRobin),
    /// The less loaded of two random candidates.
    RandomTwo,
    /// The same candidate for the same key.
    Hash(Hash),
}

impl Balancer {
    /// Returns the index of the candidate to use.
    ///
    /// All algorithms guarantee:
    /// * They never return a candidate that they saw closed.
    /// * They return `None` if and only if they saw no open candidate. The caller then fails, or asks again with
    ///   fewer exclusions.
    /// * They end: they look at each index a bounded number of times.
    /// * They do not remember exclusions: the load of excluded candidates spreads over all others and does not fall
    ///   on one neighbour.
    /// * The number of candidates may differ from call to call, as endpoints come and go.
    pub fn pick(&self, candidates: &impl Candidates, draw: Draw) -> Option<usize> {
        match self {
            Balancer::LeastConnections => least_connections::pick(candidates, draw),
            Balancer::RoundRobin(round_robin) => round_robin.pick(candidates),
            Balancer::RandomTwo => random_two::pick(candidates, draw),
            Balancer::Hash(hash) => hash.pick(candidates, draw),
        }
    }
}

/// Returns true if the first candidate is less loaded for its weight than the other, each with one session more.
fn is_lighter((load, weight): (u32, u32), (other_load, other_weight): (u32, u32)) -> bool {
    (u64::from(load) + 1) * u64::from(other_weight) < (u64::from(other_load) + 1) * u64::from(weight)
}

#[cfg(test)]
mod tests;
