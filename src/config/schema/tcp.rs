//! What TCP does by itself about peers that say nothing any more.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::{OrOff, TimeSpan};

/// How TCP notices that the other side has vanished without a word: a power cut, a cable, a NAT that forgot.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TcpConfig {
    /// After so long without a byte from the other side the kernel asks whether it is there (SO_KEEPALIVE), a 16th of this
    /// and 7s at most apart, 9 times unless net.ipv4.tcp_keepalive_probes says otherwise; nothing of it is seen by WebSockets. 1s to 9h. Default: 2m, so that one who
    /// vanished is let go after three minutes also where `keepalive` of the route is off, and a phone is not woken more often
    /// than every two.
    pub keepalive: OrOff<TimeSpan>,

    /// How long what was sent may wait to be taken, before the connection is cut (TCP_USER_TIMEOUT); it is also when a silent
    /// peer is given up, in place of those questions, so let it be longer than `keepalive`. 1s to 9h. Default: `off`, since the
    /// kernel counts the time in which a living peer takes nothing, too (a server in a long pause); without it the kernel
    /// gives up what nobody acknowledges after 15 minutes or so.
    pub user_timeout: OrOff<TimeSpan>,
}

impl Default for TcpConfig {
    fn default() -> TcpConfig {
        TcpConfig { keepalive: OrOff::Set(TimeSpan::from_secs(120)), user_timeout: OrOff::Off }
    }
}
