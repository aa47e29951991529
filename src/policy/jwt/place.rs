//! Where a request has its token, and how it is taken out.
//!
//! The first of the places that has a token counts, so that a cookie that a browser sends anyway does not stand in the way
//! of a token that the page chose. Two tokens in one place are refused (RFC 6750 §2): the server might read the other one.
//! What stands in the other places is not verified, and never goes on.

use std::borrow::Cow;
use std::fmt;

use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::denial::TokenDenial;
use crate::balance::sticky;
use crate::header::redact::decode;

/// A place where a request may have a token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenPlace {
    /// `Authorization: Bearer TOKEN` (RFC 6750 §2.1).
    Authorization,
    /// The parameter of this name in the query.
    Query(String),
    /// The cookie of this name.
    Cookie(String),
    /// `Sec-WebSocket-Protocol`, which scripts in a page can set: with `bearer`, the two entries `bearer, TOKEN`, or the one
    /// entry `bearer.TOKEN`.
    Subprotocol(String),
}

impl fmt::Display for TokenPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenPlace::Authorization => f.write_str("Authorization"),
            TokenPlace::Query(name) => write!(f, "the query parameter `{name}`"),
            TokenPlace::Cookie(name) => write!(f, "the cookie `{name}`"),
            TokenPlace::Subprotocol(prefix) => write!(f, "Sec-WebSocket-Protocol after `{prefix}`"),
        }
    }
}

/// The part of a request where tokens may be.
#[derive(Clone, Copy, Debug)]
pub struct TokenSearch<'a> {
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// Its query.
    pub query: Option<&'a str>,
    /// The subprotocols that it offers; none if it is no WebSocket handshake.
    pub subprotocols: &'a [String],
}

/// A token that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundToken {
    /// The token.
    pub token: String,
    /// The index of its place.
    pub place: usize,
}

impl TokenSearch<'_> {
    /// Returns the token of the first of `places` that has one.
    ///
    /// # Errors
    /// If there is none, or more than one in that place.
    pub fn find(&self, places: &[TokenPlace]) -> Result<FoundToken, TokenDenial> {
        for (index, place) in places.iter().enumerate() {
            let mut found = self.all_in(place).into_iter();
            match (found.next(), found.next()) {
                (None, _) => {}
                (Some(token), None) => return Ok(FoundToken { token: token.into_owned(), place: index }),
                (Some(_), Some(_)) => return Err(TokenDenial::Several(place.to_string().into())),
            }
        }
        let places: Vec<String> = places.iter().map(TokenPlace::to_string).collect();
        Err(TokenDenial::Missing(places.join(" or ").into()))
    }

    /// Returns all tokens in one place.
    fn all_in(&self, place: &TokenPlace) -> Vec<Cow<'_, str>> {
        let text = |bytes| String::from_utf8_lossy(bytes);
        match place {
            TokenPlace::Authorization => self
                .headers
                .get_all(AUTHORIZATION)
                .iter()
                .filter_map(|line| bearer(line.as_bytes()))
                .map(text)
                .collect(),
            TokenPlace::Query(name) => {
                let pairs = self.query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
                let named = pairs.filter(|(key, value)| !value.is_empty() && decode(key) == *name);
                named.map(|(_, value)| decode(value)).collect()
            }
            TokenPlace::Cookie(name) => {
                let lines = self.headers.get_all(COOKIE).iter();
                let values = lines.flat_map(|line| sticky::values(line.as_bytes(), name)).map(unquoted);
                values.filter(|value| !value.is_empty()).map(text).collect()
            }
            TokenPlace::Subprotocol(prefix) => {
                let tokens = entries(self.subprotocols, prefix).into_iter().filter_map(|entry| entry.token);
                tokens.map(Cow::Borrowed).collect()
            }
        }
    }
}

/// Returns what follows the scheme `Bearer`, in any case (RFC 9110 §11.1).
fn bearer(line: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = line.trim_ascii().split_at_checked(6)?;
    let token = rest.strip_prefix(b" ")?.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}

/// RFC 6265 §4.1.1: a value may stand in quotes.
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// An entry of the offer, or two of them that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry<'a> {
    /// What stays of it if the token is taken out; `None` if nothing does.
    subprotocol: Option<&'a str>,
    token: Option<&'a str>,
    /// With what the proxy may answer in place of a server that chooses nothing.
    answer: Option<&'a str>,
}

/// Takes an offer apart.
fn entries<'a>(offer: &'a [String], prefix: &str) -> Vec<Entry<'a>> {
    let mut all = vec![];
    let mut rest = offer.iter().map(String::as_str).peekable();
    while let Some(entry) = rest.next() {
        let token = entry.strip_prefix(prefix).and_then(|token| token.strip_prefix('.'));
        let found = if let Some(token) = token.filter(|token| !token.is_empty()) {
            Entry { subprotocol: None, token: Some(token), answer: Some(entry) }
        } else if entry == prefix
            && let Some(token) = rest.next()
        {
            Entry { subprotocol: None, token: Some(token), answer: Some(entry) }
        } else {
            Entry { subprotocol: Some(entry), token: None, answer: None }
        };
        all.push(found);
    }
    all
}

