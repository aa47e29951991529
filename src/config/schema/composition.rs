//! How a configuration is put together: what it includes, and what it repeats as defaults.
//!
//! `config::include` and `config::defaults` read these keys before anything else is. What they say is then in the
//! sections themselves, so a [`Config`](crate::config::Config) holds nothing of them, and two that say the same are equal
//! however they are written.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::config::include::IncludePattern;
use crate::config::schema::route::RouteConfig;
use crate::config::schema::upstream::UpstreamConfig;
use crate::config::value::{Scalar, scalar};

/// Files that are included; they have been read before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Include;

impl<'de> Deserialize<'de> for Include {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Vec::<IncludePattern>::deserialize(from).map(|_| Include)
    }
}

impl Scalar for IncludePattern {
    const EXPECTED: &'static str = "a file or a pattern of names such as `conf.d/*.yaml`";
}

impl<'de> Deserialize<'de> for IncludePattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from)
    }
}

/// What every route and upstream has unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Any key of a route but `name` and `match`. A map is filled up with what a route's own map does not have; a list or
    /// a single value of a route replaces the one here, as does a map of another kind (`rewrite`, or an `upstream` in a
    /// route that answers by itself). Default: the defaults of each key.
    pub route: RouteDefaults,

    /// Any key of an upstream but `endpoints`, as in `route`: another kind of `balance`, `health` or `discover` replaces
    /// the one here. `health`, `sticky`, `queue`, `admission` and `rebalance` of an upstream may be `off` to have none.
    /// Default: the defaults of each key.
    pub upstream: UpstreamDefaults,
}

/// The keys of a route that no default may have, each with the reason.
pub(in crate::config) const NO_ROUTE_DEFAULTS: [(&str, &str, &str); 2] = [
    ("name", "each route needs a name of its own", "write it in the routes"),
    ("match", "the first route would get what the others are for", "write it in the routes, or an alias (`*name`)"),
];

/// The keys of an upstream that no default may have, each with the reason.
pub(in crate::config) const NO_UPSTREAM_DEFAULTS: [(&str, &str, &str); 1] =
    [("endpoints", "upstreams differ by their servers", "write them in the upstreams")];

/// Keys of a route; they have been read before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteDefaults;

/// Keys of an upstream; they have been read before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamDefaults;

/// Reads a map of which nothing is kept.
fn pass_over<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
    struct AnyMap;

    impl<'de> Visitor<'de> for AnyMap {
        type Value = ();

        fn expecting(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
            out.write_str("a map of keys")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(())
        }
    }

    from.deserialize_map(AnyMap)
}

impl<'de> Deserialize<'de> for RouteDefaults {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        pass_over(from).map(|()| RouteDefaults)
    }
}

impl<'de> Deserialize<'de> for UpstreamDefaults {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        pass_over(from).map(|()| UpstreamDefaults)
    }
}

/// The schema of `T` for an editor, without what is required and without `left_out`.
fn part_of<T: JsonSchema>(generator: &mut SchemaGenerator, left_out: &[&str]) -> Schema {
    let whole = T::json_schema(generator);
    let mut properties = whole.get("properties").cloned().unwrap_or_default();
    if let Some(properties) = properties.as_object_mut() {
        properties.retain(|key, _| !left_out.contains(&key.as_str()));
    }
    json_schema!({ "type": "object", "properties": properties, "additionalProperties": false })
}

impl JsonSchema for RouteDefaults {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RouteDefaults".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        part_of::<RouteConfig>(generator, &NO_ROUTE_DEFAULTS.map(|(key, ..)| key))
    }
}

impl JsonSchema for UpstreamDefaults {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "UpstreamDefaults".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        part_of::<UpstreamConfig>(generator, &NO_UPSTREAM_DEFAULTS.map(|(key, ..)| key))
    }
}
