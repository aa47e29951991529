//! One connection of HTTP/2 to a server, from its first SETTINGS to its end.
//!
//! A task of the worker drives it. Whoever holds the [`Connection`] may open streams; when it is dropped, the connection goes
//! on until its last stream has ended. It is told to take no new streams when the server says so (GOAWAY), and when it has had
//! none for a while.
//!
//! What it may hold is bounded as on the side of clients: for each stream, what came and was not taken yet, and what was given
//! and not sent. The window of the connection has room for all streams, so that one which is not taken from never holds up
//! the others.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::time::{Instant, sleep, timeout_at};

use crate::base::clock;
use crate::base::error_chain::error_chain;
use crate::base::time::MonotonicTime;
use crate::http2::frame::{FrameHeader, kind};
use crate::http2::watched::{FrameWatcher, Watched};
use crate::http2::window::{self, SEND_BUFFER, STREAM_WINDOW};
use crate::telemetry::counters::Active;
use crate::upstream::connect::UpstreamIo;
use crate::upstream::metrics::Http2Metrics;

/// The most streams of a connection, whatever the server allows: what is lost with one connection.
pub const STREAMS_MAX: usize = 100;
/// After so many streams another connection is taken: their numbers are used up some day (RFC 9113 §5.1.1).
const STREAMS_EVER_MAX: u64 = 1 << 24;
/// The largest head of an answer.
const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// How long a connection without streams is kept: shorter than most servers keep theirs. One that ends just as it is used
/// costs little, since the server says what it has not looked at.
const IDLE: Duration = Duration::from_secs(4);
/// How long a server may take to close a connection that has no streams any more.
const LINGER: Duration = Duration::from_secs(2);

/// Why a connection of HTTP/2 did not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// It failed, or the server does not speak HTTP/2 on it.
    #[error("HTTP/2 could not begin")]
    Failed(#[source] h2::Error),
    /// The server has closed it, or wants no requests on it.
    #[error("the server ended HTTP/2 before it began")]
    Ended,
    /// The server allows no stream at all (SETTINGS_MAX_CONCURRENT_STREAMS).
    #[error("the server allows no streams")]
    NoStreams,
    /// Its SETTINGS did not come in time.
    #[error("the server's SETTINGS did not come in time")]
    Timeout,
}

/// A connection that may take new streams. Dropping it lets those go on that are there.
#[derive(Debug)]
pub struct Connection {
    /// Empty once it takes no new streams. Its driver takes it out.
    sender: Arc<Mutex<Option<SendRequest<Bytes>>>>,
    state: Arc<ConnectionState>,
    /// Whether the server takes WebSockets on it (RFC 8441 §3).
    pub takes_websockets: bool,
}

/// What a connection's driver and its streams know of it.
#[derive(Debug)]
struct ConnectionState {
    /// Streams open now.
    open: AtomicUsize,
    /// Streams opened so far.
    opened: AtomicU64,
    /// When the last one ended.
    quiet_since: AtomicU64,
    /// The server's SETTINGS are in force.
    is_settled: AtomicBool,
    /// It takes no new streams.
    is_going: AtomicBool,
    /// It has carried an answer.
    has_answered: AtomicBool,
    metrics: Arc<Http2Metrics>,
}

impl Connection {
    /// Begins HTTP/2 on `io`, and waits for the server's SETTINGS.
    ///
    /// # Errors
    /// See [`BeginError`].
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn begin(
        io: UpstreamIo,
        metrics: &Arc<Http2Metrics>,
        deadline: Instant,
    ) -> Result<Connection, BeginError> {
        let state = Arc::new(ConnectionState {
            open: AtomicUsize::new(0),
            opened: AtomicU64::new(0),
            quiet_since: AtomicU64::new(clock::coarse().as_micros()),
            is_settled: AtomicBool::new(false),
            is_going: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            metrics: Arc::clone(metrics),
        });
        let connection_window = window::of_connection(STREAMS_MAX as u32);
        let beginning = async {
            let (sender, mut driven) = h2::client::Builder::new()
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(connection_window)
                .data_frame_budget(connection_window as usize)
                .max_send_buffer_size(SEND_BUFFER)
                .max_header_list_size(HEAD_BYTES_MAX)
                .enable_push(false)
                .handshake::<_, Bytes>(Watched::by_client(io, Watcher(Arc::clone(&state))))
                .await
                .map_err(BeginError::Failed)?;
            poll_fn(|cx| match Pin::new(&mut driven).poll(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Err(BeginError::Ended)),
                Poll::Ready(Err(error)) => Poll::Ready(Err(BeginError::Failed(error))),
                Poll::Pending if state.is_going.load(Ordering::Relaxed) => Poll::Ready(Err(BeginError::Ended)),
                Poll::Pending if state.is_settled.load(Ordering::Relaxed) => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            })
            .await?;
            Ok((sender, driven))
        };
        let (sender, driven) = timeout_at(deadline, beginning).await.map_err(|_| BeginError::Timeout)??;
        if sender.current_max_send_streams() == 0 {
            return Err(BeginError::NoStreams);
        }
        let takes_websockets = sender.is_extended_connect_protocol_enabled();
        let sender = Arc::new(Mutex::new(Some(sender)));
        tokio::spawn(drive(driven, Arc::clone(&state), Arc::downgrade(&sender)));
        Ok(Connection { sender, state, takes_websockets })
    }

    /// Returns true if it takes no new streams any more.
    pub fn is_gone(&self) -> bool {
        self.state.is_going.load(Ordering::Relaxed)
    }

    /// Returns how many streams it may have, and how many more.
    pub fn room(&self) -> (usize, usize) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = sender.as_ref().filter(|_| !self.is_gone()) else { return (0, 0) };
        let all = sender.current_max_send_streams().min(STREAMS_MAX);
        (all, all.saturating_sub(self.state.open.load(Ordering::Relaxed)))
    }

    /// Takes a place for a stream, if one is left.
    pub fn place(&self) -> Option<Place> {
        if self.room().1 == 0 {
            return None;
        }
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        if self.state.opened.fetch_add(1, Ordering::Relaxed) + 1 >= STREAMS_EVER_MAX {
            self.state.is_going.store(true, Ordering::Relaxed);
        }
        Some(Place { sender, permit: StreamPermit::new(&self.state) })
    }
}

