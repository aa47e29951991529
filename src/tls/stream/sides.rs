//! The streams of the two sides, each made from its configuration.

use std::io;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Incoming, TlsStream, tls_error};

/// A client's connection after its handshake.
pub type ServerStream<S> = TlsStream<UnbufferedServerConnection, S>;
/// A connection to a server after its handshake.
pub type ClientStream<S> = TlsStream<UnbufferedClientConnection, S>;

impl<S: AsyncRead + AsyncWrite + Unpin> ServerStream<S> {
    /// Performs the handshake with a client; `incoming` was read already.
    ///
    /// # Errors
    /// See [`TlsStream::handshake`].
    pub async fn accept(config: Arc<ServerConfig>, incoming: Incoming, io: S) -> io::Result<Self> {
        let may_move = config.enable_secret_extraction;
        let connection = UnbufferedServerConnection::new(config).map_err(tls_error)?;
        TlsStream::handshake(connection, incoming, io, may_move).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientStream<S> {
    /// Performs the handshake with a server that must be `name`.
    ///
    /// # Errors
    /// See [`TlsStream::handshake`].
    pub async fn connect(config: Arc<ClientConfig>, name: ServerName<'static>, io: S) -> io::Result<Self> {
        let may_move = config.enable_secret_extraction;
        let connection = UnbufferedClientConnection::new(config, name).map_err(tls_error)?;
        TlsStream::handshake(connection, Incoming::new(&[]), io, may_move).await
    }
}
