//! Puts a configuration together from its main file and those that this one includes.
//!
//! `include` names files, or patterns of file names in a folder, relative to the folder of the main file. What they say is
//! appended to the sections of the main file, in the order of `include` and then of the names. An included file has
//! sections of elements only; what holds for the whole process, and `include` itself, stands in the main file, so
//! nobody has to look for it and nothing goes round in circles.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::base::file_state;
use crate::config::read::FILE_BYTES_MAX;
use crate::config::read::key::KeyPath;
use crate::config::read::locate::Aim;
use crate::config::read::outline::Position;
use crate::config::read::parts::{FileNumber, WrittenAt};
use crate::config::read::report::{Finding, Note, Severity, Source};
use crate::config::read::suggest::did_you_mean;
use crate::config::read::survey::{Aliases, Used};
use crate::config::read::tree::{self, YamlNode};
use crate::config::value::BadValue;

/// The most files that are included: as many as listeners.
const FILES_MAX: usize = 1000;

/// The most entries of a folder that are looked at.
const ENTRIES_MAX: usize = 10_000;

/// Sections that an included file may have, and whether they are lists.
const SECTIONS: [(&str, bool); 3] = [("listeners", true), ("routes", true), ("upstreams", false)];

/// Keys at the top of a file that begin so are places for anchors, and mean nothing.
const ANCHORS_PREFIX: &str = "x-";

/// One element of `include`: a file, or a pattern of names in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncludePattern {
    folder: PathBuf,
    name: String,
}

/// The files that a configuration includes. Which there are may change without a change of the main file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncludedFiles {
    folder: PathBuf,
    patterns: Vec<IncludePattern>,
}

impl IncludePattern {
    fn is_plain(&self) -> bool {
        !self.name.contains(['*', '?'])
    }

    /// Returns the files that there are now, by name; a plain name also if there is none. `folder` is that of the main
    /// file.
    fn files(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let folder = folder.join(&self.folder);
        if self.is_plain() {
            return Ok(vec![folder.join(&self.name)]);
        }
        let looked_in = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
        let mut names = BTreeSet::new();
        for (count, entry) in std::fs::read_dir(looked_in)?.enumerate() {
            if count == ENTRIES_MAX {
                return Err(io::Error::other(format!("the folder has more than {ENTRIES_MAX} entries")));
            }
            // A name that is no text matches nothing, and neither does what is hidden, unless the pattern is.
            if let Ok(name) = entry?.file_name().into_string()
                && name.starts_with('.') == self.name.starts_with('.')
                && matches(&self.name, &name)
                && !folder.join(&name).is_dir()
            {
                names.insert(name);
            }
        }
        Ok(names.into_iter().map(|name| folder.join(name)).collect())
    }
}

/// Returns true if `*` (any characters) and `?` (any one) in `pattern` can stand for what `name` has there.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut read) = (0, 0);
    // The last `*`, and how much of the name was read when it was met.
    let mut star: Option<(usize, usize)> = None;
    while read < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(one) if *one == '?' || *one == name[read] => (at, read) = (at + 1, read + 1),
            _ => {
                let Some((before, from)) = star else { return false };
                star = Some((before, from + 1));
                (at, read) = (before + 1, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|one| *one == '*')
}

impl FromStr for IncludePattern {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<IncludePattern, BadValue> {
        let bad = |problem: &str| {
            let help = "write a file such as `chat.yaml`, or a pattern of names such as `conf.d/*.yaml`";
            Err(BadValue::new(format!("`{text}` {problem}"), help))
        };
        let (folder, name) = match text.rsplit_once('/') {
            Some(("", name)) => ("/", name),
            Some((folder, name)) => (folder, name),
            None => ("", text),
        };
        if text.contains("${") {
            return bad("names a variable, but files are the same in every environment");
        }
        if matches!(name, "" | "." | "..") || text.contains('\0') {
            return bad("is not a file");
        }
        if folder.contains(['*', '?']) {
            return bad("has a wildcard in the name of a folder");
        }
        Ok(IncludePattern { folder: folder.into(), name: name.to_owned() })
    }
}

