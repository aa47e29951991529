//! Reads the files of TLS: bounded, and consistently even while they are replaced.

use std::io;
use std::path::Path;

use aws_lc_rs::digest;

use super::error::TlsError;
use crate::base::file_state;

/// More than any chain or key has, and ten times a Linux distribution's bundle of authorities.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How often a pair is read again if it changes meanwhile. Files are replaced now and then, not all the time.
const READS_MAX: usize = 4;

/// A digest of files (SHA-256), so that a private key need not be kept to detect a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; digest::SHA256_OUTPUT_LEN]);

impl Digest {
    /// Computes the digest of some files in their order.
    pub fn of(files: &[impl AsRef<[u8]>]) -> Digest {
        let mut context = digest::Context::new(&digest::SHA256);
        for file in files.iter().map(AsRef::as_ref) {
            context.update(&(file.len() as u64).to_be_bytes());
            context.update(file);
        }
        let mut output = [0; digest::SHA256_OUTPUT_LEN];
        output.copy_from_slice(context.finish().as_ref());
        Digest(output)
    }
}

/// Reads a file.
///
/// # Errors
/// Fails if that is not possible, or the file is larger than 4 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    file_state::read(path, BYTES_MAX).map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => TlsError::TooLarge { file: path.display().to_string() },
        _ => TlsError::Read { file: path.display().to_string(), source },
    })
}

/// Reads a certificate and its key as of one moment: if the first changed while the second was read, reads both again.
/// Between the writing of the two they do not match; only a later check finds both complete.
///
/// # Errors
/// As [`read`].
pub fn read_pair(cert: &Path, key: &Path) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    if cert == key {
        let both = read(cert)?;
        return Ok((both.clone(), both));
    }
    settled(|| read(cert), || read(key))
}

fn settled<T: PartialEq, E>(
    mut read_first: impl FnMut() -> Result<T, E>,
    mut read_second: impl FnMut() -> Result<T, E>,
) -> Result<(T, T), E> {
    let mut pair = (read_first()?, read_second()?);
    for _ in 1..READS_MAX {
        let again = read_first()?;
        if again == pair.0 {
            break;
        }
        pair = (again, read_second()?);
    }
    Ok(pair)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_end_is_not_read_to_it() {
        assert!(matches!(read(Path::new("/dev/zero")), Err(TlsError::Read { .. })));
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("large.crt");
        std::fs::File::create(&path).unwrap().set_len(BYTES_MAX + 1).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("is larger than 4 MiB: it cannot be a certificate, a key or a list of them"),
            "{error}"
        );
    }

    #[test]
    fn a_digest_knows_where_one_file_ends() {
        assert_eq!(Digest::of(&["ab", "c"]), Digest::of(&["ab", "c"]));
        assert_ne!(Digest::of(&["ab", "c"]), Digest::of(&["a", "bc"]));
        assert_ne!(Digest::of(&["ab"]), Digest::of(&["ab", ""]));
    }

    #[test]
    fn a_pair_is_read_again_until_it_stays() {
        // The results of each reading of the first and of the second, and the expected pair.
        for (first, second, expected) in [
            (vec![0, 0], vec![0], (0, 0)),
            // Replaced between the two.
            (vec![0, 1, 1], vec![1, 1], (1, 1)),
            // Replaced twice.
            (vec![0, 1, 2, 2], vec![0, 1, 2], (2, 2)),
            // Replaced all the time: the reading still ends.
            (vec![0, 1, 2, 3], vec![0, 1, 2, 3], (3, 3)),
        ] {
            let (mut first, mut second) = (first.into_iter(), second.into_iter());
            let pair = settled(|| first.next().ok_or("too often"), || second.next().ok_or("too often")).unwrap();
            assert_eq!((pair, first.next(), second.next()), (expected, None, None));
        }
    }

    #[test]
    fn a_key_may_be_in_the_file_of_its_certificate() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "both").unwrap();
        assert_eq!(read_pair(file.path(), file.path()).unwrap(), (b"both".to_vec(), b"both".to_vec()));
    }
}
