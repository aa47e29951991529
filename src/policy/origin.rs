//! The origin check: which web pages may open a WebSocket (RFC 6455 §10.2), against cross-site hijacking.
//!
//! A browser sends cookies with a WebSocket handshake to any host, without a CORS check; only the Origin field
//! distinguishes the operator's pages from a stranger's. So the default is the same origin, and an unreadable value is
//! denied unless the list names it. Clients that are no browsers send no Origin, or any: this is no authentication, and
//! `missing: allow` gives nothing away. Many of them send what no page has (`file://`, a URL with a path, a `wss`
//! scheme): `"*"` admits all of it, since it protects nothing anyway.

mod pattern;

use http::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::header::forwarded::{Doubt, ForwardedRequest};
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

/// What to do with a page that was loaded without TLS, when the client came by TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Insecure {
    /// It is another origin.
    #[default]
    Deny,
    /// It is the same origin if its host and port are.
    Allow,
}

/// Which pages may open a WebSocket on a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OriginPolicy {
    /// One of these origins: `same-origin`, `scheme://host[:port]` with `*.` in front of the host or `*` as port, such as
    /// `https://*.example.com`, `capacitor://localhost` or `file://`; `"null"`, `"*"` for any value at all, or `{ exact: … }`.
    /// A client's `ws://` and `wss://` count as `http://` and `https://`. Judged before `headers.request` removes or sets
    /// anything. Default: `same-origin`, because a page of another site would act with the user's cookies.
    pub allow: Vec<OriginPattern>,
    /// Requests without an Origin. Default: `allow`, because only browsers send one, and only they need the protection.
    pub missing: Missing,
    /// Whether `http://` and the same host is `same-origin` also for a client that came by TLS: some libraries say `http`
    /// always (websocket-client before 1.3, python-socketio). Default: `deny`, because a page that was loaded without TLS
    /// may have been written by anyone on its way.
    pub insecure: Insecure,
}

impl Default for OriginPolicy {
    fn default() -> OriginPolicy {
        OriginPolicy { allow: vec![OriginPattern::SameOrigin], missing: Missing::Allow, insecure: Insecure::Deny }
    }
}

/// The target of a request, as the page that makes it knows it.
#[derive(Clone, Copy, Debug)]
pub struct OriginTarget<'a> {
    /// The authority.
    pub host: &'a Host,
    /// The port, in case the authority leaves it out.
    pub port: Option<u16>,
    /// Whether TLS ended at this listener.
    pub tls: bool,
    /// Whether the authority comes from a trusted proxy instead of the Host field.
    pub by_proxy: bool,
    /// Why a forwarded authority does not count.
    pub doubt: Option<Doubt>,
}

impl<'a> OriginTarget<'a> {
    /// The target of a request to `host`, by TLS or not, that trusted proxies describe by `forwarded_request`.
    pub fn new(host: &'a Host, tls: bool, forwarded_request: &'a ForwardedRequest) -> OriginTarget<'a> {
        OriginTarget {
            host: forwarded_request.host.as_ref().unwrap_or(host),
            port: forwarded_request.port,
            // A proxy that passes plain requests on by TLS serves plain pages.
            tls: tls && forwarded_request.https != Some(false),
            by_proxy: forwarded_request.host.is_some(),
            doubt: forwarded_request.doubt,
        }
    }

    /// Returns the ports that it may have: that of the authority, and the one forwarded beside it.
    fn ports(&self) -> impl Iterator<Item = Option<u16>> {
        let beside = self.port.filter(|_| self.host.port.is_none());
        [Some(self.host.port), beside.map(Some)].into_iter().flatten()
    }
}

/// Why a request's origin is denied; safe to log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OriginDenial {
    /// The request has no Origin field.
    #[error("no Origin, and origins.missing is deny")]
    Missing,
    /// The request has several; RFC 6454 §7.3 allows one.
    #[error("more than one Origin field")]
    Several,
    /// The origin is not allowed.
    #[error("origin {origin} is not among the allowed: {allowed}")]
    Refused {
        /// The request's origin.
        origin: String,
        /// The route's list, as written.
        allowed: String,
        /// How to let it in.
        hint: String,
    },
}

impl OriginDenial {
    /// Returns how to let it in, with the keys of the route.
    pub fn hint(&self) -> &str {
        match self {
            OriginDenial::Missing => "to let it in, write `missing: allow` in the route's `origins`",
            OriginDenial::Several => "to let it in, write `allow: [\"*\"]` in the route's `origins`: any then",
            OriginDenial::Refused { hint, .. } => hint,
        }
    }
}

