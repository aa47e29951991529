//! The header of one frame (RFC 6455 §5.2): parsing, encoding, and masking of the few frames that the proxy writes.
//!
//! `parse` needs no state and accepts a header only when it is complete. `scanner` judges whether a header may stand
//! where it does and come from its side.

use serde::{Deserialize, Serialize};

/// The longest header: 2 bytes, 8 of length, 4 of mask.
pub const HEADER_BYTES_MAX: usize = 14;
/// The longest payload of a control frame (RFC 6455 §5.5).
pub const CONTROL_PAYLOAD_MAX: usize = 125;
/// The longest control frame on the wire: its length always fits the second byte.
pub const CONTROL_BYTES_MAX: usize = 2 + 4 + CONTROL_PAYLOAD_MAX;
/// The longest control frame that a peer may send: with its length in more bytes than it needs.
pub const FOREIGN_CONTROL_BYTES_MAX: usize = HEADER_BYTES_MAX + CONTROL_PAYLOAD_MAX;

/// The kind of a frame (RFC 6455 §11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Opcode {
    /// The next fragment of the message in progress.
    Continuation,
    /// The first or only fragment of a text message.
    Text,
    /// The first or only fragment of a binary message.
    Binary,
    /// The closing handshake.
    Close,
    /// Requests a Pong.
    Ping,
    /// The answer to a Ping, or a one-way heartbeat.
    Pong,
}

impl Opcode {
    /// Returns the opcode of this number, unless it is reserved.
    pub const fn from_bits(bits: u8) -> Option<Opcode> {
        match bits {
            0x0 => Some(Opcode::Continuation),
            0x1 => Some(Opcode::Text),
            0x2 => Some(Opcode::Binary),
            0x8 => Some(Opcode::Close),
            0x9 => Some(Opcode::Ping),
            0xA => Some(Opcode::Pong),
            _ => None,
        }
    }

    /// Returns the number on the wire.
    pub const fn bits(self) -> u8 {
        match self {
            Opcode::Continuation => 0x0,
            Opcode::Text => 0x1,
            Opcode::Binary => 0x2,
            Opcode::Close => 0x8,
            Opcode::Ping => 0x9,
            Opcode::Pong => 0xA,
        }
    }

    /// Returns true for Close, Ping and Pong, which may stand between the fragments of a message and are never
    /// fragmented.
    pub const fn is_control(self) -> bool {
        self.bits() & 0x8 != 0
    }
}

/// One parsed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Set on the last fragment of a message.
    pub fin: bool,
    /// RSV1 to RSV3 as the bits 4, 2, 1.
    pub rsv: u8,
    /// The kind of the frame.
    pub opcode: Opcode,
    /// The masking key, present when the payload is masked.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload that follow the header, at most 2^63 - 1.
    pub payload: u64,
    /// True if the length is written in the fewest bytes, as RFC 6455 §5.2 requires. A longer one is still unambiguous.
    pub shortest: bool,
}

/// RSV1, which permessage-deflate sets on the first frame of a compressed message (RFC 7692 §6).
pub const RSV1: u8 = 4;

/// Why a header can never be legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Opcodes 3-7 and 11-15 are reserved (RFC 6455 §5.2).
    #[error("reserved opcode {0:#x}")]
    ReservedOpcode(u8),
    /// The most significant bit of a 64-bit length must be 0 (RFC 6455 §5.2).
    #[error("payload length over 2^63 - 1")]
    LengthOverflow,
}

