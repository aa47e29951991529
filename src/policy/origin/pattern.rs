//! An origin as a request sends it, and the patterns of allowed origins.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::OriginTarget;
use crate::base::error_chain::error_chain;
use crate::header::Host;
use crate::header::authority::default_port;
use crate::route::pattern::{HostPattern, PatternError};

/// Matches origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// `same-origin`: the host and port that the request itself is for.
    SameOrigin,
    /// `*`: any value, even if it is not an origin.
    Any,
    /// `null`: sent by sandboxed frames and local files. Any page can arrange to send it.
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
    /// `{ exact: … }`, or a URL such as `file://` without a host: this text, in any case.
    Exact(String),
}

/// The port of an allowed origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortPattern {
    /// The scheme's own; none is written.
    Default,
    /// This one.
    Exact(u16),
    /// `:*`
    Any,
}

/// Why a text is not an origin pattern. The message says what to write.
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
    #[error(
        "`{0}` has a path, which origins never have: write `{1}`, or `{{ exact: \"{0}\" }}` for a client that sends it"
    )]
    Path(String, String),
    /// `file://*`
    #[error(
        "`{0}` never matches, because the origin of each page in a file is the same: write `file://`, or `\"null\"`"
    )]
    File(String),
    /// A value that no field can have, or that is read differently.
    #[error("`{}` never matches, because the value of a field {why}", .text.escape_default())]
    NoValue {
        /// As written.
        text: String,
        /// What is true of field values.
        why: &'static str,
    },
    /// `wss://`
    #[error("`{0}` never matches, because an origin has the scheme of the page: write `{1}`")]
    WebSocketScheme(String, String),
    /// Neither a number nor `*`.
    #[error("`{0}`: a port is a number from 1 to 65535, or `*` for any")]
    Port(String),
    /// Not a host pattern.
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
        if let Some(page) = page_scheme(&scheme) {
            return Err(OriginPatternError::WebSocketScheme(shown(), format!("{page}://{authority}")));
        }
        if scheme == "file" && authority.contains('*') {
            return Err(OriginPatternError::File(shown()));
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
        match host.parse() {
            Ok(host) => Ok(OriginPattern::Url { scheme, host, port }),
            // Files have no host, and apps choose any: `file://`, `app://.`
            Err(_)
                if default_port(&scheme).is_none()
                    && !host.contains('*')
                    && text.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(OriginPattern::Exact(text.to_owned()))
            }
            Err(source) => Err(OriginPatternError::Host { text: shown(), source }),
        }
    }
}

/// Returns the page's scheme for clients that send the WebSocket's (ws4py, Starscream). No browser does.
fn page_scheme(scheme: &str) -> Option<&'static str> {
    match scheme {
        "ws" => Some("http"),
        "wss" => Some("https"),
        _ => None,
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
            OriginPattern::Exact(text) if self.is_plain() => f.write_str(text),
            OriginPattern::Exact(text) => write!(f, "{{ exact: {text:?} }}"),
        }
    }
}

impl OriginPattern {
    /// Returns the pattern of exactly `text`.
    ///
    /// # Errors
    /// Fails if no field can have this value.
    fn exact(text: String) -> Result<OriginPattern, OriginPatternError> {
        let why = match text.as_bytes() {
            bytes if bytes.iter().any(|byte| byte.is_ascii_control()) => "has no control characters",
            [b' ', ..] | [.., b' '] => "is read without the spaces around it",
            _ => return Ok(OriginPattern::Exact(text)),
        };
        Err(OriginPatternError::NoValue { text, why })
    }

    /// Returns true if the pattern is written as a string.
    fn is_plain(&self) -> bool {
        match self {
            OriginPattern::Exact(text) => text.parse().is_ok_and(|plain: OriginPattern| plain == *self),
            _ => true,
        }
    }
}

impl Serialize for OriginPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            OriginPattern::Exact(text) if !self.is_plain() => serializer.collect_map([("exact", text)]),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for OriginPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OriginPattern, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            exact: String,
        }

        struct TextOrMap;

        impl<'de> Visitor<'de> for TextOrMap {
            type Value = OriginPattern;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string such as same-origin or https://*.example.com, or `{ exact: ... }`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OriginPattern, E> {
                text.parse().map_err(|error| E::custom(error_chain(&error)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OriginPattern, A::Error> {
                let Written { exact } = Written::deserialize(MapAccessDeserializer::new(map))?;
                OriginPattern::exact(exact).map_err(de::Error::custom)
            }

            /// A YAML `null` is also an empty item; it must not admit sandboxed pages by mistake.
            fn visit_unit<E: de::Error>(self) -> Result<OriginPattern, E> {
                Err(E::custom("an empty origin: write \"null\" in quotes for the null origin, or remove it"))
            }
        }

        deserializer.deserialize_any(TextOrMap)
    }
}

