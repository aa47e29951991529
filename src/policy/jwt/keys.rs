//! Keys that verify tokens: secrets, and public keys from a JWK Set (RFC 7517) or from their parts.
//!
//! A set from elsewhere may hold keys of any kind. Those that are for something else or that nobody here can use are left
//! out, as RFC 7517 §5 wants; so is every secret in it: a secret is what the configuration says, and never what is fetched.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::algorithm::{Algorithm, KeyKind};
use super::denial::TokenDenial;
use super::token::{KID_BYTES_MAX, Token};

/// The most keys of a set; identity providers have two to ten.
pub const KEYS_MAX: usize = 100;

/// The largest text of a set. A key with its chain of certificates has some 4 KiB.
pub const KEYS_BYTES_MAX: usize = 512 << 10;

/// How many keys are tried for a token that names none: each costs as much as a verification.
const TRIED_MAX: usize = 8;

/// The sizes of RSA keys that signatures are verified with, in bits. Shorter ones can be broken.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// One key.
#[derive(Clone)]
pub struct Key {
    /// Its name.
    kid: Option<Box<str>>,
    kind: KeyKind,
    /// The algorithm that it is for, if it is for one only.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// Without the key, which may be a secret.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// The keys that verify the tokens of a route.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// Why a text is no set of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// It is too large.
    #[error("it has more than {} KiB", KEYS_BYTES_MAX >> 10)]
    Large,
    /// It is no set, and no key.
    #[error("it is no JWK Set (`{{\"keys\": […]}}`) and no JWK: {0}")]
    Malformed(String),
    /// There are too many.
    #[error("it has more than {KEYS_MAX} keys")]
    Many,
    /// There is none that can be used.
    #[error("it has no public key that signatures can be verified with ({0})")]
    Nothing(String),
    /// It is a key that cannot be used.
    #[error("{0}")]
    Unusable(String),
}

impl Key {
    /// Returns the key of an HMAC; `None` if it is empty.
    pub fn secret(secret: &[u8]) -> Option<Key> {
        Some(Key::of(KeyKind::Secret, DecodingKey::from_secret(secret).ok()?))
    }

    /// Returns an RSA key of modulus and exponent.
    ///
    /// # Errors
    /// If it is too short or too long.
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Key, KeysError> {
        let significant = |number: &'_ [u8]| number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
        let (modulus, exponent) = (&modulus[significant(modulus)..], &exponent[significant(exponent)..]);
        let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) || exponent.is_empty() || exponent.len() > 8 {
            let message = format!("an RSA key has {} to {} bits, this one {bits}", RSA_BITS.start(), RSA_BITS.end());
            return Err(KeysError::Unusable(message));
        }
        Ok(Key::of(KeyKind::Rsa, DecodingKey::from_rsa_raw_components(modulus, exponent)))
    }

    /// Returns an ECDSA key of its point, not compressed (SEC 1 §2.3.3): on P-256 or on P-384, by its length.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn ec(point: &[u8]) -> Result<Key, KeysError> {
        let kind = match (point.len(), point.first()) {
            (65, Some(4)) => KeyKind::P256,
            (97, Some(4)) => KeyKind::P384,
            _ => return Err(KeysError::Unusable("an EC key is on P-256 or P-384, and not compressed".to_owned())),
        };
        Ok(Key::of(kind, DecodingKey::from_ec_der(point)))
    }

    /// Returns an Ed25519 key.
    ///
    /// # Errors
    /// If it does not have 32 bytes.
    pub fn ed25519(key: &[u8]) -> Result<Key, KeysError> {
        match key.len() {
            32 => Ok(Key::of(KeyKind::Ed25519, DecodingKey::from_ed_der(key))),
            _ => Err(KeysError::Unusable("an Ed25519 key has 32 bytes".to_owned())),
        }
    }

    fn of(kind: KeyKind, key: DecodingKey) -> Key {
        Key { kid: None, kind, algorithm: None, key }
    }

    fn fits(&self, token: &Token<'_>) -> bool {
        // A key without a name, as in a PEM file, is meant whatever a token calls it.
        let is_named = match (&self.kid, &token.kid) {
            (Some(kid), Some(wanted)) => **kid == **wanted,
            (None, _) | (Some(_), None) => true,
        };
        is_named
            && self.kind == token.algorithm.kind()
            && self.algorithm.is_none_or(|algorithm| algorithm == token.algorithm)
    }

    fn verifies(&self, token: &Token<'_>) -> bool {
        let verified = jsonwebtoken::crypto::verify(
            token.signature,
            token.signed.as_bytes(),
            &self.key,
            token.algorithm.verifier(),
        );
        verified.unwrap_or(false)
    }
}

impl KeySet {
    /// Creates a set of these keys.
    pub fn new(keys: Vec<Key>) -> KeySet {
        KeySet { keys }
    }

