//! Whether a peer still lives: our Pings, their Pongs, and when silence means that it is dead.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{End, Tunnel};
use crate::base::time::MonotonicTime;
use crate::ws::Side;

/// How late a timer is that tells of a stall of ours, in which nobody was read: far above what a busy worker is late by.
pub const STALL: Duration = Duration::from_secs(1);

/// A Ping of ours carries its key and its count.
pub(super) const PING_BYTES: usize = 12;

/// Whether a peer is there. Since when it is `Wanted` or `Asked` is `Peer::since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Liveness {
    /// It was heard of lately enough.
    Heard,
    /// A Ping to it waits for the end of a frame.
    Wanted,
    /// It was asked and has not answered.
    Asked,
}

impl Tunnel {
    /// A sign of life. Where it was doubted, the next Ping may be nearer than the end of the doubt was.
    #[inline]
    pub(super) fn heard(&mut self, now: MonotonicTime, side: Side) {
        let peer = self.peer_mut(side);
        let was_doubted = peer.liveness != Liveness::Heard;
        peer.heard = now;
        peer.liveness = Liveness::Heard;
        self.timer_moved |= was_doubted;
    }

    /// Nothing waits for this peer any more, so the other one is read again. Whatever that one has said meanwhile is still
    /// to be read: its waits begin anew.
    pub(super) fn unblocked(&mut self, now: MonotonicTime, side: Side) {
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

    /// A peer is not judged while it is not read, because what it sends has nowhere to go: its Pong may be among that.
    pub(super) fn liveness_due(&self, side: Side) -> Option<MonotonicTime> {
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

    pub(super) fn check_liveness(&mut self, now: MonotonicTime, side: Side) {
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

    /// Whether a Pong is awaited: then `now` should be exact, for the round trip.
    pub fn awaits_pong(&self) -> bool {
        self.peers.iter().any(|peer| peer.liveness == Liveness::Asked)
    }
}

pub(super) fn ping_payload(key: u64, count: u32) -> [u8; PING_BYTES] {
    let mut payload = [0; PING_BYTES];
    payload[..8].copy_from_slice(&key.to_be_bytes());
    payload[8..].copy_from_slice(&count.to_be_bytes());
    payload
}
