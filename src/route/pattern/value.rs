//! Conditions on the value of a header or query parameter.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{PatternError, as_string};

/// The longest regex, in bytes: parsing one takes some thousand times its length in memory.
pub const SOURCE_BYTES_MAX: usize = 1000;

/// The largest compiled regex, in bytes; the regex crate's own default.
const COMPILED_BYTES_MAX: usize = 10 << 20;

/// Memory that the smallest compiled regex takes, in bytes.
const COMPILED_BYTES_MIN: usize = 8 << 10;

/// A regex that must match the whole text, as if written between `^` and `$`.
///
/// Parsing checks its syntax. [`WholeRegex::compile`] or its first use compiles it, once for all clones. One line of a
/// file can make a regex of ten megabytes, so code that reads many of them bounds their sum.
#[derive(Clone, Debug)]
pub struct WholeRegex {
    source: String,
    compiled: Arc<OnceLock<Option<regex::Regex>>>,
}

impl WholeRegex {
    /// Returns the regex as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns true if all of `text` matches. A regex that is too large matches nothing.
    pub fn matches(&self, text: &str) -> bool {
        self.compiled().is_some_and(|regex| regex.is_match(text))
    }

    /// Returns what the groups match, if all of `text` matches.
    pub fn captures<'t>(&self, text: &'t str) -> Option<regex::Captures<'t>> {
        self.compiled()?.captures(text)
    }

    /// Returns the names of the groups by number; the first is the whole match. Empty if the regex is too large.
    pub fn groups(&self) -> Vec<Option<String>> {
        let names = self.compiled().map(regex::Regex::capture_names);
        names.into_iter().flatten().map(|name| name.map(str::to_owned)).collect()
    }

    fn compiled(&self) -> Option<&regex::Regex> {
        self.compiled.get_or_init(|| build(&self.source, COMPILED_BYTES_MAX).ok()).as_ref()
    }

    /// Compiles the regex in at most `room` bytes, and subtracts what it takes.
    ///
    /// # Errors
    /// Fails if the regex needs more. It then matches nothing.
    pub fn compile(&self, room: &mut usize) -> Result<(), PatternError> {
        if self.compiled.get().is_some() {
            return Ok(());
        }
        let compiled = within(room, |bytes_max| build(&self.source, bytes_max));
        let is_compiled = compiled.is_some();
        let _ = self.compiled.set(compiled);
        if is_compiled { Ok(()) } else { Err(PatternError::RegexLarge) }
    }
}

/// Builds a regex in at most `room` bytes, and subtracts what it takes, or a little more.
pub fn within<R>(room: &mut usize, build: impl Fn(usize) -> Result<R, regex::Error>) -> Option<R> {
    let mut bytes = COMPILED_BYTES_MIN;
    loop {
        let bound = bytes.min(COMPILED_BYTES_MAX);
        if bound > *room {
            return None;
        }
        match build(bound) {
            Ok(regex) => {
                *room -= bound;
                return Some(regex);
            }
            Err(regex::Error::CompiledTooBig(_)) if bound < COMPILED_BYTES_MAX => bytes *= 4,
            Err(_) => return None,
        }
    }
}

fn build(source: &str, bytes_max: usize) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(&format!(r"\A(?:{source})\z")).size_limit(bytes_max).build()
}

impl FromStr for WholeRegex {
    type Err = PatternError;

    fn from_str(source: &str) -> Result<WholeRegex, PatternError> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(PatternError::RegexLong(source.len(), SOURCE_BYTES_MAX));
        }
        // Checks the source alone: the error quotes what the user wrote, and `a)|(b` cannot break out of the group. A
        // limit of 0 parses without compiling.
        match regex::RegexBuilder::new(source).size_limit(0).build() {
            Ok(_) | Err(regex::Error::CompiledTooBig(_)) => {
                Ok(WholeRegex { source: source.to_owned(), compiled: Arc::default() })
            }
            Err(error) => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                Err(PatternError::Regex(source.to_owned(), last.strip_prefix("error: ").unwrap_or(last).to_owned()))
            }
        }
    }
}

impl PartialEq for WholeRegex {
    fn eq(&self, other: &WholeRegex) -> bool {
        self.source == other.source
    }
}

impl Eq for WholeRegex {}

impl fmt::Display for WholeRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

as_string!(WholeRegex, "Regex", {
    "type": "string",
    "format": "regex",
    "description": "A regular expression (syntax of Rust's regex crate) that must match the whole text."
});
/// A condition on a header or query parameter. If the name occurs several times, one matching value is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValuePattern {
    /// This value.
    Exact(String),
    /// A regex that matches the whole value.
    Regex(WholeRegex),
    /// Whether the name is present, with any value.
    Present(bool),
}