/// An offer without its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanOffer {
    /// The subprotocols that stay.
    pub subprotocols: Vec<String>,
    /// What a client that offered nothing else gets as the chosen subprotocol if the server chooses none. A browser ends a
    /// connection whose server accepts none of the offered ones.
    pub answer: Option<String>,
}

/// Takes the tokens out of an offer; `None` if there are none.
pub fn clean_offer(places: &[TokenPlace], offer: &[String]) -> Option<CleanOffer> {
    let mut subprotocols = offer.to_vec();
    let mut answer = None;
    for place in places {
        let TokenPlace::Subprotocol(prefix) = place else { continue };
        let entries = entries(&subprotocols, prefix);
        answer = answer.or_else(|| entries.iter().find_map(|entry| entry.answer).map(str::to_owned));
        subprotocols = entries.iter().filter_map(|entry| entry.subprotocol).map(str::to_owned).collect();
    }
    let answer = answer.filter(|_| subprotocols.is_empty());
    (subprotocols.len() != offer.len()).then_some(CleanOffer { subprotocols, answer })
}

/// Writes the subprotocols of an offer into the request's fields.
pub fn set_offer(headers: &mut HeaderMap, subprotocols: &[String]) {
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    // They were read of such a field.
    if let (false, Ok(value)) = (subprotocols.is_empty(), HeaderValue::try_from(subprotocols.join(", "))) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
}

/// Takes the tokens of a place out of the fields of a request. Those of an offer are for [`clean_offer`].
pub fn take_out(place: &TokenPlace, headers: &mut HeaderMap) {
    match place {
        TokenPlace::Authorization => {
            let is_token = |line: &HeaderValue| bearer(line.as_bytes()).is_some();
            retain(headers, AUTHORIZATION, |line| (!is_token(line)).then(|| line.clone()));
        }
        TokenPlace::Cookie(name) => retain(headers, COOKIE, |line| match sticky::without(line.as_bytes(), name) {
            None => Some(line.clone()),
            // A part of a value is one.
            Some(rest) => HeaderValue::from_bytes(&rest).ok().filter(|rest| !rest.is_empty()),
        }),
        TokenPlace::Query(_) | TokenPlace::Subprotocol(_) => {}
    }
}

fn retain(headers: &mut HeaderMap, name: http::HeaderName, keep: impl Fn(&HeaderValue) -> Option<HeaderValue>) {
    let lines: Vec<HeaderValue> = headers.get_all(&name).iter().filter_map(keep).collect();
    headers.remove(&name);
    for line in lines {
        headers.append(name.clone(), line);
    }
}

/// Returns a query without the parameter `name`; `None` if it is not in it.
pub fn without_parameter(query: &str, name: &str) -> Option<String> {
    let is_token = |pair: &&str| decode(pair.split_once('=').map_or(*pair, |(key, _)| key)) == *name;
    query.split('&').any(|pair| is_token(&pair)).then(|| {
        let rest: Vec<&str> = query.split('&').filter(|pair| !is_token(pair)).collect();
        rest.join("&")
    })
}

