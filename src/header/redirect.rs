//! Where a redirect leads: a URL, or a path on the same host, with variables.
//!
//! Whoever writes a request must not choose where a client is led. So only what names the host that was asked for may
//! stand in the host of a URL, a path never becomes `//host`, and what is put into a query is one value in it.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::template::{Template, TemplateError, TemplatePiece, push_safe};
use super::variable::Variable;

/// The longest Location that is sent; a client need not read a longer one.
const LOCATION_BYTES_MAX: usize = 60_000;

/// Where a redirect leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectTarget {
    template: Template,
    pieces: Vec<(TemplatePiece, UrlPart)>,
    is_relative: bool,
}

/// Which part of a URL a piece stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UrlPart {
    /// Scheme and host.
    Authority,
    Path,
    /// A query or fragment; `is_whole`: the piece takes the place of `name=value` pairs.
    Query {
        is_whole: bool,
    },
}

/// Why text is no target of a redirect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RedirectError {
    /// Its variables.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A claim, though a redirect verifies no token.
    #[error("a redirect knows no claims, since it verifies no token")]
    Claims,
    /// Neither a URL nor a path.
    #[error("a redirect leads to a URL or a path")]
    Neither,
    /// `//host`
    #[error("`//` begins the name of a host, not a path")]
    SchemeRelative,
    /// No host in a URL.
    #[error("there is no host in the URL")]
    NoHost,
    /// `user@host`
    #[error("a URL has no `@` in its host")]
    UserInfo,
    /// A variable that would let a request choose the host.
    #[error("`{0}` cannot stand in the host: whoever sends a request would choose where it leads")]
    HostVariable(Variable),
    /// Characters that stand in no URL.
    #[error("a URL has no spaces, control characters, quotes, brackets or backslashes, and ASCII only")]
    Characters,
}

impl RedirectTarget {
    /// Returns true if it has this variable.
    pub fn has(&self, variable: Variable) -> bool {
        self.template.has(variable)
    }

    /// Returns it as a text with variables.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Makes the value of Location: `value` writes what a variable stands for. `None` if it would be too long.
    pub fn location(&self, mut value: impl FnMut(Variable, &mut String)) -> Option<String> {
        let (mut out, mut raw) = (String::new(), String::new());
        for (piece, part) in &self.pieces {
            match piece {
                TemplatePiece::Text(text) => out.push_str(text),
                // There is none.
                TemplatePiece::Claim(_) => {}
                TemplatePiece::Variable(variable) => {
                    raw.clear();
                    value(*variable, &mut raw);
                    match part {
                        UrlPart::Query { is_whole: false } => push_component(&mut out, &raw),
                        _ if is_path(*variable) => {
                            // The target of `OPTIONS *`.
                            let path = if raw.starts_with('/') { raw.as_str() } else { "/" };
                            push_safe(&mut out, path);
                        }
                        UrlPart::Path => push_component(&mut out, &raw),
                        UrlPart::Authority | UrlPart::Query { is_whole: true } => push_safe(&mut out, &raw),
                    }
                }
            }
            if out.len() > LOCATION_BYTES_MAX {
                return None;
            }
        }
        if self.is_relative {
            let slashes = out.bytes().take_while(|byte| *byte == b'/').count();
            out.drain(..slashes.saturating_sub(1));
        }
        Some(out)
    }
}

/// Begins with a slash, whatever the request.
fn is_path(variable: Variable) -> bool {
    use Variable::{RequestPath, RequestTarget, RewritePath, RewriteTarget};
    matches!(variable, RequestPath | RequestTarget | RewritePath | RewriteTarget)
}

/// What stands in a host without a request choosing another than that it was sent to.
fn is_of_host(variable: Variable) -> bool {
    use Variable::{ListenerName, ListenerPort, RequestAuthority, RequestHost, RequestPort, RouteName, UpstreamName};
    matches!(
        variable,
        RequestHost | RequestPort | RequestAuthority | ListenerPort | ListenerName | RouteName | UpstreamName
    )
}

