//! Judges the head of a request: everything that is decided before an endpoint is asked. It waits for nothing, so that
//! `wsluice check --request` can show what becomes of a request by the same steps.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::HeaderMap;
use http::request::Parts;
use http::{Method, Response};

use super::answer::Answer;
use super::authenticate::Present;
use super::body::Body;
use super::edits::FilledEdits;
use super::outcome::{self, Failure};
use super::request::RoutedRequest;
use super::request_log::RequestLog;
use super::sharing::Moment;
use super::snapshot::{Route, RouteAction};
use super::values::RequestValues;
use super::{Downstream, Proxy, forward, forward_auth, hops, page, response, upgrade};
use crate::auth::{Keys, RemoteKeys};
use crate::base::random;
use crate::header::forwarded::ForwardedRequest;
use crate::header::path::PathError;
use crate::header::template::Placeholder;
use crate::header::{Host, coding, forwarded, path, request_id};
use crate::route::{RequestView, RouteMatch};
use crate::telemetry::panics;
use crate::ws::handshake::{self, ExtendedConnect};

/// What a request's head leads to.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once, and a box would cost an allocation a request"
)]
pub enum Judged {
    /// An answer of the proxy's own.
    Answered(Response<Body>),
    /// On to the route's upstream.
    Forward(Arc<Route>, RoutedRequest),
}

/// A request that has found its route, before it is known whose it is.
#[derive(Debug)]
pub struct Arrival {
    action: RouteAction,
    request: RoutedRequest,
    client: Option<IpAddr>,
    /// The path that was asked for, where a variable or a service asks for it.
    asked: Option<String>,
}

/// What a request's head leads to, before it is known whose it is.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "as for `Judged`")]
pub enum Arrived {
    /// An answer of the proxy's own.
    Answered(Response<Body>),
    /// To a route.
    At(Arrival),
}

/// Where a request is for.
#[derive(Debug)]
pub struct HostAndPath<'a> {
    /// The authority.
    pub host: Host,
    /// The path in normal form.
    pub path: std::borrow::Cow<'a, str>,
}

impl Proxy {
    /// Judges the head of a request, and finds its route. What it learns is in `log`, also when it fails.
    ///
    /// # Errors
    /// The first reason to refuse it.
    pub fn judge(&self, downstream: &Downstream, parts: Parts, log: &mut RequestLog) -> Result<Judged, Failure> {
        match self.arrive(downstream, parts, log)? {
            Arrived::Answered(response) => Ok(Judged::Answered(response)),
            Arrived::At(mut arrival) => {
                arrival.authenticate(log)?;
                self.prepare(downstream, arrival, log)
            }
        }
    }

    /// The first part of it: finds the route, and judges what does not depend on who sends the request.
    ///
    /// # Errors
    /// The first reason to refuse it.
    pub fn arrive(&self, downstream: &Downstream, parts: Parts, log: &mut RequestLog) -> Result<Arrived, Failure> {
        log.is_handshake = handshake::is_wanted(&parts);
        panics::trap(|| parts.uri.path() == panics::TRAP_REQUEST);
        let HostAndPath { host, path } = target(&parts)?;
        if let Some(port) = self.redirect {
            return Ok(Arrived::Answered(response::redirect(&host, port, &path, parts.uri.query())?));
        }
        let peer = self.peer(downstream);
        let client = forwarded::client_addr(&peer, &parts.headers, &self.trusted);
        let forwarded_request = ForwardedRequest::by(&peer, &parts.headers, &self.trusted);
        log.request_info.set_client(client, downstream.peer);
        let table = &self.snapshot.table;
        let head = self.view(downstream, &parts, &host, &path);
        let found = table.find(&head)?.ok_or_else(|| Failure::no_route(table.methods_allowed(&head)))?;
        let action = found.route.clone();
        log.route = Some(action.clone());
        if let Some(jwt) = action.auth().and_then(|auth| auth.jwt.as_ref()) {
            jwt.hide(log);
        }
        log.takes_html = !action.error_pages().is_empty() && !log.is_handshake && page::takes_html(&parts.headers);
        if let Some(addresses) = action.addresses() {
            addresses.judge(client)?;
        }
        self.judge_route(&action, &parts.headers, log)?;
        let is_asked = action.variables().any || action.auth().is_some_and(|auth| auth.service.is_some());
        let asked = is_asked.then(|| found.path.as_deref().unwrap_or(&path).to_owned());
        let (path, sent) = rewritten(&action, found, &parts, &path)?;
        let mut request = RoutedRequest {
            host,
            path,
            sent,
            peer,
            forwarded_request,
            parts,
            edits: None,
            offer: None,
            credential: None,
            from_service: None,
            shared: None,
        };
        match &action {
            RouteAction::Forward(route) if log.is_handshake => {
                request.offer = Some(upgrade::judge(route, &request)?);
                if let Some(limits) = &route.client_limits {
                    limits.judge_early(&request, log)?;
                }
            }
            RouteAction::Forward(route) => forward::judge(route)?,
            RouteAction::Answer(_) => {}
        }
        Ok(Arrived::At(Arrival { action, request, client, asked }))
    }

