//! Values that are written with a unit: durations (`1h30m`) and sizes (`64KiB`), and `off` in place of either.
//!
//! Each parses itself and prints back in the notation it was written in, so that a message shows what a user would
//! write. A bare number is refused as a duration: nginx takes it for seconds, HAProxy for milliseconds, and somebody
//! who moves here would be wrong by a thousand.

pub(super) mod address;
pub(super) mod edits;

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// Why a value cannot be read, and what could stand there instead.
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

    /// As serde's error: the first line is the problem, the second the help; `decode::Fault` takes them apart again.
    pub(in crate::config) fn into_serde<E: de::Error>(self) -> E {
        E::custom(format_args!("{}\n{}", self.problem, self.help))
    }
}

/// A value that is one scalar in the file and parses itself.
pub(in crate::config) trait Scalar: FromStr<Err = BadValue> {
    /// Completes "expected …".
    const EXPECTED: &'static str;

    /// For the few where a bare number is clear enough.
    fn from_number(_: u64) -> Option<Self> {
        None
    }
}

/// Decodes a [`Scalar`]; what `Deserialize` of each of them calls.
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

/// A duration: whole numbers with a unit each, the larger first: `250ms`, `30s`, `5m`, `1h30m`, `7d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan(Duration);

/// Units from large to small, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Longer is surely a slip; and a deadline this far away can still be added to any clock without overflow.
const LONGEST_DAYS: u64 = 36_500;

impl TimeSpan {
    /// `0s`.
    pub const ZERO: TimeSpan = TimeSpan(Duration::ZERO);

    /// `millis` milliseconds.
    pub const fn from_millis(millis: u64) -> TimeSpan {
        TimeSpan(Duration::from_millis(millis))
    }

    /// `secs` seconds.
    pub const fn from_secs(secs: u64) -> TimeSpan {
        TimeSpan(Duration::from_secs(secs))
    }

    /// The duration itself.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// True for `0s`.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<TimeSpan> for Duration {
    fn from(span: TimeSpan) -> Duration {
        span.0
    }
}

impl Scalar for TimeSpan {
    const EXPECTED: &'static str = "a duration such as `30s`, `5m` or `1h30m`";
}

impl FromStr for TimeSpan {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<TimeSpan, BadValue> {
        let bad = |problem: &str| {
            BadValue::new(
                format!("`{text}` {problem}"),
                "write a duration such as `250ms`, `30s`, `5m`, `1h30m` or `7d`",
            )
        };
        let mut rest = text;
        let mut millis: u64 = 0;
        let mut units = UNITS.iter();
        if rest.is_empty() {
            return Err(BadValue::new("the duration is empty", "write a duration such as `250ms`, `30s` or `5m`"));
        }
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            if digits == 0 {
                return Err(bad("is not a duration"));
            }
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            if unit.is_empty() {
                return Err(bad(if tail.is_empty() { "has no unit" } else { "is not a duration of whole numbers" }));
            }
            if !UNITS.iter().any(|(name, _)| *name == unit) {
                return Err(bad(&format!("has an unknown unit `{unit}`")));
            }
            // `units` only moves on: a unit that is not ahead any more was given twice or in the wrong order.
            let Some((_, scale)) = units.find(|(name, _)| *name == unit) else {
                return Err(bad("has its units out of order"));
            };
            millis = number
                .parse::<u64>()
                .ok()
                .and_then(|n| n.checked_mul(*scale))
                .and_then(|n| millis.checked_add(n))
                .filter(|n| *n <= LONGEST_DAYS * UNITS[0].1)
                .ok_or_else(|| bad("is longer than a hundred years"))?;
            rest = tail;
        }
        Ok(TimeSpan::from_millis(millis))
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return out.write_str("0s");
        }
        for (unit, scale) in UNITS {
            if rest >= scale {
                write!(out, "{}{unit}", rest / scale)?;
                rest %= scale;
            }
        }
        Ok(())
    }
}

/// A number of bytes: `64KiB`, `1MiB`, `2GiB`, or plain `1500`. Units of 1024 only, since `MB` means either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

const SIZES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl ByteSize {
    /// `bytes` bytes.
    pub const fn from_bytes(bytes: u64) -> ByteSize {
        ByteSize(bytes)
    }

    /// `kib` times 1024 bytes.
    pub const fn from_kib(kib: u64) -> ByteSize {
        ByteSize(kib << 10)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory; saturates where `usize` is smaller.
    pub fn len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// True for no bytes at all.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Scalar for ByteSize {
    const EXPECTED: &'static str = "a size such as `64KiB` or `1MiB`";

    fn from_number(bytes: u64) -> Option<ByteSize> {
        Some(ByteSize(bytes))
    }
}

impl FromStr for ByteSize {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<ByteSize, BadValue> {
        let help = "write a size such as `64KiB`, `1MiB` or `2GiB` (units of 1024), or a plain number of bytes";
        let bad = |problem: &str| BadValue::new(format!("`{text}` {problem}"), help);
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(bad("is not a size"));
        }
        let scale = match unit.trim_start_matches(' ') {
            "" | "B" => 1,
            unit => match SIZES.iter().find(|(name, _)| *name == unit) {
                Some((_, scale)) => *scale,
                None => return Err(bad(&format!("has an unknown unit `{unit}`"))),
            },
        };
        let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).ok_or_else(|| bad("is too large"))?;
        Ok(ByteSize(bytes))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match SIZES.iter().find(|(_, scale)| self.0 != 0 && self.0.is_multiple_of(*scale)) {
            Some((unit, scale)) => write!(out, "{}{unit}", self.0 / scale),
            None => write!(out, "{}", self.0),
        }
    }
}

