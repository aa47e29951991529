//! Heads of answers as HTTP/2 has them.

use std::time::SystemTime;

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Body as _;

use crate::header::date;
use crate::proxy::body::Body;

/// RFC 9113 §8.2.2: fields of a connection are malformed there.
const OF_CONNECTIONS: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Returns the head of the answer to a request of this method, and its body if one follows.
pub(super) fn of(method: &Method, response: Response<Body>) -> (Response<()>, Option<Body>) {
    let (mut parts, body) = response.into_parts();
    finish(&mut parts.headers);
    let (is_head, is_ended) = (*method == Method::HEAD, body.is_end_stream());
    // RFC 9110 §15.3.5, §15.4.5: these have no body.
    let is_bodiless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    // Nothing is known of a body that a server left out of its answer to HEAD.
    let is_unknown = is_bodiless || (is_head && is_ended) || parts.headers.contains_key(CONTENT_LENGTH);
    if let Some(length) = body.size_hint().exact().filter(|_| !is_unknown) {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let body = (!is_head && !is_bodiless && !is_ended).then_some(body);
    (Response::from_parts(parts, ()), body)
}

/// Returns the answer that opens a session (RFC 8441 §5.1): a 200, without the accept value of the other handshake.
pub(super) fn opening(mut headers: HeaderMap) -> Response<()> {
    headers.remove(CONTENT_LENGTH);
    headers.remove(http::header::SEC_WEBSOCKET_ACCEPT);
    finish(&mut headers);
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    response
}

fn finish(headers: &mut HeaderMap) {
    for name in &OF_CONNECTIONS {
        headers.remove(name);
    }
    if !headers.contains_key(DATE) {
        headers.extend(date::of(SystemTime::now()).map(|date| (DATE, date)));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::proxy::body;

    fn answer(method: Method, status: u16, body: Body) -> (Option<String>, bool) {
        let mut response = Response::builder().status(status).header("connection", "close").header("upgrade", "h2c");
        response = response.header("keep-alive", "timeout=5");
        let (head, body) = of(&method, response.body(body).unwrap());
        assert!(OF_CONNECTIONS.iter().all(|name| !head.headers().contains_key(name)));
        assert!(head.headers().contains_key(DATE));
        (head.headers().get(CONTENT_LENGTH).map(|length| length.to_str().unwrap().to_owned()), body.is_some())
    }

    #[test]
    fn answers_say_how_long_they_are_and_end_where_no_body_follows() {
        let five = || Some("5".to_owned());
        assert_eq!(answer(Method::GET, 200, body::full("hello")), (five(), true));
        assert_eq!(answer(Method::HEAD, 404, body::full("hello")), (five(), false));
        assert_eq!(answer(Method::GET, 200, body::empty()), (Some("0".to_owned()), false));
        assert_eq!(answer(Method::HEAD, 200, body::empty()), (None, false));
        assert_eq!(answer(Method::GET, 204, body::empty()), (None, false));
        assert_eq!(answer(Method::GET, 304, body::full("hello")), (None, false));
    }

    #[test]
    fn a_session_is_opened_by_a_200() {
        let mut headers = HeaderMap::new();
        for name in ["sec-websocket-accept", "upgrade", "content-length", "sec-websocket-protocol"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        let head = opening(headers);
        assert_eq!(head.status(), StatusCode::OK);
        let names: Vec<_> = head.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["sec-websocket-protocol", "date"]);
    }
}
