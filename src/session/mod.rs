//! One relayed WebSocket, from its 101 to its log line: who it is, what it holds, and the record written once.
//!
//! A `Session` owns the relay and everything that must be given back when it is over (gauges, the endpoint's count, the
//! place on the route, the drain guard), so that dropping it, however that happens, is the end of it in every book. It
//! keeps strings of its own and nothing of the request: a kept header would pin hyper's whole read buffer.

pub mod access_log;
mod lane;
pub mod metrics;
mod record;
pub mod registry;
pub mod relay;
pub mod stop;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use crate::balance::sticky::Returned;
use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::net::transport::RelayIo;
use crate::session::registry::{Guard, SessionRegistry};
use crate::telemetry::panics::{self, Panic, PanicSite};
use crate::upstream::Upstream;
use crate::upstream::endpoint_state::EndpointState;
use crate::ws::Side;
use crate::ws::frame::Opcode;
use crate::ws::scanner::{EndedMessage, Violation};
use crate::ws::tunnel::{End, Farewell, Observer, Tunnel};
use access_log::{AccessLog, LogRecord, RecordKind, Traffic};
use metrics::{ControlKind, Data, Direction, EndLabels, Initiator, PeerLabel, RouteSessionMetrics};
pub use record::{Quoted, RequestInfo, SessionRecord, Texts};
use relay::Relay;
use stop::StopReason;

/// What an end means: which Close goes where, and what it is called. One row of `proxy::outcome`'s table.
#[derive(Clone, Debug)]
pub struct CloseActions {
    /// What the client gets.
    pub client: Farewell,
    /// What the server gets.
    pub server: Farewell,
    /// Who began it.
    pub initiator: Initiator,
    /// The label in logs and metrics.
    pub reason: &'static str,
}

/// The table, as a function, so that it can stand above. What a client gets whose server is lost is for its route to say.
pub type CloseMapper = fn(&End, stop: Option<&StopReason>, upstream_lost: &Farewell) -> CloseActions;

/// Says what an end means.
pub trait Judge {
    /// The row of the table for `end`; `stop` is why the proxy stops the session.
    fn closing(&self, end: &End, stop: Option<&StopReason>) -> CloseActions;
}

/// What all sessions of a route on one listener have in common: one for all of them, so that a session holds only what
/// is its own.
#[derive(Debug)]
pub struct RouteSessions {
    /// See [`RouteSessions::number`].
    pub number: u64,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Name of the route.
    pub route: Arc<str>,
    /// Whose endpoints they are on.
    pub upstream: Arc<Upstream>,
    /// What they count on.
    pub metrics: RouteSessionMetrics,
    /// Where their lines go.
    pub log: AccessLog,
    /// What their ends mean.
    pub table: CloseMapper,
    /// What a client gets whose server is lost without a Close.
    pub upstream_lost: Farewell,
}

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);

impl RouteSessions {
    /// A number greater than all before: it tells those of an earlier configuration from those of a later one.
    pub fn next_number() -> u64 {
        NEXT_NUMBER.fetch_add(1, Ordering::Relaxed)
    }
}

/// What a session is, to whoever looks for it or wants it to stop.
#[derive(Clone, Debug)]
pub struct Member {
    /// On which route and listener, as one configuration had them.
    pub route: Arc<RouteSessions>,
    /// On which endpoint.
    pub live: Arc<EndpointState>,
    /// The client's address, if it can be told.
    pub client: Option<IpAddr>,
    /// When it opened.
    pub opened: MonotonicTime,
}

/// All who work, sessions among them.
pub type Sessions = SessionRegistry<Member>;

/// What a session holds besides, to be given back when it ends.
pub trait SessionResources {
    /// What is known of the endpoint that it is on.
    fn live(&self) -> &EndpointState;
}

/// A session at work. `H` is whatever else must be given back when it ends.
///
/// Its task holds it as it is, with no box between, and each message of it wakes another task than the last: what it is
/// made of is kept small and together.
#[derive(Debug)]
pub struct Session<C, S, H: SessionResources> {
    relay: Relay<C, S, Counts>,
    guard: Guard<Member>,
    held: H,
}

