//! The PROXY header, versions 1 and 2.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;
use wsluice::net::proxy_protocol::{Announced, Mode, ProxyProtocolError, read};

use super::stream::{Script, block_on};
use super::{Target, choices, pieces};

pub const TARGET: Target = Target { name: "proxy_protocol", run, seeds: SEEDS, tokens: TOKENS };

/// Choices (mode, cut), then the bytes of a connection.
const SEEDS: &[&[u8]] = &[
    b"\x00\x02PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET / HTTP/1.1\r\n\r\n",
    b"\x01\x03PROXY TCP6 2001:db8::1 ::ffff:198.51.100.1 1 65535\r\n\x16\x03\x01",
    b"\x01\x04PROXY UNKNOWN\r\nGET / HTTP/1.1\r\n\r\n",
    b"\x00\x01PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
    b"\x01\x05\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbbGET /",
    b"\x01\x06\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\xdc\x04\x01\xbb\x16\x03",
    b"\x00\x07\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00rest",
    b"\x00\x02\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x11\xc0\x00\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb\x04\x00\x02ab",
    b"\x00\x02GET / HTTP/1.1\r\nHost: a\r\n\r\n",
];
const TOKENS: &[&[u8]] = &[
    b"PROXY ",
    b"TCP4 ",
    b"TCP6 ",
    b"UNKNOWN",
    b"\r\n",
    b" ",
    b"0",
    b"65536",
    b"+1",
    b"01",
    b"192.0.2.1",
    b"1.2.3",
    b"::",
    b"fe80::1%eth0",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\x21\x11\x00\x0c",
    b"\x21\x31\x00\xd8",
    b"\x20\x00\x00\x00",
    b"\x21\x12\x00\x0c",
    b"\xff\xff",
    b"\x0f\xf0",
    b"\x22",
];

type Read = Result<(Vec<u8>, Option<Announced>), &'static str>;

fn take(mode: Mode, pieces: &[&[u8]]) -> Read {
    block_on(async {
        // Nobody is waited for.
        match read(Script::new(pieces), mode, Instant::now() + Duration::from_secs(3600)).await {
            Ok((stream, announced)) => {
                let (mut rest, io) = stream.into_parts();
                rest.extend(io.unread());
                Ok((rest, announced))
            }
            Err(error) => {
                assert!(!matches!(error, ProxyProtocolError::Io(_) | ProxyProtocolError::Timeout), "{error}");
                Err(error.label())
            }
        }
    })
}

fn run(data: &[u8]) {
    let Some(([kind, cut], bytes)) = choices(data) else { return };
    let mode = if kind & 1 == 0 { Mode::Optional } else { Mode::Require };
    let whole = take(mode, &[bytes]);
    assert_eq!(take(mode, &pieces(bytes, cut)), whole, "cut into pieces");
    let Ok((rest, announced)) = whole else { return };
    assert!(bytes.ends_with(&rest), "what follows the header goes on as it came");
    let header = &bytes[..bytes.len() - rest.len()];
    assert!(header.len() <= 4096);
    if header.is_empty() {
        // Nobody's word is taken for a client without a header, and a header is never passed on as something else.
        assert_eq!((mode, announced), (Mode::Optional, None));
        assert!(!bytes.starts_with(b"PROXY ") && !bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
        return;
    }
    match header.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n") {
        Some(binary) => assert_eq!(announced, version_2(binary)),
        None => assert_eq!(announced, version_1(header)),
    }
}

/// Whom a header of version 2 names, by the specification's §2.2, read plainly.
fn version_2(header: &[u8]) -> Option<Announced> {
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    assert_eq!(header.len(), 4 + length, "the length is the header's own");
    assert!(matches!(header[0], 0x20 | 0x21), "version and command: {:#x}", header[0]);
    let (family, body) = (header[1] >> 4, &header[4..]);
    if header[0] == 0x20 {
        return None;
    }
    let (addresses, at): ([IpAddr; 2], usize) = match family {
        1 => {
            let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&body[at..at + 4]).expect("four bytes"));
            ([ip(0), ip(4)], 8)
        }
        2 => {
            let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&body[at..at + 16]).expect("sixteen bytes"));
            ([ip(0), ip(16)], 32)
        }
        _ => return None,
    };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    Some(named(addresses, [port(at), port(at + 2)]))
}

/// Whom a header of version 1 names (§2.1).
fn version_1(header: &[u8]) -> Option<Announced> {
    let line = header.strip_suffix(b"\r\n").expect("a line that ends");
    assert!(header.len() <= 107 && !line.windows(2).any(|two| two == b"\r\n"), "the first line");
    let text = std::str::from_utf8(line).ok();
    let words: Vec<&str> = text.map(|text| text.split(' ').collect()).unwrap_or_default();
    if line.starts_with(b"PROXY UNKNOWN") {
        // What else is in the line is to be ignored.
        return None;
    }
    let [_, family, from, to, from_port, to_port] = words[..] else { panic!("taken: {text:?}") };
    let addresses: [IpAddr; 2] = [from, to].map(|text| text.parse().expect("an address"));
    assert!(addresses.iter().all(|ip| ip.is_ipv4() == (family == "TCP4")), "{text:?}");
    assert!([from_port, to_port].iter().all(|port| port.bytes().all(|byte| byte.is_ascii_digit())), "{text:?}");
    Some(named(addresses, [from_port, to_port].map(|port| port.parse().expect("a port"))))
}

fn named(addresses: [IpAddr; 2], ports: [u16; 2]) -> Announced {
    let at = |index: usize| SocketAddr::new(addresses[index].to_canonical(), ports[index]);
    Announced { client: at(0), destination: at(1) }
}
