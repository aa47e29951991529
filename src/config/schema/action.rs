//! What a route does itself instead of sending requests to an upstream: a redirect, or an answer.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::config::value::{BadValue, Scalar, as_scalar, template};
use crate::header::redirect::{RedirectError, RedirectTarget};
use crate::header::template::Template;

/// The largest body that is written into the file itself.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Sends clients elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RedirectConfig {
    /// Where to.
    pub to: Location,

    /// How.
    pub status: RedirectStatus,
}

/// A redirect written as a map.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RedirectMap {
    /// The URL or path, in which variables may stand: `https://new.example.com{request.target}` keeps the path and the
    /// query, `{request.path}` the path alone, and `/new{rewrite.target}` what `rewrite` leaves of them. Without a
    /// variable, all requests go to one place. Required.
    to: Location,

    /// 301, 302, 303, 307 or 308. With 307 and 308 a client repeats its method and body; with 301 and 308 it remembers.
    /// Default: 302, since browsers keep a 301 or 308 for good, and a mistake in one cannot be taken back.
    #[serde(default)]
    status: RedirectStatus,
}

impl<'de> Deserialize<'de> for RedirectConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct RedirectVisitor;

        impl<'de> Visitor<'de> for RedirectVisitor {
            type Value = RedirectConfig;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                write!(out, "{}, or a map with `to`", Location::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RedirectConfig, E> {
                let to = text.parse().map_err(BadValue::into_serde)?;
                Ok(RedirectConfig { to, status: RedirectStatus::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RedirectConfig, A::Error> {
                let RedirectMap { to, status } = RedirectMap::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RedirectConfig { to, status })
            }
        }

        from.deserialize_any(RedirectVisitor)
    }
}

impl JsonSchema for RedirectConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RouteRedirect".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let to = generator.subschema_for::<Location>();
        let map = generator.subschema_for::<RedirectMap>();
        json_schema!({ "description": "Where clients are sent: a URL or path, or a map with `to`.", "anyOf": [to, map] })
    }
}

/// Where a redirect leads.
#[derive(Clone, Debug, PartialEq)]
pub struct Location(pub RedirectTarget);

impl Scalar for Location {
    const EXPECTED: &'static str = "a URL such as `https://new.example.com{request.target}`, or a path";
}

impl FromStr for Location {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Location, BadValue> {
        let target = text.parse().map_err(|error: RedirectError| {
            let help = match &error {
                RedirectError::Template(error) => return template::explain(text, error),
                RedirectError::Neither | RedirectError::NoHost => {
                    "write `https://new.example.com{request.target}`, or a path such as `/new{request.path}`"
                }
                RedirectError::Claims => "remove it",
                RedirectError::SchemeRelative => "write `https://` before it, or one slash for a path",
                RedirectError::UserInfo => "write the host alone",
                RedirectError::HostVariable(_) => "put `/` behind the host, or name it with `{request.host}`",
                RedirectError::Characters => "percent-encode them, as in `%20`",
            };
            BadValue::new(error.to_string(), help)
        })?;
        Ok(Location(target))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The status of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedirectStatus(StatusCode);

impl RedirectStatus {
    /// Returns it.
    pub fn code(self) -> StatusCode {
        self.0
    }
}

impl Default for RedirectStatus {
    fn default() -> RedirectStatus {
        RedirectStatus(StatusCode::FOUND)
    }
}

impl Scalar for RedirectStatus {
    const EXPECTED: &'static str = "301, 302, 303, 307 or 308";

