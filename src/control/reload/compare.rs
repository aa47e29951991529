//! Compares a new configuration with the one in force: the result of a reload, for the log and the API.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::config::Config;
use crate::control::compile::Compiled;

/// The name of the admin section.
pub const ADMIN: &str = "admin";

/// What a reload has changed. All lists are empty if the file says what it said before.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Changes {
    /// Added, removed and changed listeners.
    pub listeners: Changed,
    /// Added, removed and changed routes.
    pub routes: Changed,
    /// Added, removed and changed upstreams.
    pub upstreams: Changed,
    /// Other sections that have changed.
    pub others: Vec<&'static str>,
    /// The number of sessions that close because their route has changed, by its `on_change`.
    pub sessions_closing: usize,
    /// Workers that hang and have not updated their listeners yet, by index. The configuration is in force for the others,
    /// and for these when they resume.
    pub workers_late: Vec<usize>,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// The most names of one list in a log line.
const NAMES_SHOWN_MAX: usize = 20;

/// Names of things that were added, changed or removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Changed {
    /// Added.
    pub added: Vec<String>,
    /// Changed.
    pub changed: Vec<String>,
    /// Removed.
    pub removed: Vec<String>,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let marked = [('+', &self.added), ('~', &self.changed), ('-', &self.removed)];
        // One log line.
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

    /// Compares by name. `is_same` compares those that are in both.
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
    /// Returns true if nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.routes.is_empty() && self.upstreams.is_empty() && self.others.is_empty()
    }

    /// Compares two configurations.
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
            ("shared", before.store.as_ref().map(Arc::as_ptr) == compiled.store.as_ref().map(Arc::as_ptr)),
        ] {
            if !is_same {
                others.push(name);
            }
        }
        let mut warnings = vec![];
        if old.workers != new.workers {
            warnings.push("a change of `workers` takes effect at the next start of the process".to_owned());
        }
        Changes {
            listeners: Changed::between(
                old_names.iter().map(String::as_str),
                new_names.iter().map(String::as_str),
                listener,
            ),
            routes: Changed::between(keys(&before.routes), keys(&compiled.routes), |name| {
                compiled.routes[name].is_same(&before.routes[name])
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