impl fmt::Display for IncludePattern {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}", self.folder.join(&self.name).display())
    }
}

impl IncludedFiles {
    /// Reads the main file at `path` for what it includes. Returns `None` if it is no configuration as it is now.
    pub fn of_file(path: &Path) -> Option<IncludedFiles> {
        let text = file_state::text(file_state::read(path, FILE_BYTES_MAX).ok()?).ok()?;
        let tree = tree::parse(&text, Aliases::Allowed).ok()?.tree;
        let patterns = patterns(&tree).into_iter().filter_map(|(_, pattern)| pattern.ok()).collect();
        Some(IncludedFiles { folder: folder_of(path), patterns })
    }

    /// Returns the files that there are now. A folder that cannot be read has none.
    pub fn list(&self) -> Vec<PathBuf> {
        self.patterns
            .iter()
            .flat_map(|pattern| pattern.files(&self.folder).unwrap_or_default())
            .take(FILES_MAX)
            .collect()
    }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}

/// Returns the elements of `include` that are texts, with their positions.
fn patterns(tree: &YamlNode) -> Vec<(usize, Result<IncludePattern, BadValue>)> {
    let Some(YamlNode::List(nodes)) = tree.at(&KeyPath::root().key("include")) else { return vec![] };
    let texts = nodes.iter().enumerate().filter_map(|(index, node)| match node {
        YamlNode::Text { text, .. } => Some((index, text.parse())),
        _ => None,
    });
    texts.collect()
}

/// Removes the places for anchors from the top of a file.
pub(super) fn remove_anchors(tree: &mut YamlNode) {
    if let YamlNode::Map(entries) = tree {
        entries.retain(|(key, _)| !key.starts_with(ANCHORS_PREFIX));
    }
}

/// What an included file adds to.
pub(super) struct Assembly<'a> {
    pub(super) tree: &'a mut YamlNode,
    pub(super) source: &'a mut Source,
    pub(super) notes: Vec<Note>,
    /// Files that cannot be read at all, or are no YAML.
    pub(super) unread: Vec<Finding>,
    /// What all texts up to now take.
    pub(super) used: &'a mut Used,
}

