//! One side of a tunnel: what comes from a peer, and what became of what goes to it.

use serde::{Deserialize, Serialize};

use super::liveness::Liveness;
use crate::base::time::MonotonicTime;
use crate::ws::scanner::Scanner;

/// One peer: what comes from it, and what became of what goes to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Peer {
    pub(super) scanner: Scanner,
    /// When bytes last came from it, or went to it after it had refused them for a while.
    pub(super) heard: MonotonicTime,
    pub(super) liveness: Liveness,
    /// See `Liveness`.
    pub(super) since: MonotonicTime,
    /// How many Pings of ours it was sent, and when the last.
    pub(super) pings: u32,
    pub(super) pinged: MonotonicTime,
    /// It has a Ping of the other peer to answer.
    pub(super) owes_pong: bool,
    /// It takes no bytes at the moment (back-pressure).
    pub(super) blocked: bool,
    /// Its stream ended.
    pub(super) eof: bool,
    /// Its bytes have no meaning any more: it sent a Close, broke the framing, or is gone.
    pub(super) deaf: bool,
    /// Its frames go nowhere, but are still followed, to find its Close.
    pub(super) muted: bool,
    pub(super) close_received: bool,
    pub(super) close_sent: bool,
    /// A Close of ours waits for the end of a frame: the one in `Closing`.
    pub(super) close_wanted: bool,
    /// Nothing more is sent to it; what waits for it may still leave.
    pub(super) cut: bool,
    /// Nobody reads what is sent to it: what waits for it is given up.
    pub(super) gone: bool,
    /// What was forwarded to it ends inside a frame. Not the same as the far scanner's place, which goes on through
    /// frames that are refused.
    pub(super) in_frame: bool,
}

impl Peer {
    pub(super) fn new(now: MonotonicTime) -> Peer {
        Peer {
            scanner: Scanner::default(),
            heard: now,
            liveness: Liveness::Heard,
            since: now,
            pings: 0,
            pinged: now,
            owes_pong: false,
            blocked: false,
            eof: false,
            deaf: false,
            muted: false,
            close_received: false,
            close_sent: false,
            close_wanted: false,
            cut: false,
            gone: false,
            in_frame: false,
        }
    }

    /// Notes at `now` that an answer is wanted of it, or that it was asked for one.
    pub(super) fn doubt(&mut self, now: MonotonicTime, liveness: Liveness) {
        self.liveness = liveness;
        self.since = now;
    }

    pub(super) fn writable(&self) -> bool {
        !self.close_sent && !self.cut
    }

    pub(super) fn wants_inject(&self) -> bool {
        self.writable() && (self.close_wanted || self.liveness == Liveness::Wanted)
    }
}
