//! Bodies: the one type of all answers, and a request body that can be sent again if nothing of it was read.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body as _, Frame, SizeHint};

use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::upstream::answer_body::AnswerBodyError;
use crate::upstream::request_body::RequestBody;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why an answer that has begun does not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Reading it from the endpoint failed.
    #[error("the endpoint's answer ended early")]
    Cut(#[source] AnswerBodyError),
    /// The endpoint sent nothing of it, or took nothing of the request's body, for too long.
    #[error("the server made no progress for as long as the route's timeouts.body allows")]
    UpstreamTimeout,
    /// The client sent nothing of the request's body for too long.
    #[error("the client sent nothing of its request's body for as long as the route's timeouts.body allows")]
    ClientTimeout,
    /// A mistake of an encoder.
    #[error("the answer cannot be compressed")]
    Compression(#[source] std::io::Error),
    /// The request's body became larger than the route allows.
    #[error(transparent)]
    TooLarge(BodyTooLarge),
}

impl BodyError {
    /// The name used in metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            BodyError::Cut(_) => "upstream_cut",
            BodyError::UpstreamTimeout => "upstream_timeout",
            BodyError::ClientTimeout => "client_timeout",
            BodyError::Compression(_) => "compression",
            BodyError::TooLarge(_) => "body_limit",
        }
    }
}

/// A request's body that is larger than its route allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request's body is larger than the route's limits.body ({bytes_max} bytes)")]
pub struct BodyTooLarge {
    /// The limit.
    pub bytes_max: u64,
}

fn never<T>(error: Infallible) -> T {
    match error {}
}

/// A body without bytes.
pub fn empty() -> Body {
    Empty::new().map_err(never).boxed_unsync()
}

/// The body of a request, whatever it came by. One without bytes costs nothing.
pub fn of_request<B>(body: B) -> RequestBody
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if body.is_end_stream() {
        Empty::new().map_err(never).boxed_unsync()
    } else {
        body.map_err(Into::into).boxed_unsync()
    }
}

/// A body of these bytes.
pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(never).boxed_unsync()
}

/// A request's body between attempts: a sender borrows it, and if no byte was read it can be lent again.
#[derive(Clone, Debug)]
pub struct RetryableBody {
    body: Arc<Mutex<Option<RequestBody>>>,
    upload: Arc<Upload>,
}

/// Who must take the next step in forwarding a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The endpoint: it has not asked for more, or not taken what it was sent.
    Server,
    /// The client: the endpoint would take more.
    Client,
    /// Nobody: all of it has been passed on, or the rest never will be.
    Nobody,
}

/// The progress of forwarding a request's body.
#[derive(Debug)]
pub struct Upload {
    bytes_max: u64,
    is_too_large: AtomicBool,
    bytes: AtomicU64,
    moved_at: AtomicU64,
    awaited: AtomicU8,
}

impl Upload {
    fn new(is_empty: bool, bytes_max: u64) -> Upload {
        let awaited = if is_empty { Awaited::Nobody } else { Awaited::Server };
        Upload {
            bytes_max,
            is_too_large: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            moved_at: AtomicU64::new(0),
            awaited: AtomicU8::new(awaited as u8),
        }
    }

    /// Returns why the body was cut, if it was larger than it may be.
    pub fn too_large(&self) -> Option<BodyTooLarge> {
        let is_too_large = self.is_too_large.load(Ordering::Relaxed);
        is_too_large.then_some(BodyTooLarge { bytes_max: self.bytes_max })
    }

    /// When a byte of the body was last passed on; the clock's start if none was.
    pub fn moved_at(&self) -> MonotonicTime {
        MonotonicTime::from_micros(self.moved_at.load(Ordering::Relaxed))
    }

    /// Bytes passed on.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns the side that is waited for.
    pub fn awaited(&self) -> Awaited {
        let state = self.awaited.load(Ordering::Relaxed);
        [Awaited::Server, Awaited::Client].into_iter().find(|it| *it as u8 == state).unwrap_or(Awaited::Nobody)
    }

