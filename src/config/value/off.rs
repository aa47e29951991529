//! `off` in place of a value or a map.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use crate::config::value::duration::TimeSpan;
use crate::config::value::percent::Percent;
use crate::config::value::size::ByteSize;
use crate::config::value::{BadValue, Scalar};

/// A value, or `off` for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OrOff<T> {
    /// `off`
    Off,
    /// The value.
    Set(T),
}

impl<T: Copy> OrOff<T> {
    /// Returns the value, unless it is off.
    pub fn value(self) -> Option<T> {
        match self {
            OrOff::Off => None,
            OrOff::Set(value) => Some(value),
        }
    }
}

impl OrOff<TimeSpan> {
    /// Returns the duration, unless it is off.
    pub fn duration(self) -> Option<Duration> {
        self.value().map(TimeSpan::duration)
    }
}

impl OrOff<ByteSize> {
    /// Returns the number of bytes, unless it is off.
    pub fn bytes(self) -> Option<u64> {
        self.value().map(ByteSize::bytes)
    }
}

impl OrOff<Percent> {
    /// Returns the percentage, unless it is off.
    pub fn percent(self) -> Option<u32> {
        self.value().map(Percent::percent)
    }
}

impl<T: fmt::Display> fmt::Display for OrOff<T> {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            OrOff::Off => out.write_str("off"),
            OrOff::Set(value) => value.fmt(out),
        }
    }
}

impl<'de, T: Scalar> Deserialize<'de> for OrOff<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OrOffVisitor<T>(PhantomData<T>);

        impl<T: Scalar> Visitor<'_> for OrOffVisitor<T> {
            type Value = OrOff<T>;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                write!(out, "{}, or `off`", T::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OrOff<T>, E> {
                match text {
                    "off" => Ok(OrOff::Off),
                    text => text.parse().map(OrOff::Set).map_err(|mut bad: BadValue| {
                        bad.help.push_str(", or `off`");
                        bad.into_serde()
                    }),
                }
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<OrOff<T>, E> {
                let value = T::from_number(number);
                value.map(OrOff::Set).ok_or_else(|| E::invalid_type(de::Unexpected::Unsigned(number), &self))
            }
        }

        from.deserialize_any(OrOffVisitor(PhantomData))
    }
}

impl<T: fmt::Display> Serialize for OrOff<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<T: JsonSchema> JsonSchema for OrOff<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}OrOff", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "off" }, generator.subschema_for::<T>()] })
    }
}

/// A map, or `off` to do without what it describes.
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
    /// Returns the map, unless it is off.
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

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MapOrOff<T>, A::Error> {
                let read = T::deserialize(MapAccessDeserializer::new(&mut map))?;
                // One of several kinds is read by its first key alone.
                match map.next_key::<String>()? {
                    None => Ok(MapOrOff::Map(read)),
                    Some(key) => {
                        let problem = format_args!("only one kind can stand here, and `{key}` is another");
                        Err(de::Error::custom(format_args!("{problem}\nkeep one of them")))
                    }
                }
            }
        }

        from.deserialize_any(MapVisitor(PhantomData))
    }
}

/// Reads what a file need not have, with `off` for none.
pub(in crate::config) fn none_if_off<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    match MapOrOff::deserialize(from)? {
        MapOrOff::Off => Ok(None),
        MapOrOff::Map(map) => Ok(Some(map)),
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
