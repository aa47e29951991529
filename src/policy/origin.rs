//! Which web pages may open a WebSocket here: RFC 6455 §10.2 against cross-site hijacking.
//!
//! A browser sends cookies with a WebSocket handshake to any host and asks no CORS question; the Origin field is all that
//! tells a page of ours from a stranger's. So the default is the same origin, and what cannot be read is denied. Clients
//! that are no browsers send no Origin, or any: this is no authentication, and `missing: allow` costs nothing.

mod pattern;

use http::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::header::{Host, redact};
use pattern::Origin;

pub use pattern::{OriginPattern, OriginPatternError, PortPattern};

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
            ("app://a.example", "a.example", false, false),
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
