//! Whose turn it is to write on a client's connection, so that hyper's own answers can be told from ours.
//!
//! What hyper cannot read it answers itself, with a status and nothing else, and it has no hook for that. But it writes
//! such an answer only between two of ours: after the last one has been flushed, before the next request reaches the
//! service. What is written then is held back here ([`HeldBackWrites`]), and who drives the connection gives a better one.
//!
//! Where the client does not take our last answer in, hyper's own may wait behind it in hyper's buffer: then the two cannot
//! be told apart, and hyper's goes out as it is.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// hyper's own answers have some hundred bytes. More than that is none, and not held back.
const UNASKED_BYTES_MAX: usize = 1024;

/// Nothing is to be answered, and all that was answered is written.
const QUIET: u8 = 0;
/// A request has reached the service, and its answer is not over.
const ANSWERING: u8 = 1;
/// The answer is over, and may not be written yet.
const ENDING: u8 = 2;

/// Whose turn it is. A connection and its requests are on one thread; it is atomic because hyper asks for `Send`.
#[derive(Debug, Default)]
pub struct WriteTurn(AtomicU8);

impl WriteTurn {
    /// A request has reached the service.
    pub fn begin(&self) {
        self.0.store(ANSWERING, Ordering::Relaxed);
    }

    /// Whether what is written now is hyper's own.
    pub fn is_quiet(&self) -> bool {
        self.0.load(Ordering::Relaxed) == QUIET
    }

    fn change(&self, from: u8, to: u8) {
        let _ = self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The body of an answer of ours: the turn ends with it.
#[derive(Debug)]
pub struct AnswerBody<B> {
    body: B,
    turn: Arc<WriteTurn>,
}

impl<B> AnswerBody<B> {
    /// Ends `turn` when `body` has been read, or is dropped.
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

/// A stream that keeps what is written out of turn.
#[derive(Debug)]
pub struct HeldBackWrites<S> {
    io: S,
    turn: Arc<WriteTurn>,
    kept: Vec<u8>,
}

impl<S> HeldBackWrites<S> {
    /// Looks at what is written on `io`.
    pub fn new(io: S, turn: Arc<WriteTurn>) -> HeldBackWrites<S> {
        HeldBackWrites { io, turn, kept: Vec::new() }
    }

    /// Takes it apart: what was kept, and the stream.
    pub fn into_parts(self) -> (Vec<u8>, S) {
        (self.kept, self.io)
    }

    fn is_own(&self, bytes: usize) -> bool {
        self.turn.is_quiet() && self.kept.len() + bytes <= UNASKED_BYTES_MAX
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
        if this.is_own(buf.len()) {
            this.kept.extend_from_slice(buf);
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
        if this.is_own(bytes) {
            bufs.iter().for_each(|buf| this.kept.extend_from_slice(buf));
            return Poll::Ready(Ok(bytes));
        }
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes when it has written all that it had.
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
        let (kept, ours) = io.into_parts();
        drop(ours);
        let mut read = String::new();
        theirs.read_to_string(&mut read).await.unwrap();
        assert_eq!((&*read, &*kept), ("answer, its end", &b"HTTP/1.1 400 Bad Request"[..]));
    }
}