    fn from_number(number: u64) -> Option<RedirectStatus> {
        number.to_string().parse().ok()
    }
}

impl FromStr for RedirectStatus {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<RedirectStatus, BadValue> {
        let status = match text {
            "301" => StatusCode::MOVED_PERMANENTLY,
            "302" => StatusCode::FOUND,
            "303" => StatusCode::SEE_OTHER,
            "307" => StatusCode::TEMPORARY_REDIRECT,
            "308" => StatusCode::PERMANENT_REDIRECT,
            _ => {
                let help = "write 302 or 307 for now, 301 or 308 for good; 307 and 308 keep the method";
                return Err(BadValue::new(format!("`{text}` is not the status of a redirect"), help));
            }
        };
        Ok(RedirectStatus(status))
    }
}

impl fmt::Display for RedirectStatus {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(self.0.as_str())
    }
}

/// Answers requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RespondConfig {
    /// The status, 200 to 599 without the redirects. Default: 200.
    pub status: AnswerStatus,

    /// The body, in which variables may stand; at most 64KiB. It is `text/plain` unless `headers.response` of the route
    /// sets another `Content-Type`. Default: empty.
    pub body: Option<Text>,

    /// A file with the body in place of `body`, sent as it is, at most 1MiB. Its ending tells its type: `.html`, `.json`,
    /// `.txt`, `.svg` and the like. Read again when it changes. Default: none.
    pub file: Option<PathBuf>,
}

impl RespondConfig {
    /// Returns the files that it names.
    pub(in crate::config) fn files(&self) -> impl Iterator<Item = &Path> {
        self.file.iter().map(PathBuf::as_path)
    }
}

/// A body with variables.
#[derive(Clone, Debug, PartialEq)]
pub struct Text(pub Template);

impl Scalar for Text {
    const EXPECTED: &'static str = "a text";
}

impl FromStr for Text {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Text, BadValue> {
        if text.len() > BODY_BYTES_MAX {
            let problem = format!("the body has more than {} KiB", BODY_BYTES_MAX >> 10);
            return Err(BadValue::new(problem, "put it into a file: `file: pages/it.html`"));
        }
        template::read(text).map(Text)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerStatus(StatusCode);

impl AnswerStatus {
    /// Returns it.
    pub fn code(self) -> StatusCode {
        self.0
    }

    /// Returns true if such an answer has no body (RFC 9110 §6.4.1, §15.3.6).
    pub fn has_no_body(self) -> bool {
        matches!(self.0, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT)
    }
}

impl Default for AnswerStatus {
    fn default() -> AnswerStatus {
        AnswerStatus(StatusCode::OK)
    }
}

impl Scalar for AnswerStatus {
    const EXPECTED: &'static str = "a status such as `200` or `503`";

    fn from_number(number: u64) -> Option<AnswerStatus> {
        number.to_string().parse().ok()
    }
}

impl FromStr for AnswerStatus {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<AnswerStatus, BadValue> {
        let bad = |help: &str| BadValue::new(format!("`{text}` is not the status of such an answer"), help);
        match text.parse::<u16>().ok().filter(|status| (200..=599).contains(status)) {
            Some(300..=399) => Err(bad("write `redirect:` in place of `respond:`")),
            Some(status) => StatusCode::from_u16(status).map(AnswerStatus).map_err(|_| bad("write another")),
            None => Err(bad("write one from 200 to 299 or 400 to 599, such as `503`")),
        }
    }
}

impl fmt::Display for AnswerStatus {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(self.0.as_str())
    }
}

/// As numbers, which they are written as.
macro_rules! as_number {
    ($type:ident) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_u16(self.0.as_u16())
            }
        }
    };
}

as_number!(RedirectStatus);
as_number!(AnswerStatus);
as_scalar!(Location, "RedirectTarget", {
    "description": "A URL or a path, in which variables may stand.",
    "type": "string",
    "examples": ["https://new.example.com{request.target}"],
});
as_scalar!(Text, "Text", { "description": "A text in which variables may stand.", "type": "string", "examples": ["ok"] });
as_scalar!(@read RedirectStatus, "RedirectStatus", { "type": ["integer", "string"], "enum": [301, 302, 303, 307, 308] });
as_scalar!(@read AnswerStatus, "AnswerStatus", { "type": ["integer", "string"], "minimum": 200, "maximum": 599, "examples": [200, 503] });
