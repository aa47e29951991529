//! The closing handshake: how an end begins, which Closes are sent, and how long each answer may take.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::liveness::Liveness;
use super::peer::Peer;
use super::{End, Farewell, Tunnel};
use crate::base::time::MonotonicTime;
use crate::ws::Side;
use crate::ws::close::{Close, CloseBody};

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

/// How a session ends, once something has begun that. Boxed: most of a session's life there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClosingHandshake {
    pub(super) end: End,
    /// `poll_end` has told it.
    pub(super) told: bool,
    /// Bounds how far `give_up` may be put off.
    pub(super) begun: MonotonicTime,
    /// When patience ends.
    pub(super) give_up: MonotonicTime,
    /// It has ended.
    pub(super) gave_up: bool,
    /// What each peer that is `close_wanted` is to get.
    pub(super) closes: [Option<Close>; 2],
}

impl Tunnel {
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
    pub(super) fn is_half_closed(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| matches!(closing.end, End::Finished(_)) && !closing.gave_up)
    }

    pub(super) fn begin(&mut self, now: MonotonicTime, end: End) {
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

    pub(super) fn close_received(&mut self, now: MonotonicTime, from: Side, body: CloseBody, forwarded: bool) {
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
    pub(super) fn want_close(&mut self, to: Side, close: Close) {
        if let Some(closing) = &mut self.closing {
            closing.closes[to as usize] = Some(close);
            self.peer_mut(to).close_wanted = true;
        }
    }

    pub(super) fn take_close(&mut self, to: Side) -> Option<Close> {
        if !std::mem::take(&mut self.peer_mut(to).close_wanted) {
            return None;
        }
        self.closing.as_mut()?.closes[to as usize].take()
    }

    /// The other peer of `gone` asked to close and gets its own code back (RFC 6455 §5.5.1), from us.
    pub(super) fn answer_for(&mut self, now: MonotonicTime, gone: Side) {
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

    /// Where our Close waits for the end of a frame that will never end, it cannot be sent.
    pub(super) fn cut_where_no_boundary_comes(&mut self) {
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
    pub(super) fn answer_is_on_its_way(&mut self, now: MonotonicTime, from: Side) {
        let is_asked = |closing: &ClosingHandshake| matches!(closing.end, End::Closed { by, .. } if by == from.other());
        if self.closing.as_deref().is_some_and(is_asked) && !self.peer(from).close_received {
            self.extend_wait(now, ANSWER_WAIT, ANSWER_WAIT_MAX);
        }
    }

    /// Waits until `wait` from now, if that is later than planned, but no longer than `longest` in all.
    pub(super) fn extend_wait(&mut self, now: MonotonicTime, wait: Duration, longest: Duration) {
        if let Some(closing) = &mut self.closing {
            closing.give_up = closing.give_up.max((now + wait).min(closing.begun + longest));
            self.timer_moved = true;
        }
    }

    /// Waits `wait` from now, whatever was planned.
    pub(super) fn wait_from_now(&mut self, now: MonotonicTime, wait: Duration) {
        if let Some(closing) = &mut self.closing {
            closing.give_up = now + wait;
            self.timer_moved = true;
        }
    }

    /// All Closes there will be have been handed out; what is left is that the peers answer and end.
    pub(super) fn only_ends_are_due(&self) -> bool {
        let exchanged = || self.peers.iter().all(|peer| peer.close_received && peer.close_sent);
        let answered = || self.peers.iter().any(|peer| peer.muted);
        self.peers.iter().all(|peer| !peer.close_wanted)
            && (!matches!(self.end(), Some(End::Closed { .. })) || exchanged() || answered())
    }

    /// The echo is awaited from the moment the Close has left: one that stands behind bytes which its peer does not take
    /// at the moment is given the time to leave first.
    pub(super) fn await_ends(&mut self, now: MonotonicTime) {
        let is_due = |peer: &Peer| peer.close_sent || peer.close_wanted;
        let stuck = self.peers.iter().any(|peer| peer.blocked && !peer.cut && is_due(peer));
        self.wait_from_now(now, if stuck { BOUNDARY_WAIT } else { ECHO_WAIT });
    }

    /// Patience is over. A peer that asked to close and got no answer gets ours; otherwise this is the end.
    pub(super) fn give_up(&mut self, now: MonotonicTime) {
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
}
