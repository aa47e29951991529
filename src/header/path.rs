//! One spelling for each path, so that all spellings of it match the same route; and which spelling goes to the server.
//!
//! This is RFC 3986 §6.2.2 (case of escapes, escapes that need not be, dot segments), and errors where a server behind us
//! might go on to find a dot segment that we did not: `..%2f`, `..;x`, backslashes, a way out above the root. `//` stays
//! as it is; servers differ on whether it is one slash, and it does not lead anywhere else.

use std::borrow::Cow;

use thiserror::Error;

/// Why a path is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// A target that is no path.
    #[error("a path starts with `/`")]
    Relative,
    /// `/../x`
    #[error("the path leads out above the root")]
    AboveRoot,
    /// `%`, `%4`, `%zz`
    #[error("`%` in a path is followed by two hexadecimal digits")]
    Escape,
    /// NUL, CR or LF behind an escape: for the next parser or log, not for a server.
    #[error("the path contains an encoded NUL or line break")]
    EncodedControl,
    /// A raw control character, space, `?` or `#`.
    #[error("the path contains `{}`, which must be percent-encoded", .0.escape_ascii())]
    Character(u8),
    /// `\` or `%5C`: a slash to some servers.
    #[error("the path contains a backslash")]
    Backslash,
    /// `..%2f` or `..;x`: a dot segment to servers that decode, or drop parameters, before they look.
    #[error("the path contains a disguised dot segment")]
    DisguisedDot,
}

/// Brings a path (without its query) to normal form; borrowed if it was. `*`, the target of `OPTIONS *`, passes.
///
/// Normal form is idempotent, has no dot segment in any disguise known to us, and is ASCII.
///
/// # Errors
/// See [`PathError`]; each is a 400.
pub fn normalise(raw_path: &str) -> Result<Cow<'_, str>, PathError> {
    if raw_path == "*" {
        return Ok(Cow::Borrowed(raw_path));
    }
    if !raw_path.starts_with('/') {
        return Err(PathError::Relative);
    }
    let spelled = respell(raw_path)?;
    if !spelled.split('/').any(|segment| segment.starts_with('.') || segment.contains("%2F")) {
        return Ok(spelled);
    }
    match remove_dot_segments(&spelled)? {
        path if path.len() == raw_path.len() && path == raw_path => Ok(Cow::Borrowed(raw_path)),
        path => Ok(Cow::Owned(path)),
    }
}

/// `raw`, whose normal form is `normal`, as it may go to a server: as it came, for `%7E` and `~`, `%2f` and `%2F` are the
/// same to whoever decodes once, and servers that compare or sign what they get want it untouched. What may not stand in a
/// path bare is escaped. `None`: only the normal form may go, because it has less in it: dot segments were taken out, which
/// a server might not find or might take out otherwise.
pub fn as_it_came<'a>(raw: &'a str, normal: &str) -> Option<Cow<'a, str>> {
    if !is_same(raw, normal) {
        return None;
    }
    if raw.bytes().all(|byte| is_pchar_or_slash(byte) || byte == b'%') {
        return Some(Cow::Borrowed(raw));
    }
    let mut out = String::with_capacity(raw.len() + 8);
    for byte in raw.bytes() {
        match is_pchar_or_slash(byte) || byte == b'%' {
            true => out.push(char::from(byte)),
            false => push_escape(&mut out, byte),
        }
    }
    Some(Cow::Owned(out))
}

/// Whether `path` says what `normal` says in normal form, escape by escape: without a dot segment more.
pub fn is_same(path: &str, normal: &str) -> bool {
    path == normal || respell(path).is_ok_and(|spelled| spelled == normal)
}

