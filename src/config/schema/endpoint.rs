//! One server of an upstream.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Serialize};

use crate::config::value::address::EndpointUrl;
use crate::config::value::{BadValue, Scalar, TimeSpan};

/// One server of an upstream: its URL, or a map with `url`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointConfig {
    /// Where it is.
    pub url: EndpointUrl,
    /// Its share of new sessions.
    pub weight: u16,
    /// Sessions at a time.
    pub max_connections: Option<u32>,
    /// Higher ones are used when lower ones cannot be.
    pub priority: u8,
    /// Where it stands.
    pub zone: Option<String>,
    /// In which time it is emptied.
    pub drain: Option<TimeSpan>,
}

impl EndpointConfig {
    /// The server at `url`, the rest as when nothing else is written.
    pub fn at(url: EndpointUrl) -> EndpointConfig {
        EndpointConfig { url, weight: one(), max_connections: None, priority: 0, zone: None, drain: None }
    }
}

/// How the servers of a list are spoken to that tells hosts and ports only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Without TLS.
    #[default]
    Ws,
    /// With TLS.
    Wss,
}

impl Scheme {
    /// As in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
        }
    }
}

/// An endpoint written as a map.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EndpointMap {
    /// Where the server is. A name is looked up when somebody connects and its last answer is older than its TTL (one second
    /// to one minute; five seconds where the answer is the system's own, which tells none); all of its addresses are tried,
    /// and the last good answer holds for up to an hour while nobody answers. Required.
    url: EndpointUrl,

    /// Its share of new sessions beside the others', 0 to 65535. With 0 it takes no new ones and keeps those it has.
    /// Default: 1.
    #[serde(default = "one")]
    weight: u16,

    /// Sessions and plain HTTP requests at a time, those being opened included, each request until its answer is whole; a client
    /// for whom no endpoint has room gets a 503. Default: no limit.
    #[serde(default)]
    max_connections: Option<u32>,

    /// Endpoints with a higher number get sessions only while none with a lower one can: those with 1 are backups of those
    /// with 0. 0 to 255. Default: 0.
    #[serde(default)]
    priority: u8,

    /// The zone (rack, data centre, availability zone) it stands in, compared with the `zone` of this process: those of the
    /// same zone come first, the others when these are full or down. Default: none, which no zone prefers.
    #[serde(default)]
    zone: Option<String>,

    /// Empties it: it takes no new sessions, and those it has are closed (code 1012) over this time, evenly, the quietest
    /// first. For no new sessions and no closing write `weight: 0`. Default: none, it is not emptied.
    #[serde(default)]
    drain: Option<TimeSpan>,
}

const fn one() -> u16 {
    1
}

impl<'de> Deserialize<'de> for EndpointConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct EndpointVisitor;

        impl<'de> Visitor<'de> for EndpointVisitor {
            type Value = EndpointConfig;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                write!(out, "{}, or a map with `url`", EndpointUrl::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<EndpointConfig, E> {
                let url = text.parse().map_err(BadValue::into_serde)?;
                Ok(EndpointConfig::at(url))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EndpointConfig, A::Error> {
                let map = EndpointMap::deserialize(MapAccessDeserializer::new(map))?;
                let EndpointMap { url, weight, max_connections, priority, zone, drain } = map;
                Ok(EndpointConfig { url, weight, max_connections, priority, zone, drain })
            }
        }

        from.deserialize_any(EndpointVisitor)
    }
}

impl JsonSchema for EndpointConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let url = generator.subschema_for::<EndpointUrl>();
        let map = generator.subschema_for::<EndpointMap>();
        json_schema!({ "description": "One server: its URL, or a map with `url`.", "anyOf": [url, map] })
    }
}
