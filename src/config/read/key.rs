//! Paths to values in the file: `upstreams.chat.endpoints[1].url`.

use std::fmt;

/// One step down.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::config) enum KeyStep {
    /// Into a map, by key.
    Key(String),
    /// Into a list, by position as written.
    Index(usize),
}

/// The path from the top of the file to a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyPath(Vec<KeyStep>);

impl KeyPath {
    /// Returns the path of the whole file.
    pub fn root() -> KeyPath {
        KeyPath::default()
    }

    /// Returns the path of `key` in the map at this path.
    pub fn key(&self, key: &str) -> KeyPath {
        self.then(KeyStep::Key(key.to_owned()))
    }

    /// Returns the path of element `index` (from 0) of the list at this path.
    pub fn index(&self, index: usize) -> KeyPath {
        self.then(KeyStep::Index(index))
    }

    pub(in crate::config) fn then(&self, step: KeyStep) -> KeyPath {
        let mut path = self.clone();
        path.0.push(step);
        path
    }

    pub(in crate::config) fn steps(&self) -> &[KeyStep] {
        &self.0
    }

    pub(in crate::config) fn from_steps(steps: Vec<KeyStep>) -> KeyPath {
        KeyPath(steps)
    }

    pub(in crate::config) fn parent(&self) -> Option<KeyPath> {
        let (_, parent) = self.0.split_last()?;
        Some(KeyPath(parent.to_vec()))
    }

    /// Returns true if one path leads to the other, or they are the same.
    pub(in crate::config) fn on_one_line_with(&self, other: &KeyPath) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a == b)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        for (depth, step) in self.0.iter().enumerate() {
            let plain =
                |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
            match step {
                KeyStep::Index(index) => write!(out, "[{index}]")?,
                KeyStep::Key(key) => {
                    out.write_str(if depth == 0 { "" } else { "." })?;
                    match plain(key) {
                        true => out.write_str(key)?,
                        false => write!(out, "{key:?}")?,
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_prints_as_one_would_say_it() {
        let path = KeyPath::root().key("upstreams").key("chat.eu").key("endpoints").index(1);
        assert_eq!(path.to_string(), "upstreams.\"chat.eu\".endpoints[1]");
        assert_eq!(KeyPath::root().to_string(), "");
    }
}
