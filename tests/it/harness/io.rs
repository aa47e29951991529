//! One kind of stream for all: TCP, Unix, and TLS over TCP from either end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// A connected stream.
#[derive(Debug)]
pub enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// A stream of HTTP/2.
    Duplex(DuplexStream),
    TlsClient(Box<client::TlsStream<TcpStream>>),
    TlsServer(Box<server::TlsStream<TcpStream>>),
}

impl Io {
    /// Returns the TCP socket beneath, if there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Io::Tcp(tcp) => Some(tcp),
            Io::Unix(_) | Io::Duplex(_) => None,
            Io::TlsClient(tls) => Some(tls.get_ref().0),
            Io::TlsServer(tls) => Some(tls.get_ref().0),
        }
    }

    /// Ends it with a RST (RFC 9293 §3.10.4: SO_LINGER with no time).
    pub fn reset(self) {
        let tcp = self.tcp().expect("only TCP knows a reset");
        socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn stream(&mut self) -> Pin<&mut dyn Stream> {
        match self {
            Io::Tcp(stream) => Pin::new(stream),
            Io::Unix(stream) => Pin::new(stream),
            Io::Duplex(stream) => Pin::new(stream),
            Io::TlsClient(stream) => Pin::new(&mut **stream),
            Io::TlsServer(stream) => Pin::new(&mut **stream),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        self.get_mut().stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.get_mut().stream().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.get_mut().stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.get_mut().stream().poll_shutdown(cx)
    }
}
