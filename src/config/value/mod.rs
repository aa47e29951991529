//! Values that parse themselves: durations (`1h30m`), sizes (`64KiB`), percentages, addresses, headers, and `off` in
//! place of a value.
//!
//! Each parses itself and prints back in the notation it was written in, so that a message shows what a user would
//! write.

pub(super) mod address;
pub(super) mod duration;
pub(super) mod edits;
pub(super) mod error_status;
pub(super) mod http;
pub(super) mod http_url;
pub(super) mod off;
pub(super) mod pattern;
pub(super) mod percent;
pub(super) mod redis_url;
pub(super) mod secret;
pub(super) mod sent;
pub(super) mod size;
pub(super) mod on_off;
pub(super) mod template;

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};

pub use self::duration::TimeSpan;
pub use self::off::{MapOrOff, OrOff};
pub use self::size::ByteSize;

/// Why a value cannot be read, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} ({help})")]
pub struct BadValue {
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub help: String,
}

impl BadValue {
    pub(in crate::config) fn new(problem: impl Into<String>, help: impl Into<String>) -> BadValue {
        BadValue { problem: problem.into(), help: help.into() }
    }

    /// Turns it into serde's error: the first line is the problem, the second the help; `decode::Fault` takes them
    /// apart again.
    pub(in crate::config) fn into_serde<E: de::Error>(self) -> E {
        E::custom(format_args!("{}\n{}", self.problem, self.help))
    }
}

/// A value that is one scalar in the file and parses itself.
pub(in crate::config) trait Scalar: FromStr<Err = BadValue> {
    /// Completes "expected …".
    const EXPECTED: &'static str;

    /// Reads a bare number, for the few types where that is clear enough.
    fn from_number(_: u64) -> Option<Self> {
        None
    }
}

/// Decodes a [`Scalar`]; `Deserialize` of each of them calls it.
pub(in crate::config) fn scalar<'de, T: Scalar, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    struct ScalarVisitor<T>(PhantomData<T>);

    impl<T: Scalar> Visitor<'_> for ScalarVisitor<T> {
        type Value = T;

        fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
            out.write_str(T::EXPECTED)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(BadValue::into_serde)
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            T::from_number(number).ok_or_else(|| E::invalid_type(de::Unexpected::Unsigned(number), &self))
        }
    }

    from.deserialize_any(ScalarVisitor(PhantomData))
}

/// Derives, for a [`Scalar`], what serde and schemars need: it is read with `FromStr`, written as it prints (or, after
/// `shown as`, as that text), and described by the given schema.
macro_rules! as_scalar {
    ($type:ident, $name:literal, $schema:tt) => {
        as_scalar!(@read $type, $name, $schema);

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
    };
    ($type:ident shown as $mask:expr, $name:literal, $schema:tt) => {
        as_scalar!(@read $type, $name, $schema);

        /// Never shows the value itself.
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str($mask)
            }
        }
    };
    (@read $type:ident, $name:literal, $schema:tt) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                crate::config::value::scalar(from)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}

pub(in crate::config) use as_scalar;
