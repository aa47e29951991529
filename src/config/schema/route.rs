//! Routes: which request goes where, and under which rules.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::schema::action::{RedirectConfig, RespondConfig};
use crate::config::schema::addresses::AddressesConfig;
use crate::config::schema::admission::Rate;
use crate::config::schema::auth::AuthConfig;
use crate::config::schema::http_compression::HttpCompression;
use crate::config::schema::on_change::OnChange;
use crate::config::schema::per_client::PerClientConfig;
use crate::config::schema::rate::{Count, RateConfig};
use crate::config::schema::upstream_lost::OnUpstreamLost;
use crate::config::value::edits::HeaderEditsConfig;
use crate::config::value::error_status::ErrorStatus;
use crate::config::value::off::none_if_off;
use crate::config::value::on_off::OnOff;
use crate::config::value::sent::SentHeader;
use crate::config::value::{ByteSize, MapOrOff, OrOff, TimeSpan};
use crate::policy::origin::OriginPolicy;
use crate::route::pattern::WholeRegex;
use crate::route::rewrite::Replacement;
use crate::route::{Match, Paths};

/// One route: what it matches, where that goes, and under which rules.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Its name in logs and metrics: letters, digits, `_`, `.`, `-`. Required.
    pub name: String,

    /// The requests it takes; every condition must hold. Default: every request.
    #[serde(default, rename = "match")]
    pub matches: Match,

    /// How the servers of this route read `//`, `%2F` and `;` in a path, so that no spelling of a path goes past its
    /// route. Where another reading would have found another route, the server gets the path that was matched;
    /// otherwise it gets the path as it came. Default: what most servers read.
    #[serde(default)]
    pub paths: Paths,

    /// The name of the upstream, one of `upstreams`, or the URL of a single server, which becomes an upstream with the
    /// name of the route. A route has one of `upstream`, `redirect` and `respond`.
    #[serde(default)]
    pub upstream: Option<String>,

    /// Sends clients elsewhere, in place of `upstream`: `redirect: "https://new.example.com{request.target}"`, or a map
    /// with `to` and `status`. A WebSocket handshake gets the same answer, which browsers do not follow. Default: none.
    #[serde(default)]
    pub redirect: Option<Box<RedirectConfig>>,

    /// Answers requests, in place of `upstream`: for a health path, or a maintenance page. A WebSocket handshake gets the
    /// same answer. Headers are those of `headers.response`. Default: none.
    #[serde(default)]
    pub respond: Option<Box<RespondConfig>>,

    /// The web pages that may open a WebSocket here. Default: only pages of the same origin, since a browser sends
    /// its cookies with the handshake whichever page asks (cross-site WebSocket hijacking); clients that send no
    /// Origin are not browsers and are admitted.
    #[serde(default)]
    pub origins: OriginPolicy,

    /// Which clients may use the route, by address: `addresses: { allow: [10.0.0.0/8], deny: [10.9.0.7] }`. All others get 403.
    /// It is the client's address as the log has it: that of the peer, or what the listener's `trusted_proxies` and a PROXY
    /// header tell. `off` where `defaults` say otherwise. Default: `off`, everybody may.
    #[serde(default, deserialize_with = "none_if_off", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MapOrOff<AddressesConfig>>")]
    pub addresses: Option<Box<AddressesConfig>>,

    /// Who may use the route: `auth: { jwt: { keys: { url: "https://id.example.com/jwks.json" }, algorithms: [ES256] } }`. It
    /// holds for WebSocket handshakes, after `origins`, and for plain HTTP; `off` where `defaults` say otherwise. Default:
    /// `off`, everybody.
    #[serde(default, deserialize_with = "none_if_off", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MapOrOff<AuthConfig>>")]
    pub auth: Option<Box<AuthConfig>>,

    /// Changes the path before it goes upstream. Default: no change.
    #[serde(default)]
    pub rewrite: Box<RewriteConfig>,

    /// Changes headers. Default: nothing beyond what a proxy must do.
    #[serde(default)]
    pub headers: Headers,

    /// How long each step may take.
    #[serde(default)]
    pub timeouts: Box<RouteTimeouts>,

    /// Pings both sides, to notice a dead peer and to keep middleboxes from forgetting a quiet connection. `off` is the
    /// same as `{ ping: off }`.
    #[serde(default, deserialize_with = "pings_or_off")]
    #[schemars(with = "MapOrOff<Keepalive>")]
    pub keepalive: Keepalive,

    /// How much a session may use.
    #[serde(default)]
    pub limits: Box<RouteLimits>,

    /// Compresses plain HTTP answers that the server sends uncompressed: `on`, or a map of the keys below; WebSockets
    /// are not touched (they have permessage-deflate). Left as they are: event streams, answers to HEAD and parts of one (206),
    /// `Cache-Control: no-transform`, and what has a Content-Encoding or a digest. A compressed answer has `Vary:
    /// Accept-Encoding`, a weak ETag and no length. While it lasts it takes up to 3 MiB of memory (`br`; `zstd` 1.5 MiB,
    /// `gzip` 0.3 MiB), and a worker's time in turns of less than a millisecond. Default: `off`, since an answer with a
    /// secret beside a text of the client lets others guess the secret by its length (BREACH), and since servers often
    /// compress themselves.
    #[serde(default)]
    pub http_compression: OnOff<HttpCompression>,

    /// What happens to plain HTTP requests: `proxy` forwards them, `reject` answers 426. Default: `proxy`, since most
    /// WebSocket servers also serve a page or a polling fallback.
    #[serde(default)]
    pub http: PlainHttp,

    /// How strictly frames are checked against RFC 6455. `lenient` ends a session (close code 1002) at the first
    /// frame that two peers could read in two ways. It passes and counts (`wsluice_frames_tolerated_total`) frames
    /// that only break a rule: a length in more bytes than needed, and a Ping, Pong or Close masked in the wrong
    /// direction or unmasked in the other (the frame goes on with the right masking). `strict` ends the session for
    /// those too. `off` relays bytes blindly, for servers that break the protocol; it turns off pings, message
    /// counts, `keepalive`, and of `limits` all but `connections`, `body` and the bytes of rates. It is about frames only: no key relaxes the opening handshake, since a peer
    /// that fails it speaks another protocol. Default: `lenient`, since clients in use do such things (paho-mqtt) and
    /// refusing protects nobody.
    #[serde(default)]
    pub validate: Validate,

    /// Pages in place of the line of text with which wsluice refuses a request on this route: files by status (`502`) or
    /// class (`5xx`), at most 1MiB each, read again when they change. HTML goes to clients whose `Accept` names `text/html`,
    /// as browsers do for a page; any other type goes to all. A server's own answers stay. Default: none.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, PathBuf>")]
    pub error_pages: BTreeMap<ErrorStatus, PathBuf>,

    /// What a client gets when its server is lost without a Close. `cut` ends its stream, so that its library reports
    /// 1006 as it would without a proxy; `{ close: CODE }` sends a Close (most clients take `{ close: 1012 }` for
    /// "come back"). Default: `cut`, the only end after which every client we tried reconnects by itself: Vite up to
    /// 5 and rxjs take any Close for the server's wish.
    #[serde(default)]
    pub on_upstream_lost: OnUpstreamLost,

    /// What happens to this route's sessions when a reload changes or removes it: `keep` leaves them as they began,
    /// `drain 60s` closes them evenly over that time (code 1012), `close` closes all at once. A changed route follows
    /// the new file, a removed one the old file. Default: `keep`, since new sessions follow the new file anyway.
    #[serde(default = "kept")]
    pub on_change: OnChange,
}

