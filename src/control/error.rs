//! Why a reload, an upgrade or another request to control is refused.

use std::time::Duration;

use crate::config::ConfigErrors;
use crate::handover::{SuccessionError, UpgradeError};
use crate::net::listener::BindError;

/// Why a configuration is not put in force. The one before stays.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// There is something wrong with it.
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    /// A listener cannot be opened.
    #[error("listener {listener}: {error}")]
    Bind {
        /// Its name.
        listener: String,
        /// Why.
        error: BindError,
    },
    /// It is not in a file.
    #[error("there is no file to read again: the configuration was given on the command line")]
    NoFile,
    /// It has not been read.
    #[error("the file, or one that it names, could not be read in {0:?}: its file system hangs")]
    Unread(Duration),
    /// Others wait already.
    #[error("too many wait for this already; try again")]
    Busy,
    /// The process is going.
    #[error("the process is shutting down")]
    Ending,
    /// The next process is on its way, and is to find everything as it was told.
    #[error("an upgrade is under way")]
    Upgrading,
    /// The next process has taken over.
    #[error("process {0} has taken over, and this one ends with its last session")]
    Replaced(u32),
    /// There is no next process to start.
    #[error("this process cannot be upgraded: only `wsluice run` and `wsluice proxy` can")]
    NoSuccession,
    /// The next process has not taken over.
    #[error("{0}")]
    Upgrade(#[source] UpgradeError),
    /// This process was to take over from another, and does not.
    #[error("{0}")]
    Succession(#[from] SuccessionError),
}
