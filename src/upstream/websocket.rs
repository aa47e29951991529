//! A WebSocket client that reads and writes whole frames, for health checks and `ping`. Sessions never use it.
//!
//! Messages of the server may have any length; only the part that fits into the caller's room is kept. The caller
//! limits the time.

use std::io;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::ws::close::{Close, CloseCode};
use crate::ws::frame::{CONTROL_PAYLOAD_MAX, ControlFrame, FrameHeader, HEADER_BYTES_MAX, Opcode, apply_mask};
use crate::ws::scanner::Rsv;

/// Why a WebSocket failed after its 101.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection broke.
    #[error("the connection failed after the 101")]
    Lost(#[source] io::Error),
    /// The server broke the protocol.
    #[error("it sent {0}")]
    Protocol(&'static str),
}

/// The client's side of an open WebSocket.
#[derive(Debug)]
pub struct WebSocketClient<T> {
    io: T,
    unread: BytesMut,
    rsv: Rsv,
}

impl<T: AsyncRead + AsyncWrite + Unpin> WebSocketClient<T> {
    /// Continues after a verified 101: `early` came after its head, and `rsv` is what its extensions allow.
    pub fn new(io: T, early: &[u8], rsv: Rsv) -> WebSocketClient<T> {
        WebSocketClient { io, unread: BytesMut::from(early), rsv }
    }

    /// Sends a whole message or a control frame, masked as a client must.
    ///
    /// # Errors
    /// Fails if the connection is lost.
    pub async fn send(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), FrameError> {
        let mask = fastrand::u32(..).to_ne_bytes();
        let bytes = if opcode.is_control() {
            ControlFrame::new(opcode, payload, Some(mask)).as_bytes().to_vec()
        } else {
            let mut out = [0; HEADER_BYTES_MAX];
            let header = FrameHeader {
                fin: true,
                rsv: 0,
                opcode,
                mask: Some(mask),
                payload: payload.len() as u64,
                shortest: true,
            };
            let start = header.encode(&mut out);
            let mut bytes = out[..start].to_vec();
            bytes.extend_from_slice(payload);
            apply_mask(mask, &mut bytes[start..]);
            bytes
        };
        self.io.write_all(&bytes).await.map_err(FrameError::Lost)?;
        self.io.flush().await.map_err(FrameError::Lost)
    }

    /// Reads the next frame, and the first `room` bytes of its payload; all of a control frame's.
    ///
    /// # Errors
    /// Fails if the connection is lost, or the frame breaks a rule (RFC 6455 §5).
    pub async fn frame(&mut self, room: usize) -> Result<(FrameHeader, Vec<u8>), FrameError> {
        let (header, length) = loop {
            match FrameHeader::parse(&self.unread).map_err(|_| FrameError::Protocol("an illegal frame header"))? {
                Some(found) => break found,
                None => self.fill().await?,
            }
        };
        self.unread.advance(length);
        // RFC 6455 §5.1: a server does not mask; §5.2: reserved bits belong to extensions; §5.5: control frames are short
        // and whole.
        let has_reserved = header.rsv != 0 && (self.rsv == Rsv::None || header.opcode.is_control());
        let misfit = header.opcode.is_control() && (!header.fin || header.payload > CONTROL_PAYLOAD_MAX as u64);
        if header.mask.is_some() || has_reserved || misfit {
            return Err(FrameError::Protocol("a frame that breaks the protocol"));
        }
        let room = if header.opcode.is_control() { CONTROL_PAYLOAD_MAX } else { room };
        let (mut kept, mut left) = (Vec::new(), header.payload);
        while left > 0 {
            if self.unread.is_empty() {
                self.fill().await?;
            }
            let taken = usize::try_from(left).unwrap_or(usize::MAX).min(self.unread.len());
            kept.extend_from_slice(&self.unread[..taken.min(room - kept.len())]);
            self.unread.advance(taken);
            left -= taken as u64;
        }
        Ok((header, kept))
    }

    /// Sends a Close (1000) and reads until the server's. Returns the payload of that one.
    ///
    /// Reading on matters: unread bytes would turn the end of the connection into a reset.
    ///
    /// # Errors
    /// Fails if the connection ends without the server's Close.
    pub async fn close(&mut self) -> Result<Vec<u8>, FrameError> {
        let (body, length) = Close::new(CloseCode::NORMAL, "").body();
        self.send(Opcode::Close, &body[..length]).await?;
        loop {
            let (header, payload) = self.frame(0).await?;
            if header.opcode == Opcode::Close {
                return Ok(payload);
            }
        }
    }

    async fn fill(&mut self) -> Result<(), FrameError> {
        self.unread.reserve(4096);
        match self.io.read_buf(&mut self.unread).await {
            Ok(0) => Err(FrameError::Lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(FrameError::Lost(error)),
        }
    }
}
