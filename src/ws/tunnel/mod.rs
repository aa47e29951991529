//! A session between two peers as a pure state machine: frames, timers, injected Pings and Closes, and the end.
//!
//! The driver reports events (`handle_*`) and asks what to do (`poll_*`). The tunnel never sees a socket, and `now` is
//! an argument. Bytes stay where they are: `handle_bytes` returns how many bytes at the start of the slice to forward
//! or to drop. Invariants:
//!
//! * The result does not depend on how the bytes were cut into slices.
//! * The output is the input without swallowed control frames, plus injected ones; a wrongly masked control frame
//!   leaves masked correctly. A header leaves only once it is complete and judged, a control frame only once it is
//!   complete, so at most `FOREIGN_CONTROL_BYTES_MAX` bytes are ever held back.
//! * A frame is injected only between two frames, and nothing is sent to a peer after a Close.
//! * A peer that may send only so much is not read further while it has no tokens: order is kept, and nothing is lost.
//! * `End` says why a session ends and is reported once. The driver chooses the close codes and passes them to `close`.
//! * Given time, it finishes: each wait of the closing handshake has a deadline, and so has a stop that waits for a
//!   pause.
//!
//! It tells two kinds of silence apart. *Idle* means no data frame in either direction; Pings and Pongs do not count.
//! *Dead* means that nothing at all arrives from a peer, not even the Pong to our Ping. Our Pings carry a key and a
//! count, and their Pongs are swallowed. While a Ping of the far peer waits for its Pong we send none of our own (a
//! peer may answer only the latest of several, RFC 6455 §5.5.3): that Pong serves both.
//!
//! The whole state is this one plain struct. It can be serialized and restored (serde) at any point.

mod closing;
mod end;
mod judge;
mod liveness;
mod peer;
mod rates;
mod timers;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Side;
use super::frame::{ControlFrame, Opcode};
use super::scanner::Rsv;
use crate::base::time::MonotonicTime;
use closing::ClosingHandshake;
pub use closing::{ANSWER_WAIT, ANSWER_WAIT_MAX, BOUNDARY_WAIT, ECHO_WAIT, HALF_CLOSED_WAIT, SLOW_WAIT_MAX};
pub use end::{End, Farewell, Observer};
pub use liveness::STALL;
use liveness::{Liveness, ping_payload};
use peer::Peer;
use rates::Meter;
pub use rates::{BURST_BYTES_MIN, Exceeding, RateLimit};
use timers::PendingStop;
pub use timers::{QUIET, QUIET_WAIT};

/// The limits and timeouts of a session. Fixed when the session opens, and shared by many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelSettings {
    /// How strictly frames are judged.
    pub validation: Validation,
    /// The longest time without a data frame in either direction.
    pub idle: Option<Duration>,
    /// The longest time a session may last.
    pub lifetime: Option<Duration>,
    /// How long a peer may be silent before it is sent a Ping.
    pub ping: Option<Duration>,
    /// How long after the Ping a peer that is still silent counts as dead.
    pub pong: Duration,
    /// See [`Rules::frame_bytes_max`](super::scanner::Rules::frame_bytes_max).
    pub frame_bytes_max: u64,
    /// See [`Rules::message_bytes_max`](super::scanner::Rules::message_bytes_max).
    pub message_bytes_max: u64,
    /// See [`Rules::fragments_max`](super::scanner::Rules::fragments_max).
    pub fragments_max: u32,
    /// The most Pings and Pongs of each peer in one second of the session.
    pub control_per_second: Option<u16>,
    /// How fast the client may send, and the server.
    pub rates: [Option<RateLimit>; 2],
}

impl TunnelSettings {
    /// Settings that judge everything and limit nothing.
    #[cfg(test)]
    pub const UNLIMITED: TunnelSettings = TunnelSettings {
        validation: Validation::Strict,
        idle: None,
        lifetime: None,
        ping: None,
        pong: Duration::ZERO,
        frame_bytes_max: u64::MAX,
        message_bytes_max: u64::MAX,
        fragments_max: u32::MAX,
        control_per_second: None,
        rates: [None; 2],
    };

    /// Returns how long a peer may be silent before it is sent a Ping; `None` where none is sent.
    pub fn pings_after(&self) -> Option<Duration> {
        self.ping.filter(|_| self.validation != Validation::Off)
    }
}