/// RFC 3986 §6.2.2.1 and §6.2.2.2; also writes as escapes what may not stand in a path bare (RFC 3986 §3.3).
fn respell(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if raw.bytes().all(is_pchar_or_slash) {
        return Ok(Cow::Borrowed(raw));
    }
    let mut out = String::with_capacity(raw.len() + 8);
    let mut rest = raw.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match *byte {
            b'%' => {
                let [high, low, tail @ ..] = tail else { return Err(PathError::Escape) };
                if !high.is_ascii_hexdigit() || !low.is_ascii_hexdigit() {
                    return Err(PathError::Escape);
                }
                rest = tail;
                match hex(*high) << 4 | hex(*low) {
                    0 | b'\r' | b'\n' => return Err(PathError::EncodedControl),
                    b'\\' => return Err(PathError::Backslash),
                    byte if is_unreserved(byte) => out.push(char::from(byte)),
                    byte => push_escape(&mut out, byte),
                }
            }
            b'\\' => return Err(PathError::Backslash),
            byte @ (b'\0'..=b' ' | 0x7f | b'?' | b'#') => return Err(PathError::Character(byte)),
            byte if is_pchar_or_slash(byte) => out.push(char::from(byte)),
            byte => push_escape(&mut out, byte),
        }
    }
    Ok(if out == raw { Cow::Borrowed(raw) } else { Cow::Owned(out) })
}

/// RFC 3986 §5.2.4, but a way out above the root is an error (the RFC ignores it).
fn remove_dot_segments(path: &str) -> Result<String, PathError> {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => drop(kept.pop().ok_or(PathError::AboveRoot)?),
            _ if hides_dots(segment) => return Err(PathError::DisguisedDot),
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if last {
            kept.push(""); // "/a/.." is the directory "/"
        }
    }
    Ok(format!("/{}", kept.join("/")))
}

/// Whether a segment has a dot segment in it for one who takes `%2F` for a slash, or cuts off `;parameters` (as Java
/// servlet containers do).
fn hides_dots(segment: &str) -> bool {
    segment.split("%2F").any(|part| matches!(part.split(';').next(), Some("." | "..")))
}

