//! A routed request: its client, its target, and the header fields its upstream gets.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use http::header::{COOKIE, HOST, HeaderMap, HeaderName};

use super::credential::Credential;
use super::edits::{FilledEdits, HeaderEdits};
use super::entry::AffinityCookie;
use super::hops::CDN_LOOP;
use super::quota::SharedPass;
use super::snapshot::Route;
use crate::auth::service;
use crate::balance::Draw;
use crate::balance::sticky::{self, Sticky};
use crate::header::forwarded::ForwardedRequest;
use crate::header::hop_by_hop::{self, HopByHopFields};
use crate::header::{Host, forwarded, trailers};
use crate::policy::balance_key::{self, Keyed};
use crate::upstream::request_head::RequestHead;
use crate::ws::handshake::HandshakeOffer;

/// A request with its route found.
#[derive(Debug)]
pub struct RoutedRequest {
    /// The authority it is for.
    pub host: Host,
    /// In normal form and rewritten. `None`: as it came.
    pub path: Option<String>,
    /// As the upstream sees it, where that is not `path`: another spelling of the same.
    pub sent: Option<String>,
    /// The other end of its connection.
    pub peer: forwarded::DirectPeer,
    /// The client's request as trusted proxies forward it.
    pub forwarded_request: ForwardedRequest,
    /// Its head, as it came.
    pub parts: http::request::Parts,
    /// The route's changes to headers, where they have variables.
    pub edits: Option<Box<FilledEdits>>,
    /// What it offers, if it is a WebSocket handshake.
    pub offer: Option<HandshakeOffer>,
    /// Whose request it is, on a route that asks.
    pub credential: Option<Box<Credential>>,
    /// What the service of the route says of its user.
    pub from_service: Option<Arc<service::Identity>>,
    /// How the limits of its client were judged for all instances together, where they are.
    pub shared: Option<Box<SharedPass>>,
}

impl RoutedRequest {
    /// Returns the fields of a plain request for the upstream: hop-by-hop fields removed, the forwarding fields and the
    /// Host written, the route's edits made.
    pub fn upstream_headers(&mut self, route: &Route) -> HeaderMap {
        let mut headers = std::mem::take(&mut self.parts.headers);
        let host = self.host.to_string();
        trailers::keep_allowed(&mut headers, |name| !route.request_edits.concerns(name));
        hop_by_hop::strip(&mut headers);
        forwarded::apply(&mut headers, &self.peer, &self.forwarded_request, &host);
        let lookalikes: Vec<HeaderName> = headers.keys().filter(|name| route.is_lookalike(name)).cloned().collect();
        for name in lookalikes {
            headers.remove(name);
        }
        if let Ok(host) = HeaderValue::try_from(host) {
            headers.insert(HOST, host);
        }
        if let Some(sticky) = &route.upstream.entry.sticky {
            without_cookie(&mut headers, sticky.name());
        }
        self.request_edits(route).apply(&mut headers);
        headers.append(CDN_LOOP, route.hop.clone());
        headers
    }

    /// Returns the head of a handshake for the upstream: by the same rules as [`RoutedRequest::upstream_headers`], but
    /// written as it goes out, without a map in between.
    pub fn upstream_handshake(&self, route: &Route) -> RequestHead {
        let (headers, edits) = (&self.parts.headers, self.request_edits(route));
        let host = self.host.to_string();
        let edited = |name: &HeaderName| edits.concerns(name);
        let host_sent = if edited(&HOST) { edits.value(&HOST) } else { Some(host.as_bytes()) };
        let mut head = RequestHead::new(self.path_sent(), self.parts.uri.query(), host_sent);
        let ending = HopByHopFields::of(headers);
        let cookie = route.upstream.entry.sticky.as_ref().map(Sticky::name);
        for (name, value) in headers {
            let text = name.as_str();
            let is_replaced = forwarded::is_replaced(text, self.peer.trusted) || edited(name);
            if ending.has(text) || is_replaced || route.is_lookalike(name) {
                continue;
            }
            match cookie.filter(|_| *name == COOKIE).and_then(|cookie| sticky::without(value.as_bytes(), cookie)) {
                None => head.field(text, value.as_bytes()),
                Some(rest) if rest.is_empty() => {}
                Some(rest) => head.field(text, &rest),
            }
        }
        forwarded::fields(headers, &self.peer, &self.forwarded_request, &host, |name, value| {
            if !edited(&name) {
                head.field(name.as_str(), value);
            }
        });
        for (name, value) in &edits.set {
            head.field(name.as_str(), value.as_bytes());
        }
        head.field(CDN_LOOP.as_str(), route.hop.as_bytes());
        head.end()
    }

    /// Returns its affinity cookie, if the upstream has one; call it before the headers are taken.
    pub fn affinity_cookie<'r>(&self, route: &'r Route) -> Option<AffinityCookie<'r>> {
        let headers = &self.parts.headers;
        let cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
        let sticky = route.upstream.entry.sticky.as_ref()?;
        Some(AffinityCookie::new(sticky, cookies, self.forwarded_request.is_https(&self.peer)))
    }

    /// Returns the key by which an endpoint is chosen; call it before the headers are taken.
    pub fn draw(&self, route: &Route, client: Option<IpAddr>) -> Draw {
        let keyed = Keyed { client, path: self.path(), query: self.parts.uri.query(), headers: &self.parts.headers };
        balance_key::draw(route.upstream.balance_key(), keyed, fastrand::u64(..))
    }

    /// Returns the target in origin form, as the upstream gets it.
    pub fn upstream_target(&self) -> String {
        match self.parts.uri.query() {
            Some(query) => format!("{}?{query}", self.path_sent()),
            None => self.path_sent().to_owned(),
        }
    }

    fn request_edits<'a>(&'a self, route: &'a Route) -> &'a HeaderEdits {
        self.edits.as_ref().and_then(|edits| edits.request.as_ref()).unwrap_or(&route.request_edits)
    }

    /// Takes the changes to the response, if they have variables.
    pub fn take_response_edits(&mut self) -> Option<HeaderEdits> {
        self.edits.as_mut().and_then(|edits| edits.response.take())
    }

    /// Returns the path, rewritten.
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or(self.parts.uri.path())
    }

    fn path_sent(&self) -> &str {
        self.sent.as_deref().unwrap_or(self.path())
    }
}

/// Removes our cookie from all `Cookie` lines; it means nothing to the upstream.
fn without_cookie(headers: &mut HeaderMap, name: &str) {
    let lines = headers.get_all(COOKIE);
    if !lines.iter().any(|line| sticky::without(line.as_bytes(), name).is_some()) {
        return;
    }
    let rest: Vec<HeaderValue> = lines
        .iter()
        .filter_map(|line| match sticky::without(line.as_bytes(), name) {
            None => Some(line.clone()),
            Some(rest) if rest.is_empty() => None,
            // A part of a value is one.
            Some(rest) => HeaderValue::from_bytes(&rest).ok(),
        })
        .collect();
    headers.remove(COOKIE);
    for line in rest {
        headers.append(COOKIE, line);
    }
}
