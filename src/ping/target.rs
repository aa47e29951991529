//! The URL of a WebSocket, and where to connect for it.

use std::str::FromStr;

use http::uri::PathAndQuery;

use crate::config::{BadValue, EndpointUrl};

/// A WebSocket as its clients write it: `wss://host[:port]/path?query` (RFC 6455 §3); `http` and `https` mean the same as
/// `ws` and `wss`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether it is written with `http` or `https`.
    pub is_http: bool,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// A DNS name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Target {
    /// Returns what stands in `Host`: a port that the scheme implies is left out.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// Returns the URL of the WebSocket, encrypted or not.
    pub fn with_tls(&self, tls: bool) -> String {
        format!("{}://{}{}", if tls { "wss" } else { "ws" }, self.authority(), self.path)
    }

    /// Returns the URL as it is written.
    pub fn url(&self) -> String {
        if !self.is_http {
            return self.with_tls(self.tls);
        }
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

impl FromStr for Target {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Target, BadValue> {
        let help = "write it as a browser would: `wss://chat.example.com/ws`";
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| bad_value(format!("`{text}` has no scheme"), help))?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if path.contains('#') {
            return Err(bad_value("the URL of a WebSocket has no fragment", "leave out what follows the `#`"));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        PathAndQuery::from_str(&path)
            .map_err(|error| bad_value(format!("`{path}` is not a path: {error}"), "write other characters as %XX"))?;
        match format!("{scheme}://{authority}").parse()? {
            EndpointUrl::Tcp { tls, host, port } => {
                let is_http = scheme.to_ascii_lowercase().starts_with("http");
                Ok(Target { is_http, tls, host, port, path })
            }
            EndpointUrl::Unix(_) => Err(bad_value("a Unix socket has no URL", help)),
        }
    }
}

/// Where to connect instead of what the URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectTo {
    /// A DNS name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for ConnectTo {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<ConnectTo, BadValue> {
        let bad = || {
            bad_value(format!("`{text}` is not a host with a port"), "write `127.0.0.1:8443` or `host.internal:443`")
        };
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).ok_or_else(bad)?;
        match format!("ws://{text}").parse().map_err(|_| bad())? {
            EndpointUrl::Tcp { host, .. } => Ok(ConnectTo { host, port }),
            EndpointUrl::Unix(_) => Err(bad()),
        }
    }
}

fn bad_value(problem: impl Into<String>, help: impl Into<String>) -> BadValue {
    BadValue { problem: problem.into(), help: help.into() }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_as_a_client_reads_it() {
        for (text, tls, host, port, path, authority) in [
            ("wss://chat.example.com/ws?room=1", true, "chat.example.com", 443, "/ws?room=1", "chat.example.com"),
            ("ws://Chat.example.com:80", false, "chat.example.com", 80, "/", "chat.example.com"),
            ("https://[::1]:8443/a%20b", true, "::1", 8443, "/a%20b", "[::1]:8443"),
            ("http://127.0.0.1:9000?x", false, "127.0.0.1", 9000, "/?x", "127.0.0.1:9000"),
        ] {
            let target: Target = text.parse().unwrap();
            let is_http = text.starts_with("http");
            assert_eq!(target, Target { is_http, tls, host: host.into(), port, path: path.into() });
            assert_eq!(target.authority(), authority);
        }
    }

    #[test]
    fn what_is_no_url_of_a_websocket_is_refused_with_what_to_write() {
        for text in
            ["chat.example.com/ws", "ftp://a/", "wss://a/#b", "wss://", "wss://a b/", "wss://a/b c", "wss://u:p@a/"]
        {
            let error = text.parse::<Target>().unwrap_err();
            assert!(!error.help.is_empty(), "{text}: {error:?}");
        }
        for text in ["127.0.0.1", "a:", "a:b", ":1", "a:70000"] {
            assert!(text.parse::<ConnectTo>().is_err(), "{text}");
        }
        assert_eq!("[::1]:1".parse::<ConnectTo>().unwrap(), ConnectTo { host: "::1".into(), port: 1 });
    }
}
