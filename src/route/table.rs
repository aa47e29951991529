//! The conditions of a route, and the table that finds the first route whose conditions all match.

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::header::client_certificate::ClientCertificate;
use crate::header::path::PathError;
use crate::header::redact::decode;

use super::pattern::{ClientCertPattern, FieldName, HostPattern, MethodName, PathPattern, Subprotocol, ValuePattern};
use super::reading::{self, EncodedSlash, PathReading, Paths, Readings};

/// The most methods that a 405 lists.
const ALLOWED_MAX: usize = 32;

/// Which requests a route is for. All that is given must hold; what is left out is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// The request came on one of these listeners, by name. None given: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<String>,
    /// Its method is one of these, such as GET, which a WebSocket's handshake has. HEAD is not part of GET. A request that
    /// fails on all routes by its method alone gets a 405. None given: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<MethodName>,
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
    /// The client has shown a certificate (`client_auth` of the listener) that is so: `{ san: "*.devices.example.com" }`. `{}` is
    /// any that an authority of `client_auth` has signed. Clients without one, and with another, go to the next route.
    /// Not given: with or without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<Box<ClientCertPattern>>,
}

/// What a request shows of itself to be routed by.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Name of the listener that it came on.
    pub listener: &'a str,
    /// Its method.
    pub method: &'a Method,
    /// As [`crate::header::Host::name`].
    pub host: &'a str,
    /// In normal form ([`crate::header::path::normalise`]).
    pub path: &'a str,
    /// As it came, without the `?`.
    pub query: Option<&'a str>,
    /// All fields.
    pub headers: &'a HeaderMap,
    /// The certificate that its client has shown.
    pub certificate: Option<&'a ClientCertificate>,
}

impl<'a> RequestView<'a> {
    /// The values of a field; None for one that is not text.
    pub(super) fn field(&self, name: &FieldName) -> impl Iterator<Item = Option<&'a str>> {
        self.headers.get_all(name.name()).into_iter().map(|value| std::str::from_utf8(value.as_bytes()).ok())
    }

    /// The values of a parameter of the query, decoded.
    pub(super) fn parameter(&self, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
        let pairs = self.query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .filter_map(move |(key, value)| if decode(key) == name { Some(decode(value)) } else { None })
    }

    /// The subprotocols offered, over all lines (RFC 6455 §11.3.4).
    pub(super) fn subprotocols(&self) -> impl Iterator<Item = &'a str> {
        let lines = self.headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
        lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim)
    }
}

impl Match {
    /// Returns true if the request is for this route. Cheap questions first.
    pub fn matches(&self, head: &RequestView<'_>) -> bool {
        self.takes_method(head.method) && self.matches_apart_from_method(head)
    }