/// Returns a query for the log, with `***` in place of the values of the parameter `name`; `None` if it is not in it.
pub fn hidden_parameter(query: &str, name: &str) -> Option<String> {
    let is_token = |pair: &str| pair.split_once('=').is_some_and(|(key, _)| decode(key) == *name);
    query.split('&').any(is_token).then(|| {
        let hide = |pair| match is_token(pair) {
            true => format!("{}=***", pair.split_once('=').map_or("", |(key, _)| key)),
            false => pair.to_owned(),
        };
        query.split('&').map(hide).collect::<Vec<_>>().join("&")
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| (http::HeaderName::from_static(name), value.parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in lines.iter().map(line) {
            headers.append(name, value);
        }
        headers
    }

    fn offer(text: &str) -> Vec<String> {
        text.split(", ").filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
    }

    fn all() -> [TokenPlace; 4] {
        [
            TokenPlace::Authorization,
            TokenPlace::Query("access_token".into()),
            TokenPlace::Cookie("session".into()),
            TokenPlace::Subprotocol("bearer".into()),
        ]
    }

    #[test]
    fn a_token_is_found_where_it_may_be_and_nowhere_else() {
        type Case =
            (&'static [(&'static str, &'static str)], &'static str, &'static str, Option<(&'static str, usize)>);
        let table: &[Case] = &[
            (&[("authorization", "Bearer t")], "", "", Some(("t", 0))),
            (&[("authorization", "bEARER   t ")], "", "", Some(("t", 0))),
            (&[("authorization", "Basic t"), ("x-token", "t")], "", "", None),
            (&[("authorization", "Bearert")], "", "", None),
            (&[("authorization", "Bearer")], "", "", None),
            (&[], "a=1&access_token=t&b", "", Some(("t", 1))),
            (&[], "%61ccess_token=a%2Eb", "", Some(("a.b", 1))),
            (&[], "access_token=&token=t&Access_token=t", "", None),
            (&[("cookie", "a=b; session=t"), ("cookie", "c=d")], "", "", Some(("t", 2))),
            (&[("cookie", "session=\"t\"")], "", "", Some(("t", 2))),
            (&[("cookie", "sessions=t; xsession=t")], "", "", None),
            (&[], "", "chat, bearer, t", Some(("t", 3))),
            (&[], "", "bearer.t, chat", Some(("t", 3))),
            (&[], "", "bearer", None),
            (&[], "", "chat, bearer", None),
            (&[], "", "bearer., bearers.t, xbearer.t", None),
            (&[("authorization", "Bearer one"), ("cookie", "session=two")], "access_token=three", "", Some(("one", 0))),
        ];
        for (lines, query, subprotocols, found) in table {
            let (headers, subprotocols) = (headers(lines), offer(subprotocols));
            let search = TokenSearch { headers: &headers, query: Some(query), subprotocols: &subprotocols };
            match (search.find(&all()), found) {
                (Ok(is), Some((token, place))) => assert_eq!((is.token.as_str(), is.place), (*token, *place)),
                (Err(TokenDenial::Missing(_)), None) => {}
                (is, _) => panic!("{lines:?} {query} {subprotocols:?}: {is:?}"),
            }
        }
    }

    #[test]
    fn two_in_one_place_are_refused_though_they_are_equal() {
        for (lines, query, subprotocols) in [
            (&[("authorization", "Bearer t"), ("authorization", "bearer t")][..], "", ""),
            (&[], "access_token=t&access_token=t", ""),
            (&[], "access_token=t&access%5Ftoken=t", ""),
            (&[("cookie", "session=t; session=t")], "", ""),
            (&[("cookie", "session=t"), ("cookie", "a=b;session = t")], "", ""),
            (&[], "", "bearer, t, bearer.t"),
            (&[], "", "bearer.a, bearer.b"),
        ] {
            let (headers, subprotocols) = (headers(lines), offer(subprotocols));
            let search = TokenSearch { headers: &headers, query: Some(query), subprotocols: &subprotocols };
            assert!(matches!(search.find(&all()), Err(TokenDenial::Several(_))), "{lines:?} {query} {subprotocols:?}");
        }
    }

    #[test]
    fn what_stays_of_an_offer_has_no_token_and_what_is_answered_was_offered() {
        for (given, stays, answer) in [
            ("chat, bearer, t, json", "chat, json", None),
            ("bearer.t, chat", "chat", None),
            ("bearer, t", "", Some("bearer")),
            ("bearer.t", "", Some("bearer.t")),
            ("bearer, bearer.t", "", Some("bearer")),
        ] {
            let clean = clean_offer(&all(), &offer(given)).unwrap();
            assert_eq!((clean.subprotocols, clean.answer.as_deref()), (offer(stays), answer), "{given}");
        }
        for given in ["", "chat", "chat, bearer"] {
            assert_eq!(clean_offer(&all(), &offer(given)), None, "{given}");
        }
        let mut fields = headers(&[("sec-websocket-protocol", "a"), ("sec-websocket-protocol", "b")]);
        set_offer(&mut fields, &offer("b, c"));
        assert_eq!(fields.get_all(SEC_WEBSOCKET_PROTOCOL).iter().collect::<Vec<_>>(), ["b, c"]);
        set_offer(&mut fields, &[]);
        assert!(fields.is_empty());
    }

    #[test]
    fn what_is_taken_out_is_gone_and_all_else_stays() {
        let mut fields = headers(&[
            ("authorization", "Bearer t"),
            ("authorization", "Basic b"),
            ("cookie", "session=t"),
            ("cookie", "a=b; session=t;c=d"),
            ("x-a", "y"),
        ]);
        all().iter().for_each(|place| take_out(place, &mut fields));
        let rest = headers(&[("authorization", "Basic b"), ("cookie", "a=b;c=d"), ("x-a", "y")]);
        assert_eq!(fields, rest);
        for (query, without, hidden) in [
            ("a=1&access_token=t&b", "a=1&b", "a=1&access_token=***&b"),
            ("access%5ftoken=t", "", "access%5ftoken=***"),
            ("access_token&access_token=a&a=%zz", "a=%zz", "access_token&access_token=***&a=%zz"),
        ] {
            assert_eq!(without_parameter(query, "access_token").as_deref(), Some(without), "{query}");
            assert_eq!(hidden_parameter(query, "access_token").as_deref(), Some(hidden), "{query}");
        }
        assert_eq!(without_parameter("a=1&token=t", "access_token"), None);
    }
}
