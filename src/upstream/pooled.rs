//! One connection of a pool: its last activity, its progress, and a way to close it at once.
//!
//! hyper drives it in a task of its own. The owner of an answer on it holds the handle, [`PooledConnection`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{CaptureConnection, Connected, Connection, capture_connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::UpstreamIo;
use crate::base::clock;
use crate::base::time::MonotonicTime;

/// A handle to a connection of a pool.
#[derive(Clone, Debug, Default)]
pub struct PooledConnection(Arc<PooledState>);

#[derive(Debug, Default)]
struct PooledState {
    last: AtomicU8,
    written_at: AtomicU64,
    closed: AtomicBool,
    task: AtomicWaker,
}

/// Nothing was read.
const NEW: u8 = 0;
/// Bytes of an answer were read.
const ANSWERED: u8 = 1;
/// Something was written after an answer.
const ASKED_AGAIN: u8 = 2;

impl PooledConnection {
    /// Returns the connection that hyper-util describes.
    pub fn of(connected: &Connected) -> Option<PooledConnection> {
        let mut extras = http::Extensions::new();
        connected.get_extras(&mut extras);
        extras.remove()
    }

    /// Returns the connection that `response` arrives on, if it belongs to a pool.
    pub fn of_response<B>(response: &mut http::Response<B>) -> Option<PooledConnection> {
        response.extensions_mut().remove()
    }

    /// Returns what stands for the stream that `request` may go by, if its body is watched on its way.
    pub fn of_request<B>(request: &mut http::Request<B>) -> Option<PooledConnection> {
        request.extensions_mut().remove()
    }

    /// Returns true if something was written after an answer, and nothing was read since.
    pub fn was_stale(&self) -> bool {
        self.0.last.load(Ordering::Relaxed) == ASKED_AGAIN
    }

    /// Returns when the endpoint last accepted a byte; the clock's start if it never did.
    pub fn written_at(&self) -> MonotonicTime {
        MonotonicTime::from_micros(self.0.written_at.load(Ordering::Relaxed))
    }

    /// Closes the connection at once, whatever remains to be read or written.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.task.wake();
    }

    fn read(&self) {
        self.0.last.store(ANSWERED, Ordering::Relaxed);
    }

    /// Records that the endpoint has taken something of a request's body on a stream.
    pub fn moved(&self) {
        self.0.written_at.store(clock::coarse().as_micros(), Ordering::Relaxed);
    }

    fn written(&self) {
        if self.0.last.load(Ordering::Relaxed) != NEW {
            self.0.last.store(ASKED_AGAIN, Ordering::Relaxed);
        }
        self.moved();
    }

    /// Returns an error if the connection should be closed; otherwise wakes the task once it should.
    ///
    /// # Errors
    /// From [`PooledConnection::close`] on.
    pub fn poll_closed(&self, cx: &Context<'_>) -> io::Result<()> {
        if !self.0.closed.load(Ordering::Acquire) {
            self.0.task.register(cx.waker());
            if !self.0.closed.load(Ordering::Acquire) {
                return Ok(());
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

/// The connection that carries a request's body, while its answer is awaited. Dropping it before that closes the
/// connection: hyper would otherwise go on with the body, and wait for ever if the endpoint reads none of it.
#[derive(Debug)]
pub struct Uploading {
    capture: CaptureConnection,
    /// Stands for the stream, where the request goes by one.
    stream: PooledConnection,
    is_answered: bool,
}

impl Uploading {
    /// Prepares to watch the connection that `request` will use.
    pub fn of<B>(request: &mut http::Request<B>) -> Uploading {
        let stream = PooledConnection::default();
        request.extensions_mut().insert(stream.clone());
        Uploading { capture: capture_connection(request), stream, is_answered: false }
    }

    /// Returns the connection that was chosen, or the stream.
    pub fn connection(&self) -> PooledConnection {
        let chosen = self.capture.connection_metadata().as_ref().and_then(PooledConnection::of);
        chosen.unwrap_or_else(|| self.stream.clone())
    }

    /// Records the answer: its owner has the connection now.
    pub fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        if !self.is_answered {
            self.connection().close();
        }
    }
}

/// The stream of a connection of a pool.
#[derive(Debug)]
struct PooledStream {
    io: UpstreamIo,
    connection: PooledConnection,
}

impl PooledStream {
    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Ok(_)) = written {
            self.connection.written();
        }
        written
    }
}

impl AsyncRead for PooledStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.connection.poll_closed(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.connection.read();
        }
        read
    }
}

impl AsyncWrite for PooledStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.connection.poll_closed(cx)?;
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.note(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.connection.poll_closed(cx)?;
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.connection.poll_closed(cx)?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    /// Does not wait for an endpoint that reads nothing: it has all that it was sent, and the end is only a courtesy.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.get_mut().io).poll_shutdown(cx) {
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }
}

/// A connection as hyper-util's pool expects it.
#[derive(Debug)]
pub struct PooledIo(TokioIo<PooledStream>);

impl PooledIo {
    /// Watches `io`.
    pub fn new(io: UpstreamIo) -> PooledIo {
        PooledIo(TokioIo::new(PooledStream { io, connection: PooledConnection::default() }))
    }
}

impl Connection for PooledIo {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.0.inner().connection.clone())
    }
}

impl Read for PooledIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl Write for PooledIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, bufs)
    }
}
