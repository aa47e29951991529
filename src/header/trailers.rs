//! Which fields may stand in a trailer.
//!
//! In a trailer a field would escape what the proxy judges, writes or removes in a head, and servers that merge
//! trailers into the head would trust it. So fields that matter before the body is read are removed, as RFC 9110 §6.5.1
//! requires; checksums, signatures and the status of gRPC pass.
//!
//! hyper forwards only the trailers that the Trailer field announces, so removing a name there removes it from the
//! trailer.

use http::header::{HeaderMap, HeaderName, HeaderValue, TRAILER};

use super::hop_by_hop::HopByHopFields;
use super::lookalike::folded;

/// Fields that decide how a message is framed, routed, judged, stored or read.
const HEAD_ONLY: [&str; 34] = [
    // Framing, and hop-by-hop fields that are not always removed.
    "content-length",
    "trailer",
    // Routing, and the client's identity.
    "host",
    "forwarded",
    "x-real-ip",
    "via",
    "cdn-loop",
    "origin",
    "referer",
    // Modifiers of requests.
    "cache-control",
    "expect",
    "max-forwards",
    "pragma",
    "range",
    "upgrade-insecure-requests",
    "x-http-method-override",
    "x-method-override",
    "x-http-method",
    // Authentication.
    "authorization",
    "authentication-info",
    "www-authenticate",
    "cookie",
    "cookie2",
    "set-cookie",
    "set-cookie2",
    // Control data of responses.
    "age",
    "date",
    "expires",
    "location",
    "retry-after",
    "vary",
    "warning",
    "alt-svc",
    "strict-transport-security",
];

/// Prefixes of such fields.
const HEAD_ONLY_PREFIXES: [&str; 6] =
    ["x-forwarded-", "sec-", "if-", "access-control-", "content-security-policy", "proxy-"];

/// The only fields about the body that may pass: their value is known at its end (RFC 9530, RFC 1864).
const CONTENT_LAST: [&str; 2] = ["content-digest", "content-md5"];

/// Returns true if the field of this name, in lower case, may stand in a trailer.
pub fn may_pass(name: &str) -> bool {
    let name = folded(name);
    let is_content = name.starts_with("content-") && !CONTENT_LAST.contains(&&*name);
    !is_content
        && !HEAD_ONLY.contains(&&*name)
        && !HEAD_ONLY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && !HopByHopFields::always(&name)
}

/// Removes from a message's Trailer all names that may not pass, that end at this hop, or that are not `wanted`. Call
/// it before [`super::hop_by_hop::strip`].
pub fn keep_allowed(headers: &mut HeaderMap, wanted: impl Fn(&HeaderName) -> bool) {
    if !headers.contains_key(TRAILER) {
        return;
    }
    let ending = HopByHopFields::of(headers);
    let items = headers.get_all(TRAILER).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut left: Vec<&[u8]> = vec![];
    for item in items.map(<[u8]>::trim_ascii) {
        // An invalid name announces nothing.
        let Ok(name) = HeaderName::from_bytes(item) else { continue };
        let fold = HeaderName::from_bytes(folded(name.as_str()).as_bytes());
        let is_wanted = wanted(&name) && fold.is_ok_and(|fold| wanted(&fold));
        if may_pass(name.as_str()) && !ending.has(name.as_str()) && is_wanted {
            left.push(item);
        }
    }
    // Names joined by commas are a valid value.
    let left = HeaderValue::from_bytes(&left.join(&b", "[..])).ok().filter(|left| !left.is_empty());
    match left {
        Some(left) => drop(headers.insert(TRAILER, left)),
        None => drop(headers.remove(TRAILER)),
    }
}

/// The trailers that a message may have, where hyper does not see to it: those that its head announces, and the status of
/// gRPC, which is never announced. Read it from a head that [`keep_allowed`] has seen.
#[derive(Debug)]
pub struct Announced(Vec<HeaderName>);

impl Announced {
    /// Reads what a head announces.
    pub fn of(headers: &HeaderMap) -> Announced {
        let lines = headers.get_all(TRAILER).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        Announced(lines.filter_map(|item| HeaderName::from_bytes(item.trim_ascii()).ok()).collect())
    }

    /// Removes all others.
    pub fn keep(&self, trailers: &mut HeaderMap) {
        let is_other = |name: &&HeaderName| !self.0.contains(name) && !name.as_str().starts_with("grpc-");
        let others: Vec<HeaderName> = trailers.keys().filter(is_other).cloned().collect();
        for name in others {
            trailers.remove(name);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_announced_is_left_out() {
        let mut headers = HeaderMap::new();
        headers.insert(TRAILER, HeaderValue::from_static("X-Sum, Set-Cookie"));
        headers.append(TRAILER, HeaderValue::from_static("etag"));
        keep_allowed(&mut headers, |name| name != "etag");
        let mut trailers = HeaderMap::new();
        for name in ["x-sum", "set-cookie", "etag", "x-other", "grpc-status"] {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        Announced::of(&headers).keep(&mut trailers);
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-sum", "grpc-status"]);
    }

    #[test]
    fn what_counts_before_the_body_is_read_does_not_come_behind_it() {
        for name in [
            "x-forwarded-for",
            "x_forwarded_for",
            "x.forwarded.proto",
            "forwarded",
            "x-real-ip",
            "x_real_ip",
            "cookie",
            "set-cookie",
            "host",
            "authorization",
            "proxy-authorization",
            "transfer-encoding",
            "transfer_encoding",
            "content-length",
            "content-type",
            "content-encoding",
            "connection",
            "te",
            "trailer",
            "upgrade",
            "cache-control",
            "if-none-match",
            "range",
            "expect",
            "origin",
            "sec-websocket-key",
            "location",
        ] {
            assert!(!may_pass(name), "{name}");
        }
        for name in
            ["grpc-status", "grpc-message", "x-sum", "etag", "digest", "content-digest", "server-timing", "x_sum"]
        {
            assert!(may_pass(name), "{name}");
        }
    }

    #[test]
    fn only_what_may_pass_stays_announced() {
        let mut headers = HeaderMap::new();
        for line in ["X-Sum, Cookie,, bad name", "x-set, x_set, X-Hop, x-sum, Grpc-Status"] {
            headers.append(TRAILER, HeaderValue::from_static(line));
        }
        headers.insert("connection", HeaderValue::from_static("x-hop"));
        keep_allowed(&mut headers, |name| name != "x-set");
        let left: Vec<&[u8]> = headers.get_all(TRAILER).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(left, [b"X-Sum, x-sum, Grpc-Status"]);
        headers.insert(TRAILER, HeaderValue::from_static("Cookie"));
        keep_allowed(&mut headers, |_| true);
        assert!(!headers.contains_key(TRAILER));
    }
}
