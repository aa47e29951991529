//! One relayed WebSocket, from its 101 to its log line.
//!
//! A `Session` owns the relay and everything to be released at the end (gauges, the permits of its endpoint and its
//! route, the registry's guard). Dropping it, for whatever reason, releases and counts all of it. It copies what it
//! needs of the request: a kept header would pin hyper's whole read buffer.

pub mod access_log;
mod lane;
pub mod metrics;
mod record;
pub mod registry;
pub mod relay;
mod state;
pub mod stop;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use crate::balance::sticky::Returned;
use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::net::transport::RelayIo;
use crate::policy::clients::HeaderDigest;
use crate::policy::recheck::PendingRecheck;
use crate::session::registry::{Guard, SessionRegistry};
use crate::telemetry::panics::{self, Panic, PanicSite};
use crate::upstream::Upstream;
use crate::upstream::endpoint_state::EndpointState;
use crate::ws::Side;
use crate::ws::close::CloseCode;
use crate::ws::frame::Opcode;
use crate::ws::handshake;
use crate::ws::scanner::{EndedMessage, Violation};
use crate::ws::tunnel::{End, Farewell, Observer, Tunnel};
use access_log::{AccessLog, LogRecord, RecordKind, Traffic};
use metrics::{ControlKind, Direction, EndLabels, Initiator, MessageKind, PeerLabel, RouteSessionMetrics};
pub use record::{Quoted, RequestInfo, SessionRecord, Texts, version_label};
use relay::{Relay, Turn};
pub use state::{Immovable, Parked, SessionState};
use stop::StopReason;

/// How an end is answered and labelled: one row of `proxy::outcome`'s table.
#[derive(Clone, Debug)]
pub struct CloseActions {
    /// What the client gets.
    pub client: Farewell,
    /// What the server gets.
    pub server: Farewell,
    /// The side that began it.
    pub initiator: Initiator,
    /// The label in logs and metrics.
    pub reason: &'static str,
}

/// The table as a function, so that it can live in a higher module. The route decides some of it.
pub type CloseMapper = fn(&End, stop: Option<&StopReason>, farewells: &RouteFarewells) -> CloseActions;

/// What a route decides of the table.
#[derive(Clone, Debug)]
pub struct RouteFarewells {
    /// What a client gets if its server is lost without a Close.
    pub upstream_lost: Farewell,
    /// The code for a client whose credential has expired.
    pub expired: CloseCode,
}

/// Decides how an end is answered and labelled.
pub trait ClosePolicy {
    /// Returns the row for `end`; `stop` is why the proxy stops the session.
    fn closing(&self, end: &End, stop: Option<&StopReason>) -> CloseActions;
}

/// What all sessions of a route on one listener share, so that a session holds only what is its own.
#[derive(Debug)]
pub struct RouteSessions {
    /// Its number in this process; see [`RouteSessions::next_number`].
    pub number: u64,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Name of the route.
    pub route: Arc<str>,
    /// Their upstream.
    pub upstream: Arc<Upstream>,
    /// Their metrics.
    pub metrics: RouteSessionMetrics,
    /// Their access log.
    pub log: AccessLog,
    /// Maps their ends to closes and labels.
    pub close_mapper: CloseMapper,
    /// Whether their clients are authenticated.
    pub is_authenticated: bool,
    /// What their clients get in some cases.
    pub farewells: RouteFarewells,
}

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);

impl RouteSessions {
    /// Returns a number greater than all before, to tell an earlier configuration's sessions from a later one's.
    pub fn next_number() -> u64 {
        NEXT_NUMBER.fetch_add(1, Ordering::Relaxed)
    }
}

/// What the registry knows of a session: how to find it, list it, and select it for a stop.
#[derive(Clone, Debug)]
pub struct SessionEntry {
    /// Its route and listener, as of one configuration.
    pub route: Arc<RouteSessions>,
    /// The state of its endpoint.
    pub endpoint_state: Arc<EndpointState>,
    /// Its client.
    pub client: SessionClient,
    /// When it opened.
    pub opened: MonotonicTime,
}

/// The client of a session. Who is authenticated has a box of its own, so that all others pay nothing for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionClient {
    /// Its address, if known.
    Address(Option<IpAddr>),
    /// Who it is.
    Authenticated(Box<AuthenticatedClient>),
}

/// A client that is known by its credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthenticatedClient {
    /// Its address, if known.
    pub address: Option<IpAddr>,
    /// The subject of its credential.
    pub subject: Box<str>,
}

impl SessionClient {
    /// Returns its address, if known.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            SessionClient::Address(address) => *address,
            SessionClient::Authenticated(client) => client.address,
        }
    }

    /// Returns the subject of its credential, if it has one.
    pub fn subject(&self) -> Option<&str> {
        match self {
            SessionClient::Address(_) => None,
            SessionClient::Authenticated(client) => Some(&client.subject),
        }
    }
}

