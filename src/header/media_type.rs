//! Media types, and patterns of them: `text/*`, `application/*+json`.

use std::fmt;
use std::str::FromStr;

use http::header::{CONTENT_TYPE, HeaderMap};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};
use thiserror::Error;

/// A media type, or a pattern with one `*`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaTypePattern(String);

/// A text that is no pattern of media types.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not a media type\nwrite one such as `text/html`, `text/*` or `application/*+json`")]
pub struct MediaTypeError(String);

impl MediaTypePattern {
    /// Returns true if the pattern matches a media type without parameters, whatever its case.
    pub fn matches(&self, media_type: &[u8]) -> bool {
        let Some((start, end)) = self.0.split_once('*') else {
            return media_type.eq_ignore_ascii_case(self.0.as_bytes());
        };
        media_type.len() >= start.len() + end.len()
            && media_type[..start.len()].eq_ignore_ascii_case(start.as_bytes())
            && media_type[media_type.len() - end.len()..].eq_ignore_ascii_case(end.as_bytes())
    }
}

/// Returns the media type of a message, without its parameters, if it has one.
pub fn of(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(CONTENT_TYPE)?.as_bytes();
    value.split(|byte| *byte == b';').next().map(<[u8]>::trim_ascii).filter(|it| !it.is_empty())
}

impl FromStr for MediaTypePattern {
    type Err = MediaTypeError;

    fn from_str(text: &str) -> Result<MediaTypePattern, MediaTypeError> {
        let is_token = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-*".contains(&byte))
        };
        let is_good = text.split_once('/').is_some_and(|(kind, subtype)| {
            is_token(kind) && is_token(subtype) && !kind.contains('*') && subtype.matches('*').count() <= 1
        });
        if is_good { Ok(MediaTypePattern(text.to_ascii_lowercase())) } else { Err(MediaTypeError(text.to_owned())) }
    }
}

impl fmt::Display for MediaTypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for MediaTypePattern {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MediaTypePattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for MediaTypePattern {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MediaTypePattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A media type, perhaps with one `*` in its second part.",
            "type": "string",
            "examples": ["text/*", "application/json", "application/*+json"],
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_part_of_the_subtype() {
        for (pattern, media_type, matches) in [
            ("text/html", "text/html", true),
            ("Text/HTML", "TEXT/html", true),
            ("text/html", "text/htm", false),
            ("text/*", "text/css", true),
            ("text/*", "textile/x", false),
            ("application/*+json", "application/ld+json", true),
            ("application/*+json", "application/json", false),
            ("application/*+json", "application/+json", true),
            ("a/b*b", "a/b", false),
        ] {
            let pattern: MediaTypePattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(media_type.as_bytes()), matches, "{pattern} {media_type}");
        }
        for bad in ["", "text", "text/", "/html", "*", "*/*", "text/*+*", "text/html; charset=utf-8", "text/ä"] {
            assert!(bad.parse::<MediaTypePattern>().is_err(), "{bad}");
        }
    }
}
