//! A certificate with its key, and the trusted roots, read from PEM files.
//!
//! All faults of a file are found here, before anything listens, and the error names the file and the remedy. An
//! expired certificate is not an error: a proxy that does not start helps nobody, and clients that pin the certificate
//! still work.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::chain::{self, ChainFault};
use super::error::{CertificateWarning, TlsError, display};
use super::pem::{self, Wanted};
use super::validity::Validity;
use super::verifier::Authorities;
use super::x509::Parts;
use super::{files, provider};

/// A certificate chain with its private key, both checked.
#[derive(Debug, Clone)]
pub struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    file: String,
    names: Vec<String>,
    validity: Validity,
    order: Option<ChainFault>,
}

impl Identity {
    /// Reads the chain from one file and the key from another (or the same).
    ///
    /// # Errors
    /// Fails if a file cannot be read, holds something else, or the two do not belong together.
    pub fn load(cert: &Path, key: &Path) -> Result<Identity, TlsError> {
        let (cert_pem, key_pem) = files::read_pair(cert, key)?;
        Identity::from_parts(&display(cert), &cert_pem, &display(key), &key_pem)
    }

    /// Does the same from memory; `name` stands for the file in errors and warnings.
    ///
    /// # Errors
    /// As [`load`](Self::load), without the reading.
    pub fn from_pem(name: &str, cert: &[u8], key: &[u8]) -> Result<Identity, TlsError> {
        Identity::from_parts(name, cert, name, key)
    }

    pub(super) fn from_parts(cert_file: &str, cert: &[u8], key_file: &str, key: &[u8]) -> Result<Identity, TlsError> {
        let chain = certificates(cert_file, cert)?;
        let key = private_key(key_file, key)?;
        let bad = |reason: String| TlsError::BadCertificate { file: cert_file.to_owned(), reason };
        let end_entity = webpki::EndEntityCert::try_from(&chain[0]).map_err(|error| bad(error.to_string()))?;
        let names = end_entity.valid_dns_names().map(str::to_ascii_lowercase).collect();
        let validity = Validity::of(&chain[0]).ok_or_else(|| bad("its validity is malformed".to_owned()))?;
        let signing_key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|source| TlsError::UnsupportedKey { file: key_file.to_owned(), source })?;
        let key = CertifiedKey::new(chain, signing_key);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(TlsError::KeyMismatch { cert: cert_file.to_owned(), key: key_file.to_owned() });
            }
            Err(error) => return Err(error.into()),
        }
        let order = chain::order(&key.cert, provider().signature_verification_algorithms.all);
        Ok(Identity { key: Arc::new(key), file: cert_file.to_owned(), names, validity, order })
    }

    /// Returns the file of the certificate.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Returns the host names of its subjectAltName, in lower case, wildcards as `*.example.com`. Ignores the common
    /// name (RFC 9525 §2).
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the period in which the certificate is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Returns the warnings about it at `now`, for the operator.
    pub fn warnings(&self, now: SystemTime) -> Vec<CertificateWarning> {
        let nameless = self.names.is_empty().then(|| CertificateWarning::NoNames { file: self.file.clone() });
        self.date_fault(now).into_iter().chain(self.chain_fault(now)).chain(nameless).collect()
    }

    /// Returns why it must not replace `old` at `now`: fewer clients would accept it. A fault of both is no reason, so
    /// any certificate that has not expired replaces an expired one.
    pub fn worse_than(&self, old: &Identity, now: SystemTime) -> Option<CertificateWarning> {
        let date_fault = self.date_fault(now);
        if date_fault.is_some() || old.date_fault(now).is_some() {
            return date_fault.filter(|_| old.date_fault(now).is_none());
        }
        if old.chain_fault(now).is_some() {
            return None;
        }
        let alone = || Some(self.chain_warning(chain::alone(&self.key.cert, &old.key.cert)?));
        self.chain_fault(now).or_else(alone)
    }

    fn date_fault(&self, now: SystemTime) -> Option<CertificateWarning> {
        date_fault(self.file.clone(), self.validity, now)
    }

    fn chain_fault(&self, now: SystemTime) -> Option<CertificateWarning> {
        let fault = self.order.clone().or_else(|| chain::dates(&self.key.cert, now))?;
        Some(self.chain_warning(fault))
    }

    fn chain_warning(&self, fault: ChainFault) -> CertificateWarning {
        CertificateWarning::Chain { file: self.file.clone(), fault }
    }
}

/// Reads the trusted certificates from the contents of `file`. Those of authorities may have signed others; one that says
/// it is none, or says nothing, stands for itself only: whoever has its key would be an authority otherwise.
///
/// # Errors
/// Fails if there is none, or one cannot be parsed.
pub(super) fn authorities(file: &str, text: &[u8]) -> Result<Arc<Authorities>, TlsError> {
    let mut roots = RootCertStore::empty();
    let certificates = certificates(file, text)?;
    for certificate in &certificates {
        roots
            .add(certificate.clone())
            .map_err(|error| TlsError::BadCertificate { file: file.to_owned(), reason: error.to_string() })?;
        if !Parts::of(certificate).is_some_and(|parts| parts.is_authority() || parts.is_version_1) {
            roots.roots.pop();
        }
    }
    Ok(Arc::new(Authorities { roots: Arc::new(roots), certificates }))
}

