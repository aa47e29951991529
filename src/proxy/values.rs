//! What the variables of the configuration say about one request.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName};

use super::request::RoutedRequest;
use super::snapshot::RouteAction;
use super::{Downstream, Proxy};
use crate::header::Host;
use crate::header::authority::default_port;
use crate::header::template::Placeholder;
use crate::header::variable::Variable;
use crate::policy::jwt::Claims;

const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The longest prefix that is taken over from a trusted proxy.
const PREFIX_BYTES_MAX: usize = 1000;

/// One request, as variables see it.
#[derive(Clone, Copy, Debug)]
pub struct RequestValues<'a> {
    /// What it came to.
    pub proxy: &'a Proxy,
    /// What it came on.
    pub downstream: &'a Downstream,
    /// The request.
    pub arrival: &'a RoutedRequest,
    /// Its route.
    pub route: &'a RouteAction,
    /// Its client's address.
    pub client: Option<IpAddr>,
    /// The client's port.
    pub client_port: Option<u16>,
    /// The path that was asked for, in normal form.
    pub path: &'a str,
    /// Its id, where a variable asks for it.
    pub id: Option<&'a str>,
    /// What the token claims that let it in.
    pub claims: Option<&'a Claims>,
}

impl RequestValues<'_> {
    /// Writes what a placeholder stands for; nothing if that is not known.
    pub fn write(&self, placeholder: Placeholder<'_>, out: &mut String) {
        let variable = match placeholder {
            Placeholder::Variable(variable) => variable,
            Placeholder::Claim(name) => {
                return self.claims.iter().for_each(|claims| claims.write(name, out));
            }
        };
        let arrival = self.arrival;
        let query = arrival.parts.uri.query();
        match variable {
            Variable::ClientIp => write(out, self.client),
            Variable::ClientPort => write(out, self.client_port),
            Variable::RequestId => out.push_str(self.id.unwrap_or_default()),
            Variable::RequestMethod => out.push_str(arrival.parts.method.as_str()),
            Variable::RequestScheme => out.push_str(self.scheme()),
            Variable::RequestHost => write(out, Some(Host { name: self.host().name.clone(), port: None })),
            Variable::RequestPort => write(out, self.port()),
            Variable::RequestAuthority => write(out, Some(self.host())),
            Variable::RequestPath => out.push_str(self.path),
            Variable::RequestQuery => out.push_str(query.unwrap_or_default()),
            Variable::RequestTarget => target(out, self.path, query),
            Variable::RewritePath => out.push_str(arrival.path()),
            Variable::RewriteTarget => target(out, arrival.path(), query),
            Variable::RewritePrefix => self.prefix(out),
            Variable::ListenerName => out.push_str(&self.proxy.listener),
            Variable::ListenerPort => write(out, self.downstream.listener_port),
            Variable::RouteName => out.push_str(self.route.name()),
            Variable::UpstreamName => out.push_str(self.route.upstream_name().unwrap_or_default()),
            Variable::TlsVersion => out.push_str(self.downstream.tls.unwrap_or_default()),
            Variable::TlsClient(part) => {
                self.downstream.certificate.iter().for_each(|certificate| certificate.write(part, out));
            }
        }
    }

    /// What the client asked for, as far as trusted proxies tell.
    fn host(&self) -> &Host {
        self.arrival.forwarded_request.host.as_ref().unwrap_or(&self.arrival.host)
    }

    fn scheme(&self) -> &'static str {
        if self.arrival.forwarded_request.is_https(&self.arrival.peer) { "https" } else { "http" }
    }

    /// The port that the client spoke to: as a trusted proxy tells, or else ours. If the proxy tells of the host or the scheme
    /// only, it is theirs: our own port is one that the client never saw.
    fn port(&self) -> Option<u16> {
        let forwarded = &self.arrival.forwarded_request;
        let told = forwarded.port.or_else(|| match (&forwarded.host, forwarded.https) {
            (Some(host), _) => host.port_or_default(self.scheme()),
            (None, Some(_)) => default_port(self.scheme()),
            (None, None) => None,
        });
        told.or(self.downstream.port)
    }

    fn prefix(&self, out: &mut String) {
        let (arrival, before) = (self.arrival, out.len());
        if arrival.peer.trusted {
            out.push_str(trusted_prefix(&arrival.parts.headers).unwrap_or_default().trim_end_matches('/'));
        }
        out.push_str(self.route.rewrite().stripped(self.path).unwrap_or_default());
        debug_assert!(out.len() == before || out[before..].starts_with('/'), "a prefix is a path");
    }
}

fn write(out: &mut String, value: Option<impl std::fmt::Display>) {
    if let Some(value) = value {
        // Writing to a String cannot fail.
        let _ = write!(out, "{value}");
    }
}

fn target(out: &mut String, path: &str, query: Option<&str>) {
    out.push_str(path);
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
}

/// The prefix that a trusted proxy has taken off; nothing of one that is no path.
fn trusted_prefix(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(X_FORWARDED_PREFIX).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let is_path = |prefix: &&str| {
        prefix.len() <= PREFIX_BYTES_MAX
            && prefix.starts_with('/')
            && !prefix.starts_with("//")
            && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte))
    };
    line.to_str().ok().map(str::trim).filter(is_path)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_a_trusted_proxy_is_a_path() {
        for (value, prefix) in [
            ("/app", Some("/app")),
            ("/app/", Some("/app/")),
            ("app", None),
            ("//evil.example", None),
            ("/a, /b", None),
            ("/<a>", None),
        ] {
            let headers: HeaderMap = [(X_FORWARDED_PREFIX, value.parse().unwrap())].into_iter().collect();
            assert_eq!(trusted_prefix(&headers), prefix, "{value}");
        }
        assert_eq!(trusted_prefix(&HeaderMap::new()), None);
    }
}
