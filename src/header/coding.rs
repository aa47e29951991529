//! Judges Transfer-Encoding: `chunked`, or none.
//!
//! Any other coding was applied to the body and must be undone. The proxy does not (RFC 9112 §7.2 and §7.3 do not
//! require it). Without the field, the body would reach its reader changed; with it, two peers would have to agree on
//! where the body ends.

use http::header::{HeaderMap, TRANSFER_ENCODING};
use thiserror::Error;

/// Why a Transfer-Encoding is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CodingError {
    /// `gzip, chunked`: RFC 9112 §6.1 suggests a 501.
    #[error("Transfer-Encoding names a coding other than `chunked`, which is not implemented")]
    Unknown,
    /// `chunked, chunked`, two lines, an empty item, a parameter, or not a token: no sender may write it.
    #[error("Transfer-Encoding is to be `chunked`, once and in one line")]
    Malformed,
}

/// Judges a request: it may have only one line, with `chunked`.
///
/// # Errors
/// Fails for any other Transfer-Encoding.
pub fn of_request(headers: &HeaderMap) -> Result<(), CodingError> {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    let (Some(line), other) = (lines.next(), lines.next()) else { return Ok(()) };
    if other.is_none() && is_chunked(line.as_bytes()) {
        return Ok(());
    }
    let mut all = items(headers);
    // If an item cannot be read, the coding is unknown.
    match all.clone().all(is_token) && all.any(|item| !is_chunked(item)) {
        true => Err(CodingError::Unknown),
        false => Err(CodingError::Malformed),
    }
}

/// Judges a response. `identity` (RFC 2616) leaves the body as it is, and servers that write `chunked` twice mean it
/// once: the proxy frames the body anew for the client, and does not use the connection again.
///
/// # Errors
/// Fails if a coding would have to be undone.
pub fn of_response(headers: &HeaderMap) -> Result<(), CodingError> {
    let is_none = |item: &[u8]| item.is_empty() || is_chunked(item) || item.eq_ignore_ascii_case(b"identity");
    match items(headers).all(is_none) {
        true => Ok(()),
        false => Err(CodingError::Unknown),
    }
}

/// Returns all items of all lines, the empty ones included.
fn items(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> + Clone {
    let lines = headers.get_all(TRANSFER_ENCODING).into_iter().map(|line| line.as_bytes()).collect::<Vec<_>>();
    lines.into_iter().flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn is_chunked(item: &[u8]) -> bool {
    item.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// Returns true if an item begins with a token (RFC 9110 §5.6.2), with or without parameters.
fn is_token(item: &[u8]) -> bool {
    let name = item.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    // RFC 9112 §7 defines no parameters for `chunked`.
    let has_parameters = item.contains(&b';');
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
        && !(has_parameters && is_chunked(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(lines: &[&str]) -> HeaderMap {
        let lines = lines.iter().map(|line| (TRANSFER_ENCODING, HeaderValue::from_str(line).unwrap()));
        lines.fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
    }

    #[test]
    fn a_request_is_chunked_or_not_and_nothing_else() {
        use CodingError::*;
        for (lines, judged) in [
            (&[][..], Ok(())),
            (&["chunked"], Ok(())),
            (&[" ChunKed\t"], Ok(())),
            (&["gzip, chunked"], Err(Unknown)),
            (&["cow, chunked"], Err(Unknown)),
            (&["identity, chunked"], Err(Unknown)),
            (&["identity"], Err(Unknown)),
            (&["gzip;q=1, chunked"], Err(Unknown)),
            (&["gzip", "chunked"], Err(Unknown)),
            (&["chunked, gzip, chunked"], Err(Unknown)),
            (&["xchunked"], Err(Unknown)),
            (&["chunked, chunked"], Err(Malformed)),
            (&["chunked", "chunked"], Err(Malformed)),
            (&[", chunked"], Err(Malformed)),
            (&["chunked,"], Err(Malformed)),
            (&["", "chunked"], Err(Malformed)),
            (&[""], Err(Malformed)),
            (&["chunked;x=y"], Err(Malformed)),
            (&["\"chunked\""], Err(Malformed)),
            (&["\"gzip, chunked"], Err(Malformed)),
            (&["chunked chunked"], Err(Malformed)),
        ] {
            assert_eq!(of_request(&headers(lines)), judged, "{lines:?}");
        }
    }

    #[test]
    fn a_response_may_say_more_where_nothing_was_done_to_its_body() {
        for lines in
            [&[][..], &["chunked"], &["chunked", "Chunked"], &["identity"], &["identity, chunked"], &["chunked,"]]
        {
            assert_eq!(of_response(&headers(lines)), Ok(()), "{lines:?}");
        }
        for lines in [&["gzip"][..], &["gzip, chunked"], &["deflate", "chunked"], &["\"chunked\""]] {
            assert_eq!(of_response(&headers(lines)), Err(CodingError::Unknown), "{lines:?}");
        }
    }
}
