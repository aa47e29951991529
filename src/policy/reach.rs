//! The address ranges in which discovered endpoints may be: the discovery supplies the address, but this process
//! connects.
//!
//! Without a limit, anyone who may register an endpoint could make the proxy connect to what only this machine reaches:
//! its Unix sockets, or the metadata service of a cloud, at a link-local address.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::route::pattern::as_string;

/// A range in which endpoints may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// A network, for any port.
    Network(IpNet),
    /// Unix sockets at or below this path.
    Unix(PathBuf),
}

/// A text that names no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a network such as `10.0.0.0/8` nor `unix`, nor `unix:` with the path of a directory")]
pub struct NotPlaces(String);

impl FromStr for Allowed {
    type Err = NotPlaces;

    fn from_str(text: &str) -> Result<Allowed, NotPlaces> {
        let bad = || NotPlaces(text.to_owned());
        if text == "unix" {
            return Ok(Allowed::Unix("/".into()));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return is_plain(Path::new(path)).then(|| Allowed::Unix(path.into())).ok_or_else(bad);
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Allowed::Network(ip.to_canonical().into()));
        }
        text.parse::<IpNet>().map(|net| Allowed::Network(net.trunc())).map_err(|_| bad())
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Network(net) => net.fmt(f),
            Allowed::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

as_string!(Allowed, "Allowed", {
    "type": "string",
    "description": "A network or address, or `unix` or `unix:` and a path at or below which sockets may be.",
    "examples": ["10.0.0.0/8", "unix:/run/apps"],
});

/// Returns true if a path is absolute and has no `..`.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

/// All ranges in which endpoints may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Places {
    /// Every address that a server may have.
    #[default]
    Usual,
    /// Only these.
    Only(Vec<Allowed>),
}

impl Places {
    /// Returns true if an endpoint may have this address.
    pub fn have_ip(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        match self {
            Places::Usual => !is_unusual(ip),
            Places::Only(places) => {
                places.iter().any(|place| matches!(place, Allowed::Network(net) if net.contains(&ip)))
            }
        }
    }

    /// Returns true if an endpoint may have this socket. Does not follow symbolic links.
    pub fn have_unix(&self, path: &Path) -> bool {
        match self {
            Places::Usual => false,
            Places::Only(places) => {
                let is_below = |place: &Allowed| matches!(place, Allowed::Unix(above) if path.starts_with(above));
                is_plain(path) && places.iter().any(is_below)
            }
        }
    }
}

/// Returns true if no server has such an address, or only this machine or link reaches it.
fn is_unusual(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    fn places(texts: &[&str]) -> Places {
        Places::Only(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn has(places: &Places, place: &str) -> bool {
        match place.strip_prefix("unix:") {
            Some(path) => places.have_unix(Path::new(path)),
            None => places.have_ip(place.parse().unwrap()),
        }
    }

    #[test]
    fn usual_addresses_are_those_that_servers_have() {
        for place in ["10.0.0.1", "192.0.2.1", "127.0.0.1", "::1", "fd00::1", "2001:db8::1", "::ffff:10.0.0.1"] {
            assert!(has(&Places::Usual, place), "{place}");
        }
        for place in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "unix:/run/a.sock",
        ] {
            assert!(!has(&Places::Usual, place), "{place}");
        }
    }

    #[test]
    fn what_is_written_is_all_there_is() {
        let some = places(&["10.0.0.0/8", "169.254.1.1", "unix:/run/apps"]);
        for (place, is) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("127.0.0.1", false),
            ("169.254.1.1", true),
            ("fd00::1", false),
            ("unix:/run/apps/a.sock", true),
            ("unix:/run/apps", true),
            ("unix:/run/apps2/a.sock", false),
            ("unix:/run/apps/../docker.sock", false),
            ("unix:/run/docker.sock", false),
        ] {
            assert_eq!(has(&some, place), is, "{place}");
        }
        assert!(has(&places(&["unix"]), "unix:/anywhere") && !has(&places(&["unix"]), "10.0.0.1"));
        assert!(!has(&places(&[]), "10.0.0.1"));
    }

    #[test]
    fn what_is_written_comes_back() {
        for (text, shown) in [
            ("10.0.0.1/8", "10.0.0.0/8"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("::1", "::1/128"),
            ("unix", "unix:/"),
            ("unix:/run", "unix:/run"),
        ] {
            assert_eq!(text.parse::<Allowed>().unwrap().to_string(), shown);
        }
        for text in ["", "10.0.0.0/33", "unix:", "unix:run", "unix:/run/../etc", "wss://10.0.0.1", "example.com"] {
            assert!(text.parse::<Allowed>().is_err(), "{text}");
        }
    }
}
