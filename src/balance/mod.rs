//! Balancing: picks the endpoint of an upstream for the next session.
//!
//! An algorithm is a file here and a variant of [`Balancer`]. The set is closed, so it is an enum and not a trait, and
//! a pick is a match and not a call through a pointer. An algorithm asks [`Candidates`] for what it weighs and takes
//! randomness and the request's key from [`Draw`]; none knows what an endpoint is, reads a clock or draws a number.

pub mod hash;
pub mod least_connections;
pub mod random_two;
pub mod rebalance;
pub mod round_robin;
pub mod sticky;

pub use hash::Hash;
pub use round_robin::RoundRobin;

/// What algorithms know of the endpoints of one upstream, by index.
///
/// Answers may change between two calls: they are read from live state.
pub trait Candidates {
    /// How many there are; the same during one pick.
    fn count(&self) -> usize;

    /// It must not be chosen: it was tried for this request, it is full, ejected or draining.
    fn is_excluded(&self, index: usize) -> bool;

    /// Its share of new sessions, compared with the others' (any unit). 0 takes none, as if excluded.
    fn weight(&self, index: usize) -> u32;

    /// Sessions on it now, those still being opened included.
    fn load(&self, index: usize) -> u32;

    /// A number made of its name: the same in every process and after every restart.
    fn identity(&self, index: usize) -> u64;

    /// Returns true if it may be chosen at all.
    fn is_open(&self, index: usize) -> bool {
        !self.is_excluded(index) && self.weight(index) > 0
    }
}

/// What one pick depends on besides the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Hash of what the route balances by; only [`Balancer::Hash`] looks at it.
    pub key: u64,
    /// Any number, another for each pick.
    pub random: u64,
}

/// A balancing algorithm with its state, shared by all workers.
#[derive(Debug)]
pub enum Balancer {
    /// The one with the fewest sessions for its weight.
    LeastConnections,
    /// Each in turn, as often as its weight says.
    RoundRobin(RoundRobin),
    /// The less loaded of two taken by chance.
    RandomTwo,
    /// The same one for the same key.
    Hash(Hash),
}

impl Balancer {
    /// Returns the index of the candidate to use.
    ///
    /// The contract of every algorithm:
    /// * A candidate that was seen not to be open is never returned.
    /// * `None` if and only if none was seen to be open. The caller decides whether to fail then or to ask again with
    ///   fewer exclusions.
    /// * It ends: each index is asked about a bounded number of times.
    /// * Exclusion is not remembered: the load of those left out spreads over the others, and does not fall to the
    ///   neighbour.
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

/// Returns true if a candidate with `load` and `weight` has less to do for its size than another, each with one session
/// more.
fn is_lighter((load, weight): (u32, u32), (other_load, other_weight): (u32, u32)) -> bool {
    (u64::from(load) + 1) * u64::from(other_weight) < (u64::from(other_load) + 1) * u64::from(weight)
}

#[cfg(test)]
mod tests;
