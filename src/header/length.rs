//! Reduces Content-Length to one number.
//!
//! A list of equal lengths (`5, 5`, or two lines) arises where some software joins fields, and RFC 9110 §8.6 lets a
//! recipient accept it. If it were forwarded, the next reader might refuse it, or use the first or the last; so it is
//! sent as one number. Different or invalid lengths are refused (RFC 9112 §6.3).

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use thiserror::Error;

/// Why a Content-Length is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LengthError {
    /// `+5`, `0x5`, an empty value, or one over 64 bits.
    #[error("Content-Length is no number")]
    Malformed,
    /// `5, 6`
    #[error("Content-Length says several lengths")]
    Several,
}

/// Writes Content-Length as one number, if it is present.
///
/// # Errors
/// Fails if it does not give exactly one length.
pub fn join_lines(headers: &mut HeaderMap) -> Result<(), LengthError> {
    let mut length = None;
    let mut is_settled = true;
    for (number, line) in headers.get_all(CONTENT_LENGTH).iter().enumerate() {
        is_settled &= number == 0 && !line.as_bytes().contains(&b',');
        for item in line.as_bytes().split(|byte| *byte == b',') {
            let item = parse(item.trim_ascii()).ok_or(LengthError::Malformed)?;
            if *length.get_or_insert(item) != item {
                return Err(LengthError::Several);
            }
        }
    }
    if let (Some(length), false) = (length, is_settled) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

/// Parses `1*DIGIT`; `u64::from_str` alone would accept `+5`.
pub fn parse(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn settled(lines: &[&str]) -> Result<Vec<String>, LengthError> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CONTENT_LENGTH, HeaderValue::from_str(line).unwrap());
        }
        join_lines(&mut headers)?;
        Ok(headers.get_all(CONTENT_LENGTH).iter().map(|line| line.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn equal_lengths_are_one_and_others_none() {
        assert_eq!(settled(&[]).unwrap(), [""; 0]);
        for lines in [&["5"][..], &["5, 5"], &["5", "5"], &["5,5", " 5 ", "5\t,5"]] {
            assert_eq!(settled(lines).unwrap(), ["5"], "{lines:?}");
        }
        for lines in [&["5, 6"][..], &["5", "6"], &["5, 5", "6"], &["0", "5"]] {
            assert_eq!(settled(lines), Err(LengthError::Several), "{lines:?}");
        }
        for lines in [&["+5"][..], &["-1"], &[""], &["5,"], &[", 5"], &["0x5"], &["5 5"], &["18446744073709551616"]] {
            assert_eq!(settled(lines), Err(LengthError::Malformed), "{lines:?}");
        }
    }
}
