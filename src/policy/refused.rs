//! Clients that were told when to come back, for as long as that is: whoever asks again before is refused without asking the
//! one who knows.
//!
//! That is exact, since a bucket never fills earlier than it said. The table has a fixed size; a full part of it forgets who may
//! come back first, and then the one who knows is asked once more.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::clients::ClientDigest;
use crate::base::time::MonotonicTime;

/// Parts of the table, each with a lock of its own.
const SHARDS: usize = 64;

/// The most clients in one part.
const SET_MAX: usize = 128;

/// The most clients that are remembered: 8,192 in 256 KiB.
pub const REFUSED_MAX: usize = SHARDS * SET_MAX;

/// Clients that were refused.
#[derive(Debug)]
pub struct RefusedClients {
    shards: [Mutex<Vec<Refused>>; SHARDS],
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    client: ClientDigest,
    until: MonotonicTime,
}

impl Default for RefusedClients {
    fn default() -> RefusedClients {
        RefusedClients { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl RefusedClients {
    /// Returns how long a client still has to wait, if it was told to.
    pub fn wait(&self, client: ClientDigest, now: MonotonicTime) -> Option<Duration> {
        let shard = self.shard(client);
        let refused = shard.iter().find(|refused| refused.client == client)?;
        Some(refused.until.since(now)).filter(|left| !left.is_zero())
    }

    /// Remembers until when a client has to wait.
    pub fn remember(&self, client: ClientDigest, until: MonotonicTime, now: MonotonicTime) {
        let mut shard = self.shard(client);
        let new = Refused { client, until };
        if let Some(known) = shard.iter_mut().find(|refused| refused.client == client) {
            *known = new;
            return;
        }
        if shard.len() == SET_MAX {
            shard.retain(|refused| refused.until > now);
        }
        if shard.len() < SET_MAX {
            shard.push(new);
        } else if let Some(first) = shard.iter_mut().min_by_key(|refused| refused.until) {
            *first = new;
        }
    }

    /// Returns how many clients are in it.
    pub fn clients(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, client: ClientDigest) -> MutexGuard<'_, Vec<Refused>> {
        lock(&self.shards[client.first() as usize % SHARDS])
    }
}

/// Nothing inside can be left half done by a panic.
fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::clients::ClientKey;

    const START: MonotonicTime = MonotonicTime::from_micros(1_000_000_000);

    fn client(number: usize) -> ClientDigest {
        ClientKey::Subject(&number.to_string()).digest("chat")
    }

    #[test]
    fn a_client_is_refused_for_as_long_as_it_was_told_to_wait() {
        let (refused, second) = (RefusedClients::default(), Duration::from_secs(1));
        assert_eq!(refused.wait(client(1), START), None);
        refused.remember(client(1), START + second, START);
        assert_eq!(refused.wait(client(1), START), Some(second));
        assert_eq!(refused.wait(client(2), START), None);
        assert_eq!(refused.wait(client(1), START + second), None);
        refused.remember(client(1), START + second * 3, START + second);
        assert_eq!(refused.wait(client(1), START + second), Some(second * 2));
    }

    #[test]
    fn a_crowd_does_not_grow_it_and_who_must_wait_longest_stays() {
        let (refused, hour) = (RefusedClients::default(), Duration::from_secs(3600));
        refused.remember(client(0), START + hour, START);
        for number in 1..100_000 {
            refused.remember(client(number), START + Duration::from_secs(1), START);
        }
        assert!(refused.clients() <= REFUSED_MAX);
        assert_eq!(refused.wait(client(0), START), Some(hour));
        // What is over makes room.
        let later = START + Duration::from_secs(2);
        for number in 100_000..101_000 {
            refused.remember(client(number), later + hour, later);
        }
        assert_eq!((100_000..101_000).filter(|number| refused.wait(client(*number), later).is_none()).count(), 0);
    }
}
