//! The client behind other proxies, and the fields that name it to the upstream: RFC 7239 `Forwarded`, and the older
//! X-Forwarded fields that most servers read.
//!
//! Anyone can write these fields, so they count only from a trusted proxy, and only from the right, as far as trusted
//! proxies wrote. The proxy cannot know which of the two kinds a trusted proxy maintains; it may forward the other one
//! as a stranger sent it. If both are present and name different clients, the client is unknown.

mod chain;
mod forwarded_request;

use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::authority::Host;
use super::lookalike;
use chain::{Chain, ForwardedClient};

pub use forwarded_request::{Doubt, ForwardedRequest};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// The peer of the connection that a request came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectPeer {
    /// Its address; `None` on a Unix socket.
    pub addr: Option<IpAddr>,
    /// Whether TLS ended at this listener.
    pub tls: bool,
    /// Whether it is a trusted proxy, whose fields about its own client count.
    pub trusted: bool,
}

/// Returns true if one of `nets` contains `addr`; an IPv4 address mapped into IPv6 counts as IPv4.
pub fn is_trusted(addr: IpAddr, nets: &[IpNet]) -> bool {
    let addr = addr.to_canonical();
    nets.iter().any(|net| net.contains(&addr))
}

/// Returns the client's address: the peer's, or, behind a trusted peer, the first from the right that is not trusted
/// (the leftmost, if all are).
///
/// Returns `None` if it is unknown: a peer on a Unix socket without these fields, an obfuscated or malformed entry, or
/// a contradiction between Forwarded and X-Forwarded-For. A decision by address must not allow that.
///
/// Call it before [`apply`], which writes the fields.
pub fn client_addr(peer: &DirectPeer, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let peer_addr = peer.addr.map(|addr| addr.to_canonical());
    if !peer.trusted {
        return peer_addr;
    }
    let standard = Chain::forwarded(headers).map(|chain| chain.client(trusted));
    let legacy = Chain::x_forwarded_for(headers).map(|chain| chain.client(trusted));
    match (standard, legacy) {
        (None, None) => peer_addr,
        (Some(one), None) | (None, Some(one)) => one.addr(),
        (Some(a), Some(b)) if a == b => a.addr(),
        // A field that names only trusted proxies does not contradict the other.
        (Some(ForwardedClient::Found(addr)), Some(ForwardedClient::AllTrusted(_)))
        | (Some(ForwardedClient::AllTrusted(_)), Some(ForwardedClient::Found(addr))) => Some(addr),
        _ => None,
    }
}

/// Writes the forwarding fields of a request for the upstream. `host` is the host as received, `forwarded_request` the
/// client's request as trusted proxies forward it.
///
/// Replaces the fields that [`is_replaced`] names by those of [`fields`].
pub fn apply(headers: &mut HeaderMap, peer: &DirectPeer, forwarded_request: &ForwardedRequest, host: &str) {
    let mut written = Vec::new();
    fields(headers, peer, forwarded_request, host, |name, value| {
        // Valid values and ASCII make a valid value.
        written.extend(HeaderValue::from_bytes(value).ok().map(|value| (name, value)));
    });
    let replaced: Vec<HeaderName> =
        headers.keys().filter(|name| is_replaced(name.as_str(), peer.trusted)).cloned().collect();
    for name in replaced {
        headers.remove(name);
    }
    for (name, value) in written {
        headers.insert(name, value);
    }
}

/// Returns true if the request's field `name`, in lower case, is not passed to the upstream: the fields that [`fields`]
/// writes; if the peer is not trusted, every name that servers read a client's address from; and from any peer the
/// spellings that some servers accept for them, such as `X_Forwarded_For`.
pub fn is_replaced(name: &str, trusted: bool) -> bool {
    let is_ours = match name.as_bytes().first() {
        Some(b'f') => name == "forwarded",
        Some(b'x') => {
            let name = lookalike::folded(name);
            name.starts_with("x-forwarded-") || name == "x-real-ip"
        }
        _ => false,
    };
    let written = matches!(name, "forwarded" | "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host");
    is_ours && (!trusted || written || !lookalike::is_plain(name))
}

