//! The scanner: whatever is sent, however it is cut, by one rule or another.

use wsluice::ws::Side;
use wsluice::ws::frame::{FOREIGN_CONTROL_BYTES_MAX, Opcode};
use wsluice::ws::scanner::{EndedMessage, FrameRefusal, Rsv, Rules, ScannedPart, Scanner, Violation};

use super::model::{self, Law, Wrong};
use super::{Target, choices, pieces};

pub const TARGET: Target = Target { name: "scanner", run, seeds: SEEDS, tokens: TOKENS };

/// Choices (rules, limits, cut), then frames.
const SEEDS: &[&[u8]] = &[
    b"\x00\x00\x02\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
    b"\x01\x00\x03\x81\x05Hello\x89\x02hi\x8a\x00",
    b"\x01\x00\x05\x01\x03Hel\x89\x00\x80\x02lo\x88\x05\x03\xe8bye",
    b"\x01\x40\x07\x82\x7e\x00\x7e0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    b"\x01\x00\x01\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00abc",
    b"\x05\x00\x09\xc1\x03abc\x00\x00",
    b"\x11\x00\x04\x82\x7e\x00\x03abc\x89\x82\x00\x00\x00\x00ok",
    b"\x00\x00\x04\x89\x80\x01\x02\x03\x04\x8a\x80\x01\x02\x03\x04\x02\x80\x01\x02\x03\x04\x00\x80\x01\x02\x03\x04",
];
pub(super) const TOKENS: &[&[u8]] = &[
    b"\x81\x00",
    b"\x01\x01a",
    b"\x80\x01b",
    b"\x00\x01c",
    b"\x82\x02xy",
    b"\x89\x00",
    b"\x8a\x01p",
    b"\x88\x02\x03\xe8",
    b"\x81\x81\x01\x02\x03\x04a",
    b"\x01\x81\x01\x02\x03\x04a",
    b"\x80\x81\x01\x02\x03\x04b",
    b"\x00\x80\x01\x02\x03\x04",
    b"\x89\x80\x01\x02\x03\x04",
    b"\x8a\x82\x00\x00\x00\x00ab",
    b"\x88\x82\x00\x00\x00\x00\x03\xe8",
    b"\x82\xfe\x00\x7e",
    b"\x82\x7e\x01\x00",
    b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
    b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xc1\x01z",
    b"\x09\x00",
    b"\x83\x00",
    b"\x81\x7e\x00\x05Hello",
];

/// What a reader learns, whatever the pieces were.
#[derive(Debug, Default, PartialEq, Eq)]
struct Learnt {
    /// Where each data frame's header ends.
    data: Vec<usize>,
    /// Where each message ends.
    messages: Vec<(usize, Opcode, u64)>,
    /// Where each control frame begins and ends.
    control: Vec<(Opcode, usize, usize)>,
    /// How far everything was taken.
    taken: usize,
    refused: Option<FrameRefusal>,
}

fn learn(rules: &Rules, pieces: &[&[u8]], fast: bool) -> Learnt {
    let (mut scanner, mut learnt, mut held) = (Scanner::default(), Learnt::default(), vec![]);
    for piece in pieces {
        held.extend_from_slice(piece);
        let mut rest = &held[..];
        loop {
            let at = learnt.taken;
            let end = |learnt: &mut Learnt, message: Option<EndedMessage>| {
                learnt.messages.extend(message.map(|message| (learnt.taken, message.opcode, message.bytes)));
            };
            if fast && let Some(run) = scanner.run(rules, rest, 1000) {
                assert!(
                    run.count > 0 && run.bytes > 0 && run.bytes % run.count as usize == 0 && run.bytes <= rest.len()
                );
                let one = run.bytes / run.count as usize;
                for _ in 0..run.count {
                    let start = learnt.taken;
                    learnt.taken += one;
                    if run.opcode.is_control() {
                        learnt.control.push((run.opcode, start, learnt.taken));
                        continue;
                    }
                    learnt.data.push(start + if rules.from == Side::Client { 6 } else { 2 });
                    if run.opcode != Opcode::Continuation {
                        learnt.messages.push((learnt.taken, run.opcode, run.payload));
                    }
                }
                rest = &rest[run.bytes..];
                continue;
            }
            let before = scanner;
            let taken = match scanner.next(rules, rest) {
                Ok(ScannedPart::Incomplete) => {
                    assert_eq!(scanner, before, "what is not whole changes nothing");
                    assert!(rest.len() <= FOREIGN_CONTROL_BYTES_MAX, "{} bytes are held back", rest.len());
                    break;
                }
                Ok(ScannedPart::Data { header, ends }) => {
                    learnt.taken += header;
                    learnt.data.push(learnt.taken);
                    end(&mut learnt, ends);
                    header
                }
                Ok(ScannedPart::Payload { bytes, ends }) => {
                    assert!(bytes > 0);
                    learnt.taken += bytes;
                    end(&mut learnt, ends);
                    bytes
                }
                Ok(ScannedPart::Control(control)) => {
                    learnt.taken += control.bytes;
                    learnt.control.push((control.opcode, at, learnt.taken));
                    control.bytes
                }
                Err(refusal) => {
                    assert_eq!(scanner, before, "a refusal changes nothing");
                    learnt.refused = Some(refusal);
                    return learnt;
                }
            };
            rest = &rest[taken..];
        }
        held = rest.to_vec();
    }
    learnt
}

