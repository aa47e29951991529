//! Limits of single clients.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::schema::admission::Rate;

/// How much each client may use of a route.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PerClientConfig {
    /// The most sessions of one client at once; more get 429 `client_sessions`. A handshake under way counts. Plain HTTP does
    /// not count. Default: no limit.
    #[serde(default)]
    pub sessions: Option<u32>,

    /// How many WebSocket handshakes each client may begin in a second, such as `10/s`; more get 429 `client_rate`, with a
    /// `Retry-After` that says when there is room. Those that are refused later count, too: with a key of `address` or
    /// `header` also those without a good token. Default: no limit.
    #[serde(default)]
    pub handshakes: Option<Rate>,

    /// How many of these may come at once after a pause. Default: those of one second.
    #[serde(default)]
    pub burst: Option<u32>,

    /// What a client is: `address` (that of the log; all of one IPv6 /64 are one), `subject` (of its token, its name of `auth.basic`, or that of `auth.forward`) or
    /// `{ header: NAME }`, which counts if the peer is one of the listener's `trusted_proxies`. A client without subject or
    /// header goes by its address; all whose address is not known are one client. Default: `address`.
    #[serde(default)]
    pub key: ClientKeyConfig,
}

/// What tells one client from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientKeyConfig {
    /// Its address.
    #[default]
    Address,
    /// The subject of its token, its name of `auth.basic`, or that of `auth.forward`.
    Subject,
    /// The value of a header of a trusted proxy.
    Header(String),
}

impl PerClientConfig {
    /// Returns the burst of handshakes, as written or by default.
    pub fn burst(&self) -> u32 {
        self.burst.or(self.handshakes.map(Rate::per_second)).unwrap_or(1)
    }
}
