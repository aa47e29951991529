//! Explains why a route does not match a request.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use super::pattern::{ClientCertPattern, MethodName, PathPattern, Subprotocol, ValuePattern};
use super::table::{Match, RequestView, RouteTable};
use crate::header::client_certificate::{CertificatePart, ClientCertificate};

/// A condition of a route that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The keys below `match` that contain it.
    pub keys: Vec<String>,
    /// What the request has instead, as text.
    pub text: String,
}

impl<T> RouteTable<T> {
    /// Returns all routes in order, each with the condition that the request fails. The path is read as the route reads
    /// it.
    pub fn mismatches<'t>(&'t self, head: &'t RequestView<'_>) -> impl Iterator<Item = (&'t T, Option<Mismatch>)> {
        self.routes.iter().map(|(asked, paths, route)| {
            let read = paths.read(head.path);
            (route, asked.mismatch(&RequestView { path: &read, ..*head }))
        })
    }
}

impl Match {
    /// Returns the first condition that does not hold; none if the request matches.
    pub fn mismatch(&self, head: &RequestView<'_>) -> Option<Mismatch> {
        self.of_connection(head)
            .or_else(|| self.of_target(head))
            .or_else(|| of_certificate(self.client_cert.as_deref()?, head.certificate))
            .or_else(|| {
                values("headers", &self.headers, |name| head.field(name).map(|it| it.map(Cow::Borrowed)).collect())
            })
            .or_else(|| values("query", &self.query, |name| head.parameter(name).map(Some).collect()))
            .or_else(|| self.of_subprotocols(head))
    }

    fn of_connection(&self, head: &RequestView<'_>) -> Option<Mismatch> {
        let has_listener = self.listeners.is_empty() || self.listeners.iter().any(|name| name == head.listener);
        let has_method = self.methods.is_empty() || self.methods.iter().any(|one| one.method() == head.method);
        if !has_listener {
            return Some(mismatch(
                &["listeners"],
                format!("the listener {} is not {}", head.listener, one_of(&self.listeners)),
            ));
        }
        let methods = self.methods.iter().map(MethodName::method);
        (!has_method).then(|| mismatch(&["methods"], format!("the method {} is not {}", head.method, one_of(methods))))
    }

    fn of_target(&self, head: &RequestView<'_>) -> Option<Mismatch> {
        if !self.hosts.is_empty() && !self.hosts.iter().any(|host| host.matches(head.host)) {
            let host = if head.host.is_empty() { "no host" } else { head.host };
            return Some(mismatch(&["hosts"], format!("the host {host} is not {}", one_of(&self.hosts))));
        }
        let path = self.path.as_ref().filter(|path| !path.matches(head.path))?;
        let (is_not, kind) = match path {
            PathPattern::Exact(exact) => (format!("is not {exact}"), "exact"),
            PathPattern::Prefix(prefix) => (format!("is not {prefix} or below it"), "prefix"),
            PathPattern::Regex(regex) => (format!("does not match {regex}"), "regex"),
        };
        Some(mismatch(&["path", kind], format!("the path {} {is_not}", head.path)))
    }

    fn of_subprotocols(&self, head: &RequestView<'_>) -> Option<Mismatch> {
        let is_one = |offered: &str| self.subprotocols.iter().any(|one| one.as_str() == offered);
        if self.subprotocols.is_empty() || head.subprotocols().any(is_one) {
            return None;
        }
        let offered: Vec<&str> = head.subprotocols().collect();
        let offered = if offered.is_empty() { "no subprotocol".to_owned() } else { offered.join(", ") };
        let wanted = one_of(self.subprotocols.iter().map(Subprotocol::as_str));
        Some(mismatch(&["subprotocols"], format!("it offers {offered}, not {wanted}")))
    }
}

/// Judges the client's certificate.
fn of_certificate(asked: &ClientCertPattern, shown: Option<&ClientCertificate>) -> Option<Mismatch> {
    let Some(shown) = shown else {
        return Some(mismatch(&["client_cert"], "the client has shown no certificate".to_owned()));
    };
    if !asked.has_name(shown) {
        let has = if shown.names.is_empty() { "no name".to_owned() } else { all_of(&shown.names) };
        let text = format!("its certificate has {has}, not {}", one_of(&asked.san.0));
        return Some(mismatch(&["client_cert", "san"], text));
    }
    if !asked.has_subject(shown) {
        let text = format!("the subject of its certificate is {:?}, not {}", shown.subject, one_of(&asked.subject.0));
        return Some(mismatch(&["client_cert", "subject"], text));
    }
    (!asked.has_fingerprint(shown)).then(|| {
        let mut is = String::new();
        shown.write(CertificatePart::Fingerprint, &mut is);
        let text = format!("the fingerprint of its certificate is {is}, not {}", one_of(&asked.fingerprint.0));
        mismatch(&["client_cert", "fingerprint"], text)
    })
}

