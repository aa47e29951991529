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
    /// The URL.
    pub url: EndpointUrl,
    /// Its share of new sessions.
    pub weight: u16,
    /// The most sessions at a time.
    pub max_connections: Option<u32>,
    /// Higher numbers are used when no lower one can be.
    pub priority: u8,
    /// The zone it is in.
    pub zone: Option<String>,
    /// The time over which it is emptied.
    pub drain: Option<TimeSpan>,
}

impl EndpointConfig {
    /// Returns the server at `url` with all other keys at their defaults.
    pub fn at(url: EndpointUrl) -> EndpointConfig {
        EndpointConfig { url, weight: one(), max_connections: None, priority: 0, zone: None, drain: None }
    }
}

/// How to speak to servers of a list that names only hosts and ports.
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
    /// Returns it as in a URL.
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
    /// The server's URL. A name is looked up when a client connects and the last answer is older than its TTL (at
    /// least one second, at most one minute; five seconds where the system's resolver answers, which tells no TTL).
    /// All of its addresses are tried. The last good answer holds for up to an hour while no resolver answers.
    /// Required.
    url: EndpointUrl,

    /// Its share of new sessions relative to the others, 0 to 65535. With 0 it takes no new ones and keeps those it
    /// has. Default: 1.
    #[serde(default = "one")]
    weight: u16,

    /// The most sessions and plain HTTP requests at a time, including those being opened; a request counts until its
    /// answer is complete. A client for whom no endpoint has room gets a 503. Default: no limit.
    #[serde(default)]
    max_connections: Option<u32>,

    /// Endpoints with a higher number get sessions only while none with a lower one can: 1 is a backup of 0. 0 to
    /// 255. Default: 0.
    #[serde(default)]
    priority: u8,

    /// Its zone (rack, data centre, availability zone), compared with the `zone` of this process: endpoints of the
    /// same zone come first, the others when these are full or down. Default: none, which no zone prefers.
    #[serde(default)]
    zone: Option<String>,

    /// Empties it: it takes no new sessions, and its sessions are closed evenly over this time (code 1012), the
    /// quietest first. To stop new sessions without closing any, write `weight: 0`. Default: none, it is not emptied.
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
