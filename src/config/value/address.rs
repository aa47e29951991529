//! Addresses as written: where we listen ([`Bind`]) and where we connect ([`EndpointUrl`]).
//!
//! Neither resolves a name: a listener is bound to an address, so that it cannot move with DNS, and an endpoint's
//! host is looked up for each connection.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::value::{BadValue, Scalar, as_scalar};

/// The longest path a Unix socket can have: `sun_path` of sockaddr_un has 108 bytes, one of them the final NUL.
const UNIX_PATH_MAX: usize = 107;

/// An address to accept on: `0.0.0.0:8443`, `[::]:8443`, or `unix:/run/wsluice.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// An IP address and a port; port 0 takes any free one.
    Tcp(SocketAddr),
    /// The path of a Unix socket, created at start and removed at the end.
    Unix(PathBuf),
}

impl Bind {
    /// Returns true if only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Bind::Tcp(addr) => addr.ip().to_canonical().is_loopback(),
            Bind::Unix(_) => true,
        }
    }

    /// Returns true if both cannot be bound at once: the same path, or the same port with one address or a wildcard
    /// in common.
    pub fn collides(&self, other: &Bind) -> bool {
        match (self, other) {
            (Bind::Unix(a), Bind::Unix(b)) => a == b,
            (Bind::Tcp(a), Bind::Tcp(b)) => {
                let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
                a.port() == b.port() && a.port() != 0 && a.is_ipv4() == b.is_ipv4() && overlap
            }
            _ => false,
        }
    }
}

impl Scalar for Bind {
    const EXPECTED: &'static str = "an address such as `0.0.0.0:8443`, `[::]:8443` or `unix:/run/wsluice.sock`";
}

impl FromStr for Bind {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Bind, BadValue> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(Bind::Unix);
        }
        if let Ok(addr) = text.parse() {
            return Ok(Bind::Tcp(addr));
        }
        let help = match text.rsplit_once(':') {
            _ if text.parse::<IpAddr>().is_ok() => match text.contains(':') {
                true => format!("add a port: `[{text}]:8443`"),
                false => format!("add a port: `{text}:8443`"),
            },
            Some(("" | "*", port)) => format!("write `0.0.0.0:{port}` for IPv4, or `[::]:{port}` for IPv6"),
            Some(("localhost", port)) => format!("write `127.0.0.1:{port}`, or `[::1]:{port}` for IPv6"),
            _ => format!("write {}", &Self::EXPECTED["an address ".len()..].replace("such as", "an address such as")),
        };
        Err(BadValue::new(format!("`{text}` is not an address with a port"), help))
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Bind::Tcp(addr) => addr.fmt(out),
            Bind::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

/// One server: `ws://host:port`, `wss://host`, `unix:/path`; `http://` and `https://` mean the same as `ws://` and
/// `wss://`.
///
/// It has no path, since the request's own path goes upstream; `rewrite` changes that for a whole route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointUrl {
    /// Over TCP, with or without TLS.
    Tcp {
        /// `wss://` or `https://`.
        tls: bool,
        /// A DNS name in lower case, or an IP address (IPv6 without brackets).
        host: String,
        /// The port; without one 80, with TLS 443.
        port: u16,
    },
    /// Over a Unix socket, without TLS.
    Unix(PathBuf),
}

impl EndpointUrl {
    /// Returns true if the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, EndpointUrl::Tcp { tls: true, .. })
    }
}

impl Scalar for EndpointUrl {
    const EXPECTED: &'static str =
        "a URL such as `ws://10.0.0.11:9000`, `wss://chat.internal` or `unix:/run/chat.sock`";
}

