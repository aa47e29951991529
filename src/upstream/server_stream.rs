//! A WebSocket's stream to a server, which is not let go before the server has ended it, too.
//!
//! A stream that is dropped while the server's direction is open is reset, and the reset overtakes our last bytes at the
//! server. A socket's end does not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy, sink};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::streams::connection::StreamPermit;
use crate::http2::stream::H2Stream;
use crate::net::transport::MultiplexedStream;

/// How long a server may take to end a stream that we have ended.
const LINGER: Duration = Duration::from_secs(2);

/// A stream to a server.
#[derive(Debug)]
pub struct ServerStream {
    /// `None` once it is dropped.
    stream: Option<H2Stream<StreamPermit>>,
}

impl ServerStream {
    /// Takes care of the end of `stream`.
    pub fn new(stream: H2Stream<StreamPermit>) -> ServerStream {
        ServerStream { stream: Some(stream) }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut H2Stream<StreamPermit>>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl MultiplexedStream for ServerStream {}

impl AsyncRead for ServerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().stream()?.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_shutdown(cx)
    }
}

impl Drop for ServerStream {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take().filter(H2Stream::is_half_closed) else { return };
        // Without a runtime, the process ends.
        if let Ok(runtime) = Handle::try_current() {
            // Whatever still comes is for nobody.
            runtime.spawn(async move { timeout(LINGER, copy(&mut stream, &mut sink())).await.is_ok() });
        }
    }
}