impl Assembly<'_> {
    /// Says that nothing can be included here, if something is.
    pub(super) fn refuse(&mut self, message: &str, help: &str) {
        let path = KeyPath::root().key("include");
        // An empty list includes nothing.
        if self.tree.at(&path).is_some_and(|node| *node != YamlNode::List(vec![])) {
            self.say(Severity::Error, &path, None, Aim::Key, message.to_owned(), Some(help.to_owned()));
        }
    }

    /// Adds what the main file at `path` includes.
    pub(super) fn include(&mut self, path: &Path) {
        let folder = folder_of(path);
        let identity = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
        // Each is read once, and the main file is not one of them.
        let mut read: HashSet<(u64, u64)> = identity(path).into_iter().collect();
        let mut bytes_left = FILE_BYTES_MAX.saturating_sub(self.source.bytes() as u64);
        for (index, pattern) in patterns(self.tree) {
            let at = KeyPath::root().key("include").index(index);
            // One that is none is reported when the whole is read.
            let Ok(pattern) = pattern else { continue };
            let files = match pattern.files(&folder) {
                Ok(files) => files,
                Err(error) => {
                    self.error(&at, format!("the folder of `{pattern}` cannot be read: {error}"));
                    continue;
                }
            };
            if files.is_empty() {
                let message = format!("there is no file `{pattern}` in the folder of this one");
                let message =
                    if pattern.folder.is_absolute() { format!("there is no file `{pattern}`") } else { message };
                self.say(Severity::Warning, &at, None, Aim::Value, message, None);
            }
            for file in files {
                if let Some(identity) = identity(&file)
                    && !read.insert(identity)
                {
                    if pattern.is_plain() {
                        self.error(&at, format!("`{pattern}` is this file, or included already"));
                    }
                    continue;
                }
                if self.source.included().len() == FILES_MAX {
                    return self.error(&at, format!("there are more than {FILES_MAX} files"));
                }
                let name = file.display().to_string();
                let text = match read_text(&file, bytes_left) {
                    Ok(text) => text,
                    Err(problem) => {
                        self.error(&at, format!("{name} {problem}"));
                        continue;
                    }
                };
                bytes_left = bytes_left.saturating_sub(text.len() as u64);
                self.add(&name, &text);
            }
        }
    }

    fn say(
        &mut self,
        severity: Severity,
        path: &KeyPath,
        file: Option<FileNumber>,
        aim: Aim,
        message: String,
        help: Option<String>,
    ) {
        self.notes.push(Note { severity, path: path.clone(), file, aim: Some(aim), message, help });
    }

    fn error(&mut self, at: &KeyPath, message: String) {
        self.say(Severity::Error, at, None, Aim::Value, message, None);
    }

    /// Adds the text of one file.
    fn add(&mut self, name: &str, text: &str) {
        let file = self.source.add(name, text);
        let parsed = match tree::parse_within(text, Aliases::Allowed, self.used) {
            Ok(parsed) => parsed,
            Err(unparsed) => return self.unread(file, unparsed.at, unparsed.problem, unparsed.help),
        };
        let mut tree = parsed.tree;
        let second = |path: &KeyPath| Note {
            severity: Severity::Error,
            path: path.clone(),
            file: Some(file),
            aim: Some(Aim::SecondKey),
            message: "the key is here for the second time".to_owned(),
            help: Some("keep one of the two".to_owned()),
        };
        self.notes.extend(parsed.duplicates.iter().map(second));
        remove_anchors(&mut tree);
        match tree {
            // All of it may be commented out.
            YamlNode::Null => {}
            YamlNode::Map(entries) => entries.into_iter().for_each(|(key, node)| self.section(file, &key, node)),
            other => {
                let message = format!("the file is {}, not a map of keys", other.kind());
                let help = "it may have `listeners`, `routes` and `upstreams`".to_owned();
                self.unread(file, Some((1, 1)), message, Some(help));
            }
        }
    }

    fn unread(&mut self, file: FileNumber, at: Option<Position>, problem: String, help: Option<String>) {
        let written = WrittenAt { file, path: KeyPath::root() };
        self.unread.push(self.source.finding_in(&written, Severity::Error, at, problem, help));
    }

    /// Adds one section of a file.
    fn section(&mut self, file: FileNumber, key: &str, node: YamlNode) {
        let path = KeyPath::root().key(key);
        let mut say = |aim, message: String, help: Option<String>| {
            let path = path.clone();
            self.notes.push(Note { severity: Severity::Error, path, file: Some(file), aim: Some(aim), message, help });
        };
        let Some((section, is_list)) = SECTIONS.into_iter().find(|(section, _)| *section == key) else {
            let main = self.source.name();
            match key {
                "version" if node == YamlNode::Unsigned(1) => {}
                "version" => {
                    let message = "this version of wsluice reads configurations of version 1 only".to_owned();
                    say(Aim::Value, message, Some("write `version: 1`".to_owned()));
                }
                "include" => {
                    let help = format!("name the files in {main}");
                    say(Aim::Key, "an included file includes no others".to_owned(), Some(help));
                }
                key if MAIN_KEYS.contains(&key) => {
                    let help = format!("write it in {main}");
                    say(Aim::Key, "this holds for the whole process, not for one file".to_owned(), Some(help));
                }
                key => {
                    let known = SECTIONS.map(|(section, _)| section);
                    let help = did_you_mean(key, &known)
                        .unwrap_or_else(|| "known here: `listeners`, `routes`, `upstreams`".to_owned());
                    say(Aim::Key, "unknown key".to_owned(), Some(help));
                }
            }
            return;
        };
        match (node, is_list) {
            (YamlNode::Null, _) => {
                let help = "write one, or remove the key".to_owned();
                say(Aim::Key, "there is no value".to_owned(), Some(help));
            }
            (YamlNode::List(nodes), true) => self.append(file, section, nodes),
            (YamlNode::Map(entries), false) => self.join(file, section, entries),
            (other, true) => say(Aim::Value, format!("expected a list, found {}", other.kind()), None),
            (other, false) => say(Aim::Value, format!("expected a map, found {}", other.kind()), None),
        }
    }

    /// Returns the section of the whole, which begins as `empty`.
    fn whole(&mut self, section: &'static str, empty: YamlNode) -> Option<&mut YamlNode> {
        let path = KeyPath::root().key(section);
        if self.tree.at(&path).is_none()
            && let YamlNode::Map(entries) = &mut *self.tree
        {
            entries.push((section.to_owned(), empty));
        }
        self.tree.at_mut(path.steps())
    }

    fn append(&mut self, file: FileNumber, section: &'static str, nodes: Vec<YamlNode>) {
        // What is no list in the main file is reported there.
        let Some(YamlNode::List(all)) = self.whole(section, YamlNode::List(vec![])) else { return };
        let (before, more) = (all.len(), !nodes.is_empty());
        all.extend(nodes);
        if more {
            self.source.parts.list(section, file, before);
        }
    }

    fn join(&mut self, file: FileNumber, section: &'static str, entries: Vec<(String, YamlNode)>) {
        let Some(YamlNode::Map(all)) = self.whole(section, YamlNode::Map(vec![])) else { return };
        let there: HashSet<String> = all.iter().map(|(key, _)| key.clone()).collect();
        let (twice, new): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| there.contains(key));
        let keys: Vec<String> = new.iter().map(|(key, _)| key.clone()).collect();
        all.extend(new);
        keys.iter().for_each(|key| self.source.parts.entry(section, file, key));
        for (key, _) in twice {
            let path = KeyPath::root().key(section).key(&key);
            let before = self.source.name_of(self.source.parts.file_of(section, &key));
            let message = format!("`{key}` is already the name of an upstream in {before}");
            let help = Some("give each its own name".to_owned());
            self.say(Severity::Error, &path, Some(file), Aim::Key, message, help);
        }
    }
}

