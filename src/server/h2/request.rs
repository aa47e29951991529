//! The head of a request as all versions of HTTP have it below: what HTTP/2 alone writes otherwise is undone.

use http::header::{COOKIE, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method};

use crate::header::length::{self, LengthError};
use crate::ws::handshake::ExtendedConnect;

/// Why a head is malformed, though h2 takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// Of several lengths, h2 looks at the first alone.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// It is for something that is not spoken here.
    #[error("its :scheme is neither http nor https")]
    Scheme,
}

/// Makes the head neutral: cookies and the length in one line, and an extended CONNECT for a WebSocket as a GET with a mark.
///
/// # Errors
/// If it cannot be read in one way.
pub(super) fn neutralise(parts: &mut Parts) -> Result<(), Malformed> {
    if let Some(scheme) = parts.uri.scheme_str()
        && !matches!(scheme, "http" | "https")
    {
        return Err(Malformed::Scheme);
    }
    if let Some(protocol) = parts.extensions.remove::<h2::ext::Protocol>() {
        let extended = ExtendedConnect::of(protocol.as_str());
        parts.extensions.insert(extended);
        if extended == ExtendedConnect::WebSocket {
            parts.method = Method::GET;
        }
    }
    join_cookies(&mut parts.headers);
    Ok(length::join_lines(&mut parts.headers)?)
}

/// RFC 9113 §8.2.3: a client may send each cookie in a line of its own; elsewhere there is one line.
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if lines.by_ref().take(2).count() < 2 {
        return;
    }
    let joined = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    // Values and a separator that is one make a value.
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: Method, protocol: Option<&'static str>) -> Parts {
        let mut request = Request::builder().method(method).body(()).unwrap();
        if let Some(protocol) = protocol {
            request.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
        }
        request.into_parts().0
    }

    #[test]
    fn an_extended_connect_for_a_websocket_is_a_get_to_all_below() {
        for (protocol, method, extended) in [
            (Some("websocket"), Method::GET, Some(ExtendedConnect::WebSocket)),
            (Some("connect-udp"), Method::CONNECT, Some(ExtendedConnect::Unknown)),
            (Some("WebSocket"), Method::CONNECT, Some(ExtendedConnect::Unknown)),
            (None, Method::CONNECT, None),
        ] {
            let mut parts = parts(Method::CONNECT, protocol);
            neutralise(&mut parts).unwrap();
            assert_eq!((&parts.method, parts.extensions.get()), (&method, extended.as_ref()), "{protocol:?}");
        }
    }

    #[test]
    fn cookies_come_in_one_line() {
        for (lines, joined) in
            [(&[][..], None), (&["a=1"], Some("a=1")), (&["a=1", "b=2", "c=3"], Some("a=1; b=2; c=3"))]
        {
            let mut parts = parts(Method::GET, None);
            for line in lines {
                parts.headers.append(COOKIE, HeaderValue::from_static(line));
            }
            neutralise(&mut parts).unwrap();
            let found: Vec<_> = parts.headers.get_all(COOKIE).iter().map(|line| line.to_str().unwrap()).collect();
            assert_eq!(found, Vec::from_iter(joined), "{lines:?}");
        }
    }
}
