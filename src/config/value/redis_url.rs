//! The URL of a Redis or Valkey.

use std::fmt;
use std::str::FromStr;

use crate::config::read::MASK;
use crate::config::value::address::split_authority;
use crate::config::value::{BadValue, Scalar, as_scalar};

/// The most databases that anybody configures; Redis has 16.
const DATABASE_MAX: u16 = 9_999;

/// A `redis://` or `rediss://` URL. What it is shown as has no password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Whether it is `rediss`.
    pub is_tls: bool,
    /// The user to log in as, if not the default one.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// A name or an address, in its canonical form.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The number of the database.
    pub database: u16,
}

impl Scalar for RedisUrl {
    const EXPECTED: &'static str = "a URL such as `redis://127.0.0.1:6379`";
}

impl FromStr for RedisUrl {
    type Err = BadValue;

    /// No message quotes the text: there may be a password in it.
    fn from_str(text: &str) -> Result<RedisUrl, BadValue> {
        let help =
            "write a URL such as `redis://127.0.0.1:6379`, or `rediss://${USER}:${PASSWORD}@redis.example.com:6379/0`";
        let bad = |problem: &str| BadValue::new(problem, help);
        if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(bad("a URL here has no spaces, and ASCII only; write others as `%20`"));
        }
        let (is_tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("rediss") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("redis") => (false, rest),
            _ => return Err(bad("this is no redis:// or rediss:// URL")),
        };
        // A password may have a slash that nobody has encoded.
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let database = match target.trim_start_matches('/') {
            "" => Some(0),
            number => number.parse().ok().filter(|number| *number <= DATABASE_MAX),
        };
        let database = database
            .ok_or_else(|| bad("behind the host there is the number of a database, or nothing, and no more"))?;
        let (host, port) =
            split_authority(authority).map_err(|_| bad("the host of this URL is no name and no address"))?;
        let port = match port {
            None => Some(6379),
            Some(port) => port.parse::<u16>().ok().filter(|port| *port != 0),
        };
        let port = port.ok_or_else(|| bad("the port of this URL is no number from 1 to 65535"))?;
        let text = |part: &str| decode(part).ok_or_else(|| bad("user or password have a `%` that encodes no text"));
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            None => (None, None),
            Some((_, "")) => return Err(bad("there is a user and no password")),
            Some((user, password)) => (Some(text(user)?).filter(|user| !user.is_empty()), Some(text(password)?)),
        };
        Ok(RedisUrl { is_tls, user, password, host, port, database })
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
                tail
            }
            (b'%', _) => return None,
            (byte, tail) => {
                bytes.push(*byte);
                tail
            }
        };
    }
    String::from_utf8(bytes).ok()
}

impl RedisUrl {
    /// Returns host and port.
    pub fn server(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Returns true if it is on this machine.
    pub fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let scheme = if self.is_tls { "rediss" } else { "redis" };
        let login = if self.password.is_some() { format!("{MASK}@") } else { String::new() };
        write!(out, "{scheme}://{login}{}/{}", self.server(), self.database)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "RedisUrl({self})")
    }
}

as_scalar!(RedisUrl, "RedisUrl", {
    "description": "A `redis://` URL, or `rediss://` for TLS, with user and password if needed.",
    "type": "string",
    "pattern": r"^rediss?://|\$\{",
    "examples": ["redis://127.0.0.1:6379", "${REDIS_URL}"],
});

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_in_one_way_and_shown_without_its_login() {
        for (text, user, password, shown) in [
            ("redis://127.0.0.1", None, None, "redis://127.0.0.1:6379/0"),
            ("REDISS://Redis.example.com:6380/3", None, None, "rediss://redis.example.com:6380/3"),
            ("redis://:hush@[::1]/", None, Some("hush"), "redis://***@[::1]:6379/0"),
            ("redis://me:hu%2Fsh%40@a:1/0", Some("me"), Some("hu/sh@"), "redis://***@a:1/0"),
            ("redis://me:hu/sh@x@a:1", Some("me"), Some("hu/sh@x"), "redis://***@a:1/0"),
            ("redis://me:a:b@a", Some("me"), Some("a:b"), "redis://***@a:6379/0"),
        ] {
            let url: RedisUrl = text.parse().unwrap();
            assert_eq!((url.user.as_deref(), url.password.as_deref()), (user, password), "{text}");
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("hu"));
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_the_text() {
        for text in [
            "",
            "hushhush",
            "http://hushhush@a/",
            "redis://",
            "redis://me:hushhush@",
            "redis://me:hushhush@a:0/",
            "redis://me:hushhush@a:x/",
            "redis://me:hushhush@a/hushhush",
            "redis://me:hushhush@a/0?x",
            "redis://me:hushhush%@a/0",
            "redis://me:hushhush%ff@a/0",
            "redis://hushhush@a/0",
            "redis://me:hush hush@a/0",
            "redis://a/70000",
        ] {
            let error = text.parse::<RedisUrl>().unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
