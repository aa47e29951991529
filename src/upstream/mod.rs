//! A named group of interchangeable servers, and the way to them.
//!
//! `Upstream` is what a route refers to: the endpoints of the moment (`set`), which may be replaced while sessions run, the
//! balancer that picks among them, and how they are connected to. `live` is what is known of an endpoint and outlives every
//! change; `maker` makes endpoints of what is written. `connect` makes one connection, `handshake` opens a WebSocket over it
//! with a small client of our own (hyper's costs a task and 18 KB for each), `pool` carries plain HTTP, where connections are
//! used again. Which endpoint is tried next, and what a client is told when all fail, is for `proxy` to say.

pub mod connect;
pub mod endpoint;
pub mod entry;
pub mod handshake;
pub mod live;
pub mod maker;
pub mod metrics;
pub mod pool;
pub mod queue;
pub mod set;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::balance::{Balancer, Draw, Hash, RoundRobin};
use crate::config;
use crate::moment::Moment;
use crate::policy::balance_key::BalanceKey;
use endpoint::Endpoint;
use entry::{Entry, Gate};
use live::{Seat, Standing};
use maker::{MakeError, Maker};
use metrics::UpstreamMetrics;
use set::{Set, is_among};

/// A group of endpoints under one name.
#[derive(Debug)]
pub struct Upstream {
    /// As written under `upstreams:`.
    pub name: String,
    set: ArcSwap<Set>,
    policy: Policy,
    maker: Maker,
    /// How requests get in.
    pub entry: Entry,
    /// Who is let in, and who waits.
    pub gate: Arc<Gate>,
    /// What the group counts on.
    pub metrics: UpstreamMetrics,
}

/// How an upstream's endpoints are chosen among.
#[derive(Debug)]
pub struct Policy {
    /// The algorithm.
    pub balance: config::Balance,
    /// How long an endpoint that joins takes to its full weight.
    pub slow_start: Option<Duration>,
    /// Where this process stands; endpoints of the same zone come first.
    pub zone: Option<String>,
}

impl Policy {
    /// A balancer with a state of its own.
    fn balancer(&self) -> Balancer {
        match &self.balance {
            config::Balance::LeastConnections => Balancer::LeastConnections,
            // A random start: instances that start together must not all begin with the first endpoint.
            config::Balance::RoundRobin => Balancer::RoundRobin(RoundRobin::new(fastrand::usize(..))),
            config::Balance::RandomTwo => Balancer::RandomTwo,
            config::Balance::Hash(written) => Balancer::Hash(Hash { load_max_percent: written.load_max.percent() }),
        }
    }
}

/// What a change of membership did.
#[derive(Debug, Default)]
pub struct Change {
    /// Those that were not there before.
    pub joined: Vec<Arc<Endpoint>>,
    /// Those that are not there any more; sessions on them go on.
    pub left: Vec<Arc<Endpoint>>,
    /// Those that cannot be used as written, and why.
    pub refused: Vec<MakeError>,
}

impl Upstream {
    /// A group without endpoints yet; see [`Upstream::replace`].
    pub fn new(policy: Policy, maker: Maker) -> Upstream {
        let metrics = maker.families.upstream(&maker.upstream);
        let set = ArcSwap::from_pointee(Set::new(vec![], None, policy.balancer()));
        let (name, gate) = (maker.upstream.clone(), maker.lives.gate(&maker.upstream));
        Upstream { name, set, policy, maker, entry: Entry::default(), gate, metrics }
    }

    /// Makes these the endpoints. One that stays as it was is not touched; one with another weight keeps what is known of
    /// it. Those that join others start slowly, if the upstream wants that. Of two with the same name the first counts.
    ///
    /// Calls must not overlap: membership has one writer.
    pub fn replace(&self, written: &[config::Endpoint], now: Moment) -> Change {
        let before = self.set.load();
        let mut change = Change::default();
        let mut seen = HashSet::new();
        let mut endpoints = vec![];
        for written in written {
            if !seen.insert(&written.url) {
                continue;
            }
            let same = |endpoint: &&Arc<Endpoint>| endpoint.written.url == written.url;
            let was = before.endpoints().iter().find(same);
            if let Some(was) = was.filter(|was| was.written == *written) {
                endpoints.push(Arc::clone(was));
                continue;
            }
            match self.maker.endpoint(written) {
                Ok(endpoint) => {
                    let endpoint = Arc::new(endpoint);
                    if was.is_none() {
                        change.joined.push(Arc::clone(&endpoint));
                    }
                    endpoints.push(endpoint);
                }
                Err(error) => change.refused.push(error),
            }
        }
        if !before.endpoints().is_empty() {
            change.joined.iter().for_each(|endpoint| endpoint.live.joined(now));
        }
        let gone = |endpoint: &&Arc<Endpoint>| !is_among(&endpoints, endpoint);
        change.left = before.endpoints().iter().filter(gone).cloned().collect();
        self.set.store(Arc::new(Set::new(endpoints, self.policy.zone.as_deref(), self.policy.balancer())));
        self.gate.queue.look_again();
        change
    }

    /// The endpoint for the next session, with a seat on it, without those already `tried`. One that failed lately comes
    /// after all that did not.
    ///
    /// # Errors
    /// When there is none, and why.
    pub fn pick(&self, tried: &[Arc<Endpoint>], draw: Draw, now: Moment) -> Result<(Arc<Endpoint>, Seat), NoEndpoint> {
        let set = self.set.load();
        // Bounded: between the choice and the seat another worker may take the last one; then the next choice sees it full.
        for _ in 0..=set.endpoints().len() {
            let Some(endpoint) = set.pick(tried, self.policy.slow_start, draw, now) else { break };
            if let Some(seat) = endpoint.enter() {
                endpoint.live.metrics.pick();
                return Ok((Arc::clone(endpoint), seat));
            }
        }
        let mut left = set.endpoints().iter().filter(|endpoint| !is_among(tried, endpoint));
        match left.any(|endpoint| endpoint.weight > 0) {
            true => Err(NoEndpoint::Full),
            false if tried.is_empty() => Err(NoEndpoint::Closed),
            false => Err(NoEndpoint::AllTried),
        }
    }

    /// The endpoint of this identity, with a seat on it, if it takes sessions and has not failed lately. With the weight 0 it
    /// takes none, also of those who had it: it would never be empty otherwise.
    pub fn pick_named(&self, identity: u64, now: Moment) -> Option<(Arc<Endpoint>, Seat)> {
        let set = self.set.load();
        let endpoint = set.endpoints().iter().find(|endpoint| endpoint.identity == identity)?;
        if endpoint.weight == 0 || endpoint.live.standing(now) != Standing::Good {
            return None;
        }
        let seat = endpoint.enter()?;
        endpoint.live.metrics.pick();
        Some((Arc::clone(endpoint), seat))
    }

    /// What of a request decides, where the balancer goes by it.
    pub fn balance_key(&self) -> Option<&BalanceKey> {
        match &self.policy.balance {
            config::Balance::Hash(written) => Some(&written.on),
            _ => None,
        }
    }

    /// The endpoints of the moment.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.set.load().endpoints().to_vec()
    }
}

/// Why no endpoint could be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// Each that takes sessions has been tried for this request.
    AllTried,
    /// Those that are left have as many sessions as they may have.
    Full,
    /// There is none, or all have the weight 0.
    Closed,
}

#[cfg(test)]
mod tests;
