//! TLS towards upstreams, verified against the system's roots or the operator's CA.
//!
//! `ca` names the operator's CA, or self-signed server certificates; `server_name` names the server in the certificate
//! if that differs from the URL. `verify: off` is for servers that cannot be repaired: a device whose certificate has
//! expired, or has no names.
//!
//! A session is resumed only while the certificate that verified the server is valid: a configuration keeps eight
//! tickets for each of the last 32 servers (rustls's default), for all workers.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage, RootCertStore};

use super::error::TlsError;
use super::identity::Identity;
use super::sessions::{RecordingVerifier, TlsSessions};
use super::verifier::{self, Authorities, Unverified};
use super::{ALPN_HTTP_1_1, ClientStream, key_log, provider};
use crate::base::labels::labels;
use crate::net::stream::Stream;

/// The TLS options of an upstream.
#[derive(Debug, Clone, Default)]
pub struct ClientTlsOptions {
    /// The authorities that may have signed the server's certificate, instead of the system's roots.
    pub roots: Option<Arc<Authorities>>,
    /// The client certificate, for servers that request one.
    pub identity: Option<Identity>,
    /// Accepts any certificate.
    pub unverified: bool,
    /// Whether connections may go on in another process.
    pub may_move: bool,
}

/// Builds the TLS configuration for an upstream.
///
/// # Errors
/// Fails if there is nothing to trust, or rustls refuses our certificate.
pub fn client_config(options: &ClientTlsOptions) -> Result<Arc<ClientConfig>, TlsError> {
    client_config_by(options, Arc::new(DefaultTimeProvider))
}

/// Returns the verifier of server certificates; `None` if any is accepted.
///
/// # Errors
/// Fails if there is nothing to trust.
pub(super) fn verifier_of(options: &ClientTlsOptions) -> Result<Option<Arc<dyn ServerCertVerifier>>, TlsError> {
    Ok(match &options.roots {
        _ if options.unverified => None,
        Some(ours) => Some(verifier::of_servers(Arc::clone(&ours.roots), Some(Arc::clone(ours)))?),
        None => Some(verifier::of_servers(native_roots()?, None)?),
    })
}

fn client_config_by(options: &ClientTlsOptions, clock: Arc<dyn TimeProvider>) -> Result<Arc<ClientConfig>, TlsError> {
    let judge = verifier_of(options)?;
    let sessions = Arc::new(TlsSessions::new(Arc::clone(&clock)));
    let (verifier, resumption): (Arc<dyn ServerCertVerifier>, _) = match judge {
        Some(judge) => {
            let telling = RecordingVerifier { judge, sessions: Arc::clone(&sessions) };
            (Arc::new(telling), Resumption::store(sessions))
        }
        // No certificate was verified, so none can have expired.
        None => (Arc::new(Unverified), Resumption::default()),
    };
    let builder = ClientConfig::builder_with_details(Arc::clone(provider()), clock)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&identity.key))))
        }
    };
    config.alpn_protocols = vec![ALPN_HTTP_1_1.to_vec()];
    config.resumption = resumption;
    if let Some(key_log) = key_log(options.may_move) {
        (config.enable_secret_extraction, config.key_log) = (true, key_log);
    }
    Ok(Arc::new(config))
}

/// Returns the same configuration for other protocols, by their ALPN names, best first. Both share sessions.
pub fn with_protocols(config: &ClientConfig, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// Returns the system's roots, read once. A failure is not cached: the package may be installed before the next reload.
fn native_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: Mutex<Option<Arc<RootCertStore>>> = Mutex::new(None);
    let mut kept = ROOTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(roots) = &*kept {
        return Ok(Arc::clone(roots));
    }
    let mut roots = RootCertStore::empty();
    // Some systems have certificates that cannot be parsed; the others are still good.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::NoNativeRoots);
    }
    let roots = Arc::new(roots);
    *kept = Some(Arc::clone(&roots));
    Ok(roots)
}

