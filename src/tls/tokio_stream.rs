//! TLS by tokio-rustls, behind the same names as our own stream: the alternative if rustls removes its unbuffered
//! interface (feature `tls-tokio`).
//!
//! It reads the same bytes and reaches the same end as our own stream; `differential` tests that. It takes more memory
//! and more copies, see the head of `stream`. The wrapper removes these differences:
//!
//! * An error is permanent, and comes after the bytes before it. tokio-rustls returns it once, and before them.
//! * A read sends pending records of rustls, such as the refusal of a renegotiation. An alert is sent whole, however
//!   little the socket takes; tokio-rustls tries once.
//! * Nothing can be written after a close_notify or an error.
//! * A failed handshake ends with FIN after the alert.
//!
//! No connection can go to another process. Two more differences remain, both at the end of a handshake. Bytes that arrive
//! together with it are decrypted as part of it: if they are bad, the handshake fails. And the ticket is sent at once, not
//! with the first write: if the client has gone, the handshake fails.

use std::fmt;
use std::io::{self, IoSlice, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, CommonState, ConnectionCommon, HandshakeKind, InvalidMessage, ProtocolVersion, ServerConfig, SideData,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::state::{TlsMoveError, TlsState};
use crate::net::stream::Prefixed;

/// A client's connection after its handshake.
pub type ServerStream<S> = TokioStream<S>;
/// A connection to a server after its handshake.
pub type ClientStream<S> = TokioStream<S>;

/// The size of the read that gets the first byte.
const FIRST_READ: usize = 4096;

/// Bytes from the socket with which the handshake begins.
#[derive(Debug)]
pub struct Incoming(Vec<u8>);

impl Incoming {
    /// Begins with `early`, which was read from the socket before.
    pub fn new(early: &[u8]) -> Incoming {
        Incoming(early.to_vec())
    }

    /// Returns all bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads from the socket and appends. Returns how many bytes arrived, 0 at its end.
    ///
    /// # Errors
    /// Returns those of the socket.
    pub fn poll_fill<S: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, io: &mut S) -> Poll<io::Result<usize>> {
        let mut buffer = [0; FIRST_READ];
        let mut read = ReadBuf::new(&mut buffer);
        ready!(Pin::new(io).poll_read(cx, &mut read))?;
        self.0.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }
}

/// A TLS connection of either side. One task reads and writes it.
pub struct TokioStream<S> {
    inner: tokio_rustls::TlsStream<Prefixed<S>>,
    failed: Option<Failure>,
    /// Whether nothing more can be written.
    closed: bool,
}

/// The permanent error that ended a connection.
struct Failure {
    error: rustls::Error,
    /// Records that the socket has not taken yet, with the alert after them.
    unsent: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TokioStream<S> {
    /// Performs the handshake with a client; `incoming` was read already.
    ///
    /// # Errors
    /// Returns those of the socket, [`UnexpectedEof`](io::ErrorKind) if it ends, and those of TLS, after sending the
    /// alert.
    pub async fn accept(config: Arc<ServerConfig>, incoming: Incoming, io: S) -> io::Result<Self> {
        let handshake = TlsAcceptor::from(config).accept(Prefixed::new(incoming.0, io)).into_fallible();
        match handshake.await {
            Ok(stream) => Ok(TokioStream::new(stream.into())),
            Err((error, io)) => Err(give_up(error, io).await),
        }
    }

    /// Performs the handshake with a server that must be `name`.
    ///
    /// # Errors
    /// See [`accept`](Self::accept).
    pub async fn connect(config: Arc<ClientConfig>, name: ServerName<'static>, io: S) -> io::Result<Self> {
        let handshake = TlsConnector::from(config).connect(name, Prefixed::from(io)).into_fallible();
        match handshake.await {
            Ok(stream) => Ok(TokioStream::new(stream.into())),
            Err((error, io)) => Err(give_up(error, io).await),
        }
    }
}

/// Ends the connection of a failed handshake with FIN after the alert, rather than a reset.
async fn give_up<S: AsyncRead + AsyncWrite + Unpin>(error: io::Error, mut io: S) -> io::Error {
    let _ = io.shutdown().await;
    as_tls_error(&error).map_or(error, tls_error)
}

fn tls_error(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Returns the TLS error in it; `None` if it is an error of the socket.
fn as_tls_error(error: &io::Error) -> Option<rustls::Error> {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => Some(error.clone()),
        // rustls reports an incomplete message that is too large to keep by a string only.
        None if error.kind() == io::ErrorKind::InvalidData => Some(InvalidMessage::HandshakePayloadTooLarge.into()),
        None => None,
    }
}

impl<S> TokioStream<S> {
    fn new(inner: tokio_rustls::TlsStream<Prefixed<S>>) -> Self {
        TokioStream { inner, failed: None, closed: false }
    }

