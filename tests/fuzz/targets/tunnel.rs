//! The tunnel: what one peer sends, as it reaches the other, in pieces of any size, beside what the other sends.

use std::sync::Arc;

use wsluice::base::time::MonotonicTime;
use wsluice::ws::Side;
use wsluice::ws::scanner::Rsv;
use wsluice::ws::tunnel::{End, Tunnel, TunnelSettings, TunnelStep, Validation};

use super::model::{self, Law, Wrong};
use super::{Target, choices, pieces, scanner};

pub const TARGET: Target = Target { name: "tunnel", run, seeds: SEEDS, tokens: scanner::TOKENS };

/// Choices (kind, limits, cut), then frames.
const SEEDS: &[&[u8]] = &[
    b"\x00\x00\x02\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x88\x82\x00\x00\x00\x00\x03\xe8",
    b"\x01\x00\x03\x81\x05Hello\x89\x02hi\x8a\x00\x88\x05\x03\xe8bye",
    b"\x03\x00\x05\x01\x03Hel\x89\x80\x01\x02\x03\x04\x80\x7e\x00\x02lo\x88\x00",
    b"\x02\x00\x04\x89\x00\x8a\x02ab\x82\xfe\x00\x01\x01\x02\x03\x04a\x88\x00",
    b"\x00\x09\x01\x01\x82\x00\x00\x00\x00ab\x00\x82\x00\x00\x00\x00cd\x80\x80\x00\x00\x00\x00",
];

/// What reaches the other peer, and why it ends.
fn relay(settings: &Arc<TunnelSettings>, from: Side, pieces: &[&[u8]]) -> (Vec<u8>, Option<End>) {
    let now = MonotonicTime::from_micros(1);
    let mut tunnel = Tunnel::new(Arc::clone(settings), Rsv::None, [1, 2], now);
    let (mut held, mut out): (Vec<u8>, Vec<u8>) = (vec![], vec![]);
    for piece in pieces {
        held.extend_from_slice(piece);
        let mut rest = &held[..];
        while !rest.is_empty() {
            let taken = match tunnel.handle_bytes(now, from, rest, &mut ()) {
                TunnelStep::Forward(bytes) => {
                    out.extend_from_slice(&rest[..bytes]);
                    bytes
                }
                TunnelStep::Remask(bytes) => {
                    // Only what is wrongly masked.
                    let mask = (from == Side::Client).then_some([9, 9, 9, 9]);
                    let frame = wsluice::ws::frame::ControlFrame::masked_anew(&rest[..bytes], mask);
                    out.extend_from_slice(frame.as_bytes());
                    bytes
                }
                TunnelStep::Drop(bytes) => bytes,
                TunnelStep::NeedMore | TunnelStep::Wait => break,
            };
            assert!(taken > 0 && taken <= rest.len(), "{taken} of {} bytes", rest.len());
            rest = &rest[taken..];
        }
        assert!(rest.len() <= wsluice::ws::frame::FOREIGN_CONTROL_BYTES_MAX, "{} bytes are held back", rest.len());
        held = rest.to_vec();
    }
    (out, tunnel.end().cloned())
}

