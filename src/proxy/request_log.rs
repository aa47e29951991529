//! The record of a request, written and counted once however the request ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, ORIGIN, UPGRADE};
use http::{Method, Response, StatusCode, Version};
use hyper::body::{Body as _, Frame, SizeHint};

use super::body::{self, Body, BodyError, Upload};
use super::credential::Identity;
use super::hops;
use super::metrics::{self, RouteRequestMetrics};
use super::outcome::{self, Failure};
use super::snapshot::RouteAction;
use super::{Proxy, response};
use crate::balance::sticky::Returned;
use crate::base::clock;
use crate::base::error_chain::error_chain;
use crate::base::time::MonotonicTime;
use crate::session::RequestInfo;
use crate::session::access_log::{LogRecord, RecordKind, Traffic};
use crate::telemetry::panics::{self, Panic, PanicSite};

/// What nginx logs when the client went before it could be answered.
const CLIENT_GONE: u16 = 499;

/// The record of one request. Dropping it writes the log line and counts, unless a session took it over.
#[derive(Debug)]
pub struct RequestLog {
    proxy: Arc<Proxy>,
    method: Method,
    started: MonotonicTime,
    status: Option<StatusCode>,
    reason: &'static str,
    detail: Option<String>,
    /// The reason if the answer comes to its end.
    pub result: &'static str,
    /// What the log says of the request.
    pub request_info: RequestInfo,
    /// The route found.
    pub route: Option<RouteAction>,
    /// The client takes HTML; not looked at where its route has no pages.
    pub takes_html: bool,
    /// The request is a WebSocket handshake.
    pub is_handshake: bool,
    /// The endpoint that answered, or failed last.
    pub endpoint: Option<Arc<str>>,
    /// Endpoints tried.
    pub attempts: u32,
    /// The result of its affinity cookie.
    pub returned: Option<Returned>,
    /// Whose request it is, where that is asked.
    pub identity: Option<Box<Identity>>,
    waited: Duration,
    waits_since: Option<MonotonicTime>,
    /// The coding with which its answer is compressed.
    pub compression: Option<&'static str>,
    /// The progress of the request's body.
    pub upload: Option<Arc<Upload>>,
    sent_bytes: u64,
    taken: bool,
}

/// The part of the record that a session needs.
#[derive(Debug)]
pub struct RequestSummary {
    /// What the log says of the request.
    pub request_info: RequestInfo,
    /// When the request came.
    pub requested: MonotonicTime,
    /// Endpoints tried.
    pub attempts: u32,
    /// How long it waited before the first was tried.
    pub waited: Duration,
    /// The result of its affinity cookie.
    pub returned: Option<Returned>,
    /// Whose request it was.
    pub identity: Option<Box<Identity>>,
}

impl RequestLog {
    /// Begins the record of a request.
    pub fn new(proxy: Arc<Proxy>, request_info: RequestInfo, method: Method) -> RequestLog {
        RequestLog {
            proxy,
            method,
            started: clock::now(),
            status: None,
            reason: "client_gone",
            detail: None,
            result: outcome::OK,
            request_info,
            route: None,
            takes_html: false,
            is_handshake: false,
            endpoint: None,
            attempts: 0,
            returned: None,
            identity: None,
            waited: Duration::ZERO,
            waits_since: None,
            compression: None,
            upload: None,
            sent_bytes: 0,
            taken: false,
        }
    }

    /// When the request came.
    pub fn started(&self) -> MonotonicTime {
        self.started
    }

    /// Records that it waits from now on.
    pub fn wait_begins(&mut self) {
        self.waits_since = Some(clock::now());
    }

    /// Records that it waits no longer.
    pub fn wait_ends(&mut self) {
        self.waited = self.waited();
        self.waits_since = None;
    }

    /// Returns how long it waited; counts a wait in progress too, since the client may leave meanwhile.
    fn waited(&self) -> Duration {
        self.waited + self.waits_since.map_or(Duration::ZERO, |since| clock::now().since(since))
    }

    fn metrics(&self) -> &RouteRequestMetrics {
        match &self.route {
            Some(route) => route.requests(self.proxy.listener_index),
            None => &self.proxy.unrouted,
        }
    }