/// The registry of all connections and sessions.
pub type Sessions = SessionRegistry<SessionEntry>;

/// What else a session holds and releases when it ends.
pub trait SessionResources {
    /// Returns the state of its endpoint.
    fn endpoint_state(&self) -> &EndpointState;

    /// Returns the header that has told its client, where clients are told by one.
    fn header_client(&self) -> Option<HeaderDigest> {
        None
    }

    /// Returns what a service is asked about it again, and when.
    fn recheck(&self) -> Option<PendingRecheck> {
        None
    }
}

/// A running session. `H` is whatever else must be released when it ends.
///
/// Its task holds it unboxed. It is kept small: consecutive messages mostly belong to different sessions, so each wake-up
/// reads it from memory anew.
#[derive(Debug)]
pub struct Session<C, S, H: SessionResources>(
    /// Empty once it has been taken apart, to go to another process: then there is no end to log.
    Option<Live<C, S, H>>,
);

#[derive(Debug)]
struct Live<C, S, H: SessionResources> {
    relay: Relay<C, S, SessionCounts>,
    guard: Guard<SessionEntry>,
    resources: H,
}

impl<C, S, H: SessionResources> Session<C, S, H>
where
    C: AsyncRead + AsyncWrite + RelayIo + Unpin,
    S: AsyncRead + AsyncWrite + RelayIo + Unpin,
{
    /// Joins the two connections, each with the bytes read too early from it; `guard` has joined already. `record` is
    /// there if the session is logged.
    pub fn new(
        route: Arc<RouteSessions>,
        record: Option<Box<SessionRecord>>,
        tunnel: Tunnel,
        client: (C, Vec<u8>),
        server: (S, Vec<u8>),
        (guard, resources): (Guard<SessionEntry>, H),
    ) -> Self {
        route.metrics.begin();
        let relay = Relay::new(tunnel, client, server, SessionCounts { route, record });
        Session(Some(Live { relay, guard, resources }))
    }

    /// Relays, see [`Relay::poll`]. A panic ends the session, with 1011 to both peers if it can still be sent.
    #[inline]
    pub fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Turn> {
        let Some(Live { relay, guard, .. }) = &mut self.0 else { return Poll::Ready(Turn::Over) };
        match panics::catch(PanicSite::Session, || relay.poll(cx, timer.as_mut(), guard)) {
            Ok(poll) => poll,
            Err(panic) => self.panicked(cx, timer, &panic),
        }
    }

    #[cold]
    fn panicked(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, panic: &Panic) -> Poll<Turn> {
        let Some(Live { relay, guard, resources }) = &mut self.0 else { return Poll::Ready(Turn::Over) };
        let SessionCounts { route, record } = relay.observer();
        let client = record.as_ref().and_then(|record| record.request_info.client);
        tracing::error!(
            r#where = PanicSite::Session.label(),
            location = panic.location,
            listener = %route.listener,
            route = %route.route,
            upstream = %route.upstream.name,
            endpoint = resources.endpoint_state().endpoint(),
            client = client.map(tracing::field::display),
            "panic: {}: the session is closed with 1011",
            panic.message
        );
        // Unfinished work is given up with the session; where frames ended is still known. After a second panic it is
        // not.
        if relay.tunnel().is_closing() {
            return Poll::Ready(Turn::Over);
        }
        let ending = panics::catch(PanicSite::Session, || {
            relay.panicked();
            relay.poll(cx, timer.as_mut(), guard)
        });
        ending.unwrap_or(Poll::Ready(Turn::Over))
    }
}

