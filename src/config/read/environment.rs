//! `${NAME}` and `${NAME:-default}`, filled in from the environment.
//!
//! Only in values and after YAML is parsed, so that a value from the environment stays one value, whatever characters
//! it has. As in a shell, `:-` also replaces a variable that is set to nothing. `$${` is a literal `${`; a `$` before
//! anything else is itself, as regular expressions end with one.

use crate::config::read::FINDINGS_MAX;
use crate::config::read::key::KeyPath;
use crate::config::read::tree::YamlNode;
use crate::header::variable::{Instead, Variable, instead_of};

/// The most bytes all filled values may have together: variables may be large and used often.
const FILLED_BYTES_MAX: usize = 2 << 20;

/// A value that cannot be filled in.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::config) struct Unfilled {
    pub(in crate::config) path: KeyPath,
    pub(in crate::config) problem: String,
    pub(in crate::config) help: String,
}

/// Fills in every string of `tree`. Reports, up to a limit, strings that cannot be filled in, and leaves them as they
/// were.
pub(in crate::config) fn fill(tree: &mut YamlNode, env: &dyn Fn(&str) -> Option<String>) -> Vec<Unfilled> {
    let mut unfilled = Vec::new();
    let mut room = FILLED_BYTES_MAX;
    tree.for_each_text(&mut |trail, text, raw| {
        if !text.contains("${") || unfilled.len() == FINDINGS_MAX {
            return;
        }
        match expand(text, env, room) {
            Ok(Expanded { text: filled, from_outside }) => {
                room -= filled.len().min(room);
                let written = std::mem::replace(text, filled);
                *raw = from_outside.then_some(written);
            }
            Err((problem, help)) => unfilled.push(Unfilled { path: trail.path(), problem, help }),
        }
    });
    unfilled
}

struct Expanded {
    text: String,
    from_outside: bool,
}

fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>, room: usize) -> Result<Expanded, (String, String)> {
    let mut out = String::new();
    let mut from_outside = false;
    let mut rest = text;
    let escape = "write `${NAME}` or `${NAME:-default}`, or `$${` for a plain `${`";
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let Some(end) = rest[start..].find('}') else {
            return Err(("`${` is not closed by `}`".to_owned(), escape.to_owned()));
        };
        let inside = &rest[start + 2..start + end];
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            let help = match Variable::named(name) {
                Some(variable) => format!("write `{variable}`, without `$`, for what a request says"),
                None => escape.to_owned(),
            };
            return Err((format!("`${{{inside}}}` does not name a variable"), help));
        }
        let value = env(name).filter(|value| default.is_none() || !value.is_empty());
        match value.as_deref().or(default) {
            Some(value) => out.push_str(value),
            None => {
                let help = match instead_of(name) {
                    Some(Instead::Variable(variable)) => {
                        format!("set it, or write `{variable}` for what a request says")
                    }
                    _ => format!("set it, or give a default: `${{{name}:-default}}`"),
                };
                return Err((format!("the environment variable `{name}` is not set"), help));
            }
        }
        if out.len() > room {
            return Err((
                "the environment fills this in with too much text".to_owned(),
                "use smaller values".to_owned(),
            ));
        }
        from_outside = true;
        rest = &rest[start + end + 1..];
    }
    out.push_str(rest);
    Ok(Expanded { text: out, from_outside })
}

fn is_name(name: &str) -> bool {
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("chat".to_owned()),
            "EMPTY" => Some(String::new()),
            "BRACES" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_defaults_and_escapes_are_filled_in() {
        for (written, filled, outside) in [
            ("${HOST}", "chat", true),
            ("a ${HOST}.${HOST} b", "a chat.chat b", true),
            ("${NONE:-x:-y}", "x:-y", true),
            ("${EMPTY:-x}", "x", true),
            ("${EMPTY}", "", true),
            ("${NONE:-}", "", true),
            ("$${HOST}", "${HOST}", false),
            ("$$${HOST}", "$${HOST}", false),
            ("${BRACES}", "${HOST}", true),
            ("^/[0-9]+$", "^/[0-9]+$", false),
            ("$HOST", "$HOST", false),
        ] {
            match expand(written, &env, 1000) {
                Ok(expanded) => {
                    assert_eq!((expanded.text.as_str(), expanded.from_outside), (filled, outside), "{written}")
                }
                Err(error) => panic!("{written}: {error:?}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_filled_in_says_why() {
        for (written, problem) in [
            ("${NONE}", "the environment variable `NONE` is not set"),
            ("${HOST", "`${` is not closed by `}`"),
            ("${}", "`${}` does not name a variable"),
            ("a{2}${3}", "`${3}` does not name a variable"),
            ("${A-B}", "`${A-B}` does not name a variable"),
        ] {
            assert_eq!(expand(written, &env, 1000).err().map(|error| error.0).as_deref(), Some(problem));
        }
        assert!(expand("${HOST}${HOST}", &env, 7).is_err());
    }
}
