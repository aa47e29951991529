//! The byte streams that everything above uses: a connected socket, and a stream with bytes that were read early.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected socket. An enum and not a boxed trait: there are only two kinds, and no call on the data path is
/// dynamic.
#[derive(Debug)]
pub enum Stream {
    /// TCP over IPv4 or IPv6.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

/// The address of the peer. IPv4 addresses that arrive as IPv6 (`::ffff:10.0.0.1`) are reported as IPv4, so that a
/// network written `10.0.0.0/8` matches them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerAddr {
    /// An IP address and a port.
    Inet(SocketAddr),
    /// A process on this machine; Unix sockets have no useful address.
    Unix,
}

impl PeerAddr {
    /// Returns the IP address and the port, if there are any.
    pub fn inet(self) -> Option<SocketAddr> {
        match self {
            PeerAddr::Inet(addr) => Some(addr),
            PeerAddr::Unix => None,
        }
    }

    /// Returns the IP address, if there is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            PeerAddr::Inet(addr) => Some(addr.ip()),
            PeerAddr::Unix => None,
        }
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(addr: SocketAddr) -> PeerAddr {
        PeerAddr::Inet(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddr::Inet(addr) => addr.fmt(f),
            PeerAddr::Unix => f.write_str("unix"),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    /// Returns the same connection behind another descriptor.
    ///
    /// # Errors
    /// Fails if the runtime cannot watch it.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn behind(self, fd: OwnedFd) -> io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(_) => Stream::Tcp(TcpStream::from_std(fd.into())?),
            Stream::Unix(_) => Stream::Unix(UnixStream::from_std(fd.into())?),
        })
    }

    /// Returns the address of the peer.
    ///
    /// # Errors
    /// Fails if the connection is gone already.
    pub fn peer_addr(&self) -> io::Result<PeerAddr> {
        match self {
            Stream::Tcp(stream) => stream.peer_addr().map(PeerAddr::from),
            Stream::Unix(_) => Ok(PeerAddr::Unix),
        }
    }

    /// Returns the local address, if it is an IP address.
    ///
    /// # Errors
    /// Fails if the socket is no longer usable.
    pub fn local_addr(&self) -> io::Result<PeerAddr> {
        match self {
            Stream::Tcp(stream) => stream.local_addr().map(PeerAddr::from),
            Stream::Unix(_) => Ok(PeerAddr::Unix),
        }
    }

    /// Sends written bytes at once instead of waiting for more (TCP_NODELAY). Already set on accepted and connected
    /// sockets. Has no effect on a Unix socket.
    ///
    /// # Errors
    /// Fails if the socket is no longer usable.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_nodelay(nodelay),
            Stream::Unix(_) => Ok(()),
        }
    }
}

impl Stream {
    /// Returns true if the socket became readable since a read last found it empty: one load, neither a call nor a
    /// lock. The event that makes it true also takes the reader's waker, so the waker stays while this returns `false`:
    /// on the thread whose runtime waits for the socket, no task runs between the two.
    #[inline]
    pub fn may_read(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Stream::Unix(stream) => stream.try_io(Interest::READABLE, || Ok(())).is_ok(),
        }
    }

    /// Registers the task's waker for when the socket is readable. `Ready`: it was readable, or is no longer usable,
    /// which a read will show.
    #[inline]
    pub fn poll_may_read(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Stream::Tcp(stream) => stream.poll_read_ready(cx).map(drop),
            Stream::Unix(stream) => stream.poll_read_ready(cx).map(drop),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream::Tcp(stream)
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Stream {
        Stream::Unix(stream)
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Passes writes to the field `io`, for wrappers that only watch or buffer reads.
macro_rules! pass_writes_on {
    ($wrapper:ident) => {
        impl<S: ::tokio::io::AsyncWrite + Unpin> ::tokio::io::AsyncWrite for $wrapper<S> {
            #[inline]
            fn poll_write(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                buf: &[u8],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                ::std::pin::Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
            }

            #[inline]
            fn poll_write_vectored(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                bufs: &[::std::io::IoSlice<'_>],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                ::std::pin::Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.io.is_write_vectored()
            }

            fn poll_flush(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                ::std::pin::Pin::new(&mut self.get_mut().io).poll_flush(cx)
            }

            fn poll_shutdown(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                ::std::pin::Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
            }
        }
    };
}
pub(crate) use pass_writes_on;

/// A stream that returns early bytes first, then its own. Early bytes that were read take no memory.
#[derive(Debug)]
pub struct Prefixed<S> {
    early: Vec<u8>,
    read: usize,
    io: S,
}

impl<S> Prefixed<S> {
    /// Puts `early` before the bytes of `io`.
    pub fn new(early: Vec<u8>, io: S) -> Prefixed<S> {
        Prefixed { early, read: 0, io }
    }

    /// Returns the early bytes that were not read yet.
    pub fn early(&self) -> &[u8] {
        &self.early[self.read..]
    }

    /// Returns the inner stream.
    pub fn io(&self) -> &S {
        &self.io
    }

    /// Returns the early bytes that were not read yet, and the inner stream.
    pub fn into_parts(mut self) -> (Vec<u8>, S) {
        self.early.drain(..self.read);
        (self.early, self.io)
    }
}

impl<S> From<S> for Prefixed<S> {
    fn from(io: S) -> Prefixed<S> {
        Prefixed::new(Vec::new(), io)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let amount = this.early().len().min(buf.remaining());
        buf.put_slice(&this.early[this.read..this.read + amount]);
        this.read += amount;
        if this.read == this.early.len() {
            (this.early, this.read) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

pass_writes_on!(Prefixed);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn early_bytes_come_first_and_leave_nothing_behind() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = Prefixed::new(b"early".to_vec(), Stream::from(ours));
        theirs.write_all(b" late").await.unwrap();
        drop(theirs);
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.unwrap();
        assert_eq!((&two, stream.early()), (b"ea", b"rly".as_slice()));
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "rly late");
        assert_eq!(stream.early.capacity(), 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn taking_it_apart_loses_nothing() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut stream = Prefixed::new(b"early".to_vec(), Stream::from(ours));
        stream.read_exact(&mut [0; 3]).await.unwrap();
        assert_eq!(stream.into_parts().0, b"ly");
    }

    #[test]
    fn an_ipv4_peer_is_told_as_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:7".parse().unwrap();
        assert_eq!(PeerAddr::from(mapped).to_string(), "10.0.0.1:7");
        assert_eq!((PeerAddr::Unix.to_string(), PeerAddr::Unix.ip()), ("unix".to_owned(), None));
    }
}