/// Parses the name that a server's certificate must match: a host name, or an IP address (IPv6 with or without
/// brackets).
///
/// Fails if it is neither.
/// If it is neither.
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::BadServerName { name: host.to_owned() })
}

/// Why the handshake with an upstream failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsConnectError {
    /// The server's certificate is not accepted: expired, for another name, or signed by an unknown authority.
    #[error("the server's certificate was refused{}", hint(.0))]
    Untrusted(#[source] rustls::Error),
    /// The two have no version, cipher, group, signature or application protocol in common.
    #[error("the server has no TLS version, cipher or protocol in common with us")]
    NothingShared(#[source] rustls::Error),
    /// The server ended the handshake with an alert.
    #[error("the server refused the TLS handshake: {0:?}")]
    ServerRefused(AlertDescription),
    /// The server answered with another protocol.
    #[error("the server does not speak TLS on this port (is it ws:// rather than wss://?)")]
    NotTls,
    /// The server broke the TLS protocol in another way.
    #[error("the TLS handshake with the server failed")]
    Protocol(#[source] rustls::Error),
    /// The server closed the connection.
    #[error("the server closed the connection during the TLS handshake")]
    Closed,
    /// The connection failed.
    #[error("the connection failed during the TLS handshake with the server")]
    Io(#[source] io::Error),
}

/// Returns the remedy. Never suggests `verify: off`, which always works: people would leave it at that.
fn hint(error: &rustls::Error) -> &'static str {
    let rustls::Error::InvalidCertificate(error) = error else { return "" };
    match error {
        // A CA recreated under its old name shows as a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            " (for a CA of your own, or a server that signs for itself, set `ca` in the upstream's `tls` to that \
             certificate; of a public CA the server must send the intermediates too)"
        }
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            " (it names no host in its subjectAltName, and a common name does not count: create it again with `openssl req \
             -x509 … -addext subjectAltName=DNS:NAME`)"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            " (set `server_name` in the upstream's `tls` to a name the certificate holds for)"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            " (it has expired: renew it at the server, or set the clock of this machine if that is wrong)"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            " (it is not valid yet: is the clock of this machine right?)"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            " (it is not for servers: its extendedKeyUsage must have serverAuth)"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            " (its signature is not of a kind that is safe, such as SHA-1, or not by the key of the authority that is known by \
             this name: for a CA of your own, or a server that signs for itself, set `ca` in the upstream's `tls` to its \
             certificate of now; else create it again)"
        }
        CertificateError::Other(other) => match other.0.downcast_ref() {
            Some(webpki::Error::CaUsedAsEndEntity) => {
                " (it is an authority's own, as `openssl req -x509` makes them: set `ca` in the upstream's `tls` to this \
                 very certificate, or make one with `-addext basicConstraints=CA:FALSE`)"
            }
            Some(webpki::Error::EndEntityUsedAsCa | webpki::Error::PathLenConstraintViolated) => {
                " (what signed it is no authority, or must not sign it: set `ca` in the upstream's `tls` to this very \
                 certificate, or let an authority sign it)"
            }
            Some(webpki::Error::UnsupportedCertVersion) => {
                " (it is of X.509 version 1, which has no names of hosts: create it again with `openssl req -x509 … -addext \
                 subjectAltName=DNS:NAME`)"
            }
            _ => "",
        },
        _ => "",
    }
}