/// A place for one stream on a connection.
#[derive(Debug)]
pub struct Place {
    /// Sends the request.
    pub sender: SendRequest<Bytes>,
    /// Held as long as the stream is open.
    pub permit: StreamPermit,
}

/// A stream that is open, or about to be, until this is dropped.
#[derive(Debug)]
pub struct StreamPermit {
    state: Arc<ConnectionState>,
    _active: Active,
}

impl StreamPermit {
    fn new(state: &Arc<ConnectionState>) -> StreamPermit {
        state.open.fetch_add(1, Ordering::Relaxed);
        StreamPermit { state: Arc::clone(state), _active: Active::new(&state.metrics.streams) }
    }

    /// Returns true if the connection has carried an answer.
    pub fn was_used(&self) -> bool {
        self.state.has_answered.load(Ordering::Relaxed)
    }

    /// Records an answer.
    pub fn answered(&self) {
        self.state.has_answered.store(true, Ordering::Relaxed);
    }

    /// Returns the metrics of its upstream.
    pub fn metrics(&self) -> &Http2Metrics {
        &self.state.metrics
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.state.quiet_since.store(clock::coarse().as_micros(), Ordering::Relaxed);
        self.state.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Drives a connection to its end.
async fn drive<T>(
    mut driven: h2::client::Connection<T, Bytes>,
    state: Arc<ConnectionState>,
    sender: Weak<Mutex<Option<SendRequest<Bytes>>>>,
) where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let _active = Active::new(&state.metrics.connections);
    // However the task ends.
    let ending = Ending { state: &state, sender: &sender };
    let mut timer = pin!(sleep(IDLE));
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut driven).poll(cx) {
                return Poll::Ready(ended);
            }
            if state.is_going.load(Ordering::Relaxed) && ending.retire() {
                // With the last handle gone, it ends with its last stream.
                continue;
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // The timer is lazy: streams do not move it.
            let is_retired = ending.is_retired();
            let limit = if is_retired { LINGER } else { IDLE };
            let left = state.quiet_since().map_or(limit, |since| limit.saturating_sub(clock::now().since(since)));
            if left.is_zero() {
                if is_retired {
                    return Poll::Ready(Ok(()));
                }
                ending.retire();
                timer.as_mut().reset(Instant::now() + LINGER);
                continue;
            }
            timer.as_mut().reset(Instant::now() + left.max(Duration::from_millis(1)));
        }
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(error = %error_chain(&error), "a connection of HTTP/2 to a server ended");
    }
}

impl ConnectionState {
    /// Returns since when no stream is open; `None` while one is.
    fn quiet_since(&self) -> Option<MonotonicTime> {
        let is_quiet = self.open.load(Ordering::Relaxed) == 0;
        is_quiet.then(|| MonotonicTime::from_micros(self.quiet_since.load(Ordering::Relaxed)))
    }
}

/// Sees to it that a connection takes no new streams once its driver has ended.
struct Ending<'a> {
    state: &'a ConnectionState,
    sender: &'a Weak<Mutex<Option<SendRequest<Bytes>>>>,
}

impl Ending<'_> {
    /// Takes no new streams from now on. Returns true if it did until now.
    fn retire(&self) -> bool {
        self.state.is_going.store(true, Ordering::Relaxed);
        let sender = self.sender.upgrade();
        let sender = sender.and_then(|sender| sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        sender.is_some()
    }

    fn is_retired(&self) -> bool {
        let sender = self.sender.upgrade();
        sender.is_none_or(|sender| sender.lock().unwrap_or_else(PoisonError::into_inner).is_none())
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.retire();
    }
}

/// Watches a connection's frames: notices when the server's SETTINGS are in force, and that it goes away.
struct Watcher(Arc<ConnectionState>);

impl FrameWatcher for Watcher {
    fn received(&mut self, frame: FrameHeader) {
        if frame.kind == kind::GOAWAY {
            self.0.metrics.goaways.inc();
            self.0.is_going.store(true, Ordering::Relaxed);
        }
    }

    fn sent(&mut self, frame: FrameHeader) {
        // Ours say something; one without a word acknowledges theirs, which are in force then.
        if frame.kind == kind::SETTINGS && frame.length == 0 {
            self.0.is_settled.store(true, Ordering::Relaxed);
        }
    }
}
