//! Host and targets: whom a request is for.

use http::{Request, Uri, Version};
use wsluice::header::{Host, HostError};

use super::{Target, choices, fields};

pub const TARGET: Target = Target {
    name: "host",
    run,
    seeds: &[
        b"\x00example.com",
        b"\x00Example.COM.:8080",
        b"\x00[2001:db8::1]:443",
        b"\x00127.0.0.1:",
        b"\x01a\nHost: a\n",
        b"\x01http://a:80/x\nHost: b\n",
        b"\x02a:1\nHost: a:1\n",
    ],
    tokens: &[
        b":",
        b"[",
        b"]",
        b"@",
        b".",
        b"..",
        b"%41",
        b"%00",
        b"::1",
        b"fe80::1%25eth0",
        b"::ffff:1.2.3.4",
        b":0",
        b":80",
        b":65536",
        b":+80",
        b"/",
        b"\\",
        b" ",
        b"\t",
        b",",
        b"_",
        b"-",
        b"xn--",
        b"\xc3\xa9",
        b"\0",
        b"\r",
        b"Host: ",
        b"\n",
        b"http://",
        b"0x7f.1",
        b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ],
};

fn run(data: &[u8]) {
    let Some(([kind], text)) = choices(data) else { return };
    if let Ok(host) = Host::parse(text) {
        judge(&host);
        assert!(!text.contains(&b'@') && !text.iter().any(|byte| *byte <= b' ' || *byte >= 127));
    }
    let (target, rest) = text.split_at(text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len()));
    let Ok(uri) = Uri::try_from(target) else { return };
    let version = [Version::HTTP_11, Version::HTTP_10, Version::HTTP_2][usize::from(kind % 3)];
    let Ok(mut request) = Request::builder().uri(uri).version(version).body(()) else { return };
    *request.headers_mut() = fields(rest);
    let (parts, ()) = request.into_parts();
    let lines = parts.headers.get_all("host").iter().count();
    match Host::from_request(&parts) {
        Ok(host) if host.name.is_empty() => {
            assert_eq!((version, lines, parts.uri.authority()), (Version::HTTP_10, 0, None));
        }
        Ok(host) => {
            judge(&host);
            assert!(lines <= 1 && (lines == 1 || version != Version::HTTP_11));
            // All that a request says of its host, where it may disagree, is the target's (RFC 9112 §3.2.2).
            let asked = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
            let said = asked.or(parts.headers.get("host").map(|host| host.as_bytes()));
            assert_eq!(Host::parse(said.expect("a host from somewhere")), Ok(host));
        }
        Err(HostError::Several) => assert!(lines > 1),
        Err(HostError::Missing) => assert_eq!(lines, 0),
        Err(_) => {}
    }
}

/// What every host is.
fn judge(host: &Host) {
    let is_address = host.name.parse::<std::net::Ipv6Addr>().is_ok();
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    assert!(is_address || host.name.bytes().all(is_plain) && host.name.split('.').all(|label| !label.is_empty()));
    assert!(host.name.len() <= 253 && host.port != Some(0));
    let written = host.to_string();
    assert_eq!(written.parse::<Host>().as_ref(), Ok(host), "{written} reads back");
}
