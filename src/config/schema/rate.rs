//! Rates inside a session: how fast one side may send.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::schema::admission::Rate;
use crate::config::value::{BadValue, ByteSize, Scalar, as_scalar};
use crate::ws::frame::HEADER_BYTES_MAX;

/// How fast one side of each session may send: messages, bytes, or both. After a pause a burst may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// Messages per second, such as `50/s`, each counted as it begins, whatever its size and number of fragments. Default:
    /// no limit.
    #[serde(default)]
    pub messages: Option<Rate>,

    /// Bytes per second, such as `1MiB/s`, as they are on the wire: compressed, with headers and control frames. Default:
    /// no limit.
    #[serde(default)]
    pub bytes: Option<ByteRate>,

    /// How many messages may come at once after a pause. Default: those of one second.
    #[serde(default)]
    pub burst: Option<u32>,

    /// How many bytes may come at once after a pause. Default: those of one second; with `then: close` at least
    /// `limits.message` or `limits.frame`, so that a message of that size can pass.
    #[serde(default)]
    pub burst_bytes: Option<ByteSize>,

    /// What happens to what comes faster. `delay` reads that side no further until it may send again, so that TCP slows it
    /// down: nothing is lost or reordered, and a message of any size passes at the rate. All that a side sends waits in
    /// line, its Pongs and its Close too, so a server that pings may need patience. `close` ends the session with code
    /// 1008 and counts a frame as a whole by its header, so that one above `burst_bytes` never passes. Default: `delay`,
    /// since a client that is fast for a moment means no harm.
    #[serde(default)]
    pub then: Exceeding,
}

/// What happens to what comes faster than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exceeding {
    /// It waits.
    #[default]
    Delay,
    /// It ends the session.
    Close,
}

/// Bytes per second: `1MiB/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRate(ByteSize);

/// Slower than this, a header would take too long to come.
const BYTE_RATE_MIN: u64 = 1024;

/// No network is faster.
const BYTE_RATE_MAX: u64 = 1 << 40;

impl RateConfig {
    /// Returns the burst of messages, as written or by default.
    pub fn burst(&self) -> u64 {
        self.burst.or(self.messages.map(Rate::per_second)).unwrap_or(1).into()
    }

    /// Returns the burst of bytes, as written or by default; `frame` is the largest frame, if there is one.
    pub fn burst_bytes(&self, frame: Option<u64>) -> u64 {
        let second = self.bytes.map_or(0, ByteRate::per_second);
        match self.burst_bytes {
            Some(burst) => burst.bytes(),
            None if self.then == Exceeding::Close => {
                second.max(frame.map_or(0, |frame| frame.saturating_add(HEADER_BYTES_MAX as u64)))
            }
            None => second,
        }
    }
}

impl ByteRate {
    /// Returns the number of bytes per second.
    pub const fn per_second(self) -> u64 {
        self.0.bytes()
    }
}

impl Scalar for ByteRate {
    const EXPECTED: &'static str = "bytes per second such as `1MiB/s`";
}

impl FromStr for ByteRate {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<ByteRate, BadValue> {
        let help = "write bytes per second from `1KiB/s` to `1024GiB/s`, such as `1MiB/s`";
        let bad = || BadValue::new(format!("`{text}` is not a rate of bytes"), help);
        let size: ByteSize = match text.strip_suffix("/s") {
            Some(size) => size.parse().map_err(|bad: BadValue| BadValue {
                // `1MB/s`: the help names the unit.
                help: bad.help.replacen("` (units of 1024)", "/s` (units of 1024)", 1),
                problem: bad.problem,
            })?,
            None if text.parse::<ByteSize>().is_ok() => {
                return Err(BadValue::new(format!("`{text}` is not a rate of bytes"), format!("write `{text}/s`")));
            }
            None => return Err(bad()),
        };
        (BYTE_RATE_MIN..=BYTE_RATE_MAX).contains(&size.bytes()).then_some(ByteRate(size)).ok_or_else(bad)
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}/s", self.0)
    }
}

/// How many of something: `100000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count(pub u32);

impl Scalar for Count {
    const EXPECTED: &'static str = "a whole number such as `100000`";

    fn from_number(number: u64) -> Option<Count> {
        u32::try_from(number).ok().map(Count)
    }
}

impl FromStr for Count {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Count, BadValue> {
        let bad = |_| BadValue::new(format!("`{text}` is not a number"), "write a whole number such as `100000`");
        text.parse().map(Count).map_err(bad)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(out)
    }
}

as_scalar!(Count, "Count", {
    "description": "A whole number.",
    "type": ["string", "integer"],
    "pattern": r"^[0-9]+$|\$\{",
    "minimum": 0,
    "examples": [100_000],
});

as_scalar!(ByteRate, "ByteRate", {
    "description": "A number of bytes per second, with a unit of 1024 (KiB, MiB, GiB).",
    "type": "string",
    "pattern": r"^[0-9]+ ?(B|KiB|MiB|GiB)?/s$|\$\{",
    "examples": ["1MiB/s", "64KiB/s"],
});

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn rates_of_bytes_are_sizes_per_second() {
        for (text, bytes) in [("1KiB/s", 1024), ("1500/s", 1500), ("1MiB/s", 1 << 20), ("1024GiB/s", 1 << 40)] {
            let rate = text.parse::<ByteRate>().unwrap();
            assert_eq!((rate.per_second(), rate.to_string().parse::<ByteRate>().unwrap()), (bytes, rate), "{text}");
        }
        for text in ["0/s", "1023/s", "1025GiB/s", "1MiB", "1MiB/m", "/s", "x/s", ""] {
            assert!(text.parse::<ByteRate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_burst_is_a_second_and_one_that_closes_has_room_for_the_largest_frame() {
        let read = |yaml: &str| serde_yaml::from_str::<RateConfig>(yaml).unwrap();
        let delayed = read("{ messages: 50/s, bytes: 64KiB/s }");
        assert_eq!((delayed.burst(), delayed.burst_bytes(Some(1 << 20))), (50, 64 << 10));
        let closed = read("{ bytes: 64KiB/s, then: close }");
        assert_eq!((closed.burst_bytes(None), closed.burst_bytes(Some(1 << 20))), (64 << 10, (1 << 20) + 14));
        let written = read("{ messages: 50/s, burst: 7, bytes: 64KiB/s, burst_bytes: 9KiB, then: close }");
        assert_eq!((written.burst(), written.burst_bytes(Some(1 << 20))), (7, 9 << 10));
    }

    #[test]
    fn a_rate_without_its_second_or_with_another_unit_says_how_to_write_it() {
        for (text, help) in [
            ("1MiB", "write `1MiB/s`"),
            ("10MB/s", "write `10MiB/s` (units of 1024)"),
            ("1m/s", "write `1MiB/s` (units of 1024)"),
        ] {
            assert_eq!(text.parse::<ByteRate>().unwrap_err().help, help, "{text}");
        }
    }
}
