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
/// How long our Close may wait for the end of the frame in progress, and once more for a slow peer to read what is
/// queued before it.
pub const BOUNDARY_WAIT: Duration = Duration::from_secs(10);
/// How long a peer that keeps reading what is queued for it, however slowly, may delay the end.
pub const SLOW_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a silent peer may take to answer the other peer's Close before we answer in its place. Browsers give up
/// after 10 s and report 1006.
pub const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long a peer may keep sending before it answers the other peer's Close.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long the open half of a half-closed blind pipe may be silent before the pipe is closed.
pub const HALF_CLOSED_WAIT: Duration = Duration::from_secs(30);

/// The end in progress. Boxed: most of a session's life there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClosingHandshake {
    pub(super) end: End,
    /// `poll_end` has returned it.
    pub(super) is_reported: bool,
    /// When the end began; bounds how far `give_up_at` may move.
    pub(super) begun: MonotonicTime,
    /// When the wait is over.
    pub(super) give_up_at: MonotonicTime,
    /// The wait is over.
    pub(super) gave_up: bool,
    /// The Close for each peer that is `close_wanted`.
    pub(super) closes: [Option<Close>; 2],
}

impl Tunnel {
    /// Answers an `End` with the last thing this peer gets.
    pub fn close(&mut self, now: MonotonicTime, to: Side, farewell: Farewell) {
        self.timer_moved = true;
        match farewell {
            Farewell::Nothing => {}
            Farewell::Close(close) if self.reads_frames() => {
                if self.peer(to).writable() {
                    self.want_close(to, close);
                }
                self.close_writes_inside_frames();
                self.extend_wait(now, BOUNDARY_WAIT, BOUNDARY_WAIT);
            }
            // A blind pipe has no frames to put a Close between: its stream just ends.
            Farewell::Close(_) | Farewell::Cut => {
                let peer = self.peer_mut(to);
                peer.write_closed = true;
                peer.close_wanted = false;
                // What is queued for it leaves first.
                if !peer.blocked || !self.reads_frames() {
                    self.wait_from_now(now, ECHO_WAIT);
                }
            }
        }
    }

    /// Returns why the session ends, once. The driver answers with `close` for each side.
    pub fn poll_end(&mut self) -> Option<&End> {
        let closing = self.closing.as_mut().filter(|closing| !closing.is_reported)?;
        closing.is_reported = true;
        Some(&closing.end)
    }

    /// Returns why the session ends, if it does.
    pub fn end(&self) -> Option<&End> {
        self.closing.as_ref().map(|closing| &closing.end)
    }

    /// Returns when the end began; only the closing handshake follows.
    pub fn end_began(&self) -> Option<MonotonicTime> {
        self.closing.as_ref().map(|closing| closing.begun)
    }

    /// Returns true if the stream to this peer should end (FIN) as soon as all bytes to it are written.
    ///
    /// For a client: once the closing handshake is complete (RFC 6455 §7.1.1: the server closes first), or right after
    /// our Close if its answer no longer matters (§7.1.7). For a server: once it has ended its own stream, so that the
    /// TIME_WAIT is not ours.
    pub fn poll_shutdown(&self, to: Side) -> bool {
        if !self.is_closing() {
            return false;
        }
        let peer = self.peer(to);
        let far = self.peer(to.other());
        if peer.write_closed || self.gave_up() {
            return true;
        }
        if peer.close_wanted {
            return false;
        }
        let nothing_more = peer.close_sent || far.eof;
        match to {
            _ if !self.reads_frames() => far.eof,
            Side::Client => nothing_more && peer.ignore_input,
            Side::Server => nothing_more && peer.eof,
        }
    }

    /// Returns true once all is done: write what is left and drop both connections.
    pub fn is_finished(&self) -> bool {
        let [client, server] = &self.peers;
        self.gave_up() || (client.eof && server.eof && !client.wants_inject() && !server.wants_inject())
    }

    /// Returns true once the closing handshake with the client is complete and the server has ended its stream. A
    /// connection that needs no closing bytes of its own may then be dropped without waiting for the client's FIN.
    pub fn is_close_complete(&self) -> bool {
        let [client, server] = &self.peers;
        client.close_sent && client.close_received && server.eof && self.reads_frames()
    }

