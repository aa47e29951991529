//! From text to a tree, and from a tree to types: the steps, and how each mistake is reported.
//!
//! Nothing here knows what the keys mean.

pub(super) mod decode;
pub(super) mod environment;
pub(super) mod explain;
pub(super) mod key;
pub(super) mod locate;
pub(super) mod outline;
pub(super) mod parts;
pub(super) mod report;
pub(super) mod secret_lines;
pub(super) mod sketch;
pub(super) mod suggest;
pub(super) mod survey;
pub(super) mod syntax;
pub(super) mod tree;

use std::path::Path;

use crate::base::file_state;

/// The largest configuration; a larger file was named by mistake, and is not read into memory.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// The most errors reported: after this many the file is of another kind, and nobody reads on. Warnings have the same
/// limit.
pub(super) const FINDINGS_MAX: usize = 50;

/// Replaces secrets wherever they would be shown.
pub(super) const MASK: &str = "***";

/// Reads a file of secrets as text.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let bytes =
        file_state::read(path, FILE_BYTES_MAX).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    file_state::text(bytes).map_err(|error| format!("{} {error}", path.display()))
}