    /// The last part of it: what the server is to get, or the route's own answer.
    ///
    /// # Errors
    /// If that answer cannot be made.
    pub fn prepare(&self, downstream: &Downstream, arrival: Arrival, log: &mut RequestLog) -> Result<Judged, Failure> {
        let Arrival { action, mut request, client, asked } = arrival;
        let variables = action.variables();
        let id = variables.id.then(|| self.request_id(&request, log));
        let values = RequestValues {
            proxy: self,
            downstream,
            arrival: &request,
            route: &action,
            client,
            client_port: log.request_info.client_port,
            path: asked.as_deref().unwrap_or_default(),
            id: id.as_deref(),
            claims: request.credential.as_ref().map(|credential| &credential.claims),
        };
        let write = |placeholder: Placeholder<'_>, out: &mut String| values.write(placeholder, out);
        let route = match &action {
            RouteAction::Answer(route) => {
                let response = route.answer(write)?;
                log.result = match route.answer {
                    Answer::Redirect { .. } => outcome::REDIRECT,
                    Answer::Respond { .. } => outcome::RESPOND,
                };
                return Ok(Judged::Answered(response));
            }
            RouteAction::Forward(route) => Arc::clone(route),
        };
        if variables.any {
            let (request_edits, response_edits) =
                (route.request_edits.filled(write), route.response_edits.filled(write));
            request.edits = Some(Box::new(FilledEdits { request: request_edits, response: response_edits }));
        }
        request.add_identity(&route);
        Ok(Judged::Forward(route, request))
    }

    /// Returns what the route table sees of a request.
    pub fn view<'a>(
        &'a self,
        downstream: &'a Downstream,
        parts: &'a Parts,
        host: &'a Host,
        path: &'a str,
    ) -> RequestView<'a> {
        RequestView {
            listener: &self.listener,
            method: &parts.method,
            host: &host.name,
            path,
            query: parts.uri.query(),
            headers: &parts.headers,
            certificate: downstream.certificate.as_deref(),
        }
    }

    /// Refuses what has been here before, and what comes to a route that is drained.
    fn judge_route(&self, action: &RouteAction, headers: &HeaderMap, log: &RequestLog) -> Result<(), Failure> {
        let is_open = match action {
            RouteAction::Forward(route) => {
                hops::judge(headers, &route.hop)?;
                // Plain requests of those who are still here are answered to the end.
                let is_ending = log.is_handshake && self.sessions.is_draining();
                !is_ending && route.quota.is_open() && route.upstream.gate.is_open()
            }
            RouteAction::Answer(route) => route.quota.is_open(),
        };
        if is_open { Ok(()) } else { Err(Failure::Draining) }
    }

    /// The id of a request, which the log gets, too: that of a trusted proxy, or a new one.
    fn request_id(&self, arrival: &RoutedRequest, log: &mut RequestLog) -> String {
        let told = request_id::of_proxy(&arrival.parts.headers).filter(|_| arrival.peer.trusted);
        let id = told.map_or_else(|| request_id::uuid(random::bytes()), str::to_owned);
        if self.log.is_on() {
            log.request_info.texts.set_request_id(&id);
        }
        id
    }

    fn peer(&self, downstream: &Downstream) -> forwarded::DirectPeer {
        let addr: Option<IpAddr> = downstream.peer.map(|peer| peer.ip());
        let trusted = addr.is_some_and(|addr| self.trusts(addr));
        forwarded::DirectPeer { addr, tls: downstream.tls.is_some(), trusted }
    }
}

