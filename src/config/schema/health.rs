//! How it is found out whether an endpoint is fit, and what is done about it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use http::header::HeaderName;
use http::uri::PathAndQuery;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::config::value::edits::HeaderSet;
use crate::config::value::{BadValue, OrOff, Scalar, TimeSpan, scalar};
use crate::route::pattern::{SOURCE_BYTES_MAX, within};

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

/// Leaving out an endpoint that fails live traffic.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EjectionConfig {
    /// Connections or handshakes in a row that must fail. An HTTP answer, also one with 500, is an answer. Default: 1, as
    /// nginx's `max_fails`: who was ejected in error is back soon, and until then is used when nobody else is left.
    pub failures: u32,

    /// A session that breaks off without a Close this soon after it opened counts as broken off early; 5 of them within
    /// 10s, and half of all that opened, eject. `off` for servers that hang up like that on purpose. Default: 1s.
    pub early_end: OrOff<TimeSpan>,

    /// How long the first ejection is; the second in a row is twice as long, the third three times. Afterwards one session
    /// a second tries the endpoint until it answers. Default: 10s, as nginx's `fail_timeout`.
    pub time: TimeSpan,

    /// The longest ejection. Default: 5m, as Envoy has it.
    pub time_max: TimeSpan,

    /// How many of an upstream's endpoints may be ejected at a time; one always may. A further one that fails is passed over
    /// for a second only, so that the rest is not buried under the load of all. Default: 50%.
    pub share_max: Share,
}

impl Default for EjectionConfig {
    fn default() -> EjectionConfig {
        EjectionConfig {
            failures: 1,
            early_end: OrOff::Set(TimeSpan::from_secs(1)),
            time: TimeSpan::from_secs(10),
            time_max: TimeSpan::from_secs(300),
            share_max: Share(50),
        }
    }
}

/// How many second attempts there are.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryBudgetConfig {
    /// How many there may be for the requests of the last 10s. Default: 20%, as linkerd and Envoy have it.
    pub ratio: Share,

    /// How many a second there may be besides, so that few requests have a second try, too. Default: 10.
    pub min_per_second: u32,
}

impl Default for RetryBudgetConfig {
    fn default() -> RetryBudgetConfig {
        RetryBudgetConfig { ratio: Share(20), min_per_second: 10 }
    }
}

/// A map, or `off`: the thing it describes is then not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOrOff<T> {
    /// `off`
    Off,
    /// The map.
    Map(T),
}

impl<T: Default> Default for MapOrOff<T> {
    fn default() -> MapOrOff<T> {
        MapOrOff::Map(T::default())
    }
}

impl<T> MapOrOff<T> {
    /// The map, unless it is off.
    pub fn map(&self) -> Option<&T> {
        match self {
            MapOrOff::Off => None,
            MapOrOff::Map(map) => Some(map),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for MapOrOff<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct MapVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for MapVisitor<T> {
            type Value = MapOrOff<T>;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("a map, or `off`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MapOrOff<T>, E> {
                match text {
                    "off" => Ok(MapOrOff::Off),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MapOrOff<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(MapOrOff::Map)
            }
        }

        from.deserialize_any(MapVisitor(PhantomData))
    }
}

impl<T: Serialize> Serialize for MapOrOff<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            MapOrOff::Off => to.serialize_str("off"),
            MapOrOff::Map(map) => map.serialize(to),
        }
    }
}

impl<T: JsonSchema> JsonSchema for MapOrOff<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}MapOrOff", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "off" }, generator.subschema_for::<T>()] })
    }
}

/// A part in percent: 0% to 100%.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// So many hundredths, at most 100.
    pub(in crate::config) const fn new(percent: u32) -> Share {
        Share(percent)
    }

    /// As a number of hundredths.
    pub const fn percent(self) -> u32 {
        self.0
    }
}

impl Scalar for Share {
    const EXPECTED: &'static str = "a percentage such as `20%`";
}

