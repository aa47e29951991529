//! The registry under a virtual clock: moments, order, and who is woken.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::task::Context;

use super::*;
use crate::base::clock;

fn at(seconds: u64) -> MonotonicTime {
    MonotonicTime::from_micros(seconds * 1_000_000)
}

fn told(seconds: u64) -> SessionReport {
    SessionReport { data_at: Some(at(seconds)), queued: 0 }
}

#[tokio::test]
async fn each_gets_its_own_moment_evenly_over_the_span() {
    let drain = SessionRegistry::new(2);
    let paced: Vec<_> = (0..100).map(|_| drain.enter(1)).collect();
    paced.iter().for_each(|guard| guard.join(7, clock::now()));
    let prompt = drain.enter(1);
    let now = clock::now();
    let span = Duration::from_secs(100) + QUIET_WAIT;
    assert_eq!(drain.begin(now, span, fastrand::f64), 100);
    assert_eq!(prompt.notice_of_end().await, now);
    let mut offsets: Vec<_> = paced.iter().map(|guard| guard.noticed().map(|at| at.since(now).as_secs_f64())).collect();
    offsets.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    for (i, offset) in offsets.into_iter().enumerate() {
        let offset = offset.unwrap_or(-1.0);
        assert!((i as f64 - 0.001..=i as f64 + 1.001).contains(&offset), "{offset} is not in slot {i}");
    }
}

#[tokio::test]
async fn the_last_guard_ends_the_wait_and_late_comers_are_told() {
    let drain = SessionRegistry::<()>::new(1);
    let first = drain.enter(1);
    drain.begin(clock::now(), Duration::ZERO, || 0.0);
    let late = drain.enter(1);
    late.notice_of_end().await;
    let waiting = tokio::spawn({
        let drain = Arc::clone(&drain);
        async move { drain.wait_idle().await }
    });
    drop(first);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(late);
    assert!(waiting.await.is_ok());
    assert_eq!(drain.active(), 0);
}

#[tokio::test]
async fn members_are_told_apart_and_the_quietest_is_known() {
    let drain = SessionRegistry::new(2);
    let cx = Context::from_waker(Waker::noop());
    let mut ours: Vec<_> = (0..4).map(|_| drain.enter(1)).collect();
    let other = drain.enter(1);
    for (guard, member) in ours.iter().map(|guard| (guard, 1)).chain([(&other, 2)]) {
        guard.join(member, at(1));
    }
    assert!(ours.iter().all(|guard| guard.look(&cx, told(1)).is_none()));
    let mut left = [0; 2];
    drain.for_each_left(|member| left[*member - 1] += 1);
    assert_eq!(left, [4, 1]);
    let before = other.said();
    drain.ask(|_, member| *member == 3);
    assert_eq!(other.said(), before, "nobody was there to be asked");
    drain.ask(|_, member| *member == 1);
    assert_ne!(other.said(), before);
    for (guard, data_at) in ours.iter().zip([5, 3, 9, 4]) {
        assert_eq!(guard.look(&cx, told(data_at)), None);
    }
    let order = drain.by_silence(None, |member| *member == 1);
    assert_eq!(order.iter().map(|place| place.key).collect::<Vec<_>>(), [1, 3, 0, 2].map(|i: usize| ours[i].key));
    let gone = ours.remove(1).key;
    // One of the four has gone, and another is at its place now.
    let newcomer = drain.enter(1);
    newcomer.join(1, at(2));
    assert_eq!(newcomer.key, gone);
    assert_eq!(drain.stop(order, at(10), &StopReason::Rebalance), 3);
    assert_eq!((newcomer.noticed(), other.noticed()), (None, None));
    assert_eq!(drain.stop(drain.by_silence(None, |member| *member == 2), at(10), &StopReason::EndpointDrain), 1);
    let stop = StopNotice { at: at(10), by: None, why: StopReason::EndpointDrain };
    assert_eq!(other.look(&cx, told(1)), Some(stop));
    assert_eq!(drain.by_silence(None, |member| *member == 2), [], "who was told is not told again");
}

