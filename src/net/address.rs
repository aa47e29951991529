//! Addresses to listen on, as written: `0.0.0.0:8443`, `[::]:80`, `unix:/run/wsluice.sock`.
//!
//! A plain value without sockets, so that the configuration can hold it and parse it where it stands in the file.
//! Names (`localhost:80`) are refused: a name may resolve to something else at the next start, and an address opened to
//! the world by accident is worse than an error.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest path that fits `sockaddr_un` (108 bytes with the final NUL, unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and a port; port 0 lets the system choose one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Why a text is not an [`Address`]; each message says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text is empty.
    #[error("an address is missing: write an IP address and a port, as 0.0.0.0:8080, or unix:/run/wsluice.sock")]
    Empty,
    /// `:8080` or `8080`.
    #[error(
        "`{text}` names a port only: write 0.0.0.0:{port} for every IPv4 address or [::]:{port} for every IPv6 address"
    )]
    PortOnly {
        /// The text as written.
        text: String,
        /// The port that it names.
        port: u16,
    },
    /// `10.0.0.1` or `::1`.
    #[error("`{text}` has no port: write {}", with_port(.text))]
    NoPort {
        /// The text as written.
        text: String,
    },
    /// `::1:80` and the like.
    #[error("an IPv6 address stands in brackets before its port, as [::1]:8080, but this is `{text}`")]
    Unbracketed {
        /// The text as written.
        text: String,
    },
    /// `localhost:80` and the like.
    #[error(
        "`{text}` is not an IP address and a port: write 127.0.0.1:8080 or [::1]:8080 (names are not looked up here)"
    )]
    NotAnIp {
        /// The text as written.
        text: String,
    },
    /// `unix:` without an absolute path.
    #[error("a Unix socket needs an absolute path, as unix:/run/wsluice.sock, but this is `{text}`")]
    RelativePath {
        /// The text as written.
        text: String,
    },
    /// A path that is too long for the kernel.
    #[error("the path of a Unix socket has at most {UNIX_PATH_BYTES_MAX} bytes, but this one has {bytes}")]
    PathTooLong {
        /// Its length.
        bytes: usize,
    },
}

fn with_port(text: &str) -> String {
    if text.contains(':') && !text.starts_with('[') { format!("[{text}]:8080") } else { format!("{text}:8080") }
}

impl Address {
    /// Returns true if only this machine can reach it: a loopback address or a Unix socket.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Tcp(addr) => addr.ip().to_canonical().is_loopback(),
            Address::Unix(_) => true,
        }
    }

    /// Returns true if both cannot be bound at once: the same path, or the same port with one address or a wildcard in
    /// common. `[::]` means IPv6 only here, and has nothing in common with IPv4.
    pub fn overlaps(&self, other: &Address) -> bool {
        match (self, other) {
            (Address::Unix(a), Address::Unix(b)) => a == b,
            (Address::Tcp(a), Address::Tcp(b)) => {
                let is_shared = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
                a.port() == b.port() && a.port() != 0 && a.is_ipv4() == b.is_ipv4() && is_shared
            }
            _ => false,
        }
    }

    /// Returns the socket address, unless it is a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(addr) => Some(*addr),
            Address::Unix(_) => None,
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(text, path);
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(Address::Tcp(addr));
        }
        let text = text.trim();
        Err(match text.strip_prefix(':').or_else(|| text.strip_prefix("*:")).unwrap_or(text).parse::<u16>() {
            Ok(port) => AddressError::PortOnly { text: text.to_owned(), port },
            Err(_) if text.is_empty() => AddressError::Empty,
            Err(_) if text.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() => {
                // `::1:80` is a valid address, but its last group was meant as the port.
                let groups = text.split(':').count();
                if groups > 3 && !text.ends_with(':') && !text.starts_with('[') {
                    AddressError::Unbracketed { text: text.to_owned() }
                } else {
                    AddressError::NoPort { text: text.to_owned() }
                }
            }
            Err(_) => AddressError::NotAnIp { text: text.to_owned() },
        })
    }
}

fn unix(text: &str, path: &str) -> Result<Address, AddressError> {
    // `unix:///run/x` is the same file as `unix:/run/x`.
    let path = path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    if !Path::new(path).is_absolute() || path.ends_with('/') {
        return Err(AddressError::RelativePath { text: text.to_owned() });
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        return Err(AddressError::PathTooLong { bytes: path.len() });
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addr) => addr.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl schemars::JsonSchema for Address {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn schema_id() -> Cow<'static, str> {
        concat!(module_path!(), "::Address").into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "An IP address and a port, or `unix:` and the path of a socket.",
            "examples": ["0.0.0.0:8443", "[::]:80", "unix:/run/wsluice.sock"],
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back() {
        for text in ["0.0.0.0:8443", "[::]:80", "127.0.0.1:0", "[::1]:65535", "unix:/run/wsluice.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///run/x".parse::<Address>().unwrap(), Address::Unix("/run/x".into()));
    }

    #[test]
    fn an_error_says_what_to_write() {
        let cases = [
            ("", "an address is missing"),
            ("8080", "write 0.0.0.0:8080"),
            (":443", "write 0.0.0.0:443"),
            ("*:443", "[::]:443"),
            ("10.0.0.1", "write 10.0.0.1:8080"),
            ("::", "write [::]:8080"),
            ("[::1]", "write [::1]:8080"),
            ("::1:80", "stands in brackets"),
            ("localhost:80", "names are not looked up"),
            ("10.0.0.1:99999", "not an IP address and a port"),
            ("unix:", "absolute path"),
            ("unix:run/x.sock", "absolute path"),
            ("unix:/run/", "absolute path"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let long = format!("unix:/{}", "x".repeat(200));
        assert_eq!(long.parse::<Address>(), Err(AddressError::PathTooLong { bytes: 201 }));
    }

    #[test]
    fn only_loopback_and_unix_sockets_are_local() {
        for (text, local) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("unix:/x", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.1.1.1:1", false),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().is_local(), local, "{text}");
        }
    }

    #[test]
    fn it_is_a_string_in_a_file() {
        let address: Address = serde_json::from_str("\"[::1]:80\"").unwrap();
        assert_eq!(address, Address::Tcp("[::1]:80".parse().unwrap()));
        assert_eq!(serde_json::to_string(&address).unwrap(), "\"[::1]:80\"");
        assert!(serde_json::from_str::<Address>("\"nowhere\"").unwrap_err().to_string().contains("nowhere"));
    }
}
