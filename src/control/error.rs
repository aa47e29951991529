//! Why a reload, an upgrade or another request is refused.

use std::time::Duration;

use crate::config::ConfigErrors;
use crate::handover::{SuccessionError, UpgradeError};
use crate::net::listener::BindError;

/// Why a request is refused. The configuration in force stays.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Sessions of an earlier process are still arriving.
    #[error("sessions of process {0} are still arriving: try again when they have")]
    Arriving(u32),
    /// The configuration is wrong.
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
    /// The configuration is not in a file.
    #[error("there is no file to read again: the configuration was given on the command line")]
    NoFile,
    /// The files could not be read in time.
    #[error("the file, or one that it names, could not be read in {0:?}: its file system hangs")]
    Unread(Duration),
    /// Too many requests wait already.
    #[error("too many such requests are waiting; try again")]
    Busy,
    /// The process is shutting down.
    #[error("the process is shutting down")]
    Ending,
    /// An upgrade is under way, and the next process relies on what it was given.
    #[error("an upgrade is under way")]
    Upgrading,
    /// Another process has taken over.
    #[error("process {0} has taken over, and this one ends with its last session")]
    Replaced(u32),
    /// The process does not know how to start the next one.
    #[error("this process cannot be upgraded: only `wsluice run` and `wsluice proxy` can")]
    NoSuccession,
    /// The upgrade has failed.
    #[error("{0}")]
    Upgrade(#[source] UpgradeError),
    /// This process could not take over from another one.
    #[error("{0}")]
    Succession(#[from] SuccessionError),
}
