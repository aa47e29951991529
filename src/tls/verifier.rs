//! Verifies the certificates of the other side.
//!
//! webpki verifies them, as in rustls, with one addition: a certificate listed in `ca` itself is trusted, a server's
//! for its own names; one that is no authority's signs no other. webpki uses certificates in `ca` only as authorities and refuses a peer that shows one
//! (`CaUsedAsEndEntity`), but `openssl req -x509` makes certificates that are both at once. Dates are checked as usual.
//! A peer that shows the certificate of an authority has its key, and could have signed itself another.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, Der, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::error::TlsError;
use super::provider;
use super::validity::Validity;
use super::x509::Parts;

/// Implements a verifier's methods for signatures by those of the verifier in the field `$inner`.
macro_rules! signatures_by {
    ($inner:ident) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.$inner.verify_tls12_signature(message, certificate, signed)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.$inner.verify_tls13_signature(message, certificate, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.$inner.supported_verify_schemes()
        }
    };
}
pub(super) use signatures_by;

/// The trusted certificates.
#[derive(Debug, Clone)]
pub struct Authorities {
    /// As authorities; maybe none.
    pub roots: Arc<RootCertStore>,
    /// As certificates of the peers themselves.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Returns the authorities for webpki, which wants at least one. Where there is none, it gets one that has no key, and so can
/// have signed nothing.
fn at_least_one(roots: Arc<RootCertStore>) -> Arc<RootCertStore> {
    if !roots.is_empty() {
        return roots;
    }
    let nobody = TrustAnchor {
        subject: Der::from_slice(&[]),
        subject_public_key_info: Der::from_slice(&[]),
        name_constraints: None,
    };
    Arc::new(RootCertStore { roots: vec![nobody] })
}

impl Authorities {
    /// Returns true if `certificate` is one of them and valid now.
    fn include(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<bool, Error> {
        if !self.certificates.contains(certificate) {
            return Ok(false);
        }
        in_force(certificate, now)?;
        Ok(true)
    }
}

/// Returns a verifier of servers that trusts `ours`, or else `roots`.
///
/// # Errors
/// Fails if there is nothing to trust.
pub(super) fn of_servers(
    roots: Arc<RootCertStore>,
    ours: Option<Arc<Authorities>>,
) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    // Without any of the system's, nothing could be trusted.
    let roots = if ours.is_some() { at_least_one(roots) } else { roots };
    let webpki = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider())).build()?;
    Ok(match ours {
        None => webpki,
        Some(ours) => Arc::new(OfServers { webpki, ours }),
    })
}

/// Returns a verifier of clients that trusts `ours`; with `optional` it accepts clients without a certificate.
///
/// # Errors
/// Fails if there is nothing to trust.
pub(super) fn of_clients(ours: Arc<Authorities>, optional: bool) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    // Clients choose a certificate by these names; one that stands for itself mostly is its own issuer.
    let subject = |certificate: &CertificateDer<'_>| {
        Parts::of(certificate).map(|parts| DistinguishedName::in_sequence(parts.subject.der()))
    };
    let builder =
        WebPkiClientVerifier::builder_with_provider(at_least_one(Arc::clone(&ours.roots)), Arc::clone(provider()))
            .clear_root_hint_subjects()
            .add_root_hint_subjects(ours.certificates.iter().filter_map(subject));
    let webpki = if optional { builder.allow_unauthenticated().build()? } else { builder.build()? };
    Ok(Arc::new(OfClients { webpki, ours }))
}

#[derive(Debug)]
struct OfServers {
    webpki: Arc<WebPkiServerVerifier>,
    ours: Arc<Authorities>,
}

impl ServerCertVerifier for OfServers {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = self.webpki.verify_server_cert(certificate, intermediates, name, ocsp_response, now);
        if judged.is_ok() || !self.ours.include(certificate, now)? {
            return judged;
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_by!(webpki);
}

#[derive(Debug)]
struct OfClients {
    webpki: Arc<dyn ClientCertVerifier>,
    ours: Arc<Authorities>,
}

impl ClientCertVerifier for OfClients {
    fn offer_client_auth(&self) -> bool {
        self.webpki.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let judged = self.webpki.verify_client_cert(certificate, intermediates, now);
        if judged.is_ok() || !self.ours.include(certificate, now)? {
            return judged;
        }
        Ok(ClientCertVerified::assertion())
    }

    signatures_by!(webpki);
}

/// Checks that a certificate that was verified before is valid now.
///
/// # Errors
/// Fails if it is not.
pub(super) fn in_force(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let validity = Validity::of(certificate).ok_or(CertificateError::BadEncoding)?;
    Ok(valid_at(validity, now)?)
}

fn valid_at(validity: Validity, time: UnixTime) -> Result<(), CertificateError> {
    let now = UNIX_EPOCH + Duration::from_secs(time.as_secs());
    let unix = |seconds: i64| UnixTime::since_unix_epoch(Duration::from_secs(seconds.try_into().unwrap_or(0)));
    if validity.expired_since(now).is_some() {
        return Err(CertificateError::ExpiredContext { time, not_after: unix(validity.not_after) });
    }
    if validity.begins_in(now).is_some() {
        return Err(CertificateError::NotValidYetContext { time, not_before: unix(validity.not_before) });
    }
    Ok(())
}

/// Accepts every certificate, for `verify: off`.
#[derive(Debug)]
pub(super) struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    // If every certificate is accepted, a signature by its key proves nothing. A certificate of X.509 version 1, common
    // on such servers, cannot be parsed to check one.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
