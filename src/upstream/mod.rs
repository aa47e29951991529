//! A named group of interchangeable servers, and the way to them.
//!
//! `Upstream` is what a route refers to: endpoints, the balancer that picks among them, and how they are connected to.
//! `connect` makes one connection, `handshake` opens a WebSocket over it with a small client of our own (hyper's costs a
//! task and 18 KB for each), `pool` carries plain HTTP, where connections are used again. Which endpoint is tried next,
//! and what a client is told when all fail, is for `proxy` to say.

pub mod connect;
pub mod endpoint;
pub mod handshake;
pub mod metrics;
pub mod pool;

use std::sync::Arc;

use crate::balance::Balancer;
use crate::moment::Moment;
use endpoint::Endpoint;
use metrics::UpstreamMetrics;

/// A group of endpoints under one name.
#[derive(Debug)]
pub struct Upstream {
    /// As written under `upstreams:`.
    pub name: String,
    endpoints: Box<[Arc<Endpoint>]>,
    balancer: Balancer,
    /// What the group counts on.
    pub metrics: UpstreamMetrics,
}

impl Upstream {
    /// A group of at least one endpoint.
    pub fn new(name: String, endpoints: Vec<Arc<Endpoint>>, balancer: Balancer, metrics: UpstreamMetrics) -> Upstream {
        Upstream { name, endpoints: endpoints.into(), balancer, metrics }
    }

    /// The endpoint whose turn it is, without those already `tried`; `None` when all were. One that failed lately comes
    /// after all that did not.
    pub fn pick(&self, tried: &[Arc<Endpoint>], now: Moment) -> Option<Arc<Endpoint>> {
        let is_tried = |index: usize| tried.iter().any(|endpoint| Arc::ptr_eq(endpoint, &self.endpoints[index]));
        let is_suspect = |index: usize| self.endpoints[index].is_suspect(now);
        let count = self.endpoints.len();
        let index = self
            .balancer
            .pick(count, |index| is_tried(index) || is_suspect(index))
            .or_else(|| self.balancer.pick(count, is_tried))?;
        let endpoint = Arc::clone(&self.endpoints[index]);
        endpoint.metrics.pick();
        Some(endpoint)
    }

    /// All endpoints.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }
}