impl Arrival {
    /// Judges whose request it is, if its route asks.
    ///
    /// # Errors
    /// Why it is not let in.
    pub fn authenticate(&mut self, log: &mut RequestLog) -> Result<(), Failure> {
        match self.action.auth().and_then(|auth| auth.jwt.as_ref()) {
            Some(jwt) => jwt.authenticate(&mut self.request, Present::now(), log),
            None => Ok(()),
        }
    }

    /// Checks its name and its password, if its route asks for them.
    ///
    /// # Errors
    /// Why they do not let in.
    pub async fn check_password(&mut self, log: &mut RequestLog) -> Result<(), Failure> {
        match self.action.auth().and_then(|auth| auth.basic.as_ref()) {
            Some(basic) => Box::pin(basic.authenticate(&mut self.request, self.client, log)).await,
            None => Ok(()),
        }
    }

    /// Asks the service of its route, if it has one, whether it is let in.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn ask_service(&mut self, log: &mut RequestLog) -> Result<(), Failure> {
        let RouteAction::Forward(route) = &self.action else { return Ok(()) };
        let Some(service) = route.auth.as_ref().and_then(|auth| auth.service.as_ref()) else { return Ok(()) };
        let path = self.asked.as_deref().unwrap_or_default();
        Box::pin(forward_auth::judge(service, route, &mut self.request, path, log)).await
    }

    /// Asks whether its client may open one more session, where clients are counted for all instances together and this is the
    /// moment when it is known who they are.
    ///
    /// # Errors
    /// If it may not.
    pub async fn ask_store(&mut self, moment: Moment, log: &RequestLog) -> Result<(), Failure> {
        let RouteAction::Forward(route) = &self.action else { return Ok(()) };
        match &route.client_limits {
            Some(limits) if log.is_handshake && limits.is_shared_at(moment) => {
                Box::pin(limits.ask_store(&mut self.request, log)).await
            }
            _ => Ok(()),
        }
    }

    /// Returns the keys of its route, if they are fetched.
    pub fn remote_keys(&self) -> Option<&Arc<RemoteKeys>> {
        match &self.action.auth()?.jwt.as_ref()?.keys {
            Keys::Remote(keys) => Some(keys),
            Keys::Fixed(_) => None,
        }
    }
}

/// Returns where a request is for.
///
/// # Errors
/// If its method is not for us, or host, path or body can be read in more than one way.
pub fn target(parts: &Parts) -> Result<HostAndPath<'_>, Failure> {
    if parts.extensions.get() == Some(&ExtendedConnect::Unknown) {
        return Err(Failure::Protocol);
    }
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Failure::Method);
    }
    coding::of_request(&parts.headers)?;
    let host = Host::from_request(parts)?;
    let path = path::normalise(parts.uri.path())?;
    // RFC 9112 §3.2.4: a target for OPTIONS only.
    if path == "*" && parts.method != Method::OPTIONS {
        return Err(Failure::Path(PathError::Relative));
    }
    Ok(HostAndPath { host, path })
}

/// Returns the path as the upstream gets it, in normal form and as it is spelt.
fn rewritten(
    action: &RouteAction,
    found: RouteMatch<'_, RouteAction>,
    parts: &Parts,
    path: &str,
) -> Result<(Option<String>, Option<String>), Failure> {
    Ok(match found.path {
        // Only the normalised path goes on: another spelling could be another route's path.
        Some(read) => (Some(action.rewrite().apply(&read)?.into_owned()), None),
        None => action.rewrite().spellings(parts.uri.path(), path)?,
    })
}