    fn takes_method(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|one| one.method() == method)
    }

    fn takes_certificate(&self, shown: Option<&ClientCertificate>) -> bool {
        self.client_cert.as_ref().is_none_or(|asked| shown.is_some_and(|shown| asked.matches(shown)))
    }

    fn matches_apart_from_method(&self, head: &RequestView<'_>) -> bool {
        (self.listeners.is_empty() || self.listeners.iter().any(|name| name == head.listener))
            && (self.hosts.is_empty() || self.hosts.iter().any(|host| host.matches(head.host)))
            && self.path.as_ref().is_none_or(|path| path.matches(head.path))
            && self.takes_certificate(head.certificate)
            && self.headers.iter().all(|(name, pattern)| pattern.matches(head.field(name)))
            && self.query.iter().all(|(name, pattern)| pattern.matches(head.parameter(name).map(Some)))
            && (self.subprotocols.is_empty()
                || head.subprotocols().any(|offered| self.subprotocols.iter().any(|one| one.as_str() == offered)))
    }

    /// Returns true if every request that `other` matches is surely matched by this too. May say no where a proof would
    /// take more than comparing pattern by pattern.
    pub fn covers(&self, other: &Match) -> bool {
        let any_host = [HostPattern::Any];
        let hosts = |hosts: &'_ [HostPattern]| if hosts.is_empty() { any_host.to_vec() } else { hosts.to_vec() };
        let ours = hosts(&self.hosts);
        hosts(&other.hosts).iter().all(|theirs| ours.iter().any(|host| host.covers(theirs)))
            && self.covers_apart_from_hosts(other)
    }

    /// The same, whatever the hosts are.
    pub(super) fn covers_apart_from_hosts(&self, other: &Match) -> bool {
        (match (&self.path, &other.path) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => ours.covers(theirs),
        }) && self.covers_conditions(other)
    }

    /// Returns true if what this asks beside host and path surely holds for every request that `other` matches.
    pub fn covers_conditions(&self, other: &Match) -> bool {
        /// Whether each of `given` is one of those `asked` for, where none stands for any.
        fn any<T: PartialEq>(asked: &[T], given: &[T]) -> bool {
            asked.is_empty() || !given.is_empty() && given.iter().all(|one| asked.contains(one))
        }
        fn all<K: Ord>(asked: &BTreeMap<K, ValuePattern>, given: &BTreeMap<K, ValuePattern>) -> bool {
            asked.iter().all(|(name, pattern)| given.get(name).is_some_and(|other| pattern.covers(other)))
        }
        all(&self.headers, &other.headers)
            && all(&self.query, &other.query)
            && any(&self.listeners, &other.listeners)
            && any(&self.methods, &other.methods)
            && any(&self.subprotocols, &other.subprotocols)
            && match (&self.client_cert, &other.client_cert) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(ours), Some(theirs)) => ours.covers(theirs),
            }
    }
}

/// Routes in the order of the file.
///
/// A plain walk: a few string comparisons a route, once for each request, is nothing beside a handshake. First match wins,
/// which an index by host would have to reproduce.
#[derive(Debug)]
pub struct RouteTable<T> {
    pub(super) routes: Vec<(Match, Paths, T)>,
}

/// The route of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteMatch<'t, T> {
    /// The route.
    pub route: &'t T,
    /// The path that its server may get, where another reading of what came is the path of another route. `None`: what
    /// came may go on.
    pub path: Option<String>,
}

impl<T> RouteTable<T> {
    /// A table of routes, each with how it reads paths; the first that matches wins.
    pub fn new(routes: Vec<(Match, Paths, T)>) -> RouteTable<T> {
        RouteTable { routes }
    }

