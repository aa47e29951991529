//! TCP's own checks on silent peers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::{OrOff, TimeSpan};

/// How TCP notices that the other side has vanished silently: a power cut, a cable, a NAT that forgot.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TcpConfig {
    /// The kernel probes a side that has sent no byte for this long (SO_KEEPALIVE); probes come a 16th of this and at
    /// most 7s apart, 9 times unless net.ipv4.tcp_keepalive_probes says otherwise; WebSockets see nothing of it. 1s
    /// to 9h. Default: 2m, so that a peer that vanished is dropped after three minutes even where `keepalive` of the
    /// route is off, and a phone is not woken more than every two. A server that the route pings more often is never
    /// silent for so long, so on its connection nothing is set.
    pub keepalive: OrOff<TimeSpan>,

    /// How long sent data may stay unacknowledged before the connection is cut (TCP_USER_TIMEOUT). It also replaces
    /// the number of probes as the limit for a silent peer, so make it longer than `keepalive`. 1s to 9h. Default:
    /// `off`, since the kernel also counts the time in which a living peer takes nothing (a server in a long pause);
    /// without it the kernel gives up unacknowledged data after 15 minutes or so.
    pub user_timeout: OrOff<TimeSpan>,
}

impl Default for TcpConfig {
    fn default() -> TcpConfig {
        TcpConfig { keepalive: OrOff::Set(TimeSpan::from_secs(120)), user_timeout: OrOff::Off }
    }
}
