//! Endpoints from a file that other tools write.
//!
//! The file is polled twice a second (see `file_state`). The first half of a YAML list is a list, too, so writers
//! should put the file in place by rename.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{DiscoveryError, DiscoveryErrorKind, EndpointSink};
use crate::base::file_state::{Settling, observe, text};
use crate::config::{EndpointConfig, FILE_BYTES_MAX, Scheme, load_endpoints};

/// The time between two polls.
const LOOK: Duration = Duration::from_millis(500);

/// The longest part of a report of mistakes that goes to the log.
const REPORT_CHARS_MAX: usize = 2000;

/// Reads endpoints from a file, again when it changes.
#[derive(Clone, Debug)]
pub struct FileWatch {
    /// Which.
    pub path: PathBuf,
    /// For targets of Prometheus's `file_sd`, which have none.
    pub scheme: Scheme,
}

impl FileWatch {
    /// Runs until it is dropped, which it may be at any time.
    pub async fn run(self, mut outlet: EndpointSink) {
        let mut settling = Settling::default();
        let mut good = false;
        loop {
            let path = self.path.clone();
            // On a blocking thread: a network file system may hang.
            let seen = spawn_blocking(move || observe(&path)).await.unwrap_or(Err(io::ErrorKind::Other));
            if settling.has_changed(&seen) {
                let file = self.clone();
                let gone = |_| Err(DiscoveryError::new(DiscoveryErrorKind::Unreachable, "the reading was broken off"));
                good = match spawn_blocking(move || file.read()).await.unwrap_or_else(gone) {
                    Ok(endpoints) => outlet.list(endpoints),
                    Err(trouble) => {
                        outlet.failed(&trouble);
                        if trouble.reason == DiscoveryErrorKind::Unreachable {
                            // That may pass without a change of the file.
                            settling.forget();
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

    fn read(&self) -> Result<Vec<EndpointConfig>, DiscoveryError> {
        let name = self.path.display().to_string();
        let mut bytes = vec![];
        let opened = fs::File::open(&self.path);
        opened.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::NotFound => DiscoveryErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => DiscoveryErrorKind::Denied,
                _ => DiscoveryErrorKind::Unreachable,
            };
            DiscoveryError::new(reason, format!("{name}: {error}"))
        })?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(DiscoveryError::new(DiscoveryErrorKind::TooLarge, format!("{name} is larger than 1MiB")));
        }
        let text = text(bytes)
            .map_err(|error| DiscoveryError::new(DiscoveryErrorKind::Malformed, format!("{name} {error}")))?;
        load_endpoints(&name, &text, self.scheme).map_err(|errors| {
            let report: String = errors.to_string().chars().take(REPORT_CHARS_MAX).collect();
            DiscoveryError::new(DiscoveryErrorKind::Malformed, report)
        })
    }
}
