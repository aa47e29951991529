//! What the streams of a connection share with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::super::metrics::ListenerMetrics;
use super::super::{Listener, ListenerSettings, Place};
use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::http2::flood::Allowance;
use crate::http2::frame::{FrameHeader, kind};
use crate::http2::watched::FrameWatcher;
use crate::proxy::Downstream;
use crate::session::registry::{Guard, SessionRegistry};
use crate::session::{SessionEntry, Sessions};
use crate::telemetry::counters::Active;
use crate::telemetry::panics::Panic;

/// One connection, as its streams see it.
pub(super) struct Shared {
    pub(super) downstream: Downstream,
    pub(super) listener: Arc<Listener>,
    pub(super) settings: Arc<ListenerSettings>,
    registry: Arc<SessionRegistry<SessionEntry>>,
    /// Streams open now.
    open: AtomicUsize,
    /// Those of them that are sessions.
    sessions: Arc<AtomicUsize>,
    /// When the last stream ended.
    quiet_since: AtomicU64,
    /// Whether a request has come.
    requested: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        downstream: Downstream,
        listener: &Arc<Listener>,
        settings: &Arc<ListenerSettings>,
        registry: &Arc<Sessions>,
    ) -> Shared {
        Shared {
            downstream,
            listener: Arc::clone(listener),
            settings: Arc::clone(settings),
            registry: Arc::clone(registry),
            open: AtomicUsize::new(0),
            sessions: Arc::default(),
            quiet_since: AtomicU64::new(clock::coarse().as_micros()),
            requested: AtomicBool::new(false),
        }
    }

    /// Returns how many sessions it carries.
    pub(super) fn sessions(&self) -> &Arc<AtomicUsize> {
        &self.sessions
    }

    /// Returns true once a request has come.
    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// Returns since when no stream is open; `None` while one is.
    pub(super) fn quiet_since(&self) -> Option<MonotonicTime> {
        let is_quiet = self.open.load(Ordering::Relaxed) == 0;
        is_quiet.then(|| MonotonicTime::from_micros(self.quiet_since.load(Ordering::Relaxed)))
    }

    /// Registers a session, which is one of this connection until the second value is dropped.
    pub(super) fn enter(&self) -> (Guard<SessionEntry>, OpenSession) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        (self.registry.enter(self.listener.id), OpenSession(Arc::clone(&self.sessions)))
    }
}

/// A session of a connection until this is dropped.
#[derive(Debug)]
pub(super) struct OpenSession(Arc<AtomicUsize>);

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that is open until this is dropped.
pub(super) struct OpenStream {
    shared: Arc<Shared>,
    _active: Active,
}

impl OpenStream {
    pub(super) fn new(shared: &Arc<Shared>) -> OpenStream {
        shared.requested.store(true, Ordering::Relaxed);
        shared.open.fetch_add(1, Ordering::Relaxed);
        let active = shared.settings.metrics.http2.stream();
        OpenStream { shared: Arc::clone(shared), _active: active }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Place for OpenStream {
    #[cold]
    fn panicked(self, panic: &Panic) {
        self.shared.listener.panicked(panic, "the stream is reset");
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.shared.quiet_since.store(clock::coarse().as_micros(), Ordering::Relaxed);
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Watches the frames of a connection: counts what ends streams and connections, and notices a flood.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    allowance: Allowance,
    is_flooded: Arc<AtomicBool>,
}

impl Watcher {
    /// Sets `is_flooded` once the client has sent more than it may.
    pub(super) fn new(shared: &Arc<Shared>, is_flooded: &Arc<AtomicBool>) -> Watcher {
        let allowance = Allowance::new(clock::coarse());
        Watcher { shared: Arc::clone(shared), allowance, is_flooded: Arc::clone(is_flooded) }
    }

    fn metrics(&self) -> &ListenerMetrics {
        &self.shared.settings.metrics
    }
}

impl FrameWatcher for Watcher {
    fn received(&mut self, frame: FrameHeader) {
        match frame.kind {
            kind::RST_STREAM => self.metrics().http2.reset_in.inc(),
            kind::GOAWAY => self.metrics().http2.goaway_in.inc(),
            _ => {}
        }
        if self.allowance.received(frame, clock::coarse()).is_err() {
            self.is_flooded.store(true, Ordering::Relaxed);
        }
    }

    fn sent(&mut self, frame: FrameHeader) {
        match frame.kind {
            kind::RST_STREAM => self.metrics().http2.reset_out.inc(),
            kind::GOAWAY => self.metrics().http2.goaway_out.inc(),
            _ => {}
        }
        if self.allowance.sent(frame, clock::coarse()).is_err() {
            self.is_flooded.store(true, Ordering::Relaxed);
        }
    }
}
