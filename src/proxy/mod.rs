//! Handles a request: from its head to an answer or a session, in a fixed order, cheap steps first.
//!
//! Method, coding, host, path, route, loop, drain, offer, origin, route quota, endpoint, handshake: each step returns what the next one needs or a
//! `Failure`, and `outcome` alone decides what a failure means for the client, the log and the metrics. A request loads
//! the snapshot once and keeps what it found there to the end.

pub mod answer;
pub mod body;
pub mod edits;
pub mod entry;
pub mod exchange;
pub mod forward;
pub mod hops;
pub mod metrics;
pub mod outcome;
pub mod page;
pub mod request;
pub mod request_log;
pub mod response;
pub mod quota;
pub mod snapshot;
pub mod upgrade;
pub mod values;

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use http::header::{HOST, HeaderMap, HeaderName, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use ipnet::IpNet;

use crate::header::forwarded::ForwardedRequest;
use crate::header::path::PathError;
use crate::header::request_id::{self, X_REQUEST_ID};
use crate::header::variable::Variable;
use crate::header::{Host, coding, forwarded, path};
use crate::route::RequestView;
use crate::session::access_log::AccessLog;
use crate::session::{Quoted, RequestInfo, Sessions, Texts};
use crate::telemetry::panics::{self, PanicSite};
use crate::ws::handshake;
use answer::Answer;
use body::Body;
use edits::FilledEdits;
use metrics::RouteRequestMetrics;
use outcome::Failure;
use request::RoutedRequest;
use request_log::RequestLog;
use snapshot::{RouteAction, Snapshot};
use upgrade::PendingUpgrade;
use values::RequestValues;

/// The request handling of one listener.
#[derive(Debug)]
pub struct Proxy {
    /// Everything the configuration says about requests.
    pub snapshot: Arc<Snapshot>,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Its index in the handles of a route.
    pub listener_index: usize,
    /// Trusted proxies: peers whose forwarding fields count.
    pub trusted: Vec<IpNet>,
    /// If set, every request is redirected to https on this port of the same host.
    pub redirect: Option<u16>,
    /// The metrics of requests without a route.
    pub unrouted: RouteRequestMetrics,
    /// The access log.
    pub log: AccessLog,
    /// The registry of connections and sessions.
    pub sessions: Arc<Sessions>,
}

/// What is known of the connection a request came on.
#[derive(Clone, Debug)]
pub struct Downstream {
    /// The address of the peer; none on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The version of TLS, if it ended here.
    pub tls: Option<&'static str>,
    /// The port that the peer spoke to; none on a Unix socket.
    pub port: Option<u16>,
    /// The port of the listener, which is another if a PROXY header tells of one.
    pub listener_port: Option<u16>,
}

impl Downstream {
    /// What the log says of its requests before one is read.
    fn request_info(&self) -> RequestInfo {
        let mut request_info = RequestInfo { tls: self.tls, ..RequestInfo::default() };
        request_info.set_client(self.peer.map(|peer| peer.ip()), self.peer);
        request_info
    }
}

/// The answer to a request.
#[derive(Debug)]
pub struct ProxyResponse {
    /// What the client gets.
    pub response: Response<Body>,
    /// After a 101: the session that begins when it is written.
    pub pending: Option<Box<PendingUpgrade>>,
}

impl Proxy {
    /// Handles one request. Always answers; a failure is in the answer, the log and the metrics.
    pub async fn handle(self: &Arc<Proxy>, downstream: &Downstream, request: Request<Incoming>) -> ProxyResponse {
        let (parts, body) = request.into_parts();
        let mut log = RequestLog::new(Arc::clone(self), self.request_info(downstream, &parts), parts.method.clone());
        let walked = {
            // A panic can only damage the state of this request and its log record, whose fields are set one by one.
            let walk = pin!(self.walk(downstream, parts, body, &mut log));
            panics::catching(PanicSite::Request, walk).await
        };
        let walked = walked.unwrap_or_else(|panic| {
            log.panicked(&panic);
            Err(Failure::Panic(panic))
        });
        match walked {
            Ok(Walked::Http(response)) => ProxyResponse { response: log.attach(response), pending: None },
            Ok(Walked::Switched(response, opening)) => {
                let pending = opening.with(log);
                ProxyResponse { response, pending: Some(Box::new(pending)) }
            }
            Err(failure) => {
                let response = log.fail(&failure);
                ProxyResponse { response: log.attach(response), pending: None }
            }
        }
    }

    /// Answers what was refused before there was a request; counted and logged like one.
    pub fn refuse(self: &Arc<Proxy>, downstream: &Downstream, failure: &Failure) -> Response<Body> {
        // A token, so that it is a method; what the client sent as one is not known here, or was none.
        let method = Method::from_bytes(b"-").unwrap_or_default();
        let mut log = RequestLog::new(Arc::clone(self), downstream.request_info(), method);
        let response = log.fail(failure);
        log.attach(response)
    }

    async fn walk(
        &self,
        downstream: &Downstream,
        parts: http::request::Parts,
        body: Incoming,
        log: &mut RequestLog,
    ) -> Result<Walked, Failure> {
        log.is_handshake = handshake::is_wanted(&parts.headers);
        panics::trap(|| parts.uri.path() == panics::TRAP_REQUEST);
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            return Err(Failure::Method);
        }
        coding::of_request(&parts.headers)?;
        let host = Host::from_request(&parts)?;
        let path = path::normalise(parts.uri.path())?;
        // RFC 9112 §3.2.4: a target for OPTIONS only.
        if path == "*" && parts.method != Method::OPTIONS {
            return Err(Failure::Path(PathError::Relative));
        }
        if let Some(port) = self.redirect {
            return Ok(Walked::Http(response::redirect(&host, port, &path, parts.uri.query())?));
        }
        let peer = self.peer(downstream);
        let client = forwarded::client_addr(&peer, &parts.headers, &self.trusted);
        let forwarded_request = ForwardedRequest::by(&peer, &parts.headers, &self.trusted);
        log.request_info.set_client(client, downstream.peer);
        let head = RequestView {
            listener: &self.listener,
            method: &parts.method,
            host: &host.name,
            path: &path,
            query: parts.uri.query(),
            headers: &parts.headers,
        };
        let table = &self.snapshot.table;
        let found = table.find(&head)?.ok_or_else(|| Failure::no_route(table.methods_allowed(&head)))?;
        let action = found.route.clone();
        log.route = Some(action.clone());
        self.judge_route(&action, &parts.headers, log)?;
        let variables = action.variables();
        let asked = variables.any.then(|| found.path.as_deref().unwrap_or(&path).to_owned());
        let (path, sent) = match found.path {
            // Only the normalised path goes on: another spelling could be another route's path.
            Some(read) => (Some(action.rewrite().apply(&read)?.into_owned()), None),
            None => action.rewrite().spellings(parts.uri.path(), &path)?,
        };
        let mut arrival = RoutedRequest { host, path, sent, peer, forwarded_request, parts, edits: None };
        let id = variables.id.then(|| self.request_id(&arrival, log));
        let values = RequestValues {
            proxy: self,
            downstream,
            arrival: &arrival,
            route: &action,
            client,
            client_port: log.request_info.client_port,
            path: asked.as_deref().unwrap_or_default(),
            id: id.as_deref(),
        };
        let write = |variable: Variable, out: &mut String| values.write(variable, out);
        let route = match &action {
            RouteAction::Answer(route) => {
                let response = route.answer(write)?;
                log.result = match route.answer {
                    Answer::Redirect { .. } => outcome::REDIRECT,
                    Answer::Respond { .. } => outcome::RESPOND,
                };
                return Ok(Walked::Http(response));
            }
            RouteAction::Forward(route) => Arc::clone(route),
        };
        if variables.any {
            let (request, response) = (route.request_edits.filled(write), route.response_edits.filled(write));
            arrival.edits = Some(Box::new(FilledEdits { request, response }));
        }
        if log.is_handshake {
            Ok(match Box::pin(upgrade::run(self, route, arrival, log)).await? {
                (response, Some(opened)) => Walked::Switched(response, opened),
                (response, None) => Walked::Http(response),
            })
        } else {
            let answered = Box::pin(forward::run(route, arrival, body, log)).await?;
            Ok(Walked::Http(answered))
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
        let id = told.map_or_else(|| request_id::uuid(random()), str::to_owned);
        if self.log.is_on() {
            log.request_info.texts.set_request_id(&id);
        }
        id
    }

    fn peer(&self, downstream: &Downstream) -> forwarded::DirectPeer {
        let addr: Option<IpAddr> = downstream.peer.map(|peer| peer.ip());
        let trusted = addr.is_some_and(|addr| forwarded::is_trusted(addr, &self.trusted));
        forwarded::DirectPeer { addr, tls: downstream.tls.is_some(), trusted }
    }

    /// What the log will say of the request, copied out: nothing of hyper's buffer is kept.
    fn request_info(&self, downstream: &Downstream, parts: &http::request::Parts) -> RequestInfo {
        let mut request_info = downstream.request_info();
        if self.log.is_on() {
            let text =
                |name: HeaderName| parts.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
            let (host, request_id, user_agent) = (text(HOST), text(X_REQUEST_ID), text(USER_AGENT));
            request_info.texts = Texts::new(&Quoted {
                host: parts.uri.authority().map(|authority| authority.as_str()).or(host.as_deref()).unwrap_or(""),
                path: parts.uri.path(),
                query: parts.uri.query(),
                request_id: request_id.as_deref(),
                user_agent: user_agent.as_deref(),
            });
        }
        request_info
    }
}

/// Bytes that nobody can guess; so ids of several processes do not meet.
fn random() -> [u8; 16] {
    let mut bytes = fastrand::u128(..).to_ne_bytes();
    // The system's source does not fail once it has begun; without it, the bytes are still random enough for ids.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

/// Where a walk without failure ends.
enum Walked {
    Http(Response<Body>),
    Switched(Response<Body>, upgrade::VerifiedUpgrade),
}

/// A status with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusAndReason {
    /// What the client gets.
    pub status: StatusCode,
    /// What the log and the metrics say.
    pub reason: &'static str,
}