impl OriginPolicy {
    /// Judges all Origin fields of a request.
    ///
    /// Same origin means same host and port (by default the port of the Origin's scheme, on both sides). Schemes are
    /// not compared if the request came in plain, since TLS may have ended before this proxy; but if TLS ended here, a
    /// page loaded without TLS is another origin, since anyone on its way could have written it.
    ///
    /// # Errors
    /// Returns which origin was denied, and which are allowed.
    pub fn check<'a>(
        &self,
        origins: impl IntoIterator<Item = &'a HeaderValue>,
        target: &OriginTarget<'_>,
    ) -> Result<(), OriginDenial> {
        let mut origins = origins.into_iter();
        let value = match (origins.next(), origins.next(), self.missing) {
            (Some(_), _, _) if self.allow.contains(&OriginPattern::Any) => return Ok(()),
            (Some(value), None, _) => value,
            (Some(_), Some(_), _) => return Err(OriginDenial::Several),
            (None, _, Missing::Allow) => return Ok(()),
            (None, _, Missing::Deny) => return Err(OriginDenial::Missing),
        };
        let origin = Origin::of(value.as_bytes());
        let has_same_origin = self.allow.contains(&OriginPattern::SameOrigin);
        let is_insecure = has_same_origin && origin.is_insecure(target);
        if self.allow.iter().any(|pattern| pattern.matches(&origin, target))
            || is_insecure && self.insecure == Insecure::Allow
        {
            return Ok(());
        }
        Err(OriginDenial::Refused {
            origin: match redact::printable(value.as_bytes()) {
                text if text.is_empty() => "\"\"".to_owned(),
                text => text.into_owned(),
            },
            allowed: self.allowed_for(target),
            hint: self.hint(&origin, target, is_insecure),
        })
    }

    fn allowed_for(&self, target: &OriginTarget<'_>) -> String {
        let by = if target.by_proxy { "as the proxy in front says" } else { "as Host says" };
        let (scheme, host) = (if target.tls { "https://" } else { "" }, target.host);
        let name = |pattern: &OriginPattern| match pattern {
            OriginPattern::SameOrigin if host.name.is_empty() => "same-origin (there is no Host)".to_owned(),
            OriginPattern::SameOrigin => format!("same-origin ({scheme}{host}, {by})"),
            other => other.to_string(),
        };
        match self.allow.as_slice() {
            [] => "none".to_owned(),
            allow => allow.iter().map(name).collect::<Vec<_>>().join(", "),
        }
    }

    fn hint(&self, origin: &Origin<'_>, target: &OriginTarget<'_>, is_insecure: bool) -> String {
        if is_insecure {
            return "to let in clients that say http although they come by TLS, write `insecure: allow` in the route's \
                    `origins`"
                .to_owned();
        }
        let mut hint = match origin.item() {
            Some(item) => format!("to let it in, add {item} to the route's `origins.allow`"),
            None => "to let it in, write `allow: [\"*\"]` in the route's `origins`: any then".to_owned(),
        };
        let is_page = origin.is_origin() && self.allow.contains(&OriginPattern::SameOrigin);
        match target.doubt {
            Some(doubt) if is_page => hint.push_str(&format!("; {doubt}")),
            None if is_page && !target.by_proxy => hint.push_str(
                "; if a proxy in front has changed the Host field, have it pass that on (nginx: `proxy_set_header Host \
                 $http_host;`), or send X-Forwarded-Host and be one of the listener's `trusted_proxies`",
            ),
            _ => {}
        }
        hint
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(allow: &[&str]) -> OriginPolicy {
        OriginPolicy { allow: allow.iter().map(|text| text.parse().unwrap()).collect(), ..OriginPolicy::default() }
    }

    fn read(yaml: &str) -> Result<OriginPolicy, String> {
        let value: serde_yaml::Value = serde_yaml::from_str(yaml).unwrap();
        serde_yaml::from_value::<OriginPolicy>(value).map_err(|error| error.to_string())
    }

    fn check(policy: &OriginPolicy, origin: &[u8], host: &str, tls: bool) -> Result<(), OriginDenial> {
        check_forwarded(policy, origin, host, tls, &ForwardedRequest::default())
    }

    fn check_forwarded(
        policy: &OriginPolicy,
        origin: &[u8],
        host: &str,
        tls: bool,
        forwarded_request: &ForwardedRequest,
    ) -> Result<(), OriginDenial> {
        let host = host.parse().unwrap();
        policy.check([&HeaderValue::from_bytes(origin).unwrap()], &OriginTarget::new(&host, tls, forwarded_request))
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
            ("wss://a.example", "a.example", true, true), // clients that send the scheme of the WebSocket
            ("WSS://a.example:8443", "a.example:8443", true, true),
            ("wss://a.example", "a.example:443", false, true),
            ("ws://a.example", "a.example", false, true),
            ("ws://a.example", "a.example:80", false, true),
            ("ws://a.example", "a.example", true, false),
            ("wss://b.example", "a.example", true, false),
            ("wss://a.example", "a.example:8443", true, false),
            ("wss://a.example/", "a.example", true, false),
            ("https://a.example.", "A.example", true, true),
            ("", "a.example", true, false),
            ("file://", "a.example", false, false),
            ("a.example", "a.example", false, false),
            ("https://a.example/", "a.example", true, false),
            ("https://a.example https://b.example", "a.example", true, false),
            ("https://user@a.example", "a.example", true, false),
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
        let forwarded_request = ForwardedRequest::default();
        assert!(
            OriginPolicy::default().check([&value], &OriginTarget::new(&nobody, true, &forwarded_request)).is_err()
        );
    }

    #[test]
    fn a_page_without_tls_is_the_same_origin_where_that_is_allowed() {
        let policy = OriginPolicy { insecure: Insecure::Allow, ..OriginPolicy::default() };
        for (origin, host, allowed) in [
            ("http://a.example", "a.example", true),
            ("http://a.example", "a.example:443", true),
            ("http://a.example:443", "a.example", true),
            ("http://a.example:8443", "a.example:8443", true),
            ("ws://a.example", "a.example", true),
            ("https://a.example", "a.example", true),
            ("http://a.example", "a.example:8443", false),
            ("http://a.example:8080", "a.example", false),
            ("http://b.example", "a.example", false),
            ("http://x.a.example", "a.example", false),
            ("null", "a.example", false),
        ] {
            assert_eq!(check(&policy, origin.as_bytes(), host, true).is_ok(), allowed, "{origin} {host}");
        }
        // `insecure: allow` only extends `same-origin`: it admits nothing if that is not in the list.
        let others = OriginPolicy { allow: vec!["https://b.example".parse().unwrap()], ..policy };
        assert!(check(&others, b"http://a.example", "a.example", true).is_err());
        let denial = check(&OriginPolicy::default(), b"http://a.example", "a.example", true).unwrap_err();
        assert!(denial.hint().contains("`insecure: allow` in the route's `origins`"), "{}", denial.hint());
    }

    #[test]
    fn behind_a_trusted_proxy_the_host_is_what_it_says() {
        let forwarded_request = |host: &str, port, https| ForwardedRequest {
            host: (!host.is_empty()).then(|| host.parse().unwrap()),
            port,
            https,
            doubt: None,
        };
        for (origin, forwarded_request, tls, allowed) in [
            ("https://public.example", forwarded_request("public.example", None, Some(true)), false, true),
            ("https://public.example", forwarded_request("public.example:443", None, None), false, true),
            ("https://inner", forwarded_request("public.example", None, None), false, false),
            ("https://public.example:8443", forwarded_request("public.example:8443", None, None), false, true),
            ("https://public.example:8443", forwarded_request("public.example", None, None), false, false),
            // A proxy that leaves the port out of the host, and a proxy whose own port is not the public one.
            ("https://public.example:8443", forwarded_request("public.example", Some(8443), None), false, true),
            ("https://public.example", forwarded_request("public.example", Some(80), None), false, true),
            ("https://public.example:8443", forwarded_request("public.example:9", Some(8443), None), false, false),
            ("https://inner:8443", forwarded_request("", Some(8443), None), false, true),
            // TLS between the two proxies proves nothing about the page.
            ("http://public.example", forwarded_request("public.example", None, Some(false)), true, true),
            ("http://public.example", forwarded_request("public.example", None, Some(true)), true, false),
        ] {
            let judged = check_forwarded(&OriginPolicy::default(), origin.as_bytes(), "inner", tls, &forwarded_request);
            assert_eq!(judged.is_ok(), allowed, "{origin} {forwarded_request:?}");
        }
    }

    #[test]
    fn a_refused_page_is_told_of_the_host_and_the_proxy_in_front() {
        let denial = |forwarded_request: &ForwardedRequest| {
            let denial =
                check_forwarded(&OriginPolicy::default(), b"https://a.example", "inner:8080", false, forwarded_request);
            let denial = denial.unwrap_err();
            format!("{denial}: {}", denial.hint())
        };
        let by_host = denial(&ForwardedRequest::default());
        for word in ["(inner:8080, as Host says)", "\"https://a.example\"", "proxy_set_header Host", "trusted_proxies"]
        {
            assert!(by_host.contains(word), "{by_host}");
        }
        let forwarded_request =
            ForwardedRequest { host: Some("b.example".parse().unwrap()), ..ForwardedRequest::default() };
        let by_proxy = denial(&forwarded_request);
        assert!(by_proxy.contains("(b.example, as the proxy in front says)"), "{by_proxy}");
        assert!(!by_proxy.contains("proxy_set_header"), "{by_proxy}");
        for (doubt, word) in
            [(Doubt::Untrusted, "trusted_proxies"), (Doubt::Unreadable, "cannot be read"), (Doubt::Disagree, "several")]
        {
            let doubted = denial(&ForwardedRequest { doubt: Some(doubt), ..ForwardedRequest::default() });
            assert!(doubted.contains("as Host says") && doubted.contains(word), "{doubted}");
        }
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
            ("https://a.b", &["https://a.b", "https://a.b:443", "wss://a.b"], &["https://a.b:80", "ws://a.b"]),
            ("file://", &["file://", "FILE://"], &["file:///", "file://x", "null", ""]),
            ("app://.", &["app://."], &["app://", "app://x", "https://."]),
            ("capacitor://localhost", &["capacitor://localhost"], &["capacitor://localhost:1", "http://localhost"]),
            ("tauri://localhost", &["tauri://localhost"], &["https://tauri.localhost"]),
            ("ionic://localhost", &["ionic://localhost"], &["ionic://x"]),
            ("moz-extension://*", &["moz-extension://1b2c-3d"], &["chrome-extension://1b2c-3d"]),
            ("vscode-webview://0a1b2c", &["vscode-webview://0A1B2C"], &["vscode-webview://x"]),
            ("http://[::1]", &["http://[::1]:80", "http://[0:0::1]"], &["http://[::1]:81"]),
            ("https://*", &["https://x"], &["http://x", "null"]),
            ("http://[::1]:*", &["http://[::1]:3"], &["http://[::2]:3"]),
            (
                "chrome-extension://abcdef",
                &["chrome-extension://abcdef"],
                &["chrome-extension://abcde", "https://abcdef"],
            ),
            ("null", &["null"], &["https://null", "Null"]),
            ("*", &["null", "https://x", "http://y:1", "file://", "", "localhost:12345", "https://x/y", "?"], &[]),
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
    fn what_is_no_origin_is_let_in_where_any_is_or_where_it_is_named() {
        for origin in [
            &b""[..],
            b"https://",
            b"a.example",
            b"localhost:12345",
            b"https://a.example/",
            b"https://a.example/path?q",
            b"https://a.example https://b.example",
            b"https://a.example, https://b.example",
            b"https://user@a.example",
            b"https://a.example:x",
            b"://a",
            b"1a://a",
            b"https://a\xff",
            b"file://",
            b"file:///android_asset",
        ] {
            assert_eq!(check(&policy(&["*"]), origin, "h", false), Ok(()), "{origin:?}");
            for pattern in ["same-origin", "https://*", "https://a.example", "null"] {
                assert!(check(&policy(&[pattern]), origin, "a.example", false).is_err(), "{pattern} {origin:?}");
            }
            let Ok(text) = str::from_utf8(origin) else { continue };
            let named = read(&format!("{{ allow: [{{ exact: {text:?} }}] }}")).unwrap();
            assert_eq!(check(&named, origin, "h", false), Ok(()), "{named:?}");
            assert!(check(&named, b"https://a.example", "a.example", false).is_err(), "{named:?}");
            assert_eq!(read(&serde_yaml::to_string(&named).unwrap()).unwrap(), named);
        }
        let (value, other) = (HeaderValue::from_static("https://a"), HeaderValue::from_static("x"));
        let (host, forwarded_request) = ("a".parse().unwrap(), ForwardedRequest::default());
        let target = OriginTarget::new(&host, false, &forwarded_request);
        assert_eq!(policy(&["*"]).check([&value, &other], &target), Ok(()));
        assert_eq!(policy(&["same-origin"]).check([&value, &value], &target), Err(OriginDenial::Several));
        let strict = OriginPolicy { missing: Missing::Deny, ..policy(&["*"]) };
        assert_eq!(strict.check([], &target), Err(OriginDenial::Missing));
    }

    #[test]
    fn a_missing_origin_is_judged_as_configured() {
        let host: Host = "a".parse().unwrap();
        let forwarded_request = ForwardedRequest::default();
        let target = OriginTarget::new(&host, true, &forwarded_request);
        assert_eq!(OriginPolicy::default().check([], &target), Ok(()));
        let strict = OriginPolicy { missing: Missing::Deny, ..OriginPolicy::default() };
        assert_eq!(strict.check([], &target), Err(OriginDenial::Missing));
    }

    #[test]
    fn a_denial_says_which_origin_and_what_was_allowed() {
        let policy = policy(&["same-origin", "https://*.example.com"]);
        let denial = check(&policy, b"https://evil.example", "chat.example.com:8443", true).unwrap_err();
        assert_eq!(
            denial.to_string(),
            "origin https://evil.example is not among the allowed: \
             same-origin (https://chat.example.com:8443, as Host says), https://*.example.com"
        );
        let denial = check(&policy, b"https://\xe2\x80\xae\t", "a", true).unwrap_err();
        assert!(denial.to_string().starts_with("origin https://%E2%80%AE%09 is not among the allowed"), "{denial}");
        assert!(denial.hint().contains("`allow: [\"*\"]`"), "{}", denial.hint());
    }

    #[test]
    fn the_policy_is_read_as_the_configuration_writes_it() {
        let policy =
            read("{ allow: [same-origin, 'https://*.example.com', '*', file://], missing: deny, insecure: allow }");
        let policy = policy.unwrap();
        assert_eq!((policy.missing, policy.insecure), (Missing::Deny, Insecure::Allow));
        assert_eq!(policy.allow.len(), 4);
        assert_eq!(read(&serde_yaml::to_string(&policy).unwrap()).unwrap(), policy);
        assert_eq!(read("{}").unwrap(), OriginPolicy::default());
        assert!(
            read("{ allowed: [] }")
                .unwrap_err()
                .contains("unknown field `allowed`, expected one of `allow`, `missing`, `insecure`")
        );
        assert!(
            read("{ missing: refuse }").unwrap_err().contains("unknown variant `refuse`, expected `allow` or `deny`")
        );
        assert!(read("{ allow: [null] }").unwrap_err().contains("write \"null\" in quotes"));
        assert_eq!(read("{ allow: ['null'] }").unwrap().allow, [OriginPattern::Null]);
        assert!(read("{ allow: [a.b] }").unwrap_err().contains("`a.b` has no scheme: write `https://a.b`"));
    }

    #[test]
    fn what_no_field_says_cannot_be_named() {
        for (exact, message) in [
            ("' a'", "` a` never matches, because the value of a field is read without the spaces around it"),
            ("\"a\\tb\"", "`a\\tb` never matches, because the value of a field has no control characters"),
        ] {
            let error = read(&format!("{{ allow: [{{ exact: {exact} }}] }}")).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_the_hint_says_to_add_is_an_item_that_lets_it_in(origin in "(https?://|wss?://|file://|app://|)[a-c.:/1 ]{0,6}") {
            let origin = origin.trim();
            if let Err(denial) = check(&OriginPolicy::default(), origin.as_bytes(), "a", false) {
                let item = denial.hint().strip_prefix("to let it in, add ").unwrap();
                let (item, _) = item.split_once(" to the route's `origins.allow`").unwrap();
                let policy = read(&format!("{{ allow: [{item}] }}")).unwrap();
                prop_assert_eq!(check(&policy, origin.as_bytes(), "z", false), Ok(()), "{}", item);
            }
        }

        #[test]
        fn the_default_lets_only_the_named_host_in(origin in "(https|http)://[a-c.]{1,4}(:[1-9])?", host in "[a-c]{1,2}(:[1-9])?") {
            let host: Host = host.parse().unwrap();
            let value = HeaderValue::from_str(&origin).unwrap();
            let forwarded_request = ForwardedRequest::default();
            let target = OriginTarget::new(&host, false, &forwarded_request);
            let allowed = OriginPolicy::default().check([&value], &target).is_ok();
            let (scheme, rest) = origin.split_once("://").unwrap();
            let same = rest.parse::<Host>().is_ok_and(|o| {
                o.name == host.name && o.port_or_default(scheme) == host.port_or_default(scheme)
            });
            prop_assert_eq!(allowed, same);
        }
    }
}
