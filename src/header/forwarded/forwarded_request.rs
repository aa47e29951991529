//! The client's own request as trusted proxies forward it: its host, port and scheme.
//!
//! If a proxy sends its own Host (nginx does by default), only these fields name the authority that the browser's page
//! knows. Routing does not depend on them: a proxy that does not write X-Forwarded-Host forwards what a stranger wrote,
//! and a client that may choose a Host may not be meant to choose a second one. No page can make its browser send them
//! with a handshake, so an Origin may be judged by them.

use std::fmt;

use http::header::HeaderMap;
use ipnet::IpNet;

use super::{DirectPeer, FORWARDED, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO, chain, is_trusted};
use crate::header::authority::Host;

/// The client's request as trusted proxies forward it. Empty if no trusted proxy sends these fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedRequest {
    /// The host of the request.
    pub host: Option<Host>,
    /// The port by X-Forwarded-Port: some proxies leave it out of the host.
    pub port: Option<u16>,
    /// Whether the request came by TLS.
    pub https: Option<bool>,
    /// Why there is no host, although a field names one.
    pub doubt: Option<Doubt>,
}

/// Why a forwarded host does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The sender is not a trusted proxy.
    Untrusted,
    /// The field cannot be read.
    Unreadable,
    /// The fields contradict each other.
    Disagree,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Doubt::Untrusted => {
                "X-Forwarded-Host or Forwarded does not count, since its sender is not among the listener's `trusted_proxies`"
            }
            Doubt::Unreadable => "X-Forwarded-Host or Forwarded does not count, since it cannot be read",
            Doubt::Disagree => "X-Forwarded-Host or Forwarded does not count, since it names several hosts",
        })
    }
}

impl ForwardedRequest {
    /// Reads what `peer` sent in `headers`. Call it before [`apply`](super::apply), which writes the fields.
    pub fn by(peer: &DirectPeer, headers: &HeaderMap, trusted: &[IpNet]) -> ForwardedRequest {
        if !peer.trusted {
            let is_named = headers.contains_key(&X_FORWARDED_HOST) || headers.contains_key(FORWARDED);
            return ForwardedRequest { doubt: is_named.then_some(Doubt::Untrusted), ..ForwardedRequest::default() };
        }
        let standard = Standard::of(&chain::elements(headers), trusted);
        let https = match (standard.https, x_forwarded_proto(headers)) {
            (Some(one), Some(other)) if one != other => None,
            (one, other) => one.or(other),
        };
        let scheme = if https.unwrap_or(peer.tls) { "https" } else { "http" };
        let same = |one: &Host, other: &Host| {
            one.name == other.name && one.port_or_default(scheme) == other.port_or_default(scheme)
        };
        let host = match (standard.host, x_forwarded_host(headers)) {
            (Err(doubt), _) | (_, Err(doubt)) => Err(doubt),
            (Ok(Some(one)), Ok(Some(other))) if !same(&one, &other) => Err(Doubt::Disagree),
            (Ok(one), Ok(other)) => Ok(one.or(other)),
        };
        let port = x_forwarded_port(headers);
        match host {
            Ok(host) => ForwardedRequest { host, port, https, doubt: None },
            Err(doubt) => ForwardedRequest { host: None, port, https, doubt: Some(doubt) },
        }
    }

    /// Returns true if the client came by TLS: as a trusted proxy reports, or else as this proxy saw it.
    pub fn is_https(&self, peer: &DirectPeer) -> bool {
        self.https.unwrap_or(peer.tls)
    }
}

/// The client's request by Forwarded.
struct Standard {
    host: Result<Option<Host>, Doubt>,
    https: Option<bool>,
}

