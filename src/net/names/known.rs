//! The cache of one name: how long an answer is valid, and what is used when there is none.
//!
//! Pure: callers do the look-ups and pass in the time.

#[cfg(any(feature = "dns", test))]
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::time::MonotonicTime;

/// The shortest validity of an answer: some servers answer with a TTL of 0, and each connection would ask again.
const TTL_MIN: Duration = Duration::from_secs(1);
/// The longest validity: moving a server with a TTL of a day then causes a minute of trouble.
const TTL_MAX: Duration = Duration::from_secs(60);
/// How long the last good answer is used while there is no newer one, so that an outage of DNS is not one of servers.
/// Bounded, since the addresses may eventually belong to others.
const STALE_MAX: Duration = Duration::from_secs(3600);
/// How long after a failure no new look-up begins.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// A look-up counts as lost after this time, and the next may begin. Longer than any takes.
const LOOKUP_LOST: Duration = Duration::from_secs(30);

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupAnswer {
    /// Its addresses, the best first; ports are not set.
    pub addresses: Vec<SocketAddr>,
    /// How many of the first are equally good, and used in turn.
    pub alike: usize,
    /// How long the answer is valid.
    pub ttl: Duration,
}

/// Why there are no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name does not exist or has no address.
    #[error("{0}")]
    NotFound(Arc<str>),
    /// There was no answer in time.
    #[error("{0}")]
    Timeout(Arc<str>),
    /// No server could be asked, or none gave a usable answer.
    #[error("{0}")]
    Failed(Arc<str>),
    /// This machine lacks descriptors or memory for it; the system's error number.
    #[error("this machine lacks descriptors or memory for it")]
    Exhausted(i32),
}

/// Addresses to try, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub(super) all: Arc<[SocketAddr]>,
    pub(super) alike: usize,
}

impl Addresses {
    /// Returns the addresses in the order in which user number `turn` tries them.
    pub fn in_turn(&self, turn: usize) -> impl ExactSizeIterator<Item = SocketAddr> {
        let first = turn.checked_rem(self.alike).unwrap_or(0);
        (0..self.all.len())
            .map(move |at| if at < self.alike { (first + at) % self.alike } else { at })
            .map(|at| self.all[at])
    }
}

/// What a caller that needs addresses does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Uses these addresses.
    Use(Addresses),
    /// Uses these old addresses if no new ones arrive soon.
    Soon(Addresses),
    /// Waits for an answer.
    Wait,
    /// Fails.
    Fail(LookupError),
}

/// The state of a name.
#[derive(Debug, Default)]
pub(super) struct NameCache {
    good: Option<GoodAnswer>,
    /// The last answer, if it was a failure, and the end of the pause after it.
    failed: Option<(LookupError, MonotonicTime)>,
    /// When the running look-up began.
    asking_since: Option<MonotonicTime>,
}

#[derive(Debug)]
struct GoodAnswer {
    addresses: Addresses,
    answered_at: MonotonicTime,
    until: MonotonicTime,
}

/// The change that an answer made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheChange {
    /// Nothing worth a log line.
    None,
    /// Look-ups fail from now on; true if earlier addresses are used meanwhile.
    Fails(bool),
    /// Look-ups work again.
    Works,
}

impl NameCache {
    /// Returns what to do `now`, and whether the caller must look the name up and report the answer.
    pub(super) fn next_step(&mut self, now: MonotonicTime) -> (NextStep, bool) {
        if let Some(good) = self.good.as_ref().filter(|good| now < good.until) {
            return (NextStep::Use(good.addresses.clone()), false);
        }
        let is_asked = self.asking_since.is_some_and(|since| now.since(since) < LOOKUP_LOST);
        let pauses = self.failed.as_ref().is_some_and(|(_, until)| now < *until);
        let asks = !is_asked && !pauses;
        if asks {
            self.asking_since = Some(now);
        }
        let kept = self.good.as_ref().filter(|good| now.since(good.answered_at) < STALE_MAX);
        let next = match (kept, &self.failed) {
            // Does not wait for a server that did not answer a moment ago.
            (Some(good), Some(_)) => NextStep::Use(good.addresses.clone()),
            (Some(good), None) => NextStep::Soon(good.addresses.clone()),
            (None, Some((trouble, until))) if now < *until => NextStep::Fail(trouble.clone()),
            (None, _) => NextStep::Wait,
        };
        (next, asks)
    }

