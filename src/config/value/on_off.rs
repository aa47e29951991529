//! `on`, `off` or a map: something that is off, or on with or without settings.

use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

/// `on` for all defaults, a map of settings, or `off`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OnOff<T> {
    /// `off`
    #[default]
    Off,
    /// `on`, or the map.
    On(T),
}

impl<T> OnOff<T> {
    /// Returns the settings, unless it is off.
    pub fn settings(&self) -> Option<&T> {
        match self {
            OnOff::Off => None,
            OnOff::On(settings) => Some(settings),
        }
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for OnOff<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OnOffVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for OnOffVisitor<T> {
            type Value = OnOff<T>;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("`on`, a map, or `off`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OnOff<T>, E> {
                match text {
                    "off" => Ok(OnOff::Off),
                    "on" => Ok(OnOff::On(T::default())),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OnOff<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(OnOff::On)
            }
        }

        from.deserialize_any(OnOffVisitor(PhantomData))
    }
}

impl<T: Serialize> Serialize for OnOff<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            OnOff::Off => to.serialize_str("off"),
            OnOff::On(settings) => settings.serialize(to),
        }
    }
}

impl<T: JsonSchema> JsonSchema for OnOff<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}OnOff", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["on", "off"] }, generator.subschema_for::<T>()] })
    }
}