impl JsonSchema for OriginPattern {
    fn schema_name() -> Cow<'static, str> {
        "Origin".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An origin: same-origin, \"*\" for any, null, or scheme://host[:port]; `*.` in front of the host and `*` as port are wildcards.",
            "examples": ["same-origin", "https://*.example.com", "http://localhost:*", "file://", "*"],
            "oneOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": { "exact": {
                        "type": "string",
                        "description": "A value that is no origin, as devices and old apps send: `{ exact: \"https://device/ws\" }`. Upper and lower case are the same.",
                    } },
                    "required": ["exact"],
                    "additionalProperties": false,
                },
            ]
        })
    }
}

/// The value of an Origin field (RFC 6454 §7.1, with one origin).
pub(super) struct Origin<'a> {
    /// As received.
    raw: &'a [u8],
    form: Form,
}

enum Form {
    Null,
    Url {
        scheme: String,
        host: Host,
    },
    /// Not of a web page: `file://`, a URL with a path, a host alone.
    Opaque,
}

impl Origin<'_> {
    pub(super) fn of(raw: &[u8]) -> Origin<'_> {
        let url = || {
            let (scheme, authority) = std::str::from_utf8(raw).ok()?.split_once("://")?;
            let scheme = parse_scheme(scheme)?;
            let scheme = page_scheme(&scheme).map_or(scheme, str::to_owned);
            Some(Form::Url { scheme, host: authority.parse().ok()? })
        };
        let form = if raw == b"null" { Form::Null } else { url().unwrap_or(Form::Opaque) };
        Origin { raw, form }
    }

    /// Returns true if it is an origin by RFC 6454.
    pub(super) fn is_origin(&self) -> bool {
        !matches!(self.form, Form::Opaque)
    }

    /// Returns true if it is the requested origin, but of a page loaded without TLS.
    pub(super) fn is_insecure(&self, target: &OriginTarget<'_>) -> bool {
        let Form::Url { scheme, host } = &self.form else { return false };
        // Clients that write `http` for https leave out the default port of either.
        let unusual = |port: Option<u16>| port.filter(|port| ![80, 443].contains(port));
        scheme == "http"
            && target.tls
            && host.name == target.host.name
            && target.ports().any(|port| unusual(host.port) == unusual(port))
    }

    /// Returns the item of `allow` that would admit it, as YAML.
    pub(super) fn item(&self) -> Option<String> {
        let quoted = |pattern: OriginPattern| match pattern.is_plain() {
            true => format!("\"{pattern}\""),
            false => pattern.to_string(),
        };
        let pattern = match &self.form {
            Form::Null => OriginPattern::Null,
            Form::Url { scheme, host } => format!("{scheme}://{host}").parse().ok()?,
            Form::Opaque => {
                let text = std::str::from_utf8(self.raw).ok()?;
                // A text that YAML must escape or the environment fills in is hard to copy by hand.
                let is_simple = text.len() <= 200
                    && text.bytes().all(|b| matches!(b, b' '..=b'~'))
                    && !text.contains(['"', '\\', '$']);
                OriginPattern::exact(text.to_owned()).ok().filter(|_| is_simple)?
            }
        };
        Some(quoted(pattern))
    }
}

impl OriginPattern {
    pub(super) fn matches(&self, origin: &Origin<'_>, target: &OriginTarget<'_>) -> bool {
        match (self, &origin.form) {
            (OriginPattern::Any, _) | (OriginPattern::Null, Form::Null) => true,
            (OriginPattern::Exact(text), _) => text.as_bytes().eq_ignore_ascii_case(origin.raw),
            (OriginPattern::SameOrigin, Form::Url { scheme, host }) => {
                // Pages of other schemes (extensions, apps) choose their own hosts.
                (scheme == "https" || scheme == "http" && !target.tls)
                    && host.name == target.host.name
                    && target.ports().any(|port| host.port_or_default(scheme) == port.or(default_port(scheme)))
            }
            (OriginPattern::Url { scheme, host: pattern, port }, Form::Url { scheme: origin_scheme, host }) => {
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

/// Parses a scheme (RFC 3986 §3.1), and returns it in lower case.
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
            (
                "https://a.b/",
                "`https://a.b/` has a path, which origins never have: write `https://a.b`, or `{ exact: \"https://a.b/\" }` for a client that sends it",
            ),
            (
                "file:///",
                "`file:///` has a path, which origins never have: write `file://`, or `{ exact: \"file:///\" }` for a client that sends it",
            ),
            (
                "file://*",
                "`file://*` never matches, because the origin of each page in a file is the same: write `file://`, or `\"null\"`",
            ),
            (
                "https://",
                "`https://` is not an origin: a host is empty: write a name such as `chat.example.com`, `*.example.com`, or `*` for any",
            ),
            ("app://a b", "`app://a b` is not an origin: `a b` is not a host: a host must not contain ` `"),
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
            assert_eq!(error_chain(&text.parse::<OriginPattern>().unwrap_err()), message);
        }
    }
}
