//! A point in time for pure code: microseconds of the machine's monotonic clock.
//!
//! Not `std::time::Instant`, for three reasons: it is half the size and sits in every session; it can be written down
//! and read back (a session may move to another process of the same machine, where CLOCK_MONOTONIC is the same); and
//! tests build one from a number. Only the `clock` module reads the clock.
//!
//! Never 0, so that an `Option` of it is not larger: nothing happens in the first microsecond after boot.

use std::num::NonZeroU64;
use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The end of the year 9999 in seconds since the epoch: no notation of a time goes further.
pub const UNIX_SECONDS_MAX: u64 = 253_402_300_799;

/// Microseconds since an arbitrary start (on Linux: boot), never going back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MonotonicTime(NonZeroU64);

impl MonotonicTime {
    /// Returns the time `micros` microseconds after the clock's start, at least 1.
    pub const fn from_micros(micros: u64) -> MonotonicTime {
        match NonZeroU64::new(micros) {
            Some(micros) => MonotonicTime(micros),
            None => MonotonicTime(NonZeroU64::MIN),
        }
    }

    /// Returns the microseconds since the clock's start.
    pub const fn as_micros(self) -> u64 {
        self.0.get()
    }

    /// Returns the time since `earlier`; zero if `earlier` is later (coarse and precise readings may cross by a
    /// tick).
    pub const fn since(self, earlier: MonotonicTime) -> Duration {
        Duration::from_micros(self.as_micros().saturating_sub(earlier.as_micros()))
    }
}

impl Add<Duration> for MonotonicTime {
    type Output = MonotonicTime;

    /// Saturates: "never" stays "never".
    fn add(self, span: Duration) -> MonotonicTime {
        MonotonicTime(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let early = MonotonicTime::from_micros(5);
        let late = early + Duration::from_millis(2);
        assert_eq!(late.since(early), Duration::from_millis(2));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early + Duration::MAX, MonotonicTime::from_micros(u64::MAX));
        assert_eq!(size_of::<Option<MonotonicTime>>(), 8);
    }
}
