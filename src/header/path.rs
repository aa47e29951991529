//! Brings all spellings of a path to one normal form, so that they match the same route; and chooses the spelling for
//! the server.
//!
//! Follows RFC 3986 §6.2.2 (case of escapes, needless escapes, dot segments). Refuses paths in which the server might
//! still find a dot segment: `..%2f`, `..;x`, `..%20`, dots of other widths, backslashes, and paths that lead above the
//! root. `//`, `;x` and `%2F` stay as they are: servers read them differently, and `route::reading` makes sure that
//! this changes nothing.

use std::borrow::Cow;

use thiserror::Error;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// A target that is not a path.
    #[error("a path starts with `/`")]
    Relative,
    /// `/../x`
    #[error("the path leads out above the root")]
    AboveRoot,
    /// `%`, `%4`, `%zz`
    #[error("`%` in a path is followed by two hexadecimal digits")]
    Escape,
    /// An escaped NUL, CR or LF: meant to deceive the next parser or log.
    #[error("the path contains an encoded NUL or line break")]
    EncodedControl,
    /// A raw control character, space, `?` or `#`.
    #[error("the path contains `{}`, which must be percent-encoded", .0.escape_ascii())]
    Character(u8),
    /// `\` or `%5C`: a slash to some servers.
    #[error("the path contains a backslash")]
    Backslash,
    /// `..%2f`, `..;x`, `..%20` or `%EF%BC%8E.`: a dot segment to servers that first decode, drop parameters or blanks,
    /// or fold characters.
    #[error("the path contains a disguised dot segment")]
    DisguisedDot,
    /// `%C0%AF`: a character in more bytes than it needs; RFC 3629 §3 forbids it, and some decoders read it as `/`.
    #[error("the path contains UTF-8 in more bytes than it needs")]
    Overlong,
    /// `%2F` where the route refuses it.
    #[error("the path contains an encoded slash, which this route refuses (`paths.encoded_slash`)")]
    EncodedSlash,
    /// Different readings choose different routes, and no form of the path is read alike by both.
    #[error("the path can be read as that of two routes: write it without `//`, `;` and `%2F` (`paths` of a route)")]
    Ambiguous,
    /// The regex of `rewrite` produced dot segments, `%` without digits, or too long a path.
    #[error("the route's `rewrite` makes no path of it that may go to a server")]
    Rewritten,
}

/// Brings a path (without its query) to normal form; borrows it if it is normal already. `*`, the target of `OPTIONS
/// *`, passes.
///
/// The normal form is idempotent, has no dot segment in any known disguise, and is ASCII.
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
    let has_escapes = spelled.contains('%');
    if has_escapes && has_overlong(&spelled) {
        return Err(PathError::Overlong);
    }
    let may_be_dots = |segment: &str| segment.starts_with('.') || (has_escapes && hides_dots(segment));
    if !spelled.split('/').any(may_be_dots) {
        return Ok(spelled);
    }
    match remove_dot_segments(&spelled)? {
        path if path.len() == raw_path.len() && path == raw_path => Ok(Cow::Borrowed(raw_path)),
        path => Ok(Cow::Owned(path)),
    }
}

/// Returns the form of `raw` that may go to a server; `normal` is its normal form. `raw` is kept, because servers that
/// compare or sign paths want it untouched, and `%7E` and `~`, or `%2f` and `%2F`, are equal once decoded. Escapes what
/// must not stand bare in a path. Returns `None` if only the normal form may go: it lost dot segments, which a server
/// might miss or remove differently.
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

/// Returns true if `path` differs from `normal` only in the spelling of escapes, so it has no further dot segment.
pub fn is_same(path: &str, normal: &str) -> bool {
    path == normal || respell(path).is_ok_and(|spelled| spelled == normal)
}

/// Applies RFC 3986 §6.2.2.1 and §6.2.2.2; also escapes what must not stand bare in a path (RFC 3986 §3.3).
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

/// Applies RFC 3986 §5.2.4, but a path that leads above the root is an error (the RFC ignores it).
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