impl Standard {
    /// The peer wrote the last element. If its `for` is trusted, a trusted proxy wrote the one before it, and so on;
    /// the oldest of them saw the client.
    fn of(elements: &[chain::Element], trusted: &[IpNet]) -> Standard {
        let (mut host, mut proto) = (None, None);
        for element in elements.iter().rev() {
            if element.is_unreadable {
                return Standard { host: Err(Doubt::Unreadable), https: None };
            }
            host = element.host.as_deref().or(host);
            proto = element.proto.as_deref().or(proto);
            if !element.node.is_some_and(|addr| is_trusted(addr, trusted)) {
                break;
            }
        }
        let host = host.map(|host| host.parse::<Host>().map_err(|_| Doubt::Unreadable)).transpose();
        Standard { host, https: proto.and_then(|proto| is_secure(proto.as_bytes())) }
    }
}

/// Several hosts are ambiguous: no list says which proxy wrote which.
fn x_forwarded_host(headers: &HeaderMap) -> Result<Option<Host>, Doubt> {
    let mut found: Option<Host> = None;
    let mut items = 0;
    for line in headers.get_all(&X_FORWARDED_HOST) {
        for item in line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
        {
            items += 1;
            if items > chain::HOPS_MAX {
                return Err(Doubt::Unreadable);
            }
            let host = Host::parse(item).map_err(|_| Doubt::Unreadable)?;
            if found.as_ref().is_some_and(|found| *found != host) {
                return Err(Doubt::Disagree);
            }
            found = Some(host);
        }
    }
    Ok(found)
}

/// The first of a list is what the first proxy saw.
pub(super) fn x_forwarded_proto(headers: &HeaderMap) -> Option<bool> {
    let line = headers.get(&X_FORWARDED_PROTO)?.as_bytes();
    is_secure(line.split(|&byte| byte == b',').next()?.trim_ascii())
}

fn x_forwarded_port(headers: &HeaderMap) -> Option<u16> {
    let mut lines = headers.get_all(&X_FORWARDED_PORT).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let text = line.to_str().ok()?.trim();
    // `u16::from_str` alone would accept `+80`.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok().filter(|port| *port > 0))?
}

