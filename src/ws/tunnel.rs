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

mod end;
mod peer;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Side;
use super::close::{Close, CloseBody};
use super::frame::{CONTROL_PAYLOAD_MAX, ControlFrame, FrameHeader, Opcode, apply_mask};
use super::scanner::{ControlFrameSpan, EndedMessage, FrameRefusal, Item, Rsv, Rules, Run, Violation};
use crate::base::time::MonotonicTime;
pub use end::{End, Farewell, Observer, Stopping};
use peer::{Liveness, Peer};

/// How long a peer may take to answer our Close, and to end the connection after both Closes.
pub const ECHO_WAIT: Duration = Duration::from_secs(2);
/// How long our Close may wait for the end of the frame in progress, and again, once it stands behind bytes that a slow
/// peer has still to take, for that peer.
pub const BOUNDARY_WAIT: Duration = Duration::from_secs(10);
/// How long a peer that goes on taking what waits for it, however slowly, may put off the end.
pub const SLOW_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a peer may be silent before it answers the other peer's Close: then it is answered in its place. Browsers give
/// up after 10 s and report 1006.
pub const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long a peer may go on sending before it answers the other peer's Close.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long nothing passes in the open half of a blind pipe, one half of which has ended, before it is let go.
pub const HALF_CLOSED_WAIT: Duration = Duration::from_secs(30);
/// How long no data has passed when a session that is to stop is quiet: longer than a question takes to its answer on
/// nearly all paths (a round trip between continents and the server's own time), so that an exchange is not cut in two.
pub const QUIET: Duration = Duration::from_millis(200);
/// How long a session that is to stop is waited for to be quiet. One that streams never is, and whoever waits for the last
/// of them has no more than some seconds to spare.
pub const QUIET_WAIT: Duration = Duration::from_secs(3);

/// How late a timer is that tells of a stall of ours, in which nobody was read: far above what a busy worker is late by.
pub const STALL: Duration = Duration::from_secs(1);

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

/// How a session ends, once something has begun that. Boxed: most of a session's life there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ClosingHandshake {
    end: End,
    /// `poll_end` has told it.
    told: bool,
    /// Bounds how far `give_up` may be put off.
    begun: MonotonicTime,
    /// When patience ends.
    give_up: MonotonicTime,
    /// It has ended.
    gave_up: bool,
    /// What each peer that is `close_wanted` is to get.
    closes: [Option<Close>; 2],
}

