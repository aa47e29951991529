//! The endpoints of an upstream at one moment, in order of preference, with the balancer over them.
//!
//! Immutable: a change of membership creates another set, so a pick sees one consistent set.

use std::sync::Arc;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::endpoint_state::Standing;
use crate::balance::{Balancer, Candidates, Draw};
use crate::base::time::MonotonicTime;

/// The factor of weights, so that a fraction of 1 is still a weight.
const WHOLE: u32 = 1000;
/// The initial weight in slow start, in parts of [`WHOLE`]: with less, the first session would never come.
const SLOW_START_LEAST: u32 = 50;

/// The endpoints of an upstream.
#[derive(Debug)]
pub struct Set {
    endpoints: Box<[Arc<Endpoint>]>,
    /// The rank of each endpoint; 0 is the first choice.
    ranks: Box<[usize]>,
    /// One more than the highest rank.
    rank_count: usize,
    balancer: Balancer,
}

impl Set {
    /// Creates a set as seen from `zone`: lower priority numbers come first, and within one number the endpoints of the
    /// same zone.
    pub fn new(endpoints: Vec<Arc<Endpoint>>, zone: Option<&str>, balancer: Balancer) -> Set {
        let preference =
            |endpoint: &Arc<Endpoint>| (endpoint.priority, zone.is_some() && endpoint.zone.as_deref() != zone);
        let mut preferences: Vec<_> = endpoints.iter().map(preference).collect();
        preferences.sort_unstable();
        preferences.dedup();
        let rank = |endpoint| preferences.binary_search(&preference(endpoint)).unwrap_or(0);
        Set {
            ranks: endpoints.iter().map(rank).collect(),
            rank_count: preferences.len(),
            endpoints: endpoints.into(),
            balancer,
        }
    }

    /// Returns all endpoints.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Returns the endpoints that `fits` accepts, of the best rank that has one.
    pub fn best(&self, fits: impl Fn(&Endpoint) -> bool) -> Vec<Arc<Endpoint>> {
        let fitting = || self.endpoints.iter().zip(&self.ranks).filter(|(endpoint, _)| fits(endpoint));
        let best = fitting().map(|(_, rank)| *rank).min();
        fitting().filter(|(_, rank)| Some(**rank) == best).map(|(endpoint, _)| Arc::clone(endpoint)).collect()
    }

    /// Picks among the open endpoints of the first of the `standings` that has one, and returns its standing too.
    /// Standing comes before rank, so a healthy backup comes before a first choice that failed; within one rank the
    /// algorithm decides.
    pub fn pick(
        &self,
        tried: &[Arc<Endpoint>],
        slow_start: Option<Duration>,
        standings: &[Standing],
        draw: Draw,
        now: MonotonicTime,
    ) -> Option<(&Arc<Endpoint>, Standing)> {
        for &standing in standings {
            for rank in 0..self.rank_count {
                let choice = Choice { set: self, tried, slow_start, now, standing, rank };
                if let Some(index) = self.balancer.pick(&choice, draw) {
                    return Some((&self.endpoints[index], standing));
                }
            }
        }
        None
    }
}

/// The endpoints of one standing and rank, as the balancer sees them.
struct Choice<'a> {
    set: &'a Set,
    tried: &'a [Arc<Endpoint>],
    slow_start: Option<Duration>,
    now: MonotonicTime,
    standing: Standing,
    rank: usize,
}

impl Candidates for Choice<'_> {
    fn count(&self) -> usize {
        self.set.endpoints.len()
    }

    fn is_excluded(&self, index: usize) -> bool {
        let endpoint = &self.set.endpoints[index];
        self.set.ranks[index] != self.rank
            || endpoint.is_full()
            || endpoint.state.standing(self.now) != self.standing
            || is_among(self.tried, endpoint)
    }

    fn weight(&self, index: usize) -> u32 {
        weight(&self.set.endpoints[index], self.slow_start, self.now)
    }

    fn load(&self, index: usize) -> u32 {
        self.set.endpoints[index].state.load()
    }

    fn identity(&self, index: usize) -> u64 {
        self.set.endpoints[index].identity
    }
}

/// Returns an endpoint's weight relative to the others', which grows after it has joined them.
pub fn weight(endpoint: &Endpoint, slow_start: Option<Duration>, now: MonotonicTime) -> u32 {
    if !endpoint.state.is_open() {
        return 0;
    }
    let Some(span) = slow_start else { return endpoint.weight };
    let part = endpoint.state.warmth(span, now) * f64::from(WHOLE);
    endpoint.weight * (part as u32).clamp(SLOW_START_LEAST, WHOLE)
}

/// Returns true if an endpoint was tried, also in its form of an earlier configuration.
pub fn is_among(tried: &[Arc<Endpoint>], endpoint: &Endpoint) -> bool {
    tried.iter().any(|tried| Arc::ptr_eq(&tried.state, &endpoint.state))
}
