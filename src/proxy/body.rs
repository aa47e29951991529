//! Bodies: the one type that all answers have, and a request body that comes back if nobody read of it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};

use crate::clock;
use crate::moment::Moment;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;

fn never<T>(error: Infallible) -> T {
    match error {}
}

/// A body without bytes.
pub fn empty() -> Body {
    Empty::new().map_err(never).boxed_unsync()
}

/// A body of these bytes.
pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(never).boxed_unsync()
}

/// A request's body between attempts: whoever sends it borrows it, and if no byte was read it can be lent again.
#[derive(Clone, Debug)]
pub struct Lender {
    body: Arc<Mutex<Option<Incoming>>>,
    sent: Arc<Sent>,
}

/// How much of a request's body has been passed on, and when last.
#[derive(Debug, Default)]
pub struct Sent {
    bytes: AtomicU64,
    at: AtomicU64,
}

impl Sent {
    /// When a byte of the body was last passed on; the clock's start if none was.
    pub fn at(&self) -> Moment {
        Moment::from_micros(self.at.load(Ordering::Relaxed))
    }

    /// Bytes passed on.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Lender {
    /// Takes the body in.
    pub fn new(body: Incoming) -> Lender {
        Lender { body: Arc::new(Mutex::new(Some(body))), sent: Arc::default() }
    }

    /// Lends the body; `None` when it was read of before.
    pub fn lend(&self) -> Option<Body> {
        let slot = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        let body = slot.as_ref()?;
        if body.is_end_stream() {
            return Some(empty());
        }
        let hint = body.size_hint();
        let lent = Lent { body: Arc::clone(&self.body), taken: None, sent: Arc::clone(&self.sent), hint };
        Some(lent.boxed_unsync())
    }

    /// The progress of the sending.
    pub fn sent(&self) -> &Arc<Sent> {
        &self.sent
    }
}

/// A body on loan: taken for good with the first read.
struct Lent {
    body: Arc<Mutex<Option<Incoming>>>,
    taken: Option<Incoming>,
    sent: Arc<Sent>,
    hint: SizeHint,
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if this.taken.is_none() {
            this.taken = this.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        let Some(body) = &mut this.taken else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            this.sent.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            this.sent.at.store(clock::coarse().as_micros(), Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.taken.as_ref().is_some_and(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.taken.as_ref().map_or_else(|| self.hint, |body| body.size_hint())
    }
}