impl RouteConfig {
    /// Returns true if everything that a running session depends on is the same. `on_change` is left out: it counts
    /// only when the change comes.
    pub fn is_like(&self, other: &RouteConfig) -> bool {
        *self == RouteConfig { on_change: self.on_change, ..other.clone() }
    }

    /// Returns a digest that two routes have in common if they are alike, in another process too. A build that knows more
    /// keys may give another one.
    pub fn fingerprint(&self) -> [u8; 16] {
        let neutral = RouteConfig { on_change: OnChange::Keep, ..self.clone() };
        let text = serde_json::to_vec(&neutral).unwrap_or_default();
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&digest::digest(&digest::SHA256, &text).as_ref()[..16]);
        fingerprint
    }

    /// Returns the files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let auth = self.auth.iter().flat_map(|auth| auth.files());
        let pages = self.error_pages.values().map(PathBuf::as_path);
        self.respond.iter().flat_map(|respond| respond.files()).chain(pages).chain(auth)
    }
}

/// Reads `off` as a map that turns pings off.
fn pings_or_off<'de, D: Deserializer<'de>>(from: D) -> Result<Keepalive, D::Error> {
    Ok(match MapOrOff::deserialize(from)? {
        MapOrOff::Map(keepalive) => keepalive,
        MapOrOff::Off => Keepalive { ping: OrOff::Off, ..Keepalive::default() },
    })
}

