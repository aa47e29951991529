//! Rewrites a path for the server: removes or adds a prefix, or replaces all of it.
//!
//! A path built by a regex is judged like a received one: pieces that are harmless alone (`.` and `.`) must not become
//! a way into another directory.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::pattern::{WholeRegex, as_string};
use crate::header::path::{self, PathError};

/// The longest path that a regex may build, in bytes; hyper accepts no longer target.
const PATH_BYTES_MAX: usize = 60_000;

/// The longest replacement, in bytes.
const REPLACEMENT_BYTES_MAX: usize = 1000;

/// How the path is rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// Removes and adds prefixes.
    Prefixes {
        /// Removed if the path begins with it, up to a segment's border.
        strip: Option<String>,
        /// Put before the rest.
        add: Option<String>,
    },
    /// Replaces every path by this one.
    Path(String),
    /// Rebuilds a path that matches; keeps any other.
    Regex {
        /// Must match the whole path.
        regex: WholeRegex,
        /// The path built from its groups.
        with: Replacement,
    },
}

impl Default for Rewrite {
    fn default() -> Rewrite {
        Rewrite::Prefixes { strip: None, add: None }
    }
}

impl Rewrite {
    /// Returns the rewritten path, and the spelling that goes to the server if it differs: `raw` rewritten in the same
    /// way, if that is the same path. Each is `None` if it is unchanged.
    ///
    /// # Errors
    /// Fails if the rewritten path must not go to a server.
    pub fn spellings(&self, raw: &str, normal: &str) -> Result<(Option<String>, Option<String>), PathError> {
        let rewritten = self.apply(normal)?;
        let sent = match path::as_it_came(raw, normal) {
            Some(came) if raw != normal => self.apply(&came).ok().map(Cow::into_owned),
            _ => None,
        };
        // A prefix in another spelling was not removed.
        let sent = sent.filter(|sent| *sent != rewritten && path::is_same(sent, &rewritten));
        Ok(((rewritten != raw).then(|| rewritten.into_owned()), sent))
    }

    /// Returns the prefix that is removed from a path, if there is one.
    pub fn stripped<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self {
            Rewrite::Prefixes { strip: Some(prefix), .. } => stripped(path, prefix).map(|(prefix, _)| prefix),
            _ => None,
        }
    }

    /// Returns the path as the upstream sees it; begins with `/` if the given one does.
    ///
    /// # Errors
    /// Fails if a regex builds a path with dot segments, or one that is too long.
    pub fn apply<'a>(&self, path: &'a str) -> Result<Cow<'a, str>, PathError> {
        if !path.starts_with('/') {
            return Ok(Cow::Borrowed(path)); // `OPTIONS *`
        }
        Ok(match self {
            Rewrite::Prefixes { strip, add } => {
                let rest = match strip.as_deref().and_then(|prefix| stripped(path, prefix)) {
                    Some((_, "")) => "/",
                    Some((_, rest)) => rest,
                    None => path,
                };
                match add {
                    Some(prefix) => Cow::Owned(format!("{}{rest}", prefix.trim_end_matches('/'))),
                    None => Cow::Borrowed(rest),
                }
            }
            Rewrite::Path(path) => Cow::Owned(path.clone()),
            Rewrite::Regex { regex, with } => match regex.captures(path) {
                None => Cow::Borrowed(path),
                Some(captures) => Cow::Owned(with.path(&captures)?),
            },
        })
    }
}

/// Splits `path` after `prefix`, if it ends at a segment's border: returns the prefix without a final slash, and the
/// rest.
fn stripped<'a>(path: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let prefix = prefix.trim_end_matches('/');
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| path.split_at(prefix.len()))
}

/// The replacement of a path: text, and groups of the regex: `$1` to `$9`, `$name`, and `${name}` before text; `$$` is
/// a dollar sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    source: String,
    pieces: Vec<ReplacementPiece>,
}

/// A piece of a replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ReplacementPiece {
    Text(String),
    Number(usize),
    Name(String),
}

