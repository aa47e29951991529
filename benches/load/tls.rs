//! One certificate for all proxies, and clients that ask each of them for the same cipher.
//!
//! ECDSA P-256, TLS 1.3, X25519, AES-128-GCM: what the proxies then do differs only in how they do it. The client knows
//! the one certificate it will meet and compares it byte by byte; the handshake's signature is verified as ever.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, NamedGroup, SignatureScheme};
use tempfile::TempDir;

/// The certificate, as files for the proxies and as what clients expect.
pub struct Identity {
    directory: TempDir,
    certificate: CertificateDer<'static>,
}

impl Identity {
    pub fn generate() -> Result<Identity> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("making a key")?;
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let cert = CertificateParams::new(names)?.self_signed(&key).context("making a certificate")?;
        let identity = Identity { directory: TempDir::new()?, certificate: cert.der().clone() };
        fs::write(identity.cert_file(), cert.pem())?;
        fs::write(identity.key_file(), key.serialize_pem())?;
        fs::write(identity.bundle_file(), cert.pem() + &key.serialize_pem())?;
        Ok(identity)
    }

    pub fn cert_file(&self) -> PathBuf {
        self.file("rig.crt")
    }

    pub fn key_file(&self) -> PathBuf {
        self.file("rig.key")
    }

    /// Certificate and key in one file, as HAProxy wants them.
    pub fn bundle_file(&self) -> PathBuf {
        self.file("rig.pem")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A client that makes a full handshake each time.
    pub fn client(&self) -> Result<Arc<ClientConfig>> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        });
        let pinned =
            Pinned { certificate: self.certificate.clone(), algorithms: provider.signature_verification_algorithms };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(pinned))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// The client of all who come back: each takes a ticket that nobody else has (RFC 8446 §C.4).
pub fn returning(client: &ClientConfig, tickets: &Arc<Tickets>) -> Arc<ClientConfig> {
    let mut config = client.clone();
    config.resumption = Resumption::store(Arc::clone(tickets) as Arc<dyn ClientSessionStore>);
    Arc::new(config)
}

/// Tickets of one server, at most so many.
pub struct Tickets {
    kept: Mutex<Vec<Tls13ClientSessionValue>>,
    max: usize,
    open: AtomicBool,
}

impl Tickets {
    pub fn new(max: usize) -> Arc<Tickets> {
        Arc::new(Tickets { kept: Mutex::default(), max, open: AtomicBool::new(false) })
    }

    pub fn len(&self) -> usize {
        self.kept.lock().map_or(0, |kept| kept.len())
    }

    /// No more are kept; from now on they are used.
    pub fn use_them(&self) {
        self.open.store(true, Ordering::Relaxed);
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _server: ServerName<'static>, _group: NamedGroup) {}

    fn kx_hint(&self, _server: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _server: ServerName<'static>, _session: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _server: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        if let Ok(mut kept) = self.kept.lock()
            && kept.len() < self.max
            && !self.open.load(Ordering::Relaxed)
        {
            kept.push(ticket);
        }
    }

    fn take_tls13_ticket(&self, _server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.open.load(Ordering::Relaxed).then(|| self.kept.lock().ok()?.pop())?
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tickets", self.len())
    }
}

/// Accepts one certificate.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("the rig speaks TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
