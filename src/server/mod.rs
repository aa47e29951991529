//! Accepting connections and seeing each through: PROXY header, TLS, HTTP/1.1, and the session after a 101.
//!
//! One accept loop per listener and worker; a connection stays on the worker that accepted it, and so does all it leads
//! to. What comes before the session is boxed and freed when the session begins, so that a connection that lives for
//! hours is as small as its relay.

pub mod accepting;
mod h1;
pub mod metrics;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::base::clock;
use crate::config::{ListenerLimits, ListenerTimeouts};
use crate::net::listener::Acceptor;
use crate::net::proxy_protocol::{self, Mode};
use crate::net::stream::{PeerAddr, Prefixed, Stream};
use crate::net::transport::Transport;
use crate::proxy::upgrade::{PendingUpgrade, SessionPermits};
use crate::proxy::{Downstream, Proxy};
use crate::session::registry::Guard;
use crate::session::{Member, Session, Sessions};
use crate::telemetry::counters::Active;
use crate::telemetry::panics::{self, Panic, PanicSite};
use crate::tls::server::TlsAcceptError;
use crate::tls::{self, ServerStream};
use crate::upstream::connect::UpstreamIo;
use accepting::PendingConnections;
use metrics::{ConnectionError, ListenerMetrics, TlsVersionLabel};

/// A client's connection, with or without TLS.
pub type DownstreamIo = Transport<ServerStream>;

/// One listener, shared by the workers that accept on it. It stays the same while it has its name; what the configuration
/// says of it is swapped.
#[derive(Debug)]
pub struct Listener {
    /// As in the configuration.
    pub name: Arc<str>,
    /// Its number in this process, which no other has.
    pub id: u32,
    /// How connections begin: each keeps to the end what it finds when it is accepted.
    pub settings: ArcSwap<ListenerSettings>,
    /// What becomes of requests: each keeps to the end what it finds when its head has come.
    pub proxy: ArcSwap<Proxy>,
    /// Connections open now.
    open: AtomicUsize,
    /// Until when, on the clock, the log has heard enough of bad server names.
    quiet_until: AtomicU64,
}

/// Whoever connects can cause such lines; the counter has them all.
const BETWEEN_LINES: Duration = Duration::from_secs(60);

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

impl Listener {
    /// A listener without connections.
    pub fn new(name: Arc<str>, settings: Arc<ListenerSettings>, proxy: Arc<Proxy>) -> Listener {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (open, quiet_until) = (AtomicUsize::new(0), AtomicU64::new(0));
        Listener { name, id, settings: ArcSwap::new(settings), proxy: ArcSwap::new(proxy), open, quiet_until }
    }

    /// A client asked for a name that rustls refuses. Clients see an alert that says nothing, and nobody else sees any of
    /// it; so the operator is told, at most once a minute.
    #[cold]
    fn bad_server_name(&self, peer: Option<SocketAddr>, error: &TlsAcceptError) {
        let (now, before) = (clock::coarse(), self.quiet_until.load(Ordering::Relaxed));
        let until = (now + BETWEEN_LINES).as_micros();
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

/// What one configuration says of how a listener's connections begin.
#[derive(Debug)]
pub struct ListenerSettings {
    /// TLS, if it ends here.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether a PROXY header comes first.
    pub proxy_protocol: Option<Mode>,
    /// How long what comes before a request may take.
    pub timeouts: ListenerTimeouts,
    /// How much a connection may ask for.
    pub limits: ListenerLimits,
    /// What it counts on.
    pub metrics: ListenerMetrics,
}

/// Accepts until `stopped`; connections accepted go on by themselves.
async fn run(
    listener: Arc<Listener>,
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
            Ok(accepted) => begin_connection(&listener, &sessions, accepted),
            Err(pause) => {
                listener.settings.load().metrics.error(ConnectionError::AcceptPaused);
                if pause.is_news {
                    tracing::error!(listener = %listener.name, error = %pause.source, reason = pause.reason.as_str(), "{pause}");
                }
            }
        }
    };
    if waiting == Ok(PendingConnections::Accept) {
        acceptor.into_waiting().for_each(|accepted| begin_connection(&listener, &sessions, accepted));
    }
}

fn begin_connection(listener: &Arc<Listener>, sessions: &Arc<Sessions>, (stream, peer): (Stream, PeerAddr)) {
    let settings = listener.settings.load_full();
    let Some(slot) = ConnectionSlot::take(listener, &settings) else {
        settings.metrics.error(ConnectionError::Limit);
        return;
    };
    let guard = sessions.enter(listener.id);
    let before = Box::pin(until_session(stream, peer, Arc::clone(listener), settings, guard));
    tokio::spawn(connection(before, slot));
}

