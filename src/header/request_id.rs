//! The id of a request (`X-Request-Id`): that of a trusted proxy if it is one, or else a new one.
//!
//! Ids join log lines of several programs, so what is taken over is bounded and has nothing in it that a log or a query
//! would read as more than one word.

use http::header::{HeaderMap, HeaderName};

/// The field.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken over; ids in use have 20 to 64 characters.
const BYTES_MAX: usize = 128;

/// The id that a trusted proxy sent in these fields, if there is one and it is sane.
pub fn of_proxy(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(X_REQUEST_ID).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let is_sane = |id: &&str| {
        (1..=BYTES_MAX).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~:/+=@$".contains(&byte))
    };
    line.to_str().ok().map(str::trim).filter(is_sane)
}

/// A new id: a UUID of version 4 (RFC 9562 §5.4) made of these random bytes.
pub fn uuid(random: [u8; 16]) -> String {
    let bits = u128::from_be_bytes(random) & !(0xf << 76) & !(0x3 << 62) | 4 << 76 | 2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn an_id_is_one_word_of_bounded_length() {
        let long = "x".repeat(129);
        for (lines, id) in [
            (&["abc-123"][..], Some("abc-123")),
            (&["0af7651916cd43dd8448eb211c80319c"], Some("0af7651916cd43dd8448eb211c80319c")),
            (&["Root=1-67891233-abcdef012345678912345678"], Some("Root=1-67891233-abcdef012345678912345678")),
            (&[], None),
            (&[""], None),
            (&["a", "a"], None),
            (&["a b"], None),
            (&["a,b"], None),
            (&["<a>"], None),
            (&["é"], None),
            (&[&long], None),
        ] {
            let values = lines.iter().filter_map(|line| HeaderValue::from_bytes(line.as_bytes()).ok());
            let headers: HeaderMap = values.map(|value| (X_REQUEST_ID, value)).collect();
            assert_eq!(of_proxy(&headers), id, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn a_new_id_is_a_uuid_that_would_be_taken_over(random in any::<[u8; 16]>()) {
            let id = uuid(random);
            let parts: Vec<usize> = id.split('-').map(str::len).collect();
            prop_assert_eq!(parts, [8, 4, 4, 4, 12]);
            prop_assert!(&id[14..15] == "4" && "89ab".contains(&id[19..20]), "{}", id);
            let headers: HeaderMap = HeaderValue::from_str(&id).map(|value| (X_REQUEST_ID, value)).into_iter().collect();
            prop_assert_eq!(of_proxy(&headers), Some(id.as_str()));
        }
    }
}
