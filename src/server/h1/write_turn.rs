//! Tells hyper's own responses from ours, so that they can be replaced.
//!
//! hyper answers a request that it cannot parse with a bare status, and has no hook for that. But it writes such a response
//! only between two of ours: after the last one was flushed and before the next request reaches the service. What is
//! written then is held back ([`HeldBackWrites`]), and the driver of the connection sends a better response.
//!
//! If the client does not read our last response, hyper's own may wait behind it in hyper's buffer. The two cannot be told
//! apart then, and hyper's is sent as it is.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// hyper's own responses have some hundred bytes. Longer ones are ours and are not held back.
const HYPER_ANSWER_BYTES_MAX: usize = 1024;

/// No request is open, and all responses have been written.
const QUIET: u8 = 0;
/// A request has reached the service, and its response is not complete.
const ANSWERING: u8 = 1;
/// The response is complete, but perhaps not written yet.
const ENDING: u8 = 2;

/// Who writes: hyper or the service. All is on one thread; it is atomic because hyper requires `Send`.
#[derive(Debug, Default)]
pub struct WriteTurn(AtomicU8);

impl WriteTurn {
    /// Records that a request has reached the service.
    pub fn begin(&self) {
        self.0.store(ANSWERING, Ordering::Relaxed);
    }

    /// Returns true if hyper would write a response of its own now.
    pub fn is_quiet(&self) -> bool {
        self.0.load(Ordering::Relaxed) == QUIET
    }

    fn change(&self, from: u8, to: u8) {
        let _ = self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The body of one of our responses; the turn ends with it.
#[derive(Debug)]
pub struct AnswerBody<B> {
    body: B,
    turn: Arc<WriteTurn>,
}

impl<B> AnswerBody<B> {
    /// Ends `turn` when `body` has been read or dropped.
    pub fn new(body: B, turn: Arc<WriteTurn>) -> AnswerBody<B> {
        AnswerBody { body, turn }
    }
}

impl<B> Drop for AnswerBody<B> {
    fn drop(&mut self) {
        self.turn.change(ANSWERING, ENDING);
    }
}

impl<B: Body + Unpin> Body for AnswerBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that holds back hyper's own responses.
#[derive(Debug)]
pub struct HeldBackWrites<S> {
    io: S,
    turn: Arc<WriteTurn>,
    held_back: Vec<u8>,
}

impl<S> HeldBackWrites<S> {
    /// Wraps `io`.
    pub fn new(io: S, turn: Arc<WriteTurn>) -> HeldBackWrites<S> {
        HeldBackWrites { io, turn, held_back: Vec::new() }
    }

    /// Returns what was held back, and the stream.
    pub fn into_parts(self) -> (Vec<u8>, S) {
        (self.held_back, self.io)
    }

    fn is_hyper_answer(&self, bytes: usize) -> bool {
        self.turn.is_quiet() && self.held_back.len() + bytes <= HYPER_ANSWER_BYTES_MAX
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeldBackWrites<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeldBackWrites<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_hyper_answer(buf.len()) {
            this.held_back.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        if this.is_hyper_answer(bytes) {
            bufs.iter().for_each(|buf| this.held_back.extend_from_slice(buf));
            return Poll::Ready(Ok(bytes));
        }
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes when it has written everything.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        std::task::ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        this.turn.change(ENDING, QUIET);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_written_out_of_turn_is_kept_and_all_else_goes_out() {
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let turn = Arc::new(WriteTurn::default());
        let mut io = HeldBackWrites::new(ours, Arc::clone(&turn));
        turn.begin();
        let answer = AnswerBody::new(http_body_util::Empty::<bytes::Bytes>::new(), Arc::clone(&turn));
        io.write_all(b"answer").await.unwrap();
        io.flush().await.unwrap();
        assert!(!turn.is_quiet(), "the body may have more");
        drop(answer);
        io.write_all(b", its end").await.unwrap();
        assert!(!turn.is_quiet(), "there may be more of it");
        io.flush().await.unwrap();
        assert!(turn.is_quiet());
        io.write_all(b"HTTP/1.1 400 ").await.unwrap();
        io.write_all(b"Bad Request").await.unwrap();
        let (held_back, ours) = io.into_parts();
        drop(ours);
        let mut read = String::new();
        theirs.read_to_string(&mut read).await.unwrap();
        assert_eq!((&*read, &*held_back), ("answer, its end", &b"HTTP/1.1 400 Bad Request"[..]));
    }
}