impl FrameHeader {
    /// Reads the header at the start of `bytes`. Returns it with its length in bytes, or `None` if it is not complete.
    ///
    /// # Errors
    /// Fails if the bytes can never become a legal header.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, HeaderError> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        let opcode = Opcode::from_bits(first & 0x0F).ok_or(HeaderError::ReservedOpcode(first & 0x0F))?;
        let (payload, extended, shortest) = match second & 0x7F {
            126 => {
                let Some(length) = rest.first_chunk::<2>() else { return Ok(None) };
                let length = u64::from(u16::from_be_bytes(*length));
                (length, 2, length >= 126)
            }
            127 => {
                let Some(length) = rest.first_chunk::<8>() else { return Ok(None) };
                let length = u64::from_be_bytes(*length);
                if length > i64::MAX as u64 {
                    return Err(HeaderError::LengthOverflow);
                }
                (length, 8, length > u64::from(u16::MAX))
            }
            short => (u64::from(short), 0, true),
        };
        let (mask, masked) = if second & 0x80 == 0 {
            (None, 0)
        } else {
            let Some(key) = rest[extended..].first_chunk::<4>() else { return Ok(None) };
            (Some(*key), 4)
        };
        let header = FrameHeader { fin: first & 0x80 != 0, rsv: (first >> 4) & 0x7, opcode, mask, payload, shortest };
        Ok(Some((header, 2 + extended + masked)))
    }

    /// Writes the header into `out` in its shortest form and returns its length.
    pub fn encode(&self, out: &mut [u8; HEADER_BYTES_MAX]) -> usize {
        out[0] = u8::from(self.fin) << 7 | (self.rsv & 0x7) << 4 | self.opcode.bits();
        let masked = u8::from(self.mask.is_some()) << 7;
        let mut length = 2;
        if self.payload < 126 {
            out[1] = masked | self.payload as u8;
        } else if let Ok(short) = u16::try_from(self.payload) {
            out[1] = masked | 126;
            out[2..4].copy_from_slice(&short.to_be_bytes());
            length = 4;
        } else {
            out[1] = masked | 127;
            out[2..10].copy_from_slice(&self.payload.to_be_bytes());
            length = 10;
        }
        if let Some(key) = self.mask {
            out[length..length + 4].copy_from_slice(&key);
            length += 4;
        }
        length
    }
}

/// Masks or unmasks `payload` in place (RFC 6455 §5.3); applied twice it restores the original.
///
/// Used only for control frames, of at most 125 bytes, so a simple loop is fast enough.
pub fn apply_mask(key: [u8; 4], payload: &mut [u8]) {
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// A whole control frame that the proxy itself writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFrame {
    bytes: [u8; CONTROL_BYTES_MAX],
    length: u8,
}

impl ControlFrame {
    /// Builds a final control frame with this payload, masked if `mask` is given (towards a server).
    ///
    /// # Panics
    /// In debug builds, if the opcode is not that of a control frame or the payload is over 125 bytes.
    pub fn new(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) -> ControlFrame {
        debug_assert!(opcode.is_control());
        debug_assert!(payload.len() <= CONTROL_PAYLOAD_MAX);
        let payload = &payload[..payload.len().min(CONTROL_PAYLOAD_MAX)];
        let mut header = [0; HEADER_BYTES_MAX];
        let length = payload.len() as u64;
        let start =
            FrameHeader { fin: true, rsv: 0, opcode, mask, payload: length, shortest: true }.encode(&mut header);
        let mut bytes = [0; CONTROL_BYTES_MAX];
        bytes[..start].copy_from_slice(&header[..start]);
        let end = start + payload.len();
        bytes[start..end].copy_from_slice(payload);
        if let Some(key) = mask {
            apply_mask(key, &mut bytes[start..end]);
        }
        ControlFrame { bytes, length: end as u8 }
    }

    /// Copies the whole control frame in `frame`, masked with `mask` or, without one, unmasked.
    ///
    /// # Panics
    /// In debug builds, if `frame` is not a whole control frame.
    pub fn masked_anew(frame: &[u8], mask: Option<[u8; 4]>) -> ControlFrame {
        let Ok(Some((header, start))) = FrameHeader::parse(frame) else {
            debug_assert!(false, "not a whole frame");
            return ControlFrame::new(Opcode::Pong, &[], mask);
        };
        let mut payload = [0; CONTROL_PAYLOAD_MAX];
        let (payload, _) = payload.split_at_mut((frame.len() - start).min(CONTROL_PAYLOAD_MAX));
        payload.copy_from_slice(&frame[start..start + payload.len()]);
        if let Some(key) = header.mask {
            apply_mask(key, payload);
        }
        ControlFrame::new(header.opcode, payload, mask)
    }