impl FromStr for Share {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Share, BadValue> {
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
        percent.filter(|percent| *percent <= 100).map(Share).ok_or_else(|| {
            BadValue::new(format!("`{text}` is not a percentage"), "write one from 0% to 100%, such as `20%`")
        })
    }
}

impl fmt::Display for Share {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}%", self.0)
    }
}

/// What a request asks for, in origin form: a path, perhaps with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTarget(pub PathAndQuery);

impl Scalar for RequestTarget {
    const EXPECTED: &'static str = "a path such as `/healthz`";
}

impl FromStr for RequestTarget {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<RequestTarget, BadValue> {
        let bad = |problem: &str| BadValue::new(format!("`{text}` {problem}"), "write a path such as `/healthz`");
        if !text.starts_with('/') {
            return Err(bad("does not begin with `/`"));
        }
        text.parse().map(RequestTarget).map_err(|_| bad("is not a path"))
    }
}

impl fmt::Display for RequestTarget {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// What stands in a Host field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// As a field's value.
    pub fn value(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("it was read from an authority, which is visible ASCII")
    }
}

impl Scalar for HostName {
    const EXPECTED: &'static str = "a host such as `chat.example.com`";
}

impl FromStr for HostName {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<HostName, BadValue> {
        let authority = text.parse::<http::uri::Authority>().ok().filter(|authority| !authority.as_str().contains('@'));
        authority.map(|authority| HostName(authority.to_string())).ok_or_else(|| {
            BadValue::new(
                format!("`{text}` is not a host"),
                "write a name, perhaps with a port, such as `chat.example.com`",
            )
        })
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// The name of a subprotocol: a token (RFC 6455 §4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedSubprotocol(String);

impl Scalar for OfferedSubprotocol {
    const EXPECTED: &'static str = "the name of a subprotocol such as `mqtt`";
}

impl FromStr for OfferedSubprotocol {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<OfferedSubprotocol, BadValue> {
        // The name of a header is a token, too.
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(_) => Ok(OfferedSubprotocol(text.to_owned())),
            Err(_) => Err(BadValue::new(
                format!("`{text}` is not the name of a subprotocol"),
                "write one without spaces, such as `mqtt` or `graphql-transport-ws`",
            )),
        }
    }
}

impl fmt::Display for OfferedSubprotocol {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Statuses that are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedStatuses(Vec<RangeInclusive<u16>>);

impl ExpectedStatuses {
    /// As ranges.
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.0
    }
}

impl Default for ExpectedStatuses {
    fn default() -> ExpectedStatuses {
        ExpectedStatuses(vec![200..=399])
    }
}

impl Scalar for ExpectedStatuses {
    const EXPECTED: &'static str = "statuses such as `200` or `200-399`";

    fn from_number(status: u64) -> Option<ExpectedStatuses> {
        status.to_string().parse().ok()
    }
}

impl FromStr for ExpectedStatuses {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<ExpectedStatuses, BadValue> {
        let status = |text: &str| text.trim().parse().ok().filter(|status| (200..=599u16).contains(status));
        let range = |part: &str| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (status(from)?, status(to)?);
            (from <= to).then_some(from..=to)
        };
        text.split(',').map(range).collect::<Option<Vec<_>>>().map(ExpectedStatuses).ok_or_else(|| {
            BadValue::new(
                format!("`{text}` are not statuses of an answer"),
                "write one from 200 to 599, a range, or several with commas: `200`, `200-399`, `200,404`",
            )
        })
    }
}

impl fmt::Display for ExpectedStatuses {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (from, to) if from == to => write!(out, "{comma}{from}")?,
                (from, to) => write!(out, "{comma}{from}-{to}")?,
            }
        }
        Ok(())
    }
}

/// A regex that matches somewhere in bytes. Two are equal when their text is.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: String,
    compiled: Arc<OnceLock<Option<regex::bytes::Regex>>>,
}

impl Pattern {
    /// Compiles it, in at most `room` bytes, of which it takes what it needs. Says whether there is enough.
    pub(in crate::config) fn compile(&self, room: &mut usize) -> bool {
        let build = |bytes| regex::bytes::RegexBuilder::new(&self.source).size_limit(bytes).build();
        self.compiled.get_or_init(|| within(room, build)).is_some()
    }

