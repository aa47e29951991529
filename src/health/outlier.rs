//! Ejection: an endpoint that fails live sessions gets none for a while, longer each time.
//!
//! Two kinds of failure count. A failed connection or handshake: the endpoint gave no answer, whatever the client sent.
//! And, with more caution, a session that breaks off right after its 101, as with a server that accepts connections and
//! crashes on them: a client may have caused it, so several are needed, and half of all that were opened.
//!
//! An ejection ends with an answer, not with time. When its time is over, one session is let through as a trial, and
//! the next only `TRIAL` later, so that not all clients discover together that the endpoint still hangs: it has the
//! fewest sessions of all and would get every new one.
//!
//! A pick only loads one number. Failures, and the first good answer after them, take a lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::labels::variant_labels;
use crate::base::time::MonotonicTime;

/// The time between two trial sessions of an endpoint that has not answered again; also how long a failed one is
/// skipped if no more may be ejected. Longer than a good handshake takes, and short compared with any ejection.
pub const TRIAL: Duration = Duration::from_secs(1);
/// How many sessions must break off early within `WINDOW` until the endpoint is blamed. Fewer may be chance.
pub const EARLY_ENDS: u32 = 5;
/// The span over which opened sessions and early ends are counted.
pub const WINDOW: Duration = Duration::from_secs(10);

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionRule {
    /// Failed connections and handshakes in a row that eject it.
    pub failures: u32,
    /// Length of the first ejection; the second in a row is twice as long, and so on.
    pub span: Duration,
    /// The longest ejection.
    pub span_max: Duration,
    /// How soon after its 101 a session must break off to count; `None` if none counts.
    pub early_end: Option<Duration>,
    /// The most endpoints ejected at a time, in percent; one always may be.
    pub percent_max: u32,
}

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectionReason {
    /// Connections or handshakes failed.
    Failures,
    /// Sessions broke off right after their 101.
    EarlyEnds,
}

variant_labels! {
    EjectionReason {
        Failures => "failures",
        EarlyEnds => "early_ends",
    }
}

/// An ejection that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// The reason.
    pub why: EjectionReason,
    /// How long no session tries it, unless there is no other endpoint.
    pub span: Duration,
}

impl EjectionRule {
    /// Returns true if one more of `of` endpoints may be ejected when `out` are.
    pub fn has_room(&self, out: usize, of: usize) -> bool {
        out < (of * self.percent_max as usize / 100).max(1)
    }
}

/// The ejection state of an endpoint.
#[derive(Debug, Default)]
pub struct Outlier {
    /// When its time is over, in microseconds; after it one session may try. 0: not ejected.
    until: AtomicU64,
    /// Whether a good answer would clear something. Workers that only read it keep its cache line.
    blemished: AtomicBool,
    ejected: AtomicBool,
    record: Mutex<FailureRecord>,
}

#[derive(Debug, Default)]
struct FailureRecord {
    /// Failures in a row.
    failures: u32,
    /// Ejections, less those forgiven since.
    times: u32,
    /// The last one, and when its time was over.
    last: Option<(Ejection, MonotonicTime)>,
    /// When the count of `opened` and `early` began.
    window: Option<MonotonicTime>,
    opened: u32,
    early: u32,
}

impl Outlier {
    /// Returns true if sessions should avoid it, if they can.
    pub fn is_out(&self, now: MonotonicTime) -> bool {
        // 0 is never in the future.
        now.as_micros() < self.until.load(Ordering::Relaxed)
    }

    /// Returns true if it has not answered since it was ejected, even if its time is over.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Returns until when it is ejected; `None` if it is not, or has not answered since its time was over.
    pub fn ejected_until(&self, now: MonotonicTime) -> Option<MonotonicTime> {
        (self.is_ejected() && self.is_out(now)).then(|| MonotonicTime::from_micros(self.until.load(Ordering::Relaxed)))
    }

    /// Goes on with an ejection that another process began and that lasts `until`.
    pub fn go_on_ejected(&self, now: MonotonicTime, until: MonotonicTime) {
        let mut record = self.record();
        let ejection = Ejection { why: EjectionReason::Failures, span: until.since(now) };
        (record.last, record.times) = (Some((ejection, until)), 1);
        self.blemished.store(true, Ordering::Relaxed);
        self.ejected.store(true, Ordering::Relaxed);
        self.until.store(until.as_micros(), Ordering::Relaxed);
    }

