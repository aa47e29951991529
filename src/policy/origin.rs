//! Which web pages may open a WebSocket here: RFC 6455 §10.2 against cross-site hijacking.
//!
//! A browser sends cookies with a WebSocket handshake to any host and asks no CORS question; the Origin field is all that
//! tells a page of ours from a stranger's. So the default is the same origin, and what cannot be read is denied. Clients
//! that are no browsers send no Origin, or any: this is no authentication, and `missing: allow` costs nothing.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::HeaderValue;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::header::authority::default_port;
use crate::header::{Host, redact};
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

/// What to do with a request that has no Origin field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// Let it pass: it is no browser, so it carries no one else's cookies.
    #[default]
    Allow,
    /// Refuse it.
    Deny,
}

/// Which pages may open a WebSocket on a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OriginPolicy {
    /// One of these origins. Default: `same-origin`, because a page of another site would act with the user's cookies.
    pub allow: Vec<OriginPattern>,
    /// Requests without an Origin. Default: `allow`, because only browsers send one, and only they need the protection.
    pub missing: Missing,
}

impl Default for OriginPolicy {
    fn default() -> OriginPolicy {
        OriginPolicy { allow: vec![OriginPattern::SameOrigin], missing: Missing::Allow }
    }
}

/// Why a request's origin is denied; safe to log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OriginDenial {
    /// No Origin field.
    #[error("no Origin, and origins.missing is deny")]
    Missing,
    /// RFC 6454 §7.3: a request has no more than one.
    #[error("more than one Origin field")]
    Several,
    /// Not `null` nor `scheme://host[:port]`.
    #[error("origin {0} is not an origin")]
    Unreadable(String),
    /// None of the allowed.
    #[error("origin {origin} is not among the allowed: {allowed}")]
    Refused {
        /// The request's.
        origin: String,
        /// The route's, as written.
        allowed: String,
    },
}

impl OriginPolicy {
    /// Judges all Origin fields of a request for `host`. `tls` says that TLS ended at this listener.
    ///
    /// Same origin means same host and port (by default the port of the Origin's scheme, on both sides). Schemes are not
    /// compared when the request came in plain, for TLS may have ended before us; but when it ended here, a page loaded
    /// without TLS is another origin, and could have been written by anyone on its way.
    ///
    /// # Errors
    /// The denial: which origin, and what was allowed.
    pub fn check<'a>(
        &self,
        origins: impl IntoIterator<Item = &'a HeaderValue>,
        host: &Host,
        tls: bool,
    ) -> Result<(), OriginDenial> {
        let mut origins = origins.into_iter();
        let value = match (origins.next(), origins.next(), self.missing) {
            (Some(value), None, _) => value,
            (Some(_), Some(_), _) => return Err(OriginDenial::Several),
            (None, _, Missing::Allow) => return Ok(()),
            (None, _, Missing::Deny) => return Err(OriginDenial::Missing),
        };
        let Some(origin) = Origin::parse(value.as_bytes()) else {
            return Err(OriginDenial::Unreadable(redact::printable(value.as_bytes()).into_owned()));
        };
        if self.allow.iter().any(|pattern| pattern.matches(&origin, host, tls)) {
            return Ok(());
        }
        Err(OriginDenial::Refused {
            origin: redact::printable(value.as_bytes()).into_owned(),
            allowed: self.allowed_for(host, tls),
        })
    }

    fn allowed_for(&self, host: &Host, tls: bool) -> String {
        let name = |pattern: &OriginPattern| match pattern {
            OriginPattern::SameOrigin if tls => format!("same-origin (https://{host})"),
            OriginPattern::SameOrigin => format!("same-origin ({host})"),
            other => other.to_string(),
        };
        match self.allow.as_slice() {
            [] => "none".to_owned(),
            allow => allow.iter().map(name).collect::<Vec<_>>().join(", "),
        }
    }
}

/// An Origin field's value (RFC 6454 §7.1, a single one).
enum Origin {
    Null,
    Url { scheme: String, host: Host },
}

