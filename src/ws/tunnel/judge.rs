//! Judges the frames of one peer: what goes on to the other peer, and what is counted.

use std::borrow::Cow;

use super::liveness::PING_BYTES;
use super::rates::{begins_message, is_counted};
use super::{End, Observer, Tunnel, TunnelStep, Validation};
use crate::base::time::MonotonicTime;
use crate::ws::Side;
use crate::ws::close::CloseBody;
use crate::ws::frame::{CONTROL_PAYLOAD_MAX, FrameHeader, Opcode, apply_mask};
use crate::ws::scanner::{ControlFrameSpan, EndedMessage, FrameRefusal, FrameRun, Rules, ScannedPart, Violation};

/// Frames passed in one call and not yet reported: a flood of small frames is reported in few calls.
#[derive(Default)]
pub(super) struct FrameCounts {
    /// The last text and the last binary messages, counted together while alike.
    texts: Option<(EndedMessage, u32)>,
    binaries: Option<(EndedMessage, u32)>,
    pings: u32,
    pongs: u32,
}

impl FrameCounts {
    #[inline]
    fn message(&mut self, from: Side, message: EndedMessage, count: u32, observer: &mut impl Observer) {
        let alike = if message.opcode == Opcode::Text { &mut self.texts } else { &mut self.binaries };
        match alike {
            Some((last, so_far)) if *last == message => *so_far += count,
            other => {
                if let Some((last, so_far)) = other.replace((message, count)) {
                    observer.message(from, last, so_far);
                }
            }
        }
    }

    #[inline]
    fn report(self, from: Side, observer: &mut impl Observer) {
        for (message, count) in [self.texts, self.binaries].into_iter().flatten() {
            observer.message(from, message, count);
        }
        for (opcode, count) in [(Opcode::Ping, self.pings), (Opcode::Pong, self.pongs)] {
            if count > 0 {
                observer.control(from, opcode, count);
            }
        }
    }
}

impl Tunnel {
    pub(super) fn judge(
        &mut self,
        now: MonotonicTime,
        from: Side,
        bytes: &[u8],
        observer: &mut impl Observer,
    ) -> TunnelStep {
        let mut passed = FrameCounts::default();
        let step = self.judge_each(now, from, bytes, &mut passed, observer);
        passed.report(from, observer);
        step
    }

