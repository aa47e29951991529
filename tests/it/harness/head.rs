//! Request and response heads as text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest, Sha1};

/// The key of RFC 6455 §1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Returns the accept value for a key (RFC 6455 §4.2.2).
pub fn accept_for(key: &str) -> String {
    BASE64.encode(Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize())
}

/// The head of a request or a response, as received.
#[derive(Clone, Debug)]
pub struct Head {
    /// The request or status line.
    pub line: String,
    /// The headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// All bytes, the empty line included.
    pub raw: Vec<u8>,
}

impl Head {
    pub fn parse(raw: &[u8]) -> Head {
        let text = String::from_utf8_lossy(raw).into_owned();
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap().to_owned();
        let headers = lines
            .take_while(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}"));
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        Head { line, headers, raw: raw.to_vec() }
    }

    /// Returns the status of a response.
    #[track_caller]
    pub fn status(&self) -> u16 {
        let rest = self.line.strip_prefix("HTTP/1.1 ").or_else(|| self.line.strip_prefix("HTTP/1.0 "));
        let code = rest.and_then(|rest| rest.get(..3));
        code.and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no response: {:?}", self.line))
    }

    /// Returns the target of a request.
    #[track_caller]
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_else(|| panic!("no request: {:?}", self.line))
    }

    /// Returns the value of a header that appears at most once.
    #[track_caller]
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} stands {} times: {self:#?}", all.len());
        all.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| &**value).collect()
    }
}

/// A valid handshake, until a test changes it.
#[derive(Clone, Debug)]
pub struct Handshake {
    pub line: String,
    pub headers: Vec<(String, String)>,
}

impl Default for Handshake {
    fn default() -> Handshake {
        Handshake::new()
    }
}

impl Handshake {
    pub fn new() -> Handshake {
        let headers = [
            ("Host", "example.com"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Handshake { line: "GET / HTTP/1.1".to_owned(), headers }
    }

    /// Sets the target.
    pub fn to(target: &str) -> Handshake {
        Handshake::new().line(&format!("GET {target} HTTP/1.1"))
    }

    pub fn line(mut self, line: &str) -> Handshake {
        self.line = line.to_owned();
        self
    }

    /// Adds a header line.
    pub fn with(mut self, name: &str, value: &str) -> Handshake {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces the value of a header.
    pub fn set(self, name: &str, value: &str) -> Handshake {
        self.without(name).with(name, value)
    }

    pub fn without(mut self, name: &str) -> Handshake {
        self.headers.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}
