//! Scans the frames of one direction of a session (RFC 6455 §5).
//!
//! The scanner takes the bytes in order and returns what stands at their start: payload of the frame in progress, the
//! header of a data frame, a whole control frame, or nothing yet. It advances only over what it returns, so the caller
//! may stop anywhere and continue with the rest. The whole state is a few words.

use serde::{Deserialize, Serialize};

use super::Side;
use super::close::CloseError;
use super::frame::{CONTROL_PAYLOAD_MAX, FrameHeader, HeaderError, Opcode};

/// What this direction may carry. Stays the same for the whole session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The side that sends the frames: a client masks them, a server does not (RFC 6455 §5.1).
    pub from: Side,
    /// The RSV bits that a negotiated extension uses.
    pub rsv: Rsv,
    /// The longest payload of one frame, in bytes.
    pub frame_bytes_max: u64,
    /// The longest message summed over its fragments, in bytes on the wire.
    pub message_bytes_max: u64,
    /// The most [tiny](TINY_BYTES_MAX) fragments of one message, without its last one.
    pub fragments_max: u32,
    /// Accepts violations that are unambiguous: a length in more bytes than it needs, and control frames masked by the
    /// server or unmasked by the client.
    pub tolerant: bool,
}

/// The largest payload of a fragment that counts as tiny: its length fits into the second byte of the header. A million of
/// them cost whoever puts the message together more than their bytes say.
pub const TINY_BYTES_MAX: u64 = CONTROL_PAYLOAD_MAX as u64;

/// Which reserved bits may be set (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rsv {
    /// No extension: no bit.
    None,
    /// permessage-deflate: RSV1 on the first frame of a message (RFC 7692 §6).
    Deflate,
    /// An unknown extension: any bit.
    Any,
}

/// Why a frame breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The header is never legal.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The length must be written in the fewest bytes (RFC 6455 §5.2).
    #[error("payload length not in its shortest form")]
    LengthNotMinimal,
    /// A client must mask every frame (RFC 6455 §5.1).
    #[error("an unmasked frame from the client")]
    UnmaskedFrame,
    /// A server must not mask a frame (RFC 6455 §5.1).
    #[error("a masked frame from the server")]
    MaskedFrame,
    /// A reserved bit is set, but no extension defines it (RFC 6455 §5.2).
    #[error("reserved bits {0:#05b} set without an extension")]
    ReservedBits(u8),
    /// Control frames carry at most 125 bytes (RFC 6455 §5.5).
    #[error("a control frame of {0} bytes")]
    ControlTooLong(u64),
    /// Control frames must not be fragmented (RFC 6455 §5.5).
    #[error("a fragmented control frame")]
    ControlFragmented,
    /// A continuation needs a message to continue (RFC 6455 §5.4).
    #[error("a continuation frame outside a message")]
    StrayContinuation,
    /// A new message must not begin before the last one ended (RFC 6455 §5.4).
    #[error("a new message inside a fragmented one")]
    InterleavedMessage,
    /// The Close must not be sent.
    #[error(transparent)]
    Close(#[from] CloseError),
}

impl Violation {
    /// Returns the name used in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Violation::Header(HeaderError::ReservedOpcode(_)) => "reserved_opcode",
            Violation::Header(HeaderError::LengthOverflow) | Violation::LengthNotMinimal => "bad_length",
            Violation::UnmaskedFrame => "unmasked_frame",
            Violation::MaskedFrame => "masked_frame",
            Violation::ReservedBits(_) => "reserved_bits",
            Violation::ControlTooLong(_) | Violation::ControlFragmented => "bad_control",
            Violation::StrayContinuation | Violation::InterleavedMessage => "bad_fragment",
            Violation::Close(CloseError::Reason) => "invalid_utf8",
            Violation::Close(_) => "bad_close",
        }
    }
}

/// Why a frame is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameRefusal {
    /// It breaks the protocol.
    Violation(Violation),
    /// Its payload is longer than a frame may be.
    FrameTooLarge,
    /// With it, its message is longer than a message may be.
    MessageTooLarge,
    /// Its message has as many tiny fragments as a message may have.
    TooManyFragments,
}

impl<T: Into<Violation>> From<T> for FrameRefusal {
    fn from(violation: T) -> FrameRefusal {
        FrameRefusal::Violation(violation.into())
    }
}