    /// Returns true once the wait is over: drop the connections whatever is left.
    pub fn gave_up(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.gave_up)
    }

    /// Returns true once an end has begun.
    pub fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Returns true for a blind pipe with one half ended: the other half goes on, and the session may still be ended.
    pub fn is_half_closed(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| matches!(closing.end, End::Finished(_)) && !closing.gave_up)
    }

    pub(super) fn begin(&mut self, now: MonotonicTime, end: End) {
        if self.is_closing() && !self.is_half_closed() {
            return;
        }
        match &end {
            // A lost server reads nothing more; a lost client may still read the answer to its last frame.
            End::Lost(Side::Server) => self.abandon(now, Side::Server),
            End::Dead(side) => {
                self.abandon(now, *side);
                let peer = self.peer_mut(*side);
                peer.eof = true;
                peer.ignore_input = true;
            }
            _ => {}
        }
        for peer in &mut self.peers {
            peer.liveness = Liveness::Alive;
        }
        let wait = match &end {
            End::Closed { by, .. } if !self.peer(by.other()).blocked => ANSWER_WAIT,
            End::Finished(_) => HALF_CLOSED_WAIT,
            _ => BOUNDARY_WAIT,
        };
        self.closing = Some(Box::new(ClosingHandshake {
            end,
            is_reported: false,
            begun: now,
            give_up_at: now + wait,
            gave_up: false,
            closes: [None, None],
        }));
        self.timer_moved = true;
    }

    pub(super) fn close_received(&mut self, now: MonotonicTime, from: Side, body: CloseBody, forwarded: bool) {
        let peer = self.peer_mut(from);
        peer.close_received = true;
        peer.ignore_input = true;
        if forwarded {
            self.peer_mut(from.other()).close_sent = true;
            self.peer_mut(from.other()).close_wanted = false;
        }
        let far_is_gone = self.peer(from.other()).eof;
        if !self.is_closing() {
            self.begin(now, End::Closed { by: from, body });
            if far_is_gone {
                self.answer_in_place_of(now, from.other());
            }
        }
        if self.peers.iter().all(|peer| peer.close_received && peer.close_sent) {
            self.await_ends(now);
        }
    }

    /// Queues a Close for `to`; only once an end has begun.
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

    /// Answers the peer that asked to close with its own code (RFC 6455 §5.5.1), in place of `gone`.
    pub(super) fn answer_in_place_of(&mut self, now: MonotonicTime, gone: Side) {
        let asker = gone.other();
        let Some(End::Closed { body, .. }) = self.end() else { return };
        let close = Close { code: body.code, reason: Cow::Borrowed("") };
        if self.peer(asker).close_received && self.peer(asker).writable() {
            self.want_close(asker, close);
            self.peer_mut(gone).discard_frames = true;
            self.close_writes_inside_frames();
            self.await_ends(now);
        }
    }

    /// Cancels our Close where it waits for the end of a frame that will never end.
    pub(super) fn close_writes_inside_frames(&mut self) {
        for to in Side::BOTH {
            let far = self.peer(to.other());
            if (far.eof || far.ignore_input) && self.peer(to).in_frame && self.reads_frames() {
                let peer = self.peer_mut(to);
                peer.write_closed = true;
                peer.close_wanted = false;
            }
        }
    }

    /// Extends the wait for a peer that still sends before it answers a Close.
    #[inline]
    pub(super) fn extend_answer_wait(&mut self, now: MonotonicTime, from: Side) {
        let is_asked = |closing: &ClosingHandshake| matches!(closing.end, End::Closed { by, .. } if by == from.other());
        if self.closing.as_deref().is_some_and(is_asked) && !self.peer(from).close_received {
            self.extend_wait(now, ANSWER_WAIT, ANSWER_WAIT_MAX);
        }
    }

    /// Extends the wait to `wait` from now if that is later than planned, up to `longest` in all.
    pub(super) fn extend_wait(&mut self, now: MonotonicTime, wait: Duration, longest: Duration) {
        if let Some(closing) = &mut self.closing {
            closing.give_up_at = closing.give_up_at.max((now + wait).min(closing.begun + longest));
            self.timer_moved = true;
        }
    }

    /// Sets the wait to `wait` from now, whatever was planned.
    pub(super) fn wait_from_now(&mut self, now: MonotonicTime, wait: Duration) {
        if let Some(closing) = &mut self.closing {
            closing.give_up_at = now + wait;
            self.timer_moved = true;
        }
    }

    /// Returns true once all Closes have been sent; only the peers' answers and ends are missing.
    pub(super) fn only_ends_are_due(&self) -> bool {
        let exchanged = || self.peers.iter().all(|peer| peer.close_received && peer.close_sent);
        let answered = || self.peers.iter().any(|peer| peer.discard_frames);
        self.peers.iter().all(|peer| !peer.close_wanted)
            && (!matches!(self.end(), Some(End::Closed { .. })) || exchanged() || answered())
    }

    /// Waits for the peers' answers and ends, counted from when the Close has left: one queued behind bytes that its
    /// peer does not read now gets time to leave first.
    pub(super) fn await_ends(&mut self, now: MonotonicTime) {
        let is_due = |peer: &Peer| peer.close_sent || peer.close_wanted;
        let stuck = self.peers.iter().any(|peer| peer.blocked && !peer.write_closed && is_due(peer));
        self.wait_from_now(now, if stuck { BOUNDARY_WAIT } else { ECHO_WAIT });
    }

    /// Ends the wait. A peer that asked to close and got no answer gets ours; otherwise this is the end.
    pub(super) fn give_up(&mut self, now: MonotonicTime) {
        if let Some(End::Closed { by, .. }) = self.end() {
            let by = *by;
            let far = by.other();
            if !self.peer(far).discard_frames && !self.peer(far).close_received && self.reads_frames() {
                self.answer_in_place_of(now, far);
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
