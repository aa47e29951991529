//! TLS to a server for diagnosis: keeps what the server showed, even if it is refused.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, Error};

use super::client::{ClientTlsOptions, verifier_of};
use super::verifier::{Unverified, signatures_by};
use super::x509::Parts;
use super::{ALPN_HTTP_1_1, TlsError, Validity, chain, files, identity, provider};

/// The most names in a summary.
const NAMES_MAX: usize = 8;

/// The certificates of the last handshake, the server's own first.
#[derive(Clone, Debug, Default)]
pub struct ShownCertificates(Arc<Mutex<Vec<CertificateDer<'static>>>>);

/// A summary of a server's certificates, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    /// The subject of the server's certificate.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// Its host names, at most eight.
    pub names: Vec<String>,
    /// Its period of validity.
    pub validity: Validity,
    /// The number of certificates received.
    pub length: usize,
    /// What is wrong with the chain: most browsers repair it, most libraries do not.
    pub fault: Option<String>,
}

impl ShownCertificates {
    /// Returns a summary of the certificates; `None` before the server showed any, or if they cannot be parsed.
    pub fn summary(&self, now: SystemTime) -> Option<CertificateSummary> {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = shown.first()?;
        let parts = Parts::of(first)?;
        let names = webpki::EndEntityCert::try_from(first);
        let names = names.map(|cert| cert.valid_dns_names().take(NAMES_MAX).map(str::to_owned).collect());
        let fault = chain::order(&shown, provider().signature_verification_algorithms.all);
        Some(CertificateSummary {
            subject: parts.subject.to_string(),
            issuer: parts.issuer.to_string(),
            names: names.unwrap_or_default(),
            validity: parts.validity,
            length: shown.len(),
            fault: fault.or_else(|| chain::dates(&shown, now)).map(|fault| fault.to_string()),
        })
    }
}

/// Builds the TLS configuration of one connection, and the place for the server's certificates. `ca` is a file with
/// authorities (PEM) instead of the system's; `unverified` accepts any certificate.
///
/// # Errors
/// Fails if `ca` cannot be read, or there is nothing to trust.
pub fn inspecting_config(
    ca: Option<&Path>,
    unverified: bool,
) -> Result<(Arc<ClientConfig>, ShownCertificates), TlsError> {
    let roots = match ca {
        Some(path) => Some(identity::authorities(&path.display().to_string(), &files::read(path)?)?),
        None => None,
    };
    let judge = verifier_of(&ClientTlsOptions { roots, identity: None, unverified, may_move: false })?;
    let judge = judge.unwrap_or_else(|| Arc::new(Unverified));
    let shown = ShownCertificates::default();
    let verifier = KeepingVerifier { judge, shown: shown.clone() };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_HTTP_1_1.to_vec()];
    config.resumption = Resumption::disabled();
    // The library seeds its random numbers at first use, which takes tens of milliseconds: not the server's.
    let _ = aws_lc_rs::rand::fill(&mut [0; 32]);
    Ok((Arc::new(config), shown))
}

/// Keeps the server's certificates, and lets another verifier judge them.
#[derive(Debug)]
struct KeepingVerifier {
    judge: Arc<dyn ServerCertVerifier>,
    shown: ShownCertificates,
}

impl ServerCertVerifier for KeepingVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let all = std::iter::once(certificate).chain(intermediates);
        *self.shown.0.lock().unwrap_or_else(PoisonError::into_inner) = all.map(|it| it.clone().into_owned()).collect();
        self.judge.verify_server_cert(certificate, intermediates, name, ocsp_response, now)
    }

    signatures_by!(judge);
}
