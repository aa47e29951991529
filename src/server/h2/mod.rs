//! Serves HTTP/2 on one connection until it ends: its streams are requests, or sessions (RFC 9113, RFC 8441).
//!
//! Each stream is a task of its own, which ends with its answer or with its session. The connection's task reads and writes
//! frames for all of them. It is asked to end as a connection of HTTP/1.1 is, but ends by GOAWAY: no new streams, and those
//! that are there go on, each session to its own moment.
//!
//! What a connection may hold is bounded: for each of its streams, `STREAM_WINDOW` that came and was not taken yet, and
//! `SEND_BUFFER` that was given and not sent. The window of the connection has room for all streams, so that one which is not
//! taken from never holds up the others.

mod answer;
mod request;
mod shared;
mod stream;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::metrics::ConnectionError;
use super::write_timeout::WriteTimeout;
use super::{DownstreamIo, Listener, ListenerSettings};
use crate::base::clock;
use crate::base::error_chain::error_chain;
use crate::http2::watched::Watched;
use crate::http2::window::{self, SEND_BUFFER, STREAM_WINDOW};
use crate::net::stream::Prefixed;
use crate::proxy::Downstream;
use crate::session::SessionEntry;
use crate::session::registry::Guard;
use shared::{OpenStream, Shared, Watcher};

/// How many streams may be opened and reset before the first of them is looked at, however few may be open.
const PENDING_RESETS_MIN: u32 = 100;
/// How long a client may take to close a connection without streams once it was told to.
const LINGER: Duration = Duration::from_secs(2);

/// Serves streams until the connection ends. `early` was read from it already.
pub(super) async fn serve(
    io: DownstreamIo,
    early: Vec<u8>,
    downstream: Downstream,
    listener: Arc<Listener>,
    settings: Arc<ListenerSettings>,
    guard: Guard<SessionEntry>,
) {
    let (timeouts, limits) = (&settings.timeouts, &settings.limits);
    let shared = Arc::new(Shared::new(downstream, &listener, &settings, guard.registry()));
    let is_flooded = Arc::new(AtomicBool::new(false));
    let _active = settings.metrics.http2.connection();
    let timed = WriteTimeout::new(Prefixed::new(early, io), timeouts.send.duration());
    let timed = timed.with_sessions(Arc::clone(shared.sessions()));
    let io = Watched::new(timed, Watcher::new(&shared, &is_flooded));
    let first_due = Instant::now() + timeouts.headers.duration();
    let connection_window = window::of_connection(limits.streams);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window)
        // What small frames cost beside their bytes, while they wait for their streams.
        .data_frame_budget(connection_window as usize)
        // Floods are for the watcher to judge: a client may give up all its streams at once.
        .max_pending_accept_reset_streams(limits.streams.max(PENDING_RESETS_MIN) as usize)
        .max_local_error_reset_streams(None)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes.len()).unwrap_or(u32::MAX));
    if settings.extended_connect {
        builder.enable_connect_protocol();
    }
    let ended = match timeout_at(first_due, builder.handshake::<_, Bytes>(io)).await {
        Ok(Ok(connection)) => drive(connection, &shared, &is_flooded, &guard, first_due).await,
        Ok(Err(error)) => Ended::Failed(error),
        Err(_) => Ended::NoRequest,
    };
    if let Some((error, cause)) = ended.error(is_flooded.load(Ordering::Relaxed)) {
        settings.metrics.error(error);
        tracing::debug!(listener = %listener.name, reason = error.label(), cause, "HTTP/2 connection ended");
    }
}

/// How a connection has ended.
enum Ended {
    /// In order, or because it was asked to.
    Closed,
    /// No request came in time.
    NoRequest,
    /// Otherwise.
    Failed(h2::Error),
}

impl Ended {
    /// Returns what is counted of it, and why.
    fn error(self, is_flooded: bool) -> Option<(ConnectionError, String)> {
        let error = match self {
            _ if is_flooded => {
                return Some((ConnectionError::Http2Flood, "more frames without data than it may".into()));
            }
            Ended::Closed => return None,
            Ended::NoRequest => return Some((ConnectionError::HeaderTimeout, String::new())),
            Ended::Failed(error) => error,
        };
        let kind = match error.reason() {
            // The client ends it, and says why.
            _ if error.is_remote() => return None,
            Some(Reason::NO_ERROR) => return None,
            Some(Reason::ENHANCE_YOUR_CALM) => ConnectionError::Http2Flood,
            Some(_) => ConnectionError::Http2Protocol,
            None => match error.get_io().map(std::io::Error::kind) {
                Some(std::io::ErrorKind::TimedOut) => ConnectionError::SendTimeout,
                // It has gone: nothing is lost but what its streams tell of.
                _ => return None,
            },
        };
        Some((kind, error_chain(&error)))
    }
}

/// Drives a connection to its end.
async fn drive<T>(
    mut connection: h2::server::Connection<T, Bytes>,
    shared: &Arc<Shared>,
    is_flooded: &AtomicBool,
    guard: &Guard<SessionEntry>,
    first_due: Instant,
) -> Ended
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let keep_alive = shared.settings.timeouts.keep_alive.duration();
    let mut timer = pin!(sleep_until(first_due));
    let (mut is_ending, mut is_cut_off, mut is_late) = (false, false, false);
    poll_fn(|cx| {
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let open = OpenStream::new(shared);
                    let before = Box::pin(stream::serve(Arc::clone(open.shared()), request, respond));
                    tokio::spawn(super::connection(Box::new(before), stream::begin, open));
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Ended::Failed(error)),
                Poll::Ready(None) => return Poll::Ready(if is_late { Ended::NoRequest } else { Ended::Closed }),
                Poll::Pending => {}
            }
            if is_flooded.load(Ordering::Relaxed) && !std::mem::replace(&mut is_cut_off, true) {
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                continue;
            }
            if !is_ending && guard.poll_last_request(cx).is_ready() {
                is_ending = true;
                connection.graceful_shutdown();
                timer.as_mut().reset(Instant::now() + LINGER);
                continue;
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // The timer is lazy: requests do not move it.
            let now = clock::now();
            let wait = match shared.quiet_since() {
                // It was told to go, and has nothing more here.
                Some(_) if is_ending || is_cut_off => {
                    return Poll::Ready(if is_late { Ended::NoRequest } else { Ended::Closed });
                }
                None if is_ending => LINGER,
                None => keep_alive,
                Some(since) => {
                    is_late = !shared.is_requested();
                    let left = keep_alive.saturating_sub(now.since(since));
                    if is_late || left.is_zero() {
                        is_ending = true;
                        connection.graceful_shutdown();
                        timer.as_mut().reset(Instant::now() + LINGER);
                        continue;
                    }
                    left
                }
            };
            timer.as_mut().reset(Instant::now() + wait.max(Duration::from_millis(1)));
        }
    })
    .await
}
