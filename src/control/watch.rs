//! Noticing that the configuration, or a file that it names, has changed.
//!
//! The files are looked at rather than watched by the kernel: see `file_look`, which says why. What has changed is loaded
//! when all of them have rested for one look, so that a certificate and its key, written one after the other, are read as
//! a pair in most cases; when they are not, the next look finds the rest of the change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::{Handle, Trigger};
use crate::config::File;
use crate::file_look::{Seen, Settling, look};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How soon a certificate that was refused is tried again although no file has changed: one that was not valid yet may be.
const STALE: Duration = Duration::from_secs(60);

/// Files, and what was seen of each.
pub type Looks = Vec<(PathBuf, Seen)>;

/// Looks at the files that `file` names, and at `path`, of which this was `seen`. To be called before any of the others is
/// read: what is written after a look is found by the next one, whoever reads it when.
pub fn looks(path: &Path, seen: Seen, file: &File) -> Looks {
    let named = file.files().into_iter().map(|file| (file.clone(), look(&file)));
    named.chain([(path.to_owned(), seen)]).collect()
}

/// Reloads whenever the file at `path`, or one that the configuration in force names, has changed, as long as that
/// configuration wants to be watched. `before` are the looks before the first configuration was read. Runs until it is
/// dropped.
pub async fn run(path: PathBuf, before: Looks, handle: Handle) {
    let mut settling = Settling::<Looks>::default();
    settling.has_changed(&before);
    let mut is_first = false;
    let mut reloaded = Instant::now();
    loop {
        let in_force = handle.in_force();
        if !in_force.loaded.file.watch {
            // What changes meanwhile is not news when it is watched again.
            (settling, is_first) = (Settling::default(), true);
            sleep(LOOK).await;
            continue;
        }
        // On a thread for such things: a network file system may hang.
        let path = path.clone();
        let seen = spawn_blocking(move || looks(&path, look(&path), &in_force.loaded.file)).await;
        let has_changed = seen.is_ok_and(|seen| settling.has_changed(&seen)) && !std::mem::take(&mut is_first);
        let is_due = handle.is_stale() && reloaded.elapsed() >= STALE;
        if has_changed || is_due {
            // What comes of it is in the log.
            let _ = handle.reload(Trigger::Watch).await;
            reloaded = Instant::now();
        }
        sleep(LOOK).await;
    }
}