#[test]
fn of_two_moments_the_earlier_holds_and_what_lies_ahead_can_be_taken_back() {
    let drain = SessionRegistry::new(1);
    let cx = Context::from_waker(Waker::noop());
    let (one, two) = (drain.enter(1), drain.enter(1));
    one.join(1, at(0));
    two.join(2, at(0));
    let spread = |seconds, why| drain.spread(|_, _| true, at(seconds), Duration::ZERO, || 0.0, &why);
    spread(50, StopReason::EndpointDrain);
    spread(60, StopReason::Rebalance);
    let stop = StopNotice { at: at(50), by: Some(at(50)), why: StopReason::EndpointDrain };
    assert_eq!(one.look(&cx, told(0)), Some(stop));
    let before = one.said();
    drain.relent(|member, why| *member == 1 && *why == StopReason::EndpointDrain, at(40));
    assert_ne!(one.said(), before, "it hears of it");
    let next = StopNotice { at: at(60), by: Some(at(60)), why: StopReason::Rebalance };
    assert_eq!((one.look(&cx, told(0)), two.noticed()), (Some(next), Some(at(50))), "what was said besides holds");
    drain.relent(|member, _| *member == 1, at(40));
    assert_eq!((one.look(&cx, told(0)), two.noticed()), (None, Some(at(50))));
    drain.relent(|_, _| true, at(50));
    assert_eq!((one.noticed(), two.noticed()), (None, Some(at(50))), "the moment of one has come");
    spread(30, StopReason::Drain);
    assert_eq!((one.noticed(), two.noticed()), (Some(at(30)), Some(at(30))));
}

#[test]
fn one_that_is_told_a_further_reason_is_not_told_the_first_one_again() {
    let drain = SessionRegistry::new(1);
    let guard = drain.enter(1);
    guard.join((), at(0));
    let hour = Duration::from_secs(3600);
    let spread = |now, lot: f64, why| drain.spread(|_, ()| true, now, hour, || lot, &why);
    spread(at(1), 0.9, StopReason::RouteDrain);
    let told = guard.noticed().unwrap();
    drain.spread(|_, ()| true, at(1), Duration::from_secs(100), || 0.5, &StopReason::ListenerDrain);
    let sooner = guard.noticed().unwrap();
    assert!(sooner < told);
    // The late comers of the route drain are looked for again and again: who has its lot draws no other.
    assert_eq!(drain.spread(|_, ()| true, at(2), hour - Duration::from_secs(1), || 0.0, &StopReason::RouteDrain), 0);
    drain.relent(|(), why| *why == StopReason::ListenerDrain, at(3));
    let left = guard.look(&Context::from_waker(Waker::noop()), SessionReport::default());
    assert_eq!(left, Some(StopNotice { at: told, by: Some(at(1) + hour), why: StopReason::RouteDrain }));
}

#[test]
fn who_hears_of_a_bound_alone_is_woken_and_again_when_it_is_taken_back() {
    let drain = SessionRegistry::new(1);
    let cx = Context::from_waker(Waker::noop());
    let guard = drain.enter(1);
    guard.join((), at(0));
    let say = |seconds, by, why| {
        let mut places = vec![];
        drain.walk(None, 9, |place, ()| places.push((place, at(seconds))));
        drain.tell(places.into_iter(), Some(at(by)), &why);
    };
    let hears = |what: &dyn Fn()| {
        guard.look(&cx, SessionReport::default());
        let before = guard.said();
        what();
        guard.said() != before
    };
    assert!(hears(&|| say(10, 100, StopReason::Reload)));
    assert!(hears(&|| say(20, 50, StopReason::RouteDrain)), "the bound is nearer");
    assert!(!hears(&|| say(30, 60, StopReason::UpstreamDrain)), "nothing of that holds");
    let relent = |why: StopReason| drain.relent(|(), told| *told == why, at(1));
    assert!(!hears(&|| relent(StopReason::UpstreamDrain)));
    assert!(hears(&|| relent(StopReason::RouteDrain)));
    assert_eq!(guard.look(&cx, SessionReport::default()).map(|stop| stop.by), Some(Some(at(100))));
    assert!(!hears(&|| relent(StopReason::RouteDrain)), "it is no more");
}

#[test]
fn the_lock_goes_in_between_and_nobody_is_missed_or_seen_twice() {
    let drain = SessionRegistry::new(1);
    let mut guards: Vec<_> = (0..3 * AT_ONCE).map(|_| drain.enter(1)).collect();
    guards.iter().enumerate().for_each(|(i, guard)| guard.join(i, at(0)));
    let (mut seen, mut next, mut slices) = (vec![], Some(0), 0);
    while let Some(from) = next {
        let mut count = 0;
        next = lock(drain.working.iter().next().unwrap()).slice(from, |_, notice| {
            count += 1;
            seen.extend(notice.member);
        });
        assert!(count <= AT_ONCE, "{count} under one lock");
        slices += 1;
        // Meanwhile one that was seen goes, and one that was not, and others come at their places.
        let gone = [1, 2 * AT_ONCE + slices].map(|i| guards[i].key);
        guards.retain(|guard| !gone.contains(&guard.key));
        guards.extend((0..2).map(|_| drain.enter(1)));
    }
    assert!(slices >= 3, "{slices}");
    let there: Vec<_> = guards.iter().filter_map(|guard| guard.notice(|notice| notice.member).flatten()).collect();
    assert!(there.iter().all(|member| seen.contains(member)), "who was there all along was seen");
    let before = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), before, "once");
}