/// How strictly frames are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Validation {
    /// Not at all. The tunnel is a blind pipe: it neither judges nor counts frames, and injects nothing.
    Off,
    /// Ends the session on anything ambiguous; lets pass what only breaks a rule, see [`Rules::tolerant`](super::scanner::Rules::tolerant).
    Lenient,
    /// By the letter of RFC 6455. Only a Pong to one of our own Pings is accepted however it is masked.
    Strict,
}

/// Serializes what many sessions share with each of them, and restores it as its own.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(shared: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
        shared.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(deserializer).map(Arc::new)
    }
}

/// What to do with the start of the slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelStep {
    /// Forward this many bytes to the other peer, then call `poll_inject`, then pass the rest.
    Forward(usize),
    /// Forward this many bytes, a whole control frame, with a corrected mask: see [`ControlFrame::masked_anew`].
    Remask(usize),
    /// Drop this many bytes.
    Drop(usize),
    /// Keep the slice (at most `FOREIGN_CONTROL_BYTES_MAX` bytes) and pass it again with more behind it.
    NeedMore,
    /// Keep the slice, and pass it again once [`Tunnel::is_delayed`] is false. Do not read this peer meanwhile.
    Wait,
}

/// What few sessions have. Boxed: 8 bytes in each of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Rare {
    stop: Option<PendingStop>,
    /// When its credential expires.
    expires: Option<MonotonicTime>,
    /// That time has come, and the next pause is awaited.
    is_expiring: bool,
    meters: [Option<Meter>; 2],
}

impl Rare {
    fn is_empty(&self) -> bool {
        let Rare { stop, expires, is_expiring: _, meters } = self;
        stop.is_none() && expires.is_none() && meters.iter().all(Option::is_none)
    }
}

/// The state of one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    #[serde(with = "shared")]
    settings: Arc<TunnelSettings>,
    /// Which reserved bits the negotiated extensions use.
    rsv: Rsv,
    /// Identify our own Pings, one key a side: what one peer sees of them says nothing about the other's. No peer knows
    /// another session's key, and a peer's own payloads do not match it by chance.
    ping_keys: [u64; 2],
    opened: MonotonicTime,
    /// When a data frame, or a part of one, last passed.
    data_at: MonotonicTime,
    rare: Option<Box<Rare>>,
    peers: [Peer; 2],
    closing: Option<Box<ClosingHandshake>>,
    /// A deadline may have come nearer since `poll_timeout` was last asked.
    timer_moved: bool,
    /// The second of the session in which `control_counts` were counted.
    control_second: u16,
    /// The Pings and Pongs of each peer in that second.
    control_counts: [u16; 2],
}

impl Tunnel {
    /// Creates the tunnel of a session that opened at `now`, with extensions that use `rsv`. `ping_keys`, for the
    /// client and for the server, should be random.
    pub fn new(settings: Arc<TunnelSettings>, rsv: Rsv, ping_keys: [u64; 2], now: MonotonicTime) -> Tunnel {
        let meters = settings.rates.map(|limit| limit.map(|limit| Meter::new(limit, now)));
        let is_metered = meters.iter().any(Option::is_some);
        Tunnel {
            settings,
            rsv,
            ping_keys,
            opened: now,
            data_at: now,
            rare: is_metered.then(|| Box::new(Rare { meters, ..Rare::default() })),
            peers: [Peer::new(now), Peer::new(now)],
            closing: None,
            timer_moved: true,
            control_second: 0,
            control_counts: [0; 2],
        }
    }

    /// Shares these settings if they are equal to its own. Returns its own, shared or not.
    pub fn share_settings(&mut self, settings: &Arc<TunnelSettings>) -> &Arc<TunnelSettings> {
        if *self.settings == **settings {
            self.settings = Arc::clone(settings);
        }
        &self.settings
    }

    /// Prepares for a driver that has not asked for a deadline yet.
    pub fn rearm(&mut self) {
        self.timer_moved = true;
    }

    /// Returns true unless the tunnel is a blind pipe.
    fn reads_frames(&self) -> bool {
        self.settings.validation != Validation::Off
    }

