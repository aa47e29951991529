//! The parts of a certificate that webpki checks but does not return: serial number, issuer, subject, validity, signature, names.
//!
//! Reads the outer bytes of the DER only: Certificate → TBSCertificate → version (if any), *serial*, algorithm, *issuer*,
//! *validity*, *subject*, *key* (RFC 5280 §4.1), and two extensions: whether the certificate belongs
//! to an authority, and whom it names. webpki reads the rest, so no parser of X.509 is needed.

use rustls::pki_types::SignatureVerificationAlgorithm;

use super::der::{BOOLEAN, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET, bits, contents, element};
use super::validity::Validity;

/// `[3] EXPLICIT Extensions`
const EXTENSIONS: u8 = 0xa3;
/// `[0] EXPLICIT Version`; absent in version 1.
const VERSION: u8 = 0xa0;

/// id-at-commonName and id-at-organizationName (RFC 5280 appendix A.1).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

/// id-ce-basicConstraints and id-ce-subjectAltName (RFC 5280 §4.2.1.9, §4.2.1.6).
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// The longest name that is displayed; ub-common-name is 64 (RFC 5280 appendix A.1).
const SHOWN_MAX: usize = 64;

/// The parts of a certificate. Names are compared byte by byte, as webpki does.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The signed part.
    signed: &'a [u8],
    signature_algorithm: &'a [u8],
    signature: &'a [u8],
    /// Its serial number, as the contents of an INTEGER.
    pub serial: &'a [u8],
    /// Its issuer.
    pub issuer: DistinguishedName<'a>,
    /// Its period of validity.
    pub validity: Validity,
    /// Its subject.
    pub subject: DistinguishedName<'a>,
    key_algorithm: &'a [u8],
    key: &'a [u8],
    /// The whole of its key: SubjectPublicKeyInfo.
    pub key_info: &'a [u8],
    /// Whether it is of X.509 version 1, which has no extensions.
    pub is_version_1: bool,
    extensions: &'a [u8],
}

impl Validity {
    /// Reads the validity of a certificate; `None` if it cannot be parsed.
    pub fn of(certificate: &[u8]) -> Option<Validity> {
        Parts::of(certificate).map(|parts| parts.validity)
    }
}

impl<'a> Parts<'a> {
    /// Splits a certificate into parts; `None` if it cannot be parsed.
    pub fn of(certificate: &'a [u8]) -> Option<Parts<'a>> {
        let mut outer = contents(&mut &*certificate, SEQUENCE)?;
        let from_signed = outer;
        let mut tbs = contents(&mut outer, SEQUENCE)?;
        let signed = &from_signed[..from_signed.len() - outer.len()];
        let signature_algorithm = contents(&mut outer, SEQUENCE)?;
        let signature = bits(&mut outer)?;
        let is_version_1 = tbs.first() != Some(&VERSION);
        if !is_version_1 {
            element(&mut tbs)?;
        }
        let serial = contents(&mut tbs, INTEGER)?;
        let _algorithm = element(&mut tbs)?;
        let issuer = DistinguishedName(contents(&mut tbs, SEQUENCE)?);
        let validity = Validity::read(contents(&mut tbs, SEQUENCE)?)?;
        let subject = DistinguishedName(contents(&mut tbs, SEQUENCE)?);
        let from_key = tbs;
        let mut key_parts = contents(&mut tbs, SEQUENCE)?;
        let key_info = &from_key[..from_key.len() - tbs.len()];
        let key_algorithm = contents(&mut key_parts, SEQUENCE)?;
        let key = bits(&mut key_parts)?;
        let mut extensions: &[u8] = &[];
        while let Some((tag, mut explicit)) = element(&mut tbs) {
            if tag == EXTENSIONS {
                extensions = contents(&mut explicit, SEQUENCE)?;
            }
        }
        Some(Parts {
            signed,
            signature_algorithm,
            signature,
            serial,
            issuer,
            validity,
            subject,
            key_algorithm,
            key,
            key_info,
            is_version_1,
            extensions,
        })
    }

    /// Returns true if its basicConstraints mark it as an authority's.
    pub fn is_authority(&self) -> bool {
        let constraints = self.extension(BASIC_CONSTRAINTS);
        let constraints = constraints.and_then(|mut value| contents(&mut value, SEQUENCE));
        constraints.and_then(|mut it| contents(&mut it, BOOLEAN)).is_some_and(|ca| ca != [0])
    }

    /// Returns true if it has a subjectAltName, where clients look for names.
    pub fn has_names(&self) -> bool {
        self.extension(SUBJECT_ALT_NAME).is_some()
    }

    /// Returns the value of its subjectAltName, if it has just one.
    pub fn alternative_names(&self) -> Option<&'a [u8]> {
        let mut all = self.extensions(SUBJECT_ALT_NAME);
        let (Some(one), None) = (all.next()?, all.next()) else { return None };
        Some(one)
    }