/// Returns warnings about certificates that servers may show themselves. Dates and names of authorities do not matter.
pub(super) fn warnings_of_servers(file: &str, trusted: &Authorities, now: SystemTime) -> Vec<CertificateWarning> {
    let mut warnings = vec![];
    for parts in trusted.certificates.iter().filter_map(|certificate| Parts::of(certificate)) {
        let file = || file.to_owned();
        let subject = || parts.subject.to_string();
        if parts.is_version_1 {
            warnings.push(CertificateWarning::Version1 { file: file(), subject: subject() });
        } else if !parts.is_authority() && !parts.has_names() {
            warnings.push(CertificateWarning::Nameless { file: file(), subject: subject() });
        }
        if parts.has_names() || !parts.is_authority() {
            warnings.extend(date_fault(file(), parts.validity, now));
        }
    }
    warnings
}

fn date_fault(file: String, validity: Validity, now: SystemTime) -> Option<CertificateWarning> {
    if let Some(since) = validity.expired_since(now) {
        return Some(CertificateWarning::Expired { file, since });
    }
    validity.begins_in(now).map(|until| CertificateWarning::NotYetValid { file, until })
}

/// Reads at least one certificate, in the order of the file.
fn certificates(file: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = &*normal(file, text)?;
    let none = || TlsError::NoCertificate { file: file.to_owned(), hint: pem::instead(text, Wanted::Certificate) };
    let chain = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if chain.is_empty() => Err(none()),
        Ok(chain) => Ok(chain),
        Err(_) if pem::has_escaped_ends(text) => Err(none()),
        Err(error) => Err(TlsError::Pem { file: file.to_owned(), reason: pem::fault(&error) }),
    }
}

fn private_key(file: &str, text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = &*normal(file, text)?;
    // PKCS #8 marks it in the label (RFC 5958), the older form in a header (RFC 1421 §4.6.1.1).
    if pem::contains(text, b"BEGIN ENCRYPTED PRIVATE KEY") || pem::contains(text, b"Proc-Type: 4,ENCRYPTED") {
        return Err(TlsError::EncryptedKey { file: file.to_owned() });
    }
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        error if matches!(error, Error::NoItemsFound) || pem::has_escaped_ends(text) => {
            TlsError::NoKey { file: file.to_owned(), hint: pem::instead(text, Wanted::Key) }
        }
        error => TlsError::Pem { file: file.to_owned(), reason: pem::fault(&error) },
    })
}

