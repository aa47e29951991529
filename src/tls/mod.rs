//! TLS on both sides: certificates and keys from PEM files and their reloads, configurations, handshakes, and streams.
//!
//! Uses rustls with aws-lc-rs, always passed explicitly: the process's default, which a dependency may install, does
//! not matter. Code outside of this module names rustls' types only through the aliases here.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

use crate::net::stream::Stream;

mod alternative_names;
pub mod certificates;
mod chain;
pub mod client;
pub mod client_certificate;
pub mod der;
#[cfg(test)]
mod differential;
mod distinguished_name;
pub mod error;
mod files;
pub mod identity;
pub mod inspect;
#[cfg(test)]
mod kinds;
pub mod metrics;
mod pem;
mod portable;
pub mod resolver;
pub mod server;
mod sessions;
pub mod state;
#[cfg(any(not(feature = "tls-tokio"), test))]
pub mod stream;
pub mod tickets;
#[cfg(any(feature = "tls-tokio", test))]
pub mod tokio_stream;
mod validity;
mod verifier;
pub mod x509;

pub use chain::ChainFault;
pub use error::{CertificateWarning, TlsError};
pub use identity::Identity;
pub use state::{KeyUpdateAfterMove, TlsMoveError, TlsState};
pub use validity::Validity;
pub use verifier::Authorities;

// Only this file selects the kind of stream; `portable` minds that tokio-rustls has one type for both sides.
#[cfg(not(feature = "tls-tokio"))]
use stream as kind;
#[cfg(feature = "tls-tokio")]
use tokio_stream as kind;

/// A client's connection after its handshake.
pub type ServerStream = kind::ServerStream<Stream>;
/// A connection to an upstream after its handshake.
pub type ClientStream = kind::ClientStream<Stream>;

/// HTTP/1.1 by its ALPN name (RFC 7301).
pub const ALPN_HTTP_1_1: &[u8] = b"http/1.1";
/// HTTP/2 by its ALPN name.
pub const ALPN_HTTP_2: &[u8] = b"h2";

/// Returns what a configuration needs so that its connections may go on in another process, if they may.
#[cfg(not(feature = "tls-tokio"))]
fn key_log(may_move: bool) -> Option<Arc<dyn rustls::KeyLog>> {
    may_move.then(|| Arc::new(stream::CapturingKeyLog) as _)
}

/// Returns none: the stream of tokio-rustls cannot go on in another process.
#[cfg(feature = "tls-tokio")]
fn key_log(_may_move: bool) -> Option<Arc<dyn rustls::KeyLog>> {
    None
}

fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod test_certificates {
    //! Certificates for the tests of this module.

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use rustls::pki_types::CertificateDer;

    use super::*;

    /// A clock that only moves by hand.
    #[derive(Debug)]
    pub struct Clock(std::sync::atomic::AtomicI64);

    impl Clock {
        pub fn at(year: i32, month: u8, day: u8) -> Clock {
            Clock(rcgen::date_time_ymd(year, month, day).unix_timestamp().into())
        }

        pub fn set(&self, year: i32, month: u8, day: u8) {
            let Clock(at) = Clock::at(year, month, day);
            self.0.store(at.into_inner(), std::sync::atomic::Ordering::Relaxed);
        }

        /// Moves it forward by `hours`.
        pub fn turn(&self, hours: i64) {
            self.0.fetch_add(hours * 3600, std::sync::atomic::Ordering::Relaxed);
        }
    }

    impl rustls::time_provider::TimeProvider for Clock {
        fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
            let at = self.0.load(std::sync::atomic::Ordering::Relaxed).unsigned_abs();
            Some(rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(at)))
        }
    }

    /// A CA that signs certificates for tests.
    pub struct Ca(CertifiedIssuer<'static, KeyPair>);

    impl Ca {
        pub fn new() -> Ca {
            // Only signatures would distinguish two CAs of one name.
            Ca::named(&format!("test CA {}", fastrand::u64(..)))
        }

        pub fn named(name: &str) -> Ca {
            Ca(CertifiedIssuer::self_signed(Ca::params(name), KeyPair::generate().unwrap()).unwrap())
        }

        /// Creates a CA below this one.
        pub fn intermediate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
            let mut params = Ca::params(name);
            change(&mut params);
            Ca(CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.0).unwrap())
        }

        fn params(name: &str) -> CertificateParams {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            params
        }

        pub fn der(&self) -> &CertificateDer<'static> {
            self.0.der()
        }

        /// Creates a certificate and drops its key.
        pub fn certify(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
            use rustls::pki_types::pem::PemObject;
            CertificateDer::from_pem_slice(self.sign(names, change).0.as_bytes()).unwrap()
        }

        pub fn pem(&self) -> String {
            self.0.pem()
        }

        pub fn roots(&self) -> Arc<rustls::RootCertStore> {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.0.der().clone()).unwrap();
            Arc::new(roots)
        }

        pub fn authorities(&self) -> Arc<Authorities> {
            Arc::new(Authorities { roots: self.roots(), certificates: vec![self.der().clone()] })
        }

        /// Returns certificate and key as PEM.
        pub fn sign(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
            self.sign_for(KeyPair::generate().unwrap(), names, change)
        }

        pub fn sign_for(
            &self,
            key: KeyPair,
            names: &[&str],
            change: impl FnOnce(&mut CertificateParams),
        ) -> (String, String) {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            change(&mut params);
            let certificate = params.signed_by(&key, &self.0).unwrap();
            (certificate.pem(), key.serialize_pem())
        }

        pub fn identity(&self, names: &[&str]) -> Identity {
            let (cert, key) = self.sign(names, |_| {});
            Identity::from_pem("test", cert.as_bytes(), key.as_bytes()).unwrap()
        }
    }
}
