//! Which of an upstream's endpoints takes the next session.
//!
//! An algorithm is a file here and a variant of [`Balancer`]; the set is closed, so it is an enum and not a trait, and a
//! pick is a match and not a call through a pointer. What an algorithm weighs beyond the index (load, weight, a key to
//! hash) it is given when it is made or when it picks; none of them knows what an endpoint is.

pub mod round_robin;

pub use round_robin::RoundRobin;

/// A balancing algorithm with its state, shared by all workers.
#[derive(Debug)]
pub enum Balancer {
    /// One after the other.
    RoundRobin(RoundRobin),
}

impl Balancer {
    /// The index of the candidate to use, out of `n`.
    ///
    /// This is the contract of every algorithm:
    /// * `excluded(i)` says that candidate `i` must not be chosen: it was tried for this request, it is full, ejected or
    ///   draining. An excluded index is never returned.
    /// * `None` if and only if all were seen to be excluded, or `n` is 0. Whether to fail then, or to ask again with
    ///   fewer exclusions, is the caller's decision.
    /// * It ends: each index is asked about a bounded number of times, and nothing blocks. `excluded` may read live
    ///   state and change its answer between two questions.
    /// * Exclusion is not remembered: the load of those left out spreads over the others, and does not fall to the
    ///   neighbour.
    /// * `n` may differ from call to call, as endpoints come and go.
    pub fn pick(&self, n: usize, excluded: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Balancer::RoundRobin(round_robin) => round_robin.pick(n, excluded),
        }
    }
}
