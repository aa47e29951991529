//! Characters that are invisible or distort text: a terminal obeys them, an editor reverses what follows, or text is
//! hidden.
//!
//! They are escaped or replaced wherever text from strangers is shown to people.

use std::borrow::Cow;

/// Returns true if `c` is a control (C0, DEL, C1), a line separator, or a format character (Unicode's category Cf,
/// which includes characters that turn the direction of writing or hide text, the tags of U+E0000, and the byte order
/// mark).
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Returns `text` with a dot in place of each such character.
pub fn visible(text: &str) -> Cow<'_, str> {
    match text.contains(is_hidden) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.chars().map(|c| if is_hidden(c) { '.' } else { c }).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_or_hides_text_is_told_from_what_is_text() {
        for hidden in
            "\u{0}\u{1b}\u{7f}\u{85}\u{9b}\u{ad}\u{61c}\u{180e}\u{200b}\u{200d}\u{200e}\u{200f}\u{2028}\u{2029}\
                       \u{202a}\u{202e}\u{2060}\u{2066}\u{2069}\u{206f}\u{feff}\u{fff9}\u{e0041}"
                .chars()
        {
            assert!(is_hidden(hidden), "{hidden:?}");
        }
        for shown in " aé\u{a0}ß中ع🙂\u{301}\u{2010}\u{fe0f}".chars() {
            assert!(!is_hidden(shown), "{shown:?}");
        }
    }
}