    /// Records the answer.
    pub(super) fn answered(&mut self, answer: Result<LookupAnswer, LookupError>, now: MonotonicTime) -> CacheChange {
        self.asking_since = None;
        match answer {
            Ok(LookupAnswer { addresses, alike, ttl }) => {
                let alike = alike.min(addresses.len());
                let addresses = Addresses { all: addresses.into(), alike };
                self.good = Some(GoodAnswer { addresses, answered_at: now, until: now + ttl.clamp(TTL_MIN, TTL_MAX) });
                if self.failed.take().is_some() { CacheChange::Works } else { CacheChange::None }
            }
            Err(trouble) => {
                // If the answer is that the name does not exist, old addresses are dropped: they may belong to others
                // by now.
                if matches!(trouble, LookupError::NotFound(_)) {
                    self.good = None;
                }
                let pause = if matches!(trouble, LookupError::Exhausted(_)) { Duration::ZERO } else { RETRY_PAUSE };
                let is_news = self.failed.replace((trouble, now + pause)).is_none();
                let is_kept = self.good.as_ref().is_some_and(|good| now.since(good.answered_at) < STALE_MAX);
                if is_news { CacheChange::Fails(is_kept) } else { CacheChange::None }
            }
        }
    }

    /// Returns the result for a caller that has waited; `None` if there was no answer, so that it must check again.
    pub(super) fn outcome(&self, now: MonotonicTime) -> Option<Result<Addresses, LookupError>> {
        match (self.good.as_ref().filter(|good| now.since(good.answered_at) < STALE_MAX), &self.failed) {
            (Some(good), _) => Some(Ok(good.addresses.clone())),
            (None, Some((trouble, _))) if self.asking_since.is_none() => Some(Err(trouble.clone())),
            (None, _) => None,
        }
    }

    /// Records that the look-up ended without an answer.
    pub(super) fn abandoned(&mut self) {
        self.asking_since = None;
    }
}

