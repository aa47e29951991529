//! The authority of a request: the one host that routes, policies and the upstream all see.
//!
//! Stricter than the grammar of RFC 3986 §3.2.2: a name consists of letters, digits, `-`, `_` and `.`. The grammar also
//! allows percent-escapes, commas and quotes, which no real host has and which parsers read differently. The result is
//! canonical, so that `Example.COM.`, `example.com` and `EXAMPLE.com:` are one host.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use http::Version;
use http::header::HOST;
use http::request::Parts;
use thiserror::Error;

/// The longest name in DNS (RFC 1035 §3.1, without the length octets).
const NAME_MAX: usize = 253;

/// A host with its optional port, in canonical form. `Display` writes it as a `Host` field does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// In lower case, without a trailing dot; an IPv6 address without brackets, in the form of RFC 5952. Empty only for
    /// an HTTP/1.0 request without a host, which only routes for any host match.
    pub name: String,
    /// The port, if one was written.
    pub port: Option<u16>,
}

/// Why a request has no valid host, or a text is not a host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    /// RFC 9112 §3.2: an HTTP/1.1 request has a Host field.
    #[error("the request names no host")]
    Missing,
    /// RFC 9112 §3.2: a request has only one Host field.
    #[error("the request has more than one Host field")]
    Several,
    /// RFC 9113 §8.3.1: `:authority` and Host must be equal.
    #[error("Host is not what :authority says")]
    Disagree,
    /// Nothing stands before the port.
    #[error("a host must not be empty")]
    Empty,
    /// `user@host`: RFC 9110 §4.2.4 forbids it, since it serves to deceive.
    #[error("a host must not contain user information (`user@`)")]
    UserInfo,
    /// A byte that a host name cannot have.
    #[error("a host must not contain `{}`", .0.escape_ascii())]
    Character(u8),
    /// `a..b` or `.a`
    #[error("a host must not contain an empty label")]
    EmptyLabel,
    /// More than 253 characters.
    #[error("a host has at most {NAME_MAX} characters")]
    TooLong,
    /// Brackets without an IPv6 address, or an IPv6 address without brackets.
    #[error("an IPv6 address in a host is written in brackets, such as [2001:db8::1], and without a zone")]
    Ipv6,
    /// Not 1–65535.
    #[error("a port is a number from 1 to 65535")]
    Port,
}

impl Host {
    /// Returns the host that a request is for. The caller writes it into the Host field that it sends, so that the
    /// upstream sees the same host.
    ///
    /// A target in absolute form wins over the Host field (RFC 9112 §3.2.2), which must be there and valid all the same.
    /// From HTTP/2 on the target carries `:authority`; a Host field beside it must say the same.
    ///
    /// Fails if the request is ambiguous: no Host, two, or an invalid one (RFC 9112 §3.2 requires a 400).
    pub fn from_request(parts: &Parts) -> Result<Host, HostError> {
        let mut fields = parts.headers.get_all(HOST).iter();
        let field = match (fields.next(), fields.next()) {
            (Some(value), None) => Some(Host::parse(value.as_bytes())?),
            (None, _) => None,
            (Some(_), Some(_)) => return Err(HostError::Several),
        };
        let target = parts.uri.authority().map(|a| Host::parse(a.as_str().as_bytes())).transpose()?;
        match (target, field) {
            (Some(target), Some(field)) if parts.version >= Version::HTTP_2 => {
                let scheme = parts.uri.scheme_str().unwrap_or_default();
                let same = target.name == field.name && target.port_or_default(scheme) == field.port_or_default(scheme);
                if same { Ok(target) } else { Err(HostError::Disagree) }
            }
            (Some(_), None) if parts.version == Version::HTTP_11 => Err(HostError::Missing),
            (Some(target), _) => Ok(target),
            (None, Some(field)) => Ok(field),
            (None, None) if parts.version <= Version::HTTP_10 => Ok(Host { name: String::new(), port: None }),
            (None, None) => Err(HostError::Missing),
        }
    }