fn normal<'t>(file: &str, text: &'t [u8]) -> Result<Cow<'t, [u8]>, TlsError> {
    pem::normal(text).map_err(|source| TlsError::NotText { file: file.to_owned(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::error::Error as _;
    use std::fs;
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::test_certificates::Ca;
    use super::*;

    fn refused(cert: &str, key: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let (cert_file, key_file) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
        fs::write(&cert_file, cert).unwrap();
        fs::write(&key_file, key).unwrap();
        let error = Identity::load(&cert_file, &key_file).unwrap_err();
        let text = format!("{error}; {}", error.source().map(ToString::to_string).unwrap_or_default());
        assert!(text.contains("c.pem") || text.contains("k.pem"), "the file is named: {text}");
        text
    }

    #[test]
    fn names_and_validity_are_read_from_the_certificate() {
        let (cert, key) = Ca::new().sign(&["Chat.example.com", "*.example.com", "10.0.0.1"], |params| {
            params.distinguished_name.push(rcgen::DnType::CommonName, "ignored.example");
            params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        });
        let identity = Identity::from_pem("x", cert.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(identity.names(), ["chat.example.com", "*.example.com"]);
        assert_eq!(identity.validity().not_after, 1_893_456_000);
        assert_eq!(identity.warnings(UNIX_EPOCH + Duration::from_secs(1_800_000_000)), []);
        let late = identity.warnings(UNIX_EPOCH + Duration::from_secs(1_893_456_000 + 3 * 86_400));
        assert_eq!(
            late.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["the certificate in x has expired, 3 days ago"]
        );
        assert!(matches!(identity.warnings(UNIX_EPOCH)[..], [CertificateWarning::NotYetValid { .. }]));
    }

    #[test]
    fn a_certificate_without_names_is_warned_of() {
        let identity = Ca::new().identity(&["10.0.0.1"]);
        assert!(matches!(identity.warnings(SystemTime::now())[..], [CertificateWarning::NoNames { .. }]));
    }

    #[test]
    fn a_chain_out_of_order_is_warned_of() {
        let middle = Ca::new().intermediate("middle", |_| {});
        let low = middle.intermediate("low", |_| {});
        let (cert, key) = low.sign(&["a.example"], |_| {});
        let cert = format!("{cert}{}{}", middle.pem(), low.pem());
        let identity = Identity::from_pem("x", cert.as_bytes(), key.as_bytes()).unwrap();
        let [warning] = &identity.warnings(SystemTime::now())[..] else { panic!("one warning") };
        let text = warning.to_string();
        assert!(
            text.starts_with("the chain in x is broken: certificate 1 (") && text.ends_with("certificate 3"),
            "{text}"
        );
    }

    #[test]
    fn a_certificate_gives_way_to_none_that_is_worse() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let middle = Ca::new().intermediate("middle", |_| {});
        let (low, stranger) = (middle.intermediate("low", |_| {}), Ca::new());
        let year = |year| rcgen::date_time_ymd(year, 1, 1);
        let identity = |from, until, chain: &[&Ca]| {
            let (cert, key) = low.sign(&["a.example"], |params| {
                params.not_before = year(from);
                params.not_after = year(until);
            });
            let cert = chain.iter().fold(cert, |cert, ca| cert + &ca.pem());
            Identity::from_pem("x", cert.as_bytes(), key.as_bytes()).unwrap()
        };
        let good = || identity(2020, 2030, &[&low, &middle]);
        let (expired, early) = (identity(2020, 2021, &[&low, &middle]), identity(2029, 2030, &[&low, &middle]));
        let (broken, short) = (identity(2020, 2030, &[&low, &stranger]), identity(2020, 2030, &[&low]));
        let alone = identity(2020, 2030, &[]);
        let expired_and_broken = identity(2020, 2021, &[&stranger]);
        for (what, new, old, refused) in [
            ("another good one", &good(), &good(), None),
            ("expired", &expired, &good(), Some("has expired")),
            ("early", &early, &good(), Some("is not valid yet")),
            ("broken", &broken, &good(), Some("certificate 2 (`low`)")),
            ("shorter", &short, &good(), None),
            ("alone", &alone, &good(), Some("must be followed by the intermediate `low`")),
            ("longer", &good(), &alone, None),
            ("alone as before", &alone, &alone, None),
            ("good after expired", &good(), &expired, None),
            ("broken after expired", &broken, &expired, None),
            ("expired after broken", &expired, &broken, Some("has expired")),
            ("early after expired", &early, &expired, None),
            ("broken after broken", &broken, &broken, None),
            ("all of it after expired", &expired_and_broken, &expired, None),
        ] {
            let found = new.worse_than(old, now).map(|warning| warning.to_string());
            match refused {
                None => assert_eq!(found, None, "{what}"),
                Some(text) => assert!(found.as_ref().is_some_and(|found| found.contains(text)), "{what}: {found:?}"),
            }
        }
    }

    #[test]
    fn key_and_certificate_may_share_a_file() {
        let (cert, key) = Ca::new().sign(&["a.example"], |_| {});
        let both = format!("{key}{cert}");
        Identity::from_pem("both", both.as_bytes(), both.as_bytes()).unwrap();
    }

    #[test]
    fn each_mistake_is_named_with_its_file_and_its_remedy() {
        let ca = Ca::new();
        let (cert, key) = ca.sign(&["a.example"], |_| {});
        let (_, other_key) = ca.sign(&["b.example"], |_| {});
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: X\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let nonsense_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let unfinished = cert.replace("-----END CERTIFICATE-----", "");
        for (cert, key, expected) in [
            (cert.as_str(), other_key.as_str(), "does not belong to the certificate"),
            (&key, &key, "c.pem holds no certificate, only a private key: are `cert` and `key` swapped?"),
            (&cert, &cert, "k.pem holds no private key, only certificates: are `cert` and `key` swapped?"),
            ("", &key, "it is empty"),
            ("hello", &key, "-----BEGIN CERTIFICATE-----"),
            ("0\u{3}\u{1}\u{1}", &key, "looks like DER"),
            (&cert, encrypted, "openssl pkey -in"),
            (&cert, legacy, "is encrypted"),
            (&cert, nonsense_key, "RSA (2048 bits or more)"),
            (nonsense, &key, "cannot be parsed"),
            (&unfinished, &key, "not valid PEM"),
        ] {
            let text = refused(cert, key);
            assert!(text.contains(expected), "{text}");
        }
        let error = Identity::load(Path::new("/nowhere/c.pem"), Path::new("/nowhere/k.pem")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere/c.pem");
    }

    #[test]
    fn roots_come_from_a_file_with_at_least_one() {
        let two = authorities("x", format!("{}{}", Ca::new().pem(), Ca::new().pem()).as_bytes()).unwrap();
        assert_eq!((two.roots.len(), two.certificates.len()), (2, 2));
        assert!(matches!(authorities("x", b""), Err(TlsError::NoCertificate { .. })));
    }
}
