//! How fast a peer may send: messages and bytes a second, and control frames.
//!
//! Messages are counted when they begin. With `Delay` bytes are counted as they pass, so that a message of any size passes
//! at the rate; what has no tokens yet is not taken, and the driver stops reading that peer. With `Close` a frame is
//! counted as a whole by its header: what is refused never half-leaves.
//!
//! While a peer is delayed it is not read, so nothing is concluded from its silence. Its waits start again with the reading,
//! as after back-pressure. The other direction goes on.
//!
//! Control frames have a count for each second of the session and each peer, and no bucket: it takes six bytes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{End, Tunnel, TunnelStep};
use crate::base::time::MonotonicTime;
use crate::ws::Side;
use crate::ws::frame::{FOREIGN_CONTROL_BYTES_MAX, FrameHeader, Opcode};
use crate::ws::rate::{TokenBucket, TokenRate};

/// The least burst of bytes: a header or a control frame passes as a whole, and each wake-up is worth its cost.
pub const BURST_BYTES_MIN: u64 = 1024;
const _: () = assert!(BURST_BYTES_MIN > FOREIGN_CONTROL_BYTES_MAX as u64);

/// A delayed peer is read again after this part of a second's tokens, or as soon as there is one: at most 50 wake-ups a
/// second for each direction.
const RESUMES_PER_SECOND: u64 = 50;
const RESUME_AFTER: Duration = Duration::from_millis(1000 / RESUMES_PER_SECOND);

/// How fast a peer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Messages, whatever their size.
    messages: Option<TokenRate>,
    /// Bytes on the wire, headers and control frames included.
    bytes: Option<TokenRate>,
    /// What happens to what is too fast.
    then: Exceeding,
}

/// What happens to a peer that sends faster than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exceeding {
    /// It is not read until there are tokens again.
    Delay,
    /// The session ends.
    Close,
}

impl RateLimit {
    /// Limits messages, bytes, or both. The burst of bytes is at least [`BURST_BYTES_MIN`].
    pub fn new(messages: Option<TokenRate>, bytes: Option<TokenRate>, then: Exceeding) -> RateLimit {
        let bytes = bytes.map(|rate| TokenRate::new(rate.per_second(), rate.burst().max(BURST_BYTES_MIN)));
        RateLimit { messages, bytes, then }
    }
}

/// What a peer with a rate may still send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meter {
    limit: RateLimit,
    messages: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
    /// Set while it is delayed: when it is read again.
    resumes: Option<MonotonicTime>,
}

impl Meter {
    pub(super) fn new(limit: RateLimit, now: MonotonicTime) -> Meter {
        let full = |rate: Option<TokenRate>| rate.map(|rate| TokenBucket::full(rate, now));
        Meter { limit, messages: full(limit.messages), bytes: full(limit.bytes), resumes: None }
    }

    fn refill(&mut self, now: MonotonicTime) {
        for (bucket, rate) in [(&mut self.messages, self.limit.messages), (&mut self.bytes, self.limit.bytes)] {
            if let (Some(bucket), Some(rate)) = (bucket, rate) {
                bucket.refill(rate, now);
            }
        }
    }

    /// Returns how many frames like the first of `bytes`, each `frame` bytes long, may be taken.
    #[inline]
    fn frames_max(&self, begins_message: bool, frame: u64) -> u64 {
        let messages = self.messages.filter(|_| begins_message).map_or(u64::MAX, |bucket| bucket.tokens());
        match self.bytes {
            Some(bucket) if self.limit.then == Exceeding::Close => messages.min(bucket.tokens() / frame.max(1)),
            _ => messages,
        }
    }

    /// Counts `messages` that begin and the `bytes` of whole frames.
    #[inline]
    fn take(&mut self, messages: u64, bytes: u64) {
        if let Some(bucket) = &mut self.messages {
            bucket.take(messages);
        }
        if let Some(bucket) = self.bytes.as_mut().filter(|_| self.limit.then == Exceeding::Close) {
            bucket.take(bytes);
        }
    }

    /// Returns when enough has been gained for going on to be worth it.
    fn due(&self) -> Option<MonotonicTime> {
        let due = |bucket: Option<TokenBucket>, rate: Option<TokenRate>, least: u64| {
            let (bucket, rate) = (bucket?, rate?);
            let worth = (rate.per_second() / RESUMES_PER_SECOND).clamp(least, rate.burst().max(least));
            (bucket.tokens() < least).then(|| bucket.due(rate, worth))
        };
        let messages = due(self.messages, self.limit.messages, 1);
        let bytes = due(self.bytes, self.limit.bytes, BURST_BYTES_MIN);
        messages.max(bytes)
    }
}

/// Returns true for the first frame of a message, which the first byte of its header shows.
pub(super) const fn begins_message(first: u8) -> bool {
    matches!(first & 0x0F, 1 | 2)
}

impl Tunnel {
    #[inline]
    fn meter(&self, from: Side) -> Option<&Meter> {
        self.rare.as_ref()?.meters[from as usize].as_ref()
    }

    #[inline]
    fn meter_mut(&mut self, from: Side) -> Option<&mut Meter> {
        self.rare.as_mut()?.meters[from as usize].as_mut()
    }

    /// Returns true if this peer may send only so much: then it should not be read further ahead than need be.
    #[inline]
    pub fn is_metered(&self, from: Side) -> bool {
        self.meter(from).is_some()
    }

