//! What is known of one name: for how long an answer holds, and what holds when there is none.
//!
//! Pure: who asks, and when it is, is told from outside.

#[cfg(any(feature = "dns", test))]
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::time::MonotonicTime;

/// The shortest time for which an answer is believed: some servers answer with a TTL of 0, and each connection would ask.
const TTL_MIN: Duration = Duration::from_secs(1);
/// The longest: whoever moves a server with a TTL of a day has a minute of trouble.
const TTL_MAX: Duration = Duration::from_secs(60);
/// How long the last good answer holds while there is no other: an outage of DNS is no outage of servers. Bounded, since
/// somebody else may have the addresses in the end.
const KEPT_MAX: Duration = Duration::from_secs(3600);
/// How long nobody asks again after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// After so long a question is taken for lost, and asked again. Longer than any takes.
const LOST: Duration = Duration::from_secs(30);

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupAnswer {
    /// Its addresses, the best first; ports are not set.
    pub addresses: Vec<SocketAddr>,
    /// So many of the first are as good as one another, and are taken in turn.
    pub alike: usize,
    /// For how long.
    pub ttl: Duration,
}

/// Why there are no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Whoever knows says that there are none.
    #[error("{0}")]
    NotFound(Arc<str>),
    /// Nobody said anything in time.
    #[error("{0}")]
    Timeout(Arc<str>),
    /// Nobody could be asked, or said anything that could be used.
    #[error("{0}")]
    Failed(Arc<str>),
    /// This machine lacks what it takes to ask: an error number of the system.
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
    /// In the order in which they are tried by who comes as number `turn`.
    pub fn in_turn(&self, turn: usize) -> impl ExactSizeIterator<Item = SocketAddr> {
        let first = turn.checked_rem(self.alike).unwrap_or(0);
        (0..self.all.len())
            .map(move |at| if at < self.alike { (first + at) % self.alike } else { at })
            .map(|at| self.all[at])
    }
}

/// What whoever wants addresses does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// They are known.
    Use(Addresses),
    /// They are known from before: those are used if there are no others soon.
    Soon(Addresses),
    /// They are not known: it waits until they are.
    Wait,
    /// There are none.
    Fail(LookupError),
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct NameCache {
    good: Option<Good>,
    /// What the last answer was, if that was none; and until when nobody asks again.
    failed: Option<(LookupError, MonotonicTime)>,
    /// Somebody asks, since then.
    asking: Option<MonotonicTime>,
}

#[derive(Debug)]
struct Good {
    addresses: Addresses,
    told: MonotonicTime,
    until: MonotonicTime,
}

/// What an answer changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing that anybody wants to read.
    None,
    /// It fails from now on; whether earlier addresses are used meanwhile.
    Fails(bool),
    /// It works again.
    Works,
}

impl NameCache {
    /// What is to be done `now`, and whether by asking: who is told so does ask, and tells the answer.
    pub(super) fn look(&mut self, now: MonotonicTime) -> (Next, bool) {
        if let Some(good) = self.good.as_ref().filter(|good| now < good.until) {
            return (Next::Use(good.addresses.clone()), false);
        }
        let is_asked = self.asking.is_some_and(|since| now.since(since) < LOST);
        let pauses = self.failed.as_ref().is_some_and(|(_, until)| now < *until);
        let asks = !is_asked && !pauses;
        if asks {
            self.asking = Some(now);
        }
        let kept = self.good.as_ref().filter(|good| now.since(good.told) < KEPT_MAX);
        let next = match (kept, &self.failed) {
            // Nobody waits for a server that has not answered a moment ago.
            (Some(good), Some(_)) => Next::Use(good.addresses.clone()),
            (Some(good), None) => Next::Soon(good.addresses.clone()),
            (None, Some((trouble, until))) if now < *until => Next::Fail(trouble.clone()),
            (None, _) => Next::Wait,
        };
        (next, asks)
    }

    /// Hears the answer.
    pub(super) fn answered(&mut self, answer: Result<LookupAnswer, LookupError>, now: MonotonicTime) -> News {
        self.asking = None;
        match answer {
            Ok(LookupAnswer { addresses, alike, ttl }) => {
                let alike = alike.min(addresses.len());
                let addresses = Addresses { all: addresses.into(), alike };
                self.good = Some(Good { addresses, told: now, until: now + ttl.clamp(TTL_MIN, TTL_MAX) });
                if self.failed.take().is_some() { News::Works } else { News::None }
            }
            Err(trouble) => {
                // Who says that there is no such name is believed: its addresses may be somebody else's by now.
                if matches!(trouble, LookupError::NotFound(_)) {
                    self.good = None;
                }
                let pause = if matches!(trouble, LookupError::Exhausted(_)) { Duration::ZERO } else { PAUSE };
                let is_news = self.failed.replace((trouble, now + pause)).is_none();
                let is_kept = self.good.as_ref().is_some_and(|good| now.since(good.told) < KEPT_MAX);
                if is_news { News::Fails(is_kept) } else { News::None }
            }
        }
    }