/// The part at the start of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScannedPart {
    /// The header of a data frame. Its payload follows as `Payload`.
    Data {
        /// Length of the header, in bytes.
        header: usize,
        /// Set when the frame is empty and ends its message.
        ends: Option<EndedMessage>,
    },
    /// Payload bytes of the frame in progress.
    Payload {
        /// How many bytes, at least 1.
        bytes: usize,
        /// Set when they end the message.
        ends: Option<EndedMessage>,
    },
    /// A whole control frame.
    Control(ControlFrameSpan),
    /// A header or a control frame that is not complete.
    Incomplete,
}

/// A message that has just ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedMessage {
    /// Text or Binary.
    pub opcode: Opcode,
    /// Payload bytes on the wire, summed over the fragments.
    pub bytes: u64,
}

/// Identical short frames in a row, each of them whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRun {
    /// The kind of each: a Ping, a Pong, a whole message or the end of one, or (`Continuation`) a fragment that is not
    /// the last.
    pub opcode: Opcode,
    /// Payload bytes of each frame; of the whole message if it ends one.
    pub payload: u64,
    /// How many frames, at least 1.
    pub count: u32,
    /// Bytes of all frames together.
    pub bytes: usize,
}

/// The position of a control frame in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFrameSpan {
    /// Close, Ping or Pong.
    pub opcode: Opcode,
    /// Length of its header, in bytes.
    pub header: usize,
    /// Length of header and payload, in bytes.
    pub bytes: usize,
    /// The masking key of its payload.
    pub mask: Option<[u8; 4]>,
}

/// The position in the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scanner {
    /// Payload bytes still to come of the data frame in progress.
    left: u64,
    /// Whether that frame is the last of its message.
    fin: bool,
    /// The kind of the message in progress.
    message: Option<Opcode>,
    /// The tiny fragments of that message so far.
    fragments: u32,
    /// Payload bytes of that message, the frame in progress included.
    message_bytes: u64,
}

impl Scanner {
    /// Returns true between two frames; only there may another frame be inserted.
    pub const fn at_boundary(&self) -> bool {
        self.left == 0
    }

    /// Returns true if a message has begun and not ended.
    pub const fn in_message(&self) -> bool {
        self.message.is_some()
    }

    /// Returns how many payload bytes of the frame in progress are still to come.
    pub const fn frame_left(&self) -> u64 {
        self.left
    }

    /// Returns the part at the start of `bytes`. The caller continues after it; after `Incomplete` it passes the same
    /// bytes again, with more.
    #[inline]
    pub fn next(&mut self, rules: &Rules, bytes: &[u8]) -> Result<ScannedPart, FrameRefusal> {
        if self.left > 0 {
            if bytes.is_empty() {
                return Ok(ScannedPart::Incomplete);
            }
            let taken = self.left.min(bytes.len() as u64);
            self.left -= taken;
            return Ok(ScannedPart::Payload { bytes: taken as usize, ends: self.ended() });
        }
        let Some((header, length)) = FrameHeader::parse(bytes)? else {
            return Ok(ScannedPart::Incomplete);
        };
        self.judge(rules, &header)?;
        if header.opcode.is_control() {
            let whole = length + header.payload as usize;
            if bytes.len() < whole {
                return Ok(ScannedPart::Incomplete);
            }
            return Ok(ScannedPart::Control(ControlFrameSpan {
                opcode: header.opcode,
                header: length,
                bytes: whole,
                mask: header.mask,
            }));
        }
        if header.opcode != Opcode::Continuation {
            self.message = Some(header.opcode);
            self.message_bytes = 0;
            self.fragments = 0;
        }
        if is_tiny_fragment(&header) {
            self.fragments = self.fragments.saturating_add(1);
        }
        self.left = header.payload;
        self.fin = header.fin;
        self.message_bytes = self.message_bytes.saturating_add(header.payload);
        Ok(ScannedPart::Data { header: length, ends: self.ended() })
    }

