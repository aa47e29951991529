//! Makes text from strangers safe for a log line: removes secrets, and characters that end a line or control a
//! terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Query keys whose values are secrets, in lower case with `_` for `-`.
const SECRET: [&str; 19] = [
    "token",
    "access_token",
    "id_token",
    "key",
    "api_key",
    "apikey",
    "auth",
    "authorization",
    "jwt",
    "password",
    "passwd",
    "pwd",
    "secret",
    "session",
    "sid",
    "sig",
    "signature",
    "code",
    "ticket",
];

/// Endings that make any key secret: `refresh_token`, `accessToken`, `X-Amz-Signature`, `sessionid`. Too many do no
/// harm.
const SECRET_END: [&str; 9] =
    ["token", "_key", "apikey", "secret", "password", "signature", "credential", "session_id", "sessionid"];

/// Returns a query for the log: the value of each key that looks secret becomes `***`, and all but printable ASCII is
/// percent-encoded. Compares keys decoded, so that `%74oken` hides nothing.
pub fn query(query: &str) -> Cow<'_, str> {
    if !query.split(['&', ';']).any(|pair| pair.split_once('=').is_some_and(|(key, _)| is_secret(key))) {
        return printable(query.as_bytes());
    }
    let mut out = String::with_capacity(query.len());
    for pair in query.split_inclusive(['&', ';']) {
        let (pair, separator) = match pair.as_bytes().last() {
            Some(b'&' | b';') => pair.split_at(pair.len() - 1),
            _ => (pair, ""),
        };
        match pair.split_once('=') {
            Some((key, _)) if is_secret(key) => {
                out.push_str(&printable(key.as_bytes()));
                out.push_str("=***");
            }
            _ => out.push_str(&printable(pair.as_bytes())),
        }
        out.push_str(separator);
    }
    Cow::Owned(out)
}

/// Returns text for the log: printable ASCII stays, and the rest is percent-encoded, including line breaks, escape
/// sequences and characters that change the reading direction.
pub fn printable(text: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(text)
        && text.bytes().all(is_printable)
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for &byte in text {
        match is_printable(byte) {
            true => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            false => drop(write!(out, "%{byte:02X}")),
        }
    }
    Cow::Owned(out)
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

/// Returns true if the value of this header may grant access: credentials, cookies, and headers named like a secret key
/// of a query.
pub fn is_credential(header: &str) -> bool {
    let header = header.to_ascii_lowercase();
    header.contains("auth") || header.contains("cookie") || is_secret(&header)
}

/// Returns true if the value of this key of a query looks secret.
pub fn is_secret(key: &str) -> bool {
    let key: String = decode(key).chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect();
    // The last part decides for `auth[token]`.
    let key = key.trim_end_matches(']');
    let key = key.rsplit('[').next().unwrap_or(key).trim();
    SECRET.contains(&key) || SECRET_END.iter().any(|end| key.ends_with(end))
}

/// Percent-decodes a component of a query, `+` as a space (as in forms); keeps malformed escapes.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (*first, tail) {
            (b'+', _) => out.push(b' '),
            (b'%', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(super::path::hex(*high) << 4 | super::path::hex(*low));
                rest = tail;
            }
            (byte, _) => out.push(byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_leave_and_the_rest_stays() {
        for (given, logged) in [
            ("", ""),
            ("a=1&b=2", "a=1&b=2"),
            ("token=abc", "token=***"),
            ("TOKEN=abc&x=1", "TOKEN=***&x=1"),
            ("x=1&access_token=a=b=c&y", "x=1&access_token=***&y"),
            ("a=1;sid=2;b=3", "a=1;sid=***;b=3"),
            ("refresh_token=a&private-key=b&client_secret=c", "refresh_token=***&private-key=***&client_secret=***"),
            ("accessToken=a&X-Amz-Signature=b", "accessToken=***&X-Amz-Signature=***"),
            ("%74oken=abc", "%74oken=***"),
            ("auth[token]=x&auth%5Bjwt%5D=y", "auth[token]=***&auth%5Bjwt%5D=***"),
            ("to%6ben=", "to%6ben=***"),
            ("+token=x", "+token=***"),
            ("tokens=3&keyboard=de&decode=1&token", "tokens=3&keyboard=de&decode=1&token"),
        ] {
            assert_eq!(query(given), logged, "{given}");
        }
    }

    #[test]
    fn headers_that_let_in_are_known_by_their_names() {
        for name in ["Authorization", "proxy-authorization", "Cookie", "X-Api-Key", "x-auth", "X-Amz-Security-Token"] {
            assert!(is_credential(name), "{name}");
        }
        for name in ["Host", "X-Tenant", "Accept", "Sec-WebSocket-Protocol", "X-Request-Id", "Keep-Alive"] {
            assert!(!is_credential(name), "{name}");
        }
    }

    #[test]
    fn nothing_ends_the_line_or_steers_the_terminal() {
        assert_eq!(query("a=1\r\nlevel=error"), "a=1%0D%0Alevel=error");
        assert_eq!(query("a=\x1b[2J&sig=\x1b"), "a=%1B[2J&sig=***");
        assert_eq!(printable("a\u{202e}b".as_bytes()), "a%E2%80%AEb");
        assert_eq!(printable(b"\xff\x7f ok"), "%FF%7F ok");
    }

    proptest! {
        #[test]
        fn what_is_logged_is_printable_and_holds_no_secret(before in ".{0,20}", secret in "S[^&;]{8}", after in ".{0,20}") {
            let text = format!("{before}&token={secret}&{after}");
            let logged = query(&text);
            prop_assert!(logged.bytes().all(is_printable));
            prop_assert!(logged.contains("&token=***&"));
        }
    }
}