/// Traefik writes `wss` for a WebSocket.
fn is_secure(scheme: &[u8]) -> Option<bool> {
    let is = |name: &[u8]| scheme.eq_ignore_ascii_case(name);
    match () {
        () if is(b"https") || is(b"wss") => Some(true),
        () if is(b"http") || is(b"ws") => Some(false),
        () => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use http::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn forwarded_request(trusted: bool, fields: &[(&str, &str)]) -> ForwardedRequest {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let peer = DirectPeer { addr: "10.0.0.1".parse().ok(), tls: false, trusted };
        ForwardedRequest::by(&peer, &headers, &["10.0.0.0/8".parse().unwrap()])
    }

    #[test]
    fn the_host_is_what_trusted_proxies_were_asked_for() {
        use Doubt::*;
        for (fields, host) in [
            (&[][..], Ok("")),
            (&[("x-forwarded-host", "Public.Example.:8443")], Ok("public.example:8443")),
            (&[("x-forwarded-host", "a.example, A.example")], Ok("a.example")),
            (&[("x-forwarded-host", "a.example"), ("x-forwarded-host", "a.example")], Ok("a.example")),
            (&[("x-forwarded-host", " , ")], Ok("")),
            (&[("x-forwarded-host", "a.example, b.example")], Err(Disagree)),
            (&[("x-forwarded-host", "a.example"), ("x-forwarded-host", "b.example")], Err(Disagree)),
            (&[("x-forwarded-host", "user@a.example")], Err(Unreadable)),
            (&[("x-forwarded-host", "https://a.example")], Err(Unreadable)),
            (&[("forwarded", "for=203.0.113.9;Host=\"A.example:8443\"")], Ok("a.example:8443")),
            (&[("forwarded", "for=203.0.113.9")], Ok("")),
            (&[("forwarded", "for=203.0.113.9;host=\"a b\"")], Err(Unreadable)),
            (&[("forwarded", "host=a.example;host=a.example")], Err(Unreadable)),
            (&[("forwarded", "host=\"a.example")], Err(Unreadable)),
            // The client may claim anything; the proxy that it came to reports what it saw.
            (&[("forwarded", "host=evil.example, for=203.0.113.9;host=a.example")], Ok("a.example")),
            (&[("forwarded", "for=10.9.9.9;host=evil.example, for=203.0.113.9;host=a.example")], Ok("a.example")),
            (&[("forwarded", "for=203.0.113.9;host=a.example, for=10.0.0.2;host=inner")], Ok("a.example")),
            (&[("forwarded", "for=203.0.113.9, for=10.0.0.2;host=inner")], Ok("inner")),
            (&[("forwarded", "host=a.example"), ("x-forwarded-host", "a.example:80")], Ok("a.example")),
            (&[("forwarded", "host=a.example"), ("x-forwarded-host", "b.example")], Err(Disagree)),
            (&[("forwarded", "host=\""), ("x-forwarded-host", "b.example")], Err(Unreadable)),
        ] {
            let forwarded_request = forwarded_request(true, fields);
            let found = forwarded_request
                .doubt
                .map_or(Ok(forwarded_request.host.map(|host| host.to_string()).unwrap_or_default()), Err);
            assert_eq!(found, host.map(str::to_owned), "{fields:?}");
        }
    }

    #[test]
    fn a_stranger_tells_nothing() {
        let fields = [
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "1"),
            ("forwarded", "host=evil.example;proto=https"),
        ];
        assert_eq!(
            forwarded_request(false, &fields),
            ForwardedRequest { doubt: Some(Doubt::Untrusted), ..ForwardedRequest::default() }
        );
        assert_eq!(forwarded_request(false, &[]), ForwardedRequest::default());
    }

    #[test]
    fn a_client_came_by_tls_if_we_saw_it_or_a_trusted_proxy_says_so() {
        for (fields, https) in [
            (&[][..], None),
            (&[("x-forwarded-proto", "https")], Some(true)),
            (&[("x-forwarded-proto", "HTTPS, http")], Some(true)),
            (&[("x-forwarded-proto", "wss")], Some(true)),
            (&[("x-forwarded-proto", "http, https")], Some(false)),
            (&[("x-forwarded-proto", "ftp")], None),
            (&[("x-forwarded-proto", "")], None),
            (&[("forwarded", "for=1.1.1.1;proto=HTTPS")], Some(true)),
            (&[("forwarded", "for=1.1.1.1;proto=http")], Some(false)),
            (&[("forwarded", "proto=https, for=1.1.1.1;proto=http")], Some(false)),
            (&[("forwarded", "for=1.1.1.1;proto=https, for=10.0.0.2;proto=http")], Some(true)),
            (&[("forwarded", "proto=https"), ("x-forwarded-proto", "https")], Some(true)),
            (&[("forwarded", "proto=https"), ("x-forwarded-proto", "http")], None),
        ] {
            assert_eq!(forwarded_request(true, fields).https, https, "{fields:?}");
        }
        for (https, tls, is_https) in
            [(None, true, true), (None, false, false), (Some(true), false, true), (Some(false), true, false)]
        {
            let peer = DirectPeer { addr: None, tls, trusted: true };
            assert_eq!(ForwardedRequest { https, ..ForwardedRequest::default() }.is_https(&peer), is_https);
        }
    }

    #[test]
    fn a_port_is_one_number() {
        for (value, port) in
            [("8443", Some(8443)), ("0", None), ("65536", None), ("+80", None), ("80, 81", None), ("", None)]
        {
            assert_eq!(forwarded_request(true, &[("x-forwarded-port", value)]).port, port, "{value}");
        }
        assert_eq!(forwarded_request(true, &[("x-forwarded-port", "80"), ("x-forwarded-port", "80")]).port, None);
    }

    proptest! {
        #[test]
        fn a_claim_of_the_client_changes_nothing(claim in "[ -~]{0,40}") {
            let forwarded = format!("{claim}, for=203.0.113.9;host=a.example");
            let forwarded_request = forwarded_request(true, &[("forwarded", &forwarded)]);
            let host = forwarded_request.host.map(|host| host.to_string());
            prop_assert_eq!(host.as_deref(), Some("a.example"));
        }
    }
}
