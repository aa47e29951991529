//! The hosts that a route matches.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{PatternError, as_string};
use crate::header::Host;

/// Matches one host, all hosts below a name, or any host. Ignores the port of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `*`
    Any,
    /// `chat.example.com`, as [`Host::name`] has it.
    Exact(String),
    /// `*.example.com`: one label or more below, but not `example.com` itself. Stored with the first dot.
    Below(String),
}

impl HostPattern {
    /// Returns true if `host`, in the form of [`Host::name`], matches.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Exact(name) => host == name,
            HostPattern::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }

    /// Returns true if this matches every host that `other` matches.
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
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::super::tests::from_yaml;
    use super::*;
    use crate::base::error_chain::error_chain;

    fn host(text: &str) -> HostPattern {
        text.parse().unwrap()
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
            assert_eq!(error_chain(&text.parse::<HostPattern>().unwrap_err()), message);
        }
        assert_eq!(from_yaml::<HostPattern>("a b").unwrap_err(), "`a b` is not a host: a host must not contain ` `");
    }
}
