//! The frames of the load: one binary frame per message, a sequence number and then a fixed pattern.
//!
//! Every byte that should arrive is known beforehand, so the receiver neither parses nor unmasks: it compares what it
//! reads with the frame it expects ([`Expect`]), which costs a `memcmp` and misses nothing. The mask is fixed; a proxy
//! that re-masked would be told it changed a byte. Small frames of other opcodes (Close, Ping, Pong, and Text, which
//! the generator and the backend use to talk to each other) may stand between two messages.

use thiserror::Error;

/// The mask of RFC 6455 §5.7's example. A client must choose one that cannot be predicted (§5.3); a load generator
/// that trusts its peers may not care.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Opcodes, RFC 6455 §5.2.
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// The longest payload that fits the first length byte, and the longest of a control frame (RFC 6455 §5.5).
const SMALL: usize = 125;

/// Whose frame it is: a client masks, a server does not (RFC 6455 §5.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
}

/// The bytes of one message, ready to be written; only the sequence number changes.
pub struct Frame {
    bytes: Vec<u8>,
    payload_at: usize,
    sender: Sender,
}

impl Frame {
    /// A message of `len` (at least 8) payload bytes with sequence number 0.
    pub fn new(sender: Sender, len: usize) -> Frame {
        let mut bytes = header(BINARY, sender, len);
        let payload_at = bytes.len();
        bytes.extend((0..len).map(pattern));
        if sender == Sender::Client {
            unmask(&mut bytes[payload_at..], MASK);
        }
        let mut frame = Frame { bytes, payload_at, sender };
        frame.stamp(0);
        frame
    }