/// A share in percent, 101% or more: how far above the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

/// Ten times the mean is no bound any more.
const PERCENT_MAX: u32 = 1000;

impl Scalar for Percent {
    const EXPECTED: &'static str = "a percentage such as `125%`";
}

impl FromStr for Percent {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Percent, BadValue> {
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
        percent.filter(|percent| (101..=PERCENT_MAX).contains(percent)).map(Percent).ok_or_else(|| {
            BadValue::new(
                format!("`{text}` is not a percentage above 100"),
                format!("write one from 101% to {PERCENT_MAX}%, such as `125%`"),
            )
        })
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}%", self.0)
    }
}

/// A value, or `off`: the thing it bounds is then not bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OrOff<T> {
    /// `off`
    Off,
    /// The value.
    Set(T),
}

impl<T: Copy> OrOff<T> {
    /// The value, unless it is off.
    pub fn value(self) -> Option<T> {
        match self {
            OrOff::Off => None,
            OrOff::Set(value) => Some(value),
        }
    }
}

impl OrOff<TimeSpan> {
    /// The duration, unless it is off.
    pub fn duration(self) -> Option<Duration> {
        self.value().map(TimeSpan::duration)
    }
}

impl OrOff<ByteSize> {
    /// The number of bytes, unless it is off.
    pub fn bytes(self) -> Option<u64> {
        self.value().map(ByteSize::bytes)
    }
}

impl OrOff<Percent> {
    /// The percentage, unless it is off.
    pub fn percent(self) -> Option<u32> {
        self.value().map(|percent| percent.0)
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

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from)
    }
}

impl Serialize for TimeSpan {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<T: fmt::Display> Serialize for OrOff<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl JsonSchema for TimeSpan {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A duration: whole numbers with a unit each (d, h, m, s, ms), the larger first.",
            "type": "string",
            "pattern": r"^([0-9]+(d|h|m|s|ms))+$|\$\{",
            "examples": ["250ms", "30s", "5m", "1h30m"],
        })
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of bytes, with a unit of 1024 (KiB, MiB, GiB) or plain.",
            "type": ["string", "integer"],
            "pattern": r"^[0-9]+ ?(B|KiB|MiB|GiB)?$|\$\{",
            "minimum": 0,
            "examples": ["64KiB", "1MiB", 1500],
        })
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A percentage above 100.",
            "type": "string",
            "pattern": r"^[0-9]+%$|\$\{",
            "examples": ["125%"],
        })
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("2d1ms", 172_800_001),
            ("0s", 0),
            ("90m", 5_400_000),
        ] {
            assert_eq!(text.parse::<TimeSpan>().unwrap(), TimeSpan::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn durations_that_say_nothing_clear_are_refused() {
        for (text, problem) in [
            ("", "the duration is empty"),
            ("30", "`30` has no unit"),
            ("s", "`s` is not a duration"),
            ("-3s", "`-3s` is not a duration"),
            ("1.5s", "`1.5s` is not a duration of whole numbers"),
            ("5min", "`5min` has an unknown unit `min`"),
            ("5M", "`5M` has an unknown unit `M`"),
            ("30s1h", "`30s1h` has its units out of order"),
            ("1s1s", "`1s1s` has its units out of order"),
            ("1h 30m", "`1h 30m` is not a duration"),
            ("40000d", "`40000d` is longer than a hundred years"),
            ("99999999999999999999s", "`99999999999999999999s` is longer than a hundred years"),
        ] {
            assert_eq!(text.parse::<TimeSpan>().unwrap_err().problem, problem);
        }
    }

    #[test]
    fn sizes_are_read_with_units_of_1024() {
        for (text, bytes) in
            [("0", 0), ("1500", 1500), ("12B", 12), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!(text.parse::<ByteSize>().unwrap().bytes(), bytes, "{text}");
        }
        for text in ["", "KiB", "64k", "64KB", "1MB", "1.5MiB", "-1", "99999999999GiB"] {
            text.parse::<ByteSize>().unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(millis in 0..=LONGEST_DAYS * UNITS[0].1, bytes: u64) {
            let span = TimeSpan::from_millis(millis);
            prop_assert_eq!(span.to_string().parse::<TimeSpan>().unwrap(), span);
            let size = ByteSize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }

        #[test]
        fn no_text_makes_them_panic(text in "\\PC{0,12}|[0-9hms]{0,24}") {
            let _ = text.parse::<TimeSpan>();
            let _ = text.parse::<ByteSize>();
        }
    }
}