    /// Returns true while this peer should not be read, and what was read of it should be kept, because it has sent all
    /// that it may.
    #[inline]
    pub fn is_delayed(&mut self, now: MonotonicTime, from: Side) -> bool {
        let Some(due) = self.resumes_at(from) else { return false };
        if due > now && self.forwards(from) {
            return true;
        }
        self.resume(now, from);
        false
    }

    /// Returns when this peer is read again, if it is delayed.
    #[inline]
    pub(super) fn resumes_at(&self, from: Side) -> Option<MonotonicTime> {
        self.meter(from)?.resumes
    }

    /// Reads this peer again.
    pub(super) fn resume(&mut self, now: MonotonicTime, from: Side) {
        if let Some(meter) = self.meter_mut(from)
            && meter.resumes.take().is_some()
        {
            self.read_again(now, from);
        }
    }

    /// Returns how many of `len` bytes of this peer may be looked at now.
    pub(super) fn allowance(&mut self, now: MonotonicTime, from: Side, len: usize) -> usize {
        if !self.forwards(from) {
            return len;
        }
        let counts_as_it_passes = self.counts_bytes_as_they_pass(from);
        let Some(meter) = self.meter_mut(from) else { return len };
        meter.refill(now);
        match meter.bytes {
            Some(bucket) if counts_as_it_passes => len.min(usize::try_from(bucket.tokens()).unwrap_or(usize::MAX)),
            _ => len,
        }
    }

    /// Returns true if bytes are counted as they pass; else frames are, by their headers.
    fn counts_bytes_as_they_pass(&self, from: Side) -> bool {
        self.meter(from).is_some_and(|meter| meter.limit.then == Exceeding::Delay || !self.reads_frames())
    }

    /// Counts bytes that pass.
    pub(super) fn bytes_passed(&mut self, from: Side, count: usize) {
        if self.counts_bytes_as_they_pass(from)
            && let Some(bucket) = self.meter_mut(from).and_then(|meter| meter.bytes.as_mut())
        {
            bucket.take(count as u64);
        }
    }

    /// Handles bytes for which there are no tokens. `None`: nothing more of this peer passes on, so judge them again.
    #[cold]
    pub(super) fn exceeded(&mut self, now: MonotonicTime, from: Side) -> Option<TunnelStep> {
        let is_gone = self.peer(from).gone;
        match self.meter_mut(from) {
            Some(meter) if meter.limit.then == Exceeding::Close => {
                self.refuse(now, from, End::RateExceeded(from));
                None
            }
            // Nobody is left behind what it has sent: its end should be found soon.
            Some(_) if is_gone => {
                self.give_up_input(from);
                None
            }
            Some(meter) => {
                meter.resumes = Some(meter.due().unwrap_or(now + RESUME_AFTER));
                self.timer_moved = true;
                Some(TunnelStep::Wait)
            }
            None => Some(TunnelStep::NeedMore),
        }
    }

    /// Takes no more frames of this peer for passing on.
    pub(super) fn give_up_input(&mut self, from: Side) {
        let reads_frames = self.reads_frames();
        let peer = self.peer_mut(from);
        match reads_frames {
            true => peer.discard_frames = true,
            false => peer.ignore_input = true,
        }
    }

    /// Returns how many frames like the one at the start of `bytes` its sender has tokens for.
    #[inline]
    pub(super) fn frames_max(&self, from: Side, bytes: &[u8]) -> u64 {
        let Some(meter) = self.meter(from) else { return u64::MAX };
        match bytes {
            [first, ..] if self.peer(from).scanner.at_boundary() => {
                let is_counted = meter.bytes.is_some() && meter.limit.then == Exceeding::Close;
                let frame = || match FrameHeader::parse(bytes) {
                    Ok(Some((header, length))) => header.payload.saturating_add(length as u64),
                    // Judged once it is whole.
                    _ => 1,
                };
                meter.frames_max(begins_message(*first), if is_counted { frame() } else { 1 })
            }
            _ => u64::MAX,
        }
    }

    /// Counts frames that are taken: how many messages they begin, and their bytes.
    #[inline]
    pub(super) fn frames_taken(&mut self, from: Side, messages: u64, bytes: u64) {
        if let Some(meter) = self.meter_mut(from) {
            meter.take(messages, bytes);
        }
    }

    /// Returns how many more Pings and Pongs this peer may send in this second of the session.
    #[inline]
    pub(super) fn control_max(&self, now: MonotonicTime, from: Side) -> u32 {
        let Some(most) = self.settings.control_per_second else { return u32::MAX };
        let so_far = if self.second(now) == self.control_second { self.control_counts[from as usize] } else { 0 };
        u32::from(most.saturating_sub(so_far))
    }

    /// Counts Pings or Pongs of this peer.
    #[inline]
    pub(super) fn control_taken(&mut self, now: MonotonicTime, from: Side, count: u32) {
        let second = self.second(now);
        if second != self.control_second {
            self.control_second = second;
            self.control_counts = [0; 2];
        }
        let so_far = &mut self.control_counts[from as usize];
        *so_far = so_far.saturating_add(u16::try_from(count).unwrap_or(u16::MAX));
    }

    /// The second of the session. That it begins anew after 18 hours does no harm.
    fn second(&self, now: MonotonicTime) -> u16 {
        now.since(self.opened).as_secs() as u16
    }
}

/// Returns true for a Ping or a Pong. A Close ends the session anyway.
pub(super) const fn is_counted(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::Ping | Opcode::Pong)
}