/// Sorts addresses from DNS in the order in which they are tried: unreachable ones last; IPv6 before IPv4, as in RFC
/// 6724, except site addresses (`fc00::/7`). Keeps the order within a kind.
#[cfg(any(feature = "dns", test))]
pub(super) fn by_preference(
    mut addresses: Vec<IpAddr>,
    has_way: impl Fn(SocketAddr) -> bool,
    ttl: Duration,
) -> LookupAnswer {
    let at = |ip: IpAddr| SocketAddr::new(ip, 0);
    let kind = |ip: &IpAddr| match ip {
        IpAddr::V6(ip) if ip.is_unique_local() => 2,
        IpAddr::V6(_) => 0,
        IpAddr::V4(_) => 1,
    };
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|ip| seen.insert(*ip));
    let mut ranked: Vec<_> = addresses.into_iter().map(|ip| ((!has_way(at(ip)), kind(&ip)), at(ip))).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    let alike = ranked.iter().take_while(|(rank, _)| *rank == ranked[0].0).count();
    LookupAnswer { addresses: ranked.into_iter().map(|(_, address)| address).collect(), alike, ttl }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_micros(1_000_000 + millis * 1000)
    }

    fn answer(addresses: &[&str], ttl: u64) -> LookupAnswer {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
        LookupAnswer { alike: addresses.len(), addresses, ttl: Duration::from_secs(ttl) }
    }

    fn lost() -> LookupError {
        LookupError::Timeout("late".into())
    }

    fn gone() -> LookupError {
        LookupError::NotFound("gone".into())
    }

    /// Returns the next step in a word, with the first address, and whether a look-up is due.
    fn look(known: &mut NameCache, millis: u64) -> (String, bool) {
        let (next, asks) = known.next_step(at(millis));
        let first = |addresses: &Addresses| addresses.in_turn(0).next().unwrap().ip();
        let word = match next {
            NextStep::Use(addresses) => format!("use {}", first(&addresses)),
            NextStep::Soon(addresses) => format!("soon {}", first(&addresses)),
            NextStep::Wait => "wait".to_owned(),
            NextStep::Fail(trouble) => format!("fail {trouble}"),
        };
        (word, asks)
    }

    #[test]
    fn one_asks_and_all_wait_for_the_same_answer_which_holds_for_its_ttl() {
        let mut known = NameCache::default();
        assert_eq!(look(&mut known, 0), ("wait".into(), true));
        assert_eq!(look(&mut known, 1), ("wait".into(), false), "a look-up is running");
        assert_eq!(known.answered(Ok(answer(&["10.0.0.1"], 5)), at(10)), CacheChange::None);
        assert_eq!(look(&mut known, 5009), ("use 10.0.0.1".into(), false));
        assert_eq!(look(&mut known, 5010), ("soon 10.0.0.1".into(), true));
        assert_eq!(look(&mut known, 5011), ("soon 10.0.0.1".into(), false));
        known.answered(Ok(answer(&["10.0.0.2"], 5)), at(5020));
        assert_eq!(look(&mut known, 5030), ("use 10.0.0.2".into(), false));
    }

    #[test]
    fn a_ttl_is_bounded_on_both_sides() {
        for (ttl, holds) in [(0, 1), (7, 7), (86_400, 60)] {
            let mut known = NameCache::default();
            known.answered(Ok(answer(&["10.0.0.1"], ttl)), at(0));
            assert_eq!(look(&mut known, holds * 1000 - 1), ("use 10.0.0.1".into(), false));
            assert!(look(&mut known, holds * 1000).1);
        }
    }

    #[test]
    fn the_last_good_answer_holds_through_failures_and_nobody_waits_for_those_but_not_for_ever() {
        let mut known = NameCache::default();
        known.answered(Ok(answer(&["10.0.0.1"], 1)), at(0));
        assert_eq!(look(&mut known, 1000), ("soon 10.0.0.1".into(), true));
        assert_eq!(known.answered(Err(lost()), at(5000)), CacheChange::Fails(true));
        assert_eq!(look(&mut known, 5999), ("use 10.0.0.1".into(), false), "not asked again at once");
        assert_eq!(look(&mut known, 6000), ("use 10.0.0.1".into(), true), "asked, and not waited for");
        assert_eq!(known.answered(Err(lost()), at(9000)), CacheChange::None);
        let hour = 3_600_000;
        assert_eq!(look(&mut known, hour - 1), ("use 10.0.0.1".into(), true));
        assert_eq!(look(&mut known, hour), ("wait".into(), false));
        known.answered(Err(lost()), at(hour + 10));
        assert_eq!(look(&mut known, hour + 20), ("fail late".into(), false));
        assert_eq!(look(&mut known, hour + 1010), ("wait".into(), true));
        assert_eq!(known.answered(Ok(answer(&["10.0.0.2"], 1)), at(hour + 1020)), CacheChange::Works);
        assert_eq!(look(&mut known, hour + 1030), ("use 10.0.0.2".into(), false));
    }

    #[test]
    fn who_says_that_there_is_no_such_name_is_believed_at_once() {
        let mut known = NameCache::default();
        known.answered(Ok(answer(&["10.0.0.1"], 1)), at(0));
        assert_eq!(known.answered(Err(gone()), at(1000)), CacheChange::Fails(false));
        assert_eq!(look(&mut known, 1500), ("fail gone".into(), false));
        assert_eq!(look(&mut known, 2000), ("wait".into(), true));
    }

    #[test]
    fn what_this_machine_lacks_is_tried_again_at_once() {
        let mut known = NameCache::default();
        known.answered(Err(LookupError::Exhausted(24)), at(0));
        assert_eq!(known.outcome(at(0)), Some(Err(LookupError::Exhausted(24))), "but those who waited for it get it");
        assert_eq!(look(&mut known, 0), ("wait".into(), true));
        assert_eq!(known.outcome(at(0)), None, "asked, and not answered");
    }

    #[test]
    fn a_question_that_was_lost_is_asked_again() {
        let mut known = NameCache::default();
        assert!(look(&mut known, 0).1);
        assert!(!look(&mut known, 29_999).1);
        assert!(look(&mut known, 30_000).1, "the look-up hangs");
        known.abandoned();
        assert!(look(&mut known, 30_001).1, "the look-up was dropped");
    }

    #[test]
    fn equals_take_turns_and_the_others_follow() {
        let ips = ["fd00::1", "10.0.0.1", "2001:db8::1", "10.0.0.2", "2001:db8::2", "10.0.0.1"];
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let all = |has_way: fn(SocketAddr) -> bool, turn| {
            let LookupAnswer { addresses, alike, .. } = by_preference(ips.clone(), has_way, Duration::ZERO);
            let addresses = Addresses { all: addresses.into(), alike };
            addresses.in_turn(turn).map(|address| address.ip().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(all(|_| true, 0), "2001:db8::1 2001:db8::2 10.0.0.1 10.0.0.2 fd00::1");
        assert_eq!(all(|_| true, 1), "2001:db8::2 2001:db8::1 10.0.0.1 10.0.0.2 fd00::1");
        assert_eq!(all(|to| to.is_ipv4(), 3), "10.0.0.2 10.0.0.1 2001:db8::1 2001:db8::2 fd00::1");
        assert_eq!(by_preference(vec![], |_| true, Duration::ZERO).alike, 0);
        let none = Addresses { all: Arc::new([]), alike: 0 };
        assert_eq!(none.in_turn(7).count(), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Look,
        Good(u64),
        Lost,
        Gone,
    }

    proptest! {
        #[test]
        fn one_asks_at_a_time_and_nothing_is_used_that_is_older_than_it_may_be(
            steps in proptest::collection::vec(
                (0u64..40_000, prop_oneof![
                    4 => Just(Step::Look),
                    1 => (0u64..90).prop_map(Step::Good),
                    1 => Just(Step::Lost),
                    1 => Just(Step::Gone),
                ]),
                1..200,
            ),
        ) {
            let (mut known, mut now) = (NameCache::default(), 0);
            // When the running look-up began; the time and TTL of the last good answer.
            let (mut asked, mut good): (Option<u64>, Option<(u64, u64)>) = (None, None);
            for (wait, step) in steps {
                now += wait;
                match step {
                    Step::Look => {
                        let (next, asks) = known.next_step(at(now));
                        if asks {
                            prop_assert!(asked.is_none_or(|since| now - since >= 30_000));
                            asked = Some(now);
                        }
                        match (next, good) {
                            (NextStep::Use(_) | NextStep::Soon(_), Some((told, _))) => prop_assert!(now - told < 3_600_000),
                            (NextStep::Use(_) | NextStep::Soon(_), None) => prop_assert!(false, "nothing is known"),
                            (NextStep::Wait, _) => prop_assert!(asked.is_some(), "no answer will come"),
                            (NextStep::Fail(_), _) => {}
                        }
                        if let Some((told, ttl)) = good {
                            prop_assert_eq!(asks && now - told < ttl, false, "what holds is not asked for");
                        }
                    }
                    // Only a running look-up is answered.
                    _ if asked.take().is_none() => {}
                    Step::Good(ttl) => {
                        known.answered(Ok(answer(&["10.0.0.1"], ttl)), at(now));
                        good = Some((now, ttl.clamp(1, 60) * 1000));
                    }
                    Step::Lost => drop(known.answered(Err(lost()), at(now))),
                    Step::Gone => {
                        known.answered(Err(gone()), at(now));
                        good = None;
                    }
                }
            }
        }
    }
}
