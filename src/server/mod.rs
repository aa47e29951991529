//! Accepts connections and serves each to its end: PROXY header, TLS, HTTP/1.1, and the session after a 101.
//!
//! Each worker has one accept loop per listener; a connection and its session stay on the worker that accepted it. The
//! state before the session is boxed and freed when the session begins, so that a connection that lives for hours is as
//! small as its relay.

pub mod accepting;
mod h1;
mod h2;
pub mod metrics;
pub mod moving;
mod preface;
pub mod turns;
mod write_timeout;

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Version;
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::base::clock;
use crate::config::{HttpProtocol, ListenerLimits, ListenerTimeouts};
use crate::net::listener::Acceptor;
use crate::net::proxy_protocol::{self, Mode};
use crate::net::stream::{PeerAddr, Prefixed, Stream};
use crate::net::transport::Transport;
use crate::policy::address::AddressRules;
use crate::policy::clients::Newcomers;
use crate::proxy::newcomer::Newcomer;
use crate::proxy::upgrade::PendingUpgrade;
use crate::proxy::{Downstream, Proxy};
use crate::session::registry::Guard;
use crate::session::relay::Turn;
use crate::session::{SessionEntry, Sessions};
use crate::telemetry::counters::Active;
use crate::telemetry::log_limiter::LogLimiter;
use crate::telemetry::panics::{self, Panic, PanicSite};
use crate::tls::server::TlsAcceptError;
use crate::tls::{self, ServerStream};
use accepting::PendingConnections;
use metrics::{ConnectionError, ListenerMetrics, TlsVersionLabel};
use moving::LiveSession;

/// A client's connection, with or without TLS.
pub type DownstreamIo = Transport<ServerStream>;

/// A listener, shared by the workers that accept on it. It stays the same as long as its name is configured; a reload swaps
/// its settings.
#[derive(Debug)]
pub struct Listener {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its id, unique in this process.
    pub id: u32,
    /// The settings of connections; each keeps those it was accepted with.
    pub settings: ArcSwap<ListenerSettings>,
    /// The handler of requests; each request keeps the one it began with.
    pub proxy: ArcSwap<Proxy>,
    /// Connections open now.
    open: AtomicUsize,
    /// The time until which bad server names are not logged.
    quiet_until: AtomicU64,
    /// Limits lines about clients that are refused.
    refusals: LogLimiter,
    /// Connections on which nobody was let in, once a configuration limits them.
    newcomers: OnceLock<Box<Newcomers>>,
}

/// The time between two such log lines, which any client can cause; the counter counts all.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

impl Listener {
    /// Creates a listener without connections.
    pub fn new(name: Arc<str>, settings: Arc<ListenerSettings>, proxy: Arc<Proxy>) -> Listener {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (open, quiet_until) = (AtomicUsize::new(0), AtomicU64::new(0));
        let (settings, proxy) = (ArcSwap::new(settings), ArcSwap::new(proxy));
        Listener {
            name,
            id,
            settings,
            proxy,
            open,
            quiet_until,
            refusals: LogLimiter::default(),
            newcomers: OnceLock::new(),
        }
    }

    /// Judges a client before anything of it is read, but for its PROXY header. `None` if it may not connect.
    fn admit(&self, settings: &ListenerSettings, client: Option<SocketAddr>) -> Option<Admitted> {
        let address = client.map(|client| client.ip());
        if let Some(addresses) = &settings.addresses
            && let Err(denial) = addresses.judge(address)
        {
            self.refused(settings, client, ConnectionError::Address, &denial);
            return None;
        }
        let limit = settings.limits.per_client.as_ref().map(|limits| limits.unauthenticated);
        let (Some(limit), Some(address)) = (limit, address) else { return Some(None) };
        // It speaks for many.
        if self.proxy.load().trusts(address) {
            return Some(None);
        }
        match self.newcomers.get_or_init(Box::default).enter(address, limit) {
            Some(place) => Some(Some(Arc::new(Newcomer::new(place)))),
            None => {
                let why = format_args!("its client has {limit} already on which nobody was let in");
                self.refused(settings, client, ConnectionError::Unauthenticated, &why);
                None
            }
        }
    }