    /// The first route that matches.
    ///
    /// # Errors
    /// When the path is not for a server: the route refuses it, or no form of it is the path of one route only.
    pub fn find(&self, head: &RequestView<'_>) -> Result<Option<RouteMatch<'_, T>>, PathError> {
        if reading::is_plain(head.path) {
            let found = self.routes.iter().find(|(asked, ..)| asked.matches(head));
            return Ok(found.map(|(.., route)| RouteMatch { route, path: None }));
        }
        let readings = Readings::of(head.path);
        let Some(index) = self.index(head, &readings, PathReading::MOST_BORDERS) else { return Ok(None) };
        let (_, paths, route) = &self.routes[index];
        if paths.encoded_slash == EncodedSlash::Refuse && head.path.contains("%2F") {
            return Err(PathError::EncodedSlash);
        }
        if self.is_always(index, head, &readings) {
            return Ok(Some(RouteMatch { route, path: None }));
        }
        let read = readings.get(PathReading::MOST_BORDERS.within(*paths));
        let head = RequestView { path: read, ..*head };
        if !self.is_always(index, &head, &Readings::of(read)) {
            return Err(PathError::Ambiguous);
        }
        Ok(Some(RouteMatch { route, path: Some(read.to_owned()) }))
    }

    /// The methods with which a request that no route takes would have found one, each once, in the order of the routes.
    /// None if it is not its method that it fails by; the first of very many.
    pub fn methods_allowed(&self, head: &RequestView<'_>) -> Vec<Method> {
        let mut allowed: Vec<Method> = vec![];
        for (asked, paths, _) in self.routes.iter().filter(|(asked, ..)| !asked.methods.is_empty()) {
            let read = paths.read(head.path);
            if asked.matches_apart_from_method(&RequestView { path: &read, ..*head }) {
                let new = asked.methods.iter().map(MethodName::method).filter(|method| !allowed.contains(method));
                let new: Vec<Method> = new.take(ALLOWED_MAX - allowed.len()).cloned().collect();
                allowed.extend(new);
            }
        }
        allowed
    }

    /// The first route that matches by one reading.
    fn index(&self, head: &RequestView<'_>, readings: &Readings, reading: PathReading) -> Option<usize> {
        self.routes.iter().position(|(asked, paths, _)| {
            asked.matches(&RequestView { path: readings.get(reading.within(*paths)), ..*head })
        })
    }

    /// Returns true if the first route is this one by all readings.
    fn is_always(&self, index: usize, head: &RequestView<'_>, readings: &Readings) -> bool {
        readings.distinct().into_iter().all(|reading| self.index(head, readings, reading) == Some(index))
    }

    /// All routes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.routes.iter().map(|(.., route)| route)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::super::shadow::shadowed;
    use super::*;
    use crate::header::client_certificate::AlternativeName;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn asked(yaml: &str) -> Match {
        serde_yaml::from_value(serde_yaml::from_str(yaml).unwrap()).unwrap()
    }

    /// A GET for `/` of the host `h` on the listener `l`.
    fn any(headers: &HeaderMap) -> RequestView<'_> {
        RequestView {
            listener: "l",
            method: &Method::GET,
            host: "h",
            path: "/",
            query: None,
            headers,
            certificate: None,
        }
    }

    fn certificate(hosts: &[&str], subject: &str) -> ClientCertificate {
        let names = hosts.iter().map(|host| AlternativeName::Dns((*host).to_owned())).collect();
        ClientCertificate { subject: subject.to_owned(), names, ..ClientCertificate::default() }
    }

    fn table(routes: &[&str]) -> RouteTable<usize> {
        RouteTable::new(routes.iter().enumerate().map(|(index, yaml)| (asked(yaml), Paths::default(), index)).collect())
    }

    fn unreachable(table: &RouteTable<usize>) -> Vec<(usize, usize)> {
        let asked: Vec<(&Match, Paths)> = table.routes.iter().map(|(asked, paths, _)| (asked, *paths)).collect();
        shadowed(&asked).pairs
    }