fn kept() -> OnChange {
    OnChange::Keep
}

/// Changes of the path before it goes upstream: strips a prefix and adds one, or replaces all of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewriteConfig {
    /// Strips this from the front of the path, at a segment's border: `/ws` turns `/ws` into `/` and `/ws/a` into
    /// `/a`. The server's redirects and cookies keep its own paths: it must know its prefix
    /// (`headers.send: [X-Forwarded-Prefix]`), or be given the path unstripped. Default: nothing.
    pub strip_prefix: Option<String>,

    /// Adds this before the path. Default: nothing.
    pub add_prefix: Option<String>,

    /// Replaces the whole path, as in `/ws` for servers that know one path only. The query stays. It stands alone.
    /// Default: nothing.
    pub path: Option<String>,

    /// A regex that matches the whole path, as `match.path.regex` does; a path that it matches becomes what `with` says,
    /// any other stays. Default: nothing.
    pub regex: Option<WholeRegex>,

    /// The path in place of one that `regex` matches: `/b/$1` with `regex: "/a/(.*)"` turns `/a/x` into `/b/x`. `$1` to
    /// `$9` and `$name` are groups of the regex, `$$` is a dollar sign, and where letters follow a name, `$${name}` is
    /// written in place of `$name` (`${name}` alone comes from the environment). The query stays. Required beside `regex`.
    pub with: Option<Replacement>,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Headers {
    /// Further headers for the server, each made anew, so that a stranger's own never passes: `X-Real-IP` (the client's
    /// address, as trusted proxies and the PROXY protocol tell it), `X-Forwarded-Port` (the port that the client spoke
    /// to), `X-Forwarded-Prefix` (what `rewrite.strip_prefix` took off) and `X-Request-Id` (that of a trusted proxy, or a
    /// new UUID; the log has it as `request_id`). Default: none, since `X-Forwarded-For`, `-Proto` and `-Host` and
    /// `Forwarded`, which are always sent, are enough for most servers.
    pub send: Vec<SentHeader>,

    /// Changes on the way to the upstream, after the request was judged (`match`, `origins`). Default: none.
    pub request: HeaderEditsConfig,

    /// Changes on the way to the client, including the answer to a handshake. Default: none.
    pub response: HeaderEditsConfig,

    /// What happens to request fields that some servers (CGI, PHP, WSGI) take for a field that the proxy writes or
    /// that `request` sets or removes: `Transfer_Encoding`, `Sec.WebSocket.Key`, `X_User` beside `X-User`. `drop` or
    /// `keep`; look-alikes of `X-Forwarded-*` and `X-Real-IP` never pass. Default: `drop`.
    pub lookalikes: Lookalikes,
}

/// What happens to fields that some servers take for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lookalikes {
    /// Drops them.
    #[default]
    Drop,
    /// Sends them upstream.
    Keep,
}

/// How long each step may take.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteTimeouts {
    /// Limits connecting to an endpoint, TLS included. Default: 5s, two lost SYNs (1s and 2s apart) and a little
    /// more.
    pub connect: TimeSpan,

    /// Limits an endpoint's answer to the WebSocket handshake. Default: 10s, room for a server that looks a session
    /// up first.
    pub handshake: TimeSpan,

    /// How long an endpoint may take to begin its answer to a plain HTTP request. Default: 60s, as nginx's
    /// `proxy_read_timeout`; long polling needs most of it.
    pub response: TimeSpan,

    /// How long the body of a plain HTTP request or answer may stand still: the client sends nothing (408), or the
    /// server takes or sends nothing. Default: 60s, as nginx's `client_body_timeout` and `proxy_read_timeout`: a peer
    /// that stops in the middle of a body holds two connections.
    pub body: OrOff<TimeSpan>,

    /// The same for a server that sends nothing on a `text/event-stream`. Default: `off`, since events come when they
    /// come; `tcp.keepalive` notices a dead server.
    pub event_stream: OrOff<TimeSpan>,

    /// Ends a session after this time without a data frame from either side; pings and pongs do not count. Default:
    /// `off`, since a quiet chat is not a dead one; `keepalive` notices the dead ones.
    pub idle: OrOff<TimeSpan>,

    /// Ends a session this long after it began. Default: `off`, since only the application knows how long is too
    /// long.
    pub lifetime: OrOff<TimeSpan>,
}