    /// Counts a client that is refused, and logs it unless there are too many.
    #[cold]
    fn refused(
        &self,
        settings: &ListenerSettings,
        client: Option<SocketAddr>,
        reason: ConnectionError,
        why: &dyn fmt::Display,
    ) {
        settings.metrics.error(reason);
        if let Some(line) = self.refusals.line(clock::coarse()) {
            tracing::info!(
                listener = %self.name,
                client = client.map(|client| tracing::field::display(client.ip().to_canonical())),
                reason = reason.label(),
                suppressed = line.suppressed,
                "connection refused: {why}"
            );
        }
    }

    /// Logs a panic that has ended a connection or a stream.
    #[cold]
    fn panicked(&self, panic: &Panic, what_ends: &str) {
        tracing::error!(
            r#where = PanicSite::Connection.label(),
            location = panic.location,
            listener = %self.name,
            "panic: {}: {what_ends}",
            panic.message
        );
    }

    /// Logs, at most once a minute, that a client has sent a server name that rustls refuses. The client gets an alert that
    /// does not say why, so without this line nobody would know.
    #[cold]
    fn bad_server_name(&self, peer: Option<SocketAddr>, error: &TlsAcceptError) {
        let (now, before) = (clock::coarse(), self.quiet_until.load(Ordering::Relaxed));
        let until = (now + LOG_INTERVAL).as_micros();
        let is_first =
            || self.quiet_until.compare_exchange(before, until, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if now.as_micros() >= before && is_first() {
            tracing::warn!(
                listener = %self.name,
                client = peer.map(|peer| tracing::field::display(peer.ip())),
                reason = ConnectionError::TlsServerName.label(),
                "TLS refused: {error}; no certificate can be chosen for it, the client has to ask for a valid name or for none"
            );
        }
    }
}

/// What an admitted connection holds until somebody is let in on it, if its listener limits such connections.
type Admitted = Option<Arc<Newcomer>>;

/// The settings of a listener in one configuration.
#[derive(Debug)]
pub struct ListenerSettings {
    /// TLS, if the listener terminates it.
    pub tls: Option<Arc<ServerConfig>>,
    /// Which addresses may connect, unless all may.
    pub addresses: Option<Box<AddressRules>>,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: Option<Mode>,
    /// The time limits before a request.
    pub timeouts: ListenerTimeouts,
    /// The limits of connections and requests.
    pub limits: ListenerLimits,
    /// The versions of HTTP, best first.
    pub protocols: Vec<HttpProtocol>,
    /// Whether WebSockets may be streams of HTTP/2.
    pub extended_connect: bool,
    /// Its metrics.
    pub metrics: ListenerMetrics,
}

/// Accepts until `stopped`; accepted connections are tasks of their own.
async fn run(
    listener: Arc<Listener>,
    port: Option<u16>,
    mut acceptor: Acceptor,
    sessions: Arc<Sessions>,
    mut stopped: oneshot::Receiver<PendingConnections>,
) {
    let waiting = loop {
        let accepted = tokio::select! {
            biased;
            waiting = &mut stopped => break waiting,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => begin_connection(&listener, port, &sessions, accepted),
            Err(pause) => {
                listener.settings.load().metrics.error(ConnectionError::AcceptPaused);
                if pause.is_news {
                    tracing::error!(listener = %listener.name, error = %pause.source, reason = pause.reason.label(), "{pause}");
                }
            }
        }
    };
    if waiting == Ok(PendingConnections::Accept) {
        acceptor.into_waiting().for_each(|accepted| begin_connection(&listener, port, &sessions, accepted));
    }
}

fn begin_connection(
    listener: &Arc<Listener>,
    port: Option<u16>,
    sessions: &Arc<Sessions>,
    (stream, peer): (Stream, PeerAddr),
) {
    let settings = listener.settings.load_full();
    let newcomer = match settings.proxy_protocol {
        None => match listener.admit(&settings, peer.inet()) {
            Some(newcomer) => newcomer,
            None => return,
        },
        // The address that counts is not known yet.
        Some(_) => None,
    };
    let Some(slot) = ConnectionSlot::take(listener, &settings) else {
        settings.metrics.error(ConnectionError::Limit);
        return;
    };
    let guard = sessions.enter(listener.id);
    let before = Box::pin(serve_until_session((stream, peer, newcomer), port, Arc::clone(listener), settings, guard));
    // In a box too, so that the task has one word of it when the session has begun.
    let before = Box::new(turns::in_turn(before));
    tokio::spawn(connection(before, begin, slot));
}

/// A connection's share of the listener's connection limit.
struct ConnectionSlot {
    listener: Arc<Listener>,
    _active: Active,
}

impl ConnectionSlot {
    fn take(listener: &Arc<Listener>, settings: &ListenerSettings) -> Option<ConnectionSlot> {
        let limit = settings.limits.connections.map_or(usize::MAX, |limit| limit as usize);
        if listener.open.fetch_add(1, Ordering::Relaxed) >= limit {
            listener.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(ConnectionSlot { listener: Arc::clone(listener), _active: settings.metrics.accept() })
    }

    /// Takes one for a connection that another process has accepted, whatever the limit.
    fn take_anyway(listener: &Arc<Listener>) -> ConnectionSlot {
        listener.open.fetch_add(1, Ordering::Relaxed);
        ConnectionSlot { listener: Arc::clone(listener), _active: listener.settings.load().metrics.arrived() }
    }
}

/// What a task holds to its end: a connection's place, or a stream's.
trait Place {
    /// Logs a panic that has ended the task.
    fn panicked(self, panic: &Panic);
}

impl Place for ConnectionSlot {
    #[cold]
    fn panicked(self, panic: &Panic) {
        self.listener.panicked(panic, "the connection is closed");
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.listener.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection from accept to its end, or one stream of a connection that has several.
///
/// Every variable enlarges the task for its whole life, so there are few: the part before the session is boxed and freed when
/// it is done; the session is inside the future, the task's only allocation.
#[expect(clippy::manual_async_fn, reason = "an async fn would hold its arguments twice")]
fn connection<T, P: Place>(
    mut before: impl Future<Output = Option<T>> + Unpin,
    // Of no size, as a function pointer is not.
    begin: impl Fn(T) -> Option<LiveSession> + Unpin,
    slot: P,
) -> impl Future<Output = ()> {
    async move {
        // Freed as soon as it is done. After a panic too, dropping it releases all that it held.
        let begun = poll_fn(move |cx| Pin::new(&mut before).poll(cx).map(|before| before.and_then(&begin)));
        let mut session = match panics::catching(PanicSite::Connection, begun).await {
            Ok(Some(session)) => session,
            Ok(None) => return,
            Err(panic) => return slot.panicked(&panic),
        };
        let mut timer = pin!(sleep_until(Instant::now()));
        while poll_fn(|cx| session.poll(cx, timer.as_mut())).await == Turn::Leaving {
            // Boxed: what happens once must not make the task larger all its life.
            if Box::pin(moving::leave(&mut session)).await {
                return;
            }
        }
        // Drop the session first: the slot is free only when its connections have ended.
        match panics::catch(PanicSite::Session, || drop(session)) {
            Ok(()) => drop(slot),
            Err(panic) => slot.panicked(&panic),
        }
    }
}

type Upgraded = (Box<PendingUpgrade>, DownstreamIo, Vec<u8>, Guard<SessionEntry>);

fn begin((pending, io, early, guard): Upgraded) -> Option<LiveSession> {
    Some(pending.begin((io, early), guard))
}

/// Serves everything before the session. Returns `None` if no session begins.
async fn serve_until_session(
    (stream, peer, mut newcomer): (Stream, PeerAddr, Admitted),
    listener_port: Option<u16>,
    listener: Arc<Listener>,
    settings: Arc<ListenerSettings>,
    guard: Guard<SessionEntry>,
) -> Option<Upgraded> {
    // Read the clock once, and only if a deadline is needed.
    let mut accepted = None;
    let mut deadline = || *accepted.get_or_insert_with(Instant::now) + settings.timeouts.tls.duration();
    let mut peer = peer.inet();
    let mut port = listener_port;
    let mut stream = Prefixed::from(stream);
    if let Some(mode) = settings.proxy_protocol {
        let (_, inner) = stream.into_parts();
        match proxy_protocol::read(inner, mode, deadline()).await {
            Ok((prefixed, announced)) => {
                stream = prefixed;
                if let Some(announced) = announced {
                    peer = Some(announced.client);
                    port = Some(announced.destination.port());
                }
                newcomer = listener.admit(&settings, peer)?;
            }
            Err(error) => {
                settings.metrics.error(ConnectionError::ProxyProtocol);
                tracing::debug!(listener = %listener.name, ?peer, %error, reason = error.label(), "no PROXY header");
                return None;
            }
        }
    }
    let mut downstream =
        Downstream { peer, http: Version::HTTP_11, tls: None, certificate: None, port, listener_port, newcomer };
    let (early, io, protocol) = match &settings.tls {
        None => {
            let due = || Instant::now() + settings.timeouts.headers.duration();
            let (early, stream, protocol) = match settings.protocols.as_slice() {
                [only] => {
                    let (early, stream) = stream.into_parts();
                    (early, stream, *only)
                }
                _ => match preface::tell(stream, due()).await {
                    Ok(told) => told,
                    Err(error) => {
                        settings.metrics.error(error);
                        return None;
                    }
                },
            };
            (early, Transport::Plain(stream), protocol)
        }
        Some(config) => {
            let started = Instant::now();
            match tls::server::accept(stream, Arc::clone(config), deadline()).await {
                Ok(stream) => {
                    downstream.tls = Some(record_tls(&settings.metrics, &stream, started.elapsed()));
                    let shown = stream.peer_certificate();
                    downstream.certificate = shown.map(|shown| Arc::new(tls::client_certificate::read(shown)));
                    let protocol = match stream.alpn_protocol() {
                        Some(name) if name == HttpProtocol::Http2.alpn() => HttpProtocol::Http2,
                        // A client that negotiates nothing speaks HTTP/1.1.
                        _ => HttpProtocol::Http11,
                    };
                    (Vec::new(), Transport::Tls(Box::new(stream)), protocol)
                }
                Err(error) => {
                    if matches!(error, TlsAcceptError::ServerName(_)) {
                        listener.bad_server_name(peer, &error);
                    }
                    settings.metrics.error(match error {
                        TlsAcceptError::ServerName(_) => ConnectionError::TlsServerName,
                        TlsAcceptError::Timeout => ConnectionError::TlsTimeout,
                        TlsAcceptError::Closed => ConnectionError::TlsClosed,
                        _ => ConnectionError::TlsFailed,
                    });
                    tracing::debug!(listener = %listener.name, ?peer, %error, reason = error.label(), "TLS failed");
                    return None;
                }
            }
        }
    };
    if protocol == HttpProtocol::Http2 {
        downstream.http = Version::HTTP_2;
        // In a task of its own: its sessions must not wait for turns of handshakes.
        let serving = h2::serve(io, early, downstream, Arc::clone(&listener), settings, guard);
        let serving = tokio::spawn(panics::catching(PanicSite::Connection, Box::pin(serving)));
        if let Ok(Err(panic)) = serving.await {
            listener.panicked(&panic, "the connection is closed");
        }
        return None;
    }
    let (pending, io, early) = Box::pin(h1::serve(io, early, downstream, &listener, &settings, &guard)).await?;
    Some((pending, io, early, guard))
}

fn record_tls(metrics: &ListenerMetrics, stream: &ServerStream, took: Duration) -> &'static str {
    let version = match stream.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => TlsVersionLabel::Tls12,
        _ => TlsVersionLabel::Tls13,
    };
    let resumed = stream.handshake_kind() == Some(HandshakeKind::Resumed);
    metrics.tls_handshake(version, resumed, took);
    version.label()
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    /// Returns the size of the future of `f`.
    fn size_of_answer<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_is_a_task_of_640_bytes() {
        type Before = Pin<Box<std::future::Ready<Option<Upgraded>>>>;
        // tokio's own part of a task, whose size is a multiple of 128 on common machines.
        let task = 104;
        let bytes = size_of_answer(|before: Before, slot: ConnectionSlot| connection(before, begin, slot));
        assert!(bytes + task <= 640, "{bytes}");
    }
}
