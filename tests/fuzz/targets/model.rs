//! RFC 6455 read a second time, as plainly as can be: frame by frame, from the whole of what a peer sends.

use wsluice::ws::Side;
use wsluice::ws::tunnel::Validation;

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Opcode,
    Overflow,
    NotMinimal,
    Unmasked,
    Masked,
    Reserved,
    ControlLong,
    ControlPieces,
    Stray,
    Interleaved,
    FrameLarge,
    MessageLarge,
    Fragments,
    CloseShort,
    CloseCode,
    CloseReason,
}

/// One frame whose header is whole.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Where it begins.
    pub start: usize,
    /// Bytes of its header.
    pub header: usize,
    /// Bytes of its payload, as the header says.
    pub payload: u64,
    pub fin: bool,
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    /// All that is wrong with it. It ends what is read unless it is empty.
    pub wrong: Vec<Wrong>,
    /// All of it is there.
    pub whole: bool,
}

impl Seen {
    pub fn is_control(&self) -> bool {
        self.opcode & 8 != 0
    }

    /// What it says, in the clear, as far as it is there.
    pub fn clear(&self, bytes: &[u8]) -> Vec<u8> {
        let start = self.start + self.header;
        let end = bytes.len().min(start.saturating_add(usize::try_from(self.payload).unwrap_or(usize::MAX)));
        let mut payload = bytes[start..end].to_vec();
        if let Some(key) = self.mask {
            payload.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= key[at % 4]);
        }
        payload
    }
}

/// What frames may be.
#[derive(Clone, Copy, Debug)]
pub struct Law {
    pub from: Side,
    /// A reserved bit of a first frame is known: permessage-deflate.
    pub deflate: bool,
    /// Any reserved bit is.
    pub any: bool,
    pub frame_max: u64,
    pub message_max: u64,
    pub fragments_max: u32,
    /// As [`wsluice::ws::scanner::Rules::tolerant`].
    pub tolerant: bool,
    /// Closes are read, and nothing after one.
    pub closes: bool,
}

impl Law {
    pub fn of(from: Side, validation: Validation, frame_max: u64, message_max: u64) -> Law {
        let tolerant = validation == Validation::Lenient;
        Law {
            from,
            deflate: false,
            any: false,
            frame_max,
            message_max,
            fragments_max: u32::MAX,
            tolerant,
            closes: true,
        }
    }
}

/// The frames of `bytes` by `law`, up to the first wrong one, a Close, or the end.
pub fn read(bytes: &[u8], law: Law) -> Vec<Seen> {
    let (mut seen, mut at) = (vec![], 0);
    // The bytes of the message that has begun and not ended, and its tiny fragments.
    let mut message: Option<(u64, u32)> = None;
    while let Some(frame) = one(bytes, at, law, message) {
        let is_last = !frame.wrong.is_empty() || !frame.whole || law.closes && frame.opcode == 8;
        if !frame.is_control() {
            let (bytes, tiny) = message.unwrap_or((0, 0));
            let tiny = tiny + u32::from(frame.payload <= 125);
            message = if frame.fin { None } else { Some((bytes.saturating_add(frame.payload), tiny)) };
        }
        let bytes_of_it = frame.header.saturating_add(usize::try_from(frame.payload).unwrap_or(usize::MAX));
        seen.push(frame);
        if is_last {
            break;
        }
        at += bytes_of_it;
    }
    seen
}

fn one(bytes: &[u8], start: usize, law: Law, message: Option<(u64, u32)>) -> Option<Seen> {
    let frame = &bytes[start..];
    let (first, second) = (*frame.first()?, *frame.get(1)?);
    let (fin, rsv, opcode) = (first >= 128, first >> 4 & 7, first & 15);
    let mut seen = Seen { start, header: 2, payload: 0, fin, opcode, mask: None, wrong: vec![], whole: false };
    if !matches!(opcode, 0 | 1 | 2 | 8 | 9 | 10) {
        seen.wrong.push(Wrong::Opcode);
        return Some(seen);
    }
    let extended = match second & 127 {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let number = frame.get(2..2 + extended)?.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    seen.payload = if extended == 0 { u64::from(second & 127) } else { number };
    seen.header += extended;
    if seen.payload >> 63 == 1 {
        seen.wrong.push(Wrong::Overflow);
        return Some(seen);
    }
    if second >= 128 {
        seen.mask = Some(*frame.get(seen.header..)?.first_chunk()?);
        seen.header += 4;
    }
    let is_control = opcode & 8 != 0;
    let (message_bytes, tiny) = message.unwrap_or((0, 0));
    let rules = [
        (Wrong::NotMinimal, !law.tolerant && (extended == 2 && number < 126 || extended == 8 && number < 65536)),
        (Wrong::Unmasked, law.from == Side::Client && seen.mask.is_none() && !(law.tolerant && is_control)),
        (Wrong::Masked, law.from == Side::Server && seen.mask.is_some() && !(law.tolerant && is_control)),
        (Wrong::Reserved, !law.any && rsv != 0 && !(law.deflate && rsv == 4 && matches!(opcode, 1 | 2))),
        (Wrong::ControlLong, is_control && seen.payload > 125),
        (Wrong::ControlPieces, is_control && !fin),
        (Wrong::Stray, opcode == 0 && message.is_none()),
        (Wrong::Interleaved, matches!(opcode, 1 | 2) && message.is_some()),
        (Wrong::FrameLarge, !is_control && seen.payload > law.frame_max),
        (Wrong::MessageLarge, !is_control && message_bytes.saturating_add(seen.payload) > law.message_max),
        (Wrong::Fragments, !is_control && !fin && seen.payload <= 125 && tiny >= law.fragments_max),
    ];
    seen.wrong.extend(rules.iter().filter(|(_, broken)| *broken).map(|(wrong, _)| *wrong));
    seen.whole = (frame.len() - seen.header) as u64 >= seen.payload;
    if law.closes && opcode == 8 && seen.whole && seen.wrong.is_empty() {
        seen.wrong.extend(wrong_close(&seen.clear(bytes)));
    }
    Some(seen)
}

/// What is wrong with the body of a Close (RFC 6455 §5.5.1, §7.4).
pub fn wrong_close(body: &[u8]) -> Option<Wrong> {
    match body {
        [] => None,
        [_] => Some(Wrong::CloseShort),
        [high, low, reason @ ..] => match u16::from(*high) * 256 + u16::from(*low) {
            1000..=1003 | 1007..=1014 | 3000..=4999 => std::str::from_utf8(reason).err().map(|_| Wrong::CloseReason),
            _ => Some(Wrong::CloseCode),
        },
    }
}
