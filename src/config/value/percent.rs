//! Percentages: a part of a whole, or a multiple of a mean.

use std::fmt;
use std::str::FromStr;

use crate::config::value::{BadValue, Scalar, as_scalar};

/// A percentage of 101% or more: how far above the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

impl Percent {
    /// Returns the number of hundredths.
    pub const fn percent(self) -> u32 {
        self.0
    }
}

/// Ten times the mean is no limit any more.
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

as_scalar!(Percent, "Percent", {
    "description": "A percentage above 100.",
    "type": "string",
    "pattern": r"^[0-9]+%$|\$\{",
    "examples": ["125%"],
});

/// A percentage from 0% to 100%.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// Returns `percent` hundredths, at most 100.
    pub(in crate::config) const fn new(percent: u32) -> Share {
        Share(percent)
    }

    /// Returns the number of hundredths.
    pub const fn percent(self) -> u32 {
        self.0
    }
}

impl Scalar for Share {
    const EXPECTED: &'static str = "a percentage such as `20%`";
}

impl FromStr for Share {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Share, BadValue> {
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
        percent.filter(|percent| *percent <= 100).map(Share).ok_or_else(|| {
            BadValue::new(format!("`{text}` is not a percentage"), "write one from 0% to 100%, such as `20%`")
        })
    }
}

impl fmt::Display for Share {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}%", self.0)
    }
}

as_scalar!(Share, "Share", {
    "description": "A percentage from 0% to 100%.",
    "type": "string",
    "pattern": r"^[0-9]+%$|\$\{",
    "examples": ["20%"],
});

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_and_printed_as_they_were_written() {
        for text in ["0%", "20%", "100%"] {
            assert_eq!(text.parse::<Share>().unwrap().to_string(), text);
        }
        for text in ["", "20", "101%", "-1%", "1.5%"] {
            text.parse::<Share>().unwrap_err();
        }
    }
}