    /// Finds an extension, and returns its value.
    fn extension(&self, kind: &[u8]) -> Option<&'a [u8]> {
        self.extensions(kind).next()?
    }

    /// Returns the values of all extensions of this kind. Each is an identifier, optionally whether it is critical, and the
    /// value. `None` is the last: what cannot be read.
    fn extensions(&self, kind: &[u8]) -> impl Iterator<Item = Option<&'a [u8]>> {
        let mut rest = self.extensions;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let next = extension(&mut rest);
            if next.is_none() {
                rest = &[];
            }
            Some(next)
        })
        .filter_map(move |next| match next {
            Some((found, value)) => (found == kind).then_some(Some(value)),
            None => Some(None),
        })
    }

    /// Returns true if it names itself as its issuer, as roots do.
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// Returns true if the key of `issuer` signed it; `None` if no algorithm fits.
    pub fn is_signed_by(
        &self,
        issuer: &Parts<'_>,
        algorithms: &[&'static dyn SignatureVerificationAlgorithm],
    ) -> Option<bool> {
        let mut fitting = algorithms.iter().filter(|algorithm| {
            algorithm.signature_alg_id().as_ref() == self.signature_algorithm
                && algorithm.public_key_alg_id().as_ref() == issuer.key_algorithm
        });
        let first = fitting.next()?;
        let mut fitting = std::iter::once(first).chain(fitting);
        Some(fitting.any(|it| it.verify_signature(issuer.key, self.signed, self.signature).is_ok()))
    }
}

/// Splits an extension off the front; returns its identifier and its value.
fn extension<'a>(extensions: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let mut extension = contents(extensions, SEQUENCE)?;
    let kind = contents(&mut extension, OBJECT_IDENTIFIER)?;
    if extension.first() == Some(&BOOLEAN) {
        element(&mut extension)?;
    }
    Some((kind, contents(&mut extension, OCTET_STRING)?))
}

/// A distinguished name. Displays as its common name, or else its organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DistinguishedName<'a>(&'a [u8]);

impl std::fmt::Display for DistinguishedName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(text) = self.attribute(COMMON_NAME).or_else(|| self.attribute(ORGANIZATION)) else {
            return f.write_str("a name without a common name");
        };
        // A stranger may have chosen the bytes; a log line must stay one line.
        let shown = String::from_utf8_lossy(text);
        let shown: String = shown.chars().filter(|it| !it.is_control()).take(SHOWN_MAX).collect();
        write!(f, "`{shown}`")
    }
}

impl<'a> DistinguishedName<'a> {
    /// Returns the contents of its RDNSequence.
    pub fn der(&self) -> &'a [u8] {
        self.0
    }

    /// Finds an attribute: RDNSequence → RelativeDistinguishedName → AttributeTypeAndValue.
    fn attribute(&self, kind: &[u8]) -> Option<&'a [u8]> {
        let mut sequence = self.0;
        while !sequence.is_empty() {
            let mut set = contents(&mut sequence, SET)?;
            while !set.is_empty() {
                let mut pair = contents(&mut set, SEQUENCE)?;
                if contents(&mut pair, OBJECT_IDENTIFIER)? == kind {
                    return element(&mut pair).map(|(_, value)| value);
                }
            }
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    use super::*;
    use crate::tls::provider;

    fn authority(name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, format!("{name} organization"));
        params.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate_for(algorithm).unwrap()).unwrap()
    }

    #[test]
    fn names_and_signatures_of_all_common_algorithms_are_read() {
        let algorithms = provider().signature_verification_algorithms.all;
        for kind in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_RSA_SHA256,
        ] {
            let (ours, other) = (authority("ours", kind), authority("ours", kind));
            let leaf = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &ours).unwrap();
            let parts = Parts::of(leaf.der()).unwrap();
            let (ours, other) = (Parts::of(ours.der()).unwrap(), Parts::of(other.der()).unwrap());
            assert_eq!((parts.issuer.to_string(), parts.issuer), ("`ours`".to_owned(), ours.subject));
            assert_eq!((ours.is_authority(), ours.has_names(), ours.is_version_1), (true, false, false));
            assert_eq!((parts.is_authority(), parts.has_names(), parts.is_version_1), (false, true, false));
            assert!(ours.is_self_issued() && !parts.is_self_issued());
            assert_eq!(parts.is_signed_by(&ours, algorithms), Some(true));
            assert_eq!(parts.is_signed_by(&other, algorithms), Some(false));
            assert_eq!(parts.is_signed_by(&ours, &[]), None);
        }
    }

    #[test]
    fn a_name_is_shown_on_one_line_and_not_at_any_length() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let certify = |params: &CertificateParams| params.clone().self_signed(&KeyPair::generate().unwrap()).unwrap();
        let shown = |params: &CertificateParams| Parts::of(certify(params).der()).unwrap().subject.to_string();
        assert_eq!(shown(&params), "a name without a common name");
        params.distinguished_name.push(DnType::OrganizationName, "Example\nInc");
        assert_eq!(shown(&params), "`ExampleInc`");
        params.distinguished_name.push(DnType::CommonName, "é".repeat(100));
        assert_eq!(shown(&params), format!("`{}`", "é".repeat(SHOWN_MAX)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>()) {
            static GOOD: std::sync::LazyLock<Vec<u8>> =
                std::sync::LazyLock::new(|| authority("x", &rcgen::PKCS_ECDSA_P256_SHA256).der().to_vec());
            let all = provider().signature_verification_algorithms.all;
            let at = at.index(GOOD.len());
            let mut damaged = GOOD.clone();
            damaged[at] = bytes.first().copied().unwrap_or(0xff);
            for bytes in [&bytes, &damaged] {
                if let Some(parts) = Parts::of(bytes) {
                    let _ = (parts.subject.to_string(), parts.is_signed_by(&parts, all));
                    let _ = (parts.is_authority(), parts.has_names());
                }
            }
            prop_assert!(Parts::of(&GOOD[..at]).is_none());
        }
    }
}
