//! Everything that a new request may see of the configuration: names resolved, tables built, metric handles fetched.
//!
//! Built whole by `control::compile` or not at all, and never changed: a request that holds one sees one configuration.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::body::BodyTimeouts;
use super::metrics::RouteRequestMetrics;
use super::quota::RouteQuota;
use crate::header::{lookalike, path};
use crate::policy::OriginPolicy;
use crate::route::RouteTable;
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

/// What becomes of the path on its way to the upstream.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// Taken off where the path has it, at a segment's border.
    pub strip_prefix: Option<String>,
    /// Put before what is left.
    pub add_prefix: Option<String>,
}

impl Rewrite {
    /// The path of a request rewritten, and the spelling of it that goes to the server, where that is another: `raw` as it
    /// came, rewritten likewise, if that is the same path. `None` for what is as it came.
    pub fn spellings(&self, raw: &str, normal: &str) -> (Option<String>, Option<String>) {
        let rewritten = self.apply(normal);
        let sent = match path::as_it_came(raw, normal) {
            Some(came) if raw != normal => Some(self.apply(&came).into_owned()),
            _ => None,
        };
        // A prefix that is spelled otherwise was not taken off.
        let sent = sent.filter(|sent| *sent != rewritten && path::is_same(sent, &rewritten));
        ((rewritten != raw).then(|| rewritten.into_owned()), sent)
    }

    /// The path as the upstream sees it; always begins with `/` if the given one does.
    pub fn apply<'a>(&self, path: &'a str) -> Cow<'a, str> {
        let mut path = Cow::Borrowed(path);
        if let Some(prefix) = &self.strip_prefix {
            let prefix = prefix.trim_end_matches('/');
            if let Some(rest) = path.strip_prefix(prefix)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                path = if rest.is_empty() { Cow::Borrowed("/") } else { Cow::Owned(rest.to_owned()) };
            }
        }
        match &self.add_prefix {
            Some(prefix) if path.starts_with('/') => Cow::Owned(format!("{}{path}", prefix.trim_end_matches('/'))),
            _ => path,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_came_where_that_is_the_same() {
        let sent = |strip: Option<&str>, add: Option<&str>, raw: &str| {
            let rewrite = Rewrite { strip_prefix: strip.map(Into::into), add_prefix: add.map(Into::into) };
            let normal = path::normalise(raw).unwrap_or_default();
            let (path, sent) = rewrite.spellings(raw, &normal);
            sent.or(path).unwrap_or_else(|| raw.to_owned())
        };
        assert_eq!(sent(None, None, "/ws/a"), "/ws/a");
        assert_eq!(sent(None, None, "/%77s/a%2fb%7E"), "/%77s/a%2fb%7E");
        assert_eq!(sent(None, None, "/ws/./a%2fb%7E"), "/ws/a%2Fb~");
        assert_eq!(sent(Some("/ws"), None, "/ws/a%2fb%7E"), "/a%2fb%7E");
        assert_eq!(sent(Some("/ws"), None, "/%77s/a%2fb%7E"), "/a%2Fb~");
        assert_eq!(sent(Some("/ws"), Some("/api"), "/ws/%7E"), "/api/%7E");
        assert_eq!(sent(None, Some("/api"), "/%7E"), "/api/%7E");
        assert_eq!(sent(Some("/%7Ea"), None, "/%7Ea/b"), "/~a/b");
        assert_eq!(sent(None, None, "/a{b}"), "/a%7Bb%7D");
        assert_eq!(sent(None, Some("/api"), "*"), "*");
    }

    #[test]
    fn prefixes_come_off_and_on_at_segments() {
        let rewrite = |strip: Option<&str>, add: Option<&str>, path: &str| {
            let rewrite = Rewrite { strip_prefix: strip.map(Into::into), add_prefix: add.map(Into::into) };
            rewrite.apply(path).into_owned()
        };
        assert_eq!(rewrite(Some("/ws"), None, "/ws/a"), "/a");
        assert_eq!(rewrite(Some("/ws"), None, "/ws"), "/");
        assert_eq!(rewrite(Some("/ws/"), None, "/ws/a"), "/a");
        assert_eq!(rewrite(Some("/ws"), None, "/wsx"), "/wsx");
        assert_eq!(rewrite(Some("/ws"), Some("/api"), "/ws/a"), "/api/a");
        assert_eq!(rewrite(None, Some("/api/"), "/a"), "/api/a");
        assert_eq!(rewrite(None, Some("/api"), "*"), "*");
    }
}
