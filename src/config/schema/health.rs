//! Health checks: how it is found out whether an endpoint works.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::TimeSpan;
use crate::config::value::edits::HeaderSet;
use crate::config::value::http::{ExpectedStatuses, HostName, OfferedSubprotocol, RequestTarget};
use crate::config::value::pattern::Pattern;

/// A check of each endpoint at intervals, apart from live traffic.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthCheck {
    /// Connects, with TLS where the URL has it.
    Tcp(TcpCheck),
    /// Sends a GET and expects a good status.
    Http(HttpCheck),
    /// Opens a WebSocket and expects an answer to a Ping.
    Websocket(WebSocketCheck),
}

/// A check that connects.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TcpCheck {
    /// As in `websocket`. Default: 5s.
    pub every: TimeSpan,

    /// As in `websocket`. Default: 2s.
    pub timeout: TimeSpan,

    /// As in `websocket`. Default: 2.
    pub rise: u32,

    /// As in `websocket`. Default: 3.
    pub fall: u32,
}

/// A check by HTTP.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    /// The path to request, with a query if needed. Required.
    pub path: RequestTarget,

    /// As in `websocket`. Default: the host of the endpoint's URL.
    #[serde(default)]
    pub host: Option<HostName>,

    /// As in `websocket`. Default: none.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub headers: HeaderSet,

    /// The good statuses: one, a range, or several with commas, as in `200,300-399`. Default: `200-399`, as nginx and
    /// HAProxy have it.
    #[serde(default)]
    pub status: ExpectedStatuses,

    /// What the first 64 KiB of the body must contain: `{ contains: TEXT }` or `{ matches: REGEX }`. Default: the
    /// body is not read.
    #[serde(default)]
    pub body: Option<Expectation>,

    /// As in `websocket`. Default: 5s.
    #[serde(default = "every")]
    pub every: TimeSpan,

    /// As in `websocket`. Default: 2s.
    #[serde(default = "timeout")]
    pub timeout: TimeSpan,

    /// As in `websocket`. Default: 2.
    #[serde(default = "rise")]
    pub rise: u32,

    /// As in `websocket`. Default: 3.
    #[serde(default = "fall")]
    pub fall: u32,
}

/// A check that opens a WebSocket.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebSocketCheck {
    /// The path to open the WebSocket on, with a query if needed. Required.
    pub path: RequestTarget,

    /// The Host to request. Default: the host of the endpoint's URL.
    #[serde(default)]
    pub host: Option<HostName>,

    /// Further headers, such as an Origin or a token. Default: none.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub headers: HeaderSet,

    /// A subprotocol to offer, which the server must choose. Default: none.
    #[serde(default)]
    pub subprotocol: Option<OfferedSubprotocol>,

    /// A text message to send beside the Ping. Default: none; every server must answer a Ping.
    #[serde(default)]
    pub send: Option<String>,

    /// What one of the server's text messages must contain: `{ contains: TEXT }` or `{ matches: REGEX }`. Other
    /// messages are skipped. Default: nothing, the Pong is enough.
    #[serde(default)]
    pub expect: Option<Expectation>,

    /// The time from the start of one check to the start of the next, give or take a tenth, so that the proxies of a
    /// fleet do not check together. The first check comes at once. Default: 5s; with `fall: 3` a server that hangs is
    /// found within 20s.
    #[serde(default = "every")]
    pub every: TimeSpan,

    /// Limits one whole check. Default: 2s, room for one lost packet.
    #[serde(default = "timeout")]
    pub timeout: TimeSpan,

    /// How many checks in a row must pass until an endpoint that was down is up. The very first check decides alone;
    /// until then the endpoint takes sessions. Default: 2.
    #[serde(default = "rise")]
    pub rise: u32,

    /// How many checks in a row must fail until an endpoint is down. Default: 3.
    #[serde(default = "fall")]
    pub fall: u32,
}

const fn every() -> TimeSpan {
    TimeSpan::from_secs(5)
}

const fn timeout() -> TimeSpan {
    TimeSpan::from_secs(2)
}

const fn rise() -> u32 {
    2
}

const fn fall() -> u32 {
    3
}

impl Default for TcpCheck {
    fn default() -> TcpCheck {
        TcpCheck { every: every(), timeout: timeout(), rise: rise(), fall: fall() }
    }
}

/// When checks of any kind are made, and how many decide.
#[derive(Clone, Copy, Debug)]
pub struct CheckSchedule {
    /// The time between two checks.
    pub every: TimeSpan,
    /// The limit of one check.
    pub timeout: TimeSpan,
    /// Passes until an endpoint is up.
    pub rise: u32,
    /// Failures until an endpoint is down.
    pub fall: u32,
}

impl HealthCheck {
    /// Returns the key it is written under.
    pub fn kind(&self) -> &'static str {
        match self {
            HealthCheck::Tcp(_) => "tcp",
            HealthCheck::Http(_) => "http",
            HealthCheck::Websocket(_) => "websocket",
        }
    }

    /// Returns what checks of all kinds have.
    pub fn schedule(&self) -> CheckSchedule {
        let (every, timeout, rise, fall) = match self {
            HealthCheck::Tcp(TcpCheck { every, timeout, rise, fall }) => (every, timeout, rise, fall),
            HealthCheck::Http(HttpCheck { every, timeout, rise, fall, .. }) => (every, timeout, rise, fall),
            HealthCheck::Websocket(WebSocketCheck { every, timeout, rise, fall, .. }) => (every, timeout, rise, fall),
        };
        CheckSchedule { every: *every, timeout: *timeout, rise: *rise, fall: *fall }
    }
}

/// What an answer must contain.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Expectation {
    /// This text, anywhere.
    Contains(String),
    /// A match of this regex, anywhere.
    Matches(Pattern),
}

/// What happens to requests when every endpoint's check fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenAllDown {
    /// Tries the endpoints all the same.
    #[default]
    Try,
    /// Answers with 503.
    Refuse,
}
