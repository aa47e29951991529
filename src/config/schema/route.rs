//! Which request goes where, and what it may do there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::schema::on_change::OnChange;
use crate::config::schema::upstream_lost::OnUpstreamLost;
use crate::config::value::edits::HeaderEditsConfig;
use crate::config::value::{ByteSize, OrOff, TimeSpan};
use crate::policy::origin::OriginPolicy;
use crate::route::{Match, Paths};

/// One route: what it matches, where that goes, and under which rules.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Its name in logs and metrics: letters, digits, `_`, `.`, `-`. Required.
    pub name: String,

    /// Which requests it is for; all that is written must hold. Default: every request.
    #[serde(default, rename = "match")]
    pub matches: Match,

    /// What `//`, `%2F` and `;` in a path are to the servers of this route, so that no spelling of a path goes past its route.
    /// Where another reading of a path would have found another route, the server gets the path that was matched; else what
    /// came. Default: what most servers read.
    #[serde(default)]
    pub paths: Paths,

    /// The name of the upstream, one of `upstreams`. Required.
    pub upstream: String,

    /// Which web pages may open a WebSocket here. Default: only those of the same origin, since a browser sends its
    /// cookies with the handshake whichever page asks (cross-site WebSocket hijacking); clients that send no Origin are
    /// no browsers and are let in.
    #[serde(default)]
    pub origins: OriginPolicy,

    /// Changes of the path before it goes upstream. Default: none.
    #[serde(default)]
    pub rewrite: RewriteConfig,

    /// Changes of headers. Default: none beyond what a proxy must do.
    #[serde(default)]
    pub headers: Headers,

    /// How long things may take.
    #[serde(default)]
    pub timeouts: RouteTimeouts,

    /// Pings to both sides, so that a dead peer is noticed and no middlebox forgets a quiet connection.
    #[serde(default)]
    pub keepalive: Keepalive,

    /// How much a session may ask for.
    #[serde(default)]
    pub limits: RouteLimits,

    /// What becomes of plain HTTP requests: `proxy` forwards them, `reject` answers 426. Default: `proxy`, since most
    /// WebSocket servers also serve a page or a polling fallback.
    #[serde(default)]
    pub http: PlainHttp,

    /// How frames are judged by RFC 6455. `lenient` ends a session (close code 1002) at the first frame that two peers could
    /// read in two ways, and lets pass and counts (`wsluice_frames_tolerated_total`) what only breaks a rule: a length in more
    /// bytes than it needs, and a Ping, Pong or Close that is masked where it must not be, or not where it must (it goes on
    /// masked as it must be). `strict` ends it there too. `off` relays bytes blindly, for servers that break the protocol;
    /// there are then no pings, limits or message counts, and `keepalive` is off. Default: `lenient`, since clients in use do
    /// such things (paho-mqtt) and refusing protects nobody.
    #[serde(default)]
    pub validate: Validate,

    /// What a client gets when its server is lost without a Close: `cut`, the end of its stream, so that its library reports
    /// 1006 as it would without a proxy, or `{ close: CODE }`, a Close that says so (`{ close: 1012 }` is the one that most
    /// clients take for "come back"). Default: `cut`, since it is the only end after which every client that was tried comes
    /// back by itself: Vite up to 5 and rxjs take any Close for the wish of the server.
    #[serde(default)]
    pub on_upstream_lost: OnUpstreamLost,

    /// What becomes of this route's sessions when a reload changes or removes it: `keep` them as they began, `drain 60s`
    /// closes them over that time (code 1012), evenly, `close` all at once. A changed route goes by what the new file says, a
    /// removed one by what the old one said. Default: `keep`, since new sessions go by the new file anyway.
    #[serde(default = "kept")]
    pub on_change: OnChange,
}

impl RouteConfig {
    /// Whether all is the same that a session depends on while it runs. What becomes of it on a change is not: that counts
    /// when the time has come.
    pub fn is_like(&self, other: &RouteConfig) -> bool {
        *self == RouteConfig { on_change: self.on_change, ..other.clone() }
    }
}

fn kept() -> OnChange {
    OnChange::Keep
}

