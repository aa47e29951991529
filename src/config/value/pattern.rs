//! The regex that the answer to a health check must match.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use crate::config::value::{BadValue, Scalar, as_scalar};
use crate::route::pattern::{SOURCE_BYTES_MAX, within};

/// A regex that matches somewhere in bytes. Two are equal if their texts are.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: String,
    compiled: Arc<OnceLock<Option<regex::bytes::Regex>>>,
}

impl Pattern {
    /// Compiles it in at most `room` bytes, and takes what it needs off that. Returns false if there is not enough.
    pub(in crate::config) fn compile(&self, room: &mut usize) -> bool {
        let build = |bytes| regex::bytes::RegexBuilder::new(&self.source).size_limit(bytes).build();
        self.compiled.get_or_init(|| within(room, build)).is_some()
    }

    /// Returns it compiled; `None` if it is too large.
    pub fn regex(&self) -> Option<regex::bytes::Regex> {
        self.compiled.get_or_init(|| regex::bytes::Regex::new(&self.source).ok()).clone()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Scalar for Pattern {
    const EXPECTED: &'static str = "a regex such as `^ok`";
}

impl FromStr for Pattern {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Pattern, BadValue> {
        if text.len() > SOURCE_BYTES_MAX {
            let problem = format!("a regex has at most {SOURCE_BYTES_MAX} characters, this one {}", text.len());
            return Err(BadValue::new(problem, "look for less"));
        }
        // With no room at all it is parsed and not compiled.
        match regex::bytes::RegexBuilder::new(text).size_limit(0).build() {
            Ok(_) | Err(regex::Error::CompiledTooBig(_)) => {
                Ok(Pattern { source: text.to_owned(), compiled: Arc::default() })
            }
            Err(error) => {
                let error = error.to_string();
                let last = error.lines().last().unwrap_or_default();
                let help = format!("fix it: {}", last.strip_prefix("error: ").unwrap_or(last));
                Err(BadValue::new(format!("`{text}` is not a regex"), help))
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.source)
    }
}

as_scalar!(Pattern, "SearchRegex", { "description": "A regex that matches anywhere.", "type": "string", "format": "regex" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regex_that_is_none_says_why() {
        assert_eq!("a(".parse::<Pattern>().map_err(|bad| bad.help), Err("fix it: unclosed group".to_owned()));
    }
}
