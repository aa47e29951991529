//! An origin as a request has it, and the patterns of those that are allowed.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::header::Host;
use crate::header::authority::default_port;
use crate::route::pattern::{HostPattern, PatternError, as_string, chain};

/// Origins that a route allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// `same-origin`: the host and port that the request itself is for.
    SameOrigin,
    /// `*`: any, `null` included.
    Any,
    /// `null`: what sandboxed frames and local files send. Any page can bring itself to send it.
    Null,
    /// `scheme://host[:port]`
    Url {
        /// In lower case.
        scheme: String,
        /// `*.` stands for one label or more.
        host: HostPattern,
        /// The port.
        port: PortPattern,
    },
}

/// The port of an allowed origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortPattern {
    /// None written: the scheme's own.
    Default,
    /// This one.
    Exact(u16),
    /// `:*`
    Any,
}

/// Why text is no origin pattern. The message says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OriginPatternError {
    /// Neither a word nor a URL.
    #[error(
        "`{0}` is not an origin: write same-origin, null, \"*\", or scheme://host[:port] such as https://*.example.com"
    )]
    Form(String),
    /// A host without its scheme.
    #[error("`{0}` has no scheme: write `https://{0}`")]
    NoScheme(String),
    /// Something after the host.
    #[error("`{0}` has a path, which origins never have: write `{1}`")]
    Path(String, String),
    /// `wss://`
    #[error("`{0}` never matches, because an origin has the scheme of the page: write `{1}`")]
    WebSocketScheme(String, String),
    /// Neither a number nor `*`.
    #[error("`{0}`: a port is a number from 1 to 65535, or `*` for any")]
    Port(String),
    /// No host pattern.
    #[error("`{text}` is not an origin")]
    Host {
        /// As written.
        text: String,
        /// What is wrong with its host.
        #[source]
        source: PatternError,
    },
}

impl FromStr for OriginPattern {
    type Err = OriginPatternError;

    fn from_str(text: &str) -> Result<OriginPattern, OriginPatternError> {
        match text {
            "same-origin" => return Ok(OriginPattern::SameOrigin),
            "*" => return Ok(OriginPattern::Any),
            "null" => return Ok(OriginPattern::Null),
            _ => {}
        }
        let shown = || text.to_owned();
        let Some((scheme, authority)) = text.split_once("://") else {
            let is_host = text.contains('.') && !text.contains('/') || text.starts_with("localhost");
            return Err(if is_host && text.is_ascii() && !text.contains(' ') {
                OriginPatternError::NoScheme(shown())
            } else {
                OriginPatternError::Form(shown())
            });
        };
        let Some(scheme) = parse_scheme(scheme) else { return Err(OriginPatternError::Form(shown())) };
        if let Some(end) = authority.find(['/', '?', '#']) {
            return Err(OriginPatternError::Path(shown(), format!("{scheme}://{}", &authority[..end])));
        }
        if let Some(page) = match scheme.as_str() {
            "ws" => Some("http"),
            "wss" => Some("https"),
            _ => None,
        } {
            return Err(OriginPatternError::WebSocketScheme(shown(), format!("{page}://{authority}")));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, "*")) => (host, PortPattern::Any),
            Some((host, port)) if !port.contains(']') => {
                let digits = port.bytes().all(|b| b.is_ascii_digit());
                match port.parse() {
                    Ok(number @ 1..) if digits => (host, PortPattern::Exact(number)),
                    _ => return Err(OriginPatternError::Port(shown())),
                }
            }
            _ => (authority, PortPattern::Default),
        };
        let host = host.parse().map_err(|source| OriginPatternError::Host { text: shown(), source })?;
        Ok(OriginPattern::Url { scheme, host, port })
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OriginPattern::SameOrigin => f.write_str("same-origin"),
            OriginPattern::Any => f.write_str("*"),
            OriginPattern::Null => f.write_str("null"),
            OriginPattern::Url { scheme, host, port } => match port {
                PortPattern::Default => write!(f, "{scheme}://{host}"),
                PortPattern::Exact(port) => write!(f, "{scheme}://{host}:{port}"),
                PortPattern::Any => write!(f, "{scheme}://{host}:*"),
            },
        }
    }
}

