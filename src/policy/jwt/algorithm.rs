//! The algorithms with which a token may be signed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a token is signed (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Algorithm {
    /// HMAC with SHA-256, by a shared secret.
    Hs256,
    /// HMAC with SHA-384, by a shared secret.
    Hs384,
    /// HMAC with SHA-512, by a shared secret.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// EdDSA with Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// What a key is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    Secret,
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Algorithm {
    /// All of them, by their names.
    pub const ALL: [(&'static str, Algorithm); 12] = [
        ("HS256", Algorithm::Hs256),
        ("HS384", Algorithm::Hs384),
        ("HS512", Algorithm::Hs512),
        ("RS256", Algorithm::Rs256),
        ("RS384", Algorithm::Rs384),
        ("RS512", Algorithm::Rs512),
        ("PS256", Algorithm::Ps256),
        ("PS384", Algorithm::Ps384),
        ("PS512", Algorithm::Ps512),
        ("ES256", Algorithm::Es256),
        ("ES384", Algorithm::Es384),
        ("EdDSA", Algorithm::EdDsa),
    ];

    /// Returns the algorithm of this name, as in the header of a token or in a key; `None` for `none` and all others.
    pub fn named(name: &str) -> Option<Algorithm> {
        // RFC 9864 §2.2 gives EdDSA on this curve a name of its own.
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        Algorithm::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        Algorithm::ALL.iter().find(|(_, algorithm)| *algorithm == self).map_or("", |(name, _)| name)
    }

    /// Returns true if it is an HMAC, whose key is a secret.
    pub fn is_symmetric(self) -> bool {
        self.kind() == KeyKind::Secret
    }

    /// Returns how long a secret must be for it, in bytes (RFC 7518 §3.2); 0 if it has none.
    pub fn secret_bytes_min(self) -> usize {
        match self {
            Algorithm::Hs256 => 32,
            Algorithm::Hs384 => 48,
            Algorithm::Hs512 => 64,
            _ => 0,
        }
    }

    pub(super) fn kind(self) -> KeyKind {
        use Algorithm::*;
        match self {
            Hs256 | Hs384 | Hs512 => KeyKind::Secret,
            Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512 => KeyKind::Rsa,
            Es256 => KeyKind::P256,
            Es384 => KeyKind::P384,
            EdDsa => KeyKind::Ed25519,
        }
    }

    pub(super) fn verifier(self) -> jsonwebtoken::Algorithm {
        use jsonwebtoken::Algorithm as Verifier;
        match self {
            Algorithm::Hs256 => Verifier::HS256,
            Algorithm::Hs384 => Verifier::HS384,
            Algorithm::Hs512 => Verifier::HS512,
            Algorithm::Rs256 => Verifier::RS256,
            Algorithm::Rs384 => Verifier::RS384,
            Algorithm::Rs512 => Verifier::RS512,
            Algorithm::Ps256 => Verifier::PS256,
            Algorithm::Ps384 => Verifier::PS384,
            Algorithm::Ps512 => Verifier::PS512,
            Algorithm::Es256 => Verifier::ES256,
            Algorithm::Es384 => Verifier::ES384,
            Algorithm::EdDsa => Verifier::EdDSA,
        }
    }
}