impl FromStr for EndpointUrl {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<EndpointUrl, BadValue> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(EndpointUrl::Unix);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            let looks_like_host = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
            let example = if looks_like_host { text } else { "10.0.0.11:9000" };
            return Err(BadValue::new(format!("`{text}` has no scheme"), format!("write `ws://{example}`")));
        };
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => false,
            "wss" | "https" => true,
            _ => {
                let help = "use `ws://`, `wss://`, `http://`, `https://` or `unix:`";
                return Err(BadValue::new(format!("`{scheme}://` is not a scheme that can be proxied"), help));
            }
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        if !matches!(tail, "" | "/") {
            let help =
                "end it after the port; the request's own path is sent, and `rewrite.add_prefix` puts one before it";
            return Err(BadValue::new(
                format!("an endpoint has no path or query, but `{tail}` follows its host"),
                help,
            ));
        }
        if authority.contains('@') {
            let help = "send an Authorization header with `headers.request.set` of the route instead";
            return Err(BadValue::new("an endpoint has no user or password in its URL", help));
        }
        let (host, port) = split_authority(authority)?;
        let port = match port {
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => match port.parse::<u16>() {
                Ok(number) if number != 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
                _ => {
                    return Err(BadValue::new(format!("`{port}` is not a port"), "a port is a number from 1 to 65535"));
                }
            },
        };
        Ok(EndpointUrl::Tcp { tls, host, port })
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            EndpointUrl::Tcp { tls, host, port } => {
                let scheme = if *tls { "wss" } else { "ws" };
                match host.contains(':') {
                    true => write!(out, "{scheme}://[{host}]:{port}"),
                    false => write!(out, "{scheme}://{host}:{port}"),
                }
            }
            EndpointUrl::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

fn unix_path(path: &str) -> Result<PathBuf, BadValue> {
    let help = "write the path of a socket, such as `unix:/run/wsluice.sock`";
    match path {
        "" => Err(BadValue::new("`unix:` is not followed by a path", help)),
        _ if path.starts_with("//") => Err(BadValue::new(format!("`unix:{path}` is not the path of a socket"), help)),
        _ if path.starts_with('@') => Err(BadValue::new("abstract sockets are not supported", help)),
        _ if path.contains('\0') => Err(BadValue::new("a path cannot contain NUL", help)),
        _ if path.len() > UNIX_PATH_MAX => {
            let problem =
                format!("the path of a Unix socket has at most {UNIX_PATH_MAX} bytes, this one {}", path.len());
            Err(BadValue::new(problem, "use a shorter path, such as one below /run"))
        }
        _ => Ok(Path::new(path).to_owned()),
    }
}

/// Splits host and port (RFC 3986 §3.2); the host is checked and in its canonical form.
pub(in crate::config) fn split_authority(authority: &str) -> Result<(String, Option<&str>), BadValue> {
    let help = "write a DNS name, an IPv4 address, or an IPv6 address in brackets, then perhaps `:port`";
    if let Some(rest) = authority.strip_prefix('[') {
        let bad = || BadValue::new(format!("`{authority}` is not an IPv6 address in brackets"), help);
        let (address, rest) = rest.split_once(']').ok_or_else(bad)?;
        let address = address.parse::<Ipv6Addr>().map_err(|_| bad())?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address.to_string(), Some(port))),
            None if rest.is_empty() => Ok((address.to_string(), None)),
            None => Err(bad()),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if port.is_some_and(|port| port.contains(':')) {
        return Err(BadValue::new(
            format!("`{authority}` has several colons"),
            format!("put an IPv6 address in brackets: `[{authority}]`"),
        ));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(inside)
    };
    let numeric =
        name.rsplit('.').next().is_some_and(|last| !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()));
    // A name whose last label is a number is an address or nothing (WHATWG URL "ends in a number"): 10.0.0.256 is no
    // name.
    let good = if numeric { host.parse::<Ipv4Addr>().is_ok() } else { name.len() <= 253 && name.split('.').all(label) };
    match good {
        true => Ok((name.to_ascii_lowercase(), port)),
        false if host.is_empty() => Err(BadValue::new("the host is missing", help)),
        false => Err(BadValue::new(format!("`{host}` is not a host"), help)),
    }
}

as_scalar!(Bind, "Bind", {
    "description": "An IP address with a port, or `unix:` and the path of a socket.",
    "type": "string",
    "examples": ["0.0.0.0:8443", "[::]:8443", "unix:/run/wsluice.sock"],
});

