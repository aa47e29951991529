//! The patterns of a route, as they are written in the configuration and as they are matched.
//!
//! Hosts and paths are matched in the normal form that `crate::header` gives them. A pattern that no normal form can ever
//! equal is an error when it is read, not a route that is silently dead. Regexes run in linear time and match the whole
//! text: a forgotten `^` or `$` must not open a route to more than was meant.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::header::{Host, HostError, path};

/// Why text is not the pattern it should be. The message says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Empty, or only white space.
    #[error("a host is empty: write a name such as `chat.example.com`, `*.example.com`, or `*` for any")]
    HostEmpty,
    /// A URL where a name should be.
    #[error("`{0}` is a URL: write its host alone, such as `chat.example.com`")]
    HostIsUrl(String),
    /// `example.com:8443`
    #[error("`{0}` has a port, which routes do not look at: write `{1}`")]
    HostHasPort(String, String),
    /// `a*.example.com`, `*.*.com`, `example.*`
    #[error("`{0}`: `*` stands alone for any host, or as the first label, such as `*.example.com`")]
    HostWildcard(String),
    /// `bücher.example`
    #[error("`{0}` is not ASCII: write an internationalised name in its `xn--` form")]
    HostNotAscii(String),
    /// Any other fault of a host.
    #[error("`{text}` is not a host")]
    Host {
        /// As written.
        text: String,
        /// What is wrong with it.
        #[source]
        source: HostError,
    },
    /// No path at all.
    #[error("`{0}` is not a path: it starts with `/`")]
    PathRelative(String),
    /// A query in a path.
    #[error("`{0}`: a path has no query or fragment; queries are matched under `query`")]
    PathQuery(String),
    /// A path that requests never have after normalisation.
    #[error("`{0}` never matches, because paths are normalised first: write `{1}`")]
    PathNotNormal(String, String),
    /// A path that requests are refused for.
    #[error("`{text}` never matches, because such requests are refused")]
    PathRefused {
        /// As written.
        text: String,
        /// Why they are.
        #[source]
        source: path::PathError,
    },
    /// No valid regex.
    #[error("`{0}` is not a valid regex: {1}")]
    Regex(String, String),
    /// No field name.
    #[error("`{0}` is not a header name: it has letters, digits and `-`, without a colon")]
    FieldName(String),
    /// No token.
    #[error(
        "`{0}` is not a subprotocol: it is one name of letters, digits and marks such as `.` and `-` (RFC 6455 §4.1)"
    )]
    Subprotocol(String),
}

/// Text types: read by `FromStr`, written by `Display`, strings in the configuration.
macro_rules! as_string {
    ($type:ty, $name:literal, $schema:tt) => {
        as_string!($type, $name, String::deserialize, $schema);
    };
    ($type:ty, $name:literal, $read:expr, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text: String = $read(deserializer)?;
                text.parse().map_err(|error| de::Error::custom(chain(&error)))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}
pub(crate) use as_string;

/// An error and its causes on one line, for serde, which carries only text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Which hosts: one, all below a name, or any. The port of a request is not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `*`
    Any,
    /// `chat.example.com`, as [`Host::name`] has it.
    Exact(String),
    /// `*.example.com`: one label or more below, but not `example.com` itself. Held with its first dot.
    Below(String),
}

