//! One relayed WebSocket, from its 101 to its log line: who it is, what it holds, and the record written once.
//!
//! A `Session` owns the relay and everything that must be given back when it is over (gauges, the endpoint's count, the
//! place on the route, the drain guard), so that dropping it, however that happens, is the end of it in every book. It
//! keeps strings of its own and nothing of the request: a kept header would pin hyper's whole read buffer.

pub mod access_log;
pub mod metrics;
pub mod relay;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::clock;
use crate::drain::Guard;
use crate::moment::Moment;
use crate::net::transport::EndsOnDrop;
use crate::ws::Side;
use crate::ws::close::Close;
use crate::ws::frame::Opcode;
use crate::ws::scanner::Message;
use crate::ws::tunnel::{End, Observer, Tunnel};
use access_log::{AccessLog, Kind, Record, Traffic};
use metrics::{Control, Data, Direction, Ending, Initiator, Peer, RouteMetrics};
use relay::Relay;

/// What an end means: which Close goes where, and what it is called. One row of `proxy::outcome`'s table.
#[derive(Clone, Debug)]
pub struct Closing {
    /// The Close for the client.
    pub client: Option<Close>,
    /// The Close for the server.
    pub server: Option<Close>,
    /// Who began it.
    pub initiator: Initiator,
    /// The label in logs and metrics.
    pub reason: &'static str,
}

/// The table, as a function, so that it can stand above.
pub type Table = fn(&End) -> Closing;

/// What the log says of a request, in strings of its own.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The client's address, if it can be told.
    pub client: Option<std::net::IpAddr>,
    /// Its port, where it is connected to us itself.
    pub client_port: Option<u16>,
    /// The authority asked for.
    pub host: Box<str>,
    /// The path, as it came.
    pub path: Box<str>,
    /// The query, as it came.
    pub query: Option<Box<str>>,
    /// X-Request-Id.
    pub request_id: Option<Box<str>>,
    /// User-Agent.
    pub user_agent: Option<Box<str>>,
    /// The version of TLS.
    pub tls: Option<&'static str>,
    /// Name of the listener.
    pub listener: Arc<str>,
}

impl About {
    /// The client's port, if `peer` is the client itself and not a proxy that speaks for it.
    pub fn set_client(&mut self, client: Option<std::net::IpAddr>, peer: Option<SocketAddr>) {
        self.client = client;
        self.client_port = peer.filter(|peer| Some(peer.ip()) == client).map(|peer| peer.port());
    }
}

/// What is known of a session when its handshake is done.
#[derive(Debug)]
pub struct Opening {
    /// The request.
    pub about: About,
    /// Name of the route.
    pub route: Arc<str>,
    /// Name of the upstream.
    pub upstream: Arc<str>,
    /// Name of the endpoint.
    pub endpoint: Arc<str>,
    /// The subprotocol agreed on.
    pub subprotocol: Option<Box<str>>,
    /// When the request came.
    pub requested: Moment,
    /// When it was answered.
    pub opened: Moment,
    /// Endpoints tried.
    pub attempts: u32,
    /// What sessions of this route count on.
    pub metrics: Arc<RouteMetrics>,
    /// Where the line goes.
    pub log: AccessLog,
    /// The table of outcomes.
    pub table: Table,
}

/// A session at work. `H` is whatever else must be given back when it ends.
#[derive(Debug)]
pub struct Session<C, S, H> {
    relay: Relay<C, S, Counts>,
    opening: Box<Opening>,
    guard: Guard,
    _active: crate::telemetry::counters::Active,
    _held: H,
}

impl<C, S, H> Session<C, S, H>
where
    C: AsyncRead + AsyncWrite + EndsOnDrop + Unpin,
    S: AsyncRead + AsyncWrite + EndsOnDrop + Unpin,
{
    /// Joins the two connections, each with the bytes that were read too early from it.
    pub fn new(
        opening: Box<Opening>,
        tunnel: Tunnel,
        client: (C, Vec<u8>),
        server: (S, Vec<u8>),
        guard: Guard,
        held: H,
    ) -> Self {
        guard.pace();
        let counts = Counts { metrics: Arc::clone(&opening.metrics), traffic: [Traffic::default(); 2] };
        let active = opening.metrics.begin();
        let relay = Relay::new(tunnel, client, server, counts, opening.table);
        Session { relay, opening, guard, _active: active, _held: held }
    }

    /// Relays until it is over.
    pub async fn run(&mut self) {
        self.relay.run(&self.guard).await;
    }
}

