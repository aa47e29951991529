//! How it is found out whether an endpoint is fit, and what is done about it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::TimeSpan;
use crate::config::value::edits::HeaderSet;
use crate::config::value::http::{ExpectedStatuses, HostName, OfferedSubprotocol, RequestTarget};
use crate::config::value::pattern::Pattern;

/// A check made again and again of each endpoint, apart from live traffic.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthCheck {
    /// A connection is made, with TLS where the URL has it.
    Tcp(TcpCheck),
    /// A GET is answered with a good status.
    Http(HttpCheck),
    /// A WebSocket is opened, and a Ping in it is answered.
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

/// A check that asks by HTTP.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    /// What is asked for: a path, perhaps with a query. Required.
    pub path: RequestTarget,

    /// As in `websocket`. Default: the host of the endpoint's URL.
    #[serde(default)]
    pub host: Option<HostName>,

    /// As in `websocket`. Default: none.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub headers: HeaderSet,

    /// The statuses that are good: one, a range, or several with commas, as in `200,300-399`. Default: `200-399`, as nginx
    /// and HAProxy have it.
    #[serde(default)]
    pub status: ExpectedStatuses,

    /// What must be in the body, of which 64 KiB are looked at: `{ contains: TEXT }` or `{ matches: REGEX }`. Default: it is
    /// not read.
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
    /// Where the WebSocket is opened: a path, perhaps with a query. Required.
    pub path: RequestTarget,

    /// The Host that is asked for. Default: the host of the endpoint's URL.
    #[serde(default)]
    pub host: Option<HostName>,

    /// Further headers, such as an Origin or a token. Default: none.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub headers: HeaderSet,

    /// A subprotocol that is offered, and that the server must choose. Default: none.
    #[serde(default)]
    pub subprotocol: Option<OfferedSubprotocol>,

    /// A text message that is sent beside the Ping. Default: none; a Ping must be answered by every server.
    #[serde(default)]
    pub send: Option<String>,

    /// What must be in one of the server's text messages: `{ contains: TEXT }` or `{ matches: REGEX }`. Others are read
    /// past. Default: nothing, the Pong is enough.
    #[serde(default)]
    pub expect: Option<Expectation>,

    /// From the beginning of one check to that of the next, give or take a tenth, so that the proxies of a fleet do not
    /// check together. The first one comes at once. Default: 5s; with `fall: 3` a server that hangs is found within 20s.
    #[serde(default = "every")]
    pub every: TimeSpan,

    /// For one check as a whole. Default: 2s, room for one lost packet.
    #[serde(default = "timeout")]
    pub timeout: TimeSpan,

    /// Checks in a row that must pass until an endpoint that was down is up. The very first check decides alone; until then
    /// the endpoint takes sessions. Default: 2.
    #[serde(default = "rise")]
    pub rise: u32,

    /// Checks in a row that must fail until an endpoint is down. Default: 3.
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

/// When checks are made and what they add up to, of whatever kind.
#[derive(Clone, Copy, Debug)]
pub struct CheckSchedule {
    /// Between two.
    pub every: TimeSpan,
    /// For one.
    pub timeout: TimeSpan,
    /// Until up.
    pub rise: u32,
    /// Until down.
    pub fall: u32,
}

impl HealthCheck {
    /// The key under which it is written.
    pub fn kind(&self) -> &'static str {
        match self {
            HealthCheck::Tcp(_) => "tcp",
            HealthCheck::Http(_) => "http",
            HealthCheck::Websocket(_) => "websocket",
        }
    }

    /// What all kinds have.
    pub fn pace(&self) -> CheckSchedule {
        let (every, timeout, rise, fall) = match self {
            HealthCheck::Tcp(TcpCheck { every, timeout, rise, fall }) => (every, timeout, rise, fall),
            HealthCheck::Http(HttpCheck { every, timeout, rise, fall, .. }) => (every, timeout, rise, fall),
            HealthCheck::Websocket(WebSocketCheck { every, timeout, rise, fall, .. }) => (every, timeout, rise, fall),
        };
        CheckSchedule { every: *every, timeout: *timeout, rise: *rise, fall: *fall }
    }
}

/// What must be in an answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Expectation {
    /// This text, anywhere.
    Contains(String),
    /// Something that this regex matches, anywhere.
    Matches(Pattern),
}

/// What becomes of requests when every endpoint's check fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenAllDown {
    /// The endpoints are tried all the same.
    #[default]
    Try,
    /// They are answered with 503.
    Refuse,
}
