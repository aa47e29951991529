//! Limits of single clients: how many sessions each has at once, and how fast each opens them.
//!
//! A client is a keyed hash of what tells it apart, by a random key of the process: nobody can aim at the place of another, and
//! nothing of a client is kept.
//!
//! What is counted exists only as long as somebody holds a place, so the table of counts is as large as what it counts. Rates
//! must be remembered longer, so their table has a fixed size, and a promise that holds at any size: **no client ever gets more
//! than its burst and its rate**. A client that is not in the full table takes over the entry whose bucket is the fullest, with
//! the level of that bucket (the "space-saving" way to count). Levels are kept as theoretical arrival times, as in `bucket`: the
//! least of a set never sinks, and whoever was put out had the least, so what a newcomer takes over is never less than what is
//! true of him. Nobody empties his own record by pretending to be many; while there are more active clients than entries, all
//! that can happen is that some get less than their burst.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, digest};
use serde::{Deserialize, Serialize};

use super::bucket::{AdmissionRate, RateExceeded};
use crate::base::time::MonotonicTime;

/// Parts of a table, each with a lock of its own.
const SHARDS: usize = 64;

/// The most clients in one part of a table of rates; a part is searched from end to end, in less than a microsecond.
const SET_MAX: usize = 256;

/// The most clients in a table of rates: 16,384 in 256 KiB.
pub const CLIENTS_MAX: usize = SHARDS * SET_MAX;

/// Who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKey<'a> {
    /// An address; those of one IPv6 /64 are one client. All whose address is not known are one, too.
    Address(Option<IpAddr>),
    /// The subject of a token.
    Subject(&'a str),
    /// The value of a header.
    Header(HeaderDigest),
}

/// A digest of a header's value, which may be long, and a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeaderDigest([u8; 16]);

impl HeaderDigest {
    /// Returns the digest of a value.
    pub fn of(value: &[u8]) -> HeaderDigest {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest(&SHA256, value).as_ref()[..16]);
        HeaderDigest(bytes)
    }
}

/// A digest of a client of a route, the same in all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientDigest([u8; 16]);

impl ClientDigest {
    /// Returns all of it.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns its first byte, which is as good as random.
    pub const fn first(&self) -> u8 {
        self.0[0]
    }
}

/// The hash of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientHash(u64);

impl ClientKey<'_> {
    /// Returns its hash by `key`. The three kinds never meet.
    pub fn hash(self, key: &impl BuildHasher) -> ClientHash {
        ClientHash(match self {
            ClientKey::Address(address) => key.hash_one((0_u8, address.map(network))),
            ClientKey::Subject(subject) => key.hash_one((1_u8, subject)),
            ClientKey::Header(value) => key.hash_one((2_u8, value)),
        })
    }

    /// Returns its digest as a client of `route`. No two clients have the same one, whatever they call themselves.
    pub fn digest(self, route: &str) -> ClientDigest {
        let mut context = Context::new(&SHA256);
        context.update(&(route.len() as u64).to_le_bytes());
        context.update(route.as_bytes());
        match self {
            ClientKey::Address(address) => match address.map(network) {
                None => context.update(&[0]),
                Some(IpAddr::V4(address)) => context.update(&[&[4][..], &address.octets()].concat()),
                Some(IpAddr::V6(address)) => context.update(&[&[6][..], &address.octets()].concat()),
            },
            ClientKey::Subject(subject) => context.update(&[&[1][..], subject.as_bytes()].concat()),
            ClientKey::Header(HeaderDigest(value)) => context.update(&[&[2][..], &value].concat()),
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&context.finish().as_ref()[..16]);
        ClientDigest(bytes)
    }
}

/// Returns the address that stands for a client: a household has a /64 and changes addresses within it (RFC 8981).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

/// How many places each client has.
#[derive(Debug)]
pub struct ClientCounts {
    shards: [Mutex<HashMap<ClientHash, u32>>; SHARDS],
}

/// A place of a client. Dropping it returns it.
#[derive(Debug)]
pub struct ClientPlace {
    counts: Arc<ClientCounts>,
    client: ClientHash,
}

impl Default for ClientCounts {
    fn default() -> ClientCounts {
        ClientCounts { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl ClientCounts {
    /// Takes a place, if the client has fewer than `limit`.
    pub fn enter(self: &Arc<ClientCounts>, client: ClientHash, limit: u32) -> Option<ClientPlace> {
        let mut shard = self.shard(client);
        let count = shard.get(&client).copied().unwrap_or(0);
        if count >= limit {
            return None;
        }
        shard.insert(client, count.saturating_add(1));
        Some(ClientPlace { counts: Arc::clone(self), client })
    }

    /// Takes a place, whatever the limit.
    pub fn enter_anyway(self: &Arc<ClientCounts>, client: ClientHash) -> ClientPlace {
        *self.shard(client).entry(client).or_default() += 1;
        ClientPlace { counts: Arc::clone(self), client }
    }

    /// Returns how many clients have a place.
    pub fn clients(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, client: ClientHash) -> MutexGuard<'_, HashMap<ClientHash, u32>> {
        lock(&self.shards[client.0 as usize % SHARDS])
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut shard = self.counts.shard(self.client);
        match shard.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                shard.remove(&self.client);
                // What a crowd has left behind is given back.
                if shard.capacity() > 64 && shard.len() < shard.capacity() / 8 {
                    shard.shrink_to_fit();
                }
            }
        }
    }
}

