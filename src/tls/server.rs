//! TLS towards clients.
//!
//! * **Resumption by tickets only**, encrypted under keys that rotate every six hours and are shared by all workers: no
//!   session is stored, and no lock taken. A handshake sends one ticket (rustls sends two): a client uses each once and
//!   then gets the next, and a second would cost every full handshake an encryption and some 250 bytes.
//! * **The first byte shows** whether the client speaks TLS, before rustls sees any. A plain HTTP request on a TLS port
//!   is so common a mistake that it gets a readable answer.
//! * Every failure has a kind from a closed set, for a metric; rustls sends the matching alert.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::NoServerSessionStorage;
use rustls::{AlertDescription, HandshakeKind, InvalidMessage, PeerMisbehaved, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::TlsError;
use super::identity::Identity;
use super::kind::Incoming;
use super::resolver::Resolver;
use super::tickets::TicketKeys;
use super::verifier::{self, Authorities};
use super::{ServerStream, key_log, provider};
use crate::base::labels::labels;
use crate::net::stream::{Prefixed, Stream};

/// The TLS options of a listener.
#[derive(Debug, Clone)]
pub struct ServerTlsOptions {
    /// The certificates, chosen by SNI; the first is the default.
    pub identities: Vec<Identity>,
    /// The oldest version accepted.
    pub min_version: MinVersion,
    /// How client certificates are verified, if clients are asked for one.
    pub client_auth: Option<ClientAuth>,
    /// The application protocols, best first (RFC 7301).
    pub alpn: Vec<&'static [u8]>,
    /// Whether connections may go on in another process.
    pub may_move: bool,
}

/// The oldest version of TLS accepted. Still older ones are obsolete (RFC 8996).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

/// How client certificates are verified.
#[derive(Debug, Clone)]
pub struct ClientAuth {
    /// The authorities that may have signed them.
    pub roots: Arc<Authorities>,
    /// Whether a client may come without one.
    pub mode: ClientAuthMode,
}

/// Whether a client may have no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuthMode {
    /// A client without a certificate is refused.
    Require,
    /// A client without one is served; a client with a bad one is refused.
    Optional,
}