    /// Returns the frame's bytes as they go on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn examples_of_rfc_6455_section_5_7() {
        let cases: [(&[u8], FrameHeader, usize); 6] = [
            (
                &[0x81, 0x05, 0x48, 0x65],
                FrameHeader { fin: true, rsv: 0, opcode: Opcode::Text, mask: None, payload: 5, shortest: true },
                2,
            ),
            (
                &[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f],
                FrameHeader {
                    fin: true,
                    rsv: 0,
                    opcode: Opcode::Text,
                    mask: Some([0x37, 0xfa, 0x21, 0x3d]),
                    payload: 5,
                    shortest: true,
                },
                6,
            ),
            (
                &[0x01, 0x03],
                FrameHeader { fin: false, rsv: 0, opcode: Opcode::Text, mask: None, payload: 3, shortest: true },
                2,
            ),
            (
                &[0x80, 0x02],
                FrameHeader { fin: true, rsv: 0, opcode: Opcode::Continuation, mask: None, payload: 2, shortest: true },
                2,
            ),
            (
                &[0x82, 0x7E, 0x01, 0x00],
                FrameHeader { fin: true, rsv: 0, opcode: Opcode::Binary, mask: None, payload: 256, shortest: true },
                4,
            ),
            (
                &[0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0],
                FrameHeader { fin: true, rsv: 0, opcode: Opcode::Binary, mask: None, payload: 65536, shortest: true },
                10,
            ),
        ];
        for (bytes, header, length) in cases {
            assert_eq!(FrameHeader::parse(bytes), Ok(Some((header, length))), "{bytes:02x?}");
        }
    }

    #[test]
    fn headers_that_are_never_legal() {
        for reserved in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            assert_eq!(FrameHeader::parse(&[0x80 | reserved, 0]), Err(HeaderError::ReservedOpcode(reserved)));
        }
        assert_eq!(FrameHeader::parse(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]), Err(HeaderError::LengthOverflow));
    }

    #[test]
    fn a_length_in_more_bytes_than_it_needs_is_clear_and_told() {
        let cases: [(&[u8], u64, bool); 6] = [
            (&[0x82, 126, 0, 125], 125, false),
            (&[0x82, 126, 0, 126], 126, true),
            (&[0x82, 126, 0, 0], 0, false),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], 0xffff, false),
            (&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], 0x1_0000, true),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0, 5], 5, false),
        ];
        for (bytes, payload, shortest) in cases {
            let (header, length) = FrameHeader::parse(bytes).unwrap().unwrap();
            assert_eq!((header.payload, header.shortest, length), (payload, shortest, bytes.len()), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_control_frame_is_masked_anew_whatever_it_had() {
        let payload: Vec<u8> = (0..CONTROL_PAYLOAD_MAX as u8).collect();
        for length in [0, 1, 12, 125] {
            for before in [None, Some([1, 2, 3, 4])] {
                for after in [None, Some([9, 8, 7, 6])] {
                    let frame = ControlFrame::new(Opcode::Pong, &payload[..length], before);
                    let anew = ControlFrame::masked_anew(frame.as_bytes(), after);
                    assert_eq!(anew, ControlFrame::new(Opcode::Pong, &payload[..length], after));
                }
            }
        }
        // A length in eight bytes becomes one in its place.
        let long = [&[0x89, 127, 0, 0, 0, 0, 0, 0, 0, 2][..], b"ab"].concat();
        assert_eq!(ControlFrame::masked_anew(&long, None), ControlFrame::new(Opcode::Ping, b"ab", None));
    }

    #[test]
    fn a_masked_ping_reads_back() {
        let key = [1, 2, 3, 4];
        let frame = ControlFrame::new(Opcode::Ping, b"hello", Some(key));
        let (header, length) = FrameHeader::parse(frame.as_bytes()).unwrap().unwrap();
        assert_eq!((header.opcode, header.payload, header.mask), (Opcode::Ping, 5, Some(key)));
        let mut payload = frame.as_bytes()[length..].to_vec();
        apply_mask(key, &mut payload);
        assert_eq!(payload, b"hello");
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back_and_no_prefix_does(
            fin: bool,
            rsv in 0u8..8,
            opcode in prop::sample::select(vec![0u8, 1, 2, 8, 9, 10]),
            mask: Option<[u8; 4]>,
            payload in prop_oneof![0u64..126, 126u64..65536, 65536u64..=i64::MAX as u64],
        ) {
            let opcode = Opcode::from_bits(opcode).unwrap();
            let header = FrameHeader { fin, rsv, opcode, mask, payload, shortest: true };
            let mut out = [0; HEADER_BYTES_MAX];
            let length = header.encode(&mut out);
            prop_assert_eq!(FrameHeader::parse(&out[..length]), Ok(Some((header, length))));
            for cut in 0..length {
                prop_assert_eq!(FrameHeader::parse(&out[..cut]), Ok(None));
            }
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Ok(Some((header, length))) = FrameHeader::parse(&bytes)
                && header.shortest
            {
                let mut out = [0; HEADER_BYTES_MAX];
                prop_assert_eq!(header.encode(&mut out), length);
                prop_assert_eq!(&out[..length], &bytes[..length]);
            }
        }
    }
}
