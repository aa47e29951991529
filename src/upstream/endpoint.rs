//! One server of an upstream: its address, its connector, and its share of the sessions.

use std::sync::Arc;

use super::connect::Connector;
use super::endpoint_state::{ConnectionPermit, EndpointState};
use super::pool::Pool;
use super::streams::Streams;
use crate::config;

/// One address of an upstream, as one configuration has it. Lives as long as it is used, even after the configuration
/// drops it.
#[derive(Debug)]
pub struct Endpoint {
    /// The name in logs and metrics: the URL in its shortest form.
    pub name: Arc<str>,
    /// A hash of the name, the same in every process.
    pub identity: u64,
    /// Its share of new sessions, compared with the others'; 0 takes none.
    pub weight: u32,
    /// The priority: higher numbers are used only if no endpoint with a lower one can be.
    pub priority: u8,
    /// Its zone.
    pub zone: Option<String>,
    /// The limit of concurrent sessions.
    pub sessions_max: u32,
    /// How connections to it are made.
    pub connector: Connector,
    /// Connections of HTTP/1.1 for plain requests.
    pub pool: Pool,
    /// Connections of HTTP/2, if it may be spoken.
    pub streams: Option<Streams>,
    /// Its live state.
    pub state: Arc<EndpointState>,
    /// Its configuration.
    pub written: config::EndpointConfig,
}

impl Endpoint {
    /// Returns true if it takes new sessions at all.
    pub fn takes_sessions(&self) -> bool {
        self.weight > 0 && self.state.is_open()
    }

    /// Returns true if it has reached its limit of sessions.
    pub fn is_full(&self) -> bool {
        self.state.load() >= self.sessions_max
    }

    /// Takes a permit, if one is left.
    pub fn enter(&self) -> Option<ConnectionPermit> {
        self.state.enter(self.sessions_max)
    }
}