    fn common(&self) -> &CommonState {
        self.inner.get_ref().1
    }

    /// Returns false: rustls' usual interface cannot go on in another process.
    pub fn may_move(&self) -> bool {
        false
    }

    /// Fails always, and loses the connection.
    ///
    /// # Errors
    /// Always.
    pub fn into_state(self) -> Result<(TlsState, S), TlsMoveError> {
        Err(TlsMoveError::NotMovable)
    }

    /// Fails always.
    ///
    /// # Errors
    /// Always.
    pub fn restore(_state: TlsState, _io: S) -> Result<Self, TlsMoveError> {
        Err(TlsMoveError::Invalid("this program was built with the feature tls-tokio, and cannot go on with it"))
    }

    /// Returns the negotiated version of TLS.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.common().protocol_version()
    }

    /// Returns the certificate that the peer showed in this handshake, or in the one that it resumes.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.common().peer_certificates()?.first()
    }

    /// Returns the application protocol that was negotiated, if one was.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// Returns whether the handshake resumed a session.
    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.common().handshake_kind()
    }

    /// Returns true if this is an error of TLS, and ends the connection then.
    fn fails_by(&mut self, error: &io::Error) -> bool {
        let Some(error) = as_tls_error(error) else { return false };
        let mut unsent = Vec::new();
        // tokio-rustls sends nothing after an error, so pending records are taken out of rustls. A Vec takes all.
        let _ = match &mut self.inner {
            tokio_rustls::TlsStream::Client(stream) => take_all(stream.get_mut().1, &mut unsent),
            tokio_rustls::TlsStream::Server(stream) => take_all(stream.get_mut().1, &mut unsent),
        };
        self.failed = Some(Failure { error, unsent });
        self.closed = true;
        true
    }

    /// Reads the bytes decrypted before the failure.
    fn read_rest(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let room = buf.initialize_unfilled();
        let read = match &mut self.inner {
            tokio_rustls::TlsStream::Client(stream) => stream.get_mut().1.reader().read(room),
            tokio_rustls::TlsStream::Server(stream) => stream.get_mut().1.reader().read(room),
        };
        match (read, &self.failed) {
            (Ok(count @ 1..), _) => buf.advance(count),
            (_, Some(failure)) => return Err(tls_error(failure.error.clone())),
            (_, None) => {}
        }
        Ok(())
    }
}

fn take_all<D: SideData>(connection: &mut ConnectionCommon<D>, into: &mut Vec<u8>) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(into)?;
    }
    Ok(())
}

impl<S: AsyncRead + AsyncWrite + Unpin> TokioStream<S> {
    /// Sends pending records.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failed.is_none() {
            match ready!(Pin::new(&mut self.inner).poll_flush(cx)) {
                Err(error) if self.fails_by(&error) => {}
                result => return Poll::Ready(result),
            }
        }
        let Some(Failure { unsent, .. }) = &mut self.failed else { return Poll::Ready(Ok(())) };
        while !unsent.is_empty() {
            match ready!(Pin::new(&mut *self.inner.get_mut().0).poll_write(cx, unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => drop(unsent.drain(..count)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TokioStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = match this.failed {
            Some(_) => Poll::Ready(this.read_rest(buf)),
            None => match Pin::new(&mut this.inner).poll_read(cx, buf) {
                Poll::Ready(Err(error)) if this.fails_by(&error) => Poll::Ready(this.read_rest(buf)),
                read => read,
            },
        };
        if this.failed.is_some() || this.common().wants_write() {
            // What cannot be sent now is sent later; if the socket has failed, the read reports it.
            let _ = this.poll_send(cx);
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TokioStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bufs.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match Pin::new(&mut this.inner).poll_write_vectored(cx, bufs) {
            Poll::Ready(Err(error)) if this.fails_by(&error) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    /// Sends a close_notify, then ends the socket's writing side.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.closed = true;
        ready!(this.poll_send(cx))?;
        match this.failed {
            None => Pin::new(&mut this.inner).poll_shutdown(cx),
            // An alert, ours or the peer's, has ended it already.
            Some(_) => Pin::new(this.inner.get_mut().0).poll_shutdown(cx),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for TokioStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("io", self.inner.get_ref().0).finish_non_exhaustive()
    }
}
