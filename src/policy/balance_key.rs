//! The part of a request that an upstream with the `hash` balancer hashes.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::HeaderMap;
use http::header::{COOKIE, HeaderName};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::balance::{Draw, hash};
use crate::route::pattern::as_string;

/// The part of a request that is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BalanceKey {
    /// The client's address, as far as `trusted_proxies` reveal it.
    ClientAddress,
    /// The path, as the upstream sees it.
    Path,
    /// The first value of a header.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
    /// A parameter of the query, undecoded.
    Query(String),
}

/// Why a text does not name a part of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BalanceKeyError {
    /// It is not one of the words.
    #[error("`{0}` is no part of a request: write client_address, path, header:NAME, cookie:NAME or query:NAME")]
    Form(String),
    /// It is not a valid header name.
    #[error("`{0}` is not a header's name")]
    Header(String),
    /// It is not a valid name of a cookie or parameter.
    #[error("`{0}` is not the name of a {1}: write it as it stands in a request, without spaces or any of = ; &")]
    Name(String, &'static str),
}

impl FromStr for BalanceKey {
    type Err = BalanceKeyError;

    fn from_str(text: &str) -> Result<BalanceKey, BalanceKeyError> {
        let name = |name: &str, what| match name.is_empty() || name.contains(|c: char| c <= ' ' || "=;&".contains(c)) {
            true => Err(BalanceKeyError::Name(name.to_owned(), what)),
            false => Ok(name.to_owned()),
        };
        match text.split_once(':') {
            None if text == "client_address" => Ok(BalanceKey::ClientAddress),
            None if text == "path" => Ok(BalanceKey::Path),
            Some(("header", name)) => {
                name.parse().map(BalanceKey::Header).map_err(|_| BalanceKeyError::Header(name.to_owned()))
            }
            Some(("cookie", cookie)) => name(cookie, "cookie").map(BalanceKey::Cookie),
            Some(("query", parameter)) => name(parameter, "parameter").map(BalanceKey::Query),
            _ => Err(BalanceKeyError::Form(text.to_owned())),
        }
    }
}

impl fmt::Display for BalanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BalanceKey::ClientAddress => f.write_str("client_address"),
            BalanceKey::Path => f.write_str("path"),
            BalanceKey::Header(name) => write!(f, "header:{name}"),
            BalanceKey::Cookie(name) => write!(f, "cookie:{name}"),
            BalanceKey::Query(name) => write!(f, "query:{name}"),
        }
    }
}

as_string!(BalanceKey, "BalanceKey", {
    "description": "A part of a request.",
    "type": "string",
    "pattern": r"^(client_address|path|(header|cookie|query):.+)$",
    "examples": ["client_address", "header:X-User", "cookie:sid", "query:room"],
});

/// The parts of a request that may be hashed.
#[derive(Clone, Copy, Debug)]
pub struct Keyed<'a> {
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The path, as the upstream sees it.
    pub path: &'a str,
    /// The query, as received.
    pub query: Option<&'a str>,
    /// The headers, as received.
    pub headers: &'a HeaderMap,
}

/// Returns the input of a pick: `random`, and the hash of the request's key, or of `random` if the request has no key,
/// so that such requests spread.
pub fn draw(key: Option<&BalanceKey>, request: Keyed<'_>, random: u64) -> Draw {
    let key = key.and_then(|key| value(key, request)).unwrap_or_else(|| hash::of(&random.to_le_bytes()));
    Draw { key, random }
}

fn value(key: &BalanceKey, request: Keyed<'_>) -> Option<u64> {
    match key {
        BalanceKey::ClientAddress => request.client.map(|client| match client {
            IpAddr::V4(client) => hash::of(&client.octets()),
            // A household has a /64 and changes addresses within it (RFC 8981).
            IpAddr::V6(client) => hash::of(&client.octets()[..8]),
        }),
        BalanceKey::Path => Some(hash::of(request.path.as_bytes())),
        BalanceKey::Header(name) => request.headers.get(name).map(|value| hash::of(value.as_bytes())),
        BalanceKey::Cookie(name) => {
            let pairs =
                request.headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
            named(pairs, name)
        }
        BalanceKey::Query(name) => named(request.query?.as_bytes().split(|byte| *byte == b'&'), name),
    }
}

/// Returns the hash of the first value with this name.
fn named<'a>(mut pairs: impl Iterator<Item = &'a [u8]>, name: &str) -> Option<u64> {
    let value = pairs.find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(hash::of(value))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_found_and_others_of_a_like_name_are_not() {
        let mut headers = HeaderMap::new();
        headers.append("x-user", "ann".parse().unwrap());
        headers.append(COOKIE, "a=1; sid2=no".parse().unwrap());
        headers.append(COOKIE, "sid=ann".parse().unwrap());
        let request = Keyed {
            client: Some("2001:db8::1".parse().unwrap()),
            path: "ann",
            query: Some("roomy=x&room=ann&room=bob"),
            headers: &headers,
        };
        let ann = hash::of(b"ann");
        for key in [
            BalanceKey::Path,
            BalanceKey::Header("x-user".parse().unwrap()),
            BalanceKey::Cookie("sid".into()),
            BalanceKey::Query("room".into()),
        ] {
            assert_eq!(draw(Some(&key), request, 7), Draw { key: ann, random: 7 }, "{key:?}");
        }
        let neighbour = Keyed { client: Some("2001:db8::ffff".parse().unwrap()), ..request };
        let client = Some(&BalanceKey::ClientAddress);
        assert_eq!(draw(client, request, 7), draw(client, neighbour, 7));
        assert_ne!(draw(client, request, 7), draw(client, Keyed { client: Some([10, 0, 0, 1].into()), ..request }, 7));
    }

    #[test]
    fn keys_are_read_as_they_are_written_and_others_are_refused() {
        for text in ["client_address", "path", "header:x-user", "cookie:sid", "query:room"] {
            assert_eq!(text.parse::<BalanceKey>().unwrap().to_string(), text);
        }
        for text in ["client", "header:", "header:x user", "cookie:a=b", "query:", "body:x", "path:x", ""] {
            assert!(text.parse::<BalanceKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn requests_without_the_key_spread() {
        let request = Keyed { client: None, path: "/", query: None, headers: &HeaderMap::new() };
        let key = BalanceKey::Cookie("sid".into());
        assert_ne!(draw(Some(&key), request, 1).key, draw(Some(&key), request, 2).key);
    }
}