    fn peer(&self, side: Side) -> &Peer {
        &self.peers[side as usize]
    }

    fn peer_mut(&mut self, side: Side) -> &mut Peer {
        &mut self.peers[side as usize]
    }

    /// When a data frame, or a part of one, last passed.
    pub fn data_at(&self) -> MonotonicTime {
        self.data_at
    }

    // ---- events in

    /// Judges the start of `bytes`, which came from `from` after all earlier ones. Call again with the rest until it is
    /// used up or the answer is `NeedMore`.
    #[inline]
    pub fn handle_bytes(
        &mut self,
        now: MonotonicTime,
        from: Side,
        bytes: &[u8],
        observer: &mut impl Observer,
    ) -> TunnelStep {
        if bytes.is_empty() {
            return TunnelStep::NeedMore;
        }
        self.mark_alive(now, from);
        let allowed = if self.rare.is_some() { self.allowance(now, from, bytes.len()) } else { bytes.len() };
        let mut step = self.step(now, from, &bytes[..allowed], observer);
        if step == TunnelStep::NeedMore && allowed < bytes.len() {
            step = self.exceeded(now, from).unwrap_or_else(|| self.step(now, from, bytes, observer));
        }
        if step == TunnelStep::Wait {
            observer.delayed(from);
        }
        if let TunnelStep::Forward(taken) | TunnelStep::Remask(taken) = step {
            observer.bytes(from, taken);
            if self.rare.is_some() {
                self.bytes_passed(from, taken);
            }
            let in_frame = !self.peer(from).scanner.at_boundary();
            self.peer_mut(from.other()).in_frame = in_frame;
            self.extend_answer_wait(now, from);
        }
        // The end of a message brings the pause nearer that a stop waits for.
        if self.awaits_pause() {
            self.timer_moved = true;
        }
        step
    }

    #[inline]
    fn step(&mut self, now: MonotonicTime, from: Side, bytes: &[u8], observer: &mut impl Observer) -> TunnelStep {
        if bytes.is_empty() {
            TunnelStep::NeedMore
        } else if self.peer(from).ignore_input {
            TunnelStep::Drop(bytes.len())
        } else if self.reads_frames() {
            self.judge(now, from, bytes, observer)
        } else if self.peer(from.other()).write_closed {
            TunnelStep::Drop(bytes.len())
        } else {
            self.data_at = now;
            self.wait_from_now(now, HALF_CLOSED_WAIT);
            TunnelStep::Forward(bytes.len())
        }
    }

    /// Handles the end of this peer's stream (FIN, or an error that ends it).
    pub fn handle_eof(&mut self, now: MonotonicTime, side: Side) {
        let peer = self.peer_mut(side);
        if peer.eof {
            return;
        }
        peer.eof = true;
        peer.ignore_input = true;
        peer.owes_pong = false;
        self.timer_moved = true;
        match self.end() {
            None if self.reads_frames() => self.begin(now, End::Lost(side)),
            None => self.begin(now, End::Finished(side)),
            // The other peer asked to close and this one cannot answer: we answer in its place.
            Some(End::Closed { by, .. }) if *by == side.other() => self.answer_in_place_of(now, side),
            Some(_) => {}
        }
        // A server that has ended its stream and accepts no bytes: what is queued for it would only delay what the
        // client still sends. A client in that state may be slow to read what it asked for.
        if side == Side::Server && self.reads_frames() && self.peer(side).blocked {
            self.abandon(now, side);
        }
        self.close_writes_inside_frames();
    }

    /// Handles a failed write to this peer: nothing more will be written. What it sent before may still be read.
    pub fn handle_broken(&mut self, now: MonotonicTime, side: Side) {
        self.abandon(now, side);
        // It need not wait for what it has sent to pass: see `exceeded`.
        self.resume(now, side);
    }

    /// Notes that this peer accepts no more bytes for now.
    pub fn handle_blocked(&mut self, side: Side) {
        self.peer_mut(side).blocked = true;
    }

