//! Durations with their units: `1h30m`.
//!
//! A bare number is refused: nginx reads it as seconds, HAProxy as milliseconds, and a configuration brought from either
//! would be wrong by a factor of a thousand.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::config::value::{BadValue, Scalar, as_scalar};

/// A duration: whole numbers with a unit each, the larger first: `250ms`, `30s`, `5m`, `1h30m`, `7d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan(Duration);

/// Units from large to small, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A longer duration is surely a slip; and a deadline this far away can still be added to any clock without overflow.
const LONGEST_DAYS: u64 = 36_500;

impl TimeSpan {
    /// `0s`.
    pub const ZERO: TimeSpan = TimeSpan(Duration::ZERO);

    /// Returns `millis` milliseconds.
    pub const fn from_millis(millis: u64) -> TimeSpan {
        TimeSpan(Duration::from_millis(millis))
    }

    /// Returns `secs` seconds.
    pub const fn from_secs(secs: u64) -> TimeSpan {
        TimeSpan(Duration::from_secs(secs))
    }

    /// Returns the duration itself.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Returns true for `0s`.
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
            // `units` only moves forward: a unit not ahead any more was given twice or in the wrong order.
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

as_scalar!(TimeSpan, "Span", {
    "description": "A duration: whole numbers with a unit each (d, h, m, s, ms), the larger first.",
    "type": "string",
    "pattern": r"^([0-9]+(d|h|m|s|ms))+$|\$\{",
    "examples": ["250ms", "30s", "5m", "1h30m"],
});

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

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(millis in 0..=LONGEST_DAYS * UNITS[0].1) {
            let span = TimeSpan::from_millis(millis);
            prop_assert_eq!(span.to_string().parse::<TimeSpan>().unwrap(), span);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,12}|[0-9hms]{0,24}") {
            let _ = text.parse::<TimeSpan>();
        }
    }
}
