//! Finds and removes hop-by-hop fields (RFC 9110 §7.6.1).
//!
//! Applies to both directions, to requests before they go upstream and to answers before they go downstream. hyper
//! writes the fields that it needs for framing; the handshake writes the upgrade fields anew.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Always removed, nominated or not (RFC 9110 §7.6.1; RFC 2616 §13.5.1 lists Proxy-Authenticate and
/// Proxy-Authorization, which are for the proxy that they reach; RFC 7540 §3.2.1 lists HTTP2-Settings, used to smuggle
/// `h2c`).
const ALWAYS: [&str; 10] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "http2-settings",
];

/// The hop-by-hop fields of one message.
///
/// These are the fields that always end at a hop, and those that Connection nominates. A nomination does not count for
/// fields that change the meaning of the message, or that show the upstream whom it serves: RFC 9110 §7.6.1 forbids it,
/// and a client that does so wants to hide them from the upstream.
///
/// Content-Length counts as one if the message has Transfer-Encoding: RFC 9112 §6.3 requires an intermediary to remove
/// it, since two lengths in one message allow request smuggling.
#[derive(Debug)]
pub struct HopByHopFields<'a> {
    /// Fields that Connection lists besides those; nearly always none.
    nominated: Nominated<'a>,
    two_lengths: bool,
}

/// More names than this are looked up by hash: each field of a message is compared with them, and a stranger may list
/// thousands.
const FEW: usize = 8;

/// The names that Connection lists.
#[derive(Debug)]
enum Nominated<'a> {
    Few(Vec<&'a [u8]>),
    Many(HashSet<CaselessName<'a>>),
}

impl Nominated<'_> {
    fn has(&self, name: &str) -> bool {
        match self {
            Nominated::Few(names) => names.iter().any(|item| item.eq_ignore_ascii_case(name.as_bytes())),
            Nominated::Many(names) => names.contains(&CaselessName(name.as_bytes())),
        }
    }
}

/// Compares without regard to case.
#[derive(Debug)]
struct CaselessName<'a>(&'a [u8]);

impl PartialEq for CaselessName<'_> {
    fn eq(&self, other: &CaselessName<'_>) -> bool {
        self.0.eq_ignore_ascii_case(other.0)
    }
}

impl Eq for CaselessName<'_> {}

impl Hash for CaselessName<'_> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for part in self.0.chunks(16) {
            let mut lower = [0; 16];
            lower[..part.len()].copy_from_slice(part);
            lower.make_ascii_lowercase();
            hasher.write(&lower);
        }
    }
}

impl<'a> HopByHopFields<'a> {
    /// `connection` are all lines of the message's Connection field; `chunked` says that it has a Transfer-Encoding.
    pub fn new(connection: impl IntoIterator<Item = &'a [u8]>, chunked: bool) -> HopByHopFields<'a> {
        let is_always = |item: &&[u8]| ALWAYS.iter().any(|name| item.eq_ignore_ascii_case(name.as_bytes()));
        let mut names = connection.into_iter().flat_map(items).filter(|item| !is_always(item));
        let few: Vec<&[u8]> = names.by_ref().take(FEW).collect();
        let nominated = match names.next() {
            None => Nominated::Few(few),
            Some(next) => Nominated::Many(few.into_iter().chain([next]).chain(names).map(CaselessName).collect()),
        };
        HopByHopFields { nominated, two_lengths: chunked }
    }

    /// Reads the fields of a message.
    pub fn of(headers: &'a HeaderMap) -> HopByHopFields<'a> {
        let connection = headers.get_all(header::CONNECTION).into_iter().map(HeaderValue::as_bytes);
        HopByHopFields::new(connection, headers.contains_key(header::TRANSFER_ENCODING))
    }

    /// Returns true if the field `name`, in lower case, always ends at a hop.
    pub fn always(name: &str) -> bool {
        ALWAYS.contains(&name)
    }

    /// Returns true if the field `name`, in lower case, ends at this hop.
    pub fn has(&self, name: &str) -> bool {
        HopByHopFields::always(name)
            || (self.two_lengths && name == "content-length")
            || (self.nominated.has(name) && !is_essential(name))
    }
}

/// Removes the fields that end at this hop.
pub fn strip(headers: &mut HeaderMap) {
    let ending = HopByHopFields::of(headers);
    let names: Vec<HeaderName> = headers.keys().filter(|name| ending.has(name.as_str())).cloned().collect();
    for name in &names {
        headers.remove(name);
    }
}

/// Returns true if one of Connection's lines lists `token`, in any case.
pub fn connection_has(headers: &HeaderMap, token: &str) -> bool {
    list(headers, &header::CONNECTION).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
}

/// Returns true if the sender accepts trailers (RFC 9110 §10.1.4). Call it before [`strip`]. To inform the upstream,
/// send `TE: trailers` and nominate it.
pub fn te_trailers(headers: &HeaderMap) -> bool {
    list(headers, &header::TE).any(|item| item.eq_ignore_ascii_case(b"trailers"))
}

fn is_essential(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "content-length"
            | "content-type"
            | "content-encoding"
            | "cache-control"
            | "origin"
            | "forwarded"
            | "x-real-ip"
            | "cdn-loop"
    ) || name.starts_with("x-forwarded-")
        || name.starts_with("sec-")
}

/// Returns all items of a field over all its lines.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).into_iter().flat_map(|line| items(line.as_bytes()))
}