impl<C, S, H: SessionResources> Session<C, S, H>
where
    C: AsyncRead + AsyncWrite + RelayIo + Unpin,
    S: AsyncRead + AsyncWrite + RelayIo + Unpin,
{
    /// Joins the two connections, whose `guard` has joined, each with the bytes that were read too early from it. `opening` where there will be a line.
    pub fn new(
        route: Arc<RouteSessions>,
        opening: Option<Box<SessionRecord>>,
        tunnel: Tunnel,
        client: (C, Vec<u8>),
        server: (S, Vec<u8>),
        (guard, held): (Guard<Member>, H),
    ) -> Self {
        route.metrics.begin();
        let relay = Relay::new(tunnel, client, server, Counts { route, opening });
        Session { relay, guard, held }
    }

    /// See [`Relay::poll`]. A panic in it ends the session: with 1011 to both, where that can still be said.
    #[inline]
    pub fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<()> {
        match panics::catch(PanicSite::Session, || self.relay.poll(cx, timer.as_mut(), &self.guard)) {
            Ok(poll) => poll,
            Err(panic) => self.panicked(cx, timer, &panic),
        }
    }

    #[cold]
    fn panicked(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, panic: &Panic) -> Poll<()> {
        let Counts { route, opening } = self.relay.observer();
        let client = opening.as_ref().and_then(|opening| opening.about.client);
        tracing::error!(
            r#where = PanicSite::Session.label(),
            location = panic.location,
            listener = %route.listener,
            route = %route.route,
            upstream = %route.upstream.name,
            endpoint = self.held.live().endpoint(),
            client = client.map(tracing::field::display),
            "panic: {}: the session is closed with 1011",
            panic.message
        );
        // What was left half done is given up with the session; what frames went where is known all the same. The second
        // time nothing is.
        if self.relay.tunnel().is_closing() {
            return Poll::Ready(());
        }
        let relay = &mut self.relay;
        let ending = panics::catch(PanicSite::Session, || {
            relay.panicked();
            relay.poll(cx, timer.as_mut(), &self.guard)
        });
        ending.unwrap_or(Poll::Ready(()))
    }
}

impl<C, S, H: SessionResources> Drop for Session<C, S, H> {
    fn drop(&mut self) {
        let (tunnel, Counts { route, opening }) = (self.relay.tunnel(), self.relay.observer());
        let table = |end| (route.table)(end, self.relay.stop_reason(), &route.upstream_lost);
        // Without an end the task itself was dropped: the process is going, or something panicked.
        let (closing, code, reason) = match tunnel.end() {
            Some(end @ End::Closed { body, .. }) => (table(end), body.code.map(|code| code.0), body.reason.clone()),
            Some(end) => {
                let closing = table(end);
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
            route.upstream.broke_off(self.held.live(), lasted, now);
        }
        route.metrics.end(EndLabels::new(closing.initiator, code, closing.reason), now.since(opened));
        let Some(opening) = opening else { return };
        let detail = match tunnel.end() {
            Some(End::Violation { by, label }) => Some(format!("{} sent {label} (see `validate`)", by.as_str())),
            Some(End::FrameTooLarge(by) | End::MessageTooLarge(by)) => Some(format!("sent by the {}", by.as_str())),
            _ => None,
        };
        let [received, sent] = opening.traffic;
        route.log.write(&LogRecord {
            kind: RecordKind::Session,
            ended: SystemTime::now(),
            duration: now.since(opening.requested),
            handshake: Some(opened.since(opening.requested)),
            route: Some(&route.route),
            upstream: Some(&route.upstream.name),
            endpoint: Some(&opening.endpoint),
            method: "GET",
            status: 101,
            subprotocol: opening.subprotocol.as_deref(),
            received,
            sent,
            close: Some(access_log::CloseRecord { initiator: closing.initiator, code, reason: &reason }),
            reason: closing.reason,
            detail: detail.as_deref(),
            attempts: opening.attempts,
            waited: Duration::from_micros(opening.waited_micros.into()),
            sticky: opening.returned.map(Returned::label),
            ..opening.about.record(&route.listener)
        });
    }
}

/// Counts for the route and for the session's own line.
#[derive(Debug)]
struct Counts {
    route: Arc<RouteSessions>,
    /// Where there will be a line.
    opening: Option<Box<SessionRecord>>,
}

impl Counts {
    /// What goes into the line. Without one, nothing is counted that nobody would see.
    #[inline]
    fn traffic(&mut self, from: Side, count: impl FnOnce(&mut Traffic)) {
        if let Some(opening) = &mut self.opening {
            count(&mut opening.traffic[from as usize]);
        }
    }
}

impl Judge for Counts {
    fn closing(&self, end: &End, stop: Option<&StopReason>) -> CloseActions {
        (self.route.table)(end, stop, &self.route.upstream_lost)
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

impl Observer for Counts {
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
        let data = if is_text { Data::Text } else { Data::Binary };
        self.route.metrics.frames().message(direction(from), data, message.bytes, count);
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