/// The longest address as text, an IPv6 one without zeros.
const ADDRESS_CHARS_MAX: usize = 39;

/// Calls `write` with the forwarding fields for the upstream. Each is one line, because some servers read only the
/// first or the last. `host` is as received, or empty.
///
/// Ignores an untrusted peer's fields. Keeps a trusted peer's fields and appends its address, so that the upstream can
/// go on counting from the right; if the peer sent one kind of list only, the other begins with the same entries. Both
/// kinds name the scheme and host that the client asked for, as far as known: a server may read either.
pub fn fields(
    headers: &HeaderMap,
    peer: &DirectPeer,
    forwarded_request: &ForwardedRequest,
    host: &str,
    mut write: impl FnMut(HeaderName, &[u8]),
) {
    let (standard, legacy) = match peer.trusted {
        true => (Chain::forwarded(headers), Chain::x_forwarded_for(headers)),
        false => (None, None),
    };
    let addr = peer.addr.map(|addr| addr.to_canonical());
    let addr = addr.map(|addr| {
        let mut text = String::with_capacity(ADDRESS_CHARS_MAX);
        // Writing to a String cannot fail.
        let _ = write!(text, "{addr}");
        (text, addr.is_ipv6())
    });
    let forwarded_host = forwarded_request.host.as_ref().map(Host::to_string);
    let (host, https) = (forwarded_host.as_deref().unwrap_or(host), forwarded_request.is_https(peer));
    let mut line = Vec::with_capacity(128);

    match &standard {
        // An unclosed quote would swallow what follows.
        Some(chain) if !chain.is_whole => push_item(&mut line, chain.to_forwarded("").as_bytes()),
        Some(_) => push_lines(&mut line, headers, &FORWARDED),
        None => {}
    }
    if let (None, Some(legacy)) = (&standard, &legacy) {
        let mut made = Vec::new();
        push_made(&mut made, forwarded_request.host.as_ref().map_or("", |_| host), forwarded_request.https);
        push_item(&mut line, legacy.to_forwarded(&String::from_utf8_lossy(&made)).as_bytes());
    }
    push_element(&mut line, addr.as_ref(), host, https);
    write(FORWARDED, &line);

    line.clear();
    if peer.trusted {
        push_lines(&mut line, headers, &X_FORWARDED_FOR);
    }
    if let (Some(standard), None) = (&standard, &legacy) {
        push_item(&mut line, standard.to_x_forwarded_for().as_bytes());
    }
    // A peer on a Unix socket has no address; a placeholder would stop servers that count from the right.
    if let Some((addr, _)) = &addr {
        push_item(&mut line, addr.as_bytes());
    }
    if !line.is_empty() {
        write(X_FORWARDED_FOR, &line);
    }

    line.clear();
    // Kept as received if it counts: some proxies write `wss`.
    if peer.trusted && forwarded_request::x_forwarded_proto(headers) == Some(https) {
        push_lines(&mut line, headers, &X_FORWARDED_PROTO);
    } else {
        line.extend_from_slice(proto(https).as_bytes());
    }
    write(X_FORWARDED_PROTO, &line);
    if !host.is_empty() {
        write(X_FORWARDED_HOST, host.as_bytes());
    }
}

/// Appends the lines of a field that are not empty, as one list.
fn push_lines(list: &mut Vec<u8>, headers: &HeaderMap, name: &HeaderName) {
    for line in headers.get_all(name) {
        if !line.as_bytes().trim_ascii().is_empty() {
            push_item(list, line.as_bytes());
        }
    }
}

fn push_item(list: &mut Vec<u8>, item: &[u8]) {
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(item);
}

