//! Words of an nginx configuration, cut where nginx cuts them (`ngx_conf_read_token`).
//!
//! A quote counts only at the beginning of a word; `#` too. `{` ends a word unless it follows `$`. A backslash keeps the next
//! character from ending anything; it stays in the word unless it stands before a quote, a backslash, or one of `t`, `r`, `n`.

use super::{NginxError, Place};

/// The longest word: nginx reads with a buffer of 4 KiB, and scripts in quotes may be longer there than they should.
const WORD_BYTES_MAX: usize = 64 << 10;

/// A piece of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A word, without its quotes.
    Word(String),
    /// `;`
    End,
    /// `{`
    Open,
    /// `}`
    Close,
}

/// Reads tokens one after the other.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    file: &'a str,
    text: &'a str,
    at: usize,
    line: usize,
    /// Where the line begins.
    line_start: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Lexer<'a> {
        // Editors of Windows write a byte order mark, which nginx refuses and which means nothing.
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Lexer { file, text, at, line: 1, line_start: at }
    }

    /// Returns the place of what comes next.
    fn here(&self) -> Place {
        let column = self.text[self.line_start..self.at].chars().count() + 1;
        Place { file: self.file.to_owned(), line: self.line, column }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn step(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        if c == '\n' {
            self.line += 1;
            self.line_start = self.at;
        }
        Some(c)
    }

    fn skip_space(&mut self) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' | '\r' | '\n' => drop(self.step()),
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.step();
                    }
                }
                _ => return,
            }
        }
    }

    /// Returns the next token and its place; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<(Token, Place)>, NginxError> {
        self.skip_space();
        let place = self.here();
        let Some(c) = self.peek() else { return Ok(None) };
        let token = match c {
            ';' => Token::End,
            '{' => Token::Open,
            '}' => Token::Close,
            '"' | '\'' => {
                self.step();
                return Ok(Some((Token::Word(self.quoted(c, &place)?), place)));
            }
            _ => return Ok(Some((Token::Word(self.word(&place)?), place))),
        };
        self.step();
        Ok(Some((token, place)))
    }

    /// Reads the escape behind a backslash into `word`.
    fn escape(&mut self, word: &mut String) {
        match self.step() {
            Some(c @ ('"' | '\'' | '\\')) => word.push(c),
            Some('t') => word.push('\t'),
            Some('r') => word.push('\r'),
            Some('n') => word.push('\n'),
            Some(c) => {
                word.push('\\');
                word.push(c);
            }
            None => word.push('\\'),
        }
    }

    fn quoted(&mut self, quote: char, place: &Place) -> Result<String, NginxError> {
        let mut word = String::new();
        loop {
            if word.len() > WORD_BYTES_MAX {
                return Err(place.error("this word is too long: is a quote missing?"));
            }
            match self.step() {
                None => return Err(place.error(format!("the quote {quote} is never closed"))),
                Some('\\') => self.escape(&mut word),
                Some(c) if c == quote => break,
                Some(c) => word.push(c),
            }
        }
        match self.peek() {
            None | Some(' ' | '\t' | '\r' | '\n' | ';' | '{' | ')') => Ok(word),
            Some(c) => {
                Err(self.here().error(format!("after the quote comes a space or `;`, not `{}`", c.escape_debug())))
            }
        }
    }

    fn word(&mut self, place: &Place) -> Result<String, NginxError> {
        let mut word = String::new();
        while let Some(c) = self.peek() {
            if word.len() > WORD_BYTES_MAX {
                return Err(place.error("this word is too long"));
            }
            match c {
                ' ' | '\t' | '\r' | '\n' | ';' => break,
                '{' if !word.ends_with('$') => break,
                '\\' => {
                    self.step();
                    self.escape(&mut word);
                }
                c => {
                    self.step();
                    word.push(c);
                }
            }
        }
        Ok(word)
    }

    /// Goes over a block of another language, whose `{` has been read, to behind its `}`. Braces in Lua's strings and comments do
    /// not count.
    pub(super) fn skip_foreign(&mut self, place: &Place) -> Result<(), NginxError> {
        let mut depth = 1_usize;
        while let Some(c) = self.step() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                '"' | '\'' => {
                    while let Some(inner) = self.step() {
                        match inner {
                            '\\' => drop(self.step()),
                            inner if inner == c || inner == '\n' => break,
                            _ => {}
                        }
                    }
                }
                '-' if self.peek() == Some('-') => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.step();
                    }
                }
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
        Err(place.error("the block is never closed: `}` is missing"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Vec<String>, String> {
        let (mut lexer, mut found) = (Lexer::new("f", text), vec![]);
        while let Some((token, _)) = lexer.next().map_err(|error| error.to_string())? {
            found.push(match token {
                Token::Word(word) => word,
                Token::End => "<;>".to_owned(),
                Token::Open => "<{>".to_owned(),
                Token::Close => "<}>".to_owned(),
            });
        }
        Ok(found)
    }

    #[test]
    fn words_end_where_nginx_ends_them() {
        for (text, right) in [
            ("a b;", &["a", "b", "<;>"][..]),
            ("a{b;}", &["a", "<{>", "b", "<;>", "<}>"]),
            ("a 'b c' \"d;e\";", &["a", "b c", "d;e", "<;>"]),
            ("a # c;\n b;", &["a", "b", "<;>"]),
            ("a b#c;", &["a", "b#c", "<;>"]),
            ("a ${b}c;", &["a", "${b}c", "<;>"]),
            ("a b\\;c \\d\\.;", &["a", "b\\;c", "\\d\\.", "<;>"]),
            ("a 'b\\'c' \"\\t\\\\\";", &["a", "b'c", "\t\\", "<;>"]),
            ("a b'c'd;", &["a", "b'c'd", "<;>"]),
            ("location ~ ^/a$ {", &["location", "~", "^/a$", "<{>"]),
            ("a '';", &["a", "", "<;>"]),
            ("\u{feff}a;", &["a", "<;>"]),
            ("a \"multi\nline\";", &["a", "multi\nline", "<;>"]),
        ] {
            assert_eq!(tokens(text).unwrap(), right, "{text}");
        }
        assert_eq!(tokens("a\n  'b").unwrap_err(), "f:2:3: the quote ' is never closed");
        assert_eq!(tokens("a 'b'c;").unwrap_err(), "f:1:6: after the quote comes a space or `;`, not `c`");
    }

    #[test]
    fn a_block_of_lua_is_gone_over() {
        let text = "x_by_lua_block { if a then b = \"}\" -- }\n t = { '\\'}' } end } y;";
        let mut lexer = Lexer::new("f", text);
        lexer.next().unwrap();
        let (open, place) = lexer.next().unwrap().unwrap();
        assert_eq!(open, Token::Open);
        lexer.skip_foreign(&place).unwrap();
        assert_eq!(lexer.next().unwrap().unwrap().0, Token::Word("y".to_owned()));
    }
}