    /// Notes that this peer accepted bytes after `handle_blocked`, so it is alive. `drained` is true once nothing is
    /// queued for it.
    pub fn handle_progress(&mut self, now: MonotonicTime, side: Side, drained: bool) {
        // Only a write that was blocked before is a sign of life: what the kernel buffers at once, our own Ping too, is
        // none.
        if self.peer(side).blocked {
            self.mark_alive(now, side);
        }
        if drained {
            self.unblocked(now, side);
        } else {
            self.peer_mut(side).blocked = true;
        }
        if !drained && let Some(closing) = &mut self.closing {
            closing.give_up_at = closing.give_up_at.max((now + BOUNDARY_WAIT).min(closing.begun + SLOW_WAIT_MAX));
            self.timer_moved = true;
            return;
        }
        if self.peer(side).close_sent && drained {
            if self.only_ends_are_due() {
                self.await_ends(now);
            } else if matches!(self.end(), Some(End::Closed { .. })) {
                // It has received the Close only now.
                self.extend_wait(now, ANSWER_WAIT, SLOW_WAIT_MAX);
            } else {
                self.extend_wait(now, ECHO_WAIT, BOUNDARY_WAIT);
            }
        }
    }

    /// Ends the session as `End::Panicked` after a bug in the proxy. Nothing of its state is trusted but where frames
    /// end, and further input is dropped unread. A session that was already ending is over at once.
    pub fn abort(&mut self, now: MonotonicTime) {
        let was_closing = self.is_closing();
        for peer in &mut self.peers {
            peer.ignore_input = true;
            peer.owes_pong = false;
        }
        self.begin(now, End::Panicked);
        if let Some(closing) = self.closing.as_mut().filter(|_| was_closing) {
            closing.gave_up = true;
        }
    }

    // ---- work out

    /// Returns true if we want to send `to` a frame, now or at the end of the frame in progress.
    #[inline]
    pub fn wants_inject(&self, to: Side) -> bool {
        self.peer(to).wants_inject()
    }

    /// Returns a frame to write to `to` now, after all bytes forwarded so far. Call until `None`.
    pub fn poll_inject(
        &mut self,
        now: MonotonicTime,
        to: Side,
        mask: [u8; 4],
        observer: &mut impl Observer,
    ) -> Option<ControlFrame> {
        if !self.peer(to).wants_inject() || self.peer(to).in_frame {
            return None;
        }
        let mask = (to == Side::Server).then_some(mask);
        let key = self.ping_keys[to as usize];
        if let Some(close) = self.take_close(to) {
            self.peer_mut(to).close_sent = true;
            let (body, length) = close.body();
            if self.peers.iter().all(|peer| !peer.close_wanted) {
                self.await_ends(now);
            }
            return Some(ControlFrame::new(Opcode::Close, &body[..length], mask));
        }
        let peer = self.peer_mut(to);
        peer.pings = peer.pings.wrapping_add(1);
        peer.pinged = now;
        peer.set_liveness(now, Liveness::PingSent);
        let payload = ping_payload(key, peer.pings);
        self.timer_moved = true;
        observer.pinged(to);
        Some(ControlFrame::new(Opcode::Ping, &payload, mask))
    }

    /// Returns when the session opened.
    pub fn opened(&self) -> MonotonicTime {
        self.opened
    }

    /// Returns true while there is nothing to do but relay: no end has begun, and no frame of ours waits to be sent.
    #[inline]
    pub fn only_relays(&self) -> bool {
        self.closing.is_none() && !self.peers.iter().any(Peer::wants_inject)
    }

    /// Returns true if bytes from this peer may go on to the other. If not, it is read even while the other is blocked:
    /// its Close may come.
    pub fn forwards(&self, from: Side) -> bool {
        !self.peer(from).ignore_input && !self.peer(from).discard_frames && self.peer(from.other()).writable()
    }

    /// Returns true if nobody reads what is sent to this peer, including what is queued for it.
    pub fn is_gone(&self, side: Side) -> bool {
        self.peer(side).gone
    }

    /// Returns true if `from` should be read, until its stream has ended.
    pub fn wants_bytes(&self, from: Side) -> bool {
        !self.peer(from).eof
    }

    // ---- inside

    /// Gives up on sending anything more to this peer.
    fn abandon(&mut self, now: MonotonicTime, side: Side) {
        let peer = self.peer_mut(side);
        peer.write_closed = true;
        peer.gone = true;
        peer.close_wanted = false;
        self.unblocked(now, side);
    }
}

#[cfg(test)]
mod tests;
