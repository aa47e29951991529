//! A text of the configuration with variables in it: read once, and filled in for each request.
//!
//! `{client.ip}` is a variable, `{{` a brace; any other `{` is an error, so that a slip never ends up as text on the wire,
//! and JSON that was written without thinking of variables does not lose its braces in silence. `}` alone is itself.
//!
//! What is filled in comes from strangers. Whatever it is, the result has no control characters, spaces or bytes beyond
//! ASCII that were not in the text: they are percent-encoded, and so are `"`, `<`, `>` and `\`, which end strings and
//! begin markup in what is often written around a variable.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::variable::Variable;

/// The most variables of one text: each may be as long as a request's head.
const VARIABLES_MAX: usize = 16;

/// A text with variables.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    pieces: Vec<TemplatePiece>,
}

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePiece {
    /// As it is.
    Text(String),
    /// Filled in.
    Variable(Variable),
    /// Filled in with this claim of the token that let the request in.
    Claim(Box<str>),
}

/// What is filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder<'a> {
    /// A variable.
    Variable(Variable),
    /// A claim of the token that let the request in, by its name.
    Claim(&'a str),
}

/// What stands before the name of a claim.
const CLAIMS: &str = "claims.";

/// Why a text is none. The texts of the errors quote no more of it than what stands in braces.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// A word in braces that is no variable.
    #[error("there is no variable `{{{0}}}`")]
    Unknown(String),
    /// A brace that begins nothing like a variable.
    #[error("`{{` begins a variable such as `{{client.ip}}`")]
    Brace,
    /// Too many variables.
    #[error("there are more than {VARIABLES_MAX} variables")]
    Many,
}

impl Template {
    /// Its pieces, in order; texts are not empty and do not follow one another.
    pub fn pieces(&self) -> &[TemplatePiece] {
        &self.pieces
    }

    /// Its text, if it has no variables.
    pub fn plain(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [TemplatePiece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Returns true if it has this variable.
    pub fn has(&self, variable: Variable) -> bool {
        self.pieces.contains(&TemplatePiece::Variable(variable))
    }

    /// Returns the names of the claims in it.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            TemplatePiece::Claim(name) => Some(&**name),
            TemplatePiece::Text(_) | TemplatePiece::Variable(_) => None,
        })
    }

    /// Fills it in: `value` writes what a placeholder stands for.
    pub fn fill(&self, mut value: impl FnMut(Placeholder<'_>, &mut String)) -> String {
        let (mut out, mut raw) = (String::with_capacity(self.source.len() + 64), String::new());
        for piece in &self.pieces {
            let placeholder = match piece {
                TemplatePiece::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                TemplatePiece::Variable(variable) => Placeholder::Variable(*variable),
                TemplatePiece::Claim(name) => Placeholder::Claim(name),
            };
            raw.clear();
            value(placeholder, &mut raw);
            push_safe(&mut out, &raw);
        }
        out
    }

    /// The text of `variable` alone.
    pub fn of(variable: Variable) -> Template {
        Template { source: variable.to_string(), pieces: vec![TemplatePiece::Variable(variable)] }
    }

    /// `text` written so that no brace of it begins a variable, except those that do.
    pub fn escaped(text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 8);
        let mut rest = text;
        while let Some((before, tail)) = rest.split_once('{') {
            out.push_str(before);
            out.push('{');
            let is_variable = tail.split_once('}').is_some_and(|(name, _)| piece(name).is_some());
            if !is_variable {
                out.push('{');
            }
            rest = if is_variable { tail } else { tail.strip_prefix('{').unwrap_or(tail) };
        }
        out.push_str(rest);
        out
    }
}

/// Writes `text` without anything that could end a field, a string or markup.
pub fn push_safe(out: &mut String, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' => {}
            0x21..=0x7e => {
                out.push(char::from(byte));
                continue;
            }
            _ => {}
        }
        out.push('%');
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(source: &str) -> Result<Template, TemplateError> {
        let mut pieces = vec![];
        let (mut text, mut rest, mut variables) = (String::new(), source, 0);
        while let Some((before, tail)) = rest.split_once('{') {
            text.push_str(before);
            if let Some(tail) = tail.strip_prefix('{') {
                text.push('{');
                rest = tail;
                continue;
            }
            let Some((name, tail)) = tail.split_once('}') else { return Err(TemplateError::Brace) };
            let is_word = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
            let variable = piece(name).ok_or_else(|| match !name.is_empty() && name.chars().all(is_word) {
                true => TemplateError::Unknown(name.to_owned()),
                false => TemplateError::Brace,
            })?;
            if !text.is_empty() {
                pieces.push(TemplatePiece::Text(std::mem::take(&mut text)));
            }
            pieces.push(variable);
            variables += 1;
            if variables > VARIABLES_MAX {
                return Err(TemplateError::Many);
            }
            rest = tail;
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(TemplatePiece::Text(text));
        }
        Ok(Template { source: source.to_owned(), pieces })
    }
}