fn run(data: &[u8]) {
    let Some(([kind, limits, cut], bytes)) = choices(data) else { return };
    let from = if kind & 1 == 0 { Side::Client } else { Side::Server };
    let validation =
        [Validation::Strict, Validation::Lenient, Validation::Strict, Validation::Off][usize::from(kind >> 1 & 3)];
    let limit = |bits: u8| [u64::MAX, 3, 125, 300, 70_000, u64::MAX, 0, 10][usize::from(bits & 7)];
    let (frame_bytes_max, message_bytes_max) = (limit(limits), limit(limits >> 3));
    let settings = Arc::new(TunnelSettings {
        validation,
        idle: None,
        lifetime: None,
        ping: None,
        pong: std::time::Duration::from_secs(1),
        frame_bytes_max,
        message_bytes_max,
        fragments_max: u32::MAX,
        control_per_second: None,
        rates: [None; 2],
    });
    let (out, end) = relay(&settings, from, &[bytes]);
    let (cut_out, cut_end) = relay(&settings, from, &pieces(bytes, cut));
    assert_eq!((&cut_out, &cut_end), (&out, &end), "cut into pieces");
    if validation == Validation::Off {
        assert_eq!((out, end), (bytes.to_vec(), None));
        return;
    }
    let (expected, _, wrong) = expected(bytes, Law::of(from, validation, frame_bytes_max, message_bytes_max));
    assert_eq!(out, expected);
    match end {
        None => assert_eq!(wrong, Ended::Not),
        Some(End::Closed { by, body }) => {
            assert_eq!(by, from);
            assert_eq!(wrong, Ended::Closed(body.code.map(|code| code.0)));
        }
        Some(End::FrameTooLarge(by)) => assert_eq!((by, wrong.has(Wrong::FrameLarge)), (from, true)),
        Some(End::MessageTooLarge(by)) => assert_eq!((by, wrong.has(Wrong::MessageLarge)), (from, true)),
        Some(End::Violation { by, label }) => {
            assert_eq!(by, from);
            assert!(matches!(&wrong, Ended::Wrong(all) if !all.is_empty()), "{label} and not {wrong:?}");
        }
        Some(other) => panic!("{other:?}"),
    }
}

/// How what a peer sends ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// There may be more.
    Not,
    /// By a Close with this code.
    Closed(Option<u16>),
    /// By a frame that is wrong in these ways.
    Wrong(Vec<Wrong>),
}

impl Ended {
    pub fn has(&self, wrong: Wrong) -> bool {
        matches!(self, Ended::Wrong(all) if all.contains(&wrong))
    }
}

/// What of `bytes` reaches the other peer by `law`, where in it frames are masked anew, and how it ends. A frame that is
/// tolerated reaches it as it came, but a control frame that is wrongly masked; here it is masked with nines.
pub fn expected(bytes: &[u8], law: Law) -> (Vec<u8>, Vec<usize>, Ended) {
    let (mut out, mut anew) = (vec![], vec![]);
    for frame in model::read(bytes, law) {
        // A Pong may be the answer to a Ping of ours, which is taken however it is masked: that shows when it is whole.
        let may_be_ours = frame.opcode == 10 && frame.payload == 12 && !frame.whole;
        let is_form = |wrong: &Wrong| matches!(wrong, Wrong::NotMinimal | Wrong::Masked | Wrong::Unmasked);
        if may_be_ours && frame.wrong.iter().all(is_form) {
            break;
        }
        if !frame.wrong.is_empty() {
            return (out, anew, Ended::Wrong(frame.wrong));
        }
        let wrongly_masked = frame.mask.is_some() != (law.from == Side::Client);
        if frame.is_control() {
            if !frame.whole {
                break;
            }
            let end = frame.start + frame.header + frame.payload as usize;
            match wrongly_masked {
                false => out.extend_from_slice(&bytes[frame.start..end]),
                true => {
                    let mut payload = frame.clear(bytes);
                    out.push(0x80 | frame.opcode);
                    out.push(payload.len() as u8 | if law.from == Side::Client { 0x80 } else { 0 });
                    if law.from == Side::Client {
                        anew.push(out.len() - 2);
                        out.extend([9; 4]);
                        payload.iter_mut().for_each(|byte| *byte ^= 9);
                    }
                    out.extend(payload);
                }
            }
            if frame.opcode == 8 {
                let body = frame.clear(bytes);
                return (out, anew, Ended::Closed(body.first_chunk().map(|code| u16::from_be_bytes(*code))));
            }
            continue;
        }
        let end = (frame.start + frame.header) as u64 + frame.payload;
        out.extend_from_slice(
            &bytes[frame.start..usize::try_from(end).map_or(bytes.len(), |end| end.min(bytes.len()))],
        );
    }
    (out, anew, Ended::Not)
}