/// Appends an element. `addr` is an address as text, and whether it is IPv6.
fn push_element(list: &mut Vec<u8>, addr: Option<&(String, bool)>, host: &str, https: bool) {
    push_item(list, b"for=");
    let (open, addr, close) = match addr {
        None => ("", "unknown", ""),
        Some((addr, false)) => ("", addr.as_str(), ""),
        Some((addr, true)) => ("\"[", addr.as_str(), "]\""),
    };
    for part in [open, addr, close] {
        list.extend_from_slice(part.as_bytes());
    }
    push_made(list, host, Some(https));
}

/// Appends how the request was made: its host, if known, and its scheme. RFC 7239 §4: a value that is not a token is
/// quoted, which a port or an IPv6 address makes necessary.
fn push_made(list: &mut Vec<u8>, host: &str, https: Option<bool>) {
    if !host.is_empty() {
        let quote: &[u8] = if host.contains([':', '[']) { b"\"" } else { b"" };
        for part in [b";host=", quote, host.as_bytes(), quote] {
            list.extend_from_slice(part);
        }
    }
    if let Some(https) = https {
        list.extend_from_slice(b";proto=");
        list.extend_from_slice(proto(https).as_bytes());
    }
}

/// Writes a node's name (RFC 7239 §6), quoted where necessary.
fn node(addr: Option<IpAddr>) -> String {
    match addr {
        None => "unknown".to_owned(),
        Some(IpAddr::V4(addr)) => addr.to_string(),
        Some(IpAddr::V6(addr)) => format!("\"[{addr}]\""),
    }
}

