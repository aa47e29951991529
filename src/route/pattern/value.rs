//! What the value of a header or of a parameter of the query must be.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{PatternError, as_string, chain};

/// A regex that must match the whole text, as if it stood between `^` and `$`.
#[derive(Clone, Debug)]
pub struct WholeRegex {
    source: String,
    compiled: regex::Regex,
}

impl WholeRegex {
    /// Whether all of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }
}

impl FromStr for WholeRegex {
    type Err = PatternError;

    fn from_str(source: &str) -> Result<WholeRegex, PatternError> {
        // The bare source first: the error is about what the user wrote, and `a)|(b` cannot climb out of the group.
        regex::Regex::new(source)
            .and_then(|_| regex::Regex::new(&format!(r"\A(?:{source})\z")))
            .map(|compiled| WholeRegex { source: source.to_owned(), compiled })
            .map_err(|error| {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                PatternError::Regex(source.to_owned(), last.strip_prefix("error: ").unwrap_or(last).to_owned())
            })
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
/// What a header or a parameter of the query must be. If there are several of the name, one that matches is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValuePattern {
    /// This value.
    Exact(String),
    /// A regex that matches the whole value.
    Regex(WholeRegex),
    /// Whether it is there at all, with whatever value.
    Present(bool),
}

impl ValuePattern {
    /// Judges all values of the name; no item if it is not there, a None for a value that is not text.
    pub fn matches<V: AsRef<str>>(&self, mut values: impl Iterator<Item = Option<V>>) -> bool {
        match self {
            ValuePattern::Exact(exact) => values.flatten().any(|value| value.as_ref() == exact),
            ValuePattern::Regex(regex) => values.flatten().any(|value| regex.matches(value.as_ref())),
            ValuePattern::Present(present) => values.next().is_some() == *present,
        }
    }

    /// Whether all that `other` matches is surely matched by this too.
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