/// The connections of each client that nobody has let in yet, and the key that their clients are hashed by.
#[derive(Debug, Default)]
pub struct Newcomers {
    counts: Arc<ClientCounts>,
    key: RandomState,
}

impl Newcomers {
    /// Takes a place for a connection from this address, if its client has fewer than `limit`.
    pub fn enter(&self, address: IpAddr, limit: u32) -> Option<ClientPlace> {
        self.counts.enter(ClientKey::Address(Some(address)).hash(&self.key), limit)
    }
}

/// How fast each client has taken slots.
#[derive(Debug)]
pub struct ClientRates {
    shards: [Mutex<Vec<RateEntry>>; SHARDS],
    set_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct RateEntry {
    client: ClientHash,
    /// The theoretical arrival time, in nanoseconds.
    arrival: u64,
}

impl Default for ClientRates {
    fn default() -> ClientRates {
        ClientRates::with_sets_of(SET_MAX)
    }
}

impl ClientRates {
    fn with_sets_of(set_max: usize) -> ClientRates {
        ClientRates { shards: std::array::from_fn(|_| Mutex::default()), set_max }
    }

    /// Takes a slot of a client.
    ///
    /// # Errors
    /// If none is free: when the next one is. No slot is taken then.
    pub fn take(&self, client: ClientHash, pace: AdmissionRate, now: MonotonicTime) -> Result<(), RateExceeded> {
        let mut set = lock(&self.shards[client.0 as usize % SHARDS]);
        let known = set.iter().position(|entry| entry.client == client);
        if known.is_none() && set.len() < self.set_max {
            let arrival = pace.next(0, now)?;
            set.push(RateEntry { client, arrival });
            return Ok(());
        }
        let fullest = || set.iter().enumerate().min_by_key(|(_, entry)| entry.arrival).map(|(at, _)| at);
        if let Some(entry) = known.or_else(fullest).and_then(|at| set.get_mut(at)) {
            *entry = RateEntry { client, arrival: pace.next(entry.arrival, now)? };
        }
        Ok(())
    }