fn push_escape(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// The value of a hexadecimal digit.
pub(super) fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// RFC 3986 §3.3, without the escapes.
fn is_pchar_or_slash(byte: u8) -> bool {
    is_unreserved(byte) || b"/!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_path_become_one() {
        for (raw, normal) in [
            ("*", "*"),
            ("/", "/"),
            ("/ws", "/ws"),
            ("//", "//"),
            ("//a//b", "//a//b"),
            ("/%7Euser/%61", "/~user/a"),
            ("/a%2fb", "/a%2Fb"),
            ("/%e2%82%ac", "/%E2%82%AC"),
            ("/€{}", "/%E2%82%AC%7B%7D"),
            ("/a/b/c/./../../g", "/a/g"), // RFC 3986 §5.2.4
            ("/mid/content=5/../6", "/mid/6"),
            ("/evil/../x", "/x"),
            ("/evil/%2e%2E/x", "/x"),
            ("/evil/.%2e/x", "/x"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/.", "/"),
            ("/./a", "/a"),
            ("//../a", "/a"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/a..b/c.", "/a..b/c."),
            ("/%252e%252e/x", "/%252e%252e/x"), // decoded once, not twice
            ("/a;v=1/b", "/a;v=1/b"),
            ("/group%2Fproject", "/group%2Fproject"),
        ] {
            assert_eq!(normalise(raw).unwrap(), normal, "{raw}");
        }
    }

    #[test]
    fn what_came_is_sent_unless_it_has_dot_segments() {
        for (raw, sent) in [
            ("/%7Euser/%61", Some("/%7Euser/%61")),
            ("/a%2fb", Some("/a%2fb")),
            ("/a/{b}|%e2", Some("/a/%7Bb%7D%7C%e2")),
            ("/€", Some("/%E2%82%AC")),
            ("//a", Some("//a")),
            ("*", Some("*")),
            ("/a/../b", None),
            ("/a/%2e/b", None),
            ("/a/b/.", None),
        ] {
            assert_eq!(as_it_came(raw, &normalise(raw).unwrap()).as_deref(), sent, "{raw}");
        }
        assert!(is_same("/%61%2f", "/a%2F") && !is_same("/b", "/a") && !is_same("/%", "/a"));
    }

    #[test]
    fn a_path_in_normal_form_is_not_copied() {
        for path in ["/", "/ws/chat", "/a%2Fb", "/.well-known/x", "/%E2%82%AC"] {
            assert!(matches!(normalise(path), Ok(Cow::Borrowed(_))), "{path}");
        }
    }

    #[test]
    fn attacks_are_refused() {
        use PathError::*;
        for (raw, error) in [
            ("", Relative),
            ("ws", Relative),
            ("**", Relative),
            ("http://a/", Relative),
            ("/..", AboveRoot),
            ("/../x", AboveRoot),
            ("/a/../../x", AboveRoot),
            ("/a/%2e%2e/%2e%2e/x", AboveRoot),
            ("/%", Escape),
            ("/%4", Escape),
            ("/%zz", Escape),
            ("/%u002e", Escape),
            ("/%+1", Escape),
            ("/a%00.html", EncodedControl),
            ("/a%0d%0aSet-Cookie:x", EncodedControl),
            ("/a%0Ab", EncodedControl),
            ("/a\r\nb", Character(b'\r')),
            ("/a\0b", Character(0)),
            ("/a b", Character(b' ')),
            ("/a?b", Character(b'?')),
            ("/a#b", Character(b'#')),
            ("/a\x7f", Character(0x7f)),
            ("/a\\..\\b", Backslash),
            ("/a%5c..%5Cb", Backslash),
            ("/ws/..%2f..%2fadmin", DisguisedDot),
            ("/ws/%2e%2e%2fadmin", DisguisedDot),
            ("/ws/a%2F..", DisguisedDot),
            ("/ws/..;/admin", DisguisedDot),
            ("/ws/%2e%2e;a=b/admin", DisguisedDot),
            ("/ws/.;/admin", DisguisedDot),
            ("/ws/x%2F..;y", DisguisedDot),
        ] {
            assert_eq!(normalise(raw).unwrap_err(), error, "{raw:?}");
        }
    }

    /// Paths made of the pieces that matter.
    fn paths() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/"),
            Just("."),
            Just(".."),
            Just("%2e"),
            Just("%2E"),
            Just("%2f"),
            Just("%25"),
            Just("2e"),
            Just(";"),
            Just("%"),
            Just("%5c"),
            Just("\\"),
            Just("%00"),
            Just("%09"),
            Just("a"),
            Just("%61"),
            Just("€"),
            Just("{"),
        ];
        proptest::collection::vec(piece, 0..14).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    /// As a server decodes, once.
    fn decode(path: &str) -> Vec<u8> {
        let (mut out, mut rest) = (vec![], path.as_bytes());
        while let [byte, tail @ ..] = rest {
            rest = tail;
            match (byte, tail) {
                (b'%', [high, low, tail @ ..]) => {
                    out.push(hex(*high) << 4 | hex(*low));
                    rest = tail;
                }
                (byte, _) => out.push(*byte),
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn normal_form_is_final_and_free_of_dot_segments(raw in prop_oneof![paths(), "/\\PC{0,30}"]) {
            if let Ok(normal) = normalise(&raw) {
                prop_assert_eq!(normalise(&normal).unwrap(), normal.as_ref());
                prop_assert!(normal.starts_with('/'));
                prop_assert!(normal.bytes().all(|b| b.is_ascii_graphic() && b != b'\\'));
                for decoded in [normal.to_string(), normal.replace("%2F", "/")] {
                    prop_assert!(!decoded.split('/').any(|s| s == "." || s == ".."), "{} -> {}", raw, normal);
                }
                // What is sent is a path, and reads as what was matched, with nothing to take out.
                if let Some(sent) = as_it_came(&raw, &normal) {
                    prop_assert_eq!(normalise(&sent).unwrap(), normal.as_ref());
                    prop_assert!(sent.bytes().all(|b| is_pchar_or_slash(b) || b == b'%') || raw == "*");
                    let decoded = decode(&sent);
                    prop_assert_eq!(&decoded, &decode(&normal));
                    prop_assert!(!decoded.split(|b| *b == b'/').any(|s| s == b"." || s == b".."), "{} -> {}", raw, sent);
                }
            }
        }
    }
}