    /// Accepts up to `most` identical short frames at the start of `bytes` at once. Compares only the first two bytes
    /// of each, so that a flood of tiny frames costs little. Returns `None` if there is none, or if [`Scanner::next`]
    /// has to judge it.
    #[inline]
    pub fn run(&mut self, rules: &Rules, bytes: &[u8], most: usize) -> Option<FrameRun> {
        let &[first, second, ..] = bytes else { return None };
        let payload = u64::from(second & 0x7F);
        let is_masked = second & 0x80 != 0;
        let frame = 2 + if is_masked { 4 } else { 0 } + payload as usize;
        if payload > CONTROL_PAYLOAD_MAX as u64
            || is_masked != (rules.from == Side::Client)
            || self.left > 0
            || bytes.len() < frame
            || payload > rules.frame_bytes_max
        {
            return None;
        }
        let room = rules.message_bytes_max;
        let one = |opcode, payload| Some(FrameRun { opcode, payload, count: 1, bytes: frame });
        let (opcode, most) = match (first, self.message) {
            (0x01 | 0x02, None) if payload <= room => {
                self.message = Opcode::from_bits(first);
                self.message_bytes = payload;
                self.fragments = 1;
                return one(Opcode::Continuation, payload);
            }
            (0x80, Some(opcode)) if payload <= room.saturating_sub(self.message_bytes) => {
                self.message = None;
                return one(opcode, self.message_bytes + payload);
            }
            (0x81, None) if payload <= room => (Opcode::Text, most),
            (0x82, None) if payload <= room => (Opcode::Binary, most),
            (0x89, _) => (Opcode::Ping, most),
            (0x8A, _) => (Opcode::Pong, most),
            (0x00, Some(_)) => {
                let room = room.saturating_sub(self.message_bytes);
                let most = most.min(rules.fragments_max.saturating_sub(self.fragments) as usize);
                (Opcode::Continuation, room.checked_div(payload).map_or(most, |room| most.min(room as usize)))
            }
            _ => return None,
        };
        let identical = bytes.chunks_exact(frame).take(most).take_while(|next| next[0] == first && next[1] == second);
        let count = identical.count();
        if count == 0 {
            return None;
        }
        if opcode == Opcode::Continuation {
            self.message_bytes = self.message_bytes.saturating_add(count as u64 * payload);
            self.fragments = self.fragments.saturating_add(count as u32);
        }
        Some(FrameRun { opcode, payload, count: count as u32, bytes: count * frame })
    }

    /// Returns the message that ends here, if one does.
    fn ended(&mut self) -> Option<EndedMessage> {
        if self.left > 0 || !self.fin {
            return None;
        }
        let opcode = self.message.take()?;
        Some(EndedMessage { opcode, bytes: self.message_bytes })
    }

    fn judge(&self, rules: &Rules, header: &FrameHeader) -> Result<(), FrameRefusal> {
        let any_mask = rules.tolerant && header.opcode.is_control();
        match (rules.from, header.mask) {
            (Side::Client, None) if !any_mask => return Err(Violation::UnmaskedFrame.into()),
            (Side::Server, Some(_)) if !any_mask => return Err(Violation::MaskedFrame.into()),
            _ => {}
        }
        if !header.shortest && !rules.tolerant {
            return Err(Violation::LengthNotMinimal.into());
        }
        if header.rsv != 0 && !rsv_allowed(rules.rsv, header) {
            return Err(Violation::ReservedBits(header.rsv).into());
        }
        if header.opcode.is_control() {
            if header.payload > CONTROL_PAYLOAD_MAX as u64 {
                return Err(Violation::ControlTooLong(header.payload).into());
            }
            if !header.fin {
                return Err(Violation::ControlFragmented.into());
            }
            return Ok(());
        }
        match (header.opcode, self.message) {
            (Opcode::Continuation, None) => return Err(Violation::StrayContinuation.into()),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Violation::InterleavedMessage.into()),
            _ => {}
        }
        if header.payload > rules.frame_bytes_max {
            return Err(FrameRefusal::FrameTooLarge);
        }
        let before = if header.opcode == Opcode::Continuation { self.message_bytes } else { 0 };
        if before.saturating_add(header.payload) > rules.message_bytes_max {
            return Err(FrameRefusal::MessageTooLarge);
        }
        let before = if header.opcode == Opcode::Continuation { self.fragments } else { 0 };
        if is_tiny_fragment(header) && before >= rules.fragments_max {
            return Err(FrameRefusal::TooManyFragments);
        }
        Ok(())
    }
}

/// Returns true for a fragment that counts: one more will follow it.
fn is_tiny_fragment(header: &FrameHeader) -> bool {
    !header.fin && header.payload <= TINY_BYTES_MAX
}