    /// Returns how many clients are in it.
    pub fn clients(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

/// Nothing inside can be left half done by a panic.
fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the whole seconds after which to come back: at least one.
pub fn seconds_until(after: Duration) -> u32 {
    u32::try_from(after.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::hash::RandomState;

    use proptest::prelude::*;

    use super::*;

    const START: MonotonicTime = MonotonicTime::from_micros(1_000_000_000);

    /// The first bytes of the SHA-256 of the length of the route, the route, 1 and the subject.
    const DIGEST: [u8; 4] = [71, 19, 109, 196];

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn a_64_is_one_client_and_a_mapped_address_is_the_ipv4_one() {
        let key = RandomState::new();
        let address = |text: &str| ClientKey::Address(Some(text.parse().unwrap())).hash(&key);
        for (one, other, is_same) in [
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
        ] {
            assert_eq!(address(one) == address(other), is_same, "{one} {other}");
        }
        let unknown = ClientKey::Address(None).hash(&key);
        assert_ne!(ClientKey::Subject("ann").hash(&key), ClientKey::Header(HeaderDigest::of(b"ann")).hash(&key));
        assert!(unknown == ClientKey::Address(None).hash(&key) && unknown != address("0.0.0.0"));
    }

    #[test]
    fn a_digest_tells_all_clients_of_all_routes_apart_and_is_the_same_everywhere() {
        let addresses = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|text| ClientKey::Address(text.parse().ok()));
        let header = ClientKey::Header(HeaderDigest::of(b"ann"));
        let others = [ClientKey::Address(None), ClientKey::Subject("ann"), ClientKey::Subject(""), header];
        let all: std::collections::HashSet<_> = ["a", "ab", ""]
            .iter()
            .flat_map(|route| addresses.iter().chain(&others).map(|client| client.digest(route)))
            .collect();
        assert_eq!(all.len(), 3 * 7);
        let mapped = ClientKey::Address("::ffff:192.0.2.1".parse().ok());
        assert_eq!(mapped.digest("a"), addresses[0].digest("a"));
        // Instances of different builds count together.
        assert_eq!(ClientKey::Subject("ann").digest("chat").as_bytes()[..4], DIGEST);
    }

    #[test]
    fn places_come_back_once_also_after_a_panic() {
        let counts = Arc::<ClientCounts>::default();
        let client = ClientHash(7);
        let places = [counts.enter(client, 2).unwrap(), counts.enter(client, 2).unwrap()];
        assert!(counts.enter(client, 2).is_none() && counts.enter(ClientHash(7 + SHARDS as u64), 2).is_some());
        // One that comes from another process takes its place without asking.
        let moved = counts.enter_anyway(client);
        drop(places);
        assert!(counts.enter(client, 1).is_none());
        let inside = Arc::clone(&counts);
        let ended = std::thread::spawn(move || {
            let _place = inside.enter(client, 2).unwrap();
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(ended.join().is_err());
        drop(moved);
        assert_eq!(counts.clients(), 0);
    }

    #[test]
    fn who_cycles_through_addresses_neither_grows_the_table_nor_empties_his_own_record() {
        let (rates, pace) = (ClientRates::default(), AdmissionRate::new(1, 5, Duration::ZERO));
        let key = RandomState::new();
        let of = |number: u64| ClientKey::Subject(&number.to_string()).hash(&key);
        for _ in 0..5 {
            rates.take(of(0), pace, START).unwrap();
        }
        for number in 1..200_000 {
            let _ = rates.take(of(number), pace, START);
        }
        assert_eq!(rates.clients(), CLIENTS_MAX);
        assert!(rates.take(of(0), pace, START).is_err(), "his burst is spent");
        // A second later, there is one slot for each entry, not one for each name.
        let later = START + Duration::from_secs(1);
        let taken = (0..200_000).filter(|number| rates.take(of(*number), pace, later).is_ok()).count();
        assert!(taken <= CLIENTS_MAX, "{taken}");
        // When buckets are full again, so is a newcomer's.
        let late = START + Duration::from_secs(10);
        for _ in 0..5 {
            rates.take(of(1_000_000), pace, late).unwrap();
        }
        assert!(rates.take(of(1_000_000), pace, late).is_err());
    }

    #[test]
    fn the_time_told_is_when_the_next_slot_is_there() {
        let (rates, pace) = (ClientRates::default(), AdmissionRate::new(2, 1, Duration::ZERO));
        rates.take(ClientHash(1), pace, START).unwrap();
        let refused = rates.take(ClientHash(1), pace, START + micros(100_000)).unwrap_err();
        assert_eq!((refused.after, seconds_until(refused.after)), (micros(400_000), 1));
        assert!(rates.take(ClientHash(1), pace, START + micros(499_999)).is_err());
        assert!(rates.take(ClientHash(1), pace, START + micros(500_000)).is_ok());
        assert_eq!([0, 1_000_000, 1_000_001, 59_000_000].map(|after| seconds_until(micros(after))), [1, 1, 1, 59]);
        assert_eq!(seconds_until(micros(1_001_000)), 2);
    }

    proptest! {
        /// Few entries and many clients, so that entries are taken over all the time.
        #[test]
        fn no_client_gets_more_than_its_burst_and_its_share_however_small_the_table(
            set_max in 1_usize..4,
            per_second in 1_u32..50,
            burst in 1_u32..6,
            asked in prop::collection::vec((0_u64..12, 0_u64..300_000), 1..400),
        ) {
            let (rates, pace) = (ClientRates::with_sets_of(set_max), AdmissionRate::new(per_second, burst, Duration::ZERO));
            let (mut now, mut slots) = (START, vec![vec![]; 12]);
            for (client, gap) in asked {
                now = now + micros(gap / 4);
                // All in one part of the table.
                if rates.take(ClientHash(client * SHARDS as u64), pace, now).is_ok() {
                    slots[client as usize].push(now.as_micros());
                }
                prop_assert!(rates.clients() <= set_max);
            }
            for slots in slots {
                for (first, from) in slots.iter().enumerate() {
                    for (last, until) in slots.iter().enumerate().skip(first) {
                        let most = f64::from(burst) + f64::from(per_second) * (until - from) as f64 / 1e6;
                        prop_assert!((last - first + 1) as f64 <= most + 1e-6, "{slots:?}");
                    }
                }
            }
        }

        #[test]
        fn counts_are_what_is_held(limit in 1_u32..4, steps in prop::collection::vec((0_u64..5, any::<bool>()), 1..200)) {
            let counts = Arc::<ClientCounts>::default();
            let mut held: Vec<Vec<ClientPlace>> = (0..5).map(|_| vec![]).collect();
            for (client, enters) in steps {
                let places = &mut held[client as usize];
                if enters {
                    let place = counts.enter(ClientHash(client), limit);
                    prop_assert_eq!(place.is_some(), places.len() < limit as usize);
                    places.extend(place);
                } else {
                    places.pop();
                }
                prop_assert_eq!(counts.clients(), held.iter().filter(|places| !places.is_empty()).count());
            }
            drop(held);
            prop_assert_eq!(counts.clients(), 0);
        }
    }
}
