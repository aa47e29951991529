//! The PROXY protocol (versions 1 and 2): a proxy in front sends the client's address before everything else.
//!
//! Anyone who can connect may claim any address, so only proxies may be able to reach a listener with this on. The
//! header is read with a deadline into a bounded buffer; bytes after it come back as [`Prefixed`]. TLVs are skipped.
//! `proxy-header` parses the format; this module decides when to stop reading.
//!
//! `optional` must recognise clients that send no header, whatever arrives first: it waits for more bytes only while
//! they begin one of the two signatures. A TLS ClientHello (0x16) differs in its first byte, an HTTP request at the
//! latest where `PROXY ` ends.

use crate::base::labels::labels;
use std::io;
use std::net::SocketAddr;

use proxy_header::{Error as ParseError, ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use super::stream::Prefixed;

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header of version 1, CR LF included (specification §2.1).
const V1_BYTES_MAX: usize = 107;
/// Version 2 allows 16 + 65535 bytes. Addresses take 36 at most (216 for Unix sockets) and the usual TLVs (ALPN, SNI,
/// the client's certificate name, cloud endpoints) some hundred; no real proxy needs more than a page.
const V2_BYTES_MAX: usize = 4096;
/// Enough for a header and most of the data after it in the same segment.
const FIRST_READ: usize = 1024;

/// Whether a header is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Clients without a header are served as themselves.
    Optional,
    /// Clients without a header are refused.
    Require,
}

/// The connection that the proxy in front forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// The client.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

