//! Detects by polling (stat) whether a file has changed, and reads it.
//!
//! Polling, not inotify: the answer is the same for editors that rename, for Kubernetes, which swaps the symlink of a
//! directory above, for bind mounts and for network file systems. inotify sees only some of these, and none without a
//! watch on each directory and symlink of the path. Polling costs one system call per file and poll.
//!
//! A changed file is read once two polls in a row saw the same state: a file written in place is then seldom read
//! half-written, and if it is, it is read again at the next change. Programs that write files for others should put
//! them in place by rename.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far a file's timestamps may be behind the clock.
const COARSE: Duration = Duration::from_millis(20);

/// The attributes that tell one state of a file from another. They include the inode's change time: it cannot be set,
/// so a copy that keeps times is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    file: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
    bytes: u64,
}

/// A state, or the reason why there is none.
pub type FileObservation = Result<FileState, io::ErrorKind>;

/// Returns the state of a file, following symlinks.
///
/// # Errors
/// If the file does not exist or cannot be examined; that counts as a state like others.
pub fn observe(path: &Path) -> FileObservation {
    fs::metadata(path).map(|metadata| FileState::from(&metadata)).map_err(|error| error.kind())
}

/// Reads a file of at most `bytes_max`. Refuses pipes and devices, which could be read only once, or without end.
///
/// # Errors
/// If it is not a regular file, larger, or cannot be read.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    // Before it is opened: opening a pipe waits for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = vec![];
    fs::File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Some editors write it before a text; no text begins with it otherwise.
pub const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Why bytes are not text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    /// Four bytes a character.
    #[error("is UTF-32 text: save it as UTF-8")]
    Utf32,
    /// Two bytes a character.
    #[error("is UTF-16 text, as some programs on Windows write it: save it as UTF-8")]
    Utf16,
    /// Something else, from this line on.
    #[error("is not UTF-8 text (line {line})")]
    NotUtf8 {
        /// The first is 1.
        line: usize,
    },
}

/// Returns the text of a file, without a byte order mark.
///
/// # Errors
/// If it is not UTF-8.
pub fn text(bytes: Vec<u8>) -> Result<String, NotText> {
    if is_utf32(&bytes) {
        return Err(NotText::Utf32);
    }
    if is_utf16(&bytes) {
        return Err(NotText::Utf16);
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        NotText::NotUtf8 { line: 1 + good.iter().filter(|byte| **byte == b'\n').count() }
    })?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(text)
}

/// Returns true if it looks like UTF-32: its byte order mark, or an ASCII character in it.
fn is_utf32(bytes: &[u8]) -> bool {
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => true,
        [a, 0, 0, 0, ..] | [0, 0, 0, a, ..] => *a != 0,
        _ => false,
    }
}

/// Returns true if it looks like UTF-16: its byte order mark, or two ASCII characters in it.
pub fn is_utf16(bytes: &[u8]) -> bool {
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [a, 0, b, 0, ..] | [0, a, 0, b, ..] => *a != 0 && *b != 0,
        _ => false,
    }
}

impl FileState {
    /// Returns true if the file has changed after `when`, or so little before that a clock may have been behind.
    pub fn has_changed_since(&self, when: SystemTime) -> bool {
        let since_epoch = when.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(COARSE);
        let changed = (i128::from(self.changed.0), i128::from(self.changed.1));
        changed >= (i128::from(since_epoch.as_secs()), i128::from(since_epoch.subsec_nanos()))
    }
}

impl From<&Metadata> for FileState {
    fn from(metadata: &Metadata) -> FileState {
        FileState {
            file: (metadata.dev(), metadata.ino()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            bytes: metadata.len(),
        }
    }
}

/// Detects a change once the observed value has settled.
#[derive(Debug)]
pub struct Settling<T> {
    /// The last reported value.
    known: Option<T>,
    /// The last observation.
    seen: Option<T>,
}

impl<T> Default for Settling<T> {
    fn default() -> Settling<T> {
        Settling { known: None, seen: None }
    }
}

impl<T: Clone + PartialEq> Settling<T> {
    /// Returns true if this differs from the last reported value and equals the last observation. The first settled
    /// observation counts as a change.
    pub fn has_changed(&mut self, seen: &T) -> bool {
        let rests = self.seen.as_ref().is_none_or(|before| before == seen);
        self.seen = Some(seen.clone());
        let has_changed = rests && self.known.as_ref() != Some(seen);
        if has_changed {
            self.known = Some(seen.clone());
        }
        has_changed
    }

    /// Makes the next settled observation count as a change.
    pub fn forget(&mut self) {
        self.known = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_not_read() {
        let error = |path: &str, max| read(Path::new(path), max).map(drop).map_err(|error| error.kind());
        assert_eq!(error("/dev/zero", 1), Err(io::ErrorKind::InvalidInput));
        assert_eq!(error("/dev", 1), Err(io::ErrorKind::InvalidInput));
        assert_eq!(error("/nowhere", 1), Err(io::ErrorKind::NotFound));
        assert_eq!(error(file!(), 1), Err(io::ErrorKind::FileTooLarge));
        assert_eq!(error(file!(), 1 << 20), Ok(()));
    }

    #[test]
    fn text_is_read_without_its_mark_and_other_kinds_are_named() {
        let long = [0xff, 0xfe, b'a', 0];
        for (bytes, expected) in [
            (&b"\xef\xbb\xbfa: 1\r\n"[..], Ok("a: 1\r\n")),
            (b"\xef\xbb\xbf", Ok("")),
            (b"a", Ok("a")),
            (b"", Ok("")),
            ("ü".as_bytes(), Ok("ü")),
            (&long, Err(NotText::Utf16)),
            (b"\xfe\xff\0a", Err(NotText::Utf16)),
            (b"\xff\xfe\0\0a\0\0\0", Err(NotText::Utf32)),
            (b"\0\0\xfe\xff\0\0\0a", Err(NotText::Utf32)),
            (b"a\0\0\0", Err(NotText::Utf32)),
            (b"\0\0\0a", Err(NotText::Utf32)),
            (b"a\0:\0", Err(NotText::Utf16)),
            (b"\0a\0:", Err(NotText::Utf16)),
            (b"a\n\xff", Err(NotText::NotUtf8 { line: 2 })),
        ] {
            assert_eq!(text(bytes.to_vec()), expected.map(str::to_owned), "{bytes:?}");
        }
    }

    fn seen(version: i64) -> FileObservation {
        Ok(FileState { file: (1, 1), modified: (version, 0), changed: (version, 0), bytes: 1 })
    }

    #[test]
    fn a_file_has_changed_at_first_and_then_when_it_is_another_and_rests() {
        let mut settling = Settling::default();
        let missing: FileObservation = Err(io::ErrorKind::NotFound);
        for (look, changed) in [
            (seen(1), true),
            (seen(1), false),
            (seen(2), false),
            (seen(3), false),
            (seen(3), true),
            (seen(3), false),
            // Away for a moment, as between removing and writing it.
            (missing.clone(), false),
            (seen(3), false),
            (seen(3), false),
            (missing.clone(), false),
            (missing.clone(), true),
            (missing, false),
            (seen(3), false),
            (seen(3), true),
        ] {
            assert_eq!(settling.has_changed(&look), changed, "{look:?}");
        }
        settling.forget();
        assert!(settling.has_changed(&seen(3)));
    }
}
