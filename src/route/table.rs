//! What a route asks of a request, and the table that finds the first route whose questions are all answered.

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::header::redact::decode;

use super::pattern::{FieldName, HostPattern, PathPattern, Subprotocol, ValuePattern};

/// Which requests a route is for. All that is given must hold; what is left out is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// One of these hosts. None given: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// The path, without the query. Not given: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathPattern>,
    /// All of these headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<FieldName, ValuePattern>,
    /// All of these parameters of the query, compared decoded.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, ValuePattern>,
    /// At least one of these subprotocols is offered. None given: any or no offer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subprotocols: Vec<Subprotocol>,
}

/// What a request shows of itself to be routed by.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// As [`crate::header::Host::name`].
    pub host: &'a str,
    /// In normal form ([`crate::header::path::normalise`]).
    pub path: &'a str,
    /// As it came, without the `?`.
    pub query: Option<&'a str>,
    /// All fields.
    pub headers: &'a HeaderMap,
}

impl<'a> Head<'a> {
    /// The values of a field; None for one that is not text.
    fn field(&self, name: &FieldName) -> impl Iterator<Item = Option<&'a str>> {
        self.headers.get_all(name.name()).into_iter().map(|value| std::str::from_utf8(value.as_bytes()).ok())
    }

    /// The values of a parameter of the query, decoded.
    fn parameter(&self, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
        let pairs = self.query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .filter_map(move |(key, value)| if decode(key) == name { Some(decode(value)) } else { None })
    }

    /// The subprotocols offered, over all lines (RFC 6455 §11.3.4).
    fn subprotocols(&self) -> impl Iterator<Item = &'a str> {
        let lines = self.headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
        lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim)
    }
}

impl Match {
    /// Whether the request is for this route. Cheap questions first.
    pub fn matches(&self, head: &Head<'_>) -> bool {
        (self.hosts.is_empty() || self.hosts.iter().any(|host| host.matches(head.host)))
            && self.path.as_ref().is_none_or(|path| path.matches(head.path))
            && self.headers.iter().all(|(name, pattern)| pattern.matches(head.field(name)))
            && self.query.iter().all(|(name, pattern)| pattern.matches(head.parameter(name).map(Some)))
            && (self.subprotocols.is_empty()
                || head.subprotocols().any(|offered| self.subprotocols.iter().any(|one| one.as_str() == offered)))
    }

    /// Whether every request that `other` matches is surely matched by this too. May say no where a proof would take
    /// more than comparing pattern by pattern.
    pub fn covers(&self, other: &Match) -> bool {
        let any_host = [HostPattern::Any];
        let hosts = |hosts: &'_ [HostPattern]| if hosts.is_empty() { any_host.to_vec() } else { hosts.to_vec() };
        let ours = hosts(&self.hosts);
        hosts(&other.hosts).iter().all(|theirs| ours.iter().any(|host| host.covers(theirs)))
            && self.covers_apart_from_hosts(other)
    }

    /// The same, whatever the hosts are.
    pub(super) fn covers_apart_from_hosts(&self, other: &Match) -> bool {
        fn all<K: Ord>(asked: &BTreeMap<K, ValuePattern>, given: &BTreeMap<K, ValuePattern>) -> bool {
            asked.iter().all(|(name, pattern)| given.get(name).is_some_and(|other| pattern.covers(other)))
        }
        (match (&self.path, &other.path) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => ours.covers(theirs),
        }) && all(&self.headers, &other.headers)
            && all(&self.query, &other.query)
            && (self.subprotocols.is_empty()
                || !other.subprotocols.is_empty()
                    && other.subprotocols.iter().all(|offered| self.subprotocols.contains(offered)))
    }
}

/// Routes in the order of the file.
///
/// A plain walk: a few string comparisons a route, once for each request, is nothing beside a handshake. First match wins,
/// which an index by host would have to reproduce.
#[derive(Debug)]
pub struct Table<T> {
    routes: Vec<(Match, T)>,
}

impl<T> Table<T> {
    /// A table of routes, the first of which wins.
    pub fn new(routes: Vec<(Match, T)>) -> Table<T> {
        Table { routes }
    }

    /// The first route that matches.
    pub fn find(&self, head: &Head<'_>) -> Option<&T> {
        self.routes.iter().find(|(asked, _)| asked.matches(head)).map(|(_, route)| route)
    }

    /// All routes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.routes.iter().map(|(_, route)| route)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::super::shadow::shadowed;
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn asked(yaml: &str) -> Match {
        serde_yaml::from_value(serde_yaml::from_str(yaml).unwrap()).unwrap()
    }

    fn table(routes: &[&str]) -> Table<usize> {
        Table::new(routes.iter().enumerate().map(|(index, yaml)| (asked(yaml), index)).collect())
    }

