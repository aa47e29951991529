//! The head of a handshake for an endpoint, whatever version of HTTP it goes out in.
//!
//! It is kept as HTTP/1.1 writes it: one buffer, made while the client's request is read, and written to a socket as it
//! is. For HTTP/2 it is read line by line, once for each attempt.

use std::ops::Range;

use h2::ext::Protocol;
use http::header::{HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri};

use crate::header::field_line;
use crate::header::hop_by_hop::HopByHopFields;
use crate::ws::handshake::WebSocketKey;

/// The usual size of a request head: a browser's, with ordinary cookies.
const HEAD_BYTES_USUAL: usize = 1024;

/// A request head: first what the handshake needs, then the fields that are passed on, one by one.
#[derive(Debug)]
pub struct RequestHead {
    bytes: Vec<u8>,
    /// The path and the query.
    target: Range<usize>,
    host: Option<Range<usize>>,
    key: Range<usize>,
}

/// A head that HTTP/2 cannot say.
#[derive(Debug, thiserror::Error)]
#[error("the request's head cannot be said in HTTP/2")]
pub struct UnsayableHead(#[source] http::Error);

impl RequestHead {
    /// Begins a request for `path` and `query` at `host`, if there is one.
    pub fn new(path: &str, query: Option<&str>, host: Option<&[u8]>) -> RequestHead {
        let mut head = RequestHead { bytes: Vec::with_capacity(HEAD_BYTES_USUAL), target: 0..0, host: None, key: 0..0 };
        head.push(&[b"GET "]);
        let start = head.bytes.len();
        head.push(&[path.as_bytes()]);
        if let Some(query) = query {
            head.push(&[b"?", query.as_bytes()]);
        }
        head.target = start..head.bytes.len();
        head.push(&[b" HTTP/1.1\r\n"]);
        // RFC 9110 §7.2: Host comes first.
        if let Some(host) = host {
            head.line("Host", host);
            let end = head.bytes.len() - b"\r\n".len();
            head.host = Some(end - host.len()..end);
        }
        // The names are spelled as in RFC 6455: some servers compare them case-sensitively.
        head.push(&[b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: "]);
        head.key = head.bytes.len()..head.bytes.len() + size_of::<WebSocketKey>();
        head.push(&[&WebSocketKey::default(), b"\r\n"]);
        head
    }

    /// Adds a field, unless the handshake writes it itself. `name` is in lower case.
    pub fn field(&mut self, name: &str, value: &[u8]) {
        match name {
            "host" | "upgrade" | "connection" | "sec-websocket-key" | "content-length" => {}
            "sec-websocket-version" => self.line("Sec-WebSocket-Version", value),
            "sec-websocket-protocol" => self.line("Sec-WebSocket-Protocol", value),
            "sec-websocket-extensions" => self.line("Sec-WebSocket-Extensions", value),
            other => self.line(other, value),
        }
    }

    /// Ends the head.
    pub fn end(mut self) -> RequestHead {
        self.push(&[b"\r\n"]);
        self
    }

    /// Returns the head as text, for people; there is no key in it yet.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).replace(&"\0".repeat(self.key.len()), "(16 random bytes)")
    }

    /// Returns the head as an Upgrade of HTTP/1.1 with `key` in it.
    pub fn upgrade(&mut self, key: &WebSocketKey) -> &[u8] {
        self.bytes[self.key.clone()].copy_from_slice(key);
        &self.bytes
    }

    /// Returns the head as an extended CONNECT (RFC 8441 §4): without the fields of a connection and the key. `own` is the
    /// authority if it has no Host.
    ///
    /// # Errors
    /// If HTTP/2 has no form for its Host or its target.
    pub fn extended_connect(&self, scheme: &Scheme, own: &HeaderValue) -> Result<Request<()>, UnsayableHead> {
        let host = self.host.clone().map_or(own.as_bytes(), |host| &self.bytes[host]);
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri(scheme, host, &self.bytes[self.target.clone()])?;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let mut lines = &self.bytes[self.key.end + b"\r\n".len()..];
        while let Some(end) = memchr::memmem::find(lines, b"\r\n").filter(|end| *end > 0) {
            let (line, rest) = lines.split_at(end);
            lines = &rest[b"\r\n".len()..];
            // A name has no colon.
            let colon = memchr::memchr(b':', line).unwrap_or(line.len());
            let (name, value) = (&line[..colon], line.get(colon + b": ".len()..).unwrap_or_default());
            let name = HeaderName::from_bytes(name).map_err(|error| UnsayableHead(error.into()))?;
            let value = HeaderValue::from_bytes(value).map_err(|error| UnsayableHead(error.into()))?;
            if !HopByHopFields::always(name.as_str()) {
                request.headers_mut().append(name, value);
            }
        }
        Ok(request)
    }

    fn line(&mut self, name: &str, value: &[u8]) {
        field_line::append(&mut self.bytes, name, value);
    }

    fn push(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
    }
}

/// Returns the URI of a request by HTTP/2, whose parts are its pseudo-header fields.
///
/// # Errors
/// If `host` is no authority, or `target` no path.
pub fn uri(scheme: &Scheme, host: &[u8], target: &[u8]) -> Result<Uri, UnsayableHead> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(Authority::try_from(host).map_err(|error| UnsayableHead(error.into()))?);
    parts.path_and_query = Some(PathAndQuery::try_from(target).map_err(|error| UnsayableHead(error.into()))?);
    Uri::from_parts(parts).map_err(|error| UnsayableHead(error.into()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    const OWN: HeaderValue = HeaderValue::from_static("own.test:9000");

    fn head(host: Option<&[u8]>) -> RequestHead {
        let mut head = RequestHead::new("/chat", Some("room=1"), host);
        for (name, value) in [
            ("sec-websocket-version", &b"13"[..]),
            ("connection", b"upgrade"),
            ("sec-websocket-key", b"theirs"),
            ("x-raw", b"\xe9: x"),
            ("x-empty", b""),
            ("cookie", b"a=1; b=2"),
            ("keep-alive", b"timeout=5"),
            ("cookie", b"c=3"),
        ] {
            head.field(name, value);
        }
        head.end()
    }

    #[test]
    fn one_head_is_an_upgrade_and_an_extended_connect() {
        let mut head = head(Some(b"example.com:8443"));
        let text =
            b"GET /chat?room=1 HTTP/1.1\r\nHost: example.com:8443\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: 012345678901234567890123\r\nSec-WebSocket-Version: 13\r\nx-raw: \xe9: x\r\nx-empty: \r\n\
            cookie: a=1; b=2\r\nkeep-alive: timeout=5\r\ncookie: c=3\r\n\r\n";
        assert_eq!(head.upgrade(b"012345678901234567890123"), text);
        let request = head.extended_connect(&Scheme::HTTPS, &OWN).unwrap();
        assert_eq!(
            (request.method(), &*request.uri().to_string()),
            (&Method::CONNECT, "https://example.com:8443/chat?room=1")
        );
        assert_eq!(request.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
        let fields: Vec<_> = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let expected: [(&str, &[u8]); 5] = [
            ("sec-websocket-version", b"13"),
            ("x-raw", b"\xe9: x"),
            ("x-empty", b""),
            ("cookie", b"a=1; b=2"),
            ("cookie", b"c=3"),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn without_a_host_it_is_for_the_endpoint_itself_and_a_host_that_is_none_is_not_said() {
        let request = head(None).extended_connect(&Scheme::HTTP, &OWN).unwrap();
        assert_eq!(request.uri().authority().unwrap(), "own.test:9000");
        assert!(head(Some(b"a b")).extended_connect(&Scheme::HTTP, &OWN).is_err());
    }
}
