//! The one place that reads the monotonic clock, and the wall clock as a number.
//!
//! Two readings of the same clock (CLOCK_MONOTONIC): `now` is exact, `coarse` is the kernel's last tick (1-4 ms old)
//! and several times cheaper, good enough for deadlines counted in seconds. The relay reads `coarse` once a wake-up.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::base::time::MonotonicTime;

/// Returns the exact monotonic time.
pub fn now() -> MonotonicTime {
    read(ClockId::Monotonic)
}

/// Returns the monotonic time at the kernel's last tick; at most a few milliseconds behind `now`.
pub fn coarse() -> MonotonicTime {
    read(ClockId::MonotonicCoarse)
}

/// Returns the time since the epoch (1970) by the wall clock, which may jump; zero if it is set to before.
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn read(id: ClockId) -> MonotonicTime {
    let time = clock_gettime(id);
    MonotonicTime::from_micros(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_never_runs_ahead() {
        let coarse = coarse();
        assert!(now() >= coarse);
    }
}
