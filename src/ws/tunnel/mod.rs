//! A session between two peers as a pure state machine: frames, timers, injected Pings and Closes, and the end.
//!
//! The driver tells it what happened (`handle_*`) and asks what to do (`poll_*`); it never sees a socket and `now` is
//! an argument. Bytes stay where they are: `handle_bytes` answers how many from the start of the slice go on to the
//! other peer and how many are dropped. What always holds:
//!
//! * The result does not depend on how the bytes were cut into slices.
//! * What leaves is what came, less swallowed control frames, plus injected ones, and wrongly masked control frames as they
//!   should be; a header leaves only when it is whole and judged, a control frame only when it is whole, so at most
//!   `FOREIGN_CONTROL_BYTES_MAX` bytes are ever held back.
//! * A frame is injected only between two frames, and nothing is sent to a peer after a Close.
//! * `End` says why a session ends and is told once; which codes the peers get is the driver's to say, by `close`.
//! * Given time it finishes: each wait of the closing handshake has a deadline, and so has a stop that waits for a pause.
//!
//! Two notions of silence are kept apart. *Idle* is no data frame in either direction: Pings and Pongs do not count.
//! *Dead* is a peer of which nothing at all is heard, not even the Pong to our Ping. Our Pings carry a key and a count;
//! their Pongs are swallowed. While a Ping of the far peer waits for its Pong we send none of our own (a peer may
//! answer only the latest of several, RFC 6455 §5.5.3): that Pong serves both.
//!
//! The whole state is this one plain struct. It can be written down and restored (serde), in the middle of anything.

mod closing;
mod end;
mod judge;
mod liveness;
mod peer;
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
use timers::PendingStop;
pub use timers::{QUIET, QUIET_WAIT};

/// What a session may do and for how long. Fixed when the session opens, and the same for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelSettings {
    /// How strictly frames are judged.
    pub validation: Validation,
    /// The longest time without a data frame in either direction.
    pub idle: Option<Duration>,
    /// The longest time a session may last.
    pub lifetime: Option<Duration>,
    /// A peer of which nothing was heard for so long is sent a Ping.
    pub ping: Option<Duration>,
    /// It is dead when so long after the Ping still nothing was heard.
    pub pong: Duration,
    /// See [`Rules::frame_bytes_max`].
    pub frame_bytes_max: u64,
    /// See [`Rules::message_bytes_max`].
    pub message_bytes_max: u64,
}

/// How strictly frames are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Validation {
    /// Not at all. The tunnel is a blind pipe: bytes are neither judged nor counted as frames, nothing is injected.
    Off,
    /// Whatever leaves a doubt about what is meant ends the session; what only breaks a rule passes, see [`Rules::tolerant`].
    Lenient,
    /// By the letter of RFC 6455. Only a Pong to a Ping of our own is taken however it is masked.
    Strict,
}

/// What many share is written down with each session and read back as its own.
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
    /// So many bytes go on to the other peer; then `poll_inject`, then the rest.
    Forward(usize),
    /// So many bytes, a whole control frame, go on masked as they must be: see [`ControlFrame::masked_anew`].
    Remask(usize),
    /// So many bytes go nowhere.
    Drop(usize),
    /// Keep the slice (at most `FOREIGN_CONTROL_BYTES_MAX` bytes) and show it again with more behind it.
    NeedMore,
}

/// The state of one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    #[serde(with = "shared")]
    settings: Arc<TunnelSettings>,
    /// Which reserved bits the negotiated extensions use.
    rsv: Rsv,
    /// Makes our Pings to a side ours, one key a side: what one peer has seen of ours tells it nothing of the other's.
    /// So no peer knows another session's key, and a peer's own payloads do not hit it by chance.
    ping_keys: [u64; 2],
    opened: MonotonicTime,
    /// When a data frame, or a part of one, last passed.
    data_at: MonotonicTime,
    stop: Option<Box<PendingStop>>,
    peers: [Peer; 2],
    closing: Option<Box<ClosingHandshake>>,
    /// A deadline may have come nearer since `poll_timeout` was last asked.
    timer_moved: bool,
}

impl Tunnel {
    /// A session that opened at `now`, with extensions that use `rsv`. `ping_keys`, for the client and for the server,
    /// should be random.
    pub fn new(settings: Arc<TunnelSettings>, rsv: Rsv, ping_keys: [u64; 2], now: MonotonicTime) -> Tunnel {
        Tunnel {
            settings,
            rsv,
            ping_keys,
            opened: now,
            data_at: now,
            stop: None,
            peers: [Peer::new(now), Peer::new(now)],
            closing: None,
            timer_moved: true,
        }
    }

    /// Whether it is no blind pipe.
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

    /// Judges what stands at the start of `bytes`, which came from `from` behind all that came before.
    /// Call again with the rest until it is used up or the answer is `NeedMore`.
    #[inline]
    pub fn handle_bytes(
        &mut self,
        now: MonotonicTime,
        from: Side,
        bytes: &[u8],
        seen: &mut impl Observer,
    ) -> TunnelStep {
        if bytes.is_empty() {
            return TunnelStep::NeedMore;
        }
        self.heard(now, from);
        let step = if self.peer(from).deaf {
            TunnelStep::Drop(bytes.len())
        } else if self.reads_frames() {
            self.judge(now, from, bytes, seen)
        } else if self.peer(from.other()).cut {
            TunnelStep::Drop(bytes.len())
        } else {
            self.data_at = now;
            self.wait_from_now(now, HALF_CLOSED_WAIT);
            TunnelStep::Forward(bytes.len())
        };
        if let TunnelStep::Forward(taken) | TunnelStep::Remask(taken) = step {
            seen.bytes(from, taken);
            let in_frame = !self.peer(from).scanner.at_boundary();
            self.peer_mut(from.other()).in_frame = in_frame;
            self.answer_is_on_its_way(now, from);
        }
        // With the end of a message the pause that a stop waits for is near.
        if self.stop.is_some() {
            self.timer_moved = true;
        }
        step
    }