    fn awaits(&self, awaited: Awaited) {
        self.awaited.store(awaited as u8, Ordering::Relaxed);
    }

    /// Counts bytes that are passed on.
    ///
    /// # Errors
    /// If the body is too large with them.
    fn moved(&self, bytes: usize) -> Result<(), BodyTooLarge> {
        if self.bytes.load(Ordering::Relaxed) + bytes as u64 > self.bytes_max {
            self.is_too_large.store(true, Ordering::Relaxed);
            return Err(BodyTooLarge { bytes_max: self.bytes_max });
        }
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moved_at.store(clock::coarse().as_micros(), Ordering::Relaxed);
        Ok(())
    }
}

impl RetryableBody {
    /// Takes the body in, which is cut when it has more than `bytes_max` bytes.
    ///
    /// # Errors
    /// If it is too large by its own account.
    pub fn new(body: RequestBody, bytes_max: u64) -> Result<RetryableBody, BodyTooLarge> {
        if body.size_hint().lower() > bytes_max {
            return Err(BodyTooLarge { bytes_max });
        }
        let upload = Arc::new(Upload::new(body.is_end_stream(), bytes_max));
        Ok(RetryableBody { body: Arc::new(Mutex::new(Some(body))), upload })
    }

    /// Lends the body; `None` if some of it was read.
    pub fn lend(&self) -> Option<RequestBody> {
        let slot = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        let body = slot.as_ref()?;
        if body.is_end_stream() {
            return Some(Empty::new().map_err(never).boxed_unsync());
        }
        self.upload.awaits(Awaited::Server);
        let hint = body.size_hint();
        let lent = BorrowedBody { body: Arc::clone(&self.body), taken: None, upload: Arc::clone(&self.upload), hint };
        Some(lent.boxed_unsync())
    }

    /// Returns the progress.
    pub fn upload(&self) -> &Arc<Upload> {
        &self.upload
    }
}

/// A body on loan: taken for good with the first read.
struct BorrowedBody {
    body: Arc<Mutex<Option<RequestBody>>>,
    taken: Option<RequestBody>,
    upload: Arc<Upload>,
    hint: SizeHint,
}

impl Drop for BorrowedBody {
    fn drop(&mut self) {
        self.upload.awaits(Awaited::Nobody);
    }
}

impl hyper::body::Body for BorrowedBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.taken.is_none() {
            this.taken = this.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        let Some(body) = &mut this.taken else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
            this.upload.awaits(Awaited::Client);
            return Poll::Pending;
        };
        if let Some(Ok(frame)) = &frame
            && let Err(error) = this.upload.moved(frame.data_ref().map_or(0, Bytes::len))
        {
            this.upload.awaits(Awaited::Nobody);
            return Poll::Ready(Some(Err(error.into())));
        }
        this.upload.awaits(if frame.is_none() || body.is_end_stream() { Awaited::Nobody } else { Awaited::Server });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.taken.as_ref().is_some_and(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.taken.as_ref().map_or_else(|| self.hint, |body| body.size_hint())
    }
}

/// How long the bodies of an exchange may stand still.
#[derive(Clone, Copy, Debug)]
pub struct BodyTimeouts {
    /// For bodies in general.
    pub body: Option<Duration>,
    /// For the server's silence in a `text/event-stream`.
    pub event_stream: Option<Duration>,
}

impl BodyTimeouts {
    /// How long the server may be silent in an answer with these fields.
    pub fn of_answer(&self, headers: &HeaderMap) -> Option<Duration> {
        if is_event_stream(headers) { self.event_stream } else { self.body }
    }
}

/// Returns true if an answer with these fields is a stream of server-sent events, which has no end of its own.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.as_bytes().split(|byte| *byte == b';').next());
    media_type.is_some_and(|it| it.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
}