impl HostPattern {
    /// Whether `host`, in the form of [`Host::name`], is one of these.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Exact(name) => host == name,
            HostPattern::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }

    /// Whether every host that `other` matches is matched by this too.
    pub fn covers(&self, other: &HostPattern) -> bool {
        match (self, other) {
            (HostPattern::Any, _) => true,
            (_, HostPattern::Any) => false,
            (_, HostPattern::Exact(name)) => self.matches(name),
            (HostPattern::Below(suffix), HostPattern::Below(other)) => other.ends_with(suffix.as_str()),
            (HostPattern::Exact(_), HostPattern::Below(_)) => false,
        }
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<HostPattern, PatternError> {
        let shown = || text.to_owned();
        if text.trim().is_empty() {
            return Err(PatternError::HostEmpty);
        }
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        if text.contains('/') {
            return Err(PatternError::HostIsUrl(shown()));
        }
        if !text.is_ascii() {
            return Err(PatternError::HostNotAscii(shown()));
        }
        let below = text.strip_prefix("*.");
        let name = below.unwrap_or(text);
        if name.contains('*') {
            return Err(PatternError::HostWildcard(shown()));
        }
        let is_bare_ipv6 = name.parse::<std::net::Ipv6Addr>().is_ok();
        let host = if is_bare_ipv6 { format!("[{name}]").parse() } else { name.parse::<Host>() };
        let host = host.map_err(|source| PatternError::Host { text: shown(), source })?;
        if host.port.is_some() || name.ends_with(':') && !is_bare_ipv6 {
            let portless = Host { name: host.name, port: None };
            return Err(PatternError::HostHasPort(shown(), format!("{}{portless}", below.map_or("", |_| "*."))));
        }
        match below {
            Some(_) if host.name.contains(':') => Err(PatternError::HostWildcard(shown())),
            Some(_) => Ok(HostPattern::Below(format!(".{}", host.name))),
            None => Ok(HostPattern::Exact(host.name)),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => f.write_str("*"),
            HostPattern::Exact(name) if name.contains(':') => write!(f, "[{name}]"),
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

as_string!(HostPattern, "HostPattern", {
    "type": "string",
    "description": "A host: its name, `*.example.com` for all below, or `*` for any. Ports are not looked at.",
    "examples": ["chat.example.com", "*.example.com", "*"]
});

/// A path in normal form, as requests have it when they are matched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlainPath(String);

impl PlainPath {
    /// The path, which starts with `/`.
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

/// Which paths, compared in normal form and without the query.
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
    /// Whether `path`, in normal form, is one of these.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            PathPattern::Exact(exact) => path == exact.0,
            PathPattern::Prefix(prefix) => prefix.is_prefix_of(path),
            PathPattern::Regex(regex) => regex.matches(path),
        }
    }

    /// Whether every path that `other` matches is surely matched by this too.
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
        /// By hand, because serde_yaml writes an externally tagged enum as `!prefix /ws`.
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
    /// Judges all values of the name; none, if it is not there.
    pub fn matches<V: AsRef<str>>(&self, mut values: impl Iterator<Item = V>) -> bool {
        match self {
            ValuePattern::Exact(exact) => values.any(|value| value.as_ref() == exact),
            ValuePattern::Regex(regex) => values.any(|value| regex.matches(value.as_ref())),
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

/// The name of a header field, written in any case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldName(HeaderName);

impl FieldName {
    /// The name as `http` has it.
    pub fn name(&self) -> &HeaderName {
        &self.0
    }
}

impl PartialOrd for FieldName {
    fn partial_cmp(&self, other: &FieldName) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for FieldName {
    fn cmp(&self, other: &FieldName) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl FromStr for FieldName {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<FieldName, PatternError> {
        HeaderName::from_str(text).map(FieldName).map_err(|_| PatternError::FieldName(text.to_owned()))
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

as_string!(FieldName, "FieldName", { "type": "string", "pattern": "^[-!#$%&'*+.^_`|~0-9A-Za-z]+$" });

/// The name of a subprotocol; its case counts (RFC 6455 §4.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subprotocol(String);

impl Subprotocol {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Subprotocol {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Subprotocol, PatternError> {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        match !text.is_empty() && text.bytes().all(is_token) {
            true => Ok(Subprotocol(text.to_owned())),
            false => Err(PatternError::Subprotocol(text.to_owned())),
        }
    }
}

impl fmt::Display for Subprotocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_string!(Subprotocol, "Subprotocol", { "type": "string", "pattern": "^[-!#$%&'*+.^_`|~0-9A-Za-z]+$" });

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn host(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    fn path(yaml: &str) -> Result<PathPattern, String> {
        from_yaml(yaml)
    }

    /// As the configuration is read: text to `Value`, `Value` to type.
    fn from_yaml<T: de::DeserializeOwned>(yaml: &str) -> Result<T, String> {
        let value: serde_yaml::Value = serde_yaml::from_str(yaml).unwrap();
        serde_yaml::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn hosts_match_exactly_below_or_all() {
        for (pattern, yes, no) in [
            ("Chat.Example.com.", &["chat.example.com"][..], &["a.chat.example.com", "example.com", ""][..]),
            ("*.example.com", &["a.example.com", "a.b.example.com"], &["example.com", ".example.com", "xexample.com"]),
            ("*", &["a", "::1", ""], &[]),
            ("[2001:DB8::1]", &["2001:db8::1"], &["2001:db8::2"]),
            ("::1", &["::1"], &["1"]),
        ] {
            for name in yes {
                assert!(host(pattern).matches(name), "{pattern} {name}");
            }
            for name in no {
                assert!(!host(pattern).matches(name), "{pattern} {name}");
            }
            assert_eq!(host(&host(pattern).to_string()), host(pattern));
        }
    }

    #[test]
    fn a_wrong_host_says_what_would_be_right() {
        for (text, message) in [
            ("", "a host is empty: write a name such as `chat.example.com`, `*.example.com`, or `*` for any"),
            ("https://a.b", "`https://a.b` is a URL: write its host alone, such as `chat.example.com`"),
            ("a.b:8443", "`a.b:8443` has a port, which routes do not look at: write `a.b`"),
            ("*.a.b:1", "`*.a.b:1` has a port, which routes do not look at: write `*.a.b`"),
            ("a:", "`a:` has a port, which routes do not look at: write `a`"),
            ("a*.b", "`a*.b`: `*` stands alone for any host, or as the first label, such as `*.example.com`"),
            ("*.*.b", "`*.*.b`: `*` stands alone for any host, or as the first label, such as `*.example.com`"),
            ("bücher.de", "`bücher.de` is not ASCII: write an internationalised name in its `xn--` form"),
            ("a b", "`a b` is not a host: a host must not contain ` `"),
            ("*.", "`*.` is not a host: a host must not be empty"),
        ] {
            assert_eq!(chain(&text.parse::<HostPattern>().unwrap_err()), message);
        }
        assert_eq!(from_yaml::<HostPattern>("a b").unwrap_err(), "`a b` is not a host: a host must not contain ` `");
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

    #[test]
    fn values_are_text_a_regex_or_presence() {
        let value = |yaml: &str| from_yaml::<ValuePattern>(yaml);
        let matches = |yaml: &str, values: &[&str]| value(yaml).unwrap().matches(values.iter());
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

    #[test]
    fn names_are_tokens() {
        assert_eq!("X-Tenant".parse::<FieldName>().unwrap().to_string(), "x-tenant");
        assert!("X-Tenant:".parse::<FieldName>().is_err());
        assert!("".parse::<FieldName>().is_err());
        assert_eq!("graphql-ws".parse::<Subprotocol>().unwrap().as_str(), "graphql-ws");
        for text in ["", "a b", "a,b", "a\n", "ü"] {
            assert!(text.parse::<Subprotocol>().is_err(), "{text:?}");
        }
    }
}