/// Builds a listener's TLS configuration. Connections of all workers share it; existing ones keep theirs when it is
/// replaced.
///
/// # Errors
/// Fails if there is no certificate, or rustls refuses an option.
pub fn server_config(options: &ServerTlsOptions, tickets: &TicketKeys) -> Result<Arc<ServerConfig>, TlsError> {
    let resolver = Resolver::new(&options.identities)?;
    let versions: &[&rustls::SupportedProtocolVersion] = match options.min_version {
        MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider())).with_protocol_versions(versions)?;
    let builder = match &options.client_auth {
        None => builder.with_no_client_auth(),
        Some(auth) => {
            let optional = auth.mode == ClientAuthMode::Optional;
            builder.with_client_cert_verifier(verifier::of_clients(Arc::clone(&auth.roots), optional)?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = options.alpn.iter().map(|name| name.to_vec()).collect();
    config.ticketer = tickets.ticketer();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    if let Some(key_log) = key_log(options.may_move) {
        (config.enable_secret_extraction, config.key_log) = (true, key_log);
    }
    Ok(Arc::new(config))
}

/// Why a client's handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsAcceptError {
    /// It took too long.
    #[error("the TLS handshake took too long")]
    Timeout,
    /// The client sent HTTP without TLS, and got an answer.
    #[error("the client sent plain HTTP to a TLS port")]
    PlainHttp,
    /// The client sent neither TLS nor HTTP.
    #[error("the client does not speak TLS")]
    NotTls,
    /// The client's certificate is missing, or bad.
    #[error("the client's certificate was refused")]
    ClientCertificate(#[source] rustls::Error),
    /// The two have no version, cipher, group, signature or application protocol in common.
    #[error("client and listener have no version, cipher or protocol in common")]
    NothingShared(#[source] rustls::Error),
    /// The requested name is not a DNS name, so rustls ends the handshake (alert `illegal_parameter`).
    #[error("the server name (SNI) that the client asks for is no DNS name")]
    ServerName(#[source] rustls::Error),
    /// The client ended the handshake with an alert: mostly, it does not trust our certificate.
    #[error("the client refused the handshake: {0:?}")]
    ClientRefused(AlertDescription),
    /// The client broke the TLS protocol in another way.
    #[error("the TLS handshake failed")]
    Protocol(#[source] rustls::Error),
    /// The client closed the connection.
    #[error("the client closed the connection during the TLS handshake")]
    Closed,
    /// The connection failed.
    #[error("the connection failed during the TLS handshake")]
    Io(#[source] io::Error),
}

labels! {
    TlsAcceptError {
        TlsAcceptError::Timeout => "timeout",
        TlsAcceptError::PlainHttp => "plain_http",
        TlsAcceptError::NotTls => "not_tls",
        TlsAcceptError::ClientCertificate(_) => "client_certificate",
        TlsAcceptError::NothingShared(_) => "nothing_shared",
        TlsAcceptError::ServerName(_) => "server_name",
        TlsAcceptError::ClientRefused(_) => "client_refused",
        TlsAcceptError::Protocol(_) => "protocol",
        TlsAcceptError::Closed => "closed",
        TlsAcceptError::Io(_) => "io",
    }
}

impl From<io::Error> for TlsAcceptError {
    fn from(error: io::Error) -> TlsAcceptError {
        use rustls::Error;
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    TlsAcceptError::Closed
                }
                _ => TlsAcceptError::Io(error),
            };
        };
        let tls = tls.clone();
        match tls {
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => TlsAcceptError::ClientCertificate(tls),
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => TlsAcceptError::NothingShared(tls),
            // RFC 6066 §3: one DNS name. An IP address, which is not allowed either, counts as no name.
            Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName)
            | Error::InvalidMessage(InvalidMessage::InvalidServerName) => TlsAcceptError::ServerName(tls),
            Error::AlertReceived(alert) => TlsAcceptError::ClientRefused(alert),
            _ => TlsAcceptError::Protocol(tls),
        }
    }
}

/// The content type of a TLS record that carries a handshake (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;

const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    content-length: 80\r\n\
    connection: close\r\n\
    \r\n\
    A plain HTTP request was sent to a port that speaks TLS: use https:// or wss://\n";

/// How long, and how much, a client may still send after its answer before the connection is closed. A close with
/// unread bytes causes a reset, which can overtake the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 64 * 1024;

/// Performs the handshake. The future is large; box it, so that the memory is freed afterwards.
///
/// # Errors
/// See [`TlsAcceptError`]; the alert, or an answer in plain HTTP, was sent before.
pub async fn accept(
    stream: Prefixed<Stream>,
    config: Arc<ServerConfig>,
    deadline: Instant,
) -> Result<ServerStream, TlsAcceptError> {
    timeout_at(deadline, handshake(stream, config)).await.map_err(|_| TlsAcceptError::Timeout)?
}

async fn handshake(stream: Prefixed<Stream>, config: Arc<ServerConfig>) -> Result<ServerStream, TlsAcceptError> {
    let (early, mut stream) = stream.into_parts();
    let mut incoming = Incoming::new(&early);
    drop(early);
    if incoming.bytes().is_empty() {
        poll_fn(|cx| incoming.poll_fill(cx, &mut stream)).await?;
    }
    match incoming.bytes().first().copied() {
        None => return Err(TlsAcceptError::Closed),
        Some(HANDSHAKE_RECORD) => {}
        // Methods are written in capitals (RFC 9110 §9.1).
        Some(b'A'..=b'Z') => {
            let _ = timeout(LINGER, answer_plain_http(stream)).await;
            return Err(TlsAcceptError::PlainHttp);
        }
        Some(_) => return Err(TlsAcceptError::NotTls),
    }
    let clock = Arc::clone(&config.time_provider);
    let mut stream = ServerStream::accept(config, incoming, stream).await?;
    if stream.handshake_kind() == Some(HandshakeKind::Resumed)
        && let Some(certificate) = stream.peer_certificate()
        // It was verified when presented, which may be long ago, since each ticket brings the next.
        && let now = clock.current_time().ok_or(rustls::Error::FailedToGetCurrentTime)
        && let Err(error) = now.and_then(|now| verifier::in_force(certificate, now))
    {
        let _ = stream.shutdown().await;
        return Err(TlsAcceptError::ClientCertificate(error));
    }
    Ok(stream)
}

async fn answer_plain_http(mut stream: Stream) -> io::Result<()> {
    stream.write_all(PLAIN_HTTP_ANSWER).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
