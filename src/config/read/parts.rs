//! Which part of a configuration stands where: in which file, and under `defaults` or for itself.
//!
//! What is read is one tree, put together of the files and of the defaults. A path in it is turned here into the paths
//! at which its value may be written; `report` looks which of them there is.

use std::collections::HashMap;

use crate::config::read::key::{KeyPath, KeyStep};

/// The number of a file; the main one is 0.
pub(in crate::config) type FileNumber = usize;

/// Which elements of the sections came from which file.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct SourceParts {
    /// Of sections that are lists: for each file with elements its number and the number of elements before.
    lists: HashMap<&'static str, Vec<(FileNumber, usize)>>,
    /// Of sections that are maps: keys that do not stand in the main file.
    entries: HashMap<&'static str, HashMap<String, FileNumber>>,
    /// Upstreams that a route names by the URL of their server: the index of the route.
    servers: HashMap<String, usize>,
}

/// Where a value may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct WrittenAt {
    pub(in crate::config) file: FileNumber,
    pub(in crate::config) path: KeyPath,
}

/// Sections whose elements have defaults, and the key of these under `defaults`.
const WITH_DEFAULTS: [(&str, &str); 2] = [("routes", "route"), ("upstreams", "upstream")];

impl SourceParts {
    /// Notes that the elements of the list `section` from number `before` on come from `file`.
    pub(in crate::config) fn list(&mut self, section: &'static str, file: FileNumber, before: usize) {
        self.lists.entry(section).or_default().push((file, before));
    }

    /// Notes that the entry `key` of the map `section` comes from `file`.
    pub(in crate::config) fn entry(&mut self, section: &'static str, file: FileNumber, key: &str) {
        self.entries.entry(section).or_default().insert(key.to_owned(), file);
    }

    /// Notes that the upstream `name` stands in the route with this index.
    pub(in crate::config) fn server(&mut self, name: String, route: usize) {
        self.servers.insert(name, route);
    }

    /// Returns the file that has this entry of the map `section`; the main one if none is noted.
    pub(in crate::config) fn file_of(&self, section: &str, key: &str) -> FileNumber {
        self.entries.get(section).and_then(|entries| entries.get(key)).copied().unwrap_or(0)
    }

    /// Returns the file, and the path in it, of what stands for itself.
    pub(in crate::config) fn own(&self, path: &KeyPath) -> WrittenAt {
        match path.steps() {
            [KeyStep::Key(section), KeyStep::Index(index), rest @ ..] => {
                let files = self.lists.get(section.as_str()).map_or(&[][..], Vec::as_slice);
                let file = files.iter().rev().find(|(_, before)| before <= index);
                let (file, before) = file.copied().unwrap_or_default();
                let head = [KeyStep::Key(section.clone()), KeyStep::Index(index - before)];
                WrittenAt { file, path: KeyPath::from_steps(head.into_iter().chain(rest.iter().cloned()).collect()) }
            }
            [KeyStep::Key(section), KeyStep::Key(key), ..]
                if section == "upstreams" && self.servers.contains_key(key) =>
            {
                let route = self.servers.get(key).copied().unwrap_or_default();
                self.own(&KeyPath::root().key("routes").index(route).key("upstream"))
            }
            [KeyStep::Key(section), KeyStep::Key(key), ..] => {
                WrittenAt { file: self.file_of(section, key), path: path.clone() }
            }
            _ => WrittenAt { file: 0, path: path.clone() },
        }
    }

    /// Returns the path of the default of a value, if it is one that may have one.
    pub(in crate::config) fn default_of(&self, path: &KeyPath) -> Option<WrittenAt> {
        let [KeyStep::Key(section), _, rest @ ..] = path.steps() else { return None };
        let (_, key) = WITH_DEFAULTS.into_iter().find(|(name, _)| name == section)?;
        let head = KeyPath::root().key("defaults").key(key);
        let path = rest.iter().fold(head, |path, step| path.then(step.clone()));
        (!rest.is_empty()).then_some(WrittenAt { file: 0, path })
    }
}
