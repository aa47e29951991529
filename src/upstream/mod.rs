//! A named group of interchangeable servers, and the way to them.
//!
//! `Upstream` is what a route refers to: endpoints, the balancer that picks among them, and how they are connected to.
//! `live` is what is known of an endpoint and outlives every change. `connect` makes one connection, `handshake` opens a WebSocket over it with a small client of our own (hyper's costs a
//! task and 18 KB for each), `pool` carries plain HTTP, where connections are used again. Which endpoint is tried next,
//! and what a client is told when all fail, is for `proxy` to say.

pub mod connect;
pub mod endpoint;
pub mod handshake;
pub mod live;
pub mod metrics;
pub mod pool;

use std::sync::Arc;

use crate::balance::{Balancer, Candidates, Draw};
use crate::moment::Moment;
use crate::policy::balance_key::BalanceKey;
use endpoint::Endpoint;
use live::Seat;
use metrics::UpstreamMetrics;

/// A group of endpoints under one name.
#[derive(Debug)]
pub struct Upstream {
    /// As written under `upstreams:`.
    pub name: String,
    endpoints: Box<[Arc<Endpoint>]>,
    balancer: Balancer,
    /// What of a request decides, where the balancer goes by it.
    pub balance_key: Option<BalanceKey>,
    /// What the group counts on.
    pub metrics: UpstreamMetrics,
}

impl Upstream {
    /// A group of at least one endpoint.
    pub fn new(
        name: String,
        endpoints: Vec<Arc<Endpoint>>,
        balancer: Balancer,
        balance_key: Option<BalanceKey>,
        metrics: UpstreamMetrics,
    ) -> Upstream {
        Upstream { name, endpoints: endpoints.into(), balancer, balance_key, metrics }
    }

    /// The endpoint for the next session, with a seat on it, without those already `tried`. One that failed lately comes
    /// after all that did not.
    ///
    /// # Errors
    /// When there is none, and why.
    pub fn pick(&self, tried: &[Arc<Endpoint>], draw: Draw, now: Moment) -> Result<(Arc<Endpoint>, Seat), NoEndpoint> {
        // Bounded: between the choice and the seat another worker may take the last one; then the next choice sees it full.
        for _ in 0..=self.endpoints.len() {
            let choice = |suspects| self.balancer.pick(&Choice { upstream: self, tried, now, suspects }, draw);
            let Some(index) = choice(false).or_else(|| choice(true)) else { break };
            let endpoint = &self.endpoints[index];
            if let Some(seat) = endpoint.enter() {
                endpoint.metrics.pick();
                return Ok((Arc::clone(endpoint), seat));
            }
        }
        let mut left = self.endpoints.iter().filter(|endpoint| !is_among(tried, endpoint));
        match left.any(|endpoint| endpoint.weight > 0) {
            true => Err(NoEndpoint::Full),
            false if tried.is_empty() => Err(NoEndpoint::Closed),
            false => Err(NoEndpoint::AllTried),
        }
    }

    /// All endpoints.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }
}

/// Why no endpoint could be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// Each that takes sessions has been tried for this request.
    AllTried,
    /// Those that are left have as many sessions as they may have.
    Full,
    /// All have the weight 0.
    Closed,
}

fn is_among(tried: &[Arc<Endpoint>], endpoint: &Arc<Endpoint>) -> bool {
    tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint))
}

/// What the balancer sees.
struct Choice<'a> {
    upstream: &'a Upstream,
    tried: &'a [Arc<Endpoint>],
    now: Moment,
    /// Those that failed lately may be chosen too.
    suspects: bool,
}

impl Candidates for Choice<'_> {
    fn count(&self) -> usize {
        self.upstream.endpoints.len()
    }

    fn is_excluded(&self, index: usize) -> bool {
        let endpoint = &self.upstream.endpoints[index];
        is_among(self.tried, endpoint) || endpoint.is_full() || (!self.suspects && endpoint.live.is_suspect(self.now))
    }

    fn weight(&self, index: usize) -> u32 {
        self.upstream.endpoints[index].weight
    }

    fn load(&self, index: usize) -> u32 {
        self.upstream.endpoints[index].live.load()
    }

    fn identity(&self, index: usize) -> u64 {
        self.upstream.endpoints[index].identity
    }
}