/// Writes `text` as one value of a query or one segment of a path.
fn push_component(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b':' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => out.push(char::from(byte)),
            // Escapes that are there already stand for a character, too.
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

impl FromStr for RedirectTarget {
    type Err = RedirectError;

    fn from_str(source: &str) -> Result<RedirectTarget, RedirectError> {
        let template: Template = source.parse()?;
        if template.claims().next().is_some() {
            return Err(RedirectError::Claims);
        }
        let text_fits = |piece: &TemplatePiece| match piece {
            TemplatePiece::Text(text) => {
                text.chars().all(|char| char.is_ascii_graphic() && !"\"<>\\^`{|}".contains(char))
            }
            TemplatePiece::Variable(_) | TemplatePiece::Claim(_) => true,
        };
        if !template.pieces().iter().all(text_fits) {
            return Err(RedirectError::Characters);
        }
        let (is_relative, skipped) = match template.pieces() {
            [TemplatePiece::Text(text), ..] if text.starts_with("//") => return Err(RedirectError::SchemeRelative),
            [TemplatePiece::Text(text), ..] if text.starts_with('/') => (true, 0),
            [TemplatePiece::Text(text), ..] => (false, scheme(text).ok_or(RedirectError::Neither)?),
            [TemplatePiece::Variable(variable), ..] if is_path(*variable) => (true, 0),
            [TemplatePiece::Variable(Variable::RequestScheme), TemplatePiece::Text(text), ..]
                if text.starts_with("://") =>
            {
                (false, 3)
            }
            _ => return Err(RedirectError::Neither),
        };
        let first = usize::from(!is_relative && skipped == 3);
        let mut part = if is_relative { UrlPart::Path } else { UrlPart::Authority };
        let (mut host, mut pieces) = (0, vec![]);
        for (at, piece) in template.pieces().iter().enumerate() {
            if at < first {
                pieces.push((piece.clone(), part));
                continue;
            }
            match piece {
                TemplatePiece::Text(text) => {
                    let text = if at == first && !is_relative { &text[skipped..] } else { text };
                    if part == UrlPart::Authority {
                        let end = text.find(['/', '?', '#']).unwrap_or(text.len());
                        if text[..end].contains('@') {
                            return Err(RedirectError::UserInfo);
                        }
                        host += end;
                        if end < text.len() {
                            part = UrlPart::Path;
                        }
                    }
                    if part == UrlPart::Path && text.contains(['?', '#']) {
                        part = UrlPart::Query { is_whole: false };
                    }
                    pieces.push((piece.clone(), part));
                }
                TemplatePiece::Claim(_) => return Err(RedirectError::Claims),
                TemplatePiece::Variable(variable) => {
                    if part == UrlPart::Authority && is_path(*variable) {
                        part = UrlPart::Path;
                    } else if part == UrlPart::Authority && !is_of_host(*variable) {
                        return Err(RedirectError::HostVariable(*variable));
                    }
                    host += usize::from(part == UrlPart::Authority);
                    let before = match pieces.last() {
                        Some((TemplatePiece::Text(text), _)) => text.ends_with(['?', '&']),
                        _ => false,
                    };
                    let here = match part {
                        UrlPart::Query { .. } => {
                            UrlPart::Query { is_whole: before && *variable == Variable::RequestQuery }
                        }
                        part => part,
                    };
                    pieces.push((piece.clone(), here));
                    if matches!(variable, Variable::RequestTarget | Variable::RewriteTarget) {
                        part = UrlPart::Query { is_whole: false };
                    }
                }
            }
        }
        if !is_relative && host == 0 {
            return Err(RedirectError::NoHost);
        }
        Ok(RedirectTarget { template, pieces, is_relative })
    }
}

/// The length of `https://` at the beginning of a URL.
fn scheme(text: &str) -> Option<usize> {
    let is = |scheme: &&&str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    ["https://", "http://", "wss://", "ws://"].iter().find(is).map(|scheme| scheme.len())
}

/// As it is written.
impl fmt::Display for RedirectTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.template.fmt(f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn location(to: &str, path: &str, query: &str) -> String {
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let to: RedirectTarget = to.parse().unwrap();
        let made = to.location(|variable, out| {
            out.push_str(match variable {
                Variable::RequestPath | Variable::RewritePath => path,
                Variable::RequestTarget | Variable::RewriteTarget => &target,
                Variable::RequestQuery => query,
                Variable::RequestScheme => "https",
                Variable::RequestHost => "here.example",
                Variable::ListenerPort => "8443",
                _ => panic!("{variable}"),
            });
        });
        made.unwrap()
    }

    #[test]
    fn a_redirect_leads_where_it_says() {
        for (to, path, query, expected) in [
            ("https://new.example/", "/a", "b=c", "https://new.example/"),
            ("https://new.example{request.path}", "/a", "b=c", "https://new.example/a"),
            ("https://new.example{request.target}", "/a", "b=c", "https://new.example/a?b=c"),
            ("https://new.example{request.target}", "/a", "", "https://new.example/a"),
            ("https://new.example/x?{request.query}", "/a", "b=c&d", "https://new.example/x?b=c&d"),
            ("https://new.example/x?y&{request.query}", "/a", "b=c&d", "https://new.example/x?y&b=c&d"),
            ("/login?next={request.target}", "/a/b", "c=d&e", "/login?next=%2Fa%2Fb%3Fc%3Dd%26e"),
            (
                "{request.scheme}://{request.host}:{listener.port}{request.path}",
                "/a",
                "",
                "https://here.example:8443/a",
            ),
            ("/new{request.path}", "/a", "", "/new/a"),
            ("{request.path}/", "/a", "", "/a/"),
            ("https://new.example{request.path}", "*", "", "https://new.example/"),
            ("https://new.example/{request.query}/x", "/", "../b?c", "https://new.example/..%2Fb%3Fc/x"),
        ] {
            assert_eq!(location(to, path, query), expected, "{to}");
        }
    }

    #[test]
    fn no_request_chooses_the_host() {
        for (to, path, expected) in [
            ("{request.path}/", "//evil.example", "/evil.example/"),
            ("/{request.path}", "/evil.example", "/evil.example"),
            ("/{request.path}", "//evil.example", "/evil.example"),
            ("{rewrite.path}", "///evil.example", "/evil.example"),
            ("https://new.example{request.path}", "//evil.example", "https://new.example//evil.example"),
        ] {
            assert_eq!(location(to, path, ""), expected, "{to}");
        }
        let error = |to: &str| to.parse::<RedirectTarget>().unwrap_err();
        for variable in [Variable::RequestQuery, Variable::RequestId, Variable::ClientIp, Variable::RequestScheme] {
            assert_eq!(error(&format!("https://new.example{variable}")), RedirectError::HostVariable(variable));
            assert_eq!(error(&format!("https://{variable}.example/")), RedirectError::HostVariable(variable));
        }
        assert_eq!(error("{request.query}"), RedirectError::Neither);
        assert_eq!(error("//evil.example"), RedirectError::SchemeRelative);
        assert_eq!(error("javascript:alert(1)"), RedirectError::Neither);
        assert_eq!(error("new.example/a"), RedirectError::Neither);
        assert_eq!(error("https:///a"), RedirectError::NoHost);
        assert_eq!(error("https://{request.path}"), RedirectError::NoHost);
        assert_eq!(error("https://a@b/"), RedirectError::UserInfo);
        assert_eq!(error("https://a/b c"), RedirectError::Characters);
        assert_eq!(error("https://a/\\b"), RedirectError::Characters);
        assert_eq!(error("https://a/{nothing}"), RedirectError::Template(TemplateError::Unknown("nothing".into())));
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_the_redirect_stays_where_it_was_meant(
            path in "/[ -~é\r\n]{0,20}",
            query in "[ -~é\r\n]{0,20}",
            to in prop::sample::select(vec![
                "https://new.example{request.path}", "https://new.example{request.target}", "https://new.example/?{request.query}",
                "https://new.example/?a={request.query}", "{request.path}", "/{request.path}", "/a?b={request.target}",
                "{request.target}&c={request.path}",
            ]),
        ) {
            let made = location(to, &path, &query);
            prop_assert!(made.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'"'));
            let rest = made.strip_prefix("https://new.example").unwrap_or(&made);
            prop_assert!(rest.starts_with('/') || rest.starts_with('?'), "{}", made);
            prop_assert!(made.starts_with("https://new.example") || !made.starts_with("//"), "{}", made);
            if to.contains("a={") {
                prop_assert!(!rest.contains('&'), "{}", made);
            }
        }
    }
}
