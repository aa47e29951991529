//! Everything that a new request may see of the configuration: names resolved, tables built, metric handles fetched.
//!
//! Built whole by `control::compile` or not at all, and never changed: a request that holds one sees one configuration.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::body::BodyTimeouts;
use super::metrics::RouteRequestMetrics;
use super::quota::RouteQuota;
use crate::header::lookalike;
use crate::policy::OriginPolicy;
use crate::route::{Rewrite, RouteTable};
use crate::session::RouteSessions;
use crate::upstream::Upstream;
use crate::ws::tunnel::TunnelSettings;

/// One configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Request head → route.
    pub table: RouteTable<Arc<Route>>,
}

/// One route with all that it needs.
#[derive(Debug)]
pub struct Route {
    /// As in the configuration.
    pub name: Arc<str>,
    /// Its upstream.
    pub upstream: Arc<Upstream>,
    /// How requests that were on it are known again.
    pub hop: HeaderValue,
    /// Name of the upstream, for the log.
    pub upstream_name: Arc<str>,
    /// Which origins may open a WebSocket.
    pub origins: OriginPolicy,
    /// What becomes of the path.
    pub rewrite: Rewrite,
    /// Changes to requests.
    pub request_edits: HeaderEdits,
    /// Whether look-alike header names such as `X_Forwarded_For` are forwarded.
    pub keeps_lookalikes: bool,
    /// Changes to responses.
    pub response_edits: HeaderEdits,
    /// For one connection to an endpoint.
    pub connect_timeout: Duration,
    /// For the whole handshake, all attempts together.
    pub handshake_timeout: Duration,
    /// For the head of a response to plain HTTP.
    pub response_timeout: Duration,
    /// For the bodies of plain HTTP.
    pub body_timeouts: BodyTimeouts,
    /// How sessions behave.
    pub tunnel: Arc<TunnelSettings>,
    /// Its quota.
    pub quota: Arc<RouteQuota>,
    /// The limit of concurrent sessions and plain requests.
    pub connections_max: usize,
    /// Whether plain HTTP is passed on too.
    pub http: bool,
    /// Handles by listener.
    pub listeners: Vec<ListenerHandles>,
}

impl Route {
    /// Returns true if a field of a request is left out since a server may take it for one that the proxy or this route
    /// answers for.
    pub fn is_lookalike(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        !self.keeps_lookalikes
            && (lookalike::is_of_ours(name)
                || self.request_edits.names().any(|ours| lookalike::are_alike(ours.as_str(), name)))
    }
}

/// What requests and sessions of a route count on, by listener.
#[derive(Debug)]
pub struct ListenerHandles {
    /// Requests.
    pub requests: RouteRequestMetrics,
    /// Sessions.
    pub sessions: Arc<RouteSessions>,
}

/// Changes to headers: first removed, then set.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    /// Taken out.
    pub remove: Vec<HeaderName>,
    /// Put in, in place of any of the same name.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    /// The fields that are removed or set.
    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.remove.iter().chain(self.set.iter().map(|(name, _)| name))
    }

    /// Returns true if the field `name` is removed or set.
    pub fn concerns(&self, name: &HeaderName) -> bool {
        self.remove.contains(name) || self.set.iter().any(|(set, _)| set == name)
    }

    /// What the field `name` is set to.
    pub fn value(&self, name: &HeaderName) -> Option<&[u8]> {
        self.set.iter().rfind(|(set, _)| set == name).map(|(_, value)| value.as_bytes())
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
    }
}
