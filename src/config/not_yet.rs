//! Keys and words that the format has room for and this version does not serve.
//!
//! They are not in the types, so nothing above can forget that they do nothing; they stand here so that a file written
//! for a later version is told so, and not that it is misspelt. Whoever builds one of them takes its line out.

use super::key::{KeyPath, Step};

/// Where (a `*` is any key or index), and what.
const NOT_YET: &[(&[&str], &[&str])] = &[(&["upstreams", "*"], &["on_down"])];

/// Whether `word` at `path` (a key in that map, or the value there) belongs to a later version.
pub(super) fn is_not_yet(path: &KeyPath, word: &str) -> bool {
    let fits = |pattern: &[&str]| {
        let step =
            |(pattern, step): (&&str, &Step)| *pattern == "*" || matches!(step, Step::Key(key) if key == pattern);
        pattern.len() == path.steps().len() && pattern.iter().zip(path.steps()).all(step)
    };
    NOT_YET.iter().any(|(pattern, words)| fits(pattern) && words.contains(&word))
}
