//! A WebSocket handshake: judged, passed on to an endpoint, and turned into a session.
//!
//! Nothing is promised to the client before an endpoint's 101 is verified, so until then another endpoint can be tried:
//! each at most once, within the route's handshake timeout and the upstream's retry budget. Any other answer of an
//! endpoint is not a failure: it goes to the client as it is. Each attempt has a key of its own.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http::header::{HeaderMap, ORIGIN, SEC_WEBSOCKET_PROTOCOL, SET_COOKIE};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::credential::Identity;
use super::entry::{self, AffinityCookie};
use super::exchange::{ExchangePermits, RelayedBody};
use super::outcome::Failure;
use super::quota::{Beside, ClientPermit, RoutePermit};
use super::recheck::{PlannedRecheck, Recheck};
use super::request::RoutedRequest;
use super::request_log::RequestLog;
use super::snapshot::Route;
use super::{Proxy, Walked, response};
use crate::balance::Draw;
use crate::base::clock;
use crate::base::error_chain::error_chain;
use crate::net::transport::RelayIo;
use crate::policy::OriginTarget;
use crate::policy::clients::HeaderDigest;
use crate::policy::recheck::PendingRecheck;
use crate::session::registry::Guard;
use crate::session::{self, AuthenticatedClient, RouteSessions, Session, SessionClient, SessionEntry, SessionRecord};
use crate::upstream::connect::{ConnectError, UpstreamIo};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::endpoint_state::{ConnectionPermit, EndpointState, SessionPermit};
use crate::upstream::handshake::{HandshakeError, HandshakeReply, Switched};
use crate::upstream::opener::{self, OpenError, OpenTimes};
use crate::upstream::request_head::RequestHead;
use crate::ws::handshake::{HandshakeAnswer, HandshakeOffer, OfferError};
use crate::ws::tunnel::Tunnel;

/// The permits that a session returns when it ends.
#[derive(Debug)]
pub struct SessionPermits {
    endpoint_permit: SessionPermit,
    /// With the place among the sessions of its client, where these are limited, and the questions about it, where a service
    /// is asked again.
    route_permit: RoutePermit,
}

impl SessionPermits {
    /// Makes them of permits that were taken for a session which comes from another process.
    pub fn new(
        endpoint_permit: ConnectionPermit,
        route_permit: RoutePermit,
        client_permit: Option<ClientPermit>,
    ) -> SessionPermits {
        let endpoint_permit = endpoint_permit.into_session();
        let route_permit = match client_permit {
            Some(client) => route_permit.with(Beside::Client(client)),
            None => route_permit,
        };
        SessionPermits { endpoint_permit, route_permit }
    }

    /// Begins to ask a service about the session of this guard, where that is planned.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn rechecked(self, planned: Option<PlannedRecheck>, guard: &Guard<SessionEntry>) -> SessionPermits {
        let SessionPermits { endpoint_permit, route_permit } = self;
        let route_permit = match planned.and_then(|planned| planned.start(guard)) {
            Some(recheck) => route_permit.with(Beside::Recheck(recheck)),
            None => route_permit,
        };
        SessionPermits { endpoint_permit, route_permit }
    }
}

impl session::SessionResources for SessionPermits {
    fn endpoint_state(&self) -> &EndpointState {
        self.endpoint_permit.state()
    }

    fn header_client(&self) -> Option<HeaderDigest> {
        self.route_permit.client()?.header
    }

    fn recheck(&self) -> Option<PendingRecheck> {
        self.route_permit.recheck().map(Recheck::pending)
    }
}

/// A WebSocket that an endpoint has opened, before its request's record is joined to it.
#[derive(Debug)]
pub struct VerifiedUpgrade {
    /// What the client gets of the endpoint's header fields.
    headers: HeaderMap,
    server: UpstreamIo,
    early: Vec<u8>,
    answer: HandshakeAnswer,
    route: Arc<Route>,
    endpoint: Arc<Endpoint>,
    sessions: Arc<RouteSessions>,
    held: SessionPermits,
}

/// A session that begins when the client's answer, a 101 or its like, has been written. Dropped before that, it leaves the request's own line:
/// the client was gone.
#[derive(Debug)]
pub struct PendingUpgrade {
    opened: VerifiedUpgrade,
    log: RequestLog,
}

impl VerifiedUpgrade {
    /// Joins the record of the request.
    pub fn with(self, log: RequestLog) -> PendingUpgrade {
        PendingUpgrade { opened: self, log }
    }
}

impl PendingUpgrade {
    /// Takes the header fields of the answer that opens the session; it is to be written first.
    pub fn take_headers(&mut self) -> HeaderMap {
        std::mem::take(&mut self.opened.headers)
    }

