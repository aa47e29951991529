//! All stops asked of one session: several reasons may ask it; the earliest time and the earliest bound apply.
//!
//! Each reason keeps its own time and bound, so that a cancelled one leaves no trace and the right one of the rest
//! holds. There is one entry for each kind of reason, however often it is asked: at most as many as [`StopReason`] has
//! variants.

use std::mem::{discriminant, take};

use crate::base::time::MonotonicTime;
use crate::session::stop::{StopNotice, StopReason};

/// All stops that were asked and not cancelled.
#[derive(Debug, Default)]
pub(super) struct Stops {
    /// The one that holds: the earliest, and of equals the one asked first.
    first: Option<StopNotice>,
    /// What hardly any session has. Boxed: 8 bytes in every session.
    rare: Option<Box<RareStops>>,
}

/// What hardly any session has.
#[derive(Debug, Default)]
struct RareStops {
    /// The other stops, in the same order.
    rest: Vec<StopNotice>,
    /// When its credential expires. That is no order to stop, and counts as none.
    expires: Option<MonotonicTime>,
}

/// The effect of one more stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StopOutcome {
    /// What holds has changed.
    pub is_changed: bool,
    /// It will stop earlier than before, or at all.
    pub is_earlier: bool,
}

impl Stops {
    /// Starts with this stop, or with none.
    pub(super) fn new(first: Option<StopNotice>) -> Stops {
        Stops { first, rare: None }
    }

    /// Returns true if no stop was asked.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Returns the stop that holds, with its own bound.
    pub(super) fn first(&self) -> Option<&StopNotice> {
        self.first.as_ref()
    }

    /// Returns the stop that holds, with the earliest bound of all.
    pub(super) fn in_force(&self) -> Option<StopNotice> {
        let first = self.first.as_ref()?;
        Some(StopNotice { by: self.all().filter_map(|stop| stop.by).min(), ..first.clone() })
    }

    /// Returns all stops.
    pub(super) fn list(&self) -> Vec<StopNotice> {
        self.all().cloned().collect()
    }

    fn all(&self) -> impl Iterator<Item = &StopNotice> {
        self.first.iter().chain(self.rare.iter().flat_map(|rare| rare.rest.iter()))
    }

    /// Adds a stop. Of the same kind of reason the earlier time and the earlier bound are kept.
    pub(super) fn add(&mut self, mut new: StopNotice) -> StopOutcome {
        if self.is_empty() {
            self.first = Some(new);
            return StopOutcome { is_changed: true, is_earlier: true };
        }
        let before = self.in_force();
        let mut all = self.take_all();
        match all.iter().position(|stop| discriminant(&stop.why) == discriminant(&new.why)) {
            Some(at) => {
                let by = all[at].by.into_iter().chain(new.by).min();
                if new.at < all[at].at {
                    all.remove(at);
                    new.by = by;
                    insert(&mut all, new);
                } else {
                    all[at].by = by;
                }
            }
            None => insert(&mut all, new),
        }
        self.put_all(all);
        let now = self.in_force();
        let moment = |stop: &Option<StopNotice>| stop.as_ref().map(|stop| stop.at);
        StopOutcome { is_earlier: moment(&now) < moment(&before), is_changed: now != before }
    }

    /// Cancels the stops that `is_over` selects, unless their time has come. Returns true if what holds has changed.
    pub(super) fn cancel(&mut self, is_over: impl Fn(&StopReason) -> bool, now: MonotonicTime) -> bool {
        let is_over = |stop: &StopNotice| stop.at > now && is_over(&stop.why);
        if !self.all().any(is_over) {
            return false;
        }
        let before = self.in_force();
        let mut all = self.take_all();
        all.retain(|stop| !is_over(stop));
        self.put_all(all);
        self.in_force() != before
    }

    /// Returns true if it was asked to stop for exactly this reason, by this time.
    pub(super) fn has(&self, why: &StopReason, end: MonotonicTime) -> bool {
        self.all().any(|stop| stop.why == *why && stop.by.is_none_or(|by| by <= end))
    }

    /// Returns when its credential expires.
    pub(super) fn expires(&self) -> Option<MonotonicTime> {
        self.rare.as_ref()?.expires
    }