/// Changes of the path before it goes upstream: first the prefix is stripped, then the other is added.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewriteConfig {
    /// Taken off the front of the path, at a segment's border: `/ws` makes `/` of `/ws` and `/a` of `/ws/a`. Default:
    /// nothing.
    pub strip_prefix: Option<String>,

    /// Put before the path. Default: nothing.
    pub add_prefix: Option<String>,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Headers {
    /// On the way to the upstream, after the request was judged (`match`, `origins`). Default: none.
    pub request: HeaderEditsConfig,

    /// On the way to the client, the answer to a handshake included. Default: none.
    pub response: HeaderEditsConfig,

    /// Fields of requests whose names differ from those of fields that the proxy writes or `request` sets or removes only in
    /// what some servers (CGI, PHP, WSGI) take for the same: `Transfer_Encoding`, `Sec.WebSocket.Key`, `X_User` beside `X-User`.
    /// `drop` or `keep`; look-alikes of `X-Forwarded-*` and `X-Real-IP` never pass. Default: `drop`.
    pub lookalikes: Lookalikes,
}

/// What becomes of fields whose names some servers take for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lookalikes {
    /// They end here.
    #[default]
    Drop,
    /// They go upstream.
    Keep,
}

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteTimeouts {
    /// Until an endpoint is connected, TLS included. Default: 5s, two lost SYNs (1s and 2s apart) and a little more.
    pub connect: TimeSpan,

    /// Until an endpoint has answered the WebSocket handshake. Default: 10s, room for a server that looks a session up
    /// first.
    pub handshake: TimeSpan,

    /// Until an endpoint begins to answer a plain HTTP request. Default: 60s, as nginx's `proxy_read_timeout`; long
    /// polling needs most of it.
    pub response: TimeSpan,

    /// How long the bodies of a plain HTTP request and of its answer may stand still: the client sends nothing (408), or the
    /// server takes or sends nothing. Default: 60s, as nginx's `client_body_timeout` and `proxy_read_timeout`: whoever stops
    /// in the middle of a body holds two connections.
    pub body: OrOff<TimeSpan>,

    /// The same for a server that sends nothing of a `text/event-stream`. Default: `off`, since events come when they come;
    /// `tcp.keepalive` notices a dead server.
    pub event_stream: OrOff<TimeSpan>,

    /// Ends a session in which no data frame came from either side for this long; pings and pongs do not count.
    /// Default: `off`, since a quiet chat is not a dead one; `keepalive` notices the dead ones.
    pub idle: OrOff<TimeSpan>,

    /// Ends a session this long after it began. Default: `off`, since only the application knows how long is too long.
    pub lifetime: OrOff<TimeSpan>,
}

/// Pings to both sides of a quiet session.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keepalive {
    /// Ping a side that has sent nothing for this long. Default: 30s, below the minute after which common load
    /// balancers and NATs forget a connection. With `validate: off` the default is `off`.
    pub ping: OrOff<TimeSpan>,

    /// How long a side has for its Pong (or anything else) until it counts as dead; less than `ping`. Default: 10s,
    /// enough for a phone that has to wake its radio.
    pub pong: TimeSpan,
}

/// How much a session may ask for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteLimits {
    /// The largest message, summed over its frames; a larger one ends the session with close code 1009. Default: `off`,
    /// since messages are never held here: only the application knows what it cannot take.
    pub message: OrOff<ByteSize>,

    /// The largest frame, otherwise as `message`. Default: `off`.
    pub frame: OrOff<ByteSize>,

    /// How many sessions and plain HTTP requests this route may have at once; more are answered with 503. A request counts from
    /// its head until its answer is whole, an event stream or a long poll as long as it lasts. Default: no limit.
    pub connections: Option<u32>,
}

/// What becomes of plain HTTP requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlainHttp {
    /// They go upstream.
    #[default]
    Proxy,
    /// They are answered with 426 Upgrade Required.
    Reject,
}

/// Whether frames are judged by RFC 6455.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Validate {
    /// The first frame that leaves a doubt ends the session.
    #[default]
    Lenient,
    /// The first frame that breaks a rule ends the session.
    Strict,
    /// Bytes are relayed blindly.
    Off,
}

impl Default for RouteTimeouts {
    fn default() -> RouteTimeouts {
        RouteTimeouts {
            connect: TimeSpan::from_secs(5),
            handshake: TimeSpan::from_secs(10),
            response: TimeSpan::from_secs(60),
            body: OrOff::Set(TimeSpan::from_secs(60)),
            event_stream: OrOff::Off,
            idle: OrOff::Off,
            lifetime: OrOff::Off,
        }
    }
}

impl Default for Keepalive {
    fn default() -> Keepalive {
        Keepalive { ping: OrOff::Set(TimeSpan::from_secs(30)), pong: TimeSpan::from_secs(10) }
    }
}

impl Default for RouteLimits {
    fn default() -> RouteLimits {
        RouteLimits { message: OrOff::Off, frame: OrOff::Off, connections: None }
    }
}
