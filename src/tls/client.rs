//! TLS towards upstreams: always verified, against the system's roots or a CA of one's own.
//!
//! There is no switch to skip verification. Who runs a CA of his own names it (`ca`), who calls a server by another
//! name than its certificate says names that (`server_name`).
//!
//! Sessions are resumed: a configuration keeps the tickets of the last 256 servers (rustls's default), for all workers.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage, RootCertStore};

use super::identity::{Identity, TlsError};
use super::stream::{Incoming, TlsStream};
use super::{ALPN_HTTP_1_1, ClientStream, provider};
use crate::net::stream::Stream;

/// What is needed to speak TLS to an upstream.
#[derive(Debug, Clone, Default)]
pub struct ClientTlsOptions {
    /// Who may have signed the server's certificate; in place of the system's roots.
    pub roots: Option<Arc<RootCertStore>>,
    /// Our own certificate, for servers that ask for one.
    pub identity: Option<Identity>,
}

/// Puts the TLS for an upstream together.
///
/// # Errors
/// If there is nobody to trust, or rustls refuses our certificate.
pub fn client_config(options: &ClientTlsOptions) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match &options.roots {
        Some(roots) => Arc::clone(roots),
        None => native_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&identity.key))))
        }
    };
    config.alpn_protocols = vec![ALPN_HTTP_1_1.to_vec()];
    Ok(Arc::new(config))
}

/// The system's roots, read once. A failure is not kept: the package may be installed before the next reload.
fn native_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: Mutex<Option<Arc<RootCertStore>>> = Mutex::new(None);
    let mut kept = ROOTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(roots) = &*kept {
        return Ok(Arc::clone(roots));
    }
    let mut roots = RootCertStore::empty();
    // Some systems carry certificates that nobody can parse; the others are good nevertheless.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::NoNativeRoots);
    }
    let roots = Arc::new(roots);
    *kept = Some(Arc::clone(&roots));
    Ok(roots)
}

/// The name that a server's certificate must hold for: a host name, or an IP address (IPv6 with or without brackets).
///
/// # Errors
/// If it is neither.
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::BadServerName { name: host.to_owned() })
}

/// Why the handshake with an upstream failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsConnectError {
    /// Its certificate does not hold: expired, for another name, signed by somebody we do not know.
    #[error("the server's certificate was refused{}", hint(.0))]
    Untrusted(#[source] rustls::Error),
    /// No version, cipher, group, signature or application protocol that both know.
    #[error("the server has no TLS version, cipher or protocol in common with us")]
    NothingShared(#[source] rustls::Error),
    /// It broke it off by an alert.
    #[error("the server refused the TLS handshake: {0:?}")]
    ServerRefused(AlertDescription),
    /// It answered with something else.
    #[error("the server does not speak TLS on this port (is it ws:// rather than wss://?)")]
    NotTls,
    /// Whatever else is against the protocol.
    #[error("the TLS handshake with the server failed")]
    Protocol(#[source] rustls::Error),
    /// It went away.
    #[error("the server closed the connection during the TLS handshake")]
    Closed,
    /// The connection failed.
    #[error("the connection failed during the TLS handshake with the server")]
    Io(#[source] io::Error),
}

fn hint(error: &rustls::Error) -> &'static str {
    let rustls::Error::InvalidCertificate(error) = error else { return "" };
    match error {
        // A CA that was made anew under its old name shows as a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            " (for a CA of your own set `ca` in the upstream's `tls`)"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            " (set `server_name` in the upstream's `tls` to a name the certificate holds for)"
        }
        _ => "",
    }
}

impl TlsConnectError {
    /// All labels that [`label`](Self::label) gives.
    pub const LABELS: [&'static str; 7] =
        ["untrusted", "nothing_shared", "server_refused", "not_tls", "protocol", "closed", "io"];

    /// As a label for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            TlsConnectError::Untrusted(_) => "untrusted",
            TlsConnectError::NothingShared(_) => "nothing_shared",
            TlsConnectError::ServerRefused(_) => "server_refused",
            TlsConnectError::NotTls => "not_tls",
            TlsConnectError::Protocol(_) => "protocol",
            TlsConnectError::Closed => "closed",
            TlsConnectError::Io(_) => "io",
        }
    }
}

impl From<io::Error> for TlsConnectError {
    fn from(error: io::Error) -> TlsConnectError {
        use rustls::Error;
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    TlsConnectError::Closed
                }
                _ => TlsConnectError::Io(error),
            };
        };
        match tls.clone() {
            tls @ Error::InvalidCertificate(_) => TlsConnectError::Untrusted(tls),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => TlsConnectError::NotTls,
            Error::AlertReceived(alert) => TlsConnectError::ServerRefused(alert),
            tls @ (Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => TlsConnectError::NothingShared(tls),
            tls => TlsConnectError::Protocol(tls),
        }
    }
}

