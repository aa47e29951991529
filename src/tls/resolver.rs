//! Chooses the certificate for a client by the requested name (SNI, RFC 6066 §3).
//!
//! The order is: the exact name, the wildcard for its first label (`*.example.com` covers `chat.example.com`, but
//! neither `example.com` nor `a.chat.example.com`: RFC 9525 §6.3), and the default, which is the first certificate of
//! the list. If several certificates cover a name (ECDSA and RSA, say), the first whose key the client can verify is
//! used.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::error::TlsError;
use super::identity::Identity;

/// The certificates of a listener, by name.
#[derive(Debug)]
pub struct Resolver {
    exact: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// By the name after the `*.`.
    wildcard: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
}

impl Resolver {
    /// Uses `identities` in their order; the first is the default.
    ///
    /// # Errors
    /// Fails if there are none.
    pub fn new(identities: &[Identity]) -> Result<Resolver, TlsError> {
        if identities.is_empty() {
            return Err(TlsError::NoIdentity);
        }
        let mut resolver = Resolver { exact: HashMap::new(), wildcard: HashMap::new(), all: Vec::new() };
        for identity in identities {
            for name in identity.names() {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(suffix) => (&mut resolver.wildcard, suffix),
                    None => (&mut resolver.exact, name.as_str()),
                };
                map.entry(name.into()).or_default().push(identity.key.clone());
            }
            resolver.all.push(identity.key.clone());
        }
        Ok(resolver)
    }

    fn candidates(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name else { return &self.all };
        // rustls passes the name in lower case; a final dot is not part of it (RFC 6066 §3).
        let name = name.strip_suffix('.').unwrap_or(name);
        let wildcard = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(wildcard).unwrap_or(&self.all)
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Arc<CertifiedKey> {
        let candidates = self.candidates(name);
        let usable = candidates.iter().find(|candidate| candidate.key.choose_scheme(schemes).is_some());
        // If the client can use none, the handshake fails with any of them, with the reason.
        Arc::clone(usable.unwrap_or(&candidates[0]))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(hello.server_name(), hello.signature_schemes()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use rcgen::KeyPair;

    use super::super::test_certificates::Ca;
    use super::*;

    const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
    const ED25519: &[SignatureScheme] = &[SignatureScheme::ED25519];

    #[test]
    fn the_exact_name_wins_then_the_wildcard_then_the_default() {
        let ca = Ca::new();
        let identities = [
            ca.identity(&["default.example"]),
            ca.identity(&["*.example.com", "example.com"]),
            ca.identity(&["chat.example.com"]),
        ];
        let resolver = Resolver::new(&identities).unwrap();
        for (name, expected) in [
            (Some("chat.example.com"), 2),
            (Some("chat.example.com."), 2),
            (Some("other.example.com"), 1),
            (Some("example.com"), 1),
            (Some("a.b.example.com"), 0),
            (Some("nowhere.example"), 0),
            (Some("com"), 0),
            (None, 0),
        ] {
            assert!(Arc::ptr_eq(&resolver.choose(name, ECDSA), &identities[expected].key), "{name:?}");
        }
    }

    #[test]
    fn of_two_certificates_for_a_name_the_client_gets_one_it_can_verify() {
        let ca = Ca::new();
        let (cert, key) = ca.sign_for(KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), &["a.example"], |_| {});
        let ed25519 = Identity::from_pem("ed25519", cert.as_bytes(), key.as_bytes()).unwrap();
        let ecdsa = ca.identity(&["a.example"]);
        let resolver = Resolver::new(&[ed25519.clone(), ecdsa.clone()]).unwrap();
        assert!(Arc::ptr_eq(&resolver.choose(Some("a.example"), ECDSA), &ecdsa.key));
        assert!(Arc::ptr_eq(&resolver.choose(Some("a.example"), ED25519), &ed25519.key));
        assert!(Arc::ptr_eq(&resolver.choose(Some("a.example"), &[]), &ed25519.key));
    }

    #[test]
    fn no_certificate_at_all_is_an_error() {
        assert!(matches!(Resolver::new(&[]), Err(TlsError::NoIdentity)));
    }
}