/// Keys of the main file only.
const MAIN_KEYS: [&str; 8] = ["workers", "zone", "defaults", "admin", "log", "drain", "watch", "on_upgrade"];

fn read_text(path: &Path, bytes_left: u64) -> Result<String, String> {
    let bytes = file_state::read(path, bytes_left).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => "makes all files together larger than 1MiB".to_owned(),
        _ => format!("cannot be read: {error}"),
    })?;
    file_state::text(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_any_characters() {
        for (pattern, yes, no) in [
            ("*.yaml", &["a.yaml", "b-c.yaml", ".yaml"][..], &["a.yml", "a.yaml~", "yaml"][..]),
            ("*", &["", "a"], &[]),
            ("a?c*", &["abc", "aüc.d"], &["ac", "abd"]),
            ("*a*b*", &["ab", "xaxbx", "aab"], &["ba", "a"]),
            ("a.yaml", &["a.yaml"], &["aayaml"]),
        ] {
            for name in yes {
                assert!(matches(pattern, name), "{pattern} {name}");
            }
            for name in no {
                assert!(!matches(pattern, name), "{pattern} {name}");
            }
        }
        // No pattern takes long.
        assert!(!matches(&"*a".repeat(100), &"a".repeat(99)));
    }

    #[test]
    fn a_pattern_names_files_of_one_folder() {
        for text in ["a.yaml", "conf.d/*.yaml", "/etc/wsluice/conf.d/*.yaml", "../a.yaml", "/a"] {
            assert_eq!(text.parse::<IncludePattern>().map(|pattern| pattern.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "conf.d/", "*/a.yaml", "**/*.yaml", "${DIR}/a.yaml", ".."] {
            assert!(text.parse::<IncludePattern>().is_err(), "{text}");
        }
    }
}