    /// Returns true if a session that chose it while not out may go there: always if it is not ejected, else one
    /// session per `TRIAL`.
    pub fn admits(&self, now: MonotonicTime) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        let next = (now + TRIAL).as_micros();
        until == 0
            || now.as_micros() >= until
                && self.until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Records a failed connection or handshake. `has_room` says whether one more endpoint may be ejected; if not, the
    /// endpoint is only skipped for `TRIAL`. Failures during an ejection do not count: those requests were running
    /// already, or had no choice.
    pub fn failed(&self, rule: EjectionRule, now: MonotonicTime, has_room: impl FnOnce() -> bool) -> Option<Ejection> {
        let mut record = self.record();
        if record.is_serving(now) {
            return None;
        }
        self.blemished.store(true, Ordering::Relaxed);
        record.failures = record.failures.saturating_add(1);
        // A trial session decides alone.
        if record.failures < rule.failures && self.until.load(Ordering::Relaxed) == 0 {
            return None;
        }
        if !has_room() {
            self.until.store((now + TRIAL).as_micros(), Ordering::Relaxed);
            return None;
        }
        Some(self.eject(&mut record, rule, EjectionReason::Failures, now))
    }

    /// Records an answer. Returns true if that ends its ejection.
    pub fn answered(&self, now: MonotonicTime) -> bool {
        if !self.blemished.load(Ordering::Relaxed) {
            return false;
        }
        let mut record = self.record();
        record.failures = 0;
        // A server whose sessions break off early still answers well: only time, and then a trial, shows whether it
        // recovered.
        if record.last.is_some_and(|(last, _)| last.why == EjectionReason::EarlyEnds) && record.is_serving(now) {
            return false;
        }
        self.blemished.store(false, Ordering::Relaxed);
        self.until.store(0, Ordering::Relaxed);
        self.ejected.swap(false, Ordering::Relaxed)
    }

    /// Records that a session opened.
    pub fn opened(&self, now: MonotonicTime) {
        self.record().count(now).opened += 1;
    }

    /// Records a session that broke off so early that the endpoint may be to blame.
    pub fn ended_early(
        &self,
        rule: EjectionRule,
        now: MonotonicTime,
        has_room: impl FnOnce() -> bool,
    ) -> Option<Ejection> {
        let mut record = self.record();
        let counted = record.count(now);
        counted.early += 1;
        let fault = counted.early >= EARLY_ENDS && counted.early * 2 >= counted.opened;
        if !fault || record.is_serving(now) || !has_room() {
            return None;
        }
        (record.opened, record.early) = (0, 0);
        self.blemished.store(true, Ordering::Relaxed);
        Some(self.eject(&mut record, rule, EjectionReason::EarlyEnds, now))
    }

    fn eject(
        &self,
        record: &mut FailureRecord,
        rule: EjectionRule,
        why: EjectionReason,
        now: MonotonicTime,
    ) -> Ejection {
        let span = record.next_span(rule, now);
        let ejection = Ejection { why, span };
        record.failures = 0;
        record.last = Some((ejection, now + span));
        self.until.store((now + span).as_micros(), Ordering::Relaxed);
        self.ejected.store(true, Ordering::Relaxed);
        ejection
    }

    fn record(&self) -> MutexGuard<'_, FailureRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FailureRecord {
    /// Returns true if the time of an ejection is not over.
    fn is_serving(&self, now: MonotonicTime) -> bool {
        self.last.is_some_and(|(_, until)| now < until)
    }

    /// Returns the counts of the window that contains `now`.
    fn count(&mut self, now: MonotonicTime) -> &mut FailureRecord {
        if self.window.is_none_or(|began| now.since(began) >= WINDOW) {
            (self.window, self.opened, self.early) = (Some(now), 0, 0);
        }
        self
    }

