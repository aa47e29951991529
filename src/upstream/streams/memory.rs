//! What a server turned out to speak where TLS decides, for a while: so that a WebSocket needs no second connection each time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::time::MonotonicTime;

/// After this time one request asks again: servers are exchanged for others.
const KEPT: Duration = Duration::from_secs(300);

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2, but WebSockets by HTTP/1.1.
    PlainStreams,
    /// HTTP/2, and WebSockets by it.
    Streams,
}

/// What is known of a server. Workers share it.
#[derive(Debug, Default)]
pub struct Memory {
    /// The time in microseconds above two bits for what was learnt then; 0 if nothing was.
    learnt: AtomicU64,
}

impl Memory {
    /// Returns what the server speaks; `None` if that is to be found out. When the time has come to ask again, one caller
    /// gets `None`, and others what was known.
    pub fn spoken(&self, now: MonotonicTime) -> Option<Spoken> {
        let learnt = self.learnt.load(Ordering::Relaxed);
        let spoken = match learnt & 3 {
            1 => Spoken::Http1,
            2 => Spoken::PlainStreams,
            3 => Spoken::Streams,
            _ => return None,
        };
        let is_old = now.since(MonotonicTime::from_micros(learnt >> 2)) >= KEPT;
        let is_ours = is_old
            && self.learnt.compare_exchange(learnt, packed(spoken, now), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        (!is_ours).then_some(spoken)
    }

    /// Keeps what a connection has shown.
    pub fn learn(&self, spoken: Spoken, now: MonotonicTime) {
        self.learnt.store(packed(spoken, now), Ordering::Relaxed);
    }
}

fn packed(spoken: Spoken, now: MonotonicTime) -> u64 {
    let bits = match spoken {
        Spoken::Http1 => 1,
        Spoken::PlainStreams => 2,
        Spoken::Streams => 3,
    };
    now.as_micros() << 2 | bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_holds_for_a_while_and_then_one_asks_again() {
        let at = |seconds: u64| MonotonicTime::from_micros(seconds * 1_000_000);
        let memory = Memory::default();
        assert_eq!(memory.spoken(at(1)), None);
        for spoken in [Spoken::Http1, Spoken::PlainStreams, Spoken::Streams] {
            memory.learn(spoken, at(1));
            assert_eq!([memory.spoken(at(1)), memory.spoken(at(300))], [Some(spoken); 2]);
            assert_eq!(
                [memory.spoken(at(301)), memory.spoken(at(301)), memory.spoken(at(600))],
                [None, Some(spoken), Some(spoken)]
            );
            assert_eq!([memory.spoken(at(601)), memory.spoken(at(601))], [None, Some(spoken)]);
        }
    }
}
