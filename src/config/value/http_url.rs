//! A URL that the proxy itself asks: for keys, or whether somebody may come in.

use std::fmt;
use std::str::FromStr;

use crate::config::value::address::split_authority;
use crate::config::value::{BadValue, Scalar, as_scalar};

/// An `https://` or `http://` URL that the proxy itself asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HttpUrl {
    /// Whether it is `https`.
    pub is_tls: bool,
    /// A name or an address, in its canonical form.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query.
    pub target: String,
}

impl Scalar for HttpUrl {
    const EXPECTED: &'static str = "a URL such as `https://id.example.com/jwks.json`";
}

impl FromStr for HttpUrl {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<HttpUrl, BadValue> {
        let help = "write a URL such as `https://id.example.com/jwks.json`";
        let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let (is_tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ => return Err(BadValue::new(format!("`{text}` is no https:// or http:// URL"), help)),
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if !is_plain || target.contains('#') {
            return Err(BadValue::new("a URL here has no spaces, no fragment, and ASCII only", help));
        }
        if authority.contains('@') {
            return Err(BadValue::new("a URL here has no user or password", help));
        }
        let (host, port) = split_authority(authority)?;
        let port = match port {
            None => Ok(if is_tls { 443 } else { 80 }),
            Some(port) => port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(port),
        };
        let port = port
            .map_err(|port| BadValue::new(format!("`{port}` is not a port"), "a port is a number from 1 to 65535"))?;
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        if target.parse::<http::uri::PathAndQuery>().is_err() {
            return Err(BadValue::new(format!("`{target}` is not the path of a URL"), help));
        }
        Ok(HttpUrl { is_tls, host, port, target })
    }
}

impl HttpUrl {
    /// Returns host and port, without the default one.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let is_default = self.port == if self.is_tls { 443 } else { 80 };
        if is_default { host } else { format!("{host}:{}", self.port) }
    }

    /// Returns true if whoever answers is on this machine.
    pub fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(out, "{scheme}://{}{}", self.authority(), self.target)
    }
}

as_scalar!(HttpUrl, "HttpUrl", {
    "description": "An `https://` or `http://` URL.",
    "type": "string",
    "pattern": r"^https?://|\$\{",
    "examples": ["https://id.example.com/.well-known/jwks.json"],
});

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_in_one_way() {
        for (text, shown) in [
            ("https://id.example.com/jwks.json", "https://id.example.com/jwks.json"),
            ("HTTPS://ID.example.com:443/a?b=c", "https://id.example.com/a?b=c"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("http://[::1]:80?x", "http://[::1]/?x"),
        ] {
            assert_eq!(text.parse::<HttpUrl>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "id.example.com",
            "ftp://a/",
            "https://",
            "https://a:0/",
            "https://a:65536/",
            "https://me:pass@a/",
            "https://a/ b",
            "https://a/#keys",
            "https://a/é",
        ] {
            let error = text.parse::<HttpUrl>().unwrap_err().to_string();
            assert!(!error.contains("pass@"), "{error}");
        }
        assert!("http://localhost/".parse::<HttpUrl>().unwrap().is_local());
        assert!(!"http://10.0.0.1/".parse::<HttpUrl>().unwrap().is_local());
    }
}
