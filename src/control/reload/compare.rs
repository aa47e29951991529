//! What a reload has changed: for the log, and for whoever asked for it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::config::Config;
use crate::control::compile::Compiled;

/// The section of the configuration.
pub const ADMIN: &str = "admin";

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

    /// What is not as before.
    pub fn between(old: &Config, new: &Config, before: &Compiled, compiled: &Compiled) -> Changes {
        let listener = |name: &str| match (before.listener(name), compiled.listener(name)) {
            (Some(old), Some(new)) => old.is_same(new),
            _ => false,
        };
        let names = |compiled: &Compiled| -> Vec<String> {
            compiled.listeners.iter().map(|listener| listener.written.name.clone()).collect()
        };
        let (old_names, new_names) = (names(before), names(compiled));
        fn keys<T>(map: &BTreeMap<String, T>) -> impl Iterator<Item = &str> + Clone {
            map.keys().map(String::as_str)
        }
        let mut others = vec![];
        let order = |file: &Config| -> Vec<String> { file.routes.iter().map(|route| route.name.clone()).collect() };
        for (name, is_same) in [
            ("order of routes", order(old) == order(new)),
            (ADMIN, old.admin == new.admin && before.tokens == compiled.tokens),
            ("log", old.log == new.log),
            ("drain", old.drain == new.drain),
            ("watch", old.watch == new.watch),
            ("on_upgrade", old.on_upgrade == new.on_upgrade),
        ] {
            if !is_same {
                others.push(name);
            }
        }
        let mut warnings = vec![];
        if old.workers != new.workers {
            warnings.push("a change of `workers` takes effect when the process is started again".to_owned());
        }
        Changes {
            listeners: Changed::between(
                old_names.iter().map(String::as_str),
                new_names.iter().map(String::as_str),
                listener,
            ),
            routes: Changed::between(keys(&before.routes), keys(&compiled.routes), |name| {
                before.routes[name].written == compiled.routes[name].written
            }),
            upstreams: Changed::between(keys(&before.upstreams), keys(&compiled.upstreams), |name| {
                Arc::ptr_eq(&before.upstreams[name].upstream, &compiled.upstreams[name].upstream)
            }),
            others,
            sessions_closing: 0,
            workers_late: vec![],
            warnings,
        }
    }
}