/// What stands in braces with this name.
fn piece(name: &str) -> Option<TemplatePiece> {
    // Claims have names of all kinds, also URLs.
    let is_claim =
        |claim: &&str| !claim.is_empty() && claim.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'{');
    match name.strip_prefix(CLAIMS).filter(is_claim) {
        Some(claim) => Some(TemplatePiece::Claim(claim.into())),
        None => Variable::named(name).map(TemplatePiece::Variable),
    }
}

/// As it is written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// Without its text, which may hold a token.
impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pieces.iter().filter(|piece| !matches!(piece, TemplatePiece::Text(_)))).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(text: &str, value: &str) -> String {
        text.parse::<Template>().unwrap().fill(|_, out| out.push_str(value))
    }

    #[test]
    fn variables_are_filled_in_and_all_else_stays() {
        for (text, result) in [
            ("", ""),
            ("plain", "plain"),
            ("{client.ip}", "1.2.3.4"),
            ("for={client.ip};port={client.port}!", "for=1.2.3.4;port=1.2.3.4!"),
            ("{client.ip}{client.ip}", "1.2.3.41.2.3.4"),
            ("{{client.ip}", "{client.ip}"),
            ("{{{client.ip}}", "{1.2.3.4}"),
            (r#"{{"a":{{"b":1}}"#, r#"{"a":{"b":1}}"#),
            ("a}b}}", "a}b}}"),
            ("{claims.sub}-{claims.https://a.example/b.c}", "1.2.3.4-1.2.3.4"),
        ] {
            assert_eq!(filled(text, "1.2.3.4"), result, "{text}");
        }
        assert_eq!("a{{b".parse::<Template>().unwrap().plain(), Some("a{b"));
        assert_eq!("".parse::<Template>().unwrap().plain(), Some(""));
        assert_eq!("a{client.ip}".parse::<Template>().unwrap().plain(), None);
    }

    #[test]
    fn a_brace_that_begins_no_variable_is_an_error_that_can_be_written() {
        let error = |text: &str| text.parse::<Template>().unwrap_err();
        assert_eq!(error("{client.pi}"), TemplateError::Unknown("client.pi".to_owned()));
        assert_eq!(error("{claims.}"), TemplateError::Unknown("claims.".to_owned()));
        for text in [r#"{"a":1}"#, "{", "a {b c}", "{}", "{client.ip", "{claims.a b}"] {
            assert_eq!(error(text), TemplateError::Brace, "{text}");
        }
        for (text, escaped) in
            [(r#"{"a":{"b":1}}"#, r#"{{"a":{{"b":1}}"#), ("{ {client.ip}", "{{ {client.ip}"), ("{{a} {b}", "{{a} {{b}")]
        {
            assert_eq!(Template::escaped(text), escaped);
            escaped.parse::<Template>().unwrap();
        }
        assert_eq!(error(&"{client.ip}".repeat(17)), TemplateError::Many);
    }

    #[test]
    fn claims_are_known_by_their_names() {
        let template: Template = "{claims.sub} {client.ip} {claims.a.b}".parse().unwrap();
        assert_eq!(template.claims().collect::<Vec<_>>(), ["sub", "a.b"]);
        let name = |placeholder: Placeholder<'_>, out: &mut String| match placeholder {
            Placeholder::Claim(name) => out.push_str(name),
            Placeholder::Variable(variable) => out.push_str(variable.name()),
        };
        assert_eq!(template.fill(name), "sub client.ip a.b");
    }

    #[test]
    fn what_comes_from_a_request_cannot_end_what_stands_around_it() {
        assert_eq!(filled("{request.query}", "a\r\nX: y\0 é\"<b>\\"), "a%0D%0AX:%20y%00%20%C3%A9%22%3Cb%3E%5C");
    }

    proptest! {
        #[test]
        fn no_byte_that_is_forbidden_is_ever_filled_in(value in any::<String>(), text in "[ -z|}~]{0,20}") {
            let made = filled(&format!("{text}{{request.query}}{text}"), &value);
            let inside = &made[text.len()..made.len() - text.len()];
            prop_assert!(inside.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && !b"\"<>\\".contains(&byte)));
            prop_assert!(http::HeaderValue::from_str(&made).is_ok());
        }

        #[test]
        fn any_text_is_read_or_refused_and_can_be_escaped(text in "[a-z.{}]{0,30}|\\PC{0,30}") {
            if let Ok(template) = text.parse::<Template>() {
                prop_assert_eq!(template.to_string(), text.as_str());
            }
            prop_assert!(!matches!(Template::escaped(&text).parse::<Template>(), Err(TemplateError::Unknown(_) | TemplateError::Brace)));
        }
    }
}