impl Origin {
    fn parse(value: &[u8]) -> Option<Origin> {
        let text = std::str::from_utf8(value).ok()?;
        if text == "null" {
            return Some(Origin::Null);
        }
        let (scheme, authority) = text.split_once("://")?;
        Some(Origin::Url { scheme: parse_scheme(scheme)?, host: authority.parse().ok()? })
    }
}

impl OriginPattern {
    fn matches(&self, origin: &Origin, request: &Host, tls: bool) -> bool {
        match (self, origin) {
            (OriginPattern::Any, _) | (OriginPattern::Null, Origin::Null) => true,
            (OriginPattern::SameOrigin, Origin::Url { scheme, host }) => {
                host.name == request.name
                    && host.port_or_default(scheme) == request.port_or_default(scheme)
                    && !(tls && scheme == "http")
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
    use proptest::prelude::*;

    fn policy(allow: &[&str]) -> OriginPolicy {
        OriginPolicy { allow: allow.iter().map(|text| text.parse().unwrap()).collect(), missing: Missing::Allow }
    }

    fn check(policy: &OriginPolicy, origin: &[u8], host: &str, tls: bool) -> Result<(), OriginDenial> {
        policy.check([&HeaderValue::from_bytes(origin).unwrap()], &host.parse().unwrap(), tls)
    }

    #[test]
    fn the_same_origin_has_the_same_host_and_port() {
        for (origin, host, tls, allowed) in [
            ("https://a.example", "a.example", true, true),
            ("https://a.example", "A.example:443", true, true),
            ("https://a.example:443", "a.example", true, true),
            ("https://a.example:8443", "a.example:8443", true, true),
            ("https://a.example", "a.example", false, true), // TLS ended before us
            ("http://a.example", "a.example", false, true),
            ("http://a.example", "a.example:80", false, true),
            ("http://a.example", "a.example", true, false), // a page that came in plain
            ("https://a.example", "a.example:8443", true, false),
            ("http://a.example:8080", "a.example", false, false),
            ("https://b.example", "a.example", true, false),
            ("https://x.a.example", "a.example", true, false),
            ("https://a.example.evil", "a.example", true, false),
            ("http://[::1]:1", "[0::1]:1", false, true),
            ("null", "a.example", true, false),
            ("null", "null", true, false),
        ] {
            assert_eq!(
                check(&policy(&["same-origin"]), origin.as_bytes(), host, tls).is_ok(),
                allowed,
                "{origin} {host}"
            );
        }
    }

    #[test]
    fn a_request_that_names_no_host_has_no_same_origin() {
        let nobody = Host { name: String::new(), port: None };
        let value = HeaderValue::from_static("https://");
        assert!(OriginPolicy::default().check([&value], &nobody, true).is_err());
    }

    #[test]
    fn allowed_origins_may_have_wildcards_for_host_and_port() {
        for (pattern, yes, no) in [
            (
                "https://*.example.com",
                &["https://a.example.com", "https://a.b.example.com:443", "HTTPS://A.EXAMPLE.COM"][..],
                &[
                    "https://example.com",
                    "http://a.example.com",
                    "https://a.example.com:8443",
                    "https://a.example.com.evil",
                    "https://evilexample.com",
                ][..],
            ),
            (
                "http://localhost:*",
                &["http://localhost", "http://localhost:3000"],
                &["https://localhost:3000", "http://localhost.evil"],
            ),
            ("https://a.b:443", &["https://a.b", "https://a.b:443"], &["https://a.b:444"]),
            ("https://a.b", &["https://a.b", "https://a.b:443"], &["https://a.b:80"]),
            ("https://*", &["https://x"], &["http://x", "null"]),
            ("http://[::1]:*", &["http://[::1]:3"], &["http://[::2]:3"]),
            (
                "chrome-extension://abcdef",
                &["chrome-extension://abcdef"],
                &["chrome-extension://abcde", "https://abcdef"],
            ),
            ("null", &["null"], &["https://null", "Null"]),
            ("*", &["null", "https://x", "http://y:1"], &[]),
        ] {
            let policy = policy(&[pattern]);
            assert_eq!(policy.allow[0].to_string(), pattern);
            for origin in yes {
                assert_eq!(check(&policy, origin.as_bytes(), "h", false), Ok(()), "{pattern} {origin}");
            }
            for origin in no {
                assert!(check(&policy, origin.as_bytes(), "h", false).is_err(), "{pattern} {origin}");
            }
        }
    }

    #[test]
    fn what_is_no_origin_is_denied_even_where_any_is_allowed() {
        for origin in [
            &b""[..],
            b"https://",
            b"a.example",
            b"https://a.example/",
            b"https://a.example https://b.example",
            b"https://a.example, https://b.example",
            b"https://user@a.example",
            b"https://a.example:x",
            b"://a",
            b"1a://a",
            b"https://a\xff",
            b"file://",
        ] {
            assert!(
                matches!(check(&policy(&["*"]), origin, "h", false), Err(OriginDenial::Unreadable(_))),
                "{origin:?}"
            );
        }
        let value = HeaderValue::from_static("https://a");
        let twice = policy(&["*"]).check([&value, &value], &"a".parse().unwrap(), false);
        assert_eq!(twice, Err(OriginDenial::Several));
    }

    #[test]
    fn a_missing_origin_is_judged_as_configured() {
        let host: Host = "a".parse().unwrap();
        assert_eq!(OriginPolicy::default().check([], &host, true), Ok(()));
        let strict = OriginPolicy { missing: Missing::Deny, ..OriginPolicy::default() };
        assert_eq!(strict.check([], &host, true), Err(OriginDenial::Missing));
    }

    #[test]
    fn a_denial_says_which_origin_and_what_was_allowed() {
        let policy = policy(&["same-origin", "https://*.example.com"]);
        let denial = check(&policy, b"https://evil.example", "chat.example.com:8443", true).unwrap_err();
        assert_eq!(
            denial.to_string(),
            "origin https://evil.example is not among the allowed: \
             same-origin (https://chat.example.com:8443), https://*.example.com"
        );
        let denial = check(&policy, b"https://\xe2\x80\xae\t", "a", true).unwrap_err();
        assert_eq!(denial.to_string(), "origin https://%E2%80%AE%09 is not an origin");
    }

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

    #[test]
    fn the_policy_is_read_as_the_configuration_writes_it() {
        let read = |yaml: &str| {
            let value: serde_yaml::Value = serde_yaml::from_str(yaml).unwrap();
            serde_yaml::from_value::<OriginPolicy>(value).map_err(|error| error.to_string())
        };
        let policy = read("{ allow: [same-origin, 'https://*.example.com', '*'], missing: deny }").unwrap();
        assert_eq!(policy.missing, Missing::Deny);
        assert_eq!(policy.allow.len(), 3);
        assert_eq!(read(&serde_yaml::to_string(&policy).unwrap()).unwrap(), policy);
        assert_eq!(read("{}").unwrap(), OriginPolicy::default());
        assert!(
            read("{ allowed: [] }").unwrap_err().contains("unknown field `allowed`, expected `allow` or `missing`")
        );
        assert!(
            read("{ missing: refuse }").unwrap_err().contains("unknown variant `refuse`, expected `allow` or `deny`")
        );
        assert!(read("{ allow: [null] }").unwrap_err().contains("write \"null\" in quotes"));
        assert_eq!(read("{ allow: ['null'] }").unwrap().allow, [OriginPattern::Null]);
        assert!(read("{ allow: [a.b] }").unwrap_err().contains("`a.b` has no scheme: write `https://a.b`"));
    }

    proptest! {
        #[test]
        fn the_default_lets_only_the_named_host_in(origin in "(https|http)://[a-c.]{1,4}(:[1-9])?", host in "[a-c]{1,2}(:[1-9])?") {
            let host: Host = host.parse().unwrap();
            let value = HeaderValue::from_str(&origin).unwrap();
            let allowed = OriginPolicy::default().check([&value], &host, false).is_ok();
            let (scheme, rest) = origin.split_once("://").unwrap();
            let same = rest.parse::<Host>().is_ok_and(|o| {
                o.name == host.name && o.port_or_default(scheme) == host.port_or_default(scheme)
            });
            prop_assert_eq!(allowed, same);
        }
    }
}
