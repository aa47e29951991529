//! What is in a file, in 32 bytes: whether a file that the configuration names has changed.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};

use crate::config::FILE_BYTES_MAX;
use crate::file_look;

/// The SHA-256 of a file; `None` if it cannot be read.
pub type Digest = Option<[u8; 32]>;

/// The digest of this file.
pub fn of(path: &Path) -> Digest {
    let bytes = file_look::read(path, FILE_BYTES_MAX).ok()?;
    digest(&SHA256, &bytes).as_ref().try_into().ok()
}