    /// Records a failure and returns its answer.
    pub fn fail(&mut self, failure: &Failure) -> Response<Body> {
        let outcome = failure.outcome();
        self.reason = outcome.reason;
        self.detail = Some(error_chain(failure));
        self.metrics().reject(outcome.reason);
        if let (Failure::Loop(found), Some(RouteAction::Forward(route))) = (failure, &self.route) {
            hops::say(route, *found);
        }
        if let Failure::Origin(denial) = failure {
            let edited = match &self.route {
                Some(RouteAction::Forward(route)) => route.request_edits.concerns(&ORIGIN),
                _ => false,
            };
            let order = if edited {
                "; `headers.request` comes after `origins`, which judges what the client sent"
            } else {
                ""
            };
            // Worth a line of its own: the first mistake in every setup.
            tracing::warn!(
                route = self.route.as_ref().map(RouteAction::name),
                client = self.request_info.client.map(tracing::field::display),
                %denial,
                hint = format_args!("{}{order}", denial.hint()),
                "origin refused: if it is yours, add it to the route's origins.allow"
            );
        }
        let mut response = response::failure(failure);
        if self.request_info.http >= Version::HTTP_2 && response.status() == StatusCode::UPGRADE_REQUIRED {
            // There is no Upgrade, which a 426 has to name (RFC 9110 §15.5.22, RFC 9113 §8.6).
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        let pages = self.route.as_ref().map(RouteAction::error_pages);
        // What a service answers is its own page.
        let pages = pages.filter(|_| !matches!(failure, Failure::AuthDenied(_)));
        match pages.and_then(|pages| pages.of(response.status(), self.takes_html)) {
            Some(page) => response::with_page(response, page),
            None => response,
        }
    }

    /// Returns true if an answer with this status to a handshake would tell the client that a WebSocket is open, though none
    /// is: where a session is opened by any status of success.
    pub fn would_open_a_tunnel(&self, status: StatusCode) -> bool {
        self.is_handshake && self.request_info.http >= Version::HTTP_2 && status.is_success()
    }

    /// Logs a bug in the proxy that ended the request, with the request it happened on.
    pub fn panicked(&self, panic: &Panic) {
        tracing::error!(
            r#where = PanicSite::Request.label(),
            location = panic.location,
            listener = %self.proxy.listener,
            route = self.route.as_ref().map(RouteAction::name),
            endpoint = self.endpoint.as_deref(),
            client = self.request_info.client.map(tracing::field::display),
            "panic: {}: the request is answered with 500",
            panic.message
        );
    }

    /// Attaches the record to the answer: it is written when the last byte has been sent, or the client is gone.
    pub fn attach(mut self, mut response: Response<Body>) -> Response<Body> {
        self.status = Some(response.status());
        // HEAD has no body to wait for, whatever the response says, and it is the client that ends a stream of events.
        let is_endless = body::is_event_stream(response.headers());
        if response.body().is_end_stream() || self.method == Method::HEAD || is_endless {
            self.answer_ends();
        }
        if self.is_handshake {
            // What follows a refused handshake may be frames: it must not be read as a request.
            // A 426 still says what to upgrade to, and nominates it (RFC 9110 §7.8, §15.5.22).
            let upgrade = response.headers().contains_key(UPGRADE);
            let connection = HeaderValue::from_static(if upgrade { "close, upgrade" } else { "close" });
            response.headers_mut().insert(CONNECTION, connection);
            self.metrics().handshake(self.request_info.http, response.status(), clock::now().since(self.started));
        }
        response.map(|body| Body::new(LoggedBody { body, log: self }))
    }

    /// Records that the answer is complete.
    fn answer_ends(&mut self) {
        if self.reason == "client_gone" {
            self.reason = self.result;
        }
    }

    /// Records that an answer which has begun breaks off.
    fn answer_breaks(&mut self, error: &BodyError) {
        self.reason = error.label();
        self.detail = Some(error_chain(error));
    }

    /// Ends the record of a successful handshake; the session goes on with it.
    pub fn into_session(mut self) -> RequestSummary {
        self.taken = true;
        let http = self.request_info.http;
        self.metrics().handshake(http, StatusCode::SWITCHING_PROTOCOLS, clock::now().since(self.started));
        let (waited, returned) = (self.waited, self.returned);
        let request_info = std::mem::take(&mut self.request_info);
        let identity = self.identity.take();
        RequestSummary { request_info, requested: self.started, attempts: self.attempts, waited, returned, identity }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let took = clock::now().since(self.started);
        let gone = StatusCode::from_u16(CLIENT_GONE).unwrap_or(StatusCode::BAD_REQUEST);
        let status = self.status.unwrap_or(gone);
        if self.is_handshake && self.status.is_none() {
            self.metrics().handshake(self.request_info.http, gone, took);
        } else if !self.is_handshake && self.route.is_some() {
            self.metrics().request(self.request_info.http, &self.method, status, took);
            if self.status.is_some() && metrics::CUT_REASONS.contains(&self.reason) {
                self.metrics().cut(self.reason);
            }
        }
        if !self.proxy.log.is_on() {
            return;
        }
        let received = self.upload.as_ref().map_or(0, |upload| upload.bytes());
        self.proxy.log.write(&LogRecord {
            kind: RecordKind::Request,
            ended: SystemTime::now(),
            duration: took,
            handshake: None,
            route: self.route.as_ref().map(RouteAction::name),
            upstream: self.route.as_ref().filter(|_| self.attempts > 0).and_then(RouteAction::upstream_name),
            endpoint: self.endpoint.as_deref(),
            method: self.method.as_str(),
            status: status.as_u16(),
            received: Traffic { bytes: received, ..Traffic::default() },
            sent: Traffic { bytes: self.sent_bytes, ..Traffic::default() },
            compression: self.compression,
            reason: self.reason,
            detail: self.detail.as_deref(),
            subject: self.identity.as_ref().and_then(|identity| identity.subject.as_deref()),
            attempts: self.attempts,
            waited: self.waited(),
            sticky: self.returned.map(Returned::label),
            ..self.request_info.record(&self.proxy.listener)
        });
    }
}

/// The body of an answer, with the record of its request.
struct LoggedBody {
    body: Body,
    log: RequestLog,
}

impl hyper::body::Body for LoggedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        panics::trap(|| this.log.request_info.texts.quoted().path == panics::TRAP_BODY);
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                this.log.sent_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if this.body.is_end_stream() {
                    this.log.answer_ends();
                }
            }
            Some(Err(error)) => this.log.answer_breaks(error),
            None => this.log.answer_ends(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
