//! A connection with or without TLS, or a stream of one that carries several, as one type, which hyper, the relay and the
//! handshake client read and write.
//!
//! An enum and not a boxed trait: a plain socket costs no dynamic call. TLS is boxed because its state is large and
//! mostly idle while the connection is.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

/// `T` is the TLS stream of one side, client or server.
#[derive(Debug)]
pub enum Transport<T> {
    /// A plain socket.
    Plain(Stream),
    /// TLS over a socket.
    Tls(Box<T>),
    /// One of the streams of a connection.
    Multiplexed(Box<dyn MultiplexedStream>),
}

/// One of several streams that share a connection, in a version of HTTP that has them. Shutting it down ends it in order;
/// dropping it before that resets it.
pub trait MultiplexedStream: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

/// What the relay needs of a connection besides its bytes.
pub trait RelayIo {
    /// Returns true if the peer sees an orderly end when the connection is dropped after all bytes are written and
    /// read: the kernel sends a FIN, but not TLS's close_notify. This saves the `shutdown` call.
    fn ends_on_drop(&self) -> bool;

    /// Returns true if a read may find something. False only if it would return `Pending` again while the last read's
    /// waker is still registered, so that the read can be skipped.
    fn may_read(&self) -> bool;

    /// Registers the task's waker for when there is something to read, as an empty read does, but needs no buffer.
    /// `Ready`: a read may find something.
    fn poll_may_read(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl<T> RelayIo for Transport<T> {
    fn ends_on_drop(&self) -> bool {
        matches!(self, Transport::Plain(_))
    }

    #[inline]
    fn may_read(&self) -> bool {
        match self {
            Transport::Plain(stream) => stream.may_read(),
            // It may hold decrypted bytes.
            Transport::Tls(_) => true,
            Transport::Multiplexed(_) => true,
        }
    }

    #[inline]
    fn poll_may_read(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Transport::Plain(stream) => stream.poll_may_read(cx),
            Transport::Tls(_) | Transport::Multiplexed(_) => Poll::Ready(()),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Transport<T> {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Multiplexed(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Transport<T> {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Multiplexed(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Multiplexed(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
            Transport::Multiplexed(stream) => stream.is_write_vectored(),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Multiplexed(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Multiplexed(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
