//! The cipher suites, by their numbers in IANA's registry.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305};
use aws_lc_rs::hkdf;
use rustls::{CipherSuite, ProtocolVersion};

/// How records of AES-GCM are bounded under one key (RFC 8446 §5.5); rustls has the same.
const GCM_RECORDS_MAX: u64 = 1 << 24;
/// ChaCha20-Poly1305 is bounded by the sequence number alone. The distance from its end leaves room for alerts.
const RECORDS_MAX: u64 = u64::MAX - 0xffff;

/// What the records of a connection are protected with.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    /// Its number.
    pub number: u16,
    /// The cipher.
    pub aead: &'static Algorithm,
    /// The key schedule of TLS 1.3; none with TLS 1.2, which has one key for each direction.
    pub hkdf: Option<hkdf::Algorithm>,
}

impl Suite {
    /// Returns the suite with this number, if rustls offers it.
    pub fn of(number: u16) -> Option<Suite> {
        let (aead, hkdf) = match CipherSuite::from(number) {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => (&AES_128_GCM, Some(hkdf::HKDF_SHA256)),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => (&AES_256_GCM, Some(hkdf::HKDF_SHA384)),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => (&CHACHA20_POLY1305, Some(hkdf::HKDF_SHA256)),
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => (&AES_128_GCM, None),
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => (&AES_256_GCM, None),
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => (&CHACHA20_POLY1305, None),
            _ => return None,
        };
        Some(Suite { number, aead, hkdf })
    }

    /// Returns the version of TLS that has this suite.
    pub fn version(&self) -> ProtocolVersion {
        if self.is_tls13() { ProtocolVersion::TLSv1_3 } else { ProtocolVersion::TLSv1_2 }
    }

    /// Returns true for TLS 1.3.
    pub fn is_tls13(&self) -> bool {
        self.hkdf.is_some()
    }

    /// Returns true if a part of the nonce stands before each record (RFC 5288 §3).
    pub fn has_explicit_nonce(&self) -> bool {
        !self.is_tls13() && *self.aead != CHACHA20_POLY1305
    }

    /// Returns how many records may be sent under one key.
    pub fn records_max(&self) -> u64 {
        if *self.aead == CHACHA20_POLY1305 { RECORDS_MAX } else { GCM_RECORDS_MAX }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_rustls_is_known_as_rustls_knows_it() {
        let all = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
        assert_eq!(all.len(), 9);
        for theirs in all {
            let ours = Suite::of(theirs.suite().into()).unwrap();
            assert_eq!(CipherSuite::from(ours.number), theirs.suite());
            assert_eq!(ours.version(), theirs.version().version);
            let (common, key_length) = match theirs {
                rustls::SupportedCipherSuite::Tls13(suite) => (&suite.common, suite.aead_alg.key_len()),
                rustls::SupportedCipherSuite::Tls12(suite) => {
                    let shape = suite.aead_alg.key_block_shape();
                    assert_eq!(shape.explicit_nonce_len, if ours.has_explicit_nonce() { 8 } else { 0 });
                    (&suite.common, shape.enc_key_len)
                }
            };
            assert_eq!(ours.aead.key_len(), key_length);
            assert_eq!(ours.records_max(), common.confidentiality_limit.min(RECORDS_MAX));
        }
        assert!(Suite::of(0x1304).is_none());
    }
}