/// Returns true if some server finds a dot segment in this segment: one that reads `%2F` as a slash, cuts off
/// `;parameters` (as Java servlet containers do) or what follows an encoded `?`, drops blanks and invisible characters
/// (as Windows does at the end of a name), or folds look-alikes to ASCII (NFKC, and the best fit of Windows).
fn hides_dots(segment: &str) -> bool {
    if !segment.starts_with('.') && !segment.contains('%') {
        return false;
    }
    let bytes = decoded(segment);
    let text = String::from_utf8_lossy(&bytes);
    let is_slash = |char: char| {
        matches!(
            char,
            '/' | '\\' | '\u{ff0f}' | '\u{ff3c}' | '\u{fe68}' | '\u{2044}' | '\u{2215}' | '\u{2216}' | '\u{29f5}'
        )
    };
    let ends_name =
        |char: char| matches!(char, ';' | '?' | '#' | '\u{ff1b}' | '\u{fe54}' | '\u{ff1f}' | '\u{ff03}' | '\u{37e}');
    text.split(is_slash).any(|part| {
        let mut dots = 0;
        for char in part.chars().take_while(|char| !ends_name(*char)) {
            dots += match char {
                '.' | '\u{ff0e}' | '\u{2024}' | '\u{fe52}' => 1,
                '\u{2025}' => 2,
                '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' => 0,
                char if char.is_whitespace() || char.is_control() => 0,
                _ => return false,
            };
        }
        matches!(dots, 1 | 2)
    })
}

/// Decodes a segment whose escapes are in capitals.
fn decoded(segment: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(segment.len()), segment.as_bytes());
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

/// Returns true if there is UTF-8 in more bytes than it needs (RFC 3629 §3): a lead of two bytes for what fits in one,
/// or a second byte that shows that the first was needless.
fn has_overlong(path: &str) -> bool {
    let bytes = decoded(path);
    let goes_on = |byte: Option<&u8>| byte.is_some_and(|byte| (0x80..=0xbf).contains(byte));
    bytes.iter().enumerate().any(|(at, lead)| {
        let second = bytes.get(at + 1);
        let at_most = |last: u8| second.is_some_and(|byte| (0x80..=last).contains(byte)) && goes_on(bytes.get(at + 2));
        match lead {
            0xc0 | 0xc1 => goes_on(second),
            0xe0 => at_most(0x9f),
            0xf0 => at_most(0x8f),
            0xf8 => at_most(0x87),
            0xfc => at_most(0x83),
            _ => false,
        }
    })
}

fn push_escape(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Returns the value of a hexadecimal digit.
pub(super) fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// Returns true for the unreserved characters of RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Returns true for the characters of a path (RFC 3986 §3.3), without the escapes.
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
            ("/a%20b/c%20", "/a%20b/c%20"),
            ("/%20", "/%20"),
            ("/..a%20", "/..a%20"),
            ("/v1.2%2Fx.y;z", "/v1.2%2Fx.y;z"),
            ("/\u{2026}", "/%E2%80%A6"),
            ("/%e0%a4%b9/%f0%9f%98%80/%c3%a9", "/%E0%A4%B9/%F0%9F%98%80/%C3%A9"),
            ("/%e9t%e9/%c0", "/%E9t%E9/%C0"), // Latin-1
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
            ("/ws/..%20/admin", DisguisedDot),
            ("/ws/%20../admin", DisguisedDot),
            ("/ws/.%09./admin", DisguisedDot),
            ("/ws/..%c2%a0/admin", DisguisedDot),
            ("/ws/..%e2%80%8b/admin", DisguisedDot),
            ("/ws/..%3b/admin", DisguisedDot),
            ("/ws/..%3Bx=y/admin", DisguisedDot),
            ("/ws/..%3f/admin", DisguisedDot),
            ("/ws/..%23/admin", DisguisedDot),
            ("/ws/\u{ff0e}\u{ff0e}/admin", DisguisedDot),
            ("/ws/%ef%bc%8e%ef%bc%8e/admin", DisguisedDot),
            ("/ws/.%ef%bc%8e/admin", DisguisedDot),
            ("/ws/%ef%bc%8e/admin", DisguisedDot),
            ("/ws/%e2%80%a5/admin", DisguisedDot),
            ("/ws/..%ef%bc%8fadmin", DisguisedDot),
            ("/ws/..\u{ff3c}admin", DisguisedDot),
            ("/ws/%c0%ae%c0%ae/admin", Overlong),
            ("/ws/..%c0%afadmin", Overlong),
            ("/%c1%a1dmin", Overlong),
            ("/a%e0%80%af", Overlong),
            ("/a%f0%80%80%af", Overlong),
            ("/a%f8%80%80%80%af", Overlong),
            ("/a%c1%9cb", Overlong),
        ] {
            assert_eq!(normalise(raw).unwrap_err(), error, "{raw:?}");
        }
    }

    /// Generates paths from the pieces that matter.
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

    /// Decodes as a server does, once.
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
                // The sent path reads as the matched one, and no dot segment is left to remove.
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