    /// Returns the session, over the connection on which the 101 was written.
    pub fn begin<C>(self, client: (C, Vec<u8>), guard: Guard<SessionEntry>) -> Session<C, UpstreamIo, SessionPermits>
    where
        C: AsyncRead + AsyncWrite + RelayIo + Unpin,
    {
        let PendingUpgrade { opened, log } = self;
        let handed = log.into_session();
        let now = clock::now();
        let settings = Arc::clone(&opened.route.tunnel);
        let tunnel = Tunnel::new(settings, opened.answer.rsv(), [fastrand::u64(..), fastrand::u64(..)], now);
        let client_address = handed.request_info.client;
        let record = opened.sessions.log.is_on().then(|| {
            Box::new(SessionRecord {
                traffic: Default::default(),
                request_info: handed.request_info,
                endpoint: Arc::clone(&opened.endpoint.name),
                is_deflated: opened.answer.is_deflated(),
                subprotocol: opened.answer.subprotocol.map(String::into_boxed_str),
                requested: handed.requested,
                attempts: handed.attempts,
                waited_micros: u32::try_from(handed.waited.as_micros()).unwrap_or(u32::MAX),
                returned: handed.returned,
            })
        });
        let server = (opened.server, opened.early);
        let Identity { subject, expires, recheck } = handed.identity.map(|identity| *identity).unwrap_or_default();
        let session_client = match subject {
            Some(subject) => {
                SessionClient::Authenticated(Box::new(AuthenticatedClient { address: client_address, subject }))
            }
            None => SessionClient::Address(client_address),
        };
        let member = SessionEntry {
            route: Arc::clone(&opened.sessions),
            endpoint_state: Arc::clone(&opened.endpoint.state),
            client: session_client,
            opened: now,
        };
        guard.join(member, now);
        if expires.is_some() {
            guard.set_expiry(expires);
        }
        let held = opened.held.rechecked(recheck, &guard);
        Session::new(opened.sessions, record, tunnel, client, server, (guard, held))
    }
}

/// Judges a handshake: its form and its origin.
///
/// # Errors
/// What is wrong with it.
pub fn judge(route: &Route, request: &RoutedRequest) -> Result<HandshakeOffer, Failure> {
    let parts = &request.parts;
    let offer = HandshakeOffer::from_request(parts)?;
    let asked = OriginTarget::new(&request.host, request.peer.tls, &request.forwarded_request);
    route.origins.check(parts.headers.get_all(ORIGIN), &asked)?;
    Ok(offer)
}

/// Opens a WebSocket to an endpoint for a request that was judged.
///
/// # Errors
/// When something keeps it from opening. An endpoint's own refusal is no error: it is a response.
pub async fn run(
    proxy: &Proxy,
    route: Arc<Route>,
    mut arrival: RoutedRequest,
    log: &mut RequestLog,
) -> Result<Walked, Failure> {
    let Some(offer) = arrival.offer.take() else { return Err(OfferError::Connection.into()) };
    let own_subprotocol = arrival.credential.as_mut().and_then(|credential| credential.own_subprotocol.take());
    let client_permit = match &route.client_limits {
        Some(limits) => limits.enter(&mut arrival, log)?,
        None => None,
    };
    let route_permit = route.quota.enter(route.connections_max).ok_or(Failure::RouteFull)?;
    let draw = arrival.draw(&route, log.request_info.client);
    let affinity_cookie = arrival.affinity_cookie(&route);
    let mut head = arrival.upstream_handshake(&route);
    let edits = arrival.take_response_edits();
    drop(arrival);
    let (endpoint, endpoint_permit, reply) =
        attempt(&route, draw, affinity_cookie.as_ref(), &mut head, &offer, log).await?;
    let cookie = affinity_cookie.and_then(|affinity_cookie| affinity_cookie.renewed(&route.upstream, &endpoint, log));
    match reply {
        HandshakeReply::Switched(Switched { io, answer, mut headers, early }) => {
            edits.as_ref().unwrap_or(&route.response_edits).apply(&mut headers);
            headers.extend(cookie.map(|cookie| (SET_COOKIE, cookie)));
            if answer.subprotocol.is_none() {
                headers.extend(own_subprotocol.map(|subprotocol| (SEC_WEBSOCKET_PROTOCOL, subprotocol)));
            }
            let handles = &route.listeners[proxy.listener_index];
            route.upstream.opened(&endpoint.state, clock::coarse());
            let held = SessionPermits::new(endpoint_permit, route_permit, client_permit);
            let sessions = Arc::clone(&handles.sessions);
            let opened = VerifiedUpgrade { headers, server: io, early, answer, endpoint, sessions, held, route };
            Ok(Walked::Switched(opened))
        }
        HandshakeReply::Refused(response) => {
            let (parts, body) = response.into_parts();
            let body = RelayedBody::new(
                body,
                &parts.headers,
                None,
                &route,
                ExchangePermits::new(endpoint_permit, route_permit),
            );
            let response = Response::from_parts(parts, body.boxed_unsync());
            let edits = edits.as_ref().unwrap_or(&route.response_edits);
            Ok(Walked::Http(response::from_upstream(response, edits, cookie)?))
        }
    }
}