/// Returns the items of a comma-separated list (RFC 9110 §5.6.1), without empty ones.
fn items(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn left(fields: &[(&str, &str)]) -> Vec<String> {
        let mut map = headers(fields);
        strip(&mut map);
        let mut names: Vec<_> = map.keys().map(|name| name.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_for_this_hop_ends_here() {
        let hop = [
            ("Connection", "keep-alive"),
            ("Proxy-Connection", "keep-alive"),
            ("Keep-Alive", "timeout=5"),
            ("TE", "trailers, gzip"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            ("Proxy-Authenticate", "Basic"),
            ("Proxy-Authorization", "Basic eA=="),
            ("Proxy-Authentication-Info", "x"),
        ];
        assert_eq!(left(&hop), [""; 0]);
        let end_to_end = [("Accept", "*/*"), ("Authorization", "x"), ("Cookie", "a=b"), ("Trailer", "Expires")];
        assert_eq!(left(&end_to_end), ["accept", "authorization", "cookie", "trailer"]);
    }

    #[test]
    fn connection_nominates_over_all_its_lines() {
        let fields = [
            ("Connection", "Upgrade ,, x-one"),
            ("Connection", "\tAUTHORIZATION\t, bad name, \"x-quoted\""),
            ("X-One", "1"),
            ("X-One", "2"),
            ("Authorization", "x"),
            ("X-Quoted", "stays"),
            ("X-Two", "stays"),
        ];
        assert_eq!(left(&fields), ["x-quoted", "x-two"]);
    }

    #[test]
    fn among_many_names_each_counts_as_it_does_alone() {
        let many: Vec<String> = (0..3000).map(|number| format!("X-Field-With-A-Longer-Name-{number}")).collect();
        let connection = many.join(", ");
        let fields = [
            ("Connection", &*connection),
            ("x-field-with-a-longer-name-0", "goes"),
            ("x-field-with-a-longer-name-2999", "goes"),
            ("x-field-with-a-longer-name-3000", "stays"),
            ("x-field-with-a-longer-name-29990", "stays"),
        ];
        assert_eq!(left(&fields), ["x-field-with-a-longer-name-29990", "x-field-with-a-longer-name-3000"]);
    }

    #[test]
    fn essentials_cannot_be_nominated_away() {
        let essential = [
            "host",
            "content-length",
            "content-type",
            "content-encoding",
            "cache-control",
            "origin",
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-real-ip",
            "cdn-loop",
            "sec-websocket-key",
            "sec-websocket-protocol",
        ];
        let mut fields: Vec<(&str, &str)> = essential.iter().map(|name| ("connection", *name)).collect();
        fields.extend(essential.iter().map(|name| (*name, "1")));
        assert_eq!(left(&fields).len(), essential.len());
    }

    #[test]
    fn a_message_of_two_lengths_keeps_neither() {
        assert_eq!(left(&[("Content-Length", "5"), ("Transfer-Encoding", "chunked")]), [""; 0]);
        assert_eq!(left(&[("Content-Length", "5")]), ["content-length"]);
    }

    #[test]
    fn a_token_is_found_in_any_case_but_only_whole() {
        for (value, has) in [
            ("upgrade", true),
            ("keep-alive, Upgrade", true),
            ("UPGRADE,", true),
            ("upgrades", false),
            ("x upgrade", false),
            ("\"upgrade\"", false),
            ("", false),
        ] {
            assert_eq!(connection_has(&headers(&[("connection", value)]), "upgrade"), has, "{value}");
        }
        assert!(connection_has(&headers(&[("connection", "close"), ("connection", "upgrade")]), "Upgrade"));
        assert!(te_trailers(&headers(&[("te", "gzip;q=0.5, Trailers")])));
        assert!(!te_trailers(&headers(&[("te", "trailers;q=1, gzip")])));
    }

    proptest! {
        #[test]
        fn nothing_for_this_hop_survives_whatever_connection_says(value in "[ -~]{0,40}") {
            let mut map = headers(&[("connection", &value), ("upgrade", "x"), ("transfer-encoding", "x"), ("host", "h")]);
            strip(&mut map);
            prop_assert_eq!(map.len(), 1);
            prop_assert!(map.contains_key("host"));
        }
    }
}
