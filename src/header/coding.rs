//! Transfer coding: `chunked`, or none.
//!
//! Any other coding in Transfer-Encoding was applied to the body, and somebody has to undo it. We do not (RFC 9112 §7.2
//! and §7.3 do not require it). To pass the body on without the field would hand its reader something else than was
//! sent; to pass the field on would leave two peers to agree on where the body ends.

use http::header::{HeaderMap, TRANSFER_ENCODING};
use thiserror::Error;

/// A Transfer-Encoding that is not `chunked`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CodingError {
    /// `gzip, chunked`: RFC 9112 §6.1 has a 501 for it.
    #[error("Transfer-Encoding names a coding other than `chunked`, which is not implemented")]
    Unknown,
    /// `chunked, chunked`, two lines of it, an empty item, a parameter, or no token: no sender may write it.
    #[error("Transfer-Encoding is to be `chunked`, once and in one line")]
    Malformed,
}

/// Judges a request, in which nothing but one line with `chunked` has an honest reading.
///
/// # Errors
/// If there is a Transfer-Encoding that says anything else.
pub fn of_request(headers: &HeaderMap) -> Result<(), CodingError> {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    let (Some(line), other) = (lines.next(), lines.next()) else { return Ok(()) };
    if other.is_none() && is_chunked(line.as_bytes()) {
        return Ok(());
    }
    let mut all = items(headers);
    // With what cannot be read there is no telling which coding it was.
    match all.clone().all(is_token) && all.any(|item| !is_chunked(item)) {
        true => Err(CodingError::Unknown),
        false => Err(CodingError::Malformed),
    }
}

/// Judges a response. `identity`, of RFC 2616, did nothing to the body, and servers that say `chunked` twice mean it once:
/// its length is ours to say to the client, and the connection is not used again.
///
/// # Errors
/// If something was done to the body that would have to be undone.
pub fn of_response(headers: &HeaderMap) -> Result<(), CodingError> {
    let is_none = |item: &[u8]| item.is_empty() || is_chunked(item) || item.eq_ignore_ascii_case(b"identity");
    match items(headers).all(is_none) {
        true => Ok(()),
        false => Err(CodingError::Unknown),
    }
}

/// All items of all lines, the empty ones included.
fn items(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> + Clone {
    let lines = headers.get_all(TRANSFER_ENCODING).into_iter().map(|line| line.as_bytes()).collect::<Vec<_>>();
    lines.into_iter().flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn is_chunked(item: &[u8]) -> bool {
    item.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// A coding with or without parameters begins with a token (RFC 9110 §5.6.2).
fn is_token(item: &[u8]) -> bool {
    let name = item.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    // Of `chunked`, RFC 9112 §7 defines no parameters.
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