impl<C, S, H> Drop for Session<C, S, H> {
    fn drop(&mut self) {
        let opening = &self.opening;
        // Without an end the task itself was dropped: the process is going, or something panicked.
        let (closing, code, reason) = match self.relay.tunnel().end() {
            Some(end @ End::Closed { body, .. }) => {
                ((opening.table)(end), body.code.map(|code| code.0), body.reason.clone())
            }
            Some(end) => {
                let closing = (opening.table)(end);
                let sent = if closing.initiator == Initiator::Proxy { &closing.client } else { &None };
                let code = sent.as_ref().and_then(|close| close.code).map(|code| code.0);
                let reason = sent.as_ref().map_or("", |close| &close.reason).into();
                (closing, code, reason)
            }
            None => {
                let cut = Closing { client: None, server: None, initiator: Initiator::Proxy, reason: "cut" };
                (cut, None, "".into())
            }
        };
        let detail = match self.relay.tunnel().end() {
            Some(End::Violation { by, label }) => Some(format!("{} sent {label}", by.as_str())),
            Some(End::FrameTooLarge(by) | End::MessageTooLarge(by)) => Some(format!("sent by the {}", by.as_str())),
            _ => None,
        };
        let now = clock::now();
        opening.metrics.end(Ending::new(closing.initiator, code, closing.reason), now.since(opening.opened));
        if !opening.log.is_on() {
            return;
        }
        let [received, sent] = self.relay.observer().traffic;
        opening.log.write(&Record {
            kind: Kind::Session,
            ended: SystemTime::now(),
            duration: now.since(opening.requested),
            handshake: Some(opening.opened.since(opening.requested)),
            route: Some(&opening.route),
            upstream: Some(&opening.upstream),
            endpoint: Some(&opening.endpoint),
            method: "GET",
            status: 101,
            subprotocol: opening.subprotocol.as_deref(),
            received,
            sent,
            close: Some(access_log::Close { initiator: closing.initiator, code, reason: &reason }),
            reason: closing.reason,
            detail: detail.as_deref(),
            attempts: opening.attempts,
            ..opening.about.record()
        });
    }
}

impl About {
    /// A record with what is known of the request; the rest is the caller's to fill in.
    pub fn record(&self) -> Record<'_> {
        Record {
            kind: Kind::Request,
            ended: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            handshake: None,
            client: self.client,
            client_port: self.client_port,
            listener: &self.listener,
            route: None,
            upstream: None,
            endpoint: None,
            host: &self.host,
            method: "",
            path: &self.path,
            query: self.query.as_deref(),
            status: 0,
            subprotocol: None,
            tls: self.tls,
            request_id: self.request_id.as_deref(),
            user_agent: self.user_agent.as_deref(),
            received: Traffic::default(),
            sent: Traffic::default(),
            close: None,
            reason: "",
            detail: None,
            attempts: 0,
        }
    }
}

/// Counts for the route and for the session's own line.
#[derive(Debug)]
struct Counts {
    metrics: Arc<RouteMetrics>,
    /// From the client, from the server.
    traffic: [Traffic; 2],
}

const fn direction(from: Side) -> Direction {
    match from {
        Side::Client => Direction::In,
        Side::Server => Direction::Out,
    }
}

const fn peer(side: Side) -> Peer {
    match side {
        Side::Client => Peer::Client,
        Side::Server => Peer::Server,
    }
}

impl Observer for Counts {
    #[inline]
    fn bytes(&mut self, from: Side, bytes: usize) {
        self.traffic[from as usize].bytes += bytes as u64;
        self.metrics.frames().bytes(direction(from), bytes as u64);
    }

    #[inline]
    fn message(&mut self, from: Side, message: Message) {
        let traffic = &mut self.traffic[from as usize];
        let data = match message.opcode {
            Opcode::Text => {
                traffic.text += 1;
                Data::Text
            }
            _ => {
                traffic.binary += 1;
                Data::Binary
            }
        };
        self.metrics.frames().message(direction(from), data, message.bytes);
    }

    fn control(&mut self, from: Side, opcode: Opcode) {
        let traffic = &mut self.traffic[from as usize];
        let control = match opcode {
            Opcode::Ping => {
                traffic.pings += 1;
                Control::Ping
            }
            Opcode::Pong => {
                traffic.pongs += 1;
                Control::Pong
            }
            _ => Control::Close,
        };
        self.metrics.frames().control(direction(from), control);
    }

    fn pinged(&mut self, side: Side) {
        self.metrics.ping(peer(side));
    }

    fn round_trip(&mut self, side: Side, time: Duration) {
        self.metrics.pong(peer(side), time);
    }
}
