//! Reads what a client's certificate says of it.
//!
//! webpki has verified the certificate before. It says not more than that, and rustls gives out the bytes only. What cannot be
//! read here is left empty, part by part, and matches nothing: the fingerprint is always there.

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::x509::{DistinguishedName, Parts};
use super::{alternative_names, distinguished_name, pem};
use crate::header::client_certificate::{ClientCertificate, FINGERPRINT_BYTES};

/// The longest serial number: RFC 5280 §4.1.2.2 allows 20 bytes.
const SERIAL_BYTES_MAX: usize = 32;

/// Reads a certificate in DER.
pub fn read(certificate: &[u8]) -> ClientCertificate {
    let mut fingerprint = [0; FINGERPRINT_BYTES];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
    let Some(parts) = Parts::of(certificate) else {
        return ClientCertificate { fingerprint, ..ClientCertificate::default() };
    };
    let text = |name: DistinguishedName<'_>| distinguished_name::text(name.der()).unwrap_or_default();
    ClientCertificate {
        fingerprint,
        subject: text(parts.subject),
        common_name: distinguished_name::common_name(parts.subject.der()).unwrap_or_default(),
        issuer: text(parts.issuer),
        serial: serial(parts.serial).unwrap_or_default(),
        names: parts.alternative_names().and_then(alternative_names::read).unwrap_or_default(),
    }
}

/// Reads the first certificate of a PEM text; `None` if there is none.
pub fn from_pem(text: &[u8]) -> Option<ClientCertificate> {
    let text = pem::normal(text).ok()?;
    CertificateDer::from_pem_slice(&text).ok().map(|certificate| read(&certificate))
}

/// Returns a positive number in hex, as OpenSSL shows it.
fn serial(number: &[u8]) -> Option<String> {
    let digits = match number {
        [0, rest @ ..] if !rest.is_empty() => rest,
        [] => return None,
        [first, ..] if *first >= 0x80 => return None,
        all => all,
    };
    (digits.len() <= SERIAL_BYTES_MAX).then(|| digits.iter().map(|byte| format!("{byte:02X}")).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair, SanType, SerialNumber};

    use super::super::test_certificates::Ca;
    use super::*;

    #[test]
    fn all_parts_are_read() {
        let ca = Ca::named("the authority");
        let certificate = ca.certify(&["device-1.devices.example", "10.0.0.7"], |params| {
            params.distinguished_name.push(DnType::CommonName, "device 1");
            params.distinguished_name.push(DnType::OrganizationName, "Example");
            params.serial_number = Some(SerialNumber::from_slice(&[0xfe, 0x0a]));
            params.subject_alt_names.push(SanType::URI("spiffe://example/device/1".try_into().unwrap()));
            params.subject_alt_names.push(SanType::Rfc822Name("one@example.com".try_into().unwrap()));
        });
        let read = read(&certificate);
        let names: Vec<String> = read.names.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            ["DNS:device-1.devices.example", "IP:10.0.0.7", "URI:spiffe://example/device/1", "email:one@example.com"]
        );
        assert_eq!((read.subject.as_str(), read.common_name.as_str()), ("O=Example,CN=device 1", "device 1"));
        assert_eq!((read.issuer.as_str(), read.serial.as_str()), ("CN=the authority", "FE0A"));
        assert_eq!(read.fingerprint[..], *digest::digest(&digest::SHA256, &certificate).as_ref());
    }

    #[test]
    fn the_first_certificate_of_a_file_counts() {
        let (ca, other) = (Ca::named("a"), Ca::named("b"));
        let text = format!("Some words.\r\n  {}{}", ca.pem().replace('\n', "\r\n  "), other.pem());
        assert_eq!(from_pem(text.as_bytes()), Some(read(ca.der())));
        for text in ["", "-----BEGIN CERTIFICATE-----\n", &KeyPair::generate().unwrap().serialize_pem()] {
            assert_eq!(from_pem(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_serial_number_is_as_others_show_it() {
        for (number, shown) in [
            (&[0][..], Some("00")),
            (&[1], Some("01")),
            (&[0, 0xff], Some("FF")),
            (&[0x7f, 0], Some("7F00")),
            (&[0xff], None),
            (&[], None),
            (&[1; 32], Some(&*"01".repeat(32))),
            (&[1; 33], None),
        ] {
            assert_eq!(serial(number).as_deref(), shown, "{number:x?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_empty_and_the_rest_is_not() {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "a");
        // The same extension again, as OpenSSL's configuration may write it.
        let second = vec![0x30, 4, 0x82, 2, b'b', b'b'];
        params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], second));
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let certificate = read(made.der());
        assert_eq!((certificate.names.len(), certificate.common_name.as_str()), (0, "a"));
        let nothing = read(b"no certificate");
        assert_eq!((nothing.subject.as_str(), nothing.serial.as_str()), ("", ""));
        assert_ne!(nothing.fingerprint, certificate.fingerprint);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>()) {
            static GOOD: std::sync::LazyLock<Vec<u8>> =
                std::sync::LazyLock::new(|| Ca::new().certify(&["a.example", "10.0.0.7"], |_| {}).to_vec());
            read(&bytes);
            let at = at.index(GOOD.len());
            let mut damaged = GOOD.clone();
            damaged[at] = bytes.first().copied().unwrap_or(0xff);
            for name in read(&damaged).names {
                prop_assert!(name.to_string().bytes().all(|byte| byte.is_ascii_graphic()));
            }
            read(&GOOD[..at]);
        }
    }
}
