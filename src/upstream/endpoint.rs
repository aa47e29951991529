//! One server of an upstream: where it is, how it is reached, and what share of the sessions it gets.

use std::sync::Arc;

use super::connect::Connector;
use super::endpoint_state::{ConnectionPermit, EndpointState};
use super::pool::Pool;
use crate::config;

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
    /// Those with a higher number are used when those with a lower one cannot be.
    pub priority: u8,
    /// Where it stands.
    pub zone: Option<String>,
    /// Sessions that it takes at a time.
    pub sessions_max: u32,
    /// How connections to it are made.
    pub connector: Connector,
    /// Connections for plain HTTP.
    pub pool: Pool,
    /// What is known of it.
    pub state: Arc<EndpointState>,
    /// What it was made of.
    pub written: config::EndpointConfig,
}

impl Endpoint {
    /// Whether new sessions may come to it at all.
    pub fn takes_sessions(&self) -> bool {
        self.weight > 0 && self.state.is_open()
    }

    /// Whether it has as many sessions as it may have.
    pub fn is_full(&self) -> bool {
        self.state.load() >= self.sessions_max
    }

    /// A seat on it, if one is left.
    pub fn enter(&self) -> Option<ConnectionPermit> {
        self.state.enter(self.sessions_max)
    }
}
