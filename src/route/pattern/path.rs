//! The paths that a route matches, compared in normal form.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{PatternError, WholeRegex, as_string};
use crate::header::path;

/// A path in normal form, as request paths are when they are matched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlainPath(String);

impl PlainPath {
    /// Returns the path, which starts with `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_prefix_of(&self, path: &str) -> bool {
        match path.strip_prefix(self.0.as_str()) {
            Some(rest) => rest.is_empty() || rest.starts_with('/') || self.0.ends_with('/'),
            None => false,
        }
    }
}

impl FromStr for PlainPath {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<PlainPath, PatternError> {
        if !text.starts_with('/') {
            return Err(PatternError::PathRelative(text.to_owned()));
        }
        if text.contains(['?', '#']) {
            return Err(PatternError::PathQuery(text.to_owned()));
        }
        match path::normalise(text) {
            Ok(normal) if normal == text => Ok(PlainPath(text.to_owned())),
            Ok(normal) => Err(PatternError::PathNotNormal(text.to_owned(), normal.into_owned())),
            Err(source) => Err(PatternError::PathRefused { text: text.to_owned(), source }),
        }
    }
}

impl fmt::Display for PlainPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_string!(PlainPath, "Path", { "type": "string", "pattern": "^/[^?#]*$" });
/// Matches paths in normal form, without the query.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum PathPattern {
    /// This path only.
    Exact(PlainPath),
    /// This path and what is below it: `/ws` matches `/ws` and `/ws/a`, but not `/wsx`; `/ws/` matches only below; `/`
    /// matches every path.
    Prefix(PlainPath),
    /// A regex that matches the whole path.
    Regex(WholeRegex),
}

impl PathPattern {
    /// Returns true if `path`, in normal form, matches.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            PathPattern::Exact(exact) => path == exact.0,
            PathPattern::Prefix(prefix) => prefix.is_prefix_of(path),
            PathPattern::Regex(regex) => regex.matches(path),
        }
    }

    /// Returns true if this surely matches every path that `other` matches.
    pub fn covers(&self, other: &PathPattern) -> bool {
        match (self, other) {
            (_, PathPattern::Exact(exact)) => self.matches(&exact.0),
            (PathPattern::Prefix(short), PathPattern::Prefix(long)) => short.is_prefix_of(&long.0),
            (PathPattern::Regex(a), PathPattern::Regex(b)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathPattern::Exact(path) => write!(f, "exact {path}"),
            PathPattern::Prefix(path) => write!(f, "prefix {path}"),
            PathPattern::Regex(regex) => write!(f, "regex {regex}"),
        }
    }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            PathPattern::Exact(path) => map.serialize_entry("exact", path)?,
            PathPattern::Prefix(path) => map.serialize_entry("prefix", path)?,
            PathPattern::Regex(regex) => map.serialize_entry("regex", regex)?,
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for PathPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PathPattern, D::Error> {
        /// Written by hand, because serde_yaml writes an externally tagged enum as `!prefix /ws`.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            exact: Option<PlainPath>,
            prefix: Option<PlainPath>,
            regex: Option<WholeRegex>,
        }

        struct OneOfThree;

        impl<'de> Visitor<'de> for OneOfThree {
            type Value = PathPattern;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one of exact, prefix or regex, such as `{ prefix: /ws }`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PathPattern, E> {
                Err(E::custom(format!(
                    "a path is one of exact, prefix or regex: write `{{ prefix: {text} }}` or `{{ exact: {text} }}`"
                )))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PathPattern, A::Error> {
                match Written::deserialize(MapAccessDeserializer::new(map))? {
                    Written { exact: Some(path), prefix: None, regex: None } => Ok(PathPattern::Exact(path)),
                    Written { exact: None, prefix: Some(path), regex: None } => Ok(PathPattern::Prefix(path)),
                    Written { exact: None, prefix: None, regex: Some(regex) } => Ok(PathPattern::Regex(regex)),
                    Written { exact: None, prefix: None, regex: None } => {
                        Err(de::Error::custom("a path is one of exact, prefix or regex: write `{ prefix: /ws }`"))
                    }
                    _ => Err(de::Error::custom("a path is only one of exact, prefix or regex: use a route for each")),
                }
            }
        }

        deserializer.deserialize_any(OneOfThree)
    }
}
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::super::tests::from_yaml;
    use super::*;

    fn path(yaml: &str) -> Result<PathPattern, String> {
        from_yaml(yaml)
    }

    #[test]
    fn a_prefix_ends_at_the_border_of_a_segment() {
        for (prefix, yes, no) in [
            ("/ws", &["/ws", "/ws/", "/ws/a"][..], &["/wsx", "/w", "/", "/WS"][..]),
            ("/ws/", &["/ws/", "/ws/a"], &["/ws", "/wsx"]),
            ("/", &["/", "/a", "//"], &["*"]),
        ] {
            let pattern = path(&format!("prefix: {prefix}")).unwrap();
            for path in yes {
                assert!(pattern.matches(path), "{prefix} {path}");
            }
            for path in no {
                assert!(!pattern.matches(path), "{prefix} {path}");
            }
        }
    }

    #[test]
    fn a_regex_matches_the_whole_path() {
        for source in ["/room/[0-9]+", "^/room/[0-9]+$", "/room/1|/room/[0-9]+"] {
            let pattern = PathPattern::Regex(source.parse().unwrap());
            assert!(pattern.matches("/room/12"), "{source}");
            for path in ["/room/12/x", "/x/room/12", "/room/1\n"] {
                assert!(!pattern.matches(path), "{source} {path:?}");
            }
        }
    }

    #[test]
    fn a_path_is_a_map_of_one_and_survives_writing() {
        for yaml in ["exact: /a", "prefix: /ws", "regex: ^/a$"] {
            let pattern = path(yaml).unwrap();
            assert_eq!(serde_yaml::to_string(&pattern).unwrap().trim(), yaml);
        }
        for (yaml, message) in [
            ("/ws", "a path is one of exact, prefix or regex: write `{ prefix: /ws }` or `{ exact: /ws }`"),
            ("{}", "a path is one of exact, prefix or regex: write `{ prefix: /ws }`"),
            ("{ exact: /a, prefix: /b }", "a path is only one of exact, prefix or regex: use a route for each"),
            ("{ prefx: /a }", "unknown field `prefx`, expected one of `exact`, `prefix`, `regex`"),
            ("{ prefix: ws }", "`ws` is not a path: it starts with `/`"),
            ("{ prefix: '/a?b' }", "`/a?b`: a path has no query or fragment; queries are matched under `query`"),
            ("{ exact: /%7Ea }", "`/%7Ea` never matches, because paths are normalised first: write `/~a`"),
            (
                "{ exact: /../a }",
                "`/../a` never matches, because such requests are refused: the path leads out above the root",
            ),
            ("{ regex: '/(a' }", "`/(a` is not a valid regex: unclosed group"),
            ("{ regex: 'a)|(b' }", "`a)|(b` is not a valid regex: unopened group"),
            ("1", "invalid type: integer `1`, expected one of exact, prefix or regex, such as `{ prefix: /ws }`"),
        ] {
            assert_eq!(path(yaml).unwrap_err(), message);
        }
    }
}
