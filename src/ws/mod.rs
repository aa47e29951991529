//! RFC 6455 as pure logic: frames, close codes, the tunnel between two peers, and the opening handshake.
//!
//! Nothing here reads a socket or a clock. `frame` parses and encodes one header, `scanner` follows one direction from
//! header to header, `tunnel` joins two directions with timers and the closing handshake, `rate` counts what a peer may
//! still send, and `handshake` judges offers and answers. Payload is never unmasked, copied or changed.

use serde::{Deserialize, Serialize};

pub mod close;
pub mod frame;
pub mod handshake;
pub mod rate;
pub mod scanner;
pub mod tunnel;

/// One of the two peers of a session, seen from the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Side {
    /// The downstream peer; its frames are masked (RFC 6455 §5.1).
    Client,
    /// The upstream peer; its frames are not masked.
    Server,
}

impl Side {
    /// Both sides, client first.
    pub const BOTH: [Side; 2] = [Side::Client, Side::Server];

    /// The peer across the proxy.
    pub const fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }

    /// The name used in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Server => "server",
        }
    }
}
