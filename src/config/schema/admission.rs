//! Admission: how fast handshakes reach an upstream, and the queue for full endpoints.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::{BadValue, Scalar, TimeSpan, as_scalar};

/// No machine needs a limit above this.
const RATE_MAX: u32 = 1_000_000;

/// A rate limit for handshakes, against crowds of reconnecting clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// WebSocket handshakes per second that may reach the upstream, over all its endpoints, such as `500/s`. Faster
    /// ones wait for their turn; plain HTTP does not count. Required.
    pub rate: Rate,

    /// How many may pass at once after a pause. Default: a tenth of a second's worth, at least 1.
    #[serde(default)]
    pub burst: Option<u32>,

    /// How long a handshake may wait for its turn, as part of the route's `timeouts.handshake`; `0s` for not at all.
    /// A handshake that would wait longer gets a 503 at once, with a `Retry-After` that says when there will be room.
    /// At most `rate` × `wait` handshakes wait. Default: 5s, half of the default time of a handshake.
    #[serde(default = "five_seconds")]
    pub wait: TimeSpan,
}

impl Admission {
    /// Returns the burst, as written or by default.
    pub fn burst(&self) -> u32 {
        self.burst.unwrap_or((self.rate.per_second() / 10).max(1))
    }
}

/// A queue for clients while every endpoint is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// The most clients that wait at a time; one more gets a 503 at once. Default: 1000, as each holds its connection
    /// meanwhile.
    pub length: u32,

    /// How long each may wait for a place (a handshake as part of the route's `timeouts.handshake`) before it gets a
    /// 503. Default: 5s, half of the default time of a handshake.
    pub wait: TimeSpan,
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        QueueConfig { length: 1000, wait: five_seconds() }
    }
}

const fn five_seconds() -> TimeSpan {
    TimeSpan::from_secs(5)
}

/// A number per second: `500/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u32);

impl Rate {
    /// Returns `per_second` a second, for defaults.
    pub(in crate::config) const fn new(per_second: u32) -> Rate {
        Rate(per_second)
    }

    /// Returns the number per second.
    pub const fn per_second(self) -> u32 {
        self.0
    }
}

impl Scalar for Rate {
    const EXPECTED: &'static str = "a rate such as `500/s`";
}

impl FromStr for Rate {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Rate, BadValue> {
        let bad = |help| BadValue::new(format!("`{text}` is not a rate"), help);
        let number = text.strip_suffix("/s").and_then(|number| number.parse().ok());
        let number = number.filter(|number| (1..=RATE_MAX).contains(number));
        let usual = || format!("write a whole number per second from `1/s` to `{RATE_MAX}/s`");
        number.map(Rate).ok_or_else(|| bad(in_other_words(text).unwrap_or_else(usual)))
    }
}

/// Returns what to write in place of another proxy's notation: `10r/s`, `600r/m`, `10rps`, `10/second`, `10`.
fn in_other_words(text: &str) -> Option<String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number = number.parse::<u32>().ok().filter(|number| *number > 0)?;
    match unit.trim().trim_start_matches(['r', '/']) {
        "" | "s" | "sec" | "second" | "ps" => (number <= RATE_MAX).then(|| format!("write `{number}/s`")),
        "m" | "min" | "minute" | "pm" if number.is_multiple_of(60) => Some(format!("write `{}/s`", number / 60)),
        "m" | "min" | "minute" | "pm" => Some("rates are per second: write at least `1/s`".to_owned()),
        _ => None,
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}/s", self.0)
    }
}

as_scalar!(Rate, "Rate", {
    "description": "A number per second.",
    "type": "string",
    "pattern": r"^[0-9]+/s$|\$\{",
    "examples": ["500/s"],
});

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn rates_are_whole_numbers_per_second() {
        for text in ["1/s", "500/s", "1000000/s"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in ["0/s", "1000001/s", "500", "500/m", "5.5/s", "-1/s", "/s", "500 /s", ""] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_notation_of_another_proxy_says_how_to_write_it() {
        for (text, help) in [
            ("10r/s", "write `10/s`"),
            ("10", "write `10/s`"),
            ("10rps", "write `10/s`"),
            ("10/second", "write `10/s`"),
            ("600r/m", "write `10/s`"),
            ("30r/m", "rates are per second: write at least `1/s`"),
            ("ten", "write a whole number per second from `1/s` to `1000000/s`"),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap_err().help, help, "{text}");
        }
    }

    #[test]
    fn a_burst_is_a_tenth_of_a_second_unless_it_is_written() {
        let burst = |rate, burst| Admission { rate: Rate(rate), burst, wait: five_seconds() }.burst();
        assert_eq!([burst(500, None), burst(3, None), burst(500, Some(7))], [50, 1, 7]);
    }
}
