//! One side of a tunnel: the input from a peer, and the state of the output to it.

use serde::{Deserialize, Serialize};

use super::liveness::Liveness;
use crate::base::time::MonotonicTime;
use crate::ws::scanner::Scanner;

/// The state of one peer: its input, and the output to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Peer {
    pub(super) scanner: Scanner,
    /// When bytes last came from it, or were accepted by it after it had been blocked.
    pub(super) heard_at: MonotonicTime,
    pub(super) liveness: Liveness,
    /// See `Liveness`.
    pub(super) liveness_since: MonotonicTime,
    /// How many of our Pings it was sent, and when the last.
    pub(super) pings: u32,
    pub(super) pinged: MonotonicTime,
    /// It has yet to answer a Ping of the other peer.
    pub(super) owes_pong: bool,
    /// It accepts no bytes now (back-pressure).
    pub(super) blocked: bool,
    /// Its stream ended.
    pub(super) eof: bool,
    /// Its input is ignored: it sent a Close, broke the framing, or is gone.
    pub(super) ignore_input: bool,
    /// Its frames are discarded, but still parsed to find its Close.
    pub(super) discard_frames: bool,
    pub(super) close_received: bool,
    pub(super) close_sent: bool,
    /// Our Close, held in `ClosingHandshake`, waits for the end of a frame.
    pub(super) close_wanted: bool,
    /// Nothing more is sent to it; what is queued may still leave.
    pub(super) write_closed: bool,
    /// Nobody reads what is sent to it; what is queued is dropped.
    pub(super) gone: bool,
    /// True if the last byte forwarded to it is inside a frame. The far scanner may be further on: it parses dropped frames
    /// too.
    pub(super) in_frame: bool,
}

impl Peer {
    pub(super) fn new(now: MonotonicTime) -> Peer {
        Peer {
            scanner: Scanner::default(),
            heard_at: now,
            liveness: Liveness::Alive,
            liveness_since: now,
            pings: 0,
            pinged: now,
            owes_pong: false,
            blocked: false,
            eof: false,
            ignore_input: false,
            discard_frames: false,
            close_received: false,
            close_sent: false,
            close_wanted: false,
            write_closed: false,
            gone: false,
            in_frame: false,
        }
    }

    /// Notes at `now` that a Ping is queued or was sent.
    pub(super) fn set_liveness(&mut self, now: MonotonicTime, liveness: Liveness) {
        self.liveness = liveness;
        self.liveness_since = now;
    }

    pub(super) fn writable(&self) -> bool {
        !self.close_sent && !self.write_closed
    }

    pub(super) fn wants_inject(&self) -> bool {
        self.writable() && (self.close_wanted || self.liveness == Liveness::PingQueued)
    }
}
