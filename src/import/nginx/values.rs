//! Values: times, sizes, variables and regexes of nginx in the words of wsluice.

use super::parser::Directive;

/// The blocks around something, the outermost first.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope<'a> {
    levels: Vec<&'a [Directive]>,
}

impl<'a> Scope<'a> {
    /// Returns the scope with one more block inside.
    pub(super) fn with(&self, level: &'a [Directive]) -> Scope<'a> {
        let mut levels = self.levels.clone();
        levels.push(level);
        Scope { levels }
    }

    /// Returns the innermost directive of this name.
    pub(super) fn find(&self, name: &str) -> Option<&'a Directive> {
        self.all(name).last().copied()
    }

    /// Returns all of this name on the innermost level that has any, as nginx inherits lists.
    pub(super) fn all(&self, name: &str) -> Vec<&'a Directive> {
        self.any_of(&[name])
    }

    /// The same for several names that make one list.
    pub(super) fn any_of(&self, names: &[&str]) -> Vec<&'a Directive> {
        let here = |level: &&'a [Directive]| -> Vec<&'a Directive> {
            level.iter().filter(|directive| names.contains(&&*directive.name)).collect()
        };
        self.levels.iter().rev().map(here).find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// Returns the innermost level.
    pub(super) fn own(&self) -> &'a [Directive] {
        self.levels.last().copied().unwrap_or_default()
    }

    /// Returns every directive of every level.
    pub(super) fn every(&self) -> impl Iterator<Item = &'a Directive> {
        self.levels.iter().flat_map(|level| level.iter())
    }

    /// Returns what `set` gives a variable.
    fn set(&self, variable: &str) -> Option<&'a str> {
        let mut sets = self.levels.iter().rev().flat_map(|level| level.iter().rev());
        let found =
            sets.find(|directive| directive.name == "set" && directive.arg(0).strip_prefix('$') == Some(variable));
        found.map(|directive| directive.arg(1))
    }

    /// Returns a text with the variables that `set` gives replaced by their values.
    pub(super) fn expand(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // A value may have variables itself; more than this deep nobody writes.
        for _ in 0..4 {
            let expanded: String = pieces(&text)
                .into_iter()
                .map(|piece| match piece {
                    Piece::Text(text) => text.to_owned(),
                    Piece::Variable(name) => self.set(name).map_or_else(|| format!("${{{name}}}"), str::to_owned),
                })
                .collect();
            if expanded == text || expanded.len() > 8192 {
                break;
            }
            text = expanded;
        }
        text
    }
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// As it is.
    Text(&'a str),
    /// `$name` or `${name}`.
    Variable(&'a str),
}

/// Cuts a text at its variables.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let (mut found, mut rest) = (vec![], text);
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    while !rest.is_empty() {
        let Some(behind) = rest.strip_prefix('$') else {
            let (before, after) = rest.split_at(rest.find('$').unwrap_or(rest.len()));
            found.push(Piece::Text(before));
            rest = after;
            continue;
        };
        let (name, after) = match behind.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
            Some((name, after)) if !name.is_empty() && name.chars().all(word) => (name, after),
            // `$1a` is `$1` and `a`.
            _ if behind.starts_with(|c: char| c.is_ascii_digit()) => behind.split_at(1),
            _ => behind.split_at(behind.find(|c| !word(c)).unwrap_or(behind.len())),
        };
        match name.is_empty() {
            true => {
                found.push(Piece::Text("$"));
                rest = behind;
            }
            false => {
                found.push(Piece::Variable(name));
                rest = after;
            }
        }
    }
    found
}

/// Returns true if a variable stands in it.
pub(super) fn has_variable(text: &str) -> bool {
    pieces(text).iter().any(|piece| matches!(piece, Piece::Variable(_)))
}

/// Returns a value with wsluice's variables.
///
/// # Errors
/// The name of a variable that has no counterpart.
pub(super) fn template(text: &str, server_name: Option<&str>) -> Result<String, String> {
    // A path with its query is one variable here.
    let joined = ["$uri$is_args$args", "${uri}${is_args}${args}", "$uri?$args", "${uri}?${args}"];
    let mut text = text.to_owned();
    for target in joined {
        text = text.replace(target, "${request_uri}");
    }
    let mut out = String::new();
    for piece in pieces(&text) {
        let name = match piece {
            Piece::Text(text) => {
                out.push_str(&text.replace('{', "{{"));
                continue;
            }
            Piece::Variable(name) => name,
        };
        out.push_str(match name {
            "remote_addr" | "proxy_protocol_addr" => "{client.ip}",
            "remote_port" | "proxy_protocol_port" => "{client.port}",
            "host" => "{request.host}",
            "http_host" => "{request.authority}",
            "scheme" => "{request.scheme}",
            "request_uri" => "{request.target}",
            "uri" | "document_uri" => "{request.path}",
            "args" | "query_string" => "{request.query}",
            "server_port" => "{listener.port}",
            "request_id" => "{request.id}",
            "request_method" => "{request.method}",
            "ssl_client_s_dn" => "{tls.client.subject}",
            "ssl_client_i_dn" => "{tls.client.issuer}",
            "ssl_client_serial" => "{tls.client.serial}",
            "server_name" => match server_name {
                Some(name) => {
                    out.push_str(name);
                    continue;
                }
                None => return Err(name.to_owned()),
            },
            _ => return Err(name.to_owned()),
        });
    }
    Ok(out)
}