    /// What whoever has waited for an answer gets; `None`: there was none, and it is to look again.
    pub(super) fn outcome(&self, now: MonotonicTime) -> Option<Result<Addresses, LookupError>> {
        match (self.good.as_ref().filter(|good| now.since(good.told) < KEPT_MAX), &self.failed) {
            (Some(good), _) => Some(Ok(good.addresses.clone())),
            (None, Some((trouble, _))) if self.asking.is_none() => Some(Err(trouble.clone())),
            (None, _) => None,
        }
    }

    /// Whoever asked has gone without an answer.
    pub(super) fn abandoned(&mut self) {
        self.asking = None;
    }
}

/// The order in which addresses out of DNS are tried: those without a way to them last; IPv6 before IPv4, as RFC 6724 has it,
/// but for addresses of a site (`fc00::/7`). Within a kind they are left as they came.
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

    /// What is to be done, in a word, with the first address; and whether somebody is to ask.
    fn look(known: &mut NameCache, millis: u64) -> (String, bool) {
        let (next, asks) = known.look(at(millis));
        let first = |addresses: &Addresses| addresses.in_turn(0).next().unwrap().ip();
        let word = match next {
            Next::Use(addresses) => format!("use {}", first(&addresses)),
            Next::Soon(addresses) => format!("soon {}", first(&addresses)),
            Next::Wait => "wait".to_owned(),
            Next::Fail(trouble) => format!("fail {trouble}"),
        };
        (word, asks)
    }

    #[test]
    fn one_asks_and_all_wait_for_the_same_answer_which_holds_for_its_ttl() {
        let mut known = NameCache::default();
        assert_eq!(look(&mut known, 0), ("wait".into(), true));
        assert_eq!(look(&mut known, 1), ("wait".into(), false), "somebody asks already");
        assert_eq!(known.answered(Ok(answer(&["10.0.0.1"], 5)), at(10)), News::None);
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
        assert_eq!(known.answered(Err(lost()), at(5000)), News::Fails(true));
        assert_eq!(look(&mut known, 5999), ("use 10.0.0.1".into(), false), "not asked again at once");
        assert_eq!(look(&mut known, 6000), ("use 10.0.0.1".into(), true), "asked, and not waited for");
        assert_eq!(known.answered(Err(lost()), at(9000)), News::None);
        let hour = 3_600_000;
        assert_eq!(look(&mut known, hour - 1), ("use 10.0.0.1".into(), true));
        assert_eq!(look(&mut known, hour), ("wait".into(), false));
        known.answered(Err(lost()), at(hour + 10));
        assert_eq!(look(&mut known, hour + 20), ("fail late".into(), false));
        assert_eq!(look(&mut known, hour + 1010), ("wait".into(), true));
        assert_eq!(known.answered(Ok(answer(&["10.0.0.2"], 1)), at(hour + 1020)), News::Works);
        assert_eq!(look(&mut known, hour + 1030), ("use 10.0.0.2".into(), false));
    }

    #[test]
    fn who_says_that_there_is_no_such_name_is_believed_at_once() {
        let mut known = NameCache::default();
        known.answered(Ok(answer(&["10.0.0.1"], 1)), at(0));
        assert_eq!(known.answered(Err(gone()), at(1000)), News::Fails(false));
        assert_eq!(look(&mut known, 1500), ("fail gone".into(), false));
        assert_eq!(look(&mut known, 2000), ("wait".into(), true));
    }

    #[test]
    fn what_this_machine_lacks_is_tried_again_at_once() {
        let mut known = NameCache::default();
        known.answered(Err(LookupError::Exhausted(24)), at(0));
        assert_eq!(
            known.outcome(at(0)),
            Some(Err(LookupError::Exhausted(24))),
            "but whoever has waited for it hears of it"
        );
        assert_eq!(look(&mut known, 0), ("wait".into(), true));
        assert_eq!(known.outcome(at(0)), None, "asked, and not answered");
    }

    #[test]
    fn a_question_that_was_lost_is_asked_again() {
        let mut known = NameCache::default();
        assert!(look(&mut known, 0).1);
        assert!(!look(&mut known, 29_999).1);
        assert!(look(&mut known, 30_000).1, "whoever asked hangs");
        known.abandoned();
        assert!(look(&mut known, 30_001).1, "whoever asked has gone");
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
            // When somebody asked who has not been answered; the last good answer: when, how long.
            let (mut asked, mut good): (Option<u64>, Option<(u64, u64)>) = (None, None);
            for (wait, step) in steps {
                now += wait;
                match step {
                    Step::Look => {
                        let (next, asks) = known.look(at(now));
                        if asks {
                            prop_assert!(asked.is_none_or(|since| now - since >= 30_000));
                            asked = Some(now);
                        }
                        match (next, good) {
                            (Next::Use(_) | Next::Soon(_), Some((told, _))) => prop_assert!(now - told < 3_600_000),
                            (Next::Use(_) | Next::Soon(_), None) => prop_assert!(false, "nothing is known"),
                            (Next::Wait, _) => prop_assert!(asked.is_some(), "nobody will ever tell"),
                            (Next::Fail(_), _) => {}
                        }
                        if let Some((told, ttl)) = good {
                            prop_assert_eq!(asks && now - told < ttl, false, "what holds is not asked for");
                        }
                    }
                    // Only who was asked answers.
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
