//! What a tunnel reports: why a session ends, and the traffic while it lasts.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ws::Side;
use crate::ws::close::{Close, CloseBody};
use crate::ws::frame::Opcode;
use crate::ws::scanner::{EndedMessage, Violation};

/// Why a session ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// A peer began the closing handshake.
    Closed {
        /// Who.
        by: Side,
        /// What its frame says.
        body: CloseBody,
    },
    /// A peer's connection ended without a Close.
    Lost(Side),
    /// A blind pipe: a peer ended its stream, as it may.
    Finished(Side),
    /// No data frame for too long.
    Idle,
    /// This peer sent nothing at all, not even a Pong.
    Dead(Side),
    /// The session reached its maximum lifetime.
    Lifetime,
    /// The credential with which it was opened has expired.
    Expired,
    /// The driver asked for it with `Tunnel::stop`, and knows why.
    Stopped,
    /// A bug in the proxy: handling it panicked.
    Panicked,
    /// This peer began a frame larger than allowed.
    FrameTooLarge(Side),
    /// This peer's message became larger than allowed.
    MessageTooLarge(Side),
    /// This peer's message came in too many tiny fragments.
    TooManyFragments(Side),
    /// This peer sent too many Pings and Pongs in a second.
    TooManyControls(Side),
    /// This peer sent faster than it may.
    RateExceeded(Side),
    /// This peer broke the protocol.
    Violation {
        /// Who.
        by: Side,
        /// Which rule.
        label: Cow<'static, str>,
    },
}

/// The last thing a peer gets when a session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Nothing of ours: it has received the other peer's Close, asked to close itself, or ended its own stream.
    Nothing,
    /// This Close, at the end of the frame in progress.
    Close(Close),
    /// The end of its stream after what is queued for it, without a Close.
    Cut,
}

/// Counts the traffic. Each event is reported once, however the bytes were sliced; similar events may be reported
/// together.
pub trait Observer {
    /// Bytes of this peer, headers included, were forwarded.
    fn bytes(&mut self, from: Side, bytes: usize);
    /// `count` whole messages like this one of this peer were forwarded.
    fn message(&mut self, from: Side, message: EndedMessage, count: u32);
    /// `count` control frames of this peer were forwarded, answers to our own Pings excluded.
    fn control(&mut self, from: Side, opcode: Opcode, count: u32);
    /// This peer is not read for a while, since it has sent all that it may.
    fn delayed(&mut self, from: Side);
    /// A frame of this peer broke a rule and was accepted all the same.
    fn tolerated(&mut self, from: Side, violation: Violation);
    /// This peer was sent a Ping of ours.
    fn pinged(&mut self, peer: Side);
    /// This peer answered our Ping.
    fn round_trip(&mut self, peer: Side, time: Duration);
}

/// Counts nothing.
impl Observer for () {
    fn bytes(&mut self, _: Side, _: usize) {}
    fn message(&mut self, _: Side, _: EndedMessage, _: u32) {}
    fn control(&mut self, _: Side, _: Opcode, _: u32) {}
    fn delayed(&mut self, _: Side) {}
    fn tolerated(&mut self, _: Side, _: Violation) {}
    fn pinged(&mut self, _: Side) {}
    fn round_trip(&mut self, _: Side, _: Duration) {}
}
