//! One server of an upstream: where it is, how it is reached, and what is known of it while the proxy runs.

use std::sync::Arc;

use super::connect::Connector;
use super::metrics::EndpointMetrics;
use super::pool::Pool;

/// One address of an upstream. It lives as long as anybody uses it, also when the configuration names it no more.
#[derive(Debug)]
pub struct Endpoint {
    /// As in logs and metrics: the URL in its shortest form.
    pub name: Arc<str>,
    /// How connections to it are made.
    pub connector: Connector,
    /// Connections for plain HTTP.
    pub pool: Pool,
    /// What it counts on.
    pub metrics: EndpointMetrics,
}
