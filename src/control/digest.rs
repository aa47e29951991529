//! What is in a file, in 32 bytes: whether a file that the configuration names has changed.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};

use crate::config::FILE_BYTES_MAX;

/// The SHA-256 of a file; `None` if it cannot be read.
pub type Digest = Option<[u8; 32]>;

/// The digest of this file, or of its beginning where it is larger than any file that a configuration names.
pub fn of(path: &Path) -> Digest {
    let mut bytes = vec![];
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    digest(&SHA256, &bytes).as_ref().try_into().ok()
}