fn rsv_allowed(rsv: Rsv, header: &FrameHeader) -> bool {
    use super::frame::RSV1;
    match rsv {
        Rsv::None => false,
        Rsv::Deflate => header.rsv == RSV1 && matches!(header.opcode, Opcode::Text | Opcode::Binary),
        Rsv::Any => true,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn rules(from: Side) -> Rules {
        Rules {
            from,
            rsv: Rsv::None,
            frame_bytes_max: u64::MAX,
            message_bytes_max: u64::MAX,
            fragments_max: u32::MAX,
            tolerant: false,
        }
    }

    fn violation(rules: &Rules, bytes: &[u8]) -> Violation {
        let mut scanner = Scanner::default();
        let mut rest = bytes;
        loop {
            match scanner.next(rules, rest) {
                Ok(ScannedPart::Data { header, .. }) => rest = &rest[header..],
                Ok(ScannedPart::Payload { bytes, .. }) => rest = &rest[bytes..],
                Ok(ScannedPart::Control(control)) => rest = &rest[control.bytes..],
                Ok(ScannedPart::Incomplete) => panic!("legal: {bytes:02x?}"),
                Err(FrameRefusal::Violation(violation)) => return violation,
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn each_rule_of_section_5_has_its_violation() {
        let server = rules(Side::Server);
        let cases: [(&Rules, &[u8], Violation); 14] = [
            (&rules(Side::Client), &[0x81, 0], Violation::UnmaskedFrame),
            (&server, &[0x81, 0x80, 0, 0, 0, 0], Violation::MaskedFrame),
            (&server, &[0xC1, 0], Violation::ReservedBits(4)),
            (&server, &[0xA1, 0], Violation::ReservedBits(2)),
            (&server, &[0x89, 126, 0, 126], Violation::ControlTooLong(126)),
            (&server, &[0x09, 0], Violation::ControlFragmented),
            (&server, &[0x08, 0], Violation::ControlFragmented),
            (&server, &[0x80, 0], Violation::StrayContinuation),
            (&server, &[0x01, 0, 0x81, 0], Violation::InterleavedMessage),
            (&server, &[0x01, 1, 7, 0x80, 0, 0x80, 0], Violation::StrayContinuation),
            (&server, &[0x83, 0], Violation::Header(HeaderError::ReservedOpcode(3))),
            (&server, &[0x8B, 0], Violation::Header(HeaderError::ReservedOpcode(11))),
            (&server, &[0x82, 126, 0, 125], Violation::LengthNotMinimal),
            (&server, &[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], Violation::LengthNotMinimal),
        ];
        for (rules, bytes, expected) in cases {
            assert_eq!(violation(rules, bytes), expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn the_tolerant_let_pass_what_leaves_no_doubt_and_nothing_else() {
        let tolerant = |from| Rules { tolerant: true, ..rules(from) };
        let mut scanner = Scanner::default();
        for (from, bytes) in [
            (Side::Client, &[0x8A, 0][..]),
            (Side::Client, &[0x88, 2, 3, 0xe8]),
            (Side::Server, &[0x89, 0x80, 1, 2, 3, 4]),
            (Side::Server, &[0x8A, 126, 0, 0]),
        ] {
            assert!(
                matches!(scanner.next(&tolerant(from), bytes), Ok(ScannedPart::Control(control)) if control.bytes == bytes.len())
            );
        }
        let long = [0x82, 126, 0, 1];
        assert_eq!(scanner.next(&tolerant(Side::Server), &long), Ok(ScannedPart::Data { header: 4, ends: None }));
        for (from, bytes, expected) in [
            (Side::Client, &[0x81, 0][..], Violation::UnmaskedFrame),
            (Side::Server, &[0x81, 0x80, 1, 2, 3, 4], Violation::MaskedFrame),
            (Side::Client, &[0x8A, 126, 0, 126], Violation::ControlTooLong(126)),
            (Side::Client, &[0x9A, 0], Violation::ReservedBits(1)),
        ] {
            assert_eq!(violation(&tolerant(from), bytes), expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn deflate_allows_rsv1_on_the_first_frame_of_a_message_only() {
        let rules = Rules { rsv: Rsv::Deflate, ..rules(Side::Server) };
        let mut scanner = Scanner::default();
        assert!(matches!(scanner.next(&rules, &[0x41, 0]), Ok(ScannedPart::Data { .. })));
        assert_eq!(scanner.next(&rules, &[0xC0, 0]), Err(Violation::ReservedBits(4).into()));
        assert_eq!(scanner.next(&rules, &[0xC9, 0]), Err(Violation::ReservedBits(4).into()));
        assert!(matches!(scanner.next(&rules, &[0x80, 0]), Ok(ScannedPart::Data { .. })));
        assert_eq!(scanner.next(&rules, &[0xE1, 0]), Err(Violation::ReservedBits(6).into()));
    }

    #[test]
    fn limits_hold_to_the_byte_and_over_fragments() {
        let rules = Rules { frame_bytes_max: 10, message_bytes_max: 15, ..rules(Side::Server) };
        let mut scanner = Scanner::default();
        assert_eq!(scanner.next(&rules, &[0x82, 11]), Err(FrameRefusal::FrameTooLarge));
        assert!(matches!(scanner.next(&rules, &[0x02, 10]), Ok(ScannedPart::Data { header: 2, ends: None })));
        assert!(matches!(scanner.next(&rules, &[0; 10]), Ok(ScannedPart::Payload { bytes: 10, ends: None })));
        assert_eq!(scanner.next(&rules, &[0x80, 6]), Err(FrameRefusal::MessageTooLarge));
        assert!(matches!(scanner.next(&rules, &[0x80, 5]), Ok(ScannedPart::Data { .. })));
        let ends = Some(EndedMessage { opcode: Opcode::Binary, bytes: 15 });
        assert_eq!(scanner.next(&rules, &[0; 99]), Ok(ScannedPart::Payload { bytes: 5, ends }));
    }

    #[test]
    fn a_run_is_what_the_frames_are_one_by_one() {
        let server = rules(Side::Server);
        let client = rules(Side::Client);
        let masked = |first, length: u8| [&[first, 0x80 | length, 1, 2, 3, 4][..], &vec![9; length.into()]].concat();
        for (first, opcode, length) in
            [(0x81, Opcode::Text, 0), (0x82, Opcode::Binary, 125), (0x89, Opcode::Ping, 1), (0x8A, Opcode::Pong, 0)]
        {
            let one = masked(first, length);
            // Two and a half, and then another.
            let bytes = [&one.repeat(2)[..], &masked(0x82, length + 1)].concat();
            let run = Scanner::default().run(&client, &bytes, usize::MAX).unwrap();
            let expected = FrameRun { opcode, payload: length.into(), count: 2, bytes: 2 * one.len() };
            assert_eq!(run, expected);
            assert_eq!(Scanner::default().run(&client, &one[..one.len() - 1], 1), None);
            assert_eq!(Scanner::default().run(&server, &one, 1), None, "masked as the other side");
        }
        for not_short in [&[0x82, 126, 0, 0][..], &[0x82, 127], &[0x82]] {
            assert_eq!(Scanner::default().run(&server, not_short, 1), None);
        }
        // What is judged: reserved bits and opcodes, fragments outside a message, messages in pieces, Closes.
        for first in (0..=255).filter(|first| ![0x01, 0x02, 0x81, 0x82, 0x89, 0x8A].contains(first)) {
            assert_eq!(Scanner::default().run(&server, &[first, 0], 1), None, "{first:#x}");
        }
        let small = Rules { frame_bytes_max: 3, message_bytes_max: 2, ..server };
        assert_eq!(Scanner::default().run(&small, &[0x82, 3, 0, 0, 0], 1), None);
        assert!(Scanner::default().run(&small, &[0x82, 2, 0, 0], 1).is_some());
    }

    #[test]
    fn a_message_in_short_pieces_is_a_run_at_each_end() {
        let rules = Rules { message_bytes_max: 10, ..rules(Side::Server) };
        let mut scanner = Scanner::default();
        let piece = |opcode, payload, bytes| Some(FrameRun { opcode, payload, count: 1, bytes });
        assert_eq!(scanner.run(&rules, &[0x80, 0], 1), None, "the end of nothing");
        assert_eq!(scanner.run(&rules, &[0x02, 3, 1, 2, 3], 9), piece(Opcode::Continuation, 3, 5));
        assert!(scanner.in_message() && scanner.at_boundary());
        assert_eq!(scanner.run(&rules, &[0x01, 0], 1), None, "a message inside a message");
        assert_eq!(scanner.run(&rules, &[[0x80, 8].as_slice(), &[0; 8]].concat(), 1), None, "11 bytes in all");
        assert_eq!(scanner.run(&rules, &[[0x80, 7].as_slice(), &[0; 7]].concat(), 1), piece(Opcode::Binary, 10, 9));
        assert!(!scanner.in_message());
        let large = [[0x01, 11].as_slice(), &[0; 11]].concat();
        assert_eq!(scanner.run(&rules, &large, 1), None);
        assert_eq!(scanner.next(&rules, &large), Err(FrameRefusal::MessageTooLarge));
    }

    #[test]
    fn a_run_of_fragments_ends_where_the_message_is_too_large() {
        let rules = Rules { message_bytes_max: 10, ..rules(Side::Server) };
        let mut scanner = Scanner::default();
        scanner.next(&rules, &[0x01, 1]).unwrap();
        scanner.next(&rules, b"x").unwrap();
        assert_eq!(scanner.run(&rules, &[0x81, 0], 1), None, "a message inside a message");
        let pieces = [0x00, 2, b'a', b'b'].repeat(100);
        let run = scanner.run(&rules, &pieces, usize::MAX).unwrap();
        assert_eq!((run.count, run.bytes), (4, 16));
        assert_eq!(scanner.run(&rules, &pieces, usize::MAX), None);
        assert_eq!(scanner.next(&rules, &pieces), Err(FrameRefusal::MessageTooLarge));
        assert_eq!(scanner.run(&rules, &[0x00, 0].repeat(1000), usize::MAX).unwrap().count, 1000);
        let ends = Some(EndedMessage { opcode: Opcode::Text, bytes: 9 });
        assert_eq!(scanner.next(&rules, &[0x80, 0]), Ok(ScannedPart::Data { header: 2, ends }));
    }

    #[test]
    fn tiny_fragments_are_counted_one_by_one_and_in_runs() {
        let rules = Rules { fragments_max: 5, ..rules(Side::Server) };
        let large = [[0x00, 126, 0, 126].as_slice(), &[0; 126]].concat();
        for by_runs in [false, true] {
            let mut scanner = Scanner::default();
            // Twice: a new message begins anew. Large fragments and the last one do not count.
            for _ in 0..2 {
                let tiny = [0x02, 0, 0x00, 0, 0x00, 1, 9];
                let wire = [&tiny[..], &large.repeat(9), &[0x00, 0, 0x00, 0, 0x80, 0]].concat();
                let mut rest = &wire[..];
                while !rest.is_empty() {
                    if by_runs && let Some(run) = scanner.run(&rules, rest, usize::MAX) {
                        rest = &rest[run.bytes..];
                        continue;
                    }
                    match scanner.next(&rules, rest).unwrap() {
                        ScannedPart::Data { header: bytes, .. } | ScannedPart::Payload { bytes, .. } => {
                            rest = &rest[bytes..];
                        }
                        other => panic!("{other:?}"),
                    }
                }
                assert!(!scanner.in_message());
            }
            scanner.next(&rules, &[0x01, 0]).unwrap();
            let pieces = [0x00, 0].repeat(100);
            let run = if by_runs { scanner.run(&rules, &pieces, usize::MAX).unwrap().count } else { 0 };
            for _ in run..4 {
                scanner.next(&rules, &pieces).unwrap();
            }
            assert_eq!(scanner.run(&rules, &pieces, usize::MAX), None);
            assert_eq!(scanner.next(&rules, &pieces), Err(FrameRefusal::TooManyFragments));
            assert!(matches!(scanner.next(&rules, &[0x80, 0]), Ok(ScannedPart::Data { ends: Some(_), .. })));
        }
    }

    #[test]
    fn a_control_frame_between_fragments_leaves_the_message_alone() {
        let rules = rules(Side::Server);
        let mut scanner = Scanner::default();
        scanner.next(&rules, &[0x01, 2]).unwrap();
        scanner.next(&rules, b"ab").unwrap();
        let Ok(ScannedPart::Control(ping)) = scanner.next(&rules, &[0x89, 1, b'x']) else { panic!("no ping") };
        assert_eq!((ping.opcode, ping.header, ping.bytes), (Opcode::Ping, 2, 3));
        assert!(scanner.at_boundary() && scanner.in_message());
        let ends = Some(EndedMessage { opcode: Opcode::Text, bytes: 2 });
        assert_eq!(scanner.next(&rules, &[0x80, 0]), Ok(ScannedPart::Data { header: 2, ends }));
        assert!(!scanner.in_message());
    }
}