/// Returns the scheme that servers expect for a WebSocket, too: that of the request that was upgraded.
fn proto(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn peer(addr: &str, trusted: bool) -> DirectPeer {
        DirectPeer { addr: addr.parse().ok(), tls: true, trusted }
    }

    fn trusted() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]
    }

    fn client(fields: &[(&str, &str)]) -> Option<String> {
        client_addr(&peer("10.0.0.1", true), &headers(fields), &trusted()).map(|addr| addr.to_string())
    }

    fn applied(peer: DirectPeer, host: &str, fields: &[(&str, &str)]) -> Vec<String> {
        let mut map = headers(fields);
        let forwarded_request = ForwardedRequest::by(&peer, &map, &trusted());
        apply(&mut map, &peer, &forwarded_request, host);
        let mut lines: Vec<_> =
            map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        let fields = headers(&[("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=1.1.1.1")]);
        let stranger = peer("::ffff:203.0.113.9", false);
        assert_eq!(client_addr(&stranger, &fields, &trusted()), Some("203.0.113.9".parse().unwrap()));
        assert_eq!(client_addr(&peer("unix", false), &fields, &trusted()), None);
    }

    #[test]
    fn the_client_is_the_first_from_the_right_that_is_not_trusted() {
        for (name, value, found) in [
            ("x-forwarded-for", "203.0.113.9", Some("203.0.113.9")),
            ("x-forwarded-for", "6.6.6.6, 203.0.113.9", Some("203.0.113.9")), // the left one is the client's own claim
            ("x-forwarded-for", "6.6.6.6,203.0.113.9 , 10.1.1.1", Some("203.0.113.9")),
            ("x-forwarded-for", "10.9.9.9, 10.1.1.1", Some("10.9.9.9")),
            ("x-forwarded-for", "203.0.113.9:4711", Some("203.0.113.9")),
            ("x-forwarded-for", "[2001:db8::1]:4711, ::ffff:10.0.0.7", Some("2001:db8::1")),
            ("x-forwarded-for", "2001:DB8::1", Some("2001:db8::1")),
            ("x-forwarded-for", "203.0.113.9, nonsense, 10.1.1.1", None),
            ("x-forwarded-for", "203.0.113.9, unknown", None),
            ("x-forwarded-for", " , ", Some("10.0.0.1")),
            // RFC 7239 §4 and §6
            ("forwarded", "for=192.0.2.43", Some("192.0.2.43")),
            ("forwarded", "For=\"[2001:db8:cafe::17]:4711\"", Some("2001:db8:cafe::17")),
            ("forwarded", "for=192.0.2.60;proto=http;by=203.0.113.43", Some("192.0.2.60")),
            ("forwarded", "for=192.0.2.43, for=198.51.100.17", Some("198.51.100.17")),
            ("forwarded", "for=\"192.0.2.43:_port\"", Some("192.0.2.43")),
            ("forwarded", "for=192.0.2.43,for=\"[fd00::1]\"; proto=https", Some("192.0.2.43")),
            ("forwarded", "for=\"_gazonk\"", None),
            ("forwarded", "for=unknown", None),
            ("forwarded", "proto=https", None),
            ("forwarded", "for=192.0.2.43:80", Some("192.0.2.43")),
        ] {
            assert_eq!(client(&[(name, value)]).as_deref(), found, "{name}: {value}");
        }
        let lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "203.0.113.9, 10.1.1.1")];
        assert_eq!(client(&lines).as_deref(), Some("203.0.113.9"));
        assert_eq!(client(&[]).as_deref(), Some("10.0.0.1"));
    }

    #[test]
    fn of_a_list_that_is_longer_than_any_way_only_the_end_is_read() {
        let many = |one: &str| vec![one; 5000].join(",");
        let long = format!("{},203.0.113.9, 10.1.1.1", many("6.6.6.6"));
        let far = [("x-forwarded-for", long.as_str())];
        assert_eq!(client(&far).as_deref(), Some("203.0.113.9"));
        assert_eq!(client(&[("x-forwarded-for", &format!("203.0.113.9,{}", many("10.1.1.1")))]), None);
        let end = client(&[("forwarded", &format!("{}, for=203.0.113.9", many("for=6.6.6.6")))]);
        assert_eq!(end.as_deref(), Some("203.0.113.9"));
        assert_eq!(client(&[("forwarded", &format!("for=203.0.113.9,{}", many("for=10.1.1.1")))]), None);
        // The upstream gets no more of it than was read; the field itself passes as it is.
        let lines = applied(peer("10.0.0.1", true), "a", &far);
        assert!(lines[0].starts_with("forwarded: for=unknown") && lines[0].len() < 2500, "{}", lines[0]);
        assert!(lines[1].starts_with("x-forwarded-for: 6.6.6.6,6.6.6.6,"), "{}", lines[1]);
    }

    #[test]
    fn a_malformed_forwarded_names_nobody() {
        for value in [
            "for=\"192.0.2.1", // the quote of a stranger swallows what the proxy wrote
            "for=\"x\\",
            "for=192.0.2.1;for=192.0.2.2",
            "for 192.0.2.1",
            "for=192.0.2.1 for=192.0.2.2",
            "=192.0.2.1",
            "for=",
            "for=\"192.0.2.1\"x",
            "for=[192.0.2.1]",
            "for=\"[::1]evil\"",
            "for=1.2.3.4:_a:_b",
        ] {
            assert_eq!(client(&[("forwarded", value)]), None, "{value}");
        }
    }

    #[test]
    fn what_a_stranger_left_malformed_hides_nobody() {
        for claim in [
            "for=\"",
            "for=\"x\\",
            "for=1.2.3.4;for=1.2.3.4",
            "x=\"a\"b",
            "\u{e9}",
            "for=\"[::1]\"x, for=\"6.6.6.6",
            "=,=",
            ",;,\"",
        ] {
            for written in ["for=203.0.113.9", "for=203.0.113.9;host=a;proto=https", "for=\"203.0.113.9:80\";by=\"_x\""]
            {
                for more in ["", ", for=10.1.1.1"] {
                    let value = format!("{claim}, {written}{more}");
                    assert_eq!(client(&[("forwarded", &value)]).as_deref(), Some("203.0.113.9"), "{value}");
                    let lines = [("forwarded", claim), ("forwarded", &format!("{written}{more}"))];
                    assert_eq!(client(&lines).as_deref(), Some("203.0.113.9"), "{value}");
                }
            }
        }
        // The upstream gets what was read.
        let lines = applied(peer("10.0.0.1", true), "a", &[("forwarded", "for=\"6.6.6.6, for=203.0.113.9")]);
        assert!(
            lines.contains(&"forwarded: for=unknown, for=203.0.113.9, for=10.0.0.1;host=a;proto=https".to_owned()),
            "{lines:?}"
        );
    }

    #[test]
    fn where_the_two_fields_contradict_nobody_is_believed() {
        let both = |standard, legacy| client(&[("forwarded", standard), ("x-forwarded-for", legacy)]);
        assert_eq!(both("for=203.0.113.9", "203.0.113.9").as_deref(), Some("203.0.113.9"));
        assert_eq!(both("for=10.1.1.1", "203.0.113.9").as_deref(), Some("203.0.113.9"));
        assert_eq!(both("for=6.6.6.6", "203.0.113.9"), None);
        assert_eq!(both("for=unknown", "203.0.113.9"), None);
    }

    #[test]
    fn a_strangers_fields_are_replaced_in_every_spelling() {
        let spoofed = [
            ("Forwarded", "for=1.1.1.1"),
            ("X-Forwarded-For", "1.1.1.1"),
            ("X_Forwarded_For", "1.1.1.1"),
            ("x-forwarded_for", "1.1.1.1"),
            ("X.Forwarded.For", "1.1.1.1"),
            ("X~Forwarded-Proto", "https"),
            ("X.Real_IP", "1.1.1.1"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil"),
            ("X-Forwarded-Port", "1"),
            ("X-Forwarded-Prefix", "/evil"),
            ("X-Real-IP", "1.1.1.1"),
        ];
        let expected = [
            "forwarded: for=203.0.113.9;host=a.example;proto=https",
            "x-forwarded-for: 203.0.113.9",
            "x-forwarded-host: a.example",
            "x-forwarded-proto: https",
        ];
        assert_eq!(applied(peer("203.0.113.9", false), "a.example", &spoofed), expected);
        assert_eq!(applied(peer("203.0.113.9", false), "a.example", &[]), expected);
    }

    #[test]
    fn nodes_are_quoted_as_rfc_7239_wants() {
        let v6 = applied(peer("2001:db8::1", false), "[::1]:8443", &[]);
        assert_eq!(v6[0], "forwarded: for=\"[2001:db8::1]\";host=\"[::1]:8443\";proto=https");
        let unix = DirectPeer { addr: None, tls: false, trusted: false };
        let expected = ["forwarded: for=unknown;host=a;proto=http", "x-forwarded-host: a", "x-forwarded-proto: http"];
        assert_eq!(applied(unix, "a", &[("x-forwarded-for", "1.1.1.1")]), expected);
        let mut map = HeaderMap::new();
        apply(&mut map, &unix, &ForwardedRequest::default(), "");
        assert_eq!(map.len(), 2);
        assert_eq!(map["forwarded"], "for=unknown;proto=http");
    }

    #[test]
    fn a_trusted_proxys_fields_are_kept_and_continued() {
        let fields = [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "10.2.2.2"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "public.example"),
            ("x-forwarded-port", "80"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x.forwarded.for", "6.6.6.6"),
            ("x_real_ip", "6.6.6.6"),
        ];
        let expected = [
            "forwarded: for=203.0.113.9;host=public.example;proto=http, for=10.2.2.2, \
             for=10.0.0.1;host=public.example;proto=http",
            "x-forwarded-for: 203.0.113.9, 10.2.2.2, 10.0.0.1",
            "x-forwarded-host: public.example",
            "x-forwarded-port: 80",
            "x-forwarded-proto: http",
        ];
        assert_eq!(applied(peer("10.0.0.1", true), "a", &fields), expected);

        let lines = applied(peer("10.0.0.1", true), "a", &[("forwarded", "for=\"[2001:db8::1]:1\";proto=http")]);
        assert_eq!(lines[0], "forwarded: for=\"[2001:db8::1]:1\";proto=http, for=10.0.0.1;host=a;proto=http");
        assert_eq!(lines[1], "x-forwarded-for: 2001:db8::1, 10.0.0.1");
    }

    #[test]
    fn scheme_and_host_are_the_same_in_both_kinds_of_fields() {
        let plain = DirectPeer { tls: false, ..peer("10.0.0.1", true) };
        for (fields, forwarded, host, proto) in [
            (&[("x-forwarded-proto", "https")][..], "for=10.0.0.1;host=a;proto=https", "a", "https"),
            (
                &[("forwarded", "for=203.0.113.9;host=\"p.example:8443\";proto=https")],
                "for=203.0.113.9;host=\"p.example:8443\";proto=https, for=10.0.0.1;host=\"p.example:8443\";proto=https",
                "p.example:8443",
                "https",
            ),
            (
                &[("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "wss"), ("x-forwarded-host", "P.example")],
                "for=203.0.113.9;host=p.example;proto=https, for=10.0.0.1;host=p.example;proto=https",
                "p.example",
                "wss",
            ),
            // Contradictory or unreadable values are not passed on.
            (
                &[("forwarded", "for=203.0.113.9;proto=http"), ("x-forwarded-proto", "https")],
                "for=203.0.113.9;proto=http, for=10.0.0.1;host=a;proto=http",
                "a",
                "http",
            ),
            (
                &[("x-forwarded-host", "a b"), ("x-forwarded-proto", "gopher")],
                "for=10.0.0.1;host=a;proto=http",
                "a",
                "http",
            ),
            (
                &[("forwarded", "for=\"203.0.113.9;host=evil")],
                "for=unknown, for=10.0.0.1;host=a;proto=http",
                "a",
                "http",
            ),
        ] {
            let lines = applied(plain, "a", fields);
            for line in [
                format!("forwarded: {forwarded}"),
                format!("x-forwarded-host: {host}"),
                format!("x-forwarded-proto: {proto}"),
            ] {
                assert!(lines.contains(&line), "{fields:?}: {lines:?} has no {line}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_stands_left_of_the_client_changes_nothing(claim in "[ -~]{0,40}") {
            let value = format!("{claim}, 203.0.113.9, 10.1.1.1");
            let found = client(&[("x-forwarded-for", &value)]);
            prop_assert_eq!(found.as_deref(), Some("203.0.113.9"));
        }

        #[test]
        fn a_claim_in_forwarded_changes_nothing(
            claim in "[ -~]{0,40}",
            written in prop::sample::select(vec!["for=203.0.113.9", "for=\"203.0.113.9:80\";proto=https", "proto=http;for=203.0.113.9"]),
        ) {
            let value = format!("{claim}, {written}");
            let found = client(&[("forwarded", &value)]);
            prop_assert_eq!(found.as_deref(), Some("203.0.113.9"));
        }

        #[test]
        fn what_is_written_is_read_back(addr in any::<[u16; 8]>(), v4 in any::<[u8; 4]>(), six in any::<bool>(), port in any::<bool>()) {
            let addr = if six { IpAddr::from(addr) } else { IpAddr::from(v4) }.to_canonical();
            let mut map = HeaderMap::new();
            let host = if port { "a:1" } else { "[::2]" };
            apply(&mut map, &DirectPeer { addr: Some(addr), tls: true, trusted: false }, &ForwardedRequest::default(), host);
            prop_assert_eq!(client_addr(&peer("10.0.0.1", true), &map, &[]), Some(addr));
        }
    }
}