    #[inline]
    fn judge_each(
        &mut self,
        now: MonotonicTime,
        from: Side,
        bytes: &[u8],
        passed: &mut FrameCounts,
        observer: &mut impl Observer,
    ) -> TunnelStep {
        let to = from.other();
        let mut rules = Rules {
            from,
            rsv: self.rsv,
            frame_bytes_max: self.settings.frame_bytes_max,
            message_bytes_max: self.settings.message_bytes_max,
            fragments_max: self.settings.fragments_max,
            tolerant: false,
        };
        let mut at = 0;
        loop {
            let discard_frames = self.peer(from).discard_frames || !self.peer(to).writable();
            if discard_frames {
                // Nothing of this is forwarded; only the framing still matters.
                rules.frame_bytes_max = u64::MAX;
                rules.message_bytes_max = u64::MAX;
                rules.fragments_max = u32::MAX;
            }
            let taken = |at| if discard_frames { TunnelStep::Drop(at) } else { TunnelStep::Forward(at) };
            let rest = &bytes[at..];
            let scanner = &mut self.peers[from as usize].scanner;
            if at > 0 && (rest.is_empty() || (scanner.at_boundary() && self.peer(to).wants_inject())) {
                return taken(at);
            }
            let most = if discard_frames { 0 } else { self.run_max(now, from, rest) };
            if most > 0
                && let Some(run) = self.peers[from as usize].scanner.run(&rules, rest, most)
            {
                at += run.bytes;
                let messages = if begins_message(rest[0]) { run.count } else { 0 };
                self.frames_taken(from, messages.into(), run.bytes as u64);
                self.run_passed(now, from, run, passed, observer);
                continue;
            }
            if !discard_frames && self.frames_max(from, rest) == 0 {
                if at > 0 {
                    return taken(at);
                }
                match self.exceeded(now, from) {
                    Some(step) => return step,
                    None => continue,
                }
            }
            let begins = self.peers[from as usize].scanner.at_boundary()
                && rest.first().is_some_and(|first| begins_message(*first));
            let mut part = self.peers[from as usize].scanner.next(&rules, rest);
            if let Err(FrameRefusal::Violation(violation)) = part
                && at == 0
                && let Some(tolerated) = self.tolerated(&rules, violation, rest)
            {
                if matches!(tolerated, Ok(part) if part != ScannedPart::Incomplete) {
                    observer.tolerated(from, violation);
                }
                part = tolerated;
            }
            match part {
                Ok(ScannedPart::Data { header, ends }) => {
                    at += header;
                    if !discard_frames {
                        let frame = (header as u64).saturating_add(self.peer(from).scanner.frame_left());
                        self.frames_taken(from, begins.into(), frame);
                    }
                    self.data_passed(now, from, ends.filter(|_| !discard_frames), passed, observer);
                }
                Ok(ScannedPart::Payload { bytes, ends }) => {
                    at += bytes;
                    self.data_passed(now, from, ends.filter(|_| !discard_frames), passed, observer);
                }
                Ok(ScannedPart::Incomplete) if at > 0 => return taken(at),
                Ok(ScannedPart::Incomplete) => return TunnelStep::NeedMore,
                Ok(ScannedPart::Control(control))
                    if is_counted(control.opcode) && !discard_frames && self.control_max(now, from) == 0 =>
                {
                    if at > 0 {
                        return taken(at);
                    }
                    self.refuse(now, from, End::TooManyControls(from));
                }
                Ok(ScannedPart::Control(control)) => {
                    let (payload, length) = unmasked(&control, rest);
                    let payload = &payload[..length];
                    let is_masked_well = control.mask.is_some() == (from == Side::Client);
                    match control.opcode {
                        Opcode::Pong if self.own_ping(from, payload).is_some() => {
                            if at > 0 {
                                return taken(at);
                            }
                            if self.own_ping(from, payload) == Some(self.peer(from).pings) {
                                observer.round_trip(from, now.since(self.peer(from).pinged));
                            }
                            self.control_taken(now, from, 1);
                            return TunnelStep::Drop(control.bytes);
                        }
                        Opcode::Close => match CloseBody::parse(payload) {
                            Ok(_) if at > 0 => return taken(at),
                            Ok(body) => {
                                if !discard_frames {
                                    observer.control(from, Opcode::Close, 1);
                                }
                                self.close_received(now, from, body, !discard_frames);
                                return if is_masked_well || discard_frames {
                                    taken(control.bytes)
                                } else {
                                    TunnelStep::Remask(control.bytes)
                                };
                            }
                            Err(_) if at > 0 => return taken(at),
                            Err(error) => {
                                self.refuse_frame(now, from, FrameRefusal::from(error));
                                return TunnelStep::Drop(bytes.len());
                            }
                        },
                        opcode => {
                            at += control.bytes;
                            if !discard_frames {
                                self.frames_taken(from, 0, control.bytes as u64);
                                self.control_passed(now, from, opcode, 1, passed);
                                if !is_masked_well {
                                    return TunnelStep::Remask(control.bytes);
                                }
                            }
                        }
                    }
                }
                Err(_) if at > 0 => return taken(at),
                Err(refusal) => {
                    self.refuse_frame(now, from, refusal);
                    if self.peer(from).ignore_input {
                        return TunnelStep::Drop(bytes.len());
                    }
                }
            }
        }
    }

    /// Reads the start of `bytes` again where breaking this rule does no harm, as a tolerant reader would.
    #[cold]
    fn tolerated(
        &mut self,
        rules: &Rules,
        violation: Violation,
        bytes: &[u8],
    ) -> Option<Result<ScannedPart, FrameRefusal>> {
        let is_lenient = self.settings.validation == Validation::Lenient;
        let (header, _) = FrameHeader::parse(bytes).ok().flatten()?;
        let may_be_ours = header.opcode == Opcode::Pong && header.payload == PING_BYTES as u64;
        let passes = match violation {
            Violation::LengthNotMinimal => is_lenient || may_be_ours,
            // Masks protect one hop only, and we mask anew. The payload of data frames is not ours to change.
            Violation::UnmaskedFrame | Violation::MaskedFrame => {
                header.opcode.is_control() && header.rsv == 0 && (is_lenient || may_be_ours)
            }
            _ => false,
        };
        if !passes {
            return None;
        }
        let rules = Rules { tolerant: true, ..*rules };
        let part = self.peers[rules.from as usize].scanner.next(&rules, bytes);
        if let Ok(ScannedPart::Control(control)) = part
            && !is_lenient
        {
            let (payload, length) = unmasked(&control, bytes);
            self.own_ping(rules.from, &payload[..length])?;
        }
        Some(part)
    }

    fn data_passed(
        &mut self,
        now: MonotonicTime,
        from: Side,
        ends: Option<EndedMessage>,
        passed: &mut FrameCounts,
        observer: &mut impl Observer,
    ) {
        self.data_at = now;
        if let Some(message) = ends {
            passed.message(from, message, 1, observer);
        }
    }