    fn unreachable(table: &Table<usize>) -> Vec<(usize, usize)> {
        let asked: Vec<&Match> = table.routes.iter().map(|(asked, _)| asked).collect();
        shadowed(&asked).pairs
    }

    fn matches(yaml: &str, target: &str, fields: &[(&str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let (host, rest) = target.split_once('/').unwrap();
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        asked(yaml).matches(&Head { host, path: &format!("/{path}"), query, headers: &headers })
    }

    #[test]
    fn a_match_is_read_as_the_configuration_writes_it() {
        let yaml = "{ hosts: [a.b, '*.c'], path: { prefix: /ws }, headers: { X-Tenant: acme }, \
                    query: { v: { regex: '^[0-9]+$' } }, subprotocols: [chat] }";
        let read = asked(yaml);
        assert_eq!(asked(&serde_yaml::to_string(&read).unwrap()), read);
        assert_eq!(asked("{}"), Match::default());
        let wrong = serde_yaml::from_str::<serde_yaml::Value>("{ host: a }").unwrap();
        let error = serde_yaml::from_value::<Match>(wrong).unwrap_err().to_string();
        assert_eq!(error, "unknown field `host`, expected one of `hosts`, `path`, `headers`, `query`, `subprotocols`");
    }

    #[test]
    fn all_that_is_asked_must_hold() {
        let yaml =
            "{ hosts: [a.b], path: { prefix: /ws }, headers: { x-t: '1' }, query: { v: '2' }, subprotocols: [chat] }";
        let fields = [("x-t", "1"), ("sec-websocket-protocol", "chat")];
        assert!(matches(yaml, "a.b/ws?v=2", &fields));
        assert!(!matches(yaml, "a.c/ws?v=2", &fields));
        assert!(!matches(yaml, "a.b/wsx?v=2", &fields));
        assert!(!matches(yaml, "a.b/ws?v=3", &fields));
        assert!(!matches(yaml, "a.b/ws?v=2", &fields[..1]));
        assert!(!matches(yaml, "a.b/ws?v=2", &fields[1..]));
        assert!(matches("{}", "/", &[]));
    }

    #[test]
    fn a_query_is_compared_decoded() {
        for (query, has) in [
            ("name=a%20b", true),
            ("name=a+b", true),
            ("x=1&n%61me=a+b", true),
            ("name=x&name=a+b", true),
            ("name=a b%", false),
            ("name", false),
            ("xname=a+b", false),
            ("", false),
        ] {
            assert_eq!(matches("{ query: { name: a b } }", &format!("h/?{query}"), &[]), has, "{query}");
        }
        assert!(matches("{ query: { debug: { present: true } } }", "h/?debug", &[]));
        assert!(matches("{ query: { debug: { present: false } } }", "h/", &[]));
        assert!(matches("{ query: { debug: '' } }", "h/?debug", &[]));
    }

    #[test]
    fn one_of_the_subprotocols_is_enough_and_case_counts() {
        let yaml = "{ subprotocols: [chat, graphql-ws] }";
        let offer = |lines: &[&str]| {
            let fields: Vec<_> = lines.iter().map(|line| ("sec-websocket-protocol", *line)).collect();
            matches(yaml, "h/", &fields)
        };
        assert!(offer(&["mqtt, graphql-ws"]));
        assert!(offer(&["mqtt", "chat"]));
        assert!(!offer(&["Chat"]));
        assert!(!offer(&["chat2"]));
        assert!(!offer(&[]));
    }

    #[test]
    fn a_value_that_is_not_text_is_present_but_matches_nothing() {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_bytes(b"\xff").unwrap());
        let head = Head { host: "h", path: "/", query: None, headers: &headers };
        assert!(asked("{ headers: { X-A: { present: true } } }").matches(&head));
        assert!(!asked("{ headers: { X-A: { regex: '[^a]' } } }").matches(&head));
    }

    #[test]
    fn the_first_match_wins() {
        let table = table(&["{ hosts: [a], path: { prefix: /x } }", "{ hosts: [a] }", "{ hosts: ['*.b'] }"]);
        let headers = HeaderMap::new();
        let find = |host, path| table.find(&Head { host, path, query: None, headers: &headers }).copied();
        assert_eq!(find("a", "/x/y"), Some(0));
        assert_eq!(find("a", "/y"), Some(1));
        assert_eq!(find("c.b", "/x"), Some(2));
        assert_eq!(find("b", "/x"), None);
    }

    #[test]
    fn routes_behind_one_that_takes_all_of_theirs_are_found() {
        for (first, second, shadowed) in [
            ("{}", "{ hosts: [a] }", true),
            ("{}", "{}", true),
            ("{ hosts: [a] }", "{}", false),
            ("{ hosts: ['*'] }", "{ path: { exact: /a } }", true),
            ("{ hosts: ['*.a', b] }", "{ hosts: [x.a, b, '*.y.a'] }", true),
            ("{ hosts: ['*.a'] }", "{ hosts: [a] }", false),
            ("{ hosts: ['*.y.a'] }", "{ hosts: ['*.a'] }", false),
            ("{ path: { prefix: /ws } }", "{ path: { prefix: /ws/a } }", true),
            ("{ path: { prefix: /ws } }", "{ path: { exact: /ws } }", true),
            ("{ path: { prefix: /ws } }", "{ path: { prefix: /wsx } }", false),
            ("{ path: { prefix: /ws/ } }", "{ path: { prefix: /ws } }", false),
            ("{ path: { prefix: / } }", "{}", false), // `OPTIONS *`
            ("{ path: { regex: '/a.*' } }", "{ path: { exact: /ab } }", true),
            ("{ path: { regex: '/a.*' } }", "{ path: { regex: '/ab.*' } }", false),
            ("{ headers: { x: '1' } }", "{}", false),
            ("{ headers: { X: '1' } }", "{ headers: { x: '1', y: '2' } }", true),
            ("{ headers: { x: { present: true } } }", "{ headers: { x: '1' } }", true),
            ("{ headers: { x: { present: false } } }", "{ headers: { x: '1' } }", false),
            ("{ query: { v: '1' } }", "{ query: { v: '2' } }", false),
            ("{ subprotocols: [a, b] }", "{ subprotocols: [a] }", true),
            ("{ subprotocols: [a] }", "{ subprotocols: [a, b] }", false),
            ("{ subprotocols: [a] }", "{}", false),
        ] {
            let expected = if shadowed { vec![(1, 0)] } else { vec![] };
            assert_eq!(unreachable(&table(&[first, second])), expected, "{first} {second}");
        }
        assert_eq!(
            unreachable(&table(&["{ hosts: [a] }", "{}", "{ hosts: [a] }", "{ hosts: [b] }"])),
            [(2, 0), (3, 1)]
        );
    }

    fn a_match() -> impl Strategy<Value = String> {
        let host = prop_oneof![
            Just(""),
            Just("hosts: [a.b]"),
            Just("hosts: ['*.b']"),
            Just("hosts: ['*', a.b]"),
            Just("hosts: [x.a.b, '*.a.b', b]"),
            Just("hosts: ['*.a.b', x.a.b]"),
        ];
        let path = prop_oneof![
            Just(""),
            Just("path: { prefix: / }"),
            Just("path: { prefix: /a }"),
            Just("path: { prefix: /a/ }"),
            Just("path: { exact: /a }"),
            Just("path: { exact: /a/b }"),
            Just("path: { exact: / }"),
            Just("path: { prefix: /a/b }"),
            Just("path: { regex: '/a(/b)?' }"),
        ];
        let query = prop_oneof![
            Just(""),
            Just("query: { v: '1' }"),
            Just("query: { v: { present: true } }"),
            Just("query: { v: { present: false } }"),
            Just("query: { v: { regex: '[0-9]' } }"),
            Just("query: { v: x, w: '1' }"),
            Just("headers: { x: '1' }, query: { v: { present: true } }"),
        ];
        let subprotocols = prop_oneof![Just(""), Just("subprotocols: [a]"), Just("subprotocols: [a, b]")];
        (host, path, query, subprotocols).prop_map(|parts| {
            let parts: Vec<_> =
                [parts.0, parts.1, parts.2, parts.3].into_iter().filter(|part| !part.is_empty()).collect();
            format!("{{ {} }}", parts.join(", "))
        })
    }

    proptest! {
        #[test]
        fn a_route_called_unreachable_is_never_found(routes in proptest::collection::vec(a_match(), 1..9)) {
            let table = table(&routes.iter().map(String::as_str).collect::<Vec<_>>());
            let shadowed: Vec<usize> = unreachable(&table).into_iter().map(|(index, _)| index).collect();
            // As one finds them who asks each about each.
            let asked: Vec<&Match> = table.routes.iter().map(|(asked, _)| asked).collect();
            let first = |index: usize| (0..index).find(|earlier| asked[*earlier].covers(asked[index]));
            let one_by_one: Vec<(usize, usize)> = (0..asked.len()).filter_map(|index| Some((index, first(index)?))).collect();
            prop_assert_eq!(unreachable(&table), one_by_one);
            let headers = HeaderMap::new();
            for host in ["a.b", "x.b", "b", "x.a.b", ""] {
                for path in ["/", "/a", "/a/", "/a/b", "/ab", "*"] {
                    for query in [None, Some("v=1"), Some("v=x"), Some("v=x&v=1")] {
                        let found = table.find(&Head { host, path, query, headers: &headers });
                        prop_assert!(found.is_none_or(|index| !shadowed.contains(index)));
                    }
                }
            }
        }
    }
}
