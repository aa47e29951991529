//! Sizes in bytes with their units: `64KiB`.

use std::fmt;
use std::str::FromStr;

use crate::config::value::{BadValue, Scalar, as_scalar};

/// A number of bytes: `64KiB`, `1MiB`, `2GiB`, or plain `1500`. Units of 1024 only, since `MB` means either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

const SIZES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl ByteSize {
    /// Returns `bytes` bytes.
    pub const fn from_bytes(bytes: u64) -> ByteSize {
        ByteSize(bytes)
    }

    /// Returns `kib` times 1024 bytes.
    pub const fn from_kib(kib: u64) -> ByteSize {
        ByteSize(kib << 10)
    }

    /// Returns the number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Returns the number of bytes as a length in memory; saturates where `usize` is smaller.
    pub fn len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Returns true for zero bytes.
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
                None => return Err(unknown_unit(text, number, unit, help)),
            },
        };
        let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).ok_or_else(|| bad("is too large"))?;
        Ok(ByteSize(bytes))
    }
}

/// Other spellings of a unit get the nearest of ours: `10m` of nginx, `10MB`.
fn unknown_unit(text: &str, number: &str, unit: &str, help: &str) -> BadValue {
    let near = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => Some("KiB"),
        "m" | "mb" | "mib" => Some("MiB"),
        "g" | "gb" | "gib" => Some("GiB"),
        _ => None,
    };
    let help = near.map_or_else(|| help.to_owned(), |near| format!("write `{number}{near}` (units of 1024)"));
    BadValue::new(format!("`{text}` has an unknown unit `{unit}`"), help)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match SIZES.iter().find(|(_, scale)| self.0 != 0 && self.0.is_multiple_of(*scale)) {
            Some((unit, scale)) => write!(out, "{}{unit}", self.0 / scale),
            None => write!(out, "{}", self.0),
        }
    }
}

as_scalar!(ByteSize, "ByteSize", {
    "description": "A number of bytes, with a unit of 1024 (KiB, MiB, GiB) or plain.",
    "type": ["string", "integer"],
    "pattern": r"^[0-9]+ ?(B|KiB|MiB|GiB)?$|\$\{",
    "minimum": 0,
    "examples": ["64KiB", "1MiB", 1500],
});

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        fn what_is_printed_is_read_back(bytes: u64) {
            let size = ByteSize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,12}|[0-9KMGiB]{0,24}") {
            let _ = text.parse::<ByteSize>();
        }
    }
}
