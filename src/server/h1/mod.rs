//! Serves HTTP/1.1 on one connection with hyper, until it ends or a 101 opens a session.
//!
//! `poll_without_shutdown` returns the stream and hyper's unread bytes in the same task: it needs no second task and no
//! channel, and hyper's buffers are freed. A 101 is not hyper's to write: the request's future stays pending, and hyper is
//! taken apart as soon as there is a session. The deadline of the first request head is our own; hyper's timer covers later
//! heads and the wait for them, so it is set to the longer of the two times.
//!
//! A request that hyper itself refuses is answered, counted and logged like any other refusal.

mod switching;
mod write_turn;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http::header::DATE;
use http::{HeaderValue, Response};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::metrics::ConnectionError;
use super::write_timeout::WriteTimeout;
use super::{DownstreamIo, Listener, ListenerSettings};
use crate::base::error_chain::error_chain;
use crate::header::field_line;
use crate::net::head_guard::HeadGuard;
use crate::net::stream::Prefixed;
use crate::proxy::body::Body;
use crate::proxy::outcome::Failure;
use crate::proxy::upgrade::PendingUpgrade;
use crate::proxy::{Downstream, ProxyResponse, body};
use crate::session::SessionEntry;
use crate::session::registry::Guard;
use crate::ws::handshake;
use write_turn::{AnswerBody, HeldBackWrites, WriteTurn};

/// hyper's default limit, which needs no allocation; setting the same number would need one.
const HEADERS_DEFAULT: u32 = 100;
/// The least size of hyper's buffer, which also holds bytes of a body, or early frames.
const BUFFER_BYTES_MIN: usize = 32 * 1024;
/// How long a connection may still send its first request when it must end: more than a round trip over any network.
const LAST_HEAD: Duration = Duration::from_secs(1);
/// How long, and how much, a client may still send after the last response. Closing with unread bytes is a reset, which
/// can overtake that response.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 256 * 1024;

