//! Frames as bytes, implemented a second time (RFC 6455 §5.2) so that the proxy's parser does not judge itself.

use tokio::io::{AsyncRead, AsyncReadExt};

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// One frame, its payload unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    /// The three reserved bits as a number; 4 is RSV1.
    pub rsv: u8,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Frame {
        Frame { fin: true, rsv: 0, opcode, payload: payload.into() }
    }

    pub fn text(payload: &str) -> Frame {
        Frame::new(TEXT, payload)
    }

    pub fn binary(payload: impl Into<Vec<u8>>) -> Frame {
        Frame::new(BINARY, payload)
    }

    pub fn ping(payload: impl Into<Vec<u8>>) -> Frame {
        Frame::new(PING, payload)
    }

    pub fn pong(payload: impl Into<Vec<u8>>) -> Frame {
        Frame::new(PONG, payload)
    }

    pub fn close(code: u16, reason: &str) -> Frame {
        Frame::new(CLOSE, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
    }

    /// Returns the frame as one to be continued.
    pub fn unfinished(self) -> Frame {
        Frame { fin: false, ..self }
    }

    pub fn with_rsv(self, rsv: u8) -> Frame {
        Frame { rsv, ..self }
    }

    /// Encodes code and reason of a Close.
    pub fn close_body(&self) -> (Option<u16>, String) {
        assert_eq!(self.opcode, CLOSE, "not a Close: {self:?}");
        match &self.payload[..] {
            [] => (None, String::new()),
            [a, b, reason @ ..] => (Some(u16::from_be_bytes([*a, *b])), String::from_utf8(reason.to_vec()).unwrap()),
            [_] => panic!("a Close with a body of one byte"),
        }
    }

    /// Returns the code of a Close.
    pub fn code(&self) -> Option<u16> {
        self.close_body().0
    }

    /// Encodes it as a server does.
    pub fn plain(&self) -> Vec<u8> {
        self.encode(None)
    }

    /// Encodes it as a client does.
    pub fn masked(&self) -> Vec<u8> {
        self.encode(Some([0x37, 0xfa, 0x21, 0x3d]))
    }

    pub fn encode(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(14 + self.payload.len());
        bytes.push(u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode);
        let masked = u8::from(mask.is_some()) << 7;
        let length = self.payload.len();
        match length {
            0..=125 => bytes.push(masked | length as u8),
            126..=0xFFFF => {
                bytes.push(masked | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(masked | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        match mask {
            None => bytes.extend_from_slice(&self.payload),
            Some(key) => {
                bytes.extend_from_slice(&key);
                bytes.extend(self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
            }
        }
        bytes
    }
}

/// What a strict reader reads next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Frame(Frame),
    /// The stream ended between two frames.
    End,
    /// The stream ended inside a frame, of which this many bytes arrived.
    Cut(usize),
    /// The stream was reset.
    Reset,
}

/// The bytes that one side has received, and the state of its reader.
#[derive(Debug)]
pub struct Input {
    pub buffer: Vec<u8>,
    start: usize,
    /// Whether frames must be masked, since they come from the client's side.
    pub masked: bool,
    /// Whether a message is unfinished.
    fragmented: bool,
    closed: bool,
    /// Whether reserved bits may be set.
    pub extensions: bool,
    /// The number of frames so far.
    pub frames: usize,
}

impl Input {
    pub fn new(masked: bool) -> Input {
        Input { buffer: vec![], start: 0, masked, fragmented: false, closed: false, extensions: false, frames: 0 }
    }

    /// Returns the bytes that arrived and were not parsed yet.
    pub fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Removes this many of them.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = self.buffer[self.start..self.start + count].to_vec();
        self.start += count;
        if self.start > 1 << 16 || self.start == self.buffer.len() {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        taken
    }

    /// Reads more bytes; `Ok(0)` at the end.
    pub async fn fill(&mut self, io: &mut (impl AsyncRead + Unpin)) -> std::io::Result<usize> {
        self.buffer.reserve(16 << 10);
        io.read_buf(&mut self.buffer).await
    }

    /// Returns the next frame, judged.
    pub async fn next(&mut self, io: &mut (impl AsyncRead + Unpin)) -> Event {
        loop {
            if let Some((frame, length)) = self.parse() {
                self.take(length);
                self.judge(&frame);
                return Event::Frame(frame);
            }
            match self.fill(io).await {
                Ok(0) if self.rest().is_empty() => return Event::End,
                Ok(0) => return Event::Cut(self.rest().len()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Event::End,
                Err(_) => return Event::Reset,
            }
        }
    }

    fn parse(&self) -> Option<(Frame, usize)> {
        let bytes = self.rest();
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        assert!(!self.closed, "bytes after a Close: {:02x?}", &bytes[..bytes.len().min(32)]);
        assert_eq!(second & 0x80 != 0, self.masked, "masking: first bytes {:02x?}", &bytes[..bytes.len().min(14)]);
        let (length, mut at) = match second & 0x7F {
            126 => (usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).unwrap(), 10),
            short => (usize::from(short), 2),
        };
        let minimal = match at {
            2 => true,
            4 => length > 125,
            _ => length > 0xFFFF,
        };
        assert!(minimal, "length {length} not in its shortest form");
        let key: Option<[u8; 4]> = if self.masked {
            let key = *bytes.get(at..)?.first_chunk()?;
            at += 4;
            Some(key)
        } else {
            None
        };
        let mut payload = bytes.get(at..at + length)?.to_vec();
        if let Some(key) = key {
            payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        }
        let frame = Frame { fin: first & 0x80 != 0, rsv: first >> 4 & 7, opcode: first & 0xF, payload };
        Some((frame, at + length))
    }

    fn judge(&mut self, frame: &Frame) {
        self.frames += 1;
        assert!(self.extensions || frame.rsv == 0, "reserved bits: {frame:?}");
        match frame.opcode {
            CONTINUATION => {
                assert!(self.fragmented, "a continuation of nothing");
                self.fragmented = !frame.fin;
            }
            TEXT | BINARY => {
                assert!(!self.fragmented, "a message inside a message");
                self.fragmented = !frame.fin;
            }
            CLOSE | PING | PONG => {
                assert!(frame.fin, "a control frame in pieces: {frame:?}");
                assert!(frame.payload.len() <= 125, "a control frame of {} bytes", frame.payload.len());
                if frame.opcode == CLOSE {
                    self.closed = true;
                    if let Some(code) = frame.code() {
                        let legal = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
                        assert!(legal, "close code {code} on the wire");
                    }
                }
            }
            opcode => panic!("reserved opcode {opcode:#x}"),
        }
    }
}
