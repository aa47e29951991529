//! One connection of a pool: what was last done on it, whether it moves, and a way to end it at once.
//!
//! hyper drives it from a task of its own. Whoever has the answer that comes on it holds the other end,
//! [`PooledConnection`].

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

/// Nothing has been read.
const NEW: u8 = 0;
/// Bytes of an answer were read.
const ANSWERED: u8 = 1;
/// Something was written after an answer.
const ASKED_AGAIN: u8 = 2;

impl PooledConnection {
    /// The connection that hyper-util tells of.
    pub fn of(connected: &Connected) -> Option<PooledConnection> {
        let mut extras = http::Extensions::new();
        connected.get_extras(&mut extras);
        extras.remove()
    }

    /// The connection that `response` comes on, if it is one of a pool.
    pub fn of_response<B>(response: &mut http::Response<B>) -> Option<PooledConnection> {
        response.extensions_mut().remove()
    }

    /// Returns true if something was written after an answer, and not a byte has come back since.
    pub fn was_stale(&self) -> bool {
        self.0.last.load(Ordering::Relaxed) == ASKED_AGAIN
    }

    /// When the endpoint last took a byte; the clock's start if it never did.
    pub fn written_at(&self) -> MonotonicTime {
        MonotonicTime::from_micros(self.0.written_at.load(Ordering::Relaxed))
    }

    /// Closes the connection at once, whatever waits to be read or written on it.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.task.wake();
    }

    fn read(&self) {
        self.0.last.store(ANSWERED, Ordering::Relaxed);
    }

    fn written(&self) {
        if self.0.last.load(Ordering::Relaxed) != NEW {
            self.0.last.store(ASKED_AGAIN, Ordering::Relaxed);
        }
        self.0.written_at.store(clock::coarse().as_micros(), Ordering::Relaxed);
    }

    /// Returns an error if the connection should be closed; otherwise the task is woken once it should.
    fn poll_closed(&self, cx: &Context<'_>) -> io::Result<()> {
        if !self.0.closed.load(Ordering::Acquire) {
            self.0.task.register(cx.waker());
            if !self.0.closed.load(Ordering::Acquire) {
                return Ok(());
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

/// The connection on which a request's body goes, while its answer is waited for. Dropping it before that has come closes the
/// connection: hyper would go on with the body, and wait for ever where the endpoint takes nothing of it.
#[derive(Debug)]
pub struct Uploading {
    capture: CaptureConnection,
    is_answered: bool,
}

impl Uploading {
    /// The connection that `request` will go on.
    pub fn of<B>(request: &mut http::Request<B>) -> Uploading {
        Uploading { capture: capture_connection(request), is_answered: false }
    }

    /// The connection, as soon as it is chosen.
    pub fn connection(&self) -> Option<PooledConnection> {
        self.capture.connection_metadata().as_ref().and_then(PooledConnection::of)
    }

    /// The answer has come: its owner has the connection now.
    pub fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        if !self.is_answered
            && let Some(connection) = self.connection()
        {
            connection.close();
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

    /// Does not wait for an endpoint that takes nothing: what it was to have it has, and the end is only a courtesy.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.get_mut().io).poll_shutdown(cx) {
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }
}

/// A connection in the shape that hyper-util's pool wants.
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