/// A connection's place on its listener.
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

    /// A panic has ended what was in it.
    #[cold]
    fn panicked(self, panic: &Panic) {
        tracing::error!(
            r#where = PanicSite::Connection.label(),
            location = panic.location,
            listener = %self.listener.name,
            "panic: {}: the connection is closed",
            panic.message
        );
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.listener.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection from accept to its end.
///
/// What this future names it keeps for life, so it names little: what comes before the session is a box, freed when it
/// is done; the session is in the future itself, the task's only allocation.
#[expect(clippy::manual_async_fn, reason = "an async fn would hold its arguments twice")]
fn connection(
    mut before: impl Future<Output = Option<Upgraded>> + Unpin,
    slot: ConnectionSlot,
) -> impl Future<Output = ()> {
    async move {
        // Freed as soon as it is done. After a panic too nothing is left of it: what it had it gives back in being dropped.
        let begun = poll_fn(move |cx| Pin::new(&mut before).poll(cx).map(|upgraded| upgraded.map(begin)));
        let mut session = match panics::catching(PanicSite::Connection, begun).await {
            Ok(Some(session)) => session,
            Ok(None) => return,
            Err(panic) => return slot.panicked(&panic),
        };
        let mut timer = pin!(sleep_until(Instant::now()));
        poll_fn(|cx| session.poll(cx, timer.as_mut())).await;
        // The session first: where its connections have ended, there is room for another.
        match panics::catch(PanicSite::Session, || drop(session)) {
            Ok(()) => drop(slot),
            Err(panic) => slot.panicked(&panic),
        }
    }
}

type Upgraded = (Box<PendingUpgrade>, DownstreamIo, Vec<u8>, Guard<Member>);

fn begin((pending, io, early, guard): Upgraded) -> Session<DownstreamIo, UpstreamIo, SessionPermits> {
    pending.begin((io, early), guard)
}

/// Everything before the session; `None` when there is none to come.
async fn until_session(
    stream: Stream,
    peer: PeerAddr,
    listener: Arc<Listener>,
    settings: Arc<ListenerSettings>,
    guard: Guard<Member>,
) -> Option<Upgraded> {
    // Read once, and by none of those that need no deadline.
    let mut accepted = None;
    let mut deadline = || *accepted.get_or_insert_with(Instant::now) + settings.timeouts.tls.duration();
    let mut peer = match peer {
        PeerAddr::Inet(addr) => Some(addr),
        PeerAddr::Unix => None,
    };
    let mut stream = Prefixed::from(stream);
    if let Some(mode) = settings.proxy_protocol {
        let (_, inner) = stream.into_parts();
        match proxy_protocol::read(inner, mode, deadline()).await {
            Ok((prefixed, announced)) => {
                stream = prefixed;
                if let Some(announced) = announced {
                    peer = Some(announced.client);
                }
            }
            Err(error) => {
                settings.metrics.error(ConnectionError::ProxyProtocol);
                tracing::debug!(listener = %listener.name, ?peer, %error, reason = error.label(), "no PROXY header");
                return None;
            }
        }
    }
    let mut downstream = Downstream { peer, tls: None };
    let (early, io) = match &settings.tls {
        None => {
            let (early, stream) = stream.into_parts();
            (early, Transport::Plain(stream))
        }
        Some(config) => {
            let started = Instant::now();
            match tls::server::accept(stream, Arc::clone(config), deadline()).await {
                Ok(stream) => {
                    downstream.tls = Some(note_tls(&settings.metrics, &stream, started.elapsed()));
                    (Vec::new(), Transport::Tls(Box::new(stream)))
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
    let (pending, io, early) = Box::pin(h1::serve(io, early, downstream, &listener, &settings, &guard)).await?;
    Some((pending, io, early, guard))
}

fn note_tls(metrics: &ListenerMetrics, stream: &ServerStream, took: Duration) -> &'static str {
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

    /// The size of what `f` answers.
    fn size_of_answer<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_is_a_task_of_640_bytes() {
        type Before = Pin<Box<std::future::Ready<Option<Upgraded>>>>;
        // Tokio's own part of a task, whose size is a multiple of 128 on the machines that are counted here.
        let task = 96;
        let bytes = size_of_answer(|before: Before, slot| connection(before, slot));
        assert!(bytes + task <= 640, "{bytes}");
    }
}
