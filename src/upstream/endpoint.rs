//! One server of an upstream: where it is, how it is reached, and what share of the sessions it gets.

use std::sync::Arc;

use super::connect::Connector;
use super::live::{Live, Seat};
use super::metrics::EndpointMetrics;
use super::pool::Pool;
use crate::balance::hash;

/// One address of an upstream, as one configuration has it. It lives as long as anybody uses it, also when the
/// configuration names it no more.
#[derive(Debug)]
pub struct Endpoint {
    /// As in logs and metrics: the URL in its shortest form.
    pub name: Arc<str>,
    /// A number made of the name, the same in every process.
    pub identity: u64,
    /// Its share of new sessions, compared with the others'; 0 takes none.
    pub weight: u32,
    /// Sessions that it takes at a time.
    pub sessions_max: u32,
    /// How connections to it are made.
    pub connector: Connector,
    /// Connections for plain HTTP.
    pub pool: Pool,
    /// What it counts on.
    pub metrics: EndpointMetrics,
    /// What is known of it.
    pub live: Arc<Live>,
}

/// How much an endpoint is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// See [`Endpoint::weight`].
    pub weight: u32,
    /// See [`Endpoint::sessions_max`].
    pub sessions_max: u32,
}

impl Endpoint {
    /// Puts one together.
    pub fn new(
        name: Arc<str>,
        share: Share,
        connector: Connector,
        pool: Pool,
        metrics: EndpointMetrics,
        live: Arc<Live>,
    ) -> Endpoint {
        let Share { weight, sessions_max } = share;
        let identity = hash::of(name.as_bytes());
        Endpoint { name, identity, weight, sessions_max, connector, pool, metrics, live }
    }

    /// Whether it has as many sessions as it may have.
    pub fn is_full(&self) -> bool {
        self.live.load() >= self.sessions_max
    }

    /// A seat on it, if one is left.
    pub fn enter(&self) -> Option<Seat> {
        self.live.enter(self.sessions_max)
    }
}
