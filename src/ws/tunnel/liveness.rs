//! Liveness of a peer: our Pings, their Pongs, and when silence means that it is dead.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{End, Tunnel};
use crate::base::time::MonotonicTime;
use crate::ws::Side;

/// How late a timer must fire to show that this process stalled and did not read: far later than on a busy worker.
pub const STALL: Duration = Duration::from_secs(1);

/// The payload length of our Pings: a key and a count.
pub(super) const PING_BYTES: usize = 12;

/// Whether a peer is alive. `Peer::liveness_since` says since when a Ping is queued or sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Liveness {
    /// Something arrived from it recently.
    Alive,
    /// A Ping for it waits for the end of a frame.
    PingQueued,
    /// A Ping was sent and is unanswered.
    PingSent,
}

impl Tunnel {
    /// Notes a sign of life. If the peer was in doubt, its next Ping may be due before the doubt would have ended.
    #[inline]
    pub(super) fn mark_alive(&mut self, now: MonotonicTime, side: Side) {
        let peer = self.peer_mut(side);
        let was_doubted = peer.liveness != Liveness::Alive;
        peer.heard_at = now;
        peer.liveness = Liveness::Alive;
        self.timer_moved |= was_doubted;
    }

    /// Notes that nothing is queued for this peer any more, so the other one is read again. What that one sent
    /// meanwhile is still unread, so its waits start again.
    pub(super) fn unblocked(&mut self, now: MonotonicTime, side: Side) {
        if !std::mem::take(&mut self.peer_mut(side).blocked) {
            return;
        }
        self.read_again(now, side.other());
    }

    /// Starts the waits of a peer again that was not read for a while.
    pub(super) fn read_again(&mut self, now: MonotonicTime, side: Side) {
        let unread = self.peer_mut(side);
        match unread.liveness {
            Liveness::Alive => unread.heard_at = now,
            Liveness::PingQueued | Liveness::PingSent => unread.liveness_since = now,
        }
        self.timer_moved = true;
    }

    /// Returns when the liveness of this peer is next due. A peer that is not read, because its bytes have nowhere to
    /// go or are more than it may send, is not judged: its Pong may be among them.
    pub(super) fn liveness_due(&self, side: Side) -> Option<MonotonicTime> {
        if self.peer(side.other()).blocked || self.resumes_at(side).is_some() {
            return None;
        }
        let ping = self.settings.ping.filter(|_| self.reads_frames())?;
        let peer = self.peer(side);
        Some(match peer.liveness {
            Liveness::Alive => peer.heard_at + ping,
            Liveness::PingQueued | Liveness::PingSent => peer.liveness_since + self.settings.pong,
        })
    }

    pub(super) fn check_liveness(&mut self, now: MonotonicTime, side: Side) {
        let Some(due) = self.liveness_due(side).filter(|&due| due <= now && !self.is_closing()) else { return };
        let peer = self.peer_mut(side);
        match peer.liveness {
            // A timer this late means that we did not read either (a suspended process, a migrated machine): wait
            // again.
            Liveness::PingQueued | Liveness::PingSent if now.since(due) >= STALL => peer.liveness_since = now,
            Liveness::Alive if peer.owes_pong => peer.set_liveness(now, Liveness::PingSent),
            Liveness::Alive => peer.set_liveness(now, Liveness::PingQueued),
            // The Ping could not leave because the peer accepts nothing at all: it is dead.
            Liveness::PingQueued if peer.blocked || peer.write_closed => self.begin(now, End::Dead(side)),
            // It could not leave because the peer is still reading a long frame.
            Liveness::PingQueued => peer.set_liveness(now, Liveness::PingQueued),
            Liveness::PingSent => self.begin(now, End::Dead(side)),
        }
    }

    /// Returns true while a Pong is awaited: `now` should then be exact, to measure the round trip.
    pub fn awaits_pong(&self) -> bool {
        self.peers.iter().any(|peer| peer.liveness == Liveness::PingSent)
    }
}

pub(super) fn ping_payload(key: u64, count: u32) -> [u8; PING_BYTES] {
    let mut payload = [0; PING_BYTES];
    payload[..8].copy_from_slice(&key.to_be_bytes());
    payload[8..].copy_from_slice(&count.to_be_bytes());
    payload
}
