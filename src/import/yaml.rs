//! YAML as people write it: keys in the order given, short values on one line, comments between.
//!
//! serde_yaml knows no comments and no flow style, so the text is written here. It only has to write what this module makes; what
//! reads it back is the loader of `config`.

use std::fmt::Write as _;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Yaml {
    /// A text, quoted where YAML would read something else.
    Text(String),
    /// A number, `true`, `off`: a word that is written as it is.
    Word(String),
    /// A list on one line.
    List(Vec<Yaml>),
    /// A map on one line.
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    /// A text.
    pub fn text(text: impl Into<String>) -> Yaml {
        Yaml::Text(text.into())
    }

    /// A word.
    pub fn word(word: impl ToString) -> Yaml {
        Yaml::Word(word.to_string())
    }

    /// A list of texts.
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Yaml {
        Yaml::List(texts.into_iter().map(Yaml::text).collect())
    }

    /// A map.
    pub fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Yaml)>) -> Yaml {
        Yaml::Map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    /// Returns it on one line.
    pub fn line(&self) -> String {
        match self {
            Yaml::Text(text) => quoted(text),
            Yaml::Word(word) => word.clone(),
            Yaml::List(items) => format!("[{}]", items.iter().map(Yaml::line).collect::<Vec<_>>().join(", ")),
            Yaml::Map(entries) if entries.is_empty() => "{}".to_owned(),
            Yaml::Map(entries) => {
                let entries = entries.iter().map(|(key, value)| format!("{}: {}", as_key(key), value.line()));
                format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// An element of a list, with its comments before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// Lines of comments, without their mark.
    pub comments: Vec<String>,
    /// Its keys.
    pub entries: Vec<(String, Yaml)>,
}

impl Block {
    /// Adds a key.
    pub fn set(&mut self, key: &str, value: Yaml) {
        self.entries.push((key.to_owned(), value));
    }

    /// Writes it as an element of a list.
    pub fn write_item(&self, out: &mut String) {
        write_comments(&self.comments, "  ", out);
        for (index, (key, value)) in self.entries.iter().enumerate() {
            let mark = if index == 0 { "- " } else { "  " };
            let _ = writeln!(out, "  {mark}{}: {}", as_key(key), value.line());
        }
    }

    /// Writes it as a named map.
    pub fn write_named(&self, name: &str, out: &mut String) {
        write_comments(&self.comments, "  ", out);
        let _ = writeln!(out, "  {}:", quoted(name));
        for (key, value) in &self.entries {
            let _ = writeln!(out, "    {}: {}", as_key(key), value.line());
        }
    }
}

/// Writes lines of comments.
pub fn write_comments(comments: &[String], indent: &str, out: &mut String) {
    for comment in comments {
        let _ = writeln!(out, "{indent}# {}", comment.trim_end());
    }
}

/// Returns a key; `on` is one of wsluice's and no truth value in YAML 1.2.
fn as_key(key: &str) -> String {
    if key == "on" { key.to_owned() } else { quoted(key) }
}

/// Returns a text so that YAML reads the same text, and the loader no variable of the environment.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if begins && text.chars().all(plain) && !words.contains(&&*text.to_ascii_lowercase()) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.replace("${", "$${").chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || ('\u{2028}'..='\u{2029}').contains(&c) || c == '\u{feff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_values_stand_on_one_line_and_are_quoted_where_they_must() {
        let value = Yaml::map([
            ("hosts", Yaml::texts(["chat.example.com", "*.example.com"])),
            ("status", Yaml::word(301)),
            ("Off", Yaml::text("off")),
            ("none", Yaml::map::<&str>([])),
        ]);
        let right = r#"{ hosts: [chat.example.com, "*.example.com"], status: 301, "Off": "off", none: {} }"#;
        assert_eq!(value.line(), right);
        assert_eq!(Yaml::text("a\"b\\${x}\n").line(), r#""a\"b\\$${x}\n""#);
    }

    proptest! {
        #[test]
        fn any_text_is_read_back(text in "\\PC*|[ -~]*|[\t\n\r\u{0}-\u{9f}\u{2028}]*") {
            let written = format!("{{ {}: {} }}", quoted("a b"), Yaml::text(&*text).line());
            let read: std::collections::BTreeMap<String, String> = serde_yaml::from_str(&written).expect(&written);
            prop_assert_eq!(&read["a b"], &text.replace("${", "$${"));
        }
    }
}