    /// Writes the sequence number into the first 8 payload bytes.
    pub fn stamp(&mut self, sequence: u64) {
        let number = &mut self.bytes[self.payload_at..self.payload_at + 8];
        number.copy_from_slice(&sequence.to_be_bytes());
        if self.sender == Sender::Client {
            unmask(number, MASK);
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn pattern(index: usize) -> u8 {
    (index.wrapping_mul(131) ^ (index >> 8).wrapping_mul(29)) as u8
}

/// A frame header; a client's ends with [`MASK`].
pub fn header(opcode: u8, sender: Sender, len: usize) -> Vec<u8> {
    let mask_bit = if sender == Sender::Client { 0x80 } else { 0 };
    let mut bytes = vec![0x80 | opcode];
    match len {
        0..=SMALL => bytes.push(mask_bit | len as u8),
        126..=0xffff => {
            bytes.push(mask_bit | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask_bit | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    if sender == Sender::Client {
        bytes.extend(MASK);
    }
    bytes
}

/// A whole frame of at most 125 payload bytes.
pub fn small(opcode: u8, sender: Sender, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(opcode, sender, payload.len());
    let at = bytes.len();
    bytes.extend(payload);
    if sender == Sender::Client {
        unmask(&mut bytes[at..], MASK);
    }
    bytes
}

/// A Close frame with a code and a reason that is cut to fit.
pub fn close(sender: Sender, code: u16, reason: &str) -> Vec<u8> {
    let reason: String = reason.chars().filter(char::is_ascii).take(SMALL - 2).collect();
    small(CLOSE, sender, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

/// Removes or puts on a mask, eight bytes at a time.
pub fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// A header as the backend's echo reads it.
pub struct Header {
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    pub header_len: usize,
    pub payload_len: usize,
}

/// Reads a header; `None` when more bytes are needed.
pub fn parse(bytes: &[u8]) -> Option<Header> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (payload_len, mut header_len) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
        len => (usize::from(len), 2),
    };
    let mut mask = None;
    if second & 0x80 != 0 {
        mask = Some(bytes.get(header_len..header_len + 4)?.try_into().ok()?);
        header_len += 4;
    }
    Some(Header { opcode: first & 0x0f, mask, header_len, payload_len })
}

/// A small frame that stood between two messages, unmasked.
#[derive(Debug, PartialEq)]
pub struct Other {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// What was received is not what was sent.
#[derive(Debug, Error, PartialEq)]
pub enum Wrong {
    #[error("message {sequence}: byte {at} of the frame is {got:#04x}, not {want:#04x}")]
    Byte { sequence: u64, at: usize, got: u8, want: u8 },
    #[error("before message {sequence}: a frame with opcode {opcode:#x} and length code {length} that nobody sent")]
    Foreign { sequence: u64, opcode: u8, length: u8 },
}

/// Compares a stream with the messages 0, 1, 2, … of one length.
pub struct Expect {
    frame: Frame,
    sequence: u64,
    at: usize,
    other: Vec<u8>,
}

impl Expect {
    pub fn new(sender: Sender, len: usize) -> Expect {
        Expect { frame: Frame::new(sender, len), sequence: 0, at: 0, other: Vec::new() }
    }

    /// How many messages have arrived whole.
    pub fn received(&self) -> u64 {
        self.sequence
    }

    /// Expect `sequence` next.
    pub fn restart_at(&mut self, sequence: u64) {
        self.sequence = sequence;
        self.frame.stamp(sequence);
    }

    /// Takes the next bytes of the stream, however they were cut. Returns how many messages they completed; frames of
    /// other opcodes are appended to `others`.
    ///
    /// # Errors
    /// At the first byte that differs.
    pub fn feed(&mut self, mut input: &[u8], others: &mut Vec<Other>) -> Result<u64, Wrong> {
        let before = self.sequence;
        while let Some(&first) = input.first() {
            if self.at == 0 && (!self.other.is_empty() || first != self.frame.bytes[0]) {
                input = self.feed_other(input, others)?;
                continue;
            }
            let want = &self.frame.bytes[self.at..];
            let len = want.len().min(input.len());
            if want[..len] != input[..len] {
                let at = (0..len).find(|&at| want[at] != input[at]).unwrap_or(0);
                let (got, want) = (input[at], want[at]);
                return Err(Wrong::Byte { sequence: self.sequence, at: self.at + at, got, want });
            }
            self.at += len;
            input = &input[len..];
            if self.at == self.frame.bytes.len() {
                self.at = 0;
                self.sequence += 1;
                self.frame.stamp(self.sequence);
            }
        }
        Ok(self.sequence - before)
    }

    fn feed_other<'a>(&mut self, input: &'a [u8], others: &mut Vec<Other>) -> Result<&'a [u8], Wrong> {
        for (index, &byte) in input.iter().enumerate() {
            self.other.push(byte);
            let Some(header) = parse(&self.other) else { continue };
            if header.payload_len > SMALL || !matches!(header.opcode, TEXT | CLOSE | PING | PONG) {
                let (opcode, length) = (header.opcode, self.other[1] & 0x7f);
                return Err(Wrong::Foreign { sequence: self.sequence, opcode, length });
            }
            if self.other.len() == header.header_len + header.payload_len {
                let mut payload = self.other.split_off(header.header_len);
                unmask(&mut payload, header.mask.unwrap_or([0; 4]));
                self.other.clear();
                others.push(Other { opcode: header.opcode, payload });
                return Ok(&input[index + 1..]);
            }
        }
        Ok(&[])
    }
}

/// What `cargo test --benches` holds this file to.
pub fn check_itself() {
    for (sender, len) in [(Sender::Client, 8), (Sender::Server, 128), (Sender::Client, 65_536)] {
        let mut frame = Frame::new(sender, len);
        let mut stream = Vec::new();
        for sequence in 0..3 {
            frame.stamp(sequence);
            stream.extend_from_slice(frame.bytes());
            stream.extend(small(PING, sender, b"are you there"));
        }
        for cut in [1, 7, 4096, stream.len()] {
            let (mut expect, mut others) = (Expect::new(sender, len), Vec::new());
            let count: u64 = stream.chunks(cut).filter_map(|chunk| expect.feed(chunk, &mut others).ok()).sum();
            assert_eq!((count, others.len()), (3, 3), "cut into {cut}");
            assert!(others.iter().all(|other| other.payload == b"are you there"));
        }
        // In the first header, in the first payload, in the last message: never in a Ping, whose content nobody expects.
        for flipped in [1, 11, stream.len() - 20] {
            let mut bad = stream.clone();
            bad[flipped] ^= 0x10;
            assert!(Expect::new(sender, len).feed(&bad, &mut Vec::new()).is_err(), "byte {flipped} of {len}");
        }
    }
}