/// Judges the values of fields or query parameters.
fn values<'h, K: Display>(
    section: &str,
    asked: &BTreeMap<K, ValuePattern>,
    values: impl Fn(&K) -> Vec<Option<Cow<'h, str>>>,
) -> Option<Mismatch> {
    let (name, pattern) = asked.iter().find(|(name, pattern)| !pattern.matches(values(name).into_iter()))?;
    let what = if section == "query" { "parameter" } else { "header" };
    let has = match values(name).into_iter().next() {
        None => format!("the {what} {name} is missing"),
        Some(value) => format!("the {what} {name} is {:?}", value.unwrap_or("not text".into())),
    };
    let text = match pattern {
        ValuePattern::Exact(exact) => format!("{has}, not {exact:?}"),
        ValuePattern::Regex(regex) => format!("{has} and does not match {regex}"),
        ValuePattern::Present(true) => has,
        ValuePattern::Present(false) => format!("{has} and must be missing"),
    };
    Some(mismatch(&[section, &name.to_string()], text))
}

fn mismatch(keys: &[&str], text: String) -> Mismatch {
    Mismatch { keys: keys.iter().map(|key| (*key).to_owned()).collect(), text }
}

/// `a`, or `one of a, b`; long lists are cut.
fn one_of<T: Display>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = all.into_iter().map(|one| one.to_string()).collect();
    let before = if all.len() == 1 { "" } else { "one of " };
    format!("{before}{}", all_of(&all))
}

/// `a, b`; long lists are cut.
fn all_of<T: Display>(all: &[T]) -> String {
    const SHOWN_MAX: usize = 8;
    let mut text = String::new();
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    text.push_str(&all[..all.len().min(SHOWN_MAX)].join(", "));
    if all.len() > SHOWN_MAX {
        let _ = write!(text, " and {} more", all.len() - SHOWN_MAX);
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;
    use crate::header::client_certificate::AlternativeName;

    #[test]
    fn the_condition_that_fails_is_named_with_what_the_request_has() {
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant", HeaderValue::from_static("acme"));
        headers.insert("sec-websocket-protocol", HeaderValue::from_static("v1, v2"));
        let head = RequestView {
            listener: "public",
            method: &Method::GET,
            host: "a.b",
            path: "/ws",
            query: Some("room=1"),
            headers: &headers,
            certificate: Some(&ClientCertificate {
                subject: "CN=a".to_owned(),
                names: vec![AlternativeName::Dns("a.b".to_owned())],
                ..ClientCertificate::default()
            }),
        };
        for (yaml, keys, text) in [
            ("{ listeners: [inside] }", "listeners", "the listener public is not inside"),
            ("{ methods: [PUT, POST] }", "methods", "the method GET is not one of PUT, POST"),
            ("{ hosts: [c.d, '*.d'] }", "hosts", "the host a.b is not one of c.d, *.d"),
            ("{ path: { exact: /w } }", "path.exact", "the path /ws is not /w"),
            ("{ path: { prefix: /w } }", "path.prefix", "the path /ws is not /w or below it"),
            ("{ path: { regex: '/w' } }", "path.regex", "the path /ws does not match /w"),
            ("{ headers: { X-A: '1' } }", "headers.x-a", "the header x-a is missing, not \"1\""),
            ("{ headers: { X-Tenant: b } }", "headers.x-tenant", "the header x-tenant is \"acme\", not \"b\""),
            ("{ query: { v: { present: true } } }", "query.v", "the parameter v is missing"),
            (
                "{ query: { room: { present: false } } }",
                "query.room",
                "the parameter room is \"1\" and must be missing",
            ),
            (
                "{ query: { room: { regex: '[a-z]' } } }",
                "query.room",
                "the parameter room is \"1\" and does not match [a-z]",
            ),
            (
                "{ client_cert: { san: ['*.c', 'urn:a'] } }",
                "client_cert.san",
                "its certificate has DNS:a.b, not one of *.c, urn:a",
            ),
            (
                "{ client_cert: { subject: CN=b } }",
                "client_cert.subject",
                "the subject of its certificate is \"CN=a\", not CN=b",
            ),
            ("{ subprotocols: [v3] }", "subprotocols", "it offers v1, v2, not v3"),
        ] {
            let asked: Match = serde_yaml::from_value(serde_yaml::from_str(yaml).unwrap()).unwrap();
            let found = asked.mismatch(&head).unwrap();
            assert_eq!((found.keys.join("."), found.text.as_str()), (keys.to_owned(), text), "{yaml}");
        }
    }
}