/// Does the handshake with a server that must be `name`. Has no deadline of its own. The future is large; box it.
///
/// # Errors
/// See [`TlsConnectError`]. With TLS 1.3 a server that does not like *our* certificate says so only after the handshake:
/// the first read fails then.
pub async fn connect(
    stream: Stream,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> Result<ClientStream, TlsConnectError> {
    let connection = UnbufferedClientConnection::new(config, name).map_err(TlsConnectError::Protocol)?;
    Ok(TlsStream::handshake(connection, Incoming::new(&[]), stream).await?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use rustls::HandshakeKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::time::Instant;

    use super::super::server::{self, ClientAuth, ClientAuthMode, MinVersion, ServerTlsOptions, TicketKeys};
    use super::super::test_certificates::Ca;
    use super::*;

    /// A server on one end of a socket pair, `options` on the other; it echoes one byte.
    async fn shake(
        server: ServerTlsOptions,
        config: &Arc<ClientConfig>,
        name: &str,
    ) -> Result<ClientStream, TlsConnectError> {
        shake_with(&serve(&server), config, name).await
    }

    fn serve(options: &ServerTlsOptions) -> Arc<rustls::ServerConfig> {
        server::server_config(options, &TicketKeys::new().unwrap()).unwrap()
    }

    async fn shake_with(
        server: &Arc<rustls::ServerConfig>,
        config: &Arc<ClientConfig>,
        name: &str,
    ) -> Result<ClientStream, TlsConnectError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let server = server::accept(Stream::from(theirs).into(), Arc::clone(server), deadline);
        tokio::spawn(async move {
            if let Ok(mut stream) = server.await {
                let byte = stream.read_u8().await.unwrap();
                stream.write_u8(byte).await.unwrap();
                stream.flush().await.unwrap();
            }
        });
        let mut stream = connect(ours.into(), server_name(name).unwrap(), Arc::clone(config)).await?;
        // Reading takes in the ticket, too.
        stream.write_u8(7).await.unwrap();
        stream.flush().await.unwrap();
        stream.read_u8().await.map_err(TlsConnectError::from)?;
        Ok(stream)
    }

    fn serving(ca: &Ca, names: &[&str]) -> ServerTlsOptions {
        ServerTlsOptions { identities: vec![ca.identity(names)], min_version: MinVersion::Tls12, client_auth: None }
    }

    fn trusting(ca: &Ca) -> Arc<ClientConfig> {
        client_config(&ClientTlsOptions { roots: Some(ca.roots()), identity: None }).unwrap()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_server_of_our_ca_is_trusted_and_another_is_not() {
        let ca = Ca::new();
        shake(serving(&ca, &["a.example"]), &trusting(&ca), "a.example").await.unwrap();
        shake(serving(&ca, &["127.0.0.1"]), &trusting(&ca), "127.0.0.1").await.unwrap();
        shake(serving(&ca, &["::1"]), &trusting(&ca), "[::1]").await.unwrap();

        let error = shake(serving(&Ca::new(), &["a.example"]), &trusting(&ca), "a.example").await.unwrap_err();
        assert!(error.to_string().contains("set `ca`"), "{error}");
        assert_eq!(error.label(), "untrusted");

        let error = shake(serving(&ca, &["a.example"]), &trusting(&ca), "b.example").await.unwrap_err();
        assert!(error.to_string().contains("set `server_name`"), "{error}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_second_connection_resumes_the_first() {
        let ca = Ca::new();
        for min_version in [MinVersion::Tls12, MinVersion::Tls13] {
            let server = serve(&ServerTlsOptions { min_version, ..serving(&ca, &["a.example"]) });
            let config = trusting(&ca);
            let kind = |stream: ClientStream| stream.handshake_kind().unwrap();
            let first = shake_with(&server, &config, "a.example").await.unwrap();
            assert_ne!(kind(first), HandshakeKind::Resumed);
            let second = shake_with(&server, &config, "a.example").await.unwrap();
            assert_eq!(kind(second), HandshakeKind::Resumed);
            let third = shake_with(&server, &config, "a.example").await.unwrap();
            assert_eq!(kind(third), HandshakeKind::Resumed);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn our_own_certificate_is_shown_to_a_server_that_asks() {
        let ca = Ca::new();
        let auth = ClientAuth { roots: ca.roots(), mode: ClientAuthMode::Require };
        let server = ServerTlsOptions { client_auth: Some(auth), ..serving(&ca, &["a.example"]) };
        let identity = Some(ca.identity(&["client.example"]));
        let config = client_config(&ClientTlsOptions { roots: Some(ca.roots()), identity }).unwrap();
        shake(server.clone(), &config, "a.example").await.unwrap();
        let error = shake(server, &trusting(&ca), "a.example").await.unwrap_err();
        assert!(matches!(error, TlsConnectError::ServerRefused(AlertDescription::CertificateRequired)), "{error:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_server_without_tls_is_told_from_one_that_hangs_up() {
        let config = trusting(&Ca::new());
        for (answer, expected) in [(b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), "not_tls"), (b"", "closed")] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let peer = async {
                let _ = theirs.read(&mut [0; 4096]).await.unwrap();
                theirs.write_all(answer).await.unwrap();
                drop(theirs);
            };
            let name = server_name("a.example").unwrap();
            let (result, ()) = tokio::join!(connect(ours.into(), name, Arc::clone(&config)), peer);
            assert_eq!(result.unwrap_err().label(), expected);
        }
    }

    #[test]
    fn a_name_is_a_host_or_an_address() {
        for name in ["a.example", "127.0.0.1", "::1", "[::1]"] {
            server_name(name).unwrap();
        }
        for name in ["", "a b", "a.example:443", "[a.example"] {
            assert!(matches!(server_name(name), Err(TlsError::BadServerName { .. })), "{name}");
        }
    }

    #[test]
    fn the_roots_of_the_system_are_read_once() {
        match (native_roots(), native_roots()) {
            (Ok(first), Ok(second)) => assert!(Arc::ptr_eq(&first, &second)),
            // A machine without any: then it is said.
            (first, _) => assert!(first.unwrap_err().to_string().contains("ca-certificates")),
        }
    }
}