    /// Compiled; `None` for one that is too large.
    pub fn regex(&self) -> Option<regex::bytes::Regex> {
        self.compiled.get_or_init(|| regex::bytes::Regex::new(&self.source).ok()).clone()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Scalar for Pattern {
    const EXPECTED: &'static str = "a regex such as `^ok`";
}

impl FromStr for Pattern {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Pattern, BadValue> {
        if text.len() > SOURCE_BYTES_MAX {
            let problem = format!("a regex has at most {SOURCE_BYTES_MAX} characters, this one {}", text.len());
            return Err(BadValue::new(problem, "look for less"));
        }
        // Without room for anything it is read and not compiled.
        match regex::bytes::RegexBuilder::new(text).size_limit(0).build() {
            Ok(_) | Err(regex::Error::CompiledTooBig(_)) => {
                Ok(Pattern { source: text.to_owned(), compiled: Arc::default() })
            }
            Err(error) => {
                let error = error.to_string();
                let last = error.lines().last().unwrap_or_default();
                let help = format!("mend it: {}", last.strip_prefix("error: ").unwrap_or(last));
                Err(BadValue::new(format!("`{text}` is not a regex"), help))
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.source)
    }
}

/// Makes a scalar out of a string in the file.
macro_rules! as_scalar {
    ($type:ident, $name:literal, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                scalar(from)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

as_scalar!(Share, "Share", {
    "description": "A percentage from 0% to 100%.",
    "type": "string",
    "pattern": r"^[0-9]+%$|\$\{",
    "examples": ["20%"],
});
as_scalar!(RequestTarget, "RequestTarget", {
    "description": "A path, perhaps with a query.",
    "type": "string",
    "pattern": r"^/|\$\{",
    "examples": ["/healthz"],
});
as_scalar!(HostName, "HostName", { "description": "A host, perhaps with a port.", "type": "string", "examples": ["chat.example.com"] });
as_scalar!(OfferedSubprotocol, "Subprotocol", { "description": "The name of a subprotocol.", "type": "string", "examples": ["mqtt"] });
as_scalar!(ExpectedStatuses, "Statuses", {
    "description": "Statuses of an answer: one, a range, or several with commas.",
    "type": ["string", "integer"],
    "pattern": r"^[0-9, -]+$|\$\{",
    "minimum": 200,
    "maximum": 599,
    "examples": [200, "200-399", "200,404"],
});
as_scalar!(Pattern, "SearchRegex", { "description": "A regex that matches anywhere.", "type": "string", "format": "regex" });

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_printed_as_they_were_written() {
        for text in ["0%", "20%", "100%"] {
            assert_eq!(text.parse::<Share>().unwrap().to_string(), text);
        }
        for text in ["200", "200-399", "200,204,300-399"] {
            assert_eq!(text.parse::<ExpectedStatuses>().unwrap().to_string(), text);
        }
        for text in ["/", "/healthz", "/ws?probe=1"] {
            assert_eq!(text.parse::<RequestTarget>().unwrap().to_string(), text);
        }
        assert_eq!("chat.example.com:8443".parse::<HostName>().unwrap().value(), "chat.example.com:8443");
    }

    #[test]
    fn values_that_are_none_are_refused() {
        for text in ["", "20", "101%", "-1%", "1.5%"] {
            text.parse::<Share>().unwrap_err();
        }
        for text in ["", "99", "101", "600", "399-200", "200-", "ok", "200,"] {
            text.parse::<ExpectedStatuses>().unwrap_err();
        }
        for text in ["", "healthz", "http://x/", "/a b"] {
            text.parse::<RequestTarget>().unwrap_err();
        }
        for text in ["", "a b", "user@host", "a/b"] {
            text.parse::<HostName>().unwrap_err();
        }
        for text in ["", "a b", "a,b"] {
            text.parse::<OfferedSubprotocol>().unwrap_err();
        }
        assert_eq!("a(".parse::<Pattern>().unwrap_err().help, "mend it: unclosed group");
    }
}
