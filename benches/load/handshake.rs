//! The opening handshake of RFC 6455 §4, just enough for a generator and a backend that know each other.

use std::io;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The key of RFC 6455 §1.3's example: a rig needs no nonce. A proxy may send another one upstream.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The longest head the rig reads.
const HEAD_MAX: usize = 8 * 1024;

pub fn request(path: &str, port: u16) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

pub fn answer(key: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept(key)
    )
}

fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// The answer is that there is no room now.
#[derive(Debug, Error)]
#[error("503, to come again after {retry_after} s")]
pub struct Refused {
    pub retry_after: u32,
}

/// A request or response head, and the bytes that followed it in the same read.
pub struct Head {
    text: String,
    pub rest: Vec<u8>,
}

impl Head {
    /// Reads up to the empty line; `None` when the peer left without a word.
    pub async fn read(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<Head>> {
        let mut bytes = Vec::with_capacity(1024);
        loop {
            if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
                let rest = bytes.split_off(end + 4);
                let text = String::from_utf8(bytes).context("a head that is not UTF-8")?;
                return Ok(Some(Head { text, rest }));
            }
            if bytes.len() > HEAD_MAX {
                bail!("a head of more than {HEAD_MAX} bytes");
            }
            match io.read_buf(&mut bytes).await {
                Ok(0) if bytes.is_empty() => return Ok(None),
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).context("in the middle of a head"),
                Ok(_) => {}
                Err(error) => return Err(error).context("reading a head"),
            }
        }
    }

    pub fn first_line(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        let mut fields = self.text.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Is this the 101 that [`request`] asked for?
    pub fn check_answer(&self) -> Result<()> {
        if self.first_line().starts_with("HTTP/1.1 503 ")
            && let Some(retry_after) = self.value("retry-after").and_then(|value| value.parse().ok())
        {
            return Err(Refused { retry_after }.into());
        }
        let accepted = self.value("sec-websocket-accept") == Some(&accept(KEY));
        if !self.first_line().starts_with("HTTP/1.1 101 ") || !accepted {
            bail!("no 101 with the right accept value, but {:?}", self.text);
        }
        Ok(())
    }
}