    /// Returns the length of the next ejection: `span` times the number of ejections. Each is forgiven after a good
    /// time as long as the last ejection, so an endpoint that flaps faster stays out longer and longer, and one that
    /// recovers is soon like new.
    fn next_span(&mut self, rule: EjectionRule, now: MonotonicTime) -> Duration {
        if let Some((last, until)) = self.last {
            let forgiven = now.since(until).as_micros() / last.span.as_micros().max(1);
            self.times = self.times.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        }
        if rule.span.saturating_mul(self.times) < rule.span_max {
            self.times += 1;
        }
        rule.span.saturating_mul(self.times).min(rule.span_max)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPAN: Duration = Duration::from_secs(10);
    const RULE: EjectionRule = EjectionRule {
        failures: 1,
        span: SPAN,
        span_max: Duration::from_secs(35),
        early_end: Some(Duration::from_secs(1)),
        percent_max: 50,
    };

    fn at(secs: f64) -> MonotonicTime {
        MonotonicTime::from_micros(1_000_000) + Duration::from_secs_f64(secs)
    }

    fn fail(outlier: &Outlier, now: MonotonicTime) -> Option<u64> {
        outlier.failed(RULE, now, || true).map(|ejection| ejection.span.as_secs())
    }

    #[test]
    fn one_failure_is_enough_for_the_very_next_pick_to_stay_away() {
        let outlier = Outlier::default();
        assert!(!outlier.is_out(at(0.0)) && outlier.admits(at(0.0)));
        assert_eq!(fail(&outlier, at(0.0)), Some(10));
        assert!(outlier.is_out(at(0.0)) && outlier.is_out(at(9.9)) && !outlier.is_out(at(10.0)));
        assert!(outlier.is_ejected(), "until it answers");
    }

    #[test]
    fn a_rule_of_three_wants_three_in_a_row() {
        let (outlier, rule) = (Outlier::default(), EjectionRule { failures: 3, ..RULE });
        let fail = |secs| outlier.failed(rule, at(secs), || true).is_some();
        assert!(!fail(0.0) && !fail(1.0));
        assert!(!outlier.answered(at(2.0)), "it was not ejected");
        assert!(!fail(3.0) && !fail(4.0) && fail(5.0));
        // A trial session decides alone.
        assert!(outlier.admits(at(15.0)) && fail(15.1));
    }

    #[test]
    fn failures_of_running_requests_do_not_prolong_an_ejection() {
        let outlier = Outlier::default();
        assert_eq!(fail(&outlier, at(0.0)), Some(10));
        assert_eq!(fail(&outlier, at(5.0)), None);
        assert!(!outlier.is_out(at(10.0)));
    }

    #[test]
    fn it_grows_up_to_its_bound_and_is_forgiven_in_time() {
        let outlier = Outlier::default();
        assert_eq!(fail(&outlier, at(0.0)), Some(10));
        assert_eq!(fail(&outlier, at(11.0)), Some(20));
        assert_eq!(fail(&outlier, at(32.0)), Some(30));
        assert_eq!(fail(&outlier, at(63.0)), Some(35));
        assert_eq!(fail(&outlier, at(99.0)), Some(35));
        assert!(outlier.answered(at(140.0)));
        // 99 + 35 + 2 × 35: two of four are forgiven.
        assert_eq!(fail(&outlier, at(205.0)), Some(30));
        assert!(outlier.answered(at(236.0)));
        assert_eq!(fail(&outlier, at(1000.0)), Some(10));
    }

    #[test]
    fn after_its_time_one_tries_and_the_rest_wait_for_what_it_finds() {
        let outlier = Outlier::default();
        fail(&outlier, at(0.0));
        assert!(outlier.admits(at(10.0)));
        assert!(outlier.is_out(at(10.5)) && !outlier.admits(at(10.5)));
        assert!(!outlier.is_out(at(11.0)) && outlier.admits(at(11.0)), "the first one was not heard of again");
        assert!(outlier.answered(at(11.1)));
        assert!(!outlier.is_ejected() && outlier.admits(at(11.1)) && outlier.admits(at(11.1)));
    }

    #[test]
    fn without_room_it_is_only_passed_over_for_a_moment() {
        let outlier = Outlier::default();
        assert_eq!(outlier.failed(RULE, at(0.0), || false), None);
        assert!(outlier.is_out(at(0.9)) && !outlier.is_out(at(1.0)) && !outlier.is_ejected());
        assert_eq!(fail(&outlier, at(1.0)), Some(10), "and not remembered as an ejection");
    }

    #[test]
    fn sessions_that_break_off_early_count_when_they_are_many_and_not_chance() {
        let outlier = Outlier::default();
        let early = |secs| outlier.ended_early(RULE, at(secs), || true);
        for _ in 0..11 {
            outlier.opened(at(20.0));
        }
        assert_eq!([(); 5].map(|()| early(20.5)), [None; 5], "5 of 11");
        assert_eq!(early(20.5).unwrap().why, EjectionReason::EarlyEnds);
        // It still answers with 101; that proves nothing before its time is over.
        assert!(!outlier.answered(at(21.0)) && outlier.is_out(at(30.0)));
        assert!(outlier.admits(at(30.5)) && outlier.answered(at(30.6)));
        // Long ago and few.
        for round in 0..8 {
            outlier.opened(at(40.0 + 11.0 * f64::from(round)));
            assert_eq!(early(40.0 + 11.0 * f64::from(round)), None);
        }
    }

    #[test]
    fn a_good_answer_ends_an_ejection_for_failures_before_its_time() {
        let outlier = Outlier::default();
        fail(&outlier, at(0.0));
        assert!(outlier.answered(at(5.0)), "of a session that had no other choice");
        assert!(!outlier.is_out(at(5.0)) && !outlier.is_ejected());
    }

    #[test]
    fn what_led_to_an_ejection_is_not_counted_for_the_next() {
        let (outlier, rule) = (Outlier::default(), EjectionRule { span: Duration::from_secs(2), ..RULE });
        let early = |secs| outlier.ended_early(rule, at(secs), || true).is_some();
        assert_eq!([(); 5].map(|()| early(20.0)), [false, false, false, false, true]);
        assert!(outlier.admits(at(22.0)) && outlier.answered(at(22.1)));
        // In the same ten seconds.
        assert_eq!([(); 5].map(|()| early(23.0)), [false, false, false, false, true]);
    }

    #[test]
    fn one_of_any_number_may_be_ejected_and_then_its_share() {
        let has_room = |out, of| RULE.has_room(out, of);
        assert!(has_room(0, 1) && !has_room(1, 1));
        assert!(has_room(0, 3) && !has_room(1, 3));
        assert!(has_room(1, 4) && !has_room(2, 4));
        assert!(EjectionRule { percent_max: 100, ..RULE }.has_room(2, 3));
        assert!(!EjectionRule { percent_max: 0, ..RULE }.has_room(1, 100));
    }

    #[test]
    fn of_many_workers_one_gets_the_trial() {
        let outlier = Outlier::default();
        fail(&outlier, at(0.0));
        let admitted: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| usize::from(outlier.admits(at(10.0))))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Fail { has_room: bool },
        Answer,
        Open,
        Break,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..20_000).prop_map(Step::Wait),
            any::<bool>().prop_map(|has_room| Step::Fail { has_room }),
            Just(Step::Answer),
            Just(Step::Open),
            Just(Step::Break),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_an_ejection_is_bounded_and_ends_with_an_answer(
            steps in prop::collection::vec(step(), 1..200),
            failures in 1u32..4,
        ) {
            let (outlier, rule) = (Outlier::default(), EjectionRule { failures, ..RULE });
            let mut now = at(0.0);
            let mut over = now;
            for step in steps {
                let ejection = match step {
                    Step::Wait(millis) => {
                        now = now + Duration::from_millis(millis);
                        None
                    }
                    Step::Fail { has_room } => outlier.failed(rule, now, || has_room),
                    Step::Answer => {
                        outlier.answered(now);
                        None
                    }
                    Step::Open => {
                        outlier.opened(now);
                        None
                    }
                    Step::Break => outlier.ended_early(rule, now, || true),
                };
                if let Some(ejection) = ejection {
                    prop_assert!(now >= over, "one at a time");
                    prop_assert!(ejection.span >= rule.span && ejection.span <= rule.span_max);
                    prop_assert!(ejection.span.as_secs().is_multiple_of(10) || ejection.span == rule.span_max);
                    over = now + ejection.span;
                }
                if outlier.is_out(now) {
                    prop_assert!(!outlier.is_out(now + rule.span_max));
                }
            }
            let later = now + rule.span_max;
            prop_assert!(outlier.admits(later));
            outlier.answered(later);
            prop_assert!(!outlier.is_ejected() && outlier.admits(later));
        }
    }
}