/// An endpoint that had less and did not answer has not failed.
const LEAST_TIME: Duration = Duration::from_secs(1);

/// Tries endpoints until one answers.
async fn attempt(
    route: &Route,
    draw: Draw,
    affinity_cookie: Option<&AffinityCookie<'_>>,
    head: &mut RequestHead,
    offer: &HandshakeOffer,
    log: &mut RequestLog,
) -> Result<(Arc<Endpoint>, ConnectionPermit, HandshakeReply<UpstreamIo>), Failure> {
    let (upstream, mut now) = (&route.upstream, clock::coarse());
    let deadline = Instant::now() + route.handshake_timeout;
    entry::admit(upstream, deadline, log).await?;
    upstream.request(now);
    let mut tried = Vec::new();
    let mut failed: Option<Failure> = None;
    loop {
        let (endpoint, endpoint_permit) = match failed.take() {
            None => entry::pick_endpoint(upstream, affinity_cookie, draw, Some(deadline), log).await?,
            // Where no other endpoint can be tried, the last one's error says more than that there is none.
            Some(failed) if upstream.is_budget_spent(now) => {
                upstream.metrics.retry_denied();
                return Err(failed);
            }
            Some(failed) => match upstream.pick(&tried, draw, now) {
                Ok(picked) if upstream.may_retry(now) => picked,
                _ => return Err(failed),
            },
        };
        now = clock::coarse();
        let started = Instant::now();
        log.attempts += 1;
        log.endpoint = Some(Arc::clone(&endpoint.name));
        // With a good one left, an endpoint that accepts and never answers costs the client half of its time and not
        // all of it.
        let has_another = upstream.has_another(&tried, &endpoint, now) && !upstream.is_budget_spent(now);
        let left = deadline.saturating_duration_since(started);
        let until = if has_another { started + left / 2 } else { deadline };
        let failure = match try_endpoint(route, &endpoint, head, offer, started, until).await {
            Ok(reply) => {
                upstream.answered(&endpoint.state, clock::coarse());
                return Ok((endpoint, endpoint_permit, reply));
            }
            // No endpoint is to blame for it, and another would do no better.
            Err(failure @ Failure::Connect(ConnectError::Exhausted(_))) => return Err(failure),
            Err(failure) => failure,
        };
        let label = match &failure {
            Failure::Connect(error) => error.label(),
            Failure::Handshake(error) => error.label(),
            _ => "handshake_timeout",
        };
        now = clock::coarse();
        let is_ours = matches!(&failure, Failure::Connect(error) if error.is_ours());
        // An endpoint that got only the rest of the time is not to blame for not answering in it.
        let is_timeout = matches!(failure, Failure::Timeout | Failure::Connect(ConnectError::Timeout));
        let had_no_time =
            is_timeout && until.saturating_duration_since(started) < LEAST_TIME.min(route.handshake_timeout / 4);
        if is_ours || had_no_time {
            endpoint.state.metrics.error(label);
        } else {
            upstream.failed(&endpoint.state, label, now);
        }
        tracing::debug!(endpoint = %endpoint.name, error = %error_chain(&failure), "handshake failed");
        if Instant::now() >= deadline {
            return Err(failure);
        }
        failed = Some(failure);
        tried.push(endpoint);
    }
}

/// One endpoint.
async fn try_endpoint(
    route: &Route,
    endpoint: &Endpoint,
    head: &mut RequestHead,
    offer: &HandshakeOffer,
    started: Instant,
    deadline: Instant,
) -> Result<HandshakeReply<UpstreamIo>, Failure> {
    let times = OpenTimes {
        started,
        connected_by: deadline.min(started + route.connect_timeout),
        deadline,
        pings_after: route.tunnel.pings_after(),
    };
    Ok(opener::open(endpoint, head, offer, times, &route.upstream.metrics).await?)
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        match error {
            OpenError::Connect(error) => error.into(),
            OpenError::Handshake(error) => error.into(),
            OpenError::Timeout => Failure::Timeout,
        }
    }
}

/// The labels of an endpoint's failures, for metrics that begin at 0.
pub fn endpoint_labels() -> Vec<&'static str> {
    [&ConnectError::LABELS[..], &HandshakeError::LABELS, &["handshake_timeout", "response_timeout", "response_lost"]]
        .concat()
}