/// Wakes by entering: whoever holds the lock of the slab would wait for itself.
struct Enters(Arc<SessionRegistry<usize>>, AtomicUsize);

impl std::task::Wake for Enters {
    fn wake(self: Arc<Enters>) {
        drop(self.0.enter(1));
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn whoever_is_woken_may_take_the_lock_at_once() {
    let drain = SessionRegistry::new(1);
    let enters = Arc::new(Enters(Arc::clone(&drain), AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&enters));
    let guards: Vec<_> = (0..2 * AT_ONCE + 7).map(|_| drain.enter(1)).collect();
    let look =
        || guards.iter().for_each(|guard| drop(guard.look(&Context::from_waker(&waker), SessionReport::default())));
    let woken = || enters.1.swap(0, Ordering::Relaxed);
    look();
    drain.last_requests(|listener| listener == 1);
    assert_eq!(woken(), guards.len());
    look();
    drain.stop_requests(1, at(1), &StopReason::ListenerDrain);
    assert_eq!(woken(), guards.len());
    guards.iter().for_each(|guard| guard.join(1, at(1)));
    look();
    drain.ask(|_, _| true);
    assert_eq!(woken(), guards.len());
}

#[test]
fn the_end_of_the_process_holds_when_an_earlier_moment_is_taken_back() {
    let drain = SessionRegistry::new(1);
    let guard = drain.enter(1);
    guard.join((), at(0));
    let soon = Duration::from_secs(20);
    drain.spread(|_, ()| true, at(10), Duration::ZERO, || 0.0, &StopReason::RouteDrain);
    drain.begin(at(1), soon, || 0.9);
    assert_eq!(guard.noticed(), Some(at(10)));
    drain.relent(|(), why| *why == StopReason::RouteDrain, at(2));
    let left = guard.noticed().unwrap();
    assert!(at(10) < left && left < at(1) + soon, "{left:?}");
}

#[test]
fn who_is_told_again_goes_earlier_and_never_draws_another_lot() {
    let drain = SessionRegistry::new(1);
    let guard = drain.enter(1);
    guard.join((), at(0));
    let long = Duration::from_secs(100);
    let spread = |now, span, lot: f64| drain.spread(|_, _| true, now, span, || lot, &StopReason::Reload);
    assert_eq!(spread(at(1), long, 0.9), 1);
    let told = guard.noticed();
    // Late comers of the same are looked for: what is left of the same span.
    assert_eq!(spread(at(2), long - Duration::from_secs(1), 0.0), 0);
    assert_eq!(guard.noticed(), told);
    assert_eq!(spread(at(3), Duration::ZERO, 0.0), 1);
    assert_eq!(guard.noticed(), Some(at(3)));
}

#[test]
fn all_sessions_are_seen_in_many_short_walks_that_change_does_not_disturb() {
    let drain = SessionRegistry::new(2);
    let mut guards: Vec<_> = (0..10).map(|_| drain.enter(1)).collect();
    guards.iter().enumerate().filter(|(i, _)| *i != 4).for_each(|(i, guard)| guard.join(i, at(0)));
    assert_eq!(drain.sessions(), 9, "one is no session yet");
    let (mut seen, mut after, mut walks) = (vec![], None, 0);
    loop {
        walks += 1;
        assert!(walks < 99, "{after:?}");
        after = drain.walk(after, 2, |place, member| seen.push((place, *member)));
        if walks == 2 {
            // One that was seen, and the one that the next walk would begin after.
            guards.retain(|guard| ![0, 3].contains(&guard.key));
            assert_eq!(drain.sessions(), 7);
        }
        if after.is_none() {
            break;
        }
    }
    assert!(walks >= 5, "{walks}");
    assert_eq!(seen.iter().map(|(_, member)| *member).collect::<Vec<_>>(), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
    let listed = |at: usize| drain.listed(seen[at].0).map(|listed| listed.member);
    assert_eq!((listed(0), listed(1)), (None, Some(1)));
    // Another at the place of one that has gone.
    let newcomer = drain.enter(1);
    newcomer.join(77, at(1));
    assert!([0, 3].contains(&newcomer.key) && listed(0).is_none() && listed(3).is_none());
}

#[test]
fn those_at_a_place_tell_of_themselves_and_close_alone() {
    let drain = SessionRegistry::new(1);
    let cx = Context::from_waker(Waker::noop());
    let guards = [drain.enter(1), drain.enter(1)];
    guards.iter().enumerate().for_each(|(i, guard)| guard.join(i, at(0)));
    guards.iter().for_each(|guard| drop(guard.look(&cx, told(1))));
    let mut places = vec![];
    drain.walk(None, 9, |place, _| places.push(place));
    assert!(drain.has_told(places[0]));
    drain.ask_at([places[0]]);
    assert_eq!((drain.has_told(places[0]), drain.has_told(places[1])), (false, true));
    guards[0].look(&cx, told(7));
    assert!(drain.has_told(places[0]));
    assert_eq!(drain.listed(places[0]).unwrap().told, told(7));
    let spread = || drain.spread_over([places[1]], at(9), Duration::ZERO, || 0.0, &StopReason::Rebalance);
    assert_eq!((spread(), spread()), (1, 0), "who was told is not told again");
    assert_eq!(guards.each_ref().map(Guard::noticed), [None, Some(at(9))]);
    drop(guards);
    assert!(drain.has_told(places[0]), "nobody waits for who has gone");
    assert_eq!(spread(), 0);
}

#[test]
fn a_listener_is_rid_of_its_requests_and_keeps_its_sessions() {
    let drain = SessionRegistry::new(1);
    let guards = [1, 1, 2].map(|listener| drain.enter(listener));
    guards[0].join((), at(0));
    drain.stop_requests(1, at(5), &StopReason::Drain);
    assert_eq!(guards.each_ref().map(Guard::noticed), [None, Some(at(5)), None]);
}

#[test]
fn a_survey_sees_every_session_once_and_what_it_was_told() {
    let drain = SessionRegistry::new(1);
    let mut guards: Vec<_> = (0..2 * AT_ONCE + 10).map(|_| drain.enter(1)).collect();
    let survey = || {
        let (mut seen, mut told) = (vec![], 0);
        drain.survey(|member: &usize, stop| {
            seen.push(*member);
            told += usize::from(stop.is_some());
        });
        (seen, told)
    };
    assert_eq!((survey(), drain.is_anybody_told()), ((vec![], 0), false), "none is a session yet");
    guards.iter().enumerate().for_each(|(i, guard)| guard.join(i, at(0)));
    guards.swap_remove(5);
    let (seen, told) = survey();
    assert_eq!((seen, told), ((0..2 * AT_ONCE + 10).filter(|i| *i != 5).collect(), 0));
    let spread = |seconds, why| drain.spread(|_, i| i % 2 == 0, at(seconds), Duration::ZERO, || 0.0, &why);
    let even = spread(50, StopReason::RouteDrain);
    spread(40, StopReason::Reload);
    assert_eq!((survey().1, drain.is_anybody_told()), (even, true));
    drain.relent(|_, why| *why == StopReason::RouteDrain, at(0));
    assert_eq!(survey().1, even, "the earlier moment holds");
    guards.retain(|guard| guard.noticed().is_none());
    assert_eq!((survey().1, drain.is_anybody_told()), (0, false));
    spread(50, StopReason::Reload);
    drain.begin(at(1), Duration::ZERO, || 0.0);
    let late = drain.enter(1);
    assert!(drain.is_anybody_told());
    drop(guards);
    assert!(drain.is_anybody_told());
    drop(late);
    assert!(!drain.is_anybody_told());
}

#[test]
fn a_last_request_may_open_a_session_which_is_told_nothing() {
    let drain = SessionRegistry::new(1);
    let cx = Context::from_waker(Waker::noop());
    let (session, request) = (drain.enter(1), drain.enter(2));
    session.join(1, at(0));
    assert!(request.poll_last_request(&cx).is_pending());
    drain.last_requests(|_| true);
    assert!(request.poll_last_request(&cx).is_ready() && session.poll_last_request(&cx).is_pending());
    request.join(2, at(1));
    assert_eq!((request.noticed(), session.noticed()), (None, None));
    assert_eq!(drain.spread(|_, _| true, at(2), Duration::ZERO, || 0.0, &StopReason::Upgrade), 2);
    assert!(drain.enter(1).poll_last_request(&cx).is_pending(), "only those that were there");
}

#[test]
fn a_place_is_written_in_one_way() {
    let place = SessionId { slab: 1, key: 31, generation: 0xabc };
    assert_eq!(place.to_string(), "1-1f-abc");
    assert_eq!("1-1f-abc".parse::<SessionId>().unwrap(), place);
    for text in ["", "1-1f", "1-1f-abc-0", "01-1f-abc", "+1-1f-abc", "1-1F-abc", "1-1f-100000000", "x-y-z"] {
        assert!(text.parse::<SessionId>().is_err(), "{text}");
    }
}
