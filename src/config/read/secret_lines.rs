//! The lines of a text, and what of them must not be shown: errors go into logs.

use std::ops::Range;

/// Returns the lines of `text` by the rules of YAML 1.1, which knows more line breaks than `str::lines`.
pub(in crate::config) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']) else {
            rest = None;
            return Some(text);
        };
        let (line, tail) = text.split_at(end);
        let width = if tail.starts_with("\r\n") { 2 } else { tail.chars().next().map_or(0, char::len_utf8) };
        rest = Some(&tail[width..]);
        Some(line)
    })
}

/// Keys whose values are secrets.
const SECRET_KEYS: [&str; 4] = ["token", "password", "secret", "secrets"];

/// How many lines a list or a text of secrets is followed upwards.
const SECRET_LINES_MAX: usize = 1000;

/// Returns true if line `number` of `text`, from 1, may belong to a value that began behind a key of secrets in a line
/// above: an element of a list, or a line of a text.
pub(in crate::config) fn continues_secret(text: &str, number: usize) -> bool {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let above: Vec<&str> = lines(text).take(number).collect();
    let Some((line, above)) = above.split_last() else { return false };
    let mut depth = indent(line) + usize::from(line.trim_start().starts_with(['-', ']']));
    for line in above.iter().rev().take(SECRET_LINES_MAX).filter(|line| !line.trim().is_empty()) {
        let is_element = line.trim_start().starts_with("- ") || line.trim() == "-";
        let is_opener = indent(line) < depth && (line.contains(':') || !is_element);
        if !is_opener {
            continue;
        }
        let key = line.trim_start().trim_start_matches("- ").split(':').next().unwrap_or_default();
        if SECRET_KEYS.contains(&key.trim().trim_matches(['"', '\''])) {
            return true;
        }
        // A flow map or list that is still open: what is in it may be of any key of the line.
        let is_open = line.matches(['[', '{']).count() > line.matches([']', '}']).count();
        if is_open && SECRET_KEYS.iter().any(|key| line.contains(key)) {
            return true;
        }
        depth = indent(line);
        if depth == 0 {
            return false;
        }
    }
    false
}

/// Masks, in `line`, the values of keys that hold secrets, and PEM: errors go into logs. Writes one mark for each
/// character, so that columns stay. `${NAME}` is not a secret itself.
pub(in crate::config) fn mask_secrets(line: &str) -> String {
    let mut chars: Vec<char> = line.chars().collect();
    if let Some(pem) = line.find("-----BEGIN") {
        let start = line[..pem].chars().count();
        chars[start..].fill('*');
    }
    for login in logins(line) {
        let start = line[..login.start].chars().count();
        let length = line[login].chars().count();
        chars[start..start + length].fill('*');
    }
    for key in SECRET_KEYS {
        for (at, _) in line.match_indices(key) {
            let is_part = line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let rest = line[at + key.len()..].trim_start_matches(['"', '\'']);
            let Some(rest) = rest.trim_start().strip_prefix(':').filter(|_| !is_part) else { continue };
            let value = rest.trim_start();
            let start = line[..line.len() - value.len()].chars().count();
            let end = match value.chars().next() {
                Some(quote @ ('"' | '\'')) => value[1..].find(quote).map(|end| end + 2),
                Some('[') => value.find(']').map(|end| end + 1),
                _ => value.find([',', '}', '#']),
            };
            let length = value[..end.unwrap_or(value.len())].trim_end().chars().count();
            if !value.trim_start_matches(['"', '\'', '[', ' ']).starts_with("${") {
                chars[start..start + length].fill('*');
            }
        }
    }
    chars.into_iter().collect()
}

/// Returns where in `line` user and password of a URL stand. In what is meant as the URL of a Redis, they may be anything.
fn logins(line: &str) -> impl Iterator<Item = Range<usize>> {
    let redis = line.find("redis").and_then(|at| {
        let start = at + line[at..].find(':')? + 1;
        let end = line.rfind('@')?;
        (start < end).then_some(start..end)
    });
    let others = line.match_indices("://").filter_map(|(at, mark)| {
        let start = at + mark.len();
        let end = line[start..].find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '/'));
        let authority = &line[start..end.map_or(line.len(), |end| start + end)];
        authority.rfind('@').map(|end| start..start + end)
    });
    redis.into_iter().chain(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_secret_of_several_lines_is_shown() {
        for (text, number, is_secret) in [
            ("sticky:\n  secrets:\n    - abc\n    - def: 1\n", 4, true),
            ("sticky:\n  secrets:\n  - abc\n  - d\n  name: x\n", 4, true),
            ("sticky:\n  secrets:\n  - abc\n  - d\n  name: x\n", 5, false),
            ("sticky:\n  secrets: [\n    abc,\n    d\n  ]\n", 4, true),
            ("sticky: { secrets: [\n    abc,\n    d\n  ] }\n", 3, true),
            ("admin:\n  token: |\n    abc\n\n    d\n  bind: x\n", 5, true),
            ("admin:\n  token: |\n    abc\n  bind: x\n", 4, false),
            ("- password: >\n   abc\n", 2, true),
            ("routes:\n  - name: a\n    upstream: b\n", 3, false),
            ("a\n", 1, false),
            ("a\n", 2, false),
        ] {
            assert_eq!(continues_secret(text, number), is_secret, "{text:?} {number}");
        }
    }

    #[test]
    fn a_secret_is_not_in_the_line_that_is_shown() {
        for (line, shown) in [
            ("admin: { token: \"LITERAL\", foo: 1 }", "admin: { token: *********, foo: 1 }"),
            ("  token: LITERAL # mine", "  token: ******* # mine"),
            ("sticky: { secrets: [abc, 'd'], x: 1 }", "sticky: { secrets: **********, x: 1 }"),
            ("password : hush, user: me", "password : ****, user: me"),
            ("\"token\": 'a b'", "\"token\": *****"),
            ("token: \"${TOKEN}\"", "token: \"${TOKEN}\""),
            ("token_file: /run/token", "token_file: /run/token"),
            ("my_token: x", "my_token: x"),
            ("key: \"-----BEGIN PRIVATE KEY----- abc\"", "key: \"********************************"),
            ("token:", "token:"),
            ("url: \"redis://me:a b/@x@h:1/0\" # x", "url: \"redis:***********@h:1/0\" # x"),
            ("redis: { url: redis:me:hush@h }", "redis:*********************@h }"),
            ("[ws://me:hush@a:1, ws://b@c/]", "[ws://*******@a:1, ws://*@c/]"),
        ] {
            assert_eq!(mask_secrets(line), shown);
            assert_eq!(mask_secrets(line).chars().count(), line.chars().count());
        }
    }
}