fn run(data: &[u8]) {
    let Some(([kind, limits, cut], bytes)) = choices(data) else { return };
    let from = if kind & 1 == 0 { Side::Client } else { Side::Server };
    let rsv = [Rsv::None, Rsv::None, Rsv::Deflate, Rsv::Any][usize::from(kind >> 1 & 3)];
    let limit = |bits: u8| [u64::MAX, 0, 3, 125, 126, 300, 70_000, u64::MAX][usize::from(bits & 7)];
    let (frame_bytes_max, message_bytes_max) = (limit(limits), limit(limits >> 3));
    let fragments_max = [u32::MAX, 1, 2, 5][usize::from(kind >> 5 & 3)];
    let rules = Rules { from, rsv, frame_bytes_max, message_bytes_max, fragments_max, tolerant: kind & 16 != 0 };

    let whole = learn(&rules, &[bytes], false);
    assert_eq!(learn(&rules, &pieces(bytes, cut), false), whole, "cut into pieces");
    assert_eq!(learn(&rules, &[bytes], true), whole, "by runs");
    assert_eq!(learn(&rules, &pieces(bytes, cut), true), whole, "by runs and cut into pieces");

    let (deflate, any) = (rsv == Rsv::Deflate, rsv == Rsv::Any);
    let (frame_max, message_max, tolerant) = (frame_bytes_max, message_bytes_max, rules.tolerant);
    let law = Law { from, deflate, any, frame_max, message_max, fragments_max, tolerant, closes: false };
    let frames = model::read(bytes, law);
    let last = frames.last().map_or(&[][..], |frame| &frame.wrong);
    match whole.refused {
        None => assert_eq!(last, [], "it passes and should not"),
        Some(refusal) => assert!(last.contains(&reason(refusal)), "{refusal:?} and not {last:?}"),
    }
    let good = || frames.iter().filter(|frame| frame.wrong.is_empty());
    let data: Vec<usize> = good().filter(|frame| !frame.is_control()).map(|frame| frame.start + frame.header).collect();
    assert_eq!(whole.data, data);
    let control: Vec<usize> =
        good().filter(|frame| frame.is_control() && frame.whole).map(|frame| frame.start).collect();
    assert_eq!(whole.control.iter().map(|(_, start, _)| *start).collect::<Vec<_>>(), control);
    let ended = good().filter(|frame| !frame.is_control() && frame.fin && frame.whole).count();
    assert_eq!(whole.messages.len(), ended);
}

/// The rule that was broken.
pub(super) fn reason(refusal: FrameRefusal) -> Wrong {
    use wsluice::ws::close::CloseError;
    use wsluice::ws::frame::HeaderError;
    match refusal {
        FrameRefusal::FrameTooLarge => Wrong::FrameLarge,
        FrameRefusal::MessageTooLarge => Wrong::MessageLarge,
        FrameRefusal::TooManyFragments => Wrong::Fragments,
        FrameRefusal::Violation(violation) => match violation {
            Violation::Header(HeaderError::ReservedOpcode(_)) => Wrong::Opcode,
            Violation::Header(HeaderError::LengthOverflow) => Wrong::Overflow,
            Violation::LengthNotMinimal => Wrong::NotMinimal,
            Violation::UnmaskedFrame => Wrong::Unmasked,
            Violation::MaskedFrame => Wrong::Masked,
            Violation::ReservedBits(_) => Wrong::Reserved,
            Violation::ControlTooLong(_) => Wrong::ControlLong,
            Violation::ControlFragmented => Wrong::ControlPieces,
            Violation::StrayContinuation => Wrong::Stray,
            Violation::InterleavedMessage => Wrong::Interleaved,
            Violation::Close(CloseError::Truncated) => Wrong::CloseShort,
            Violation::Close(CloseError::Code(_)) => Wrong::CloseCode,
            Violation::Close(CloseError::Reason) => Wrong::CloseReason,
        },
    }
}