as_string!(OriginPattern, "Origin", string_not_null, {
    "type": "string",
    "description": "An origin: same-origin, \"*\" for any, null, or scheme://host[:port]; `*.` in front of the host and `*` as port are wildcards.",
    "examples": ["same-origin", "https://*.example.com", "http://localhost:*", "*"]
});

/// A YAML `null` is also an empty item; it must not let sandboxed pages in by mistake.
fn string_not_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Text;

    impl de::Visitor<'_> for Text {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string such as same-origin or https://*.example.com")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_unit<E: de::Error>(self) -> Result<String, E> {
            Err(E::custom("an empty origin: write \"null\" in quotes for the null origin, or remove it"))
        }
    }

    deserializer.deserialize_any(Text)
}

/// An Origin field's value (RFC 6454 §7.1, a single one).
pub(super) enum Origin {
    Null,
    Url { scheme: String, host: Host },
}

impl Origin {
    pub(super) fn parse(value: &[u8]) -> Option<Origin> {
        let text = std::str::from_utf8(value).ok()?;
        if text == "null" {
            return Some(Origin::Null);
        }
        let (scheme, authority) = text.split_once("://")?;
        Some(Origin::Url { scheme: parse_scheme(scheme)?, host: authority.parse().ok()? })
    }
}

impl OriginPattern {
    pub(super) fn matches(&self, origin: &Origin, request: &Host, tls: bool) -> bool {
        match (self, origin) {
            (OriginPattern::Any, _) | (OriginPattern::Null, Origin::Null) => true,
            (OriginPattern::SameOrigin, Origin::Url { scheme, host }) => {
                // Pages of other schemes (extensions, apps) have hosts of their own making.
                (scheme == "https" || scheme == "http" && !tls)
                    && host.name == request.name
                    && host.port_or_default(scheme) == request.port_or_default(scheme)
            }
            (OriginPattern::Url { scheme, host: pattern, port }, Origin::Url { scheme: origin_scheme, host }) => {
                scheme == origin_scheme
                    && pattern.matches(&host.name)
                    && match port {
                        PortPattern::Any => true,
                        PortPattern::Default => host.port.is_none() || host.port == default_port(scheme),
                        PortPattern::Exact(port) => host.port_or_default(scheme) == Some(*port),
                    }
            }
            _ => false,
        }
    }
}

/// RFC 3986 §3.1, in lower case.
fn parse_scheme(text: &str) -> Option<String> {
    let valid = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    valid.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_pattern_says_what_would_be_right() {
        for (text, message) in [
            (
                "same_origin",
                "`same_origin` is not an origin: write same-origin, null, \"*\", or scheme://host[:port] such as https://*.example.com",
            ),
            ("a.example:8443", "`a.example:8443` has no scheme: write `https://a.example:8443`"),
            ("localhost:3000", "`localhost:3000` has no scheme: write `https://localhost:3000`"),
            ("https://a.b/", "`https://a.b/` has a path, which origins never have: write `https://a.b`"),
            (
                "wss://a.b:1",
                "`wss://a.b:1` never matches, because an origin has the scheme of the page: write `https://a.b:1`",
            ),
            ("https://a.b:0", "`https://a.b:0`: a port is a number from 1 to 65535, or `*` for any"),
            ("https://a.b:+1", "`https://a.b:+1`: a port is a number from 1 to 65535, or `*` for any"),
            (
                "https://a.*",
                "`https://a.*` is not an origin: `a.*`: `*` stands alone for any host, or as the first label, such as `*.example.com`",
            ),
            (
                "*://a.b",
                "`*://a.b` is not an origin: write same-origin, null, \"*\", or scheme://host[:port] such as https://*.example.com",
            ),
        ] {
            assert_eq!(chain(&text.parse::<OriginPattern>().unwrap_err()), message);
        }
    }
}
