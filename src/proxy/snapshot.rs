//! Everything that a new request may see of the configuration: names resolved, tables built, metric handles fetched.
//!
//! Built whole by `control::compile` or not at all, and never changed: a request that holds one sees one configuration.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

use super::answer::AnswerRoute;
use super::body::BodyTimeouts;
use super::compress::Compression;
use super::credential::RouteAuth;
use super::edits::{HeaderEdits, Variables};
use super::metrics::RouteRequestMetrics;
use super::page::ErrorPages;
use super::quota::{ClientLimits, RouteQuota};
use crate::header::lookalike;
use crate::policy::OriginPolicy;
use crate::policy::address::AddressRules;
use crate::route::{Rewrite, RouteTable};
use crate::session::RouteSessions;
use crate::shared::deny_list::DenyList;
use crate::upstream::Upstream;
use crate::ws::tunnel::TunnelSettings;

/// One configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Request head → route.
    pub table: RouteTable<RouteAction>,
    /// Who is denied.
    pub denied: Arc<DenyList>,
}

/// What a route does.
#[derive(Clone, Debug)]
pub enum RouteAction {
    /// It sends requests to its upstream.
    Forward(Arc<Route>),
    /// It answers them.
    Answer(Arc<AnswerRoute>),
}

impl RouteAction {
    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        match self {
            RouteAction::Forward(route) => &route.name,
            RouteAction::Answer(route) => &route.name,
        }
    }

    /// The name of its upstream, if it has one.
    pub fn upstream_name(&self) -> Option<&str> {
        match self {
            RouteAction::Forward(route) => Some(&route.upstream_name),
            RouteAction::Answer(_) => None,
        }
    }

    /// What requests that come by a listener count on.
    pub fn requests(&self, listener_index: usize) -> &RouteRequestMetrics {
        match self {
            RouteAction::Forward(route) => &route.listeners[listener_index].requests,
            RouteAction::Answer(route) => &route.requests[listener_index],
        }
    }

    /// What its sessions count on, by listener; nothing if it has none.
    pub fn listeners(&self) -> &[ListenerHandles] {
        match self {
            RouteAction::Forward(route) => &route.listeners,
            RouteAction::Answer(_) => &[],
        }
    }

    /// Pages in place of our own words.
    pub fn error_pages(&self) -> &ErrorPages {
        match self {
            RouteAction::Forward(route) => &route.error_pages,
            RouteAction::Answer(route) => &route.error_pages,
        }
    }

    /// What becomes of a path.
    pub fn rewrite(&self) -> &Rewrite {
        match self {
            RouteAction::Forward(route) => &route.rewrite,
            RouteAction::Answer(route) => &route.rewrite,
        }
    }

    /// Which addresses may use it, unless all may.
    pub fn addresses(&self) -> Option<&AddressRules> {
        match self {
            RouteAction::Forward(route) => route.addresses.as_deref(),
            RouteAction::Answer(route) => route.addresses.as_deref(),
        }
    }

    /// Who may use it, unless everybody may.
    pub fn auth(&self) -> Option<&RouteAuth> {
        match self {
            RouteAction::Forward(route) => route.auth.as_deref(),
            RouteAction::Answer(_) => None,
        }
    }

    /// The variables in it.
    pub fn variables(&self) -> Variables {
        match self {
            RouteAction::Forward(route) => route.variables,
            RouteAction::Answer(route) => route.variables,
        }
    }
}

/// One route to an upstream, with all that it needs.
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
    /// Which addresses may use it, unless all may.
    pub addresses: Option<Box<AddressRules>>,
    /// Who may use it, unless everybody may.
    pub auth: Option<Box<RouteAuth>>,
    /// What becomes of the path.
    pub rewrite: Rewrite,
    /// Changes to requests.
    pub request_edits: HeaderEdits,
    /// The variables in all of these changes.
    pub variables: Variables,
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
    /// How plain answers are compressed, if they are.
    pub compression: Option<Compression>,
    /// The largest body of a plain request.
    pub body_bytes_max: u64,
    /// How sessions behave.
    pub tunnel: Arc<TunnelSettings>,
    /// Its quota.
    pub quota: Arc<RouteQuota>,
    /// The limits of single clients, if there are any.
    pub client_limits: Option<Box<ClientLimits>>,
    /// The limit of concurrent sessions and plain requests.
    pub connections_max: usize,
    /// Pages in place of our own words.
    pub error_pages: ErrorPages,
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
            && (lookalike::is_of_ours(name) || self.request_edits.any(|ours| lookalike::are_alike(ours.as_str(), name)))
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
