//! Handles a request: from its head to an answer or a session, in a fixed order, cheap steps first.
//!
//! Method, coding, host, path, route, address, loop, drain, offer, origin, pace of the client, token, password, the service that
//! says who may come in, denied subjects, the route's own answer if it has one, sessions of the client, route quota, endpoint, handshake: each step returns what the next one needs
//! or a `Failure`, and `outcome` alone decides what a failure means for the client, the log and the metrics. A request loads
//! the snapshot once and keeps what it found there to the end.

pub mod answer;
pub mod authenticate;
pub mod body;
pub mod clients;
pub mod compress;
pub mod credential;
pub mod denial;
pub mod edits;
pub mod entry;
pub mod exchange;
pub mod forward;
pub mod forward_auth;
pub mod hops;
pub mod judge;
pub mod metrics;
pub mod newcomer;
pub mod outcome;
pub mod page;
pub mod password;
pub mod recheck;
pub mod request;
pub mod request_log;
pub mod response;
pub mod quota;
pub mod shared_limits;
pub mod sharing;
pub mod snapshot;
pub mod upgrade;
pub mod values;

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use http::header::{HOST, HeaderName, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Version};
use ipnet::IpNet;

use crate::auth::jwks::WaitEnd;
use crate::header::client_certificate::ClientCertificate;
use crate::header::forwarded;
use crate::header::request_id::X_REQUEST_ID;
use crate::session::access_log::AccessLog;
use crate::session::{Quoted, RequestInfo, Sessions, Texts};
use crate::telemetry::panics::{self, PanicSite};
use crate::upstream::request_body::RequestBody;
use body::Body;
use judge::{Arrival, Arrived, Judged};
use metrics::RouteRequestMetrics;
use newcomer::Newcomer;
use outcome::Failure;
use request_log::RequestLog;
use sharing::Moment;
use snapshot::Snapshot;
use upgrade::PendingUpgrade;

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
    /// The version of HTTP that it speaks.
    pub http: Version,
    /// The version of TLS, if it ended here.
    pub tls: Option<&'static str>,
    /// The certificate that the client has shown, if it was asked for one.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// The port that the peer spoke to; none on a Unix socket.
    pub port: Option<u16>,
    /// The port of the listener, which is another if a PROXY header tells of one.
    pub listener_port: Option<u16>,
    /// What is to be told when a request is let in.
    pub newcomer: Option<Arc<Newcomer>>,
}

impl Downstream {
    /// What the log says of its requests before one is read.
    fn request_info(&self) -> RequestInfo {
        let mut request_info = RequestInfo { http: self.http, tls: self.tls, ..RequestInfo::default() };
        request_info.set_client(self.peer.map(|peer| peer.ip()), self.peer);
        request_info
    }
}

/// The answer to a request.
#[derive(Debug)]
pub enum ProxyResponse {
    /// A response with its body.
    Http(Response<Body>),
    /// A session, which begins when its answer is written: a 101, or a 200 to an extended CONNECT.
    Session(Box<PendingUpgrade>),
}

impl Proxy {
    /// Handles one request. Always answers; a failure is in the answer, the log and the metrics.
    pub async fn handle(self: &Arc<Proxy>, downstream: &Downstream, request: Request<RequestBody>) -> ProxyResponse {
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
            Ok(Walked::Http(response)) if log.would_open_a_tunnel(response.status()) => {
                let response = log.fail(&Failure::OrdinaryAnswer(response.status()));
                ProxyResponse::Http(log.attach(response))
            }
            Ok(Walked::Http(response)) => ProxyResponse::Http(log.attach(response)),
            Ok(Walked::Switched(opened)) => ProxyResponse::Session(Box::new(opened.with(log))),
            Err(failure) => {
                let response = log.fail(&failure);
                ProxyResponse::Http(log.attach(response))
            }
        }
    }

    /// Refuses whoever an operator has denied.
    fn judge_subject(&self, log: &RequestLog) -> Result<(), Failure> {
        match log.identity.as_ref().and_then(|identity| identity.subject.as_deref()) {
            Some(subject) if self.snapshot.denied.denies(subject) => Err(Failure::Denied),
            _ => Ok(()),
        }
    }

    /// Returns true if the forwarding fields of this peer count.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        forwarded::is_trusted(peer, &self.trusted)
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
        body: RequestBody,
        log: &mut RequestLog,
    ) -> Result<Walked, Failure> {
        let mut arrival = match self.arrive(downstream, parts, log)? {
            Arrived::Answered(response) => return Ok(Walked::Http(response)),
            Arrived::At(arrival) => arrival,
        };
        arrival.ask_store(Moment::Early, log).await?;
        if let Err(failure) = arrival.authenticate(log) {
            Box::pin(with_new_keys(&mut arrival, failure, log)).await?;
        }
        arrival.check_password(log).await?;
        arrival.ask_service(log).await?;
        self.judge_subject(log)?;
        arrival.ask_store(Moment::Late, log).await?;
        let (route, request) = match self.prepare(downstream, arrival, log)? {
            Judged::Answered(response) => return Ok(Walked::Http(response)),
            Judged::Forward(route, request) => (route, request),
        };
        if let Some(newcomer) = &downstream.newcomer {
            newcomer.let_in();
        }
        if log.is_handshake {
            Box::pin(upgrade::run(self, route, request, log)).await
        } else {
            let answered = Box::pin(forward::run(route, request, body, log)).await?;
            Ok(Walked::Http(answered))
        }
    }

    /// What the log will say of the request, copied out: nothing of hyper's buffer is kept.
    fn request_info(&self, downstream: &Downstream, parts: &http::request::Parts) -> RequestInfo {
        let mut request_info = RequestInfo { http: parts.version, ..downstream.request_info() };
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

/// How often a request waits for keys: for those that are fetched when it comes, and for newer ones.
const KEY_FETCHES_MAX: usize = 2;

/// Judges again whose request it is once keys were fetched, if that may change anything.
async fn with_new_keys(arrival: &mut Arrival, failure: Failure, log: &mut RequestLog) -> Result<(), Failure> {
    let Some(keys) = arrival.remote_keys().map(Arc::clone) else { return Err(failure) };
    if !asks_for_keys(&failure) {
        return Err(failure);
    }
    for _ in 0..KEY_FETCHES_MAX {
        let wait = keys.wait();
        // Keys may have come since it was judged.
        match arrival.authenticate(log) {
            Err(failure) if asks_for_keys(&failure) => match wait.fetched().await {
                WaitEnd::Nothing => return Err(failure),
                WaitEnd::UnderWay => {}
                WaitEnd::New => break,
            },
            judged => return judged,
        }
    }
    arrival.authenticate(log)
}

fn asks_for_keys(failure: &Failure) -> bool {
    matches!(failure, Failure::Token(denial) if denial.asks_for_keys())
}

/// Where a walk without failure ends.
#[derive(Debug)]
pub enum Walked {
    /// In a response.
    Http(Response<Body>),
    /// In a session, after a 101.
    Switched(upgrade::VerifiedUpgrade),
}

/// A status with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusAndReason {
    /// What the client gets.
    pub status: StatusCode,
    /// What the log and the metrics say.
    pub reason: &'static str,
}