    /// This peer's stream ended (FIN, or an error that ends it).
    pub fn handle_eof(&mut self, now: MonotonicTime, side: Side) {
        let peer = self.peer_mut(side);
        if peer.eof {
            return;
        }
        peer.eof = true;
        peer.deaf = true;
        peer.owes_pong = false;
        self.timer_moved = true;
        match self.end() {
            None if self.reads_frames() => self.begin(now, End::Lost(side)),
            None => self.begin(now, End::Finished(side)),
            // The other peer asked to close and can get no answer from this one: it gets one from us.
            Some(End::Closed { by, .. }) if *by == side.other() => self.answer_for(now, side),
            Some(_) => {}
        }
        // A server that has ended its stream and takes nothing: what waits for it would only be in the way of what the
        // client still says. A client that has may be slow to read what it asked for.
        if side == Side::Server && self.reads_frames() && self.peer(side).blocked {
            self.abandon(now, side);
        }
        self.cut_where_no_boundary_comes();
    }

    /// Bytes to this peer could not be written: nothing more will be. What it sent before may still be read.
    pub fn handle_broken(&mut self, now: MonotonicTime, side: Side) {
        self.abandon(now, side);
    }

    /// This peer takes no more bytes for now.
    pub fn handle_blocked(&mut self, side: Side) {
        self.peer_mut(side).blocked = true;
    }

    /// This peer took bytes again after `handle_blocked`: it lives. `drained` tells that none are waiting any more.
    pub fn handle_progress(&mut self, now: MonotonicTime, side: Side, drained: bool) {
        // Only room that was wanting is a sign of life: what the kernel takes at once, our own Ping too, says nothing.
        if self.peer(side).blocked {
            self.heard(now, side);
        }
        if drained {
            self.unblocked(now, side);
        } else {
            self.peer_mut(side).blocked = true;
        }
        if !drained && let Some(closing) = &mut self.closing {
            closing.give_up = closing.give_up.max((now + BOUNDARY_WAIT).min(closing.begun + SLOW_WAIT_MAX));
            self.timer_moved = true;
            return;
        }
        if self.peer(side).close_sent && drained {
            if self.only_ends_are_due() {
                self.await_ends(now);
            } else if matches!(self.end(), Some(End::Closed { .. })) {
                // It has the Close only now.
                self.extend_wait(now, ANSWER_WAIT, SLOW_WAIT_MAX);
            } else {
                self.extend_wait(now, ECHO_WAIT, BOUNDARY_WAIT);
            }
        }
    }

    /// The proxy itself has failed on this session, so that nothing of its state can be relied on but where frames end: what
    /// comes is dropped unread, and as `End::Panicked` it ends. One that was ending already is over at once.
    pub fn abort(&mut self, now: MonotonicTime) {
        let was_closing = self.is_closing();
        for peer in &mut self.peers {
            peer.deaf = true;
            peer.owes_pong = false;
        }
        self.begin(now, End::Panicked);
        if let Some(closing) = self.closing.as_mut().filter(|_| was_closing) {
            closing.gave_up = true;
        }
    }

    // ---- work out

    /// Whether a frame of ours is due towards `to`, now or at the end of the frame in progress.
    #[inline]
    pub fn wants_inject(&self, to: Side) -> bool {
        self.peer(to).wants_inject()
    }

    /// A frame to write to `to` now, behind all bytes forwarded so far. Ask until `None`.
    pub fn poll_inject(
        &mut self,
        now: MonotonicTime,
        to: Side,
        mask: [u8; 4],
        seen: &mut impl Observer,
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
        peer.doubt(now, Liveness::Asked);
        let payload = ping_payload(key, peer.pings);
        self.timer_moved = true;
        seen.pinged(to);
        Some(ControlFrame::new(Opcode::Ping, &payload, mask))
    }

    /// When it opened.
    pub fn opened(&self) -> MonotonicTime {
        self.opened
    }

    /// Whether nothing is due but to pass on what comes: no end has begun, no frame of ours waits for its place.
    #[inline]
    pub fn only_relays(&self) -> bool {
        self.closing.is_none() && !self.peers.iter().any(Peer::wants_inject)
    }

    /// Whether bytes from this peer may go on to the other. Where not, it is read even while the other takes nothing: its
    /// Close may come.
    pub fn forwards(&self, from: Side) -> bool {
        !self.peer(from).deaf && !self.peer(from).muted && self.peer(from.other()).writable()
    }

    /// Whether nobody reads what is sent to this peer, what waits for it included.
    pub fn is_gone(&self, side: Side) -> bool {
        self.peer(side).gone
    }

    /// Whether `from` should be read: bytes of a peer that is gone or of no interest to anybody need no reading.
    pub fn wants_bytes(&self, from: Side) -> bool {
        !self.peer(from).eof
    }

    // ---- inside

    /// Nobody reads any more what is sent to this peer.
    fn abandon(&mut self, now: MonotonicTime, side: Side) {
        let peer = self.peer_mut(side);
        peer.cut = true;
        peer.gone = true;
        peer.close_wanted = false;
        self.unblocked(now, side);
    }
}

#[cfg(test)]
mod tests;