/// Serves requests until the connection ends (`None`) or one of them opens a session.
pub async fn serve(
    io: DownstreamIo,
    early: Vec<u8>,
    downstream: Downstream,
    listener: &Arc<Listener>,
    settings: &ListenerSettings,
    guard: &Guard<SessionEntry>,
) -> Option<(Box<PendingUpgrade>, DownstreamIo, Vec<u8>)> {
    let connection_state =
        Arc::new(ConnectionState { downstream, requested: AtomicBool::new(false), opening: Mutex::default() });
    let turn = Arc::new(WriteTurn::default());
    let service = {
        let (connection_state, listener, turn) =
            (Arc::clone(&connection_state), Arc::clone(listener), Arc::clone(&turn));
        service_fn(move |request: Request<Incoming>| {
            connection_state.requested.store(true, Ordering::Relaxed);
            turn.begin();
            let key = handshake::key_of(request.headers());
            let (connection_state, proxy, turn) =
                (Arc::clone(&connection_state), listener.proxy.load_full(), Arc::clone(&turn));
            Box::pin(async move {
                match proxy.handle(&connection_state.downstream, request.map(body::of_request)).await {
                    ProxyResponse::Http(response) => {
                        Ok::<_, Infallible>(response.map(|body| AnswerBody::new(body, turn)))
                    }
                    ProxyResponse::Session(mut session) => {
                        // A request without a key is not taken for a handshake.
                        let head = switching::head(&session.take_headers(), &key.unwrap_or_default());
                        *connection_state.opening() = Some(Opening { head, session });
                        std::future::pending().await
                    }
                }
            })
        })
    };
    let (timeouts, limits) = (&settings.timeouts, &settings.limits);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.headers.duration().max(timeouts.keep_alive.duration()))
        .max_header_size(limits.header_bytes.len())
        .max_buf_size(limits.header_bytes.len().max(BUFFER_BYTES_MIN));
    if limits.headers != HEADERS_DEFAULT {
        builder.max_headers(limits.headers as usize);
    }
    let guarded = HeadGuard::new(Prefixed::new(early, io));
    let timed = WriteTimeout::new(guarded, timeouts.send.duration());
    let io = TokioIo::new(HeldBackWrites::new(timed, Arc::clone(&turn)));
    let mut connection = builder.serve_connection(io, service);
    let served = {
        let mut first_head = pin!(sleep_until(Instant::now() + timeouts.headers.duration()));
        let (mut was_noticed, mut ending) = (false, false);
        poll_fn(|cx| {
            // At most twice: once more after the shutdown began.
            loop {
                if let Poll::Ready(served) = connection.poll_without_shutdown(cx) {
                    return Poll::Ready(served.map_err(ServeError::Http));
                }
                if connection_state.opening().is_some() {
                    return Poll::Ready(Ok(()));
                }
                let requested = connection_state.requested.load(Ordering::Relaxed);
                if !ending && guard.poll_last_request(cx).is_ready() {
                    if requested {
                        ending = true;
                        Pin::new(&mut connection).graceful_shutdown();
                        continue;
                    }
                    // hyper would close it at once, but its first request may be on its way. It gets a short time for that
                    // unless its deadline is nearer.
                    if guard.stop_at().is_some() && !std::mem::replace(&mut was_noticed, true) {
                        let soon = first_head.deadline().min(Instant::now() + LAST_HEAD);
                        first_head.as_mut().reset(soon);
                    }
                }
                if !requested && first_head.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(if was_noticed { Ok(()) } else { Err(ServeError::FirstHead) });
                }
                return Poll::Pending;
            }
        })
        .await
    };
    let parts = connection.into_parts();
    let (held_back, mut timed) = parts.io.into_inner().into_parts();
    let mut opening = connection_state.opening().take();
    let served = match &opening {
        Some(opening) => write_all(&mut timed, &opening.head).await.map_err(ServeError::Write),
        None => served,
    };
    let (is_send_timeout, guarded) = timed.into_parts();
    let refusal = guarded.refusal();
    let (is_head_request, has_space) = (guarded.is_head_request(), guarded.has_space_in_target());
    let (unread, mut io) = guarded.into_parts();
    if let (Ok(()), Some(Opening { session, .. })) = (&served, opening.take()) {
        let mut early = parts.read_buf.to_vec();
        early.extend_from_slice(&unread);
        return Some((session, io, early));
    }
    let error = match &served {
        _ if is_send_timeout => Some(ConnectionError::SendTimeout),
        Ok(()) => None,
        Err(ServeError::FirstHead) => Some(ConnectionError::HeaderTimeout),
        Err(ServeError::Http(error)) if error.is_timeout() => {
            // Between two requests, this is the normal end of keep-alive.
            (!connection_state.requested.load(Ordering::Relaxed)).then_some(ConnectionError::HeaderTimeout)
        }
        Err(ServeError::Http(error)) if error.is_parse() || refusal.is_some() => Some(ConnectionError::BadRequest),
        Err(ServeError::Http(error)) if error.is_incomplete_message() || error.is_canceled() => None,
        Err(ServeError::Http(_) | ServeError::Write(_)) => Some(ConnectionError::Io),
    };
    let mut answer = None;
    if let Some(error) = error {
        settings.metrics.error(error);
        let cause = match (&served, refusal) {
            (_, Some(refusal)) => refusal.to_string(),
            (Err(ServeError::Http(error)), None) => error_chain(error),
            (Err(ServeError::Write(error)), None) => error.to_string(),
            _ => String::new(),
        };
        tracing::debug!(listener = %listener.name, reason = error.label(), cause, "connection ended");
        if error == ConnectionError::BadRequest {
            let cause = if has_space && refusal.is_none() { SPACE.to_owned() } else { cause };
            let is_too_large = matches!(&served, Err(ServeError::Http(error)) if error.is_parse_too_large());
            let failure = match (is_too_large, held_back.starts_with(TARGET_TOO_LONG)) {
                (_, true) => Failure::TargetTooLong,
                (true, false) => Failure::HeadTooLarge,
                (false, false) => Failure::Malformed(cause),
            };
            // Log and count it even if hyper's own answer is out already, or none can be sent any more.
            let mut response = listener.proxy.load_full().refuse(&connection_state.downstream, &failure);
            if let Some(date) = date_in(&held_back) {
                response.headers_mut().insert(DATE, date);
            }
            if turn.is_quiet() {
                answer = Some((response, is_head_request));
            }
        }
    }
    // Not after a shutdown: all responses have been written.
    let _ = timeout(LINGER, async {
        if let Some((response, is_head_request)) = answer {
            write(&mut io, response, is_head_request).await?;
        }
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await
    })
    .await;
    None
}

/// The start of hyper's own answer to a target over 64 KiB; its error does not tell target from head.
const TARGET_TOO_LONG: &[u8] = b"HTTP/1.1 414 ";

/// hyper takes the part after the space for a version.
const SPACE: &str = "the target has a space in it, which is to be written %20";

/// Returns the Date of the answer that hyper would have sent.
fn date_in(held_back: &[u8]) -> Option<HeaderValue> {
    let mut lines = held_back.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.find_map(|line| HeaderValue::from_bytes(line.strip_prefix(b"date: ")?).ok())
}

async fn write_all(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    io.write_all(bytes).await?;
    io.flush().await
}

/// Writes a short, final response.
async fn write(io: &mut DownstreamIo, response: Response<Body>, is_head_request: bool) -> io::Result<()> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let reason = parts.status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_str()).into_bytes();
    for (name, value) in &parts.headers {
        field_line::append(&mut bytes, name.as_str(), value.as_bytes());
    }
    bytes.extend(format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()).into_bytes());
    if !is_head_request {
        bytes.extend_from_slice(&body);
    }
    write_all(io, &bytes).await
}

/// The state shared by a connection's loop and its requests.
struct ConnectionState {
    downstream: Downstream,
    /// Whether a request has come.
    requested: AtomicBool,
    /// What the last request has opened.
    opening: Mutex<Option<Opening>>,
}

/// A session that begins once its 101 is written.
struct Opening {
    head: Vec<u8>,
    session: Box<PendingUpgrade>,
}

impl ConnectionState {
    fn opening(&self) -> MutexGuard<'_, Option<Opening>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why serving ended early.
enum ServeError {
    /// The first request head did not come in time.
    FirstHead,
    /// hyper has failed.
    Http(hyper::Error),
    /// The 101 could not be written.
    Write(io::Error),
}
