//! Endpoints out of a file that other tools write.
//!
//! The file is looked at (stat) twice a second rather than watched by inotify: the answer is the same for editors that
//! rename, for Kubernetes, which swaps the symlink of a directory above, for bind mounts and for network file systems,
//! of which inotify sees only some, and none without a watch on each directory and symlink of the path. It costs two
//! system calls a second.
//!
//! A file that has changed is read when two looks in a row saw it the same: what is written in place is not read half
//! in most cases, and what is, is read again at the next change. The first half of a YAML list is a list, too, so who
//! writes the file should put it in place by rename.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{Outlet, Reason, Trouble};
use crate::config::{Endpoint, FILE_BYTES_MAX, Scheme, load_endpoints};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// The longest part of a report of mistakes that goes to the log.
const REPORT_CHARS_MAX: usize = 2000;

/// Reads endpoints from a file, again when it changes.
#[derive(Clone, Debug)]
pub struct File {
    /// Which.
    pub path: PathBuf,
    /// For targets of Prometheus's `file_sd`, which have none.
    pub scheme: Scheme,
}

/// What tells one state of a file from another. The time of the last change of the inode too: it cannot be set, so a
/// copy that keeps times is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    file: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
    bytes: u64,
}

/// What was seen, or what kept us from seeing it.
type Seen = Result<Look, io::ErrorKind>;

/// When to read.
#[derive(Debug, Default)]
struct Watch {
    /// What was last read.
    read: Option<Seen>,
    /// What was last seen.
    seen: Option<Seen>,
}

impl File {
    /// Runs until it is dropped, which it may be at any time.
    pub async fn run(self, mut outlet: Outlet) {
        let mut watch = Watch::default();
        let mut good = false;
        loop {
            let path = self.path.clone();
            // On a thread for such things: a network file system may hang.
            let seen = spawn_blocking(move || look(&path)).await.unwrap_or(Err(io::ErrorKind::Other));
            if watch.is_to_read(&seen) {
                let file = self.clone();
                let gone = |_| Err(Trouble::new(Reason::Unreachable, "the reading was broken off"));
                good = match spawn_blocking(move || file.read()).await.unwrap_or_else(gone) {
                    Ok(endpoints) => outlet.list(endpoints),
                    Err(trouble) => {
                        outlet.failed(&trouble);
                        if trouble.reason == Reason::Unreachable {
                            // That may pass without a change of the file.
                            watch.read = None;
                        }
                        false
                    }
                };
            } else if good && seen.is_ok() {
                // There, and as it was when it was read.
                outlet.confirm();
            }
            sleep(LOOK).await;
        }
    }

    fn read(&self) -> Result<Vec<Endpoint>, Trouble> {
        let name = self.path.display().to_string();
        let mut bytes = vec![];
        let opened = fs::File::open(&self.path);
        opened.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::NotFound => Reason::NotFound,
                io::ErrorKind::PermissionDenied => Reason::Denied,
                _ => Reason::Unreachable,
            };
            Trouble::new(reason, format!("{name}: {error}"))
        })?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(Trouble::new(Reason::TooLarge, format!("{name} is larger than 1MiB")));
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| Trouble::new(Reason::Malformed, format!("{name} is not UTF-8 text")))?;
        load_endpoints(&name, &text, self.scheme).map_err(|errors| {
            let report: String = errors.to_string().chars().take(REPORT_CHARS_MAX).collect();
            Trouble::new(Reason::Malformed, report)
        })
    }
}

impl Watch {
    /// Whether the file is to be read now: it is not as it was when it was read, and it rests. The first time at once.
    fn is_to_read(&mut self, seen: &Seen) -> bool {
        let rests = self.seen.as_ref().is_none_or(|before| before == seen);
        self.seen = Some(seen.clone());
        let read = rests && self.read.as_ref() != Some(seen);
        if read {
            self.read = Some(seen.clone());
        }
        read
    }
}

fn look(path: &Path) -> Seen {
    fs::metadata(path).map(|metadata| Look::from(&metadata)).map_err(|error| error.kind())
}

impl From<&Metadata> for Look {
    fn from(metadata: &Metadata) -> Look {
        Look {
            file: (metadata.dev(), metadata.ino()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            bytes: metadata.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(version: i64) -> Seen {
        Ok(Look { file: (1, 1), modified: (version, 0), changed: (version, 0), bytes: 1 })
    }

    #[test]
    fn a_file_is_read_at_once_and_then_when_it_has_changed_and_rests() {
        let mut watch = Watch::default();
        let missing: Seen = Err(io::ErrorKind::NotFound);
        for (look, read) in [
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
            assert_eq!(watch.is_to_read(&look), read, "{look:?}");
        }
    }
}
