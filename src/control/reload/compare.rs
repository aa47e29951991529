//! What a reload has changed, or why it was refused: for the log, and for whoever asked for it.

use std::collections::HashSet;
use std::fmt;
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

/// What a reload has changed. All empty: the file says what it said before.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Changes {
    /// Listeners that were not there, that are not there any more, and those with other settings.
    pub listeners: Changed,
    /// Routes likewise.
    pub routes: Changed,
    /// Upstreams likewise.
    pub upstreams: Changed,
    /// Other sections that are not as before.
    pub others: Vec<&'static str>,
    /// Sessions that were told to go since their route is not as before, by its `on_change`.
    pub sessions_closing: usize,
    /// Workers that hang, by their numbers, and have not done yet what listeners need of them: the configuration is in force
    /// for all others, and for them when they go on.
    pub workers_late: Vec<usize>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// How many names of a kind are written in a line of the log.
const NAMES_SHOWN_MAX: usize = 20;

/// Names, by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Changed {
    /// New.
    pub added: Vec<String>,
    /// Not as before.
    pub changed: Vec<String>,
    /// Gone.
    pub removed: Vec<String>,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let marked = [('+', &self.added), ('~', &self.changed), ('-', &self.removed)];
        // One line of the log.
        let shown = |(mark, names): &(char, &Vec<String>)| {
            let words = names.iter().take(NAMES_SHOWN_MAX).map(|name| format!("{mark}{name}"));
            let more = names.len().saturating_sub(NAMES_SHOWN_MAX);
            words.chain((more > 0).then(|| format!("{mark}{more} more"))).collect::<Vec<_>>()
        };
        f.write_str(&marked.iter().flat_map(shown).collect::<Vec<_>>().join(" "))
    }
}

impl Changed {
    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    /// Compares by name; `is_same` of those that are in both.
    pub fn between<'a>(
        before: impl Iterator<Item = &'a str> + Clone,
        after: impl Iterator<Item = &'a str> + Clone,
        is_same: impl Fn(&str) -> bool,
    ) -> Changed {
        let (old, new): (HashSet<&str>, HashSet<&str>) = (before.clone().collect(), after.clone().collect());
        let owned = |names: &mut dyn Iterator<Item = &'a str>| names.map(str::to_owned).collect();
        Changed {
            added: owned(&mut after.clone().filter(|name| !old.contains(name))),
            changed: owned(&mut after.filter(|name| old.contains(name) && !is_same(name))),
            removed: owned(&mut before.filter(|name| !new.contains(name))),
        }
    }
}

impl Changes {
    /// Whether the configuration is as it was.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.routes.is_empty() && self.upstreams.is_empty() && self.others.is_empty()
    }
}
