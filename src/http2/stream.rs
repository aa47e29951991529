//! A stream of an HTTP/2 connection as a byte stream: what a WebSocket is there (RFC 8441 §5).
//!
//! Bytes are written only as far as the peer's windows and the connection's send buffer take them, so a stream that is not
//! read holds no more than that buffer. What was read counts against the window of our side until it is taken from here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{RecvStream, SendStream};
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::window::{self, Stalls};
use crate::net::transport::MultiplexedStream;

/// Both directions of a stream. Dropping it before it was shut down resets the stream (CANCEL).
#[derive(Debug)]
pub struct H2Stream<H> {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Received and not read yet.
    unread: Bytes,
    stalls: Stalls,
    is_shut: bool,
    /// Released with it.
    _held: H,
}

impl<H> H2Stream<H> {
    /// Joins both directions. `stalls` counts writes that had to wait for a window; `held` is released with the stream.
    pub fn new(send: SendStream<Bytes>, recv: RecvStream, stalls: IntCounter, held: H) -> H2Stream<H> {
        H2Stream { send, recv, unread: Bytes::new(), stalls: Stalls::new(stalls), is_shut: false, _held: held }
    }

    /// Returns true if our direction has ended in order, and the peer's has not.
    pub fn is_half_closed(&self) -> bool {
        self.is_shut && !self.recv.is_end_stream()
    }
}

impl<H: std::fmt::Debug + Send + Unpin> MultiplexedStream for H2Stream<H> {}

impl<H: Unpin> AsyncRead for H2Stream<H> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Bounded: h2 limits empty frames.
        while this.unread.is_empty() {
            match ready!(this.recv.poll_data(cx)) {
                Some(Ok(data)) => this.unread = data,
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let amount = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread[..amount]);
        this.unread.advance(amount);
        if this.unread.is_empty() {
            // It would keep the whole buffer of the connection that it is a part of.
            this.unread = Bytes::new();
        }
        // Fails only for what was not received.
        let _ = this.recv.flow_control().release_capacity(amount);
        Poll::Ready(Ok(()))
    }
}

impl<H: Unpin> AsyncWrite for H2Stream<H> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let amount = ready!(window::poll_room(&mut this.send, &mut this.stalls, cx, buf.len())).map_err(io_error)?;
        this.send.send_data(Bytes::copy_from_slice(&buf[..amount]), false).map_err(io_error)?;
        Poll::Ready(Ok(amount))
    }

    /// Does nothing: the connection sends what it has as soon as it can.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends our direction (END_STREAM).
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if std::mem::replace(&mut this.is_shut, true) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(this.send.send_data(Bytes::new(), true).map_err(io_error))
    }
}

/// Returns the error of a stream as one of a connection; a reset is one, whatever its code.
fn io_error(error: h2::Error) -> io::Error {
    if error.is_io() {
        // It says what it is.
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
