//! Escapes text from strangers in our log: whatever a peer sends, one event stays one line and no terminal obeys it.
//!
//! JSON alone requires less (RFC 8259 §7 escapes U+0000 to U+001F), so DEL, the C1 controls (U+009B starts a terminal
//! sequence), line separators, and characters that change the direction of writing or hide text are escaped as well.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::header::visible::is_hidden;

/// Appends `text` as a JSON string, quotes included.
pub fn json_string(out: &mut Vec<u8>, text: &str) {
    let written = text.serialize(&mut Serializer::with_formatter(&mut *out, Plain));
    debug_assert!(written.is_ok(), "a string always serializes, and a Vec always takes it");
}

/// Appends `text` for people: bare if it is one plain word, otherwise quoted and escaped as Rust would.
pub fn human_word(out: &mut Vec<u8>, text: &str) {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
        out.extend_from_slice(text.as_bytes());
    } else {
        human_quoted(out, text);
    }
}

/// Appends `text` quoted; `Debug` escapes quotes, controls and most of what is not printable.
pub fn human_quoted(out: &mut Vec<u8>, text: &str) {
    human_text(out, &format!("{text:?}"));
}

/// Appends `text` as it is, spaces and quotes included; only unprintable characters are escaped.
pub fn human_text(out: &mut Vec<u8>, text: &str) {
    for piece in text.split_inclusive(is_hidden) {
        match piece.chars().next_back() {
            Some(last) if is_hidden(last) => {
                out.extend_from_slice(&piece.as_bytes()[..piece.len() - last.len_utf8()]);
                let _ = write!(out, "{}", last.escape_default());
            }
            _ => out.extend_from_slice(piece.as_bytes()),
        }
    }
}

/// Returns the longest start of `text` of at most `bytes` bytes that ends between characters.
pub fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Writes serde_json's compact form, but escapes invisible characters.
struct Plain;

impl Formatter for Plain {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_hidden(c)) {
            out.write_all(&rest.as_bytes()[..at])?;
            // Two units beyond the basic plane (RFC 8259 §7).
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(write: fn(&mut Vec<u8>, &str), text: &str) -> String {
        let mut out = Vec::new();
        write(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_escapes_more_than_json_must() {
        assert_eq!(with(json_string, "a\"b\\c\n\u{1b}[2J"), r#""a\"b\\c\n\u001b[2J""#);
        assert_eq!(with(json_string, "\u{61c}\u{200b}\u{feff}\u{e0041}"), r#""\u061c\u200b\ufeff\udb40\udc41""#);
        assert_eq!(with(json_string, "\u{7f}\u{9b}31m\u{2028}\u{202e}é"), r#""\u007f\u009b31m\u2028\u202eé""#);
    }

    #[test]
    fn words_are_bare_only_when_plain() {
        assert_eq!(with(human_word, "ws://10.0.0.1:9000"), "ws://10.0.0.1:9000");
        assert_eq!(with(human_word, ""), r#""""#);
        assert_eq!(with(human_word, "two words"), r#""two words""#);
        assert_eq!(with(human_word, "a\r\nb\u{1b}\u{202e}"), r#""a\r\nb\u{1b}\u{202e}""#);
    }

    #[test]
    fn sentences_keep_their_spaces_and_quotes() {
        assert_eq!(with(human_text, "it \"is\" so\nand\u{9b}so"), "it \"is\" so\\nand\\u{9b}so");
    }

    #[test]
    fn cutting_never_splits_a_character() {
        assert_eq!(cut("aéé", 2), "a");
        assert_eq!(cut("aéé", 3), "aé");
        assert_eq!(cut("aéé", 99), "aéé");
    }

    proptest! {
        #[test]
        fn nothing_leaves_one_line_and_json_reads_back_as_it_was(
            text in "(.|[\u{61c}\u{ad}\u{180e}\u{200b}-\u{200f}\u{2028}-\u{202e}\u{2060}-\u{206f}\u{feff}\u{e0001}\u{e0041}])*"
        ) {
            for write in [json_string, human_word, human_quoted, human_text] {
                prop_assert!(!with(write, &text).chars().any(is_hidden));
            }
            prop_assert_eq!(serde_json::from_str::<String>(&with(json_string, &text)).unwrap(), text);
        }
    }
}