    fn matches(yaml: &str, target: &str, fields: &[(&str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let (host, rest) = target.split_once('/').unwrap();
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let path = format!("/{path}");
        asked(yaml).matches(&RequestView { host, path: &path, query, ..any(&headers) })
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
        assert_eq!(
            error,
            "unknown field `host`, expected one of `listeners`, `methods`, `hosts`, `path`, \
                        `headers`, `query`, `subprotocols`, `client_cert`"
        );
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
    fn listeners_and_methods_are_asked_for_by_name() {
        let headers = HeaderMap::new();
        let routes = table(&[
            "{ listeners: [a], path: { prefix: /x } }",
            "{ methods: [POST, PUT], path: { prefix: /x } }",
            "{ listeners: [a, b], methods: [GET, PUT] }",
        ]);
        let (get, post, put) = (Method::GET, Method::POST, Method::PUT);
        let ask = |listener, method, path| {
            let head = RequestView { listener, method, path, ..any(&headers) };
            (routes.find(&head).unwrap().map(|found| *found.route), routes.methods_allowed(&head))
        };
        assert_eq!(ask("a", &get, "/x").0, Some(0));
        assert_eq!(ask("b", &post, "/x").0, Some(1));
        assert_eq!(ask("b", &get, "/x").0, Some(2));
        // Another spelling of the path is read as the route reads it.
        assert_eq!(ask("c", &get, "/%2Fx;y"), (None, vec![Method::POST, Method::PUT]));
        assert_eq!(ask("b", &Method::HEAD, "/x"), (None, vec![Method::POST, Method::PUT, Method::GET]));
        assert_eq!(ask("b", &post, "/y"), (None, vec![Method::GET, Method::PUT]));
        assert_eq!(ask("c", &put, "/y"), (None, vec![]));
    }

    #[test]
    fn a_certificate_that_is_asked_for_is_looked_at_and_the_next_route_takes_the_others() {
        let headers = HeaderMap::new();
        let routes = table(&[
            "{ client_cert: { san: '*.admin.b' } }",
            "{ methods: [PUT], client_cert: {} }",
            "{ client_cert: {} }",
            "{ path: { exact: / } }",
        ]);
        let found = |certificate: Option<&ClientCertificate>, method: &Method, path: &str| {
            let head = RequestView { certificate, method, path, ..any(&headers) };
            (routes.find(&head).unwrap().map(|found| *found.route), routes.methods_allowed(&head).len())
        };
        let (admin, other) = (certificate(&["a.admin.b"], ""), certificate(&["a.b"], ""));
        assert_eq!(found(Some(&admin), &Method::GET, "/").0, Some(0));
        assert_eq!(found(Some(&other), &Method::GET, "/").0, Some(2));
        assert_eq!(found(None, &Method::GET, "/").0, Some(3));
        // Who has no certificate does not learn what there is for those who have.
        assert_eq!(found(None, &Method::PUT, "/a"), (None, 0));
        assert_eq!(unreachable(&table(&["{ client_cert: {} }", "{ client_cert: { subject: CN=a } }", "{}"])), [(1, 0)]);
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
        let head = any(&headers);
        assert!(asked("{ headers: { X-A: { present: true } } }").matches(&head));
        assert!(!asked("{ headers: { X-A: { regex: '[^a]' } } }").matches(&head));
    }

    #[test]
    fn the_first_match_wins() {
        let table = table(&["{ hosts: [a], path: { prefix: /x } }", "{ hosts: [a] }", "{ hosts: ['*.b'] }"]);
        let headers = HeaderMap::new();
        let find = |host, path| {
            let found = table.find(&RequestView { host, path, ..any(&headers) }).unwrap();
            found.map(|found| *found.route)
        };
        assert_eq!(find("a", "/x/y"), Some(0));
        assert_eq!(find("a", "/y"), Some(1));
        assert_eq!(find("c.b", "/x"), Some(2));
        assert_eq!(find("b", "/x"), None);
    }

    /// Routes of a path and how it is read.
    fn reading(routes: &[(&str, &str)]) -> RouteTable<usize> {
        let paths = |yaml: &str| serde_yaml::from_str::<Paths>(yaml).unwrap();
        let routes = routes.iter().enumerate();
        RouteTable::new(routes.map(|(index, (yaml, read))| (asked(yaml), paths(read), index)).collect())
    }

    /// The route of a path, and what is sent.
    fn taken(table: &RouteTable<usize>, path: &str) -> Result<Option<(usize, String)>, PathError> {
        let headers = HeaderMap::new();
        let found = table.find(&RequestView { path, ..any(&headers) })?;
        Ok(found.map(|found| (*found.route, found.path.unwrap_or_else(|| path.to_owned()))))
    }

    #[test]
    fn a_spelling_that_could_be_another_routes_is_taken_and_sent_as_what_was_matched() {
        let strict_first = reading(&[("{ path: { prefix: /admin } }", "{}"), ("{}", "{}")]);
        let open_first = reading(&[("{ path: { exact: /health } }", "{}"), ("{}", "{}")]);
        for (table, path, index, sent) in [
            (&strict_first, "/admin/ws", 0, "/admin/ws"),
            (&strict_first, "/admin%2Fws", 0, "/admin/ws"),
            (&strict_first, "//admin/ws", 0, "/admin/ws"),
            (&strict_first, "/admin;x/ws;y", 0, "/admin/ws"),
            (&strict_first, "/admin/a%2Fb;c//d", 0, "/admin/a%2Fb;c//d"),
            (&strict_first, "/files/a%2Fb;c//d", 1, "/files/a%2Fb;c//d"),
            // The other way round: what is let in without questions is not what a server might take for something else.
            (&open_first, "//health", 0, "/health"),
            (&open_first, "/health;x", 0, "/health"),
            (&open_first, "/health%2F", 1, "/health%2F"),
            (&open_first, "/health;%2Fx", 0, "/health"),
        ] {
            assert_eq!(taken(table, path), Ok(Some((index, sent.to_owned()))), "{path}");
        }
    }

    #[test]
    fn a_route_may_take_borders_for_what_they_are_or_refuse_them() {
        let table = reading(&[
            ("{ path: { exact: '/git/a%2Fb' } }", "{ encoded_slash: keep }"),
            ("{ path: { prefix: /api } }", "{ encoded_slash: refuse }"),
            ("{ path: { exact: '/proxy/http://x' } }", "{ slashes: keep }"),
            ("{ path: { exact: '/m;v=1' } }", "{ parameters: keep }"),
            ("{ path: { prefix: /rest } }", "{}"),
        ]);
        for (path, index) in [
            ("/git/a%2Fb", Some(0)),
            ("/git/a/b", None),
            ("/api/a", Some(1)),
            ("/proxy/http://x", Some(2)),
            ("/proxy/http:/x", None),
            ("//proxy/http://x", None),
            ("/m;v=1", Some(3)),
            ("/m", None),
            ("/m;v=2", None),
            ("/rest/a%2Fb", Some(4)),
        ] {
            assert_eq!(taken(&table, path), Ok(index.map(|index| (index, path.to_owned()))), "{path}");
        }
        for path in ["/api%2Fa", "/api/a%2Fb", "//api/a%2Fb"] {
            assert_eq!(taken(&table, path), Err(PathError::EncodedSlash), "{path}");
        }
        // One who keeps what would have to be merged cannot be sent another form.
        let table = reading(&[
            ("{ path: { exact: /a/b } }", "{}"),
            ("{ path: { prefix: /a } }", "{ slashes: keep, encoded_slash: keep, parameters: keep }"),
        ]);
        assert_eq!(taken(&table, "/a/b%3Bx%2F;y"), Ok(Some((0, "/a/b".to_owned()))));
        assert_eq!(taken(&table, "/a//c"), Ok(Some((1, "/a//c".to_owned()))));
        let table = reading(&[
            ("{ path: { exact: /a/b } }", "{ slashes: keep }"),
            ("{ path: { regex: '//a/.*' } }", "{}"),
            ("{}", "{}"),
        ]);
        assert_eq!(taken(&table, "//a/b"), Err(PathError::Ambiguous));
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
            ("{ listeners: [a, b] }", "{ listeners: [b], hosts: [x] }", true),
            ("{ listeners: [a] }", "{ listeners: [a, b] }", false),
            ("{ listeners: [a] }", "{}", false),
            ("{}", "{ listeners: [a], methods: [GET] }", true),
            ("{ methods: [GET, HEAD] }", "{ methods: [HEAD], listeners: [a] }", true),
            ("{ methods: [GET] }", "{ methods: [HEAD] }", false),
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
        let lists = prop_oneof![
            Just(""),
            Just("subprotocols: [a]"),
            Just("subprotocols: [a, b]"),
            Just("methods: [GET]"),
            Just("methods: [HEAD, GET]"),
            Just("listeners: [l]"),
            Just("listeners: [l, m], methods: [GET]"),
            Just("client_cert: {}"),
            Just("client_cert: { san: a.b }"),
            Just("client_cert: { san: ['*.b', c.d] }"),
            Just("client_cert: { san: a.b, subject: [CN=a, CN=b] }"),
            Just("methods: [GET], client_cert: { subject: CN=a }"),
        ];
        (host, path, query, lists).prop_map(|parts| {
            let parts: Vec<_> =
                [parts.0, parts.1, parts.2, parts.3].into_iter().filter(|part| !part.is_empty()).collect();
            format!("{{ {} }}", parts.join(", "))
        })
    }

    proptest! {
        #[test]
        fn a_condition_is_named_where_a_route_does_not_match_and_nowhere_else(asked in a_match(), host in "(x\\.)?(a\\.)?b", path in "/(a(/b)?)?") {
            let (table, headers) = (table(&[&asked]), HeaderMap::new());
            let shown = certificate(&["a.b"], "CN=c");
            for (listener, query, certificate) in
                [("l", None, None), ("m", Some("v=1"), Some(&shown)), ("l", Some("v=x&w=1"), Some(&shown))]
            {
                let head = RequestView { listener, host: &host, path: &path, query, certificate, ..any(&headers) };
                let is_named = table.mismatches(&head).all(|(_, mismatch)| mismatch.is_some());
                prop_assert_eq!(is_named, table.find(&head).unwrap().is_none());
            }
        }

        #[test]
        fn a_route_called_unreachable_is_never_found(routes in proptest::collection::vec(a_match(), 1..9)) {
            let table = table(&routes.iter().map(String::as_str).collect::<Vec<_>>());
            let shadowed: Vec<usize> = unreachable(&table).into_iter().map(|(index, _)| index).collect();
            // As one finds them who asks each about each.
            let asked: Vec<&Match> = table.routes.iter().map(|(asked, ..)| asked).collect();
            let first = |index: usize| (0..index).find(|earlier| asked[*earlier].covers(asked[index]));
            let one_by_one: Vec<(usize, usize)> = (0..asked.len()).filter_map(|index| Some((index, first(index)?))).collect();
            prop_assert_eq!(unreachable(&table), one_by_one);
            let headers = HeaderMap::new();
            let (one, other) = (certificate(&["a.b"], "CN=a"), certificate(&["c.d", "x.b"], "CN=c"));
            for host in ["a.b", "x.b", "b", "x.a.b", ""] {
                for path in ["/", "/a", "/a/", "/a/b", "/ab", "*", "//a", "/a;x", "/a%2Fb", "/a//b"] {
                    for query in [None, Some("v=1"), Some("v=x"), Some("v=x&v=1")] {
                        for certificate in [None, Some(&one), Some(&other)] {
                            let head = RequestView { host, path, query, certificate, ..any(&headers) };
                            let found = table.find(&head);
                            prop_assert!(found.unwrap().is_none_or(|found| !shadowed.contains(found.route)));
                        }
                    }
                }
            }
        }

        #[test]
        fn whatever_a_server_reads_in_what_it_gets_is_a_path_of_the_route_that_was_judged(
            routes in proptest::collection::vec(
                (
                    prop::sample::select(vec!["exact: /a", "prefix: /a", "exact: /a/b", "prefix: /a/b", "exact: /b", "regex: '/[^/]+'"]),
                    prop::sample::select(vec!["{}", "{}", "{ slashes: keep }", "{ encoded_slash: keep }", "{ parameters: keep }"]),
                ), 1..6,
            ),
            pieces in proptest::collection::vec(prop::sample::select(vec!["/", "%2F", ";", "%3B", "a", "b"]), 0..8),
        ) {
            let routes: Vec<_> = routes.into_iter().map(|(path, read)| (format!("{{ path: {{ {path} }} }}"), read)).collect();
            let table = reading(&routes.iter().map(|(path, read)| (path.as_str(), *read)).collect::<Vec<_>>());
            let path = format!("/{}", pieces.concat());
            let Ok(Some((index, sent))) = taken(&table, &path) else { return Ok(()) };
            let (headers, readings) = (HeaderMap::new(), Readings::of(&sent));
            for reading in readings.distinct() {
                let head = RequestView { path: &sent, ..any(&headers) };
                prop_assert_eq!(table.index(&head, &readings, reading), Some(index), "{} sent as {}", path, sent);
            }
        }
    }
}