/// Returns a time in milliseconds: `60`, `60s`, `1h30m`, `1h 30m`.
pub(super) fn time(text: &str) -> Option<u64> {
    let (mut total, mut rest) = (0_u64, text.trim());
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "" | "s" => 1000,
            "ms" => 1,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            "M" => 30 * 86_400_000,
            "y" => 365 * 86_400_000,
            _ => return None,
        };
        rest = rest[letters..].trim_start();
        total = total.checked_add(number.checked_mul(unit)?)?;
    }
    Some(total)
}

/// Returns a time as wsluice writes it; at most a hundred years.
pub(super) fn span(millis: u64) -> String {
    let millis = millis.min(36_500 * 86_400_000);
    for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if millis > 0 && millis.is_multiple_of(length) {
            return format!("{}{unit}", millis / length);
        }
    }
    format!("{millis}ms")
}

/// Returns a size as wsluice writes it: `10m` is `10MiB`; none for 0, which is no limit.
pub(super) fn size(text: &str) -> Option<Option<String>> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].to_ascii_lowercase().as_str() {
        "" => "",
        "k" => "KiB",
        "m" => "MiB",
        "g" => "GiB",
        _ => return None,
    };
    Some((number > 0).then(|| format!("{number}{unit}")))
}

/// Returns a regex that matches the whole of every text in which nginx finds `source`, with the same groups.
pub(super) fn whole_regex(source: &str, ignores_case: bool) -> String {
    let flags = if ignores_case { "(?i)" } else { "" };
    if has_alternatives(source) {
        return format!("{flags}.*?(?:{source}).*");
    }
    let (front, rest) = match source.strip_prefix('^') {
        Some(rest) => ("", rest),
        None => (".*?", source),
    };
    let backslashes = |text: &str| text.len() - text.trim_end_matches('\\').len();
    match rest.strip_suffix('$').filter(|before| backslashes(before) % 2 == 0) {
        Some(before) => format!("{flags}{front}{before}"),
        None if rest.ends_with(".*") => format!("{flags}{front}{rest}"),
        None => format!("{flags}{front}{rest}.*"),
    }
}

/// Returns true if there is a `|` outside of groups.
fn has_alternatives(source: &str) -> bool {
    let (mut depth, mut in_class, mut is_escaped) = (0_usize, false, false);
    for c in source.chars() {
        match c {
            _ if is_escaped => {
                is_escaped = false;
                continue;
            }
            '\\' => is_escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth = depth.saturating_sub(1),
            '|' if !in_class && depth == 0 => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_those_of_nginx() {
        for (text, right) in [
            ("60", Some("1m")),
            ("90s", Some("90s")),
            ("1h30m", Some("90m")),
            ("1h 30m", Some("90m")),
            ("86400", Some("24h")),
            ("500ms", Some("500ms")),
            ("0", Some("0ms")),
            ("9y", Some("78840h")),
            ("1x", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text).map(span).as_deref(), right, "{text}");
        }
        assert_eq!(size("10m"), Some(Some("10MiB".to_owned())));
        assert_eq!(size("0"), Some(None));
        assert_eq!(size("8x"), None);
    }

    #[test]
    fn variables_have_our_names() {
        for (text, right) in [
            ("https://$host$request_uri", Ok("https://{request.host}{request.target}")),
            ("${scheme}://$http_host$uri$is_args$args", Ok("{request.scheme}://{request.authority}{request.target}")),
            ("{\"a\": $remote_addr}", Ok("{{\"a\": {client.ip}}")),
            ("$server_name", Ok("chat.example.com")),
            ("5$", Ok("5$")),
            ("$cookie_a", Err("cookie_a")),
        ] {
            let template = template(text, Some("chat.example.com"));
            assert_eq!(template.as_deref().map_err(|name| name.as_str()), right, "{text}");
        }
        assert_eq!(
            pieces("a$1b${c}"),
            [Piece::Text("a"), Piece::Variable("1"), Piece::Text("b"), Piece::Variable("c")]
        );
    }

    #[test]
    fn a_regex_matches_the_whole_path_where_nginx_finds_it() {
        for (source, right) in [
            ("^/api", "/api.*"),
            ("^/api/(.*)$", "/api/(.*)"),
            ("\\.(js|css)$", ".*?\\.(js|css)"),
            ("^/a|^/b", ".*?(?:^/a|^/b).*"),
            ("/x\\$", ".*?/x\\$.*"),
            ("^/.*", "/.*"),
            ("^", ".*"),
        ] {
            assert_eq!(whole_regex(source, false), right, "{source}");
        }
        assert_eq!(whole_regex("^/a$", true), "(?i)/a");
    }
}
