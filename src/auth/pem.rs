//! Public keys in a file: PEM, a JWK or a JWK Set.
//!
//! PEM holds `SubjectPublicKeyInfo` (RFC 5280 §4.1) or certificates, of which the key is taken and nothing else: a file that is
//! named here is trusted, as a key is.

use rustls::pki_types::pem::{PemObject, SectionKind};

use crate::policy::jwt::keys::KEYS_MAX;
use crate::policy::jwt::{Key, KeySet, KeysError};
use crate::tls::der::{INTEGER, OBJECT_IDENTIFIER, SEQUENCE, bits, contents};
use crate::tls::x509;

/// rsaEncryption (RFC 8017 appendix A), id-ecPublicKey (RFC 5480 §2.1.1) and id-Ed25519 (RFC 8410 §3).
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Reads the keys of a file.
///
/// # Errors
/// If there are none that can be used. The text reveals nothing of the file's content.
pub fn read(text: &[u8]) -> Result<KeySet, KeysError> {
    if text.trim_ascii_start().first() == Some(&b'{') {
        return KeySet::from_json(text);
    }
    let mut keys = vec![];
    let mut is_private = false;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let unreadable = || KeysError::Unusable("its PEM cannot be read".to_owned());
        let (kind, der) = section.map_err(|_| unreadable())?;
        let key = match kind {
            SectionKind::PublicKey => public_key(&der),
            SectionKind::Certificate => x509::Parts::of(&der).and_then(|parts| public_key(parts.key_info)),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                is_private = true;
                continue;
            }
            _ => continue,
        };
        keys.push(
            key.ok_or_else(|| KeysError::Unusable("a key in it is of a kind that is not used here".to_owned()))??,
        );
        if keys.len() > KEYS_MAX {
            return Err(KeysError::Many);
        }
    }
    match (keys.is_empty(), is_private) {
        (false, _) => Ok(KeySet::new(keys)),
        (true, true) => Err(KeysError::Unusable(
            "it has private keys only; write the public one: openssl pkey -in IN -pubout -out OUT".to_owned(),
        )),
        (true, false) if memchr::memmem::find(text, b"BEGIN RSA PUBLIC KEY-----").is_some() => {
            Err(KeysError::Unusable(
                "it is of an old kind; convert it: openssl rsa -RSAPublicKey_in -in IN -pubout -out OUT".to_owned(),
            ))
        }
        (true, false) => Err(KeysError::Unusable(
            "it is neither PEM (`-----BEGIN PUBLIC KEY-----`) nor a JWK or JWK Set (`{`)".to_owned(),
        )),
    }
}

/// Reads a `SubjectPublicKeyInfo`; `None` if it is none, or of another kind.
fn public_key(der: &[u8]) -> Option<Result<Key, KeysError>> {
    let mut info = contents(&mut &*der, SEQUENCE)?;
    let mut algorithm = contents(&mut info, SEQUENCE)?;
    let key = bits(&mut info)?;
    match contents(&mut algorithm, OBJECT_IDENTIFIER)? {
        RSA => rsa(key),
        // The length of the point tells the curve.
        EC => Some(Key::ec(key)),
        ED25519 => Some(Key::ed25519(key)),
        _ => None,
    }
}

fn rsa(der: &[u8]) -> Option<Result<Key, KeysError>> {
    let mut numbers = contents(&mut &*der, SEQUENCE)?;
    let modulus = contents(&mut numbers, INTEGER)?;
    let exponent = contents(&mut numbers, INTEGER)?;
    Some(Key::rsa(modulus, exponent))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    #[test]
    fn public_keys_are_read_alone_and_together_and_private_ones_are_not() {
        let pairs = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519]
            .map(|kind| KeyPair::generate_for(kind).unwrap());
        let certificate = CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&pairs[0]).unwrap();
        let all: Vec<String> = pairs.iter().map(KeyPair::public_key_pem).chain([certificate.pem()]).collect();
        for pem in &all {
            assert_eq!(read(pem.as_bytes()).unwrap().len(), 1, "{pem}");
        }
        assert_eq!(read(all.join("\nand\n").as_bytes()).unwrap().len(), 4);
        let private = pairs[0].serialize_pem();
        let error = read(private.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("-pubout"), "{error}");
        assert_eq!(read(format!("{private}{}", all[0]).as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn what_is_none_says_so_without_showing_it() {
        for text in [
            "",
            "hunter2",
            "-----BEGIN PUBLIC KEY-----\nhunter2\n",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        ] {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && !error.is_empty(), "{text}: {error}");
        }
        assert!(read(b" {\"keys\":[]}").unwrap_err().to_string().contains("the list is empty"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (read(&bytes), public_key(&bytes), rsa(&bytes));
        }
    }
}
