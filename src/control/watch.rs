//! Reloads when the configuration file, or a file that it includes or names, has changed.
//!
//! The files are polled rather than watched by the kernel; `base::file_state` says why. A change is loaded once all files
//! have been stable for one poll, so that a certificate and its key, written one after the other, are mostly read as a pair;
//! if not, the next poll finds the rest of the change.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::error::ReloadError;
use super::handle::ControlHandle;
use super::metrics::Trigger;
use crate::base::file_state::{FileObservation, Settling, observe};
use crate::config::IncludedFiles;

/// The time between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The time after which a refused certificate is tried again although no file has changed: it may have become valid.
const RETRY_STALE: Duration = Duration::from_secs(60);

/// Reloads whenever the file at `path`, or one that the configuration in force names, has changed, while that
/// configuration has `watch` on. Runs until it is dropped.
pub async fn run(path: PathBuf, handle: ControlHandle) {
    let mut settling = Settling::<Vec<(PathBuf, FileObservation)>>::default();
    let mut first = true;
    let mut reloaded = Instant::now();
    let mut was_postponed = false;
    // Of the file as it is, not of the configuration in force: a file that is included now may be what has to be mended.
    let mut included = IncludedFiles::default();
    let mut main_seen = None;
    loop {
        let in_force = handle.in_force();
        if !in_force.loaded.file.watch {
            sleep(POLL_INTERVAL).await;
            continue;
        }
        let read_at = in_force.loaded.read_at;
        let mut files = in_force.loaded.file.files();
        let (main, mut including, mut main_before) = (path.clone(), included, main_seen);
        // On a blocking thread: a network file system may hang.
        let observe_all = move || {
            let main_now = observe(&main);
            if main_before.as_ref() != Some(&main_now) {
                including = IncludedFiles::of_file(&main).unwrap_or(including);
                main_before = Some(main_now.clone());
            }
            files.extend(including.list());
            let mut seen: Vec<_> = files.into_iter().map(|file| (file.clone(), observe(&file))).collect();
            seen.push((main, main_now));
            (seen, including, main_before)
        };
        let Ok((seen, including, main_now)) = spawn_blocking(observe_all).await else { return };
        (included, main_seen) = (including, main_now);
        // The first poll counts as well if a file has changed since it was read.
        let is_new =
            |(_, seen): &(PathBuf, FileObservation)| seen.as_ref().is_ok_and(|seen| seen.has_changed_since(read_at));
        let has_changed = settling.has_changed(&seen) && (!std::mem::take(&mut first) || seen.iter().any(is_new));
        let is_due = handle.is_stale() && reloaded.elapsed() >= RETRY_STALE;
        if has_changed || is_due || was_postponed {
            // The result is in the log. If an upgrade under way fails, this process still needs the change.
            was_postponed = matches!(handle.reload(Trigger::Watch).await, Err(ReloadError::Upgrading));
            reloaded = Instant::now();
        }
        sleep(POLL_INTERVAL).await;
    }
}