impl ValuePattern {
    /// Judges all values of the name: none if it is absent, `None` for a value that is not text.
    pub fn matches<V: AsRef<str>>(&self, mut values: impl Iterator<Item = Option<V>>) -> bool {
        match self {
            ValuePattern::Exact(exact) => values.flatten().any(|value| value.as_ref() == exact),
            ValuePattern::Regex(regex) => values.flatten().any(|value| regex.matches(value.as_ref())),
            ValuePattern::Present(present) => values.next().is_some() == *present,
        }
    }

    /// Returns true if this surely matches everything that `other` matches.
    pub fn covers(&self, other: &ValuePattern) -> bool {
        match (self, other) {
            (ValuePattern::Present(true), ValuePattern::Exact(_) | ValuePattern::Regex(_)) => true,
            (ValuePattern::Regex(regex), ValuePattern::Exact(exact)) => regex.matches(exact),
            _ => self == other,
        }
    }
}

impl Serialize for ValuePattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ValuePattern::Exact(exact) => serializer.serialize_str(exact),
            ValuePattern::Regex(regex) => serializer.collect_map([("regex", regex)]),
            ValuePattern::Present(present) => serializer.collect_map([("present", present)]),
        }
    }
}

impl<'de> Deserialize<'de> for ValuePattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ValuePattern, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            regex: Option<WholeRegex>,
            present: Option<bool>,
        }

        struct TextOrMap;

        impl<'de> Visitor<'de> for TextOrMap {
            type Value = ValuePattern;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string (numbers and booleans in quotes), `{ regex: ... }` or `{ present: true }`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ValuePattern, E> {
                Ok(ValuePattern::Exact(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ValuePattern, A::Error> {
                match Written::deserialize(MapAccessDeserializer::new(map))? {
                    Written { regex: Some(regex), present: None } => Ok(ValuePattern::Regex(regex)),
                    Written { regex: None, present: Some(present) } => Ok(ValuePattern::Present(present)),
                    _ => Err(de::Error::custom(
                        "a value is a string, `{ regex: ... }` or `{ present: true }`, and only one of them",
                    )),
                }
            }
        }

        deserializer.deserialize_any(TextOrMap)
    }
}

impl JsonSchema for ValuePattern {
    fn schema_name() -> Cow<'static, str> {
        "ValuePattern".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let regex = generator.subschema_for::<WholeRegex>();
        json_schema!({
            "description": "A string for this value, `{ regex: ... }` for the whole value, or `{ present: true }`.",
            "oneOf": [
                { "type": "string" },
                { "type": "object", "properties": { "regex": regex }, "required": ["regex"],
                  "additionalProperties": false },
                { "type": "object", "properties": { "present": { "type": "boolean" } }, "required": ["present"],
                  "additionalProperties": false },
            ]
        })
    }
}
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::super::tests::from_yaml;
    use super::*;

    #[test]
    fn a_regex_takes_no_more_room_than_there_is() {
        let regex = |source: &str| source.parse::<WholeRegex>();
        let mut room = 64 << 10;
        let small = regex("/room/[0-9]+").unwrap();
        small.compile(&mut room).unwrap();
        assert_eq!(room, (64 << 10) - COMPILED_BYTES_MIN);
        // Once compiled, its clones are compiled too.
        small.clone().compile(&mut room).unwrap();
        assert_eq!(room, (64 << 10) - COMPILED_BYTES_MIN);
        let large = regex(r"\w{1000}").unwrap();
        assert_eq!(large.compile(&mut room), Err(PatternError::RegexLarge));
        assert!(!large.matches(&"a".repeat(1000)) && small.matches("/room/7"));
        assert_eq!(room, (64 << 10) - COMPILED_BYTES_MIN);
        assert_eq!(regex(&"a".repeat(1001)), Err(PatternError::RegexLong(1001, 1000)));
    }

    #[test]
    fn values_are_text_a_regex_or_presence() {
        let value = |yaml: &str| from_yaml::<ValuePattern>(yaml);
        let matches = |yaml: &str, values: &[&str]| value(yaml).unwrap().matches(values.iter().map(Some));
        assert!(matches("acme", &["x", "acme"]));
        assert!(!matches("acme", &["Acme", "acme2"]));
        assert!(matches("{ regex: '[0-9]+' }", &["12"]));
        assert!(!matches("{ regex: '[0-9]+' }", &["12a", ""]));
        assert!(matches("{ present: true }", &[""]));
        assert!(!matches("{ present: true }", &[]));
        assert!(matches("{ present: false }", &[]));
        for yaml in ["acme", "'12'", "regex: a+", "present: false"] {
            assert_eq!(serde_yaml::to_string(&value(yaml).unwrap()).unwrap().trim(), yaml);
        }
        for (yaml, message) in [
            ("1", "invalid type: integer `1`, expected a string (numbers and booleans in quotes), `{ regex: ... }` or"),
            ("{}", "a value is a string, `{ regex: ... }` or `{ present: true }`, and only one of them"),
            ("{ exact: a }", "unknown field `exact`, expected `regex` or `present`"),
        ] {
            assert!(value(yaml).unwrap_err().starts_with(message), "{yaml}: {}", value(yaml).unwrap_err());
        }
    }
}