as_scalar!(EndpointUrl, "EndpointUrl", {
    "description": "One server: scheme, host and port, without a path.",
    "type": "string",
    "pattern": r"^([Ww][Ss][Ss]?|[Hh][Tt][Tt][Pp][Ss]?)://|^unix:|\$\{",
    "examples": ["ws://10.0.0.11:9000", "wss://chat.internal", "unix:/run/chat.sock"],
});

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn endpoints_print_in_their_canonical_form() {
        for (text, canonical) in [
            ("ws://10.0.0.11:9000", "ws://10.0.0.11:9000"),
            ("http://Chat.Internal", "ws://chat.internal:80"),
            ("https://chat.internal.", "wss://chat.internal:443"),
            ("WSS://chat_1/", "wss://chat_1:443"),
            ("ws://[2001:DB8::1]:9000", "ws://[2001:db8::1]:9000"),
            ("ws://[::1]", "ws://[::1]:80"),
            ("unix:/run/chat.sock", "unix:/run/chat.sock"),
            ("unix:chat.sock", "unix:chat.sock"),
        ] {
            assert_eq!(text.parse::<EndpointUrl>().unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn an_endpoint_that_is_not_one_says_what_would_be() {
        for (text, problem, help) in [
            ("localhost:9000", "`localhost:9000` has no scheme", "write `ws://localhost:9000`"),
            ("", "`` has no scheme", "write `ws://10.0.0.11:9000`"),
            ("tcp://a:1", "`tcp://` is not a scheme that can be proxied", "use `ws://`"),
            ("ws://a:1/ws", "an endpoint has no path or query, but `/ws` follows its host", "end it after the port"),
            ("ws://a:1?x=1", "an endpoint has no path or query, but `?x=1` follows its host", "end it after the port"),
            ("ws://me:pass@a:1", "an endpoint has no user or password in its URL", "send an Authorization"),
            ("ws://a:0", "`0` is not a port", "a port is"),
            ("ws://a:+1", "`+1` is not a port", "a port is"),
            ("ws://a:65536", "`65536` is not a port", "a port is"),
            ("ws://:9000", "the host is missing", "write a DNS name"),
            ("ws://10.0.0.256", "`10.0.0.256` is not a host", "write a DNS name"),
            ("ws://a b", "`a b` is not a host", "write a DNS name"),
            ("ws://::1:9000", "`::1:9000` has several colons", "put an IPv6 address in brackets"),
            ("ws://[::1", "`[::1` is not an IPv6 address in brackets", "write a DNS name"),
            ("unix:", "`unix:` is not followed by a path", "write the path"),
        ] {
            let bad = text.parse::<EndpointUrl>().unwrap_err();
            assert_eq!(bad.problem, problem);
            assert!(bad.help.starts_with(help), "{}", bad.help);
        }
    }

    #[test]
    fn an_address_without_what_it_needs_says_what_to_write() {
        for (text, help) in [
            (":8443", "write `0.0.0.0:8443` for IPv4, or `[::]:8443` for IPv6"),
            ("*:80", "write `0.0.0.0:80` for IPv4, or `[::]:80` for IPv6"),
            ("localhost:80", "write `127.0.0.1:80`, or `[::1]:80` for IPv6"),
            ("10.0.0.1", "add a port: `10.0.0.1:8443`"),
            ("::1", "add a port: `[::1]:8443`"),
            ("chat.example.com:80", "write an address such as `0.0.0.0:8443`, `[::]:8443` or `unix:/run/wsluice.sock`"),
        ] {
            assert_eq!(text.parse::<Bind>().unwrap_err().help, help);
        }
    }

    #[test]
    fn a_wildcard_collides_with_every_address_of_its_family() {
        let bind = |text: &str| text.parse::<Bind>().unwrap();
        assert!(bind("0.0.0.0:80").collides(&bind("127.0.0.1:80")));
        assert!(bind("unix:a").collides(&bind("unix:a")));
        assert!(!bind("127.0.0.1:0").collides(&bind("127.0.0.1:0")), "each takes its own free port");
        assert!(!bind("127.0.0.1:80").collides(&bind("127.0.0.2:80")));
        assert!(!bind("0.0.0.0:80").collides(&bind("[::]:80")));
    }

    #[test]
    fn only_loopback_and_unix_sockets_are_local() {
        for (text, local) in
            [("127.0.0.1:1", true), ("[::1]:1", true), ("unix:a", true), ("0.0.0.0:1", false), ("[::]:1", false)]
        {
            assert_eq!(text.parse::<Bind>().unwrap().is_local(), local, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_an_endpoint_prints_is_read_back(text in "wss?://(\\PC{0,12}|[a-z0-9.:\\[\\]-]{0,16})|unix:\\PC{0,9}") {
            if let Ok(url) = text.parse::<EndpointUrl>() {
                prop_assert_eq!(url.to_string().parse::<EndpointUrl>().unwrap(), url);
            }
        }
    }
}
