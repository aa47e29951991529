//! The key schedule of TLS 1.3 after the handshake: a traffic secret gives a key, and the next secret (RFC 8446 §7).

use aws_lc_rs::hkdf::{self, KeyType, Prk};

use super::super::state::{SecretBytes, TrafficKeys};
use super::suite::Suite;

/// How many key updates are gone through to find the secret of a key.
const UPDATES_MAX: usize = 1024;

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 §7.1). `None` only if aws-lc refuses.
fn expand(hkdf: hkdf::Algorithm, secret: &[u8], label: &[u8], output: &mut [u8]) -> Option<()> {
    const PREFIX: &[u8] = b"tls13 ";
    let length = (output.len() as u16).to_be_bytes();
    let label_length = [(PREFIX.len() + label.len()) as u8];
    let info = [&length[..], &label_length, PREFIX, label, &[0]];
    Prk::new_less_safe(hkdf, secret).expand(&info, Length(output.len())).ok()?.fill(output).ok()
}

/// Returns the secret after this one.
fn next_secret(hkdf: hkdf::Algorithm, secret: &SecretBytes) -> Option<SecretBytes> {
    let mut next = SecretBytes(vec![0; hkdf.len()]);
    expand(hkdf, &secret.0, b"traffic upd", &mut next.0)?;
    Some(next)
}

/// Returns the keys of a secret.
pub fn keys_of(suite: &Suite, secret: SecretBytes) -> Option<TrafficKeys> {
    let hkdf = suite.hkdf?;
    let key = SecretBytes(vec![0; suite.aead.key_len()]);
    let mut keys = TrafficKeys { key, iv: [0; 12], sequence: 0, secret: None };
    expand(hkdf, &secret.0, b"key", &mut keys.key.0)?;
    expand(hkdf, &secret.0, b"iv", &mut keys.iv)?;
    keys.secret = Some(secret);
    Some(keys)
}

/// Returns the keys after these; `None` if their secret is not known.
pub fn next_keys(suite: &Suite, keys: &TrafficKeys) -> Option<TrafficKeys> {
    keys_of(suite, next_secret(suite.hkdf?, keys.secret.as_ref()?)?)
}

/// Finds the secret of `keys`: `first`, or one after it if keys have changed since the handshake.
pub fn find_secret(suite: &Suite, first: &[u8], keys: &TrafficKeys) -> Option<SecretBytes> {
    let hkdf = suite.hkdf?;
    let mut secret = SecretBytes(first.to_vec());
    for _ in 0..UPDATES_MAX {
        let mut key = SecretBytes(vec![0; suite.aead.key_len()]);
        expand(hkdf, &secret.0, b"key", &mut key.0)?;
        if key == keys.key {
            return Some(secret);
        }
        secret = next_secret(hkdf, &secret)?;
    }
    None
}