    /// Returns how many keys it has.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns true if it has none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Reads a JWK Set, or one JWK.
    ///
    /// # Errors
    /// If it is none, too large, or has no key that can be used.
    pub fn from_json(text: &[u8]) -> Result<KeySet, KeysError> {
        if text.len() > KEYS_BYTES_MAX {
            return Err(KeysError::Large);
        }
        let malformed = |error: serde_json::Error| {
            // Without what it quotes: a file may be a private key.
            KeysError::Malformed(format!("line {}, column {}", error.line(), error.column()))
        };
        let written: Jwks = serde_json::from_slice(text).map_err(malformed)?;
        let (keys, is_more) = match (written.keys, written.kty) {
            (Some(Bounded { keys, is_more }), _) => (keys, is_more),
            (None, Some(_)) => (vec![serde_json::from_slice(text).map_err(malformed)?], false),
            (None, None) => return Err(KeysError::Malformed("it has neither `keys` nor `kty`".to_owned())),
        };
        if is_more {
            return Err(KeysError::Many);
        }
        let mut left_out = vec![];
        let mut read = Vec::with_capacity(keys.len());
        for key in keys {
            match key.read() {
                Ok(key) => read.push(key),
                Err(why) => left_out.push(why.to_string()),
            }
        }
        if read.is_empty() {
            left_out.truncate(3);
            let why = if left_out.is_empty() { "the list is empty".to_owned() } else { left_out.join("; ") };
            return Err(KeysError::Nothing(why));
        }
        Ok(KeySet { keys: read })
    }

    /// Verifies the signature of a token.
    pub(super) fn verify(&self, token: &Token<'_>) -> Result<(), TokenDenial> {
        if self.keys.is_empty() {
            return Err(TokenDenial::NoKeys);
        }
        let mut fitting = self.keys.iter().filter(|key| key.fits(token)).peekable();
        if fitting.peek().is_none() {
            return Err(TokenDenial::UnknownKey);
        }
        if fitting.clone().count() > TRIED_MAX {
            return Err(TokenDenial::Unnamed);
        }
        if fitting.any(|key| key.verifies(token)) { Ok(()) } else { Err(TokenDenial::Signature) }
    }
}

/// A set as it is written, or what tells a key from it.
#[derive(Deserialize)]
struct Jwks {
    #[serde(default)]
    keys: Option<Bounded>,
    #[serde(default)]
    kty: Option<IgnoredAny>,
}

/// No more keys than a set may have are kept.
struct Bounded {
    keys: Vec<Jwk>,
    is_more: bool,
}

impl<'de> Deserialize<'de> for Bounded {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Bounded, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Bounded;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of keys")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Bounded, A::Error> {
                let mut keys = vec![];
                while keys.len() < KEYS_MAX {
                    match list.next_element()? {
                        Some(key) => keys.push(key),
                        None => return Ok(Bounded { keys, is_more: false }),
                    }
                }
                let mut is_more = false;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    is_more = true;
                }
                Ok(Bounded { keys, is_more })
            }
        }

        from.deserialize_seq(Keys)
    }
}

/// A key as it is written (RFC 7517 §4, RFC 7518 §6); what is not needed is not read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Jwk {
    kty: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    fn read(self) -> Result<Key, KeysError> {
        let unusable = |why: &str| KeysError::Unusable(why.to_owned());
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err(unusable("a key is not for signatures"));
        }
        if self.key_ops.is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
            return Err(unusable("a key is not for verifying"));
        }
        let part = |part: Option<String>| {
            let decoded = part.and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
            decoded.ok_or_else(|| unusable("a key lacks a part, or has one that is not base64url"))
        };
        let mut key = match (self.kty.as_deref(), self.crv.as_deref()) {
            (Some("RSA"), _) => Key::rsa(&part(self.n)?, &part(self.e)?)?,
            (Some("EC"), Some(curve @ ("P-256" | "P-384"))) => {
                let (x, y, bytes) = (part(self.x)?, part(self.y)?, if curve == "P-256" { 32 } else { 48 });
                if x.len() != bytes || y.len() != bytes {
                    return Err(unusable("an EC key whose point has not the length of its curve"));
                }
                Key::ec(&[&[4], x.as_slice(), y.as_slice()].concat())?
            }
            (Some("OKP"), Some("Ed25519")) => Key::ed25519(&part(self.x)?)?,
            (Some("oct"), _) => return Err(unusable("a secret, which no set of public keys has: write `secret`")),
            (Some("EC" | "OKP"), _) => return Err(unusable("a key on a curve that is not used here")),
            _ => return Err(unusable("a key of a kind that is not used here")),
        };
        if let Some(algorithm) = self.alg {
            let algorithm = Algorithm::named(&algorithm).filter(|algorithm| algorithm.kind() == key.kind);
            key.algorithm = Some(algorithm.ok_or_else(|| unusable("a key is for an algorithm that is not used here"))?);
        }
        key.kid = self.kid.filter(|kid| kid.len() <= KID_BYTES_MAX).map(String::into_boxed_str);
        Ok(key)
    }
}
