//! Loop detection: whether a request has been here before.
//!
//! An endpoint may be ourselves, by mistake or by malice, and behind other proxies or a NAT no address shows it. Such a
//! request would loop until a limit ends it, with one more connection each round. So each request carries its hops in
//! `CDN-Loop` (RFC 8586), which intermediaries forward unchanged. Not in `Via`: servers take that as a reason not to
//! compress.
//!
//! A hop is a route of this process, not the process: one listener may lead to another of the same process on purpose.
//! It is a number that means nothing to anybody else, made from a random key of the process and the name of the route.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::snapshot::Route;
use crate::base::clock;
use crate::base::time::MonotonicTime;

/// The field that carries the hops of a request.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// The limit of hops. Nobody chains that many proxies; a loop through as many processes of one service does.
const HOPS_MAX: usize = 16;

/// How long another loop is not logged again.
const NEWS: Duration = Duration::from_secs(60);

/// Why a request is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestLoop {
    /// It was on this route of this process before.
    #[error("the request came back to the route it was sent on by: an endpoint leads to this proxy")]
    Back,
    /// It passed more hops than anybody has.
    #[error("the request has passed over {HOPS_MAX} proxies")]
    TooMany,
}

/// What is sent for a route.
pub fn of_route(name: &str) -> HeaderValue {
    static KEY: OnceLock<[u8; 16]> = OnceLock::new();
    let key = KEY.get_or_init(|| fastrand::u128(..).to_ne_bytes());
    named(key, name)
}

fn named(key: &[u8; 16], name: &str) -> HeaderValue {
    let mut context = Context::new(&SHA256);
    context.update(key);
    context.update(name.as_bytes());
    let hex = |byte: &u8| [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
    let text: Vec<u8> = context.finish().as_ref()[..8].iter().flat_map(hex).collect();
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("hop"))
}

/// Whether a request with these fields may be sent on by a route.
///
/// # Errors
/// If it has been there, or in too many places.
pub fn judge(headers: &HeaderMap, ours: &HeaderValue) -> Result<(), RequestLoop> {
    let mut count = 0;
    for line in headers.get_all(CDN_LOOP) {
        for hop in line.as_bytes().split(|byte| *byte == b',') {
            // Parameters are of others: `cloudflare; loops=1`.
            let id = hop.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            if id == ours.as_bytes() {
                return Err(RequestLoop::Back);
            }
            count += usize::from(!id.is_empty());
        }
    }
    if count > HOPS_MAX { Err(RequestLoop::TooMany) } else { Ok(()) }
}

/// Says so, but not each time.
pub fn say(route: &Route, found: RequestLoop) {
    static SAID: AtomicU64 = AtomicU64::new(0);
    let now = clock::coarse();
    let said = SAID.load(Ordering::Relaxed);
    let is_news = said == 0 || now.since(MonotonicTime::from_micros(said)) >= NEWS;
    if is_news && SAID.compare_exchange(said, now.as_micros(), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        tracing::error!(route = %route.name, upstream = %route.upstream_name, "{found}; such requests get 508");
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (CDN_LOOP, line.parse().unwrap())).collect()
    }

    #[test]
    fn a_route_is_one_hop_in_a_process_and_another_in_the_next() {
        let (here, there) = ([1; 16], [2; 16]);
        let hop = named(&here, "chat");
        assert_eq!(hop, named(&here, "chat"));
        assert!(hop != named(&there, "chat") && hop != named(&here, "other"));
        assert!(hop.len() == 16 && hop.as_bytes().iter().all(u8::is_ascii_hexdigit), "{hop:?}");
        assert_eq!(of_route("chat"), of_route("chat"));
    }

    #[test]
    fn a_request_that_was_here_is_found_among_others() {
        let ours = HeaderValue::from_static("0123456789abcdef");
        for lines in [
            &["0123456789abcdef"][..],
            &["fastly", "0123456789abcdef"],
            &["cloudflare; loops=1, 0123456789abcdef"],
            &["0123456789abcdef ;a=b,x"],
            &[" ,, 0123456789abcdef"],
        ] {
            assert_eq!(judge(&headers(lines), &ours), Err(RequestLoop::Back), "{lines:?}");
        }
        for lines in [&[][..], &[""], &["0123456789abcdeff"], &["x0123456789abcdef"], &["a; b=0123456789abcdef"]] {
            assert_eq!(judge(&headers(lines), &ours), Ok(()), "{lines:?}");
        }
        assert_eq!(judge(&headers(&["a,"; HOPS_MAX]), &ours), Ok(()));
        assert_eq!(judge(&headers(&["a"; HOPS_MAX + 1]), &ours), Err(RequestLoop::TooMany));
    }
}