labels! {
    TlsConnectError {
        TlsConnectError::Untrusted(_) => "untrusted",
        TlsConnectError::NothingShared(_) => "nothing_shared",
        TlsConnectError::ServerRefused(_) => "server_refused",
        TlsConnectError::NotTls => "not_tls",
        TlsConnectError::Protocol(_) => "protocol",
        TlsConnectError::Closed => "closed",
        TlsConnectError::Io(_) => "io",
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

/// Performs the handshake with a server that must be `name`. Has no deadline of its own. The future is large; box it.
///
/// # Errors
/// See [`TlsConnectError`]. With TLS 1.3 a server rejects *our* certificate only after the handshake: then the first
/// read fails.
pub async fn connect(
    stream: Stream,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> Result<ClientStream, TlsConnectError> {
    Ok(ClientStream::connect(config, name, stream).await?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use rustls::HandshakeKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::time::Instant;

    use super::super::server::{self, ClientAuth, ClientAuthMode, MinVersion, ServerTlsOptions};
    use super::super::test_certificates::{Ca, Clock};
    use super::super::tickets::TicketKeys;
    use super::*;

    /// Connects a server with `options` for the client over a socket pair; the server echoes one byte.
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
        // Reading receives the ticket, too.
        stream.write_u8(7).await.unwrap();
        stream.flush().await.unwrap();
        stream.read_u8().await.map_err(TlsConnectError::from)?;
        Ok(stream)
    }

    fn serving(ca: &Ca, names: &[&str]) -> ServerTlsOptions {
        ServerTlsOptions {
            identities: vec![ca.identity(names)],
            min_version: MinVersion::Tls12,
            client_auth: None,
            alpn: vec![b"http/1.1"],
            may_move: false,
        }
    }

    fn trusting(ca: &Ca) -> Arc<ClientConfig> {
        client_config(&ClientTlsOptions { roots: Some(ca.authorities()), ..ClientTlsOptions::default() }).unwrap()
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

    /// Makes the certificate of `openssl req -x509 -addext subjectAltName=…`, with changes: authority and server at
    /// once.
    fn self_signed(names: &[&str], change: impl FnOnce(&mut rcgen::CertificateParams)) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "self");
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn showing((cert, key): &(String, String)) -> ServerTlsOptions {
        let identity = Identity::from_pem("server", cert.as_bytes(), key.as_bytes()).unwrap();
        ServerTlsOptions {
            identities: vec![identity],
            min_version: MinVersion::Tls12,
            client_auth: None,
            alpn: vec![b"http/1.1"],
            may_move: false,
        }
    }

    fn trusting_file(pem: &str) -> Arc<ClientConfig> {
        let roots = Some(super::super::identity::authorities("ca", pem.as_bytes()).unwrap());
        client_config(&ClientTlsOptions { roots, ..ClientTlsOptions::default() }).unwrap()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_certificate_that_is_no_authority_stands_for_itself_and_signs_no_other() {
        for is_ca in [rcgen::IsCa::NoCa, rcgen::IsCa::ExplicitNoCa] {
            let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            params.is_ca = is_ca;
            params.distinguished_name.push(rcgen::DnType::CommonName, "pinned");
            let key = rcgen::KeyPair::generate().unwrap();
            let key_pem = key.serialize_pem();
            let pinned = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
            let config = trusting_file(&pinned.pem());
            shake(showing(&(pinned.pem(), key_pem)), &config, "a.example").await.unwrap();
            let key = rcgen::KeyPair::generate().unwrap();
            let signed = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            let signed = (signed.signed_by(&key, &pinned).unwrap().pem(), key.serialize_pem());
            let error = shake(showing(&signed), &config, "a.example").await.unwrap_err();
            assert_eq!(error.label(), "untrusted", "{error}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_certificate_that_stands_in_ca_itself_is_trusted_for_its_names() {
        let ours = self_signed(&["a.example", "127.0.0.1"], |_| {});
        let config = trusting_file(&ours.0);
        shake(showing(&ours), &config, "a.example").await.unwrap();
        shake(showing(&ours), &config, "127.0.0.1").await.unwrap();
        let error = shake(showing(&ours), &config, "b.example").await.unwrap_err();
        assert!(error.to_string().contains("set `server_name`"), "{error}");
        // In a list, together with one that an unlisted authority signed.
        let ca = Ca::new();
        let signed = ca.sign(&["a.example"], |_| {});
        let both = trusting_file(&format!("{}{}", ours.0, signed.0));
        shake(showing(&ours), &both, "a.example").await.unwrap();
        shake(showing(&signed), &both, "a.example").await.unwrap();
        // A certificate that only looks alike does not match.
        let other = self_signed(&["a.example"], |_| {});
        shake(showing(&other), &config, "a.example").await.unwrap_err();
        shake(showing(&ca.sign(&["a.example"], |_| {})), &both, "a.example").await.unwrap_err();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn each_refusal_of_a_certificate_says_what_to_do() {
        let ca = Ca::new();
        let past = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let future = |params: &mut rcgen::CertificateParams| params.not_before = rcgen::date_time_ymd(4000, 1, 1);
        let expired = self_signed(&["a.example"], past);
        let early = self_signed(&["a.example"], future);
        let nameless = self_signed(&[], |_| {});
        for (shown, trusted, words) in [
            (&expired, expired.0.clone(), "it has expired: renew it"),
            (&early, early.0.clone(), "is the clock of this machine right"),
            (&nameless, nameless.0.clone(), "-addext subjectAltName=DNS:NAME"),
            (&ca.sign(&["a.example"], past), ca.pem(), "it has expired: renew it"),
            (&ca.sign(&["a.example"], future), ca.pem(), "is the clock of this machine right"),
            (&ca.sign(&[], |_| {}), ca.pem(), "-addext subjectAltName=DNS:NAME"),
            (&ca.sign(&["b.example"], |_| {}), ca.pem(), "set `server_name`"),
            (
                &self_signed(&["a.example"], |_| {}),
                ca.pem(),
                "set `ca` in the upstream's `tls` to this very certificate",
            ),
            (&Ca::new().sign(&["a.example"], |_| {}), ca.pem(), "set `ca` in the upstream's `tls`"),
            (
                &ca.sign(&["a.example"], |it| {
                    it.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth]
                }),
                ca.pem(),
                "must have serverAuth",
            ),
        ] {
            let error = shake(showing(shown), &trusting_file(&trusted), "a.example").await.unwrap_err();
            assert!(error.to_string().contains(words), "{words}: {error}: {error:?}");
            assert_eq!(error.label(), "untrusted");
        }
        // No server of rustls can show this one.
        let version_1 =
            rustls::CertificateError::Other(rustls::OtherError(Arc::new(webpki::Error::UnsupportedCertVersion)));
        assert!(hint(&version_1.into()).contains("X.509 version 1"));
        let no_authority =
            rustls::CertificateError::Other(rustls::OtherError(Arc::new(webpki::Error::EndEntityUsedAsCa)));
        let unsafe_signature = rustls::CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: vec![],
            public_key_algorithm_id: vec![],
        };
        for error in [no_authority, unsafe_signature] {
            assert!(hint(&error.clone().into()).contains("set `ca` in the upstream's `tls`"), "{error:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_verification_any_certificate_is_good() {
        let config = client_config(&ClientTlsOptions { unverified: true, ..ClientTlsOptions::default() }).unwrap();
        let expired = self_signed(&[], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
        for min_version in [MinVersion::Tls12, MinVersion::Tls13] {
            shake(ServerTlsOptions { min_version, ..showing(&expired) }, &config, "a.example").await.unwrap();
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_client_whose_certificate_stands_in_ca_itself_is_trusted() {
        let ca = Ca::new();
        let ours = self_signed(&["client.example"], |_| {});
        let expired = self_signed(&["client.example"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
        let trusted = super::super::identity::authorities("ca", format!("{}{}", ours.0, expired.0).as_bytes()).unwrap();
        let auth = ClientAuth { roots: trusted, mode: ClientAuthMode::Require };
        let server = ServerTlsOptions { client_auth: Some(auth), ..serving(&ca, &["a.example"]) };
        let showing = |(cert, key): &(String, String)| {
            let identity = Some(Identity::from_pem("client", cert.as_bytes(), key.as_bytes()).unwrap());
            client_config(&ClientTlsOptions {
                roots: Some(ca.authorities()),
                identity,
                unverified: false,
                may_move: false,
            })
            .unwrap()
        };
        shake(server.clone(), &showing(&ours), "a.example").await.unwrap();
        for refused in [&expired, &self_signed(&["client.example"], |_| {}), &ca.sign(&["client.example"], |_| {})] {
            shake(server.clone(), &showing(refused), "a.example").await.unwrap_err();
        }
    }

    #[test]
    fn what_no_server_could_be_accepted_by_is_warned_of() {
        let warned = |pem: &str| {
            let trusted = super::super::identity::authorities("x", pem.as_bytes()).unwrap();
            let warnings = super::super::identity::warnings_of_servers("x", &trusted, std::time::SystemTime::now());
            warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let past = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let ca = Ca::new();
        let none: [String; 0] = [];
        for good in [ca.pem(), self_signed(&["a"], |_| {}).0, self_signed(&[], past).0, ca.sign(&["a"], |_| {}).0] {
            assert_eq!(warned(&good), none);
        }
        let [warning] = &warned(&ca.sign(&[], |_| {}).0)[..] else { panic!("one warning") };
        assert!(warning.contains("names no host in its subjectAltName"), "{warning}");
        let [warning] = &warned(&self_signed(&["a"], past).0)[..] else { panic!("one warning") };
        assert!(warning.contains("has expired"), "{warning}");
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
    async fn no_session_outlives_the_certificate_that_was_judged() {
        let (ca, clock) = (Ca::new(), Arc::new(Clock::at(2030, 1, 31)));
        let of = |from: (i32, u8, u8), to: (i32, u8, u8)| {
            showing(&ca.sign(&["a.example"], |params| {
                params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
                params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
            }))
        };
        for min_version in [MinVersion::Tls12, MinVersion::Tls13] {
            clock.set(2030, 2, 1);
            clock.turn(-1);
            let options = ClientTlsOptions { roots: Some(ca.authorities()), ..ClientTlsOptions::default() };
            let config = client_config_by(&options, Arc::clone(&clock) as Arc<dyn TimeProvider>).unwrap();
            let server = serve(&ServerTlsOptions { min_version, ..of((2030, 1, 1), (2030, 2, 1)) });
            let kind = |stream: ClientStream| stream.handshake_kind().unwrap();
            assert_ne!(kind(shake_with(&server, &config, "a.example").await.unwrap()), HandshakeKind::Resumed);
            assert_eq!(kind(shake_with(&server, &config, "a.example").await.unwrap()), HandshakeKind::Resumed);
            // The tickets are valid for twelve hours, the certificate for one.
            clock.turn(2);
            for _ in 0..2 {
                let error = shake_with(&server, &config, "a.example").await.unwrap_err();
                assert!(error.to_string().contains("it has expired"), "{error}");
            }
            let renewed = serve(&ServerTlsOptions { min_version, ..of((2030, 2, 1), (2030, 3, 1)) });
            assert_ne!(kind(shake_with(&renewed, &config, "a.example").await.unwrap()), HandshakeKind::Resumed);
            assert_eq!(kind(shake_with(&renewed, &config, "a.example").await.unwrap()), HandshakeKind::Resumed);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn our_own_certificate_is_shown_to_a_server_that_asks() {
        let ca = Ca::new();
        let auth = ClientAuth { roots: ca.authorities(), mode: ClientAuthMode::Require };
        let server = ServerTlsOptions { client_auth: Some(auth), ..serving(&ca, &["a.example"]) };
        let identity = Some(ca.identity(&["client.example"]));
        let config = client_config(&ClientTlsOptions {
            roots: Some(ca.authorities()),
            identity,
            unverified: false,
            may_move: false,
        })
        .unwrap();
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
            // On a machine without roots the error says so.
            (first, _) => assert!(first.unwrap_err().to_string().contains("ca-certificates")),
        }
    }
}