    /// Reads `uri-host [ ":" port ]` (RFC 9110 §7.2).
    ///
    /// # Errors
    /// See [`HostError`]; `Missing`, `Several` and `Disagree` concern requests and are not returned here.
    pub fn parse(text: &[u8]) -> Result<Host, HostError> {
        if text.contains(&b'@') {
            return Err(HostError::UserInfo);
        }
        if let Some(rest) = text.strip_prefix(b"[") {
            let end = rest.iter().position(|&b| b == b']').ok_or(HostError::Ipv6)?;
            let address = std::str::from_utf8(&rest[..end]).map_err(|_| HostError::Ipv6)?;
            let address: Ipv6Addr = address.parse().map_err(|_| HostError::Ipv6)?;
            let port = match &rest[end + 1..] {
                [] => None,
                [b':', port @ ..] => parse_port(port)?,
                [other, ..] => return Err(HostError::Character(*other)),
            };
            return Ok(Host { name: address.to_string(), port });
        }
        let (name, port) = match text.iter().position(|&b| b == b':') {
            Some(colon) if text[colon + 1..].contains(&b':') => return Err(HostError::Ipv6),
            Some(colon) => (&text[..colon], parse_port(&text[colon + 1..])?),
            None => (text, None),
        };
        Ok(Host { name: parse_name(name)?, port })
    }

    /// Returns the port, or the scheme's default: 443 for https and wss, 80 for http and ws.
    pub fn port_or_default(&self, scheme: &str) -> Option<u16> {
        self.port.or_else(|| default_port(scheme))
    }
}

/// Returns the default port of a scheme.
pub fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