    /// Sets when its credential expires; `None`: never.
    pub(super) fn set_expiry(&mut self, expires: Option<MonotonicTime>) {
        let rest = self.rare.as_mut().map_or_else(Vec::new, |rare| take(&mut rare.rest));
        self.set_rare(rest, expires);
    }

    fn set_rare(&mut self, rest: Vec<StopNotice>, expires: Option<MonotonicTime>) {
        let is_needed = !rest.is_empty() || expires.is_some();
        self.rare = is_needed.then(|| Box::new(RareStops { rest, expires }));
    }

    fn take_all(&mut self) -> Vec<StopNotice> {
        let rest = self.rare.as_mut().map_or_else(Vec::new, |rare| take(&mut rare.rest));
        self.first.take().into_iter().chain(rest).collect()
    }

    fn put_all(&mut self, all: Vec<StopNotice>) {
        let mut all = all.into_iter();
        self.first = all.next();
        self.set_rare(all.collect(), self.expires());
    }
}

/// Inserts by time, after equal ones.
fn insert(all: &mut Vec<StopNotice>, new: StopNotice) {
    let at = all.partition_point(|stop| stop.at <= new.at);
    all.insert(at, new);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::ws::close::{Close, CloseCode};

    fn at(seconds: u64) -> MonotonicTime {
        MonotonicTime::from_micros(seconds * 1_000_000)
    }

    /// All reasons; two that are of one kind.
    fn reasons() -> [StopReason; 11] {
        let operator = |text| StopReason::Operator(Arc::new(Close::new(CloseCode::SERVICE_RESTART, text)));
        [
            StopReason::Drain,
            StopReason::Rebalance,
            StopReason::EndpointDrain,
            StopReason::EndpointDown,
            StopReason::Reload,
            StopReason::ListenerDrain,
            StopReason::RouteDrain,
            StopReason::UpstreamDrain,
            StopReason::Upgrade,
            operator("one"),
            operator("another"),
        ]
    }

    #[derive(Clone, Debug)]
    enum Step {
        Say { why: usize, at: u64, by: Option<u64> },
        TakeBack { why: Vec<usize>, now: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let why = || 0..reasons().len();
        let say = (why(), 1u64..12, proptest::option::of(0u64..8)).prop_map(|(why, at, more)| Step::Say {
            why,
            at,
            by: more.map(|more| at + more),
        });
        let back =
            (proptest::collection::vec(why(), 1..4), 0u64..12).prop_map(|(why, now)| Step::TakeBack { why, now });
        proptest::collection::vec(prop_oneof![3 => say, 1 => back], 1..40)
    }

    /// All that was said, as it was said: what holds is found by looking at everything anew.
    #[derive(Default)]
    struct Naive(Vec<(StopReason, MonotonicTime, Option<MonotonicTime>)>);

    impl Naive {
        fn of_kind(
            &self,
            why: &StopReason,
        ) -> impl Iterator<Item = &(StopReason, MonotonicTime, Option<MonotonicTime>)> + use<'_> {
            let kind = discriminant(why);
            self.0.iter().filter(move |(other, ..)| discriminant(other) == kind)
        }

        /// The one of this kind that is earliest, and was said first as such.
        fn earliest(&self, why: &StopReason) -> Option<&(StopReason, MonotonicTime, Option<MonotonicTime>)> {
            self.of_kind(why).min_by_key(|(_, at, _)| *at)
        }

        fn in_force(&self) -> Option<StopNotice> {
            let (why, at, _) = self.0.iter().min_by_key(|(_, at, _)| *at)?;
            let by = self.0.iter().filter_map(|(.., by)| *by).min();
            Some(StopNotice { at: *at, by, why: why.clone() })
        }

        fn cancel(&mut self, whys: &[StopReason], now: MonotonicTime) {
            let gone: Vec<StopReason> = whys
                .iter()
                .filter(|why| self.earliest(why).is_some_and(|(is, at, _)| is == *why && *at > now))
                .cloned()
                .collect();
            self.0.retain(|(other, ..)| !gone.iter().any(|why| discriminant(other) == discriminant(why)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_is_said_and_taken_back_the_right_one_holds_with_its_own_time(steps in steps()) {
            let (mut stops, mut naive) = (Stops::default(), Naive::default());
            for step in steps {
                let before = naive.in_force();
                let is_changed = match step {
                    Step::Say { why, at: seconds, by } => {
                        let stop = StopNotice { at: at(seconds), by: by.map(at), why: reasons()[why].clone() };
                        naive.0.push((stop.why.clone(), stop.at, stop.by));
                        let outcome = stops.add(stop);
                        let is_earlier = naive.in_force().map(|stop| stop.at) != before.as_ref().map(|stop| stop.at);
                        prop_assert_eq!(outcome.is_earlier, is_earlier);
                        outcome.is_changed
                    }
                    Step::TakeBack { why, now } => {
                        let why: Vec<StopReason> = why.into_iter().map(|why| reasons()[why].clone()).collect();
                        naive.cancel(&why, at(now));
                        stops.cancel(|other| why.contains(other), at(now))
                    }
                };
                prop_assert_eq!(stops.in_force(), naive.in_force());
                prop_assert_eq!(is_changed, naive.in_force() != before);
                prop_assert_eq!(stops.is_empty(), naive.0.is_empty());
                prop_assert!(stops.all().count() < reasons().len(), "one a kind");
                for why in reasons() {
                    let told = naive.earliest(&why).filter(|(is, ..)| *is == why);
                    let by = naive.of_kind(&why).filter_map(|(.., by)| *by).min();
                    let has = told.is_some() && by.is_none_or(|by| by <= at(9));
                    prop_assert_eq!(stops.has(&why, at(9)), has);
                }
            }
        }
    }

    #[test]
    fn a_reason_that_is_taken_back_leaves_no_bound_behind() {
        let mut stops = Stops::default();
        stops.add(StopNotice { at: at(50), by: Some(at(90)), why: StopReason::Reload });
        let outcome = stops.add(StopNotice { at: at(60), by: Some(at(60)), why: StopReason::RouteDrain });
        assert_eq!(outcome, StopOutcome { is_changed: true, is_earlier: false }, "the bound is another");
        assert_eq!(stops.in_force(), Some(StopNotice { at: at(50), by: Some(at(60)), why: StopReason::Reload }));
        assert!(stops.cancel(|why| *why == StopReason::RouteDrain, at(1)));
        assert_eq!(stops.in_force(), Some(StopNotice { at: at(50), by: Some(at(90)), why: StopReason::Reload }));
    }

    #[test]
    fn of_three_the_second_holds_when_the_first_is_taken_back_and_then_the_third() {
        let mut stops = Stops::default();
        let signals = |seconds, why| StopNotice { at: at(seconds), by: Some(at(seconds + 1)), why };
        for stop in [
            signals(30, StopReason::Drain),
            signals(10, StopReason::RouteDrain),
            signals(20, StopReason::ListenerDrain),
        ] {
            stops.add(stop);
        }
        assert!(stops.cancel(|why| *why == StopReason::RouteDrain, at(1)));
        assert_eq!(stops.in_force(), Some(signals(20, StopReason::ListenerDrain)));
        assert!(stops.cancel(|why| *why == StopReason::ListenerDrain, at(1)));
        assert_eq!(stops.in_force(), Some(signals(30, StopReason::Drain)));
    }

    #[test]
    fn the_end_of_a_credential_is_no_stop_and_outlives_those_that_come_and_go() {
        let mut stops = Stops::default();
        stops.set_expiry(Some(at(70)));
        assert!(stops.is_empty() && stops.in_force().is_none());
        for (seconds, why) in [(10, StopReason::Reload), (20, StopReason::RouteDrain)] {
            stops.add(StopNotice { at: at(seconds), by: None, why });
        }
        stops.set_expiry(Some(at(60)));
        assert_eq!((stops.list().len(), stops.expires()), (2, Some(at(60))));
        stops.cancel(|_| true, at(1));
        assert_eq!((stops.is_empty(), stops.expires()), (true, Some(at(60))));
        stops.set_expiry(None);
        assert!(stops.rare.is_none());
    }

    #[test]
    fn a_session_that_is_told_nothing_pays_little() {
        assert_eq!(size_of::<Stops>(), size_of::<StopNotice>() + 8);
    }
}
