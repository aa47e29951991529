//! Limits log lines about one thing that may come again and again: a source that fails and works by turns, an
//! endpoint that goes up and down. Writes the first ones, then one now and then with the number left out: a log full
//! of one thing hides the others.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::base::time::MonotonicTime;

/// How many lines are written as they come. More changes than that in a row are no news.
const BURST: u32 = 10;

/// After those, one in this time.
const PACE: Duration = Duration::from_secs(10);

/// A limiter for the lines about one thing.
#[derive(Debug, Default)]
pub struct LogLimiter(Mutex<LogLimiterState>);

#[derive(Debug, Default)]
struct LogLimiterState {
    /// Lines that were written and are not forgotten yet.
    written: u32,
    /// Since when one is being forgotten.
    since: Option<MonotonicTime>,
    unwritten: u64,
}

/// Permission to write a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinePermit {
    /// How many lines were left out since the last one; becomes the field `suppressed`.
    pub suppressed: Option<u64>,
}

impl LogLimiter {
    /// Returns a permit if a line may be written now; counts the line otherwise.
    pub fn line(&self, now: MonotonicTime) -> Option<LinePermit> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.forget(now);
        if state.written == BURST {
            state.unwritten += 1;
            return None;
        }
        state.written += 1;
        let suppressed = std::mem::take(&mut state.unwritten);
        Some(LinePermit { suppressed: (suppressed > 0).then_some(suppressed) })
    }

    /// Returns how many lines were left out, if it is time to report that: for callers that poll.
    pub fn unwritten(&self, now: MonotonicTime) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.forget(now);
        if state.unwritten == 0 || state.written == BURST {
            return None;
        }
        state.written += 1;
        Some(std::mem::take(&mut state.unwritten))
    }
}

impl LogLimiterState {
    fn forget(&mut self, now: MonotonicTime) {
        let since = *self.since.get_or_insert(now);
        let forgotten = u32::try_from(now.since(since).as_nanos() / PACE.as_nanos()).unwrap_or(u32::MAX);
        if forgotten >= self.written {
            (self.written, self.since) = (0, Some(now));
        } else if forgotten > 0 {
            self.written -= forgotten;
            self.since = Some(since + PACE * forgotten);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    #[test]
    fn the_first_lines_are_written_and_then_one_now_and_then_that_tells_of_the_others() {
        let lines = LogLimiter::default();
        let start = clock::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for _ in 0..BURST {
            assert_eq!(lines.line(at(0)), Some(LinePermit { suppressed: None }));
        }
        assert_eq!((lines.line(at(0)), lines.line(at(9)), lines.unwritten(at(9))), (None, None, None));
        assert_eq!(lines.line(at(10)), Some(LinePermit { suppressed: Some(2) }));
        assert_eq!((lines.line(at(11)), lines.unwritten(at(19))), (None, None));
        assert_eq!((lines.unwritten(at(20)), lines.unwritten(at(30))), (Some(1), None));
        // A thing that was quiet for long is news again.
        for _ in 0..BURST {
            assert_eq!(lines.line(at(10_000)), Some(LinePermit { suppressed: None }));
        }
        assert_eq!(lines.line(at(10_000)), None);
    }
}