impl<C, S, H: SessionResources> Drop for Session<C, S, H> {
    fn drop(&mut self) {
        let Some(Live { relay, guard, resources }) = &self.0 else { return };
        let (tunnel, SessionCounts { route, record }) = (relay.tunnel(), relay.observer());
        let is_stopped = tunnel.end() == Some(&End::Stopped);
        let stop_reason = is_stopped.then(|| guard.stop_reason()).flatten();
        let close_mapper = |end| (route.close_mapper)(end, stop_reason.as_ref(), &route.farewells);
        // Without an end the task itself was dropped: the process exits, or something panicked.
        let (closing, code, reason) = match tunnel.end() {
            Some(end @ End::Closed { body, .. }) => {
                (close_mapper(end), body.code.map(|code| code.0), body.reason.clone())
            }
            Some(end) => {
                let closing = close_mapper(end);
                let sent = match &closing.client {
                    Farewell::Close(close) if closing.initiator == Initiator::Proxy => Some(close),
                    _ => None,
                };
                let code = sent.and_then(|close| close.code).map(|code| code.0);
                let reason = sent.map_or("", |close| &close.reason).into();
                (closing, code, reason)
            }
            None => {
                let nothing = Farewell::Nothing;
                let cut = CloseActions {
                    client: nothing.clone(),
                    server: nothing,
                    initiator: Initiator::Proxy,
                    reason: "cut",
                };
                (cut, None, "".into())
            }
        };
        let (now, opened) = (clock::now(), tunnel.opened());
        if let Some(End::Lost(Side::Server)) = tunnel.end() {
            let lasted = tunnel.end_began().unwrap_or(now).since(opened);
            route.upstream.broke_off(resources.endpoint_state(), lasted, now);
        }
        route.metrics.end(EndLabels::new(closing.initiator, code, closing.reason), now.since(opened));
        let Some(record) = record else { return };
        let detail = match tunnel.end() {
            Some(End::Violation { by, label }) => Some(format!("{} sent {label} (see `validate`)", by.as_str())),
            Some(
                End::FrameTooLarge(by)
                | End::MessageTooLarge(by)
                | End::TooManyFragments(by)
                | End::TooManyControls(by)
                | End::RateExceeded(by),
            ) => Some(format!("sent by the {}", by.as_str())),
            _ => None,
        };
        let member = route.is_authenticated.then(|| guard.member()).flatten();
        let [received, sent] = record.traffic;
        route.log.write(&LogRecord {
            kind: RecordKind::Session,
            ended: SystemTime::now(),
            duration: now.since(record.requested),
            handshake: Some(opened.since(record.requested)),
            route: Some(&route.route),
            upstream: Some(&route.upstream.name),
            endpoint: Some(&record.endpoint),
            method: "GET",
            status: 101,
            subprotocol: record.subprotocol.as_deref(),
            compression: record.is_deflated.then_some(handshake::DEFLATE),
            received,
            sent,
            close: Some(access_log::CloseRecord { initiator: closing.initiator, code, reason: &reason }),
            reason: closing.reason,
            detail: detail.as_deref(),
            subject: member.as_ref().and_then(|member| member.client.subject()),
            attempts: record.attempts,
            waited: Duration::from_micros(record.waited_micros.into()),
            sticky: record.returned.map(Returned::label),
            ..record.request_info.record(&route.listener)
        });
    }
}

/// Counts for the route and for the session's own log line.
#[derive(Debug)]
struct SessionCounts {
    route: Arc<RouteSessions>,
    /// Set if the session is logged.
    record: Option<Box<SessionRecord>>,
}

impl SessionCounts {
    /// Counts traffic for the log line, if there will be one.
    #[inline]
    fn traffic(&mut self, from: Side, count: impl FnOnce(&mut Traffic)) {
        if let Some(record) = &mut self.record {
            count(&mut record.traffic[from as usize]);
        }
    }
}

impl ClosePolicy for SessionCounts {
    fn closing(&self, end: &End, stop: Option<&StopReason>) -> CloseActions {
        (self.route.close_mapper)(end, stop, &self.route.farewells)
    }
}

const fn direction(from: Side) -> Direction {
    match from {
        Side::Client => Direction::In,
        Side::Server => Direction::Out,
    }
}

const fn peer(side: Side) -> PeerLabel {
    match side {
        Side::Client => PeerLabel::Client,
        Side::Server => PeerLabel::Server,
    }
}

impl Observer for SessionCounts {
    #[inline]
    fn bytes(&mut self, from: Side, bytes: usize) {
        self.traffic(from, |traffic| traffic.bytes += bytes as u64);
        self.route.metrics.frames().bytes(direction(from), bytes as u64);
    }

    #[inline]
    fn message(&mut self, from: Side, message: EndedMessage, count: u32) {
        panics::trap(|| message.bytes == panics::TRAP_MESSAGE_BYTES);
        let is_text = message.opcode == Opcode::Text;
        self.traffic(from, |traffic| {
            *(if is_text { &mut traffic.text } else { &mut traffic.binary }) += u64::from(count);
        });
        let kind = if is_text { MessageKind::Text } else { MessageKind::Binary };
        self.route.metrics.frames().message(direction(from), kind, message.bytes, count);
    }

    fn control(&mut self, from: Side, opcode: Opcode, count: u32) {
        self.traffic(from, |traffic| match opcode {
            Opcode::Ping => traffic.pings = traffic.pings.saturating_add(count),
            Opcode::Pong => traffic.pongs = traffic.pongs.saturating_add(count),
            _ => {}
        });
        let control = match opcode {
            Opcode::Ping => ControlKind::Ping,
            Opcode::Pong => ControlKind::Pong,
            _ => ControlKind::Close,
        };
        self.route.metrics.frames().control(direction(from), control, count);
    }

    fn delayed(&mut self, from: Side) {
        self.route.metrics.delayed(direction(from));
    }

    fn tolerated(&mut self, from: Side, violation: Violation) {
        self.route.metrics.tolerated(peer(from), violation.label());
    }

    fn pinged(&mut self, side: Side) {
        self.route.metrics.ping(peer(side));
    }

    fn round_trip(&mut self, side: Side, time: Duration) {
        self.route.metrics.pong(peer(side), time);
    }
}
