//! What a tunnel tells: why a session ends, and what passes while it lasts.

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
    /// A blind pipe: a peer ended its stream, as is its right.
    Finished(Side),
    /// No data frame for too long.
    Idle,
    /// Nothing was heard of this peer, not even a Pong.
    Dead(Side),
    /// The session is as old as it may become.
    Lifetime,
    /// The driver asked for it with `Tunnel::stop`, and knows why.
    Stopped,
    /// The proxy failed on it.
    Panicked,
    /// This peer began a frame larger than allowed.
    FrameTooLarge(Side),
    /// This peer's message became larger than allowed.
    MessageTooLarge(Side),
    /// This peer broke the protocol.
    Violation {
        /// Who.
        by: Side,
        /// Which rule.
        label: Cow<'static, str>,
    },
}

/// The last that a peer gets when a session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Nothing of ours: it has had the other peer's Close, or asked to close itself, or has ended its own stream.
    Nothing,
    /// This Close, at the end of the frame that goes to it now.
    Close(Close),
    /// The end of its stream behind what waits for it, and no Close.
    Cut,
}

/// Hears what passes, for counting. Each thing is told once, whatever the slices; things alike may be told together.
pub trait Observer {
    /// So many bytes of this peer, headers included, went on.
    fn bytes(&mut self, from: Side, bytes: usize);
    /// So many whole messages of this peer, each of them this, went on.
    fn message(&mut self, from: Side, message: EndedMessage, count: u32);
    /// So many of these control frames of this peer, no answers to us, went on.
    fn control(&mut self, from: Side, opcode: Opcode, count: u32);
    /// A frame of this peer broke a rule and was taken all the same.
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
    fn tolerated(&mut self, _: Side, _: Violation) {}
    fn pinged(&mut self, _: Side) {}
    fn round_trip(&mut self, _: Side, _: Duration) {}
}