/// Why a connection was refused before its first request.
#[derive(Debug, thiserror::Error)]
pub enum ProxyProtocolError {
    /// The header, or in `optional` mode the first byte, did not arrive in time.
    #[error("no complete PROXY header within the time allowed")]
    Timeout,
    /// A header is required, but something else arrived.
    #[error("the connection does not begin with a PROXY header, which this listener requires")]
    Missing,
    /// The header does not follow the specification.
    #[error("the PROXY header is malformed")]
    Malformed,
    /// The header is longer than the bound.
    #[error("the PROXY header has {bytes} bytes, more than the {V2_BYTES_MAX} that are read")]
    TooLong {
        /// The length that it announces.
        bytes: usize,
    },
    /// The connection ended before the header was complete.
    #[error("the connection ended before the PROXY header did")]
    Closed,
    /// The connection failed.
    #[error("reading the PROXY header failed")]
    Io(#[source] io::Error),
}

labels! {
    ProxyProtocolError {
        ProxyProtocolError::Timeout => "timeout",
        ProxyProtocolError::Missing => "missing",
        ProxyProtocolError::Malformed => "malformed",
        ProxyProtocolError::TooLong { .. } => "too_long",
        ProxyProtocolError::Closed => "closed",
        ProxyProtocolError::Io(_) => "io",
    }
}

/// Reads the header from `stream`. `None` means that the peer speaks for itself: it sent no header, or one that says so
/// (`LOCAL`, `UNKNOWN`; health checks do), or one that names Unix sockets.
///
/// # Errors
/// See [`ProxyProtocolError`]; the stream is then closed, as the specification requires (§2.2).
pub async fn read<S: AsyncRead + Unpin>(
    stream: S,
    mode: Mode,
    deadline: Instant,
) -> Result<(Prefixed<S>, Option<Announced>), ProxyProtocolError> {
    tokio::time::timeout_at(deadline, read_header(stream, mode)).await.map_err(|_| ProxyProtocolError::Timeout)?
}

async fn read_header<S: AsyncRead + Unpin>(
    mut stream: S,
    mode: Mode,
) -> Result<(Prefixed<S>, Option<Announced>), ProxyProtocolError> {
    let mut buffer = Vec::with_capacity(FIRST_READ);
    loop {
        if stream.read_buf(&mut buffer).await.map_err(ProxyProtocolError::Io)? == 0 {
            return Err(ProxyProtocolError::Closed);
        }
        match examine(&buffer)? {
            ParsedHeader::Incomplete => buffer.reserve(FIRST_READ),
            ParsedHeader::Header { bytes, announced } => {
                buffer.drain(..bytes);
                return Ok((Prefixed::new(leave_nothing_empty(buffer), stream), announced));
            }
            ParsedHeader::None if mode == Mode::Optional => return Ok((Prefixed::new(buffer, stream), None)),
            ParsedHeader::None => return Err(ProxyProtocolError::Missing),
        }
    }
}

/// Frees the memory of an empty buffer.
fn leave_nothing_empty(buffer: Vec<u8>) -> Vec<u8> {
    if buffer.is_empty() { Vec::new() } else { buffer }
}

#[derive(Debug, PartialEq, Eq)]
enum ParsedHeader {
    Incomplete,
    None,
    Header { bytes: usize, announced: Option<Announced> },
}

fn examine(buffer: &[u8]) -> Result<ParsedHeader, ProxyProtocolError> {
    if V1_SIGNATURE.starts_with(buffer) || V2_SIGNATURE.starts_with(buffer) {
        return Ok(ParsedHeader::Incomplete);
    }
    let header = if buffer.starts_with(V1_SIGNATURE) {
        &buffer[..buffer.len().min(V1_BYTES_MAX)]
    } else if buffer.starts_with(V2_SIGNATURE) {
        check_v2_head(buffer)?;
        buffer
    } else {
        return Ok(ParsedHeader::None);
    };
    let config = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
    match ProxyHeader::parse(header, config) {
        Ok((_, bytes)) if !has_plain_ports(&buffer[..bytes]) => Err(ProxyProtocolError::Malformed),
        Ok((header, bytes)) => {
            let announced = header.proxied_address().map(|address| Announced {
                client: canonical(address.source),
                destination: canonical(address.destination),
            });
            Ok(ParsedHeader::Header { bytes, announced })
        }
        Err(ParseError::BufferTooShort) => Ok(ParsedHeader::Incomplete),
        Err(_) => Err(ProxyProtocolError::Malformed),
    }
}

/// Returns true if the ports of version 1 are digits (specification §2.1): the parser also accepts `+80`. The rest of
/// an `UNKNOWN` line must be ignored.
fn has_plain_ports(header: &[u8]) -> bool {
    let Some(line) = header.strip_prefix(V1_SIGNATURE).filter(|line| !line.starts_with(b"UNKNOWN")) else {
        return true;
    };
    let mut ports = line.trim_ascii_end().split(|byte| *byte == b' ').skip(3);
    ports.all(|port| port.iter().all(u8::is_ascii_digit))
}

/// Checks the fixed part of version 2 as soon as it is there, instead of waiting for bytes after a wrong announcement.
fn check_v2_head(buffer: &[u8]) -> Result<(), ProxyProtocolError> {
    let rest = &buffer[V2_SIGNATURE.len()..];
    if rest.first().is_some_and(|version_command| !matches!(version_command, 0x20 | 0x21)) {
        return Err(ProxyProtocolError::Malformed);
    }
    if let Some(&[high, low]) = rest.get(2..4) {
        let bytes = V2_SIGNATURE.len() + 4 + usize::from(u16::from_be_bytes([high, low]));
        if bytes > V2_BYTES_MAX {
            return Err(ProxyProtocolError::TooLong { bytes });
        }
    }
    Ok(())
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn v2(address: Option<ProxiedAddress>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = address.map_or_else(ProxyHeader::with_local, ProxyHeader::with_address);
        header.encode_v2(&mut bytes).unwrap();
        bytes
    }

    fn stream_address(client: &str, destination: &str) -> ProxiedAddress {
        ProxiedAddress::stream(client.parse().unwrap(), destination.parse().unwrap())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// Reads `chunks`, each in one read.
    async fn read_chunks(chunks: &[&[u8]], mode: Mode) -> Result<(Vec<u8>, Option<Announced>), ProxyProtocolError> {
        let (ours, mut theirs) = tokio::io::duplex(1);
        let chunks: Vec<Vec<u8>> = chunks.iter().map(|c| c.to_vec()).collect();
        let writer = async move {
            for chunk in chunks {
                // The reader may have refused them already.
                let _ = theirs.write_all(&chunk).await;
            }
        };
        let reader = async {
            let (mut stream, announced) = read(ours, mode, soon()).await?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            Ok((rest, announced))
        };
        tokio::join!(writer, reader).1
    }

    async fn read_whole(bytes: &[u8], mode: Mode) -> Result<(Vec<u8>, Option<Announced>), ProxyProtocolError> {
        let (mut stream, announced) = read(bytes, mode, soon()).await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        Ok((rest, announced))
    }

    fn announced(client: &str, destination: &str) -> Option<Announced> {
        Some(Announced { client: client.parse().unwrap(), destination: destination.parse().unwrap() })
    }

    #[tokio::test(flavor = "current_thread")]
    async fn both_versions_tell_the_client_and_leave_the_rest() {
        let mut unix = [V2_SIGNATURE, &[0x21, 0x31, 0, 216]].concat();
        unix.resize(16 + 216, b'x');
        let mut tlvs = v2(Some(stream_address("[2001:db8::1]:7", "[2001:db8::2]:443")));
        tlvs[14..16].copy_from_slice(&(36u16 + 8).to_be_bytes());
        tlvs.extend([0x04, 0, 5, 1, 2, 3, 4, 5]);
        let cases: [(Vec<u8>, Option<Announced>); 8] = [
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n".to_vec(),
                announced("192.0.2.1:56324", "198.51.100.2:443"),
            ),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(), announced("[2001:db8::1]:1", "[2001:db8::2]:2")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(Some(stream_address("192.0.2.1:9", "192.0.2.2:443"))), announced("192.0.2.1:9", "192.0.2.2:443")),
            (tlvs, announced("[2001:db8::1]:7", "[2001:db8::2]:443")),
            (v2(None), None),
            (unix, None),
        ];
        for (header, expected) in cases {
            for mode in [Mode::Require, Mode::Optional] {
                let bytes = [&header[..], b"\x16\x03\x01 hello"].concat();
                let (rest, found) = read_whole(&bytes, mode).await.unwrap();
                assert_eq!((rest.as_slice(), found), (b"\x16\x03\x01 hello".as_slice(), expected));
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_ipv4_client_in_ipv6_clothes_is_told_as_ipv4() {
        let header = v2(Some(stream_address("[::ffff:192.0.2.1]:9", "[::ffff:192.0.2.2]:443")));
        assert_eq!(read_whole(&header, Mode::Require).await.unwrap().1, announced("192.0.2.1:9", "192.0.2.2:443"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_client_without_header_passes_unharmed_even_byte_by_byte() {
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            b"POST / HTTP/1.1\r\n\r\n",
            b"PROPFIND / HTTP/1.1\r\n\r\n",
            b"PROXIED / HTTP/1.1\r\n\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
        ] {
            let singles: Vec<_> = bytes.chunks(1).collect();
            for chunks in [vec![bytes], singles] {
                let (rest, found) = read_chunks(&chunks, Mode::Optional).await.unwrap();
                assert_eq!((rest.as_slice(), found), (bytes, None));
                assert!(matches!(read_chunks(&chunks, Mode::Require).await, Err(ProxyProtocolError::Missing)));
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_malformed_is_refused() {
        let mut bad_version = v2(None);
        bad_version[12] = 0x31;
        let mut bad_family = v2(None);
        bad_family[13] = 0x77;
        let long_v1 = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100], b"\r\n"].concat();
        for bytes in [
            b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 99999\r\n".as_slice(),
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 +2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\rx",
            b"PROXY / HTTP/1.1\r\n\r\n",
            &long_v1,
            &bad_version,
            &bad_family,
        ] {
            for mode in [Mode::Require, Mode::Optional] {
                let result = read_whole(bytes, mode).await;
                assert!(matches!(result, Err(ProxyProtocolError::Malformed)), "{:?}", bytes.escape_ascii().to_string());
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_endless_header_is_refused_before_it_is_read() {
        let bytes = [V2_SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
        assert!(matches!(read_whole(&bytes, Mode::Require).await, Err(ProxyProtocolError::TooLong { bytes: 65_551 })));
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 5000]].concat();
        assert!(matches!(read_whole(&endless, Mode::Optional).await, Err(ProxyProtocolError::Malformed)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn silence_ends_at_the_deadline_and_an_early_end_is_told() {
        let (ours, _theirs) = tokio::io::duplex(1);
        let result = read(ours, Mode::Optional, Instant::now()).await;
        assert!(matches!(result, Err(ProxyProtocolError::Timeout)));
        assert!(matches!(read_whole(b"PROXY TC", Mode::Require).await, Err(ProxyProtocolError::Closed)));
        assert!(matches!(read_whole(b"", Mode::Optional).await, Err(ProxyProtocolError::Closed)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_cuts_do_not_matter(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 1..80),
                proptest::collection::vec(any::<u8>(), 0..80).prop_map(|rest| [V2_SIGNATURE, &rest].concat()),
                "PROXY (TCP4|TCP6|UNKNOWN)?[ 0-9.:a-f\r\n]{0,110}".prop_map(String::into_bytes),
            ],
        ) {
            // The first prefix with a verdict decides, whatever follows.
            let first = (1..=bytes.len()).map(|n| examine(&bytes[..n])).find(|f| !matches!(f, Ok(ParsedHeader::Incomplete)));
            let whole = examine(&bytes);
            match (first, whole) {
                (None, Ok(ParsedHeader::Incomplete)) => {}
                (Some(Ok(early)), Ok(late)) => prop_assert_eq!(early, late),
                (Some(Err(early)), Err(late)) => prop_assert_eq!(early.label(), late.label()),
                (early, late) => prop_assert!(false, "{:?} became {:?}", early, late),
            }
        }
    }
}