fn parse_name(text: &[u8]) -> Result<String, HostError> {
    let text = text.strip_suffix(b".").unwrap_or(text); // the DNS root: the same host
    if text.is_empty() {
        return Err(HostError::Empty);
    }
    if text.len() > NAME_MAX {
        return Err(HostError::TooLong);
    }
    if let Some(&byte) =
        text.iter().find(|b| !matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
    {
        return Err(HostError::Character(byte));
    }
    if text.split(|&b| b == b'.').any(<[u8]>::is_empty) {
        return Err(HostError::EmptyLabel);
    }
    Ok(text.iter().map(|b| char::from(b.to_ascii_lowercase())).collect())
}

/// Parses a port; an empty one counts as none (RFC 3986 §3.2.3). `u16::from_str` alone would accept `+80`.
fn parse_port(text: &[u8]) -> Result<Option<u16>, HostError> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > 5 || !text.iter().all(u8::is_ascii_digit) {
        return Err(HostError::Port);
    }
    let port = text.iter().fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    match u16::try_from(port) {
        Ok(port @ 1..) => Ok(Some(port)),
        _ => Err(HostError::Port),
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Host, HostError> {
        Host::parse(text.as_bytes())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.contains(':') {
            true => write!(f, "[{}]", self.name)?,
            false => f.write_str(&self.name)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(name: &str, port: Option<u16>) -> Host {
        Host { name: name.into(), port }
    }

    fn request(version: Version, target: &str, hosts: &[&str]) -> Result<Host, HostError> {
        let mut builder = http::Request::builder().version(version).uri(target);
        for host in hosts {
            builder = builder.header("host", *host);
        }
        Host::from_request(&builder.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn hosts_become_canonical() {
        for (text, name, port, shown) in [
            ("example.com", "example.com", None, "example.com"),
            ("EXAMPLE.com.", "example.com", None, "example.com"),
            ("example.com:", "example.com", None, "example.com"),
            ("a.b-c_d:8443", "a.b-c_d", Some(8443), "a.b-c_d:8443"),
            ("a:00080", "a", Some(80), "a:80"),
            ("192.0.2.1:65535", "192.0.2.1", Some(65535), "192.0.2.1:65535"),
            ("[2001:DB8:0:0::1]", "2001:db8::1", None, "[2001:db8::1]"),
            ("[::1]:80", "::1", Some(80), "[::1]:80"),
            ("[::ffff:192.0.2.1]", "::ffff:192.0.2.1", None, "[::ffff:192.0.2.1]"),
        ] {
            let parsed: Host = text.parse().unwrap();
            assert_eq!(parsed, host(name, port), "{text}");
            assert_eq!(parsed.to_string(), shown);
        }
    }

    #[test]
    fn what_two_parsers_could_read_in_two_ways_is_refused() {
        use HostError::*;
        for (text, error) in [
            ("", Empty),
            (".", Empty),
            (":80", Empty),
            ("a..b", EmptyLabel),
            (".a", EmptyLabel),
            ("a..", EmptyLabel),
            ("user@a", UserInfo),
            ("a@b:80", UserInfo),
            ("[::1]@evil", UserInfo),
            ("a b", Character(b' ')),
            ("a,b", Character(b',')),
            ("a%2eb", Character(b'%')),
            ("a/b", Character(b'/')),
            ("a?b", Character(b'?')),
            ("a#b", Character(b'#')),
            ("a\\b", Character(b'\\')),
            ("a\tb", Character(b'\t')),
            ("a\r\nX: y", Port),
            ("a\r\nX", Character(b'\r')),
            ("a\0", Character(0)),
            ("bücher.example", Character(0xc3)),
            ("*.a", Character(b'*')),
            ("::1", Ipv6),
            ("a:b:80", Ipv6),
            ("[::1", Ipv6),
            ("[]", Ipv6),
            ("[127.0.0.1]", Ipv6),
            ("[fe80::1%25eth0]", Ipv6),
            ("[v1.x]", Ipv6),
            ("[::1]80", Character(b'8')),
            ("[::1].evil.example", Character(b'.')),
            ("a:0", Port),
            ("a:65536", Port),
            ("a:+80", Port),
            ("a:-1", Port),
            ("a:80 ", Port),
            ("a:0x50", Port),
            ("a:000080", Port),
        ] {
            assert_eq!(text.parse::<Host>().unwrap_err(), error, "{text:?}");
        }
        assert_eq!("a".repeat(254).parse::<Host>().unwrap_err(), TooLong);
        assert_eq!(HostError::Character(b'\n').to_string(), "a host must not contain `\\n`");
    }

    #[test]
    fn http_1_1_wants_one_host_field() {
        let v11 = Version::HTTP_11;
        assert_eq!(request(v11, "/", &["a:1"]), Ok(host("a", Some(1))));
        assert_eq!(request(v11, "/", &[]), Err(HostError::Missing));
        assert_eq!(request(v11, "/", &[""]), Err(HostError::Empty));
        assert_eq!(request(v11, "/", &["a", "a"]), Err(HostError::Several));
        assert_eq!(request(v11, "/", &["a, b"]), Err(HostError::Character(b',')));
    }

    #[test]
    fn http_1_0_may_go_without_but_not_with_two() {
        assert_eq!(request(Version::HTTP_10, "/", &[]), Ok(host("", None)));
        assert_eq!(request(Version::HTTP_10, "/", &["a"]), Ok(host("a", None)));
        assert_eq!(request(Version::HTTP_10, "/", &["a", "b"]), Err(HostError::Several));
        assert_eq!(request(Version::HTTP_10, "http://t/", &[]), Ok(host("t", None)));
    }

    #[test]
    fn a_target_in_absolute_form_wins_over_a_valid_host_field() {
        let v11 = Version::HTTP_11;
        assert_eq!(request(v11, "http://Target:81/x", &["field"]), Ok(host("target", Some(81))));
        assert_eq!(request(v11, "http://target/x", &[]), Err(HostError::Missing));
        assert_eq!(request(v11, "http://target/x", &["field", "field"]), Err(HostError::Several));
        assert_eq!(request(v11, "http://target/x", &["bad host"]), Err(HostError::Character(b' ')));
        assert_eq!(request(v11, "http://user@target/x", &["target"]), Err(HostError::UserInfo));
    }

    #[test]
    fn http_2_needs_no_host_field_but_it_must_not_contradict() {
        let v2 = Version::HTTP_2;
        assert_eq!(request(v2, "https://a/x", &[]), Ok(host("a", None)));
        assert_eq!(request(v2, "https://a/x", &["A:443"]), Ok(host("a", None)));
        assert_eq!(request(v2, "https://a/x", &["b"]), Err(HostError::Disagree));
        assert_eq!(request(v2, "https://a/x", &["a:80"]), Err(HostError::Disagree));
        assert_eq!(request(v2, "/x", &[]), Err(HostError::Missing));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_canonical_host_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(host) = Host::parse(&bytes) {
                prop_assert_eq!(host.to_string().parse(), Ok(host.clone()));
                prop_assert!(host.name.bytes().all(|b| b.is_ascii_graphic() && !b"@/\\?#%,\"'".contains(&b)));
            }
        }

        #[test]
        fn a_canonical_host_is_read_back(text in "[A-Za-z0-9-]{1,9}(\\.[a-z0-9]{1,5}){0,3}\\.?(:[1-9][0-9]{0,3})?") {
            let host: Host = text.parse().unwrap();
            prop_assert_eq!(host.to_string().parse(), Ok(host));
        }
    }
}