    #[inline]
    fn run_passed(
        &mut self,
        now: MonotonicTime,
        from: Side,
        run: FrameRun,
        passed: &mut FrameCounts,
        observer: &mut impl Observer,
    ) {
        match run.opcode {
            Opcode::Text | Opcode::Binary => {
                self.data_at = now;
                passed.message(from, EndedMessage { opcode: run.opcode, bytes: run.payload }, run.count, observer);
            }
            Opcode::Continuation => self.data_at = now,
            control => self.control_passed(now, from, control, run.count, passed),
        }
    }

    /// Notes that Pings or Pongs of this peer were forwarded.
    #[inline]
    fn control_passed(&mut self, now: MonotonicTime, from: Side, opcode: Opcode, count: u32, passed: &mut FrameCounts) {
        self.control_taken(now, from, count);
        match opcode {
            Opcode::Ping => {
                passed.pings += count;
                self.peer_mut(from.other()).owes_pong = true;
            }
            _ => {
                passed.pongs += count;
                self.peer_mut(from).owes_pong = false;
            }
        }
    }

    /// Returns how many similar frames at the start of `bytes` may be taken at once: as many as their sender may send.
    #[inline]
    fn run_max(&self, now: MonotonicTime, from: Side, bytes: &[u8]) -> usize {
        let most = match bytes {
            [0x89, ..] => self.control_max(now, from) as usize,
            [0x8A, ..] => self.pongs_max(from, bytes).min(self.control_max(now, from) as usize),
            _ => usize::MAX,
        };
        most.min(usize::try_from(self.frames_max(from, bytes)).unwrap_or(usize::MAX))
    }

    /// Returns how many similar Pongs may be taken at once. One as long as ours is examined, and excluded if it carries
    /// our key.
    fn pongs_max(&self, from: Side, bytes: &[u8]) -> usize {
        let &[_, second, ..] = bytes else { return usize::MAX };
        if usize::from(second & 0x7F) != PING_BYTES {
            return usize::MAX;
        }
        let (mask, payload) = match second & 0x80 {
            0 => (0, &bytes[2..]),
            _ => match bytes[2..].split_first_chunk::<4>() {
                Some((mask, payload)) => (u64::from(u32::from_be_bytes(*mask)), payload),
                None => return 0,
            },
        };
        let Some(key) = payload.first_chunk::<8>() else { return 0 };
        let key = u64::from_be_bytes(*key) ^ (mask << 32 | mask);
        usize::from(key != self.ping_keys[from as usize])
    }

    fn own_ping(&self, from: Side, payload: &[u8]) -> Option<u32> {
        let (key, count) = payload.split_first_chunk::<8>()?;
        let count = u32::from_be_bytes(*count.first_chunk::<4>()?);
        let ours = payload.len() == PING_BYTES
            && u64::from_be_bytes(*key) == self.ping_keys[from as usize]
            && count.wrapping_sub(1) < self.peer(from).pings;
        ours.then_some(count)
    }

    fn refuse_frame(&mut self, now: MonotonicTime, from: Side, refusal: FrameRefusal) {
        let end = match refusal {
            FrameRefusal::FrameTooLarge => End::FrameTooLarge(from),
            FrameRefusal::MessageTooLarge => End::MessageTooLarge(from),
            FrameRefusal::TooManyFragments => End::TooManyFragments(from),
            FrameRefusal::Violation(violation) => {
                self.peer_mut(from).ignore_input = true;
                End::Violation { by: from, label: Cow::Borrowed(Violation::label(violation)) }
            }
        };
        self.refuse(now, from, end);
    }

    /// Ends the session for what this peer sends, and passes no more of it on.
    pub(super) fn refuse(&mut self, now: MonotonicTime, from: Side, end: End) {
        let was_closing = self.is_closing();
        self.begin(now, end);
        self.give_up_input(from);
        if was_closing {
            // Its Close will not be passed on any more; the other peer, if it asked to close, must not wait for it.
            self.answer_in_place_of(now, from);
        }
    }
}

/// Returns a copy of a control frame's payload, unmasked, with its length.
fn unmasked(control: &ControlFrameSpan, bytes: &[u8]) -> ([u8; CONTROL_PAYLOAD_MAX], usize) {
    let masked = &bytes[control.header..control.bytes];
    let mut payload = [0; CONTROL_PAYLOAD_MAX];
    payload[..masked.len()].copy_from_slice(masked);
    if let Some(key) = control.mask {
        apply_mask(key, &mut payload[..masked.len()]);
    }
    (payload, masked.len())
}
