//! The WebSocket probe: a verified handshake, a Ping answered by its Pong, and, if wanted, a message answered by
//! another.
//!
//! A server whose event loop hangs still has a kernel that accepts and often a front that upgrades; only the Pong
//! shows it. Messages that the server sends by itself are skipped, however long they are: memory is bounded, and the
//! caller limits the time.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, USER_AGENT};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use super::{AGENT, ANSWER_BYTES_MAX, ProbeError, ProbeStage};
use crate::health::expect::Expect;
use crate::upstream::connect::Connector;
use crate::upstream::handshake::{HandshakeReply, Switched};
use crate::upstream::opener;
use crate::upstream::request_head::RequestHead;
use crate::upstream::websocket::{FrameError, WebSocketClient};
use crate::ws::close::CloseBody;
use crate::ws::frame::Opcode;
use crate::ws::handshake::HandshakeOffer;

/// For the server's answer to our Close, which no verdict waits for.
const GOODBYE: Duration = Duration::from_secs(1);

/// What to send, and what to expect.
#[derive(Clone, Debug)]
pub struct WebSocket {
    /// The target in origin form, query included.
    pub target: String,
    /// The Host; without one, the endpoint's own.
    pub host: Option<String>,
    /// Further fields.
    pub headers: HeaderMap,
    /// Offered; the server must choose it.
    pub subprotocol: Option<String>,
    /// The text of a message.
    pub send: Option<String>,
    /// What one text message of the server must contain, within its first `ANSWER_BYTES_MAX`.
    pub expect: Option<Expect>,
}

impl WebSocket {
    /// Opens a WebSocket, probes, and ends with a Close.
    ///
    /// # Errors
    /// When something is not as expected. The caller ends the wait; `stage` then says for what.
    pub async fn run(
        &self,
        connector: &Connector,
        deadline: Instant,
        stage: &mut ProbeStage,
    ) -> Result<(), ProbeError> {
        let connected = opener::connect_alone(connector, deadline).await?;
        *stage = ProbeStage::Answer;
        let mut head = self.head(connector);
        let subprotocols = self.subprotocol.iter().cloned().collect();
        let offer = HandshakeOffer { subprotocols, extensions: vec![] };
        let reply = opener::open_alone(connector, connected, &mut head, &offer, deadline).await;
        let Switched { io, answer, early, .. } = match reply? {
            HandshakeReply::Switched(switched) => switched,
            HandshakeReply::Refused(response) => return Err(ProbeError::Status(response.status())),
        };
        if answer.subprotocol != self.subprotocol {
            return Err(ProbeError::Subprotocol);
        }
        let mut server = WebSocketClient::new(io, &early, answer.rsv());
        self.exchange(&mut server, stage).await?;
        // The verdict does not wait for it; without a Close the server would log an error.
        tokio::spawn(timeout(GOODBYE, async move { server.close().await }));
        Ok(())
    }

    fn head(&self, connector: &Connector) -> RequestHead {
        let own = connector.authority();
        let host = self.host.as_deref().map_or(own.as_bytes(), str::as_bytes);
        let mut head = RequestHead::new(&self.target, None, Some(host));
        head.field(SEC_WEBSOCKET_VERSION.as_str(), b"13");
        if let Some(subprotocol) = &self.subprotocol {
            head.field(SEC_WEBSOCKET_PROTOCOL.as_str(), subprotocol.as_bytes());
        }
        if !self.headers.contains_key(USER_AGENT) {
            head.field(USER_AGENT.as_str(), AGENT.as_bytes());
        }
        // The fields of the handshake must not be set by hand.
        let own = |name: &HeaderName| name == SEC_WEBSOCKET_VERSION || name == SEC_WEBSOCKET_PROTOCOL;
        for (name, value) in self.headers.iter().filter(|(name, _)| !own(name)) {
            head.field(name.as_str(), value.as_bytes());
        }
        head.end()
    }

    /// Sends and reads from the 101 to the last expected message.
    async fn exchange<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        server: &mut WebSocketClient<T>,
        stage: &mut ProbeStage,
    ) -> Result<(), ProbeError> {
        let nonce = fastrand::u64(..).to_ne_bytes();
        server.send(Opcode::Ping, &nonce).await?;
        if let Some(text) = &self.send {
            server.send(Opcode::Text, text.as_bytes()).await?;
        }
        let (mut ponged, mut answered) = (false, self.expect.is_none());
        // The message in progress: whether it is text, and what is kept of it.
        let mut message: Option<(bool, Vec<u8>)> = None;
        while !(ponged && answered) {
            *stage = if ponged { ProbeStage::Message } else { ProbeStage::Pong };
            let room = ANSWER_BYTES_MAX - message.as_ref().map_or(0, |(_, kept)| kept.len());
            let (header, payload) = server.frame(room).await?;
            match header.opcode {
                Opcode::Ping => server.send(Opcode::Pong, &payload).await?,
                Opcode::Pong => ponged |= payload == nonce,
                Opcode::Close => {
                    let body = CloseBody::parse(&payload).map_err(|_| FrameError::Protocol("a malformed Close"))?;
                    return Err(ProbeError::Closed(body.code));
                }
                Opcode::Text | Opcode::Binary if message.is_some() => {
                    return Err(FrameError::Protocol("a message within a message").into());
                }
                Opcode::Text | Opcode::Binary => message = Some((header.opcode == Opcode::Text, payload)),
                Opcode::Continuation => {
                    let Some((_, kept)) = &mut message else {
                        return Err(FrameError::Protocol("a continuation of nothing").into());
                    };
                    kept.extend_from_slice(&payload);
                }
            }
            if !header.opcode.is_control() && header.fin {
                let text = message.take().filter(|(is_text, _)| *is_text);
                answered |= text.zip(self.expect.as_ref()).is_some_and(|((_, text), expect)| expect.is_met(&text));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests;
