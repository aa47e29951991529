//! Whether a service lets a request in: what it is asked, and what becomes of its answer.
//!
//! It is asked after everything that the request itself decides, and before quotas, admission and endpoints. What it gets of
//! the request follows the rules for servers: fields of the connection end here, and fields that name the client are ours.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRAILER,
};

use super::denial::ServiceDenial;
use super::edits::{FilledEdits, HeaderEdits};
use super::hops::CDN_LOOP;
use super::outcome::Failure;
use super::recheck::PlannedRecheck;
use super::request::RoutedRequest;
use super::request_log::RequestLog;
use super::snapshot::Route;
use crate::auth::service::{self, AuthService, Verdict};
use crate::base::clock;
use crate::header::{forwarded, hop_by_hop};
use crate::policy::recheck::{KeptQuestion, PendingRecheck, next};

const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const X_ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");

/// Fields of a request that are about its body, about a stored answer, or about its handshake: the service sees none of these.
const NOT_ASKED: [HeaderName; 18] = [
    ACCEPT_ENCODING,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_LOCATION,
    CONTENT_RANGE,
    CONTENT_TYPE,
    EXPECT,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    RANGE,
    SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
];

/// Asks whether a request is let in that came for this path, in normal form. What the service says of its user goes to the
/// log, and what the server is to get of it to the request.
///
/// # Errors
/// If it is not let in.
pub async fn judge(
    service: &Arc<AuthService>,
    route: &Route,
    request: &mut RoutedRequest,
    path: &str,
    log: &mut RequestLog,
) -> Result<(), Failure> {
    let question = question(service, route, request, path);
    let every = service.settings().recheck.filter(|_| log.is_handshake);
    let kept = every.map(|every| (every, KeptQuestion::of(&question)));
    let identity = match service.ask(question).await {
        Ok(Verdict::Allowed(identity)) => identity,
        Ok(Verdict::Denied(answer)) => return Err(Failure::AuthDenied(Box::new(denial(answer)))),
        Err(_) if service.settings().allows_on_failure => Arc::default(),
        Err(error) => return Err(Failure::AuthUnavailable(error)),
    };
    if let Some(subject) = &identity.subject {
        let known = log.identity.get_or_insert_default();
        known.subject = Some(subject.clone());
    }
    if let Some((every, question)) = kept {
        let due = next(clock::now(), every, fastrand::f64());
        let planned = PlannedRecheck { service: Arc::clone(service), pending: PendingRecheck { question, due } };
        log.identity.get_or_insert_default().recheck = Some(planned);
    }
    request.from_service = Some(identity);
    Ok(())
}

/// What the service is asked.
fn question(service: &AuthService, route: &Route, request: &RoutedRequest, path: &str) -> HeaderMap {
    let RoutedRequest { parts, peer, forwarded_request, host, .. } = request;
    let host = host.to_string();
    let mut headers = parts.headers.clone();
    forwarded::apply(&mut headers, peer, forwarded_request, &host);
    hop_by_hop::strip(&mut headers);
    headers.remove(TRAILER);
    for name in &NOT_ASKED {
        headers.remove(name);
    }
    let wanted = service.settings().request_headers.as_deref();
    let is_left_out = |name: &HeaderName| {
        let is_wanted = wanted.is_none_or(|wanted| wanted.contains(name)) || service::is_ours(name);
        !is_wanted || route.is_lookalike(name) || is_for_us_to_say(service, route, name)
    };
    let left_out: Vec<HeaderName> = headers.keys().filter(|name| is_left_out(name)).cloned().collect();
    for name in left_out {
        headers.remove(name);
    }
    let target = match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let scheme = if forwarded_request.is_https(peer) { "https" } else { "http" };
    let asked_host = forwarded_request.host.as_ref().map_or(host, |host| host.to_string());
    let url = format!("{scheme}://{asked_host}{target}");
    let method = parts.method.as_str();
    for (name, value) in
        [(X_FORWARDED_METHOD, method), (X_FORWARDED_URI, &target), (X_ORIGINAL_METHOD, method), (X_ORIGINAL_URL, &url)]
    {
        // Methods, paths and queries that were read make values; one that did not would be left out, and never be the client's.
        headers.remove(&name);
        headers.extend(HeaderValue::from_bytes(value.as_bytes()).ok().map(|value| (name, value)));
    }
    headers.append(CDN_LOOP, route.hop.clone());
    headers
}

/// Whether what a client says in this field counts for nothing: the service or the route says what the server gets in it. The
/// fields in which clients prove who they are go to the service all the same.
fn is_for_us_to_say(service: &AuthService, route: &Route, name: &HeaderName) -> bool {
    let is_proof = matches!(*name, AUTHORIZATION | COOKIE);
    !is_proof && (service.settings().headers.contains(name) || route.request_edits.sets(name))
}

fn denial(answer: Response<Bytes>) -> ServiceDenial {
    let (head, body) = answer.into_parts();
    let mut headers = head.headers;
    hop_by_hop::strip(&mut headers);
    // Its body was read to the end, so its length is known anew.
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRAILER);
    ServiceDenial { status: head.status, headers, body }
}

impl RoutedRequest {
    /// Adds what the service says of the user to the changes of headers: as these come last, and take the place of whatever
    /// the client has sent by these names.
    pub(super) fn add_identity(&mut self, route: &Route) {
        let Some(identity) = self.from_service.take().filter(|identity| !identity.headers.is_empty()) else { return };
        let edits = self.edits.get_or_insert_with(|| Box::new(FilledEdits { request: None, response: None }));
        let request =
            edits.request.get_or_insert_with(|| HeaderEdits { templates: vec![], ..route.request_edits.clone() });
        request.set.extend(identity.headers.iter().cloned());
    }
}