/// Pings to both sides of a quiet session.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keepalive {
    /// Pings a side that has sent nothing for this long. Default: 30s, below the minute after which common load
    /// balancers and NATs forget a connection. With `validate: off` the default is `off`.
    pub ping: OrOff<TimeSpan>,

    /// How long a side may take for its Pong (or anything else) before it counts as dead; less than `ping`. Default:
    /// 10s, enough for a phone that has to wake its radio.
    pub pong: TimeSpan,
}

/// How much a session may use.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteLimits {
    /// The largest message, summed over its frames; a larger one ends the session with close code 1009. It counts
    /// bytes on the wire, which permessage-deflate compresses: a message of 1MiB may become 1GiB at the server, whose
    /// own limit must bound that. Default: `off`, since the proxy never holds a message: only the application knows
    /// what it cannot take.
    pub message: OrOff<ByteSize>,

    /// The largest frame; otherwise as `message`, compressed bytes included. Default: `off`.
    pub frame: OrOff<ByteSize>,

    /// The largest body of a plain HTTP request. One that is larger by its Content-Length is answered with 413 before
    /// any of it is read; one without a length is cut where it becomes too large, and so is its answer if that has
    /// begun. Default: `off`, since bodies pass through and are never held: only the server knows what it cannot take.
    pub body: OrOff<ByteSize>,

    /// The most sessions and plain HTTP requests on this route at once; more are answered with 503. A request counts
    /// from its head until its answer is complete, an event stream or a long poll as long as it lasts. Default: no
    /// limit.
    pub connections: Option<u32>,

    /// How many sessions each client may have on this route, and how fast it may open them: `{ sessions: 20, handshakes: 5/s,
    /// burst: 20, key: address }`. Default: `off`, since many people may share one address.
    #[serde(deserialize_with = "none_if_off")]
    #[schemars(with = "Option<MapOrOff<PerClientConfig>>")]
    pub per_client: Option<Box<PerClientConfig>>,

    /// How fast the client of each session may send: `{ messages: 50/s, burst: 100, bytes: 1MiB/s, then: delay }`.
    /// `wsluice_rate_delays_total` shows that it bites. A session keeps the rate it began with. Default: `off`, since only
    /// the application knows what its clients say.
    #[serde(deserialize_with = "none_if_off")]
    #[schemars(with = "Option<MapOrOff<RateConfig>>")]
    pub rate: Option<Box<RateConfig>>,

    /// The same for what the server sends to each client. Default: `off`.
    #[serde(deserialize_with = "none_if_off")]
    #[schemars(with = "Option<MapOrOff<RateConfig>>")]
    pub server_rate: Option<Box<RateConfig>>,

    /// The most Pings and Pongs of each side in one second, at most `65535/s`; more end the session with close code 1008.
    /// Default: 1000/s: clients and servers send one in many seconds, and ten minutes of them may come at once from behind
    /// a stalled network; each of a flood makes the other side answer.
    pub control: OrOff<Rate>,

    /// The most fragments of at most 125 bytes in one message; more end the session with close code 1008. Larger ones do
    /// not count. Default: 100000, more than 4MiB in pieces of 64 bytes (as test suites send them); a million empty ones
    /// are no message, and cost a server more than their bytes say.
    pub fragments: OrOff<Count>,
}

/// What happens to plain HTTP requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlainHttp {
    /// Forwards them.
    #[default]
    Proxy,
    /// Answers them with 426 Upgrade Required.
    Reject,
}

/// How strictly frames are checked against RFC 6455.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Validate {
    /// The first ambiguous frame ends the session.
    #[default]
    Lenient,
    /// The first frame that breaks a rule ends the session.
    Strict,
    /// Relays bytes blindly.
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

impl RouteLimits {
    /// Returns the largest frame, if there is one.
    pub fn frame_max(&self) -> Option<u64> {
        [self.frame.bytes(), self.message.bytes()].into_iter().flatten().min()
    }
}

impl Default for RouteLimits {
    fn default() -> RouteLimits {
        RouteLimits {
            message: OrOff::Off,
            frame: OrOff::Off,
            body: OrOff::Off,
            connections: None,
            per_client: None,
            rate: None,
            server_rate: None,
            control: OrOff::Set(Rate::new(1000)),
            fragments: OrOff::Set(Count(100_000)),
        }
    }
}