/// Why a text is not a replacement.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplacementError {
    /// It cannot become a path.
    #[error("`{0}` is not a path: it starts with `/`, or with a group such as `$1`")]
    Relative(String),
    /// It has a query, but the query is kept.
    #[error("`{0}` has a `{1}`: only the path is rewritten, and the query stays as it came")]
    Query(String, char),
    /// A dollar sign without a group.
    #[error(
        "`{0}`: behind `$` stands the number or name of a group (`$1`, `$room`), or a second `$` for a dollar sign"
    )]
    Dollar(String),
    /// `${` without `}`.
    #[error("`{0}`: there is no `}}` behind `${{`")]
    Open(String),
    /// Characters that a path cannot have.
    #[error("`{0}` has characters that must be percent-encoded in a path")]
    Characters(String),
    /// It is too long.
    #[error("a replacement has at most {REPLACEMENT_BYTES_MAX} characters, this one {0}")]
    Long(usize),
}

impl Replacement {
    /// Returns a group that `regex` does not have, if there is one.
    pub fn missing_group(&self, regex: &WholeRegex) -> Option<String> {
        let names = regex.groups();
        self.pieces.iter().find_map(|piece| match piece {
            ReplacementPiece::Number(number) if *number >= names.len() => Some(format!("${number}")),
            ReplacementPiece::Name(name) if !names.iter().flatten().any(|known| known == name) => {
                Some(format!("${name}"))
            }
            _ => None,
        })
    }

    /// Builds the new path; its normal form loses no segment.
    fn path(&self, captures: &regex::Captures<'_>) -> Result<String, PathError> {
        let mut made = String::new();
        for piece in &self.pieces {
            let text = match piece {
                ReplacementPiece::Text(text) => text.as_str(),
                ReplacementPiece::Number(number) => captures.get(*number).map_or("", |group| group.as_str()),
                ReplacementPiece::Name(name) => captures.name(name).map_or("", |group| group.as_str()),
            };
            if made.is_empty() && !text.is_empty() && !text.starts_with('/') {
                made.push('/');
            }
            if made.len() + text.len() > PATH_BYTES_MAX {
                return Err(PathError::Rewritten);
            }
            made.push_str(text);
        }
        if made.is_empty() {
            made.push('/');
        }
        let normal = path::normalise(&made).map_err(|_| PathError::Rewritten)?;
        // The matched path had no dot segments, so these were put together here, and lead to an unintended place.
        path::as_it_came(&made, &normal).map(Cow::into_owned).ok_or(PathError::Rewritten)
    }
}

impl FromStr for Replacement {
    type Err = ReplacementError;

    fn from_str(source: &str) -> Result<Replacement, ReplacementError> {
        let said = || source.to_owned();
        if source.len() > REPLACEMENT_BYTES_MAX {
            return Err(ReplacementError::Long(source.len()));
        }
        if !source.starts_with(['/', '$']) || source.starts_with("$$") {
            return Err(ReplacementError::Relative(said()));
        }
        let mut pieces: Vec<ReplacementPiece> = vec![];
        let mut rest = source;
        while let Some((text, tail)) = rest.split_once('$') {
            push_text(&mut pieces, text);
            let (piece, tail) = group(tail).ok_or_else(|| match tail.starts_with('{') && !tail.contains('}') {
                true => ReplacementError::Open(said()),
                false => ReplacementError::Dollar(said()),
            })?;
            match piece {
                ReplacementPiece::Text(text) => push_text(&mut pieces, &text),
                piece => pieces.push(piece),
            }
            rest = tail;
        }
        push_text(&mut pieces, rest);
        for piece in &pieces {
            let ReplacementPiece::Text(text) = piece else { continue };
            if let Some(found) = text.chars().find(|char| ['?', '#'].contains(char)) {
                return Err(ReplacementError::Query(said(), found));
            }
            let fits = |char: char| char.is_ascii_graphic() && !"\"<>\\^`{|}".contains(char);
            if !text.chars().all(fits) {
                return Err(ReplacementError::Characters(said()));
            }
        }
        Ok(Replacement { source: said(), pieces })
    }
}

fn push_text(pieces: &mut Vec<ReplacementPiece>, text: &str) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(ReplacementPiece::Text(before)) => before.push_str(text),
        _ => pieces.push(ReplacementPiece::Text(text.to_owned())),
    }
}

