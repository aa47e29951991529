//! Noticing that the configuration, or a file that it names, has changed.
//!
//! The files are looked at rather than watched by the kernel: see `file_state`, which says why. What has changed is loaded
//! when all of them have rested for one look, so that a certificate and its key, written one after the other, are read as
//! a pair in most cases; when they are not, the next look finds the rest of the change.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::error::ReloadError;
use super::handle::ControlHandle;
use super::metrics::Trigger;
use crate::base::file_state::{FileObservation, Settling, observe};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How soon a certificate that was refused is tried again although no file has changed: one that was not valid yet may be.
const STALE: Duration = Duration::from_secs(60);

/// Reloads whenever the file at `path`, or one that the configuration in force names, has changed, as long as that
/// configuration wants to be watched. Runs until it is dropped.
pub async fn run(path: PathBuf, handle: ControlHandle) {
    let mut settling = Settling::<Vec<(PathBuf, FileObservation)>>::default();
    let mut first = true;
    let mut reloaded = Instant::now();
    let mut was_put_off = false;
    loop {
        let in_force = handle.in_force();
        if !in_force.loaded.file.watch {
            sleep(LOOK).await;
            continue;
        }
        let read_at = in_force.loaded.read_at;
        let mut files = in_force.loaded.file.files();
        files.push(path.clone());
        // On a thread for such things: a network file system may hang.
        let look = || files.into_iter().map(|file| (file.clone(), observe(&file))).collect();
        let Ok(seen) = spawn_blocking(look).await else { return };
        // The first look counts as well if something has changed since it was read.
        let is_news =
            |(_, seen): &(PathBuf, FileObservation)| seen.as_ref().is_ok_and(|seen| seen.has_changed_since(read_at));
        let has_changed = settling.has_changed(&seen) && (!std::mem::take(&mut first) || seen.iter().any(is_news));
        let is_due = handle.is_stale() && reloaded.elapsed() >= STALE;
        if has_changed || is_due || was_put_off {
            // What comes of it is in the log. If the upgrade fails, this process is to have the change.
            was_put_off = matches!(handle.reload(Trigger::Watch).await, Err(ReloadError::Upgrading));
            reloaded = Instant::now();
        }
        sleep(LOOK).await;
    }
}
