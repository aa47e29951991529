//! One server of an upstream: where it is, how it is reached, and what is known of it while the proxy runs.
//!
//! What is known is when it last failed to be connected to or to answer a handshake: for a while it is then tried after
//! the others, so that not every client waits for a server that is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::connect::Connector;
use super::metrics::EndpointMetrics;
use super::pool::Pool;
use crate::moment::Moment;

/// How long an endpoint that failed is tried after the others; nginx's `fail_timeout` is as long.
pub const AFTER_FAILURE: Duration = Duration::from_secs(10);

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
    /// When it last failed, in microseconds; 0 if it has answered since.
    failed_at: AtomicU64,
}

impl Endpoint {
    /// An endpoint of which nothing is known yet.
    pub fn new(name: Arc<str>, connector: Connector, pool: Pool, metrics: EndpointMetrics) -> Endpoint {
        Endpoint { name, connector, pool, metrics, failed_at: AtomicU64::new(0) }
    }

    /// It could not be connected to, or did not answer as it should.
    pub fn failed(&self, now: Moment) {
        self.failed_at.store(now.as_micros().max(1), Ordering::Relaxed);
    }

    /// It answered.
    pub fn answered(&self) {
        // Nearly always 0 already: workers then only read the cache line.
        if self.failed_at.load(Ordering::Relaxed) != 0 {
            self.failed_at.store(0, Ordering::Relaxed);
        }
    }

    /// Whether it failed so lately that others should be tried first.
    pub fn is_suspect(&self, now: Moment) -> bool {
        match self.failed_at.load(Ordering::Relaxed) {
            0 => false,
            at => now.since(Moment::from_micros(at)) < AFTER_FAILURE,
        }
    }
}