/// Returns the group after a dollar sign, and the rest. A number has one digit, so that text may follow it.
fn group(text: &str) -> Option<(ReplacementPiece, &str)> {
    let named = |name: &str| match name.parse::<usize>() {
        Ok(number) => Some(ReplacementPiece::Number(number)),
        Err(_) if is_name(name) => Some(ReplacementPiece::Name(name.to_owned())),
        Err(_) => None,
    };
    if let Some(rest) = text.strip_prefix('$') {
        return Some((ReplacementPiece::Text("$".to_owned()), rest));
    }
    if let Some(rest) = text.strip_prefix('{') {
        let (name, rest) = rest.split_once('}')?;
        return Some((named(name)?, rest));
    }
    let end = match text.bytes().next()? {
        b'0'..=b'9' => 1,
        _ => text.find(|char: char| !is_word(char)).unwrap_or(text.len()),
    };
    let (name, rest) = text.split_at(end);
    Some((named(name)?, rest))
}

fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

fn is_name(name: &str) -> bool {
    name.starts_with(|char: char| is_word(char) && !char.is_ascii_digit()) && name.chars().all(is_word)
}

impl fmt::Display for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

as_string!(Replacement, "PathReplacement", {
    "type": "string",
    "description": "A path with groups of the regex: `$1`, `$name`, or `${name}` where text follows."
});

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefixes(strip: Option<&str>, add: Option<&str>) -> Rewrite {
        Rewrite::Prefixes { strip: strip.map(Into::into), add: add.map(Into::into) }
    }

    fn regex(regex: &str, with: &str) -> Rewrite {
        Rewrite::Regex { regex: regex.parse().unwrap(), with: with.parse().unwrap() }
    }

    fn sent(rewrite: &Rewrite, raw: &str) -> String {
        let normal = path::normalise(raw).unwrap();
        let (path, sent) = rewrite.spellings(raw, &normal).unwrap();
        sent.or(path).unwrap_or_else(|| raw.to_owned())
    }

    #[test]
    fn what_is_sent_is_what_came_where_that_is_the_same() {
        for (strip, add, raw, expected) in [
            (None, None, "/ws/a", "/ws/a"),
            (None, None, "/%77s/a%2fb%7E", "/%77s/a%2fb%7E"),
            (None, None, "/ws/./a%2fb%7E", "/ws/a%2Fb~"),
            (Some("/ws"), None, "/ws/a%2fb%7E", "/a%2fb%7E"),
            (Some("/ws"), None, "/%77s/a%2fb%7E", "/a%2Fb~"),
            (Some("/ws"), Some("/api"), "/ws/%7E", "/api/%7E"),
            (None, Some("/api"), "/%7E", "/api/%7E"),
            (Some("/%7Ea"), None, "/%7Ea/b", "/~a/b"),
            (None, None, "/a{b}", "/a%7Bb%7D"),
            (None, Some("/api"), "*", "*"),
        ] {
            assert_eq!(sent(&prefixes(strip, add), raw), expected, "{raw}");
        }
    }

    #[test]
    fn prefixes_come_off_and_on_at_segments() {
        let rewrite = |strip, add, path: &str| prefixes(strip, add).apply(path).unwrap().into_owned();
        assert_eq!(rewrite(Some("/ws"), None, "/ws/a"), "/a");
        assert_eq!(rewrite(Some("/ws"), None, "/ws"), "/");
        assert_eq!(rewrite(Some("/ws/"), None, "/ws/a"), "/a");
        assert_eq!(rewrite(Some("/ws"), None, "/wsx"), "/wsx");
        assert_eq!(rewrite(Some("/ws"), Some("/api"), "/ws/a"), "/api/a");
        assert_eq!(rewrite(None, Some("/api/"), "/a"), "/api/a");
        assert_eq!(rewrite(None, Some("/api"), "*"), "*");
    }

    #[test]
    fn a_path_replaces_every_path() {
        let rewrite = Rewrite::Path("/ws".to_owned());
        for raw in ["/sock", "/", "/sock/a%2fb", "/sock/../x", "/ws"] {
            assert_eq!(sent(&rewrite, raw), "/ws", "{raw}");
        }
        assert_eq!(sent(&rewrite, "*"), "*");
    }

    #[test]
    fn a_regex_puts_a_path_together_from_groups() {
        for (pattern, with, raw, expected) in [
            ("^/a/(.*)$", "/b/$1", "/a/x/y", "/b/x/y"),
            ("/a/(.*)", "/b/$1", "/c/a/x", "/c/a/x"), // the whole path, or it stays
            ("/a(/.*)?", "/b$1", "/a", "/b"),
            ("/a(/.*)?", "$1", "/a", "/"),
            ("/a/(.*)", "$1", "/a/x", "/x"),
            ("/room/([0-9]+)", "/rooms/$1x", "/room/7", "/rooms/7x"),
            ("/room/(?<id>[0-9]+)/(?<verb>.*)", "/$verb/${id}-$$", "/room/7/join", "/join/7-$"),
            ("/a/(.*)", "/b/$1", "/a/%7Ex%2fy", "/b/%7Ex%2fy"),
            ("/a/(.*)", "/b/$1", "/%61/%7Ex%2fy", "/b/~x%2Fy"),
            ("/a/(.*)", "/b/$1", "/a/./x", "/b/x"),
            ("/(.*)", "/b/$1", "*", "*"),
        ] {
            assert_eq!(sent(&regex(pattern, with), raw), expected, "{pattern} {with} {raw}");
        }
    }

    #[test]
    fn no_dot_segment_is_put_together() {
        for (pattern, with, path) in [
            ("/a(..)b/(.*)", "/x/$1/$2", "/a..b/secret"),
            ("/(.)x(.)/(.*)", "/$1$2/$3", "/.x./secret"),
            ("/a(.*)b(.*)", "/$1$2", "/a.b./x"),
            ("/x/(.*)", "/y/.$1", "/x/./a"),
            ("/x/(.*)", "/y/..$1", "/x/%2Fetc"),
            ("/x/(.*)", "/y/..$1", "/x/;a"),
            ("/x(.*)y(.*)", "/%2$1$2", "/xyE/"),
            ("/x(.*)y(.*)", "/%$1$2", "/x0y0"),
        ] {
            let made = regex(pattern, with).apply(path);
            // `/x/./a` never comes; what is refused is refused for all of these.
            assert_eq!(made, Err(PathError::Rewritten), "{pattern} {with} {path}");
        }
        let long = format!("/a/{}", "x".repeat(20_000));
        assert_eq!(regex("/a/(.*)", "/$1$1$1$1").apply(&long), Err(PathError::Rewritten));
    }

    #[test]
    fn a_replacement_that_is_none_says_why() {
        let why = |text: &str| text.parse::<Replacement>().map(|_| ()).unwrap_err().to_string();
        assert_eq!(why("b/$1"), "`b/$1` is not a path: it starts with `/`, or with a group such as `$1`");
        assert!(why("/b?x=$1").contains("has a `?`: only the path is rewritten"));
        assert!(why("/b/$").contains("the number or name of a group"));
        assert!(why("/b/$-").contains("the number or name of a group"));
        assert!(why("/b/${id").contains("there is no `}`"));
        assert!(why("/b c").contains("must be percent-encoded"));
        assert!(why(&format!("/{}", "x".repeat(1000))).contains("at most 1000"));
        let missing =
            |pattern: &str, with: &str| with.parse::<Replacement>().unwrap().missing_group(&pattern.parse().unwrap());
        assert_eq!(missing("/a/(.*)", "/b/$1"), None);
        assert_eq!(missing("/a/(.*)", "/b/$0$2"), Some("$2".to_owned()));
        assert_eq!(missing("/a/(?<id>.*)", "/b/$id$1"), None);
        assert_eq!(missing("/a/(?<id>.*)", "/b/${idx}"), Some("$idx".to_owned()));
    }

    proptest! {
        #[test]
        fn whatever_is_put_together_is_a_path_in_normal_form(
            pieces in proptest::collection::vec(
                prop::sample::select(vec!["/", "%2F", ";", "%3B", "a", ".", "%20", "..", "%2e", "%", "2", "e", "//"]), 0..12,
            ),
            with in prop::sample::select(vec!["/$1$2", "/b/$2$1", "$2", "/b$1/..$2", "/.$1", "/%2$1", "/$1.$2/x"]),
        ) {
            let raw = format!("/{}", pieces.concat());
            let Ok(normal) = path::normalise(&raw) else { return Ok(()) };
            let Ok((path, sent)) = regex("/(.*?)a?(.*)", with).spellings(&raw, &normal) else { return Ok(()) };
            let path = path.unwrap_or(raw);
            let again = path::normalise(&path);
            prop_assert!(again.is_ok_and(|again| path::is_same(&path, &again)), "{}", path);
            prop_assert!(sent.is_none_or(|sent| path::is_same(&sent, &path)));
        }
    }
}
