//! Tells a flood from a busy peer, by what its frames cost and what they bring.
//!
//! A frame that carries data is what a connection is for. All others cost us some work and the peer nearly nothing: settings
//! to acknowledge, pings to answer, streams that are opened and reset, windows, priorities, frames of unknown kinds, empty
//! ones. A peer has an allowance for these, which data in either direction fills up, and time does, too.

use std::time::Duration;

use super::frame::{FrameHeader, kind};
use crate::base::time::MonotonicTime;

/// What a peer may have saved: a browser that opens a page with hundreds of requests, and leaves it, is far below.
const SAVED_MAX: u32 = 4000;
/// What comes in each second.
const PER_SECOND: u32 = 200;
/// What a frame with data brings: peers answer one with a window for the stream and one for the connection.
const DATA_BRINGS: u32 = 2;
/// What a reset costs: the request before it has been worked on.
const RESET_COSTS: u32 = 8;

/// What a peer may still send.
#[derive(Debug)]
pub struct Allowance {
    left: u32,
    filled_at: MonotonicTime,
}

/// The peer has sent more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flooded;

impl Allowance {
    /// The allowance of a connection that begins.
    pub fn new(now: MonotonicTime) -> Allowance {
        Allowance { left: SAVED_MAX, filled_at: now }
    }

    /// Counts a frame that was sent to the peer.
    ///
    /// # Errors
    /// If it was one too many of those that the peer causes by its mistakes: resets.
    pub fn sent(&mut self, frame: FrameHeader, now: MonotonicTime) -> Result<(), Flooded> {
        match frame.kind {
            kind::DATA if frame.length > 0 => {
                self.bring(DATA_BRINGS);
                Ok(())
            }
            kind::RST_STREAM => self.spend(RESET_COSTS, now),
            _ => Ok(()),
        }
    }

    /// Counts a frame of the peer.
    ///
    /// # Errors
    /// If it was one too many. From then on each is.
    pub fn received(&mut self, frame: FrameHeader, now: MonotonicTime) -> Result<(), Flooded> {
        let cost = match frame.kind {
            kind::DATA if frame.length > 0 => {
                self.bring(DATA_BRINGS);
                return Ok(());
            }
            // How many there may be is for the limit of streams.
            kind::HEADERS => return Ok(()),
            kind::RST_STREAM => RESET_COSTS,
            _ => 1,
        };
        self.spend(cost, now)
    }

    fn spend(&mut self, cost: u32, now: MonotonicTime) -> Result<(), Flooded> {
        if self.left < cost {
            self.fill(now);
        }
        self.left = self.left.checked_sub(cost).ok_or(Flooded)?;
        Ok(())
    }

    fn bring(&mut self, amount: u32) {
        self.left = (self.left + amount).min(SAVED_MAX);
    }

    /// Adds what has come in since the last time; it is looked at only when nothing is left.
    fn fill(&mut self, now: MonotonicTime) {
        let passed = now.since(self.filled_at).min(Duration::from_secs(u64::from(SAVED_MAX / PER_SECOND)));
        let amount = u32::try_from(passed.as_millis() * u128::from(PER_SECOND) / 1000).unwrap_or(SAVED_MAX);
        if amount > 0 {
            self.filled_at = now;
            self.bring(amount);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PING: FrameHeader = FrameHeader { length: 8, kind: 6 };

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_micros(millis * 1000)
    }

    #[test]
    fn a_flood_is_told_from_a_peer_that_takes_and_sends_data() {
        let flood = |frame: FrameHeader| {
            let mut allowance = Allowance::new(at(0));
            (0..10_000).take_while(|_| allowance.received(frame, at(1)).is_ok()).count()
        };
        assert_eq!(flood(PING), 4000);
        assert_eq!(flood(FrameHeader { length: 0, kind: kind::DATA }), 4000);
        assert_eq!(flood(FrameHeader { length: 4, kind: kind::RST_STREAM }), 500);
        assert_eq!(flood(FrameHeader { length: 1, kind: kind::DATA }), 10_000);
        let mut allowance = Allowance::new(at(0));
        for _ in 0..100_000 {
            allowance.sent(FrameHeader { length: 16_384, kind: kind::DATA }, at(1)).unwrap();
            let window = FrameHeader { length: 4, kind: 8 };
            assert_eq!([allowance.received(window, at(1)), allowance.received(window, at(1))], [Ok(()), Ok(())]);
        }
    }

    proptest! {
        /// In any span, no more frames pass than what can be saved and what comes in.
        #[test]
        fn no_more_pass_than_are_allowed(gaps in prop::collection::vec(0u64..200, 1..400), many in 1usize..60) {
            let (mut allowance, mut now, mut passed) = (Allowance::new(at(0)), 0, 0_u64);
            for gap in gaps {
                now += gap;
                passed += (0..many).filter(|_| allowance.received(PING, at(now)).is_ok()).count() as u64;
                prop_assert!(passed <= u64::from(SAVED_MAX) + now * u64::from(PER_SECOND) / 1000);
            }
        }
    }
}
