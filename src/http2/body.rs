//! Bodies of messages that come and go by streams.

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use hyper::body::{Body, Frame, SizeHint};
use prometheus::IntCounter;
use tokio::time::timeout;

use super::window::{Stalls, poll_room};
use crate::header::length;
use crate::header::trailers::Announced;

/// The body of a message that comes by a stream. What is taken of it is given back to the peer's window at once.
#[derive(Debug)]
pub struct ReceivedBody {
    recv: RecvStream,
    /// What Content-Length says is left; h2 holds the peer to it.
    left: Option<u64>,
    has_all_data: bool,
}

impl ReceivedBody {
    /// The body that comes by `recv`, behind a head with these fields.
    pub fn new(recv: RecvStream, headers: &HeaderMap) -> ReceivedBody {
        let left = headers.get(CONTENT_LENGTH).and_then(|value| length::parse(value.as_bytes()));
        ReceivedBody { recv, left, has_all_data: false }
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        if !this.has_all_data {
            match ready!(this.recv.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only for what was not received.
                    let _ = this.recv.flow_control().release_capacity(data.len());
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => this.has_all_data = true,
            }
        }
        ready!(this.recv.poll_trailers(cx))
            .map_or(Poll::Ready(None), |trailers| Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))))
    }

    fn is_end_stream(&self) -> bool {
        self.recv.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

/// Why a body was not sent to its end.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The peer has reset the stream, or the connection is lost.
    #[error("the stream has ended")]
    Ended(#[from] h2::Error),
    /// It could not be read; the peer sees a reset.
    #[error("the body could not be read")]
    Body(#[source] Box<dyn Error + Send + Sync>),
    /// The peer took nothing of it for too long, and sees a reset.
    #[error("the peer took nothing for too long")]
    Timeout,
}

/// Sends a body to its end, with the trailers that are announced. The peer may take nothing of it for as long as `limit`.
/// `stalls` counts waits for a window.
///
/// Not cancel-safe: dropping it leaves a stream with half of a body.
///
/// # Errors
/// See [`SendError`].
pub async fn send<B>(
    stream: &mut SendStream<Bytes>,
    body: B,
    announced: &Announced,
    limit: Option<Duration>,
    stalls: IntCounter,
) -> Result<(), SendError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    send_noted(stream, body, announced, limit, stalls, || {}).await
}

/// Does the same, and calls `moved` whenever the peer has taken something.
///
/// # Errors
/// See [`SendError`].
pub async fn send_noted<B>(
    stream: &mut SendStream<Bytes>,
    body: B,
    announced: &Announced,
    limit: Option<Duration>,
    stalls: IntCounter,
    moved: impl Fn(),
) -> Result<(), SendError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut body = pin!(body);
    let mut stalls = Stalls::new(stalls);
    loop {
        let next = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(reset) => Poll::Ready(Err(reset.map_or_else(|error| error, h2::Error::from))),
            Poll::Pending => body.as_mut().poll_frame(cx).map(Ok),
        });
        let frame = match next.await? {
            None => return Ok(stream.send_data(Bytes::new(), true)?),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Err(SendError::Body(error.into()));
            }
        };
        match frame.into_data() {
            Ok(data) => {
                let is_last = body.is_end_stream();
                send_data(stream, data, is_last, limit, &mut stalls, &moved).await?;
                if is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(mut trailers) = frame.into_trailers() {
                    announced.keep(&mut trailers);
                    if trailers.is_empty() {
                        stream.send_data(Bytes::new(), true)?;
                    } else {
                        stream.send_trailers(trailers)?;
                    }
                    return Ok(());
                }
            }
        }
    }
}

async fn send_data(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_last: bool,
    limit: Option<Duration>,
    stalls: &mut Stalls,
    moved: &impl Fn(),
) -> Result<(), SendError> {
    if data.is_empty() && is_last {
        return Ok(stream.send_data(data, true)?);
    }
    while !data.is_empty() {
        let room = poll_fn(|cx| poll_room(stream, stalls, cx, data.len()));
        let room = match limit {
            Some(limit) => timeout(limit, room).await,
            None => Ok(room.await),
        };
        let Ok(room) = room else {
            stream.send_reset(Reason::CANCEL);
            return Err(SendError::Timeout);
        };
        let part = data.split_to(room?);
        moved();
        stream.send_data(part, is_last && data.is_empty())?;
    }
    Ok(())
}
