//! The demo's own certificate: created at its start, removed at its end.
//!
//! Listeners read certificates from files, so the demo writes its pair into a directory that only this user can enter, and
//! removes it on drop. The certificate is self-signed, names only loopback, and cannot sign others.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};

/// The names a browser on this machine may use for the demo.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Longer than any demo runs, shorter than the 398 days above which browsers refuse a server certificate.
const VALID: Duration = Duration::from_secs(30 * 86_400);
/// Clocks differ a little, also between containers on one machine.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// Why the certificate could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Key or certificate could not be generated.
    #[error("generating a self-signed certificate")]
    Generate(#[from] rcgen::Error),
    /// The pair could not be stored where the listener reads it.
    #[error("writing the demo's certificate below {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// A self-signed certificate and its key in a private directory, which is removed on drop.
#[derive(Debug)]
pub struct DemoCertificate {
    directory: PathBuf,
}

impl DemoCertificate {
    /// Creates a pair for loopback names (ECDSA P-256) and writes it below the system's directory for temporary files.
    ///
    /// # Errors
    /// When the system has no randomness to give, or the directory cannot be written.
    pub fn create() -> Result<DemoCertificate, CertificateError> {
        DemoCertificate::create_below(&std::env::temp_dir())
    }

    fn create_below(parent: &Path) -> Result<DemoCertificate, CertificateError> {
        let (cert, key) = generate()?;
        let directory = parent.join(format!("wsluice-demo-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        let failed = |error| CertificateError::Write(directory.clone(), error);
        // `create` refuses a directory that exists, so what we write into is ours alone.
        DirBuilder::new().mode(0o700).create(&directory).map_err(failed)?;
        let certificate = DemoCertificate { directory: directory.clone() };
        write_private(&certificate.cert(), &cert).map_err(failed)?;
        write_private(&certificate.key(), &key).map_err(failed)?;
        Ok(certificate)
    }

    /// Returns the path of the certificate (PEM).
    pub fn cert(&self) -> PathBuf {
        self.directory.join("demo.crt")
    }

    /// Returns the path of its private key (PKCS#8 PEM), readable by this user only.
    pub fn key(&self) -> PathBuf {
        self.directory.join("demo.key")
    }
}

impl Drop for DemoCertificate {
    fn drop(&mut self) {
        // A failure does not matter: the pair is worthless once the demo has ended.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Certificate and key as PEM.
fn generate() -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(NAMES.map(String::from))?;
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + VALID).into();
    params.distinguished_name.push(DnType::CommonName, "wsluice demo");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let cert = params.self_signed(&key)?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed step is the test's failure
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;

    #[test]
    fn the_pair_is_private_fits_together_and_goes_with_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let certificate = DemoCertificate::create_below(parent.path()).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(certificate.key().parent().unwrap()), 0o700);
        assert_eq!(mode(&certificate.key()), 0o600);

        let chain = vec![CertificateDer::from_pem_file(certificate.cert()).unwrap()];
        let key = PrivateKeyDer::from_pem_file(certificate.key()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider().into();
        // Refuses a key that does not belong to the certificate.
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();

        drop(certificate);
        assert_eq!(parent.path().read_dir().unwrap().count(), 0);
    }
}