/// That a session is to end although it is well. Boxed as `ClosingHandshake` is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PendingStop {
    /// From when on, where it is quiet then.
    at: MonotonicTime,
    /// When it ends whether quiet or not.
    latest: MonotonicTime,
    why: Stopping,
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

    fn judge(&mut self, now: MonotonicTime, from: Side, bytes: &[u8], seen: &mut impl Observer) -> TunnelStep {
        let mut passed = Passed::default();
        let step = self.judge_each(now, from, bytes, &mut passed, seen);
        passed.tell(from, seen);
        step
    }

    #[inline]
    fn judge_each(
        &mut self,
        now: MonotonicTime,
        from: Side,
        bytes: &[u8],
        passed: &mut Passed,
        seen: &mut impl Observer,
    ) -> TunnelStep {
        let to = from.other();
        let mut rules = Rules {
            from,
            rsv: self.rsv,
            frame_bytes_max: self.settings.frame_bytes_max,
            message_bytes_max: self.settings.message_bytes_max,
            tolerant: false,
        };
        let mut at = 0;
        loop {
            let muted = self.peer(from).muted || !self.peer(to).writable();
            if muted {
                // Nothing of this goes anywhere: only the framing still matters.
                rules.frame_bytes_max = u64::MAX;
                rules.message_bytes_max = u64::MAX;
            }
            let taken = |at| if muted { TunnelStep::Drop(at) } else { TunnelStep::Forward(at) };
            let rest = &bytes[at..];
            let scanner = &mut self.peers[from as usize].scanner;
            if at > 0 && (rest.is_empty() || (scanner.at_boundary() && self.peer(to).wants_inject())) {
                return taken(at);
            }
            let most = if muted { 0 } else { self.alike_max(from, rest) };
            if most > 0
                && let Some(run) = self.peers[from as usize].scanner.run(&rules, rest, most)
            {
                at += run.bytes;
                self.run_passed(now, from, run, passed, seen);
                continue;
            }
            let mut item = self.peers[from as usize].scanner.next(&rules, rest);
            if let Err(FrameRefusal::Violation(violation)) = item
                && at == 0
                && let Some(tolerated) = self.tolerated(&rules, violation, rest)
            {
                if matches!(tolerated, Ok(item) if item != Item::Incomplete) {
                    seen.tolerated(from, violation);
                }
                item = tolerated;
            }
            match item {
                Ok(Item::Data { header, ends }) => {
                    at += header;
                    self.data_passed(now, from, ends.filter(|_| !muted), passed, seen);
                }
                Ok(Item::Payload { bytes, ends }) => {
                    at += bytes;
                    self.data_passed(now, from, ends.filter(|_| !muted), passed, seen);
                }
                Ok(Item::Incomplete) if at > 0 => return taken(at),
                Ok(Item::Incomplete) => return TunnelStep::NeedMore,
                Ok(Item::Control(control)) => {
                    let (payload, length) = unmasked(&control, rest);
                    let payload = &payload[..length];
                    let is_masked_well = control.mask.is_some() == (from == Side::Client);
                    match control.opcode {
                        Opcode::Pong if self.is_ours(from, payload).is_some() => {
                            if at > 0 {
                                return taken(at);
                            }
                            if self.is_ours(from, payload) == Some(self.peer(from).pings) {
                                seen.round_trip(from, now.since(self.peer(from).pinged));
                            }
                            return TunnelStep::Drop(control.bytes);
                        }
                        Opcode::Close => match CloseBody::parse(payload) {
                            Ok(_) if at > 0 => return taken(at),
                            Ok(body) => {
                                if !muted {
                                    seen.control(from, Opcode::Close, 1);
                                }
                                self.close_received(now, from, body, !muted);
                                return if is_masked_well || muted {
                                    taken(control.bytes)
                                } else {
                                    TunnelStep::Remask(control.bytes)
                                };
                            }
                            Err(_) if at > 0 => return taken(at),
                            Err(error) => {
                                self.refuse(now, from, FrameRefusal::from(error));
                                return TunnelStep::Drop(bytes.len());
                            }
                        },
                        opcode => {
                            at += control.bytes;
                            if !muted {
                                self.control_passed(from, opcode, 1, passed);
                                if !is_masked_well {
                                    return TunnelStep::Remask(control.bytes);
                                }
                            }
                        }
                    }
                }
                Err(_) if at > 0 => return taken(at),
                Err(refusal) => {
                    self.refuse(now, from, refusal);
                    if self.peer(from).deaf {
                        return TunnelStep::Drop(bytes.len());
                    }
                }
            }
        }
    }

    /// What stands at the start of `bytes` for whoever does not mind that it breaks this rule, where that does no harm.
    #[cold]
    fn tolerated(&mut self, rules: &Rules, violation: Violation, bytes: &[u8]) -> Option<Result<Item, FrameRefusal>> {
        let is_lenient = self.settings.validation == Validation::Lenient;
        let (header, _) = FrameHeader::parse(bytes).ok().flatten()?;
        let may_be_ours = header.opcode == Opcode::Pong && header.payload == PING_BYTES as u64;
        let passes = match violation {
            Violation::LengthNotMinimal => is_lenient || may_be_ours,
            // Masking is there for what is between us and the peer; we mask anew. Payload of data is not ours to touch.
            Violation::UnmaskedFrame | Violation::MaskedFrame => {
                header.opcode.is_control() && header.rsv == 0 && (is_lenient || may_be_ours)
            }
            _ => false,
        };
        if !passes {
            return None;
        }
        let rules = Rules { tolerant: true, ..*rules };
        let item = self.peers[rules.from as usize].scanner.next(&rules, bytes);
        if let Ok(Item::Control(control)) = item
            && !is_lenient
        {
            let (payload, length) = unmasked(&control, bytes);
            self.is_ours(rules.from, &payload[..length])?;
        }
        Some(item)
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

    /// The time of `poll_timeout` has come.
    pub fn handle_timeout(&mut self, now: MonotonicTime) {
        self.timer_moved = true;
        match &self.closing {
            Some(closing) if !closing.gave_up && closing.give_up <= now => self.give_up(now),
            Some(_) if !self.is_half_closed() => {}
            _ => {
                if let Some(stop) = &self.stop
                    && self.stop_due(stop) <= now
                {
                    let end = End::Stopped(stop.why.clone());
                    self.begin(now, end);
                } else if self.lifetime_due().is_some_and(|at| at <= now) {
                    self.begin(now, End::Lifetime);
                } else if let Some(due) = self.idle_due().filter(|due| *due <= now) {
                    // As with Pongs: data may wait in the sockets since before we stood still.
                    if now.since(due) >= STALL {
                        self.data_at = now;
                    } else {
                        self.begin(now, End::Idle);
                    }
                } else {
                    for side in Side::BOTH {
                        self.check_liveness(now, side);
                    }
                }
            }
        }
    }

    /// From `at` on the session ends as `End::Stopped`, in its first pause: when no message is under way in either
    /// direction and no data has passed for [`QUIET`]. With no pause by `at` + [`QUIET_WAIT`], or by `by` if that is earlier,
    /// it ends then. Whoever says it again can only make it end earlier; the reason is that of the earliest `at`.
    pub fn stop(&mut self, at: MonotonicTime, by: Option<MonotonicTime>, why: Stopping) {
        let by = by.unwrap_or(at + QUIET_WAIT);
        let mut stop = PendingStop { at: at.min(by), latest: by.min(at + QUIET_WAIT), why };
        self.timer_moved = true;
        if let Some(before) = &mut self.stop {
            stop.latest = stop.latest.min(before.latest);
            if before.at <= stop.at {
                before.latest = stop.latest;
                return;
            }
        }
        self.stop = Some(Box::new(stop));
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

    /// Takes back what was said to `stop`, unless its moment has come.
    pub fn go_on(&mut self) {
        self.stop = None;
    }

    /// Answers an `End`: the last that this peer gets.
    pub fn close(&mut self, now: MonotonicTime, to: Side, farewell: Farewell) {
        self.timer_moved = true;
        match farewell {
            Farewell::Nothing => {}
            Farewell::Close(close) if self.reads_frames() => {
                if self.peer(to).writable() {
                    self.want_close(to, close);
                }
                self.cut_where_no_boundary_comes();
                self.extend_wait(now, BOUNDARY_WAIT, BOUNDARY_WAIT);
            }
            // A blind pipe has no frames to put a Close between: its stream just ends.
            Farewell::Close(_) | Farewell::Cut => {
                let peer = self.peer_mut(to);
                peer.cut = true;
                peer.close_wanted = false;
                // What waits for it is to leave first.
                if !peer.blocked || !self.reads_frames() {
                    self.wait_from_now(now, ECHO_WAIT);
                }
            }
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

    /// Why the session ends, once. The driver answers with `close` for each side.
    pub fn poll_end(&mut self) -> Option<&End> {
        let closing = self.closing.as_mut().filter(|closing| !closing.told)?;
        closing.told = true;
        Some(&closing.end)
    }

    /// Why the session ends, if it does.
    pub fn end(&self) -> Option<&End> {
        self.closing.as_ref().map(|closing| &closing.end)
    }

    /// When that began; what follows is only the closing handshake.
    pub fn end_began(&self) -> Option<MonotonicTime> {
        self.closing.as_ref().map(|closing| closing.begun)
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

    /// Whether the stream to this peer should end (FIN) as soon as all bytes to it are written.
    ///
    /// To a client once the closing handshake is complete (RFC 6455 §7.1.1: the server closes first), or at once behind our
    /// Close where nothing that it says counts any more, its answer included (§7.1.7); to a server when it has ended its
    /// own, so that the TIME_WAIT is not ours.
    pub fn poll_shutdown(&self, to: Side) -> bool {
        if !self.is_closing() {
            return false;
        }
        let peer = self.peer(to);
        let far = self.peer(to.other());
        if peer.cut || self.gave_up() {
            return true;
        }
        if peer.close_wanted {
            return false;
        }
        let nothing_more = peer.close_sent || far.eof;
        match to {
            _ if !self.reads_frames() => far.eof,
            Side::Client => nothing_more && peer.deaf,
            Side::Server => nothing_more && peer.eof,
        }
    }

    /// Whether all is done: write what is left, and let both connections go.
    pub fn is_finished(&self) -> bool {
        let [client, server] = &self.peers;
        self.gave_up() || (client.eof && server.eof && !client.wants_inject() && !server.wants_inject())
    }

    /// Whether everything has been said: the closing handshake with the client is complete and the server has ended its
    /// stream. A connection whose end needs no words of its own may then be let go without awaiting the client's FIN.
    pub fn is_agreed(&self) -> bool {
        let [client, server] = &self.peers;
        client.close_sent && client.close_received && server.eof && self.reads_frames()
    }

    /// Whether patience is over: the connections are let go whatever is left.
    pub fn gave_up(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.gave_up)
    }

    /// Whether the closing has begun.
    pub fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// A blind pipe of which one half has ended: the other half goes on, and the session may still be ended.
    fn is_half_closed(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| matches!(closing.end, End::Finished(_)) && !closing.gave_up)
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

    /// Whether a Pong is awaited: then `now` should be exact, for the round trip.
    pub fn awaits_pong(&self) -> bool {
        self.peers.iter().any(|peer| peer.liveness == Liveness::Asked)
    }

    /// Tells once that `poll_timeout` should be asked again, because a deadline may have come nearer.
    pub fn timer_moved(&mut self) -> bool {
        std::mem::take(&mut self.timer_moved)
    }

    /// When `handle_timeout` is next due. It may be late in coming: deadlines that move away are not reported.
    pub fn poll_timeout(&self) -> Option<MonotonicTime> {
        let give_up = self.closing.as_ref().filter(|closing| !closing.gave_up).map(|closing| closing.give_up);
        if self.is_closing() && !self.is_half_closed() {
            return give_up;
        }
        let liveness = Side::BOTH.map(|side| self.liveness_due(side));
        let stop = self.stop.as_ref().map(|stop| self.stop_due(stop));
        let all = [give_up, stop, self.lifetime_due(), self.idle_due(), liveness[0], liveness[1]];
        all.into_iter().flatten().min()
    }

    // ---- inside

    /// A sign of life. Where it was doubted, the next Ping may be nearer than the end of the doubt was.
    #[inline]
    fn heard(&mut self, now: MonotonicTime, side: Side) {
        let peer = self.peer_mut(side);
        let was_doubted = peer.liveness != Liveness::Heard;
        peer.heard = now;
        peer.liveness = Liveness::Heard;
        self.timer_moved |= was_doubted;
    }

    /// Nobody reads any more what is sent to this peer.
    fn abandon(&mut self, now: MonotonicTime, side: Side) {
        let peer = self.peer_mut(side);
        peer.cut = true;
        peer.gone = true;
        peer.close_wanted = false;
        self.unblocked(now, side);
    }

    /// Nothing waits for this peer any more, so the other one is read again. Whatever that one has said meanwhile is still
    /// to be read: its waits begin anew.
    fn unblocked(&mut self, now: MonotonicTime, side: Side) {
        if !std::mem::take(&mut self.peer_mut(side).blocked) {
            return;
        }
        let unread = self.peer_mut(side.other());
        match unread.liveness {
            Liveness::Heard => unread.heard = now,
            Liveness::Wanted | Liveness::Asked => unread.since = now,
        }
        self.timer_moved = true;
    }

    fn data_passed(
        &mut self,
        now: MonotonicTime,
        from: Side,
        ends: Option<EndedMessage>,
        passed: &mut Passed,
        seen: &mut impl Observer,
    ) {
        self.data_at = now;
        if let Some(message) = ends {
            passed.message(from, message, 1, seen);
        }
    }

    #[inline]
    fn run_passed(&mut self, now: MonotonicTime, from: Side, run: Run, passed: &mut Passed, seen: &mut impl Observer) {
        match run.opcode {
            Opcode::Text | Opcode::Binary => {
                self.data_at = now;
                passed.message(from, EndedMessage { opcode: run.opcode, bytes: run.payload }, run.count, seen);
            }
            Opcode::Continuation => self.data_at = now,
            control => self.control_passed(from, control, run.count, passed),
        }
    }

    /// Pings or Pongs of this peer went on.
    #[inline]
    fn control_passed(&mut self, from: Side, opcode: Opcode, count: u32, passed: &mut Passed) {
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

    /// How many of the frames at the start of `bytes` may be taken in one go if they are alike: a Pong that has the length of
    /// ours is looked at, and left alone if it has our key.
    #[inline]
    fn alike_max(&self, from: Side, bytes: &[u8]) -> usize {
        let &[0x8A, second, ..] = bytes else { return usize::MAX };
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

    fn is_ours(&self, from: Side, payload: &[u8]) -> Option<u32> {
        let (key, count) = payload.split_first_chunk::<8>()?;
        let count = u32::from_be_bytes(*count.first_chunk::<4>()?);
        let ours = payload.len() == PING_BYTES
            && u64::from_be_bytes(*key) == self.ping_keys[from as usize]
            && count.wrapping_sub(1) < self.peer(from).pings;
        ours.then_some(count)
    }

    fn close_received(&mut self, now: MonotonicTime, from: Side, body: CloseBody, forwarded: bool) {
        let peer = self.peer_mut(from);
        peer.close_received = true;
        peer.deaf = true;
        if forwarded {
            self.peer_mut(from.other()).close_sent = true;
            self.peer_mut(from.other()).close_wanted = false;
        }
        let far_is_gone = self.peer(from.other()).eof;
        if !self.is_closing() {
            self.begin(now, End::Closed { by: from, body });
            if far_is_gone {
                self.answer_for(now, from.other());
            }
        }
        if self.peers.iter().all(|peer| peer.close_received && peer.close_sent) {
            self.await_ends(now);
        }
    }

    /// There is a Close for `to` only where an end has begun.
    fn want_close(&mut self, to: Side, close: Close) {
        if let Some(closing) = &mut self.closing {
            closing.closes[to as usize] = Some(close);
            self.peer_mut(to).close_wanted = true;
        }
    }

    fn take_close(&mut self, to: Side) -> Option<Close> {
        if !std::mem::take(&mut self.peer_mut(to).close_wanted) {
            return None;
        }
        self.closing.as_mut()?.closes[to as usize].take()
    }

    /// The other peer of `gone` asked to close and gets its own code back (RFC 6455 §5.5.1), from us.
    fn answer_for(&mut self, now: MonotonicTime, gone: Side) {
        let asker = gone.other();
        let Some(End::Closed { body, .. }) = self.end() else { return };
        let close = Close { code: body.code, reason: Cow::Borrowed("") };
        if self.peer(asker).close_received && self.peer(asker).writable() {
            self.want_close(asker, close);
            self.peer_mut(gone).muted = true;
            self.cut_where_no_boundary_comes();
            self.await_ends(now);
        }
    }

    fn refuse(&mut self, now: MonotonicTime, from: Side, refusal: FrameRefusal) {
        let was_closing = self.is_closing();
        match refusal {
            FrameRefusal::FrameTooLarge => self.begin(now, End::FrameTooLarge(from)),
            FrameRefusal::MessageTooLarge => self.begin(now, End::MessageTooLarge(from)),
            FrameRefusal::Violation(violation) => {
                self.peer_mut(from).deaf = true;
                self.begin(now, End::Violation { by: from, label: Cow::Borrowed(Violation::label(violation)) });
            }
        }
        self.peer_mut(from).muted = true;
        if was_closing {
            // Its Close will not be passed on any more; the other peer, if it asked to close, must not wait for it.
            self.answer_for(now, from);
        }
    }

    fn begin(&mut self, now: MonotonicTime, end: End) {
        if self.is_closing() && !self.is_half_closed() {
            return;
        }
        match &end {
            // The server that went will read nothing; the client that went may still read the answer to its last frame.
            End::Lost(Side::Server) => self.abandon(now, Side::Server),
            End::Dead(side) => {
                self.abandon(now, *side);
                let peer = self.peer_mut(*side);
                peer.eof = true;
                peer.deaf = true;
            }
            _ => {}
        }
        for peer in &mut self.peers {
            peer.liveness = Liveness::Heard;
        }
        let wait = match &end {
            End::Closed { by, .. } if !self.peer(by.other()).blocked => ANSWER_WAIT,
            End::Finished(_) => HALF_CLOSED_WAIT,
            _ => BOUNDARY_WAIT,
        };
        self.closing = Some(Box::new(ClosingHandshake {
            end,
            told: false,
            begun: now,
            give_up: now + wait,
            gave_up: false,
            closes: [None, None],
        }));
        self.timer_moved = true;
    }

    /// Where our Close waits for the end of a frame that will never end, it cannot be sent.
    fn cut_where_no_boundary_comes(&mut self) {
        for to in Side::BOTH {
            let far = self.peer(to.other());
            if (far.eof || far.deaf) && self.peer(to).in_frame && self.reads_frames() {
                let peer = self.peer_mut(to);
                peer.cut = true;
                peer.close_wanted = false;
            }
        }
    }

    /// A peer that was asked to close may first send what it has to say.
    #[inline]
    fn answer_is_on_its_way(&mut self, now: MonotonicTime, from: Side) {
        let is_asked = |closing: &ClosingHandshake| matches!(closing.end, End::Closed { by, .. } if by == from.other());
        if self.closing.as_deref().is_some_and(is_asked) && !self.peer(from).close_received {
            self.extend_wait(now, ANSWER_WAIT, ANSWER_WAIT_MAX);
        }
    }

    /// Waits until `wait` from now, if that is later than planned, but no longer than `longest` in all.
    fn extend_wait(&mut self, now: MonotonicTime, wait: Duration, longest: Duration) {
        if let Some(closing) = &mut self.closing {
            closing.give_up = closing.give_up.max((now + wait).min(closing.begun + longest));
            self.timer_moved = true;
        }
    }

    /// Waits `wait` from now, whatever was planned.
    fn wait_from_now(&mut self, now: MonotonicTime, wait: Duration) {
        if let Some(closing) = &mut self.closing {
            closing.give_up = now + wait;
            self.timer_moved = true;
        }
    }

    /// All Closes there will be have been handed out; what is left is that the peers answer and end.
    fn only_ends_are_due(&self) -> bool {
        let exchanged = || self.peers.iter().all(|peer| peer.close_received && peer.close_sent);
        let answered = || self.peers.iter().any(|peer| peer.muted);
        self.peers.iter().all(|peer| !peer.close_wanted)
            && (!matches!(self.end(), Some(End::Closed { .. })) || exchanged() || answered())
    }

    /// The echo is awaited from the moment the Close has left: one that stands behind bytes which its peer does not take
    /// at the moment is given the time to leave first.
    fn await_ends(&mut self, now: MonotonicTime) {
        let is_due = |peer: &Peer| peer.close_sent || peer.close_wanted;
        let stuck = self.peers.iter().any(|peer| peer.blocked && !peer.cut && is_due(peer));
        self.wait_from_now(now, if stuck { BOUNDARY_WAIT } else { ECHO_WAIT });
    }

    /// Patience is over. A peer that asked to close and got no answer gets ours; otherwise this is the end.
    fn give_up(&mut self, now: MonotonicTime) {
        if let Some(End::Closed { by, .. }) = self.end() {
            let by = *by;
            let far = by.other();
            if !self.peer(far).muted && !self.peer(far).close_received && self.reads_frames() {
                self.answer_for(now, far);
                if self.peer(by).wants_inject() && !self.peer(by).in_frame {
                    return;
                }
            }
        }
        if let Some(closing) = &mut self.closing {
            closing.gave_up = true;
        }
    }

    /// When it ends, as things are: later if more data passes, earlier if the message under way ends.
    fn stop_due(&self, stop: &PendingStop) -> MonotonicTime {
        match self.peers.iter().any(|peer| peer.scanner.in_message()) {
            true => stop.latest,
            false => stop.at.max(self.data_at + QUIET).min(stop.latest),
        }
    }

    fn lifetime_due(&self) -> Option<MonotonicTime> {
        self.settings.lifetime.map(|lifetime| self.opened + lifetime)
    }

    fn idle_due(&self) -> Option<MonotonicTime> {
        self.settings.idle.map(|idle| self.data_at + idle)
    }

    /// A peer is not judged while it is not read, because what it sends has nowhere to go: its Pong may be among that.
    fn liveness_due(&self, side: Side) -> Option<MonotonicTime> {
        if self.peer(side.other()).blocked {
            return None;
        }
        let ping = self.settings.ping.filter(|_| self.reads_frames())?;
        let peer = self.peer(side);
        Some(match peer.liveness {
            Liveness::Heard => peer.heard + ping,
            Liveness::Wanted | Liveness::Asked => peer.since + self.settings.pong,
        })
    }

    fn check_liveness(&mut self, now: MonotonicTime, side: Side) {
        let Some(due) = self.liveness_due(side).filter(|&due| due <= now && !self.is_closing()) else { return };
        let peer = self.peer_mut(side);
        match peer.liveness {
            // Who comes so late was not there to read either (a suspended process, a machine that moved): it asks again.
            Liveness::Wanted | Liveness::Asked if now.since(due) >= STALL => peer.since = now,
            Liveness::Heard if peer.owes_pong => peer.doubt(now, Liveness::Asked),
            Liveness::Heard => peer.doubt(now, Liveness::Wanted),
            // The Ping could not leave because the peer takes nothing at all: that is an answer too.
            Liveness::Wanted if peer.blocked || peer.cut => self.begin(now, End::Dead(side)),
            // It could not leave because a long frame is on its way, which the peer takes.
            Liveness::Wanted => peer.doubt(now, Liveness::Wanted),
            Liveness::Asked => self.begin(now, End::Dead(side)),
        }
    }
}

/// A Ping of ours carries its key and its count.
const PING_BYTES: usize = 12;

/// What has passed in one go and has not been told: a flood of small frames is told in few words.
#[derive(Default)]
struct Passed {
    /// The last texts and the last binary messages, if they are alike.
    texts: Option<(EndedMessage, u32)>,
    binaries: Option<(EndedMessage, u32)>,
    pings: u32,
    pongs: u32,
}

impl Passed {
    #[inline]
    fn message(&mut self, from: Side, message: EndedMessage, count: u32, seen: &mut impl Observer) {
        let alike = if message.opcode == Opcode::Text { &mut self.texts } else { &mut self.binaries };
        match alike {
            Some((last, so_far)) if *last == message => *so_far += count,
            other => {
                if let Some((last, so_far)) = other.replace((message, count)) {
                    seen.message(from, last, so_far);
                }
            }
        }
    }

    #[inline]
    fn tell(self, from: Side, seen: &mut impl Observer) {
        for (message, count) in [self.texts, self.binaries].into_iter().flatten() {
            seen.message(from, message, count);
        }
        for (opcode, count) in [(Opcode::Ping, self.pings), (Opcode::Pong, self.pongs)] {
            if count > 0 {
                seen.control(from, opcode, count);
            }
        }
    }
}

fn ping_payload(key: u64, count: u32) -> [u8; PING_BYTES] {
    let mut payload = [0; PING_BYTES];
    payload[..8].copy_from_slice(&key.to_be_bytes());
    payload[8..].copy_from_slice(&count.to_be_bytes());
    payload
}

/// A copy of a control frame's payload, unmasked, with its length.
fn unmasked(control: &ControlFrameSpan, bytes: &[u8]) -> ([u8; CONTROL_PAYLOAD_MAX], usize) {
    let masked = &bytes[control.header..control.bytes];
    let mut payload = [0; CONTROL_PAYLOAD_MAX];
    payload[..masked.len()].copy_from_slice(masked);
    if let Some(key) = control.mask {
        apply_mask(key, &mut payload[..masked.len()]);
    }
    (payload, masked.len())
}

#[cfg(test)]
mod tests;
