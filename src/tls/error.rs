//! Errors and warnings about certificates and keys. An error prevents a start or a reload, a warning does not.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::chain::{ChainFault, days};
use crate::base::file_state::NotText;

/// Why a certificate, a key or a set of them cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {file}")]
    Read {
        /// The file.
        file: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is too large for a certificate or key.
    #[error("{file} is larger than 4 MiB: it cannot be a certificate, a key or a list of them")]
    TooLarge {
        /// The file.
        file: String,
    },
    /// The file is text that cannot be PEM.
    #[error("{file} {source}")]
    NotText {
        /// The file.
        file: String,
        /// The kind of text.
        source: NotText,
    },
    /// The file has no certificate.
    #[error("{file} holds no certificate{hint}")]
    NoCertificate {
        /// The file.
        file: String,
        /// What it seems to be instead.
        hint: &'static str,
    },
    /// The file has no private key.
    #[error("{file} holds no private key{hint}")]
    NoKey {
        /// The file.
        file: String,
        /// What it seems to be instead.
        hint: &'static str,
    },
    /// The key needs a passphrase, which nobody can enter.
    #[error(
        "the private key in {file} is encrypted: write it without a passphrase (openssl pkey -in {file} -out FILE) and protect the file instead"
    )]
    EncryptedKey {
        /// The file.
        file: String,
    },
    /// A section between BEGIN and END is invalid.
    #[error("{file} is not valid PEM: {reason}")]
    Pem {
        /// The file.
        file: String,
        /// The reason without the parser's quotes, which may be lines of a key.
        reason: &'static str,
    },
    /// The certificate cannot be parsed.
    #[error("{file} holds a certificate that cannot be parsed: {reason}")]
    BadCertificate {
        /// The file.
        file: String,
        /// The parser's message.
        reason: String,
    },
    /// The key is broken, or of a kind that TLS 1.2 and 1.3 do not use.
    #[error(
        "the private key in {file} cannot be used: RSA (2048 bits or more), ECDSA (P-256, P-384, P-521) or Ed25519 are supported"
    )]
    UnsupportedKey {
        /// The file.
        file: String,
        /// The error of rustls.
        #[source]
        source: rustls::Error,
    },
    /// Certificate and key do not belong together.
    #[error(
        "the private key in {key} does not belong to the certificate in {cert} (the server's own certificate comes first in the file, then the intermediates)"
    )]
    KeyMismatch {
        /// The certificate's file.
        cert: String,
        /// The key's file.
        key: String,
    },
    /// A better certificate is active.
    #[error(transparent)]
    Worse(CertificateWarning),
    /// A TLS listener needs at least one.
    #[error("a TLS listener needs at least one certificate")]
    NoIdentity,
    /// The system has no certificates to trust.
    #[error(
        "the system has no root certificates: install them (package ca-certificates), or set `ca` to a file with those to trust"
    )]
    NoNativeRoots,
    /// No certificate can contain this name.
    #[error("`{name}` is neither a host name nor an IP address")]
    BadServerName {
        /// The text as written.
        name: String,
    },
    /// rustls refuses the configuration.
    #[error("TLS cannot be set up this way")]
    Rustls(#[from] rustls::Error),
    /// rustls refuses the roots.
    #[error("the certificates that others are checked against cannot be used")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl TlsError {
    /// Returns true if it is about the private key in `key` rather than the certificate in `cert`.
    pub(super) fn is_about_key(&self, cert: &Path, key: &Path) -> bool {
        match self {
            TlsError::NoKey { .. }
            | TlsError::EncryptedKey { .. }
            | TlsError::UnsupportedKey { .. }
            | TlsError::KeyMismatch { .. } => true,
            TlsError::Read { file, .. }
            | TlsError::TooLarge { file }
            | TlsError::NotText { file, .. }
            | TlsError::Pem { file, .. } => cert != key && *file == display(key),
            _ => false,
        }
    }
}

/// A warning for the operator about a certificate that works nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateWarning {
    /// It has expired.
    #[error("the certificate in {file} has expired, {} ago", days(.since))]
    Expired {
        /// Its file.
        file: String,
        /// How long ago.
        since: Duration,
    },
    /// It is not valid yet.
    #[error("the certificate in {file} is not valid yet, only in {}: is the clock right?", days(.until))]
    NotYetValid {
        /// Its file.
        file: String,
        /// How long from now.
        until: Duration,
    },
    /// Some clients cannot build a path from it to a trusted root.
    #[error("the chain in {file} is broken: {fault}")]
    Chain {
        /// Its file.
        file: String,
        /// Where and how it is broken.
        fault: ChainFault,
    },
    /// It has no host name in the subjectAltName (RFC 9525 §2).
    #[error(
        "the certificate in {file} names no host in its subjectAltName, so it can only be the default, and most clients will refuse it"
    )]
    NoNames {
        /// Its file.
        file: String,
    },
    /// It is not an authority's, so it must be a server's own; without names no client accepts it for a server.
    #[error(
        "the certificate {subject} in {file} is no authority's and names no host in its subjectAltName: a server that shows it will be refused (create it again with `openssl req -x509 … -addext subjectAltName=DNS:NAME`)"
    )]
    Nameless {
        /// Its file.
        file: String,
        /// Its subject.
        subject: String,
    },
    /// It may be an issuer, but not a server's own certificate.
    #[error(
        "the certificate {subject} in {file} is of X.509 version 1: a server that shows it will be refused (create it again with `openssl req -x509 … -addext subjectAltName=DNS:NAME`)"
    )]
    Version1 {
        /// Its file.
        file: String,
        /// Its subject.
        subject: String,
    },
}

/// Returns a path as it appears in errors, warnings and labels.
pub(super) fn display(path: &Path) -> String {
    path.display().to_string()
}
