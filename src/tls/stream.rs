//! TLS over a socket, on rustls' unbuffered interface: one read of the socket for all records that wait there, one send
//! for all records of a write, and no buffer while it waits.
//!
//! rustls' usual interface keeps 4 KiB for reading on each connection, 18 KiB once a large record has come, and copies
//! each received byte three times. Here the socket is read into a buffer of the worker's pool, records are decrypted in
//! that buffer, and their contents go to the reader. Written bytes are encrypted into a buffer of the pool and sent in
//! one call; only what the socket does not take stays.
//!
//! * `engine`: rustls, fed with whole records; no socket.
//! * `incoming`, `outgoing`: what waits on both sides of it.
//! * `moving`: an established connection goes to another process, and comes from one. rustls takes no connection that it
//!   did not begin, so there `record_layer` stands in its place, on `cipher`, `message`, `schedule` and `suite`. `capture`
//!   takes the secrets for later keys from rustls.
//!
//! A peer may send endless records without data: tickets, new keys, padding, or one byte each. The reads of the socket
//! do not bound their cost, since thousands arrive with one read. So work is charged to the task's budget, as reads and
//! writes of sockets are (`tokio::task::coop`), and such a peer gets no more than its turn.
//!
//! The end of the stream is a close_notify; a socket that ends without one is [`UnexpectedEof`](io::ErrorKind). A peer
//! that breaks the protocol gets its alert before the error is returned, as an [`io::Error`] that contains the
//! [`rustls::Error`]; that error is permanent.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

mod capture;
mod cipher;
mod engine;
mod incoming;
mod message;
mod moving;
mod outgoing;
mod record_layer;
mod schedule;
mod sides;
mod span;
mod suite;

pub use capture::CapturingKeyLog;
pub use engine::TlsConnection;
pub use incoming::Incoming;
pub use sides::{ClientStream, ServerStream};

use crate::net::pool::{self, BufferSize};
use engine::Engine;

/// A TLS connection; `C` is rustls' connection of our side. One task reads and writes it: reading may also send, and a
/// socket wakes only one task that waits to write.
pub struct TlsStream<C, S> {
    engine: Engine<C>,
    io: S,
}

fn tls_error(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<C: TlsConnection, S> TlsStream<C, S> {
    /// Returns the negotiated version of TLS.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.engine.protocol_version()
    }

    /// Returns the certificate that the peer showed in this handshake, or in the one that it resumes; none if the
    /// handshake was in another process.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.engine.common()?.peer_certificates()?.first()
    }

    /// Returns the application protocol that was negotiated, if one was.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.engine.common()?.alpn_protocol()
    }

    /// Returns whether the handshake resumed a session; `None` if it was in another process.
    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.engine.common()?.handshake_kind()
    }
}

impl<C, S> TlsStream<C, S>
where
    C: TlsConnection,
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Performs the handshake of `connection` over `io`; `incoming` was read already. On the server's side with TLS
    /// 1.3, the ticket is sent together with the first write, since no client waits for it. `may_move`: whether the
    /// connection can go to another process later; then its configuration must give away the keys.
    ///
    /// # Errors
    /// Returns those of the socket, [`UnexpectedEof`](io::ErrorKind) if it ends, and those of TLS, after sending the
    /// alert.
    pub async fn handshake(connection: C, incoming: Incoming, io: S, may_move: bool) -> io::Result<Self> {
        let mut stream = TlsStream { engine: Engine::new(connection, incoming, may_move), io };
        loop {
            match stream.engine.shake() {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    // The alert is on its way; FIN instead of a reset follows it.
                    let _ = poll_fn(|cx| stream.poll_close(cx)).await;
                    return Err(tls_error(error));
                }
            }
            poll_fn(|cx| stream.poll_send(cx)).await?;
            if poll_fn(|cx| stream.engine.incoming.poll_fill(cx, &mut stream.io)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if C::LAST_FLIGHT_MAY_WAIT && stream.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
            stream.engine.outgoing.wait();
        } else {
            poll_fn(|cx| stream.poll_send(cx)).await?;
        }
        Ok(stream)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.engine.outgoing.poll_send(cx, &mut self.io)
    }

    /// Waits for the task's next turn if the work for the peer has used this one up.
    #[inline]
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.engine.owes() {
            ready!(coop::poll_proceed(cx)).made_progress();
            self.engine.pay();
        }
        Poll::Ready(())
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<C, S> AsyncRead for TlsStream<C, S>
where
    C: TlsConnection + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            ready!(this.poll_turn(cx));
            let opened = this.engine.open(buf);
            if this.engine.outgoing.is_due() {
                // What cannot be sent now is sent later; if the socket has failed, the read reports it.
                let _ = this.poll_send(cx);
            }
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            opened.map_err(tls_error)?;
            if this.engine.is_at_end() {
                return Poll::Ready(Ok(()));
            }
            if this.engine.owes() {
                // There may be more records.
                continue;
            }
            if ready!(this.engine.incoming.poll_fill(cx, &mut this.io))? == 0 {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "ended without close_notify")));
            }
        }
    }
}

impl<C, S> AsyncWrite for TlsStream<C, S>
where
    C: TlsConnection + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Accepts nothing while bytes wait for the socket.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.engine.outgoing.is_due() {
            ready!(this.poll_send(cx))?;
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if this.engine.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let sealed = this.engine.seal(buf);
        // What the socket does not take waits for a flush or the next write.
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(sealed.map_err(tls_error)),
        }
    }

    /// Small slices become one record.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut bufs = bufs.iter().filter(|slice| !slice.is_empty());
        let (first, second) = (bufs.next(), bufs.next());
        let first = first.map_or(&[][..], |slice| &**slice);
        let Some(second) = second.filter(|_| first.len() < BufferSize::Small.bytes()) else {
            return self.poll_write(cx, first);
        };
        let mut gathered = pool::take(BufferSize::Small);
        gathered[..first.len()].copy_from_slice(first);
        let mut end = first.len();
        for slice in [second].into_iter().chain(bufs) {
            let amount = slice.len().min(gathered.len() - end);
            gathered[end..end + amount].copy_from_slice(&slice[..amount]);
            end += amount;
        }
        self.poll_write(cx, &gathered[..end])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.engine.outgoing.is_due() {
            ready!(this.poll_send(cx))?;
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    /// Sends a close_notify, then ends the socket's writing side.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.engine.close().map_err(tls_error)?;
        this.poll_close(cx)
    }
}

impl<C, S: fmt::Debug> fmt::Debug for TlsStream<C, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("io", &self.io).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
