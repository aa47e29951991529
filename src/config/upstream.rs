//! Named groups of interchangeable servers.

use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Serialize};

use super::address::EndpointUrl;
use super::value::{BadValue, Scalar};

/// Servers that can stand in for one another.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// How an endpoint is chosen for a new session. Default: `round_robin`, which needs to know nothing about them.
    #[serde(default)]
    pub balance: Balance,

    /// The servers: URLs, or maps with a `url`. Required.
    pub endpoints: Vec<Endpoint>,

    /// TLS towards `wss://` and `https://` endpoints. Default: their certificate is verified for the host of their URL
    /// against the system's authorities.
    #[serde(default)]
    pub tls: Option<ClientTls>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each in turn.
    #[default]
    RoundRobin,
}

/// One server of an upstream: its URL, or a map with `url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub url: EndpointUrl,
}

/// TLS towards the servers.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTls {
    /// The authorities (PEM) that may have signed the servers' certificates. Default: those of the system.
    pub ca: Option<PathBuf>,

    /// A certificate (PEM) to show to the servers; needs `key`. Default: none.
    pub cert: Option<PathBuf>,

    /// The private key of `cert`. Default: none.
    pub key: Option<PathBuf>,

    /// The name to ask for (SNI) and to verify. Default: the host of the endpoint's URL.
    pub server_name: Option<String>,
}

/// An endpoint written as a map.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EndpointMap {
    /// Where the server is. Required.
    url: EndpointUrl,
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct EndpointVisitor;

        impl<'de> Visitor<'de> for EndpointVisitor {
            type Value = Endpoint;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                write!(out, "{}, or a map with `url`", EndpointUrl::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Endpoint, E> {
                let url = text.parse().map_err(BadValue::into_serde)?;
                Ok(Endpoint { url })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                let EndpointMap { url } = EndpointMap::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Endpoint { url })
            }
        }

        from.deserialize_any(EndpointVisitor)
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let url = generator.subschema_for::<EndpointUrl>();
        let map = generator.subschema_for::<EndpointMap>();
        json_schema!({ "description": "One server: its URL, or a map with `url`.", "anyOf": [url, map] })
    }
}
