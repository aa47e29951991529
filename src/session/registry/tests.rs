//! The registry under a virtual clock: moments, order, and who is woken.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::task::Context;

use super::*;
use crate::base::clock;

fn at(seconds: u64) -> MonotonicTime {
    MonotonicTime::from_micros(seconds * 1_000_000)
}

fn report(seconds: u64) -> SessionReport {
    SessionReport { data_at: Some(at(seconds)), queued: 0 }
}

#[tokio::test]
async fn each_session_stops_at_its_own_time_evenly_over_the_span() {
    let registry = SessionRegistry::new(2);
    let paced: Vec<_> = (0..100).map(|_| registry.enter(1)).collect();
    paced.iter().for_each(|guard| guard.join(7, clock::now()));
    let prompt = registry.enter(1);
    let now = clock::now();
    let span = Duration::from_secs(100) + QUIET_WAIT;
    assert_eq!(registry.stop_all(now, span, fastrand::f64), 100);
    assert_eq!(prompt.wait_for_stop().await, now);
    let mut offsets: Vec<_> = paced.iter().map(|guard| guard.stop_at().map(|at| at.since(now).as_secs_f64())).collect();
    offsets.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    for (i, offset) in offsets.into_iter().enumerate() {
        let offset = offset.unwrap_or(-1.0);
        assert!((i as f64 - 0.001..=i as f64 + 1.001).contains(&offset), "{offset} is not in slot {i}");
    }
}

#[tokio::test]
async fn the_last_guard_ends_the_wait_and_late_entries_stop_at_once() {
    let registry = SessionRegistry::<()>::new(1);
    let first = registry.enter(1);
    registry.stop_all(clock::now(), Duration::ZERO, || 0.0);
    let late = registry.enter(1);
    late.wait_for_stop().await;
    let waiting = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.wait_idle().await }
    });
    drop(first);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(late);
    assert!(waiting.await.is_ok());
    assert_eq!(registry.active(), 0);
}

#[tokio::test]
async fn members_are_selected_and_the_quietest_comes_first() {
    let registry = SessionRegistry::new(2);
    let cx = Context::from_waker(Waker::noop());
    let mut ours: Vec<_> = (0..4).map(|_| registry.enter(1)).collect();
    let other = registry.enter(1);
    for (guard, member) in ours.iter().map(|guard| (guard, 1)).chain([(&other, 2)]) {
        guard.join(member, at(1));
    }
    assert!(ours.iter().all(|guard| guard.poll_stop(&cx, report(1)).is_none()));
    let mut left = [0; 2];
    registry.for_each_left(|member| left[*member - 1] += 1);
    assert_eq!(left, [4, 1]);
    let before = other.signals();
    registry.request_reports(|_, member| *member == 3);
    assert_eq!(other.signals(), before, "there was no session to stop");
    registry.request_reports(|_, member| *member == 1);
    assert_ne!(other.signals(), before);
    for (guard, data_at) in ours.iter().zip([5, 3, 9, 4]) {
        assert_eq!(guard.poll_stop(&cx, report(data_at)), None);
    }
    let order = registry.quietest_first(None, |member| *member == 1);
    assert_eq!(order.iter().map(|id| id.key).collect::<Vec<_>>(), [1, 3, 0, 2].map(|i: usize| ours[i].key));
    let gone = ours.remove(1).key;
    // One of the four has gone, and another is at its place now.
    let newcomer = registry.enter(1);
    newcomer.join(1, at(2));
    assert_eq!(newcomer.key, gone);
    assert_eq!(registry.stop(order, at(10), &StopReason::Rebalance), 3);
    assert_eq!((newcomer.stop_at(), other.stop_at()), (None, None));
    assert_eq!(
        registry.stop(registry.quietest_first(None, |member| *member == 2), at(10), &StopReason::EndpointDrain),
        1
    );
    let stop = StopNotice { at: at(10), by: None, why: StopReason::EndpointDrain };
    assert_eq!(other.poll_stop(&cx, report(1)), Some(stop));
    assert_eq!(registry.quietest_first(None, |member| *member == 2), [], "a session is not stopped twice");
}

#[test]
fn of_two_stops_the_earlier_holds_and_a_future_one_can_be_cancelled() {
    let registry = SessionRegistry::new(1);
    let cx = Context::from_waker(Waker::noop());
    let (one, two) = (registry.enter(1), registry.enter(1));
    one.join(1, at(0));
    two.join(2, at(0));
    let spread = |seconds, why| registry.spread(|_, _| true, at(seconds), Duration::ZERO, || 0.0, &why);
    spread(50, StopReason::EndpointDrain);
    spread(60, StopReason::Rebalance);
    let stop = StopNotice { at: at(50), by: Some(at(50)), why: StopReason::EndpointDrain };
    assert_eq!(one.poll_stop(&cx, report(0)), Some(stop));
    let before = one.signals();
    registry.cancel_stop(|member, why| *member == 1 && *why == StopReason::EndpointDrain, at(40));
    assert_ne!(one.signals(), before, "it hears of it");
    let next = StopNotice { at: at(60), by: Some(at(60)), why: StopReason::Rebalance };
    assert_eq!(
        (one.poll_stop(&cx, report(0)), two.stop_at()),
        (Some(next), Some(at(50))),
        "what was said besides holds"
    );
    registry.cancel_stop(|member, _| *member == 1, at(40));
    assert_eq!((one.poll_stop(&cx, report(0)), two.stop_at()), (None, Some(at(50))));
    registry.cancel_stop(|_, _| true, at(50));
    assert_eq!((one.stop_at(), two.stop_at()), (None, Some(at(50))), "the moment of one has come");
    spread(30, StopReason::Drain);
    assert_eq!((one.stop_at(), two.stop_at()), (Some(at(30)), Some(at(30))));
}

#[test]
fn a_second_reason_does_not_repeat_the_first_stop() {
    let registry = SessionRegistry::new(1);
    let guard = registry.enter(1);
    guard.join((), at(0));
    let hour = Duration::from_secs(3600);
    let spread = |now, lot: f64, why| registry.spread(|_, ()| true, now, hour, || lot, &why);
    spread(at(1), 0.9, StopReason::RouteDrain);
    let stop = guard.stop_at().unwrap();
    registry.spread(|_, ()| true, at(1), Duration::from_secs(100), || 0.5, &StopReason::ListenerDrain);
    let sooner = guard.stop_at().unwrap();
    assert!(sooner < stop);
    // The late comers of the route drain are looked for again and again: who has its lot draws no other.
    assert_eq!(registry.spread(|_, ()| true, at(2), hour - Duration::from_secs(1), || 0.0, &StopReason::RouteDrain), 0);
    registry.cancel_stop(|(), why| *why == StopReason::ListenerDrain, at(3));
    let left = guard.poll_stop(&Context::from_waker(Waker::noop()), SessionReport::default());
    assert_eq!(left, Some(StopNotice { at: stop, by: Some(at(1) + hour), why: StopReason::RouteDrain }));
}

#[test]
fn a_new_bound_alone_wakes_and_so_does_its_cancellation() {
    let registry = SessionRegistry::new(1);
    let cx = Context::from_waker(Waker::noop());
    let guard = registry.enter(1);
    guard.join((), at(0));
    let say = |seconds, by, why| {
        let mut ids = vec![];
        registry.walk(None, 9, |id, ()| ids.push((id, at(seconds))));
        registry.post(ids.into_iter(), Some(at(by)), &why);
    };
    let hears = |what: &dyn Fn()| {
        guard.poll_stop(&cx, SessionReport::default());
        let before = guard.signals();
        what();
        guard.signals() != before
    };
    assert!(hears(&|| say(10, 100, StopReason::Reload)));
    assert!(hears(&|| say(20, 50, StopReason::RouteDrain)), "the bound is nearer");
    assert!(!hears(&|| say(30, 60, StopReason::UpstreamDrain)), "nothing of that holds");
    let cancel_stop = |why: StopReason| registry.cancel_stop(|(), stop| *stop == why, at(1));
    assert!(!hears(&|| cancel_stop(StopReason::UpstreamDrain)));
    assert!(hears(&|| cancel_stop(StopReason::RouteDrain)));
    assert_eq!(guard.poll_stop(&cx, SessionReport::default()).map(|stop| stop.by), Some(Some(at(100))));
    assert!(!hears(&|| cancel_stop(StopReason::RouteDrain)), "it is no more");
}

#[test]
fn the_lock_is_released_between_slices_and_each_entry_is_seen_once() {
    let registry = SessionRegistry::new(1);
    let mut guards: Vec<_> = (0..3 * SLICE_ENTRIES).map(|_| registry.enter(1)).collect();
    guards.iter().enumerate().for_each(|(i, guard)| guard.join(i, at(0)));
    let (mut seen, mut next, mut slices) = (vec![], Some(0), 0);
    while let Some(from) = next {
        let mut count = 0;
        next = lock(registry.workers.iter().next().unwrap()).slice(from, |_, entry| {
            count += 1;
            seen.extend(entry.member);
        });
        assert!(count <= SLICE_ENTRIES, "{count} under one lock");
        slices += 1;
        // Meanwhile one that was seen goes, and one that was not, and others come at their places.
        let gone = [1, 2 * SLICE_ENTRIES + slices].map(|i| guards[i].key);
        guards.retain(|guard| !gone.contains(&guard.key));
        guards.extend((0..2).map(|_| registry.enter(1)));
    }
    assert!(slices >= 3, "{slices}");
    let there: Vec<_> = guards.iter().filter_map(|guard| guard.entry(|entry| entry.member).flatten()).collect();
    assert!(there.iter().all(|member| seen.contains(member)), "a session present all along was seen");
    let before = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), before, "once");
}

/// Wakes by entering: a holder of the slab lock would deadlock.
struct Enters(Arc<SessionRegistry<usize>>, AtomicUsize);

impl std::task::Wake for Enters {
    fn wake(self: Arc<Enters>) {
        drop(self.0.enter(1));
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_woken_task_may_take_the_lock_at_once() {
    let registry = SessionRegistry::new(1);
    let enters = Arc::new(Enters(Arc::clone(&registry), AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&enters));
    let guards: Vec<_> = (0..2 * SLICE_ENTRIES + 7).map(|_| registry.enter(1)).collect();
    let look = || {
        guards.iter().for_each(|guard| drop(guard.poll_stop(&Context::from_waker(&waker), SessionReport::default())))
    };
    let woken = || enters.1.swap(0, Ordering::Relaxed);
    look();
    registry.last_requests(|listener| listener == 1);
    assert_eq!(woken(), guards.len());
    look();
    registry.stop_requests(1, at(1), &StopReason::ListenerDrain);
    assert_eq!(woken(), guards.len());
    guards.iter().for_each(|guard| guard.join(1, at(1)));
    look();
    registry.request_reports(|_, _| true);
    assert_eq!(woken(), guards.len());
}

#[test]
fn the_drain_holds_when_an_earlier_stop_is_cancelled() {
    let registry = SessionRegistry::new(1);
    let guard = registry.enter(1);
    guard.join((), at(0));
    let soon = Duration::from_secs(20);
    registry.spread(|_, ()| true, at(10), Duration::ZERO, || 0.0, &StopReason::RouteDrain);
    registry.stop_all(at(1), soon, || 0.9);
    assert_eq!(guard.stop_at(), Some(at(10)));
    registry.cancel_stop(|(), why| *why == StopReason::RouteDrain, at(2));
    let left = guard.stop_at().unwrap();
    assert!(at(10) < left && left < at(1) + soon, "{left:?}");
}

#[test]
fn a_second_stop_is_earlier_and_never_draws_another_slot() {
    let registry = SessionRegistry::new(1);
    let guard = registry.enter(1);
    guard.join((), at(0));
    let long = Duration::from_secs(100);
    let spread = |now, span, lot: f64| registry.spread(|_, _| true, now, span, || lot, &StopReason::Reload);
    assert_eq!(spread(at(1), long, 0.9), 1);
    let stop = guard.stop_at();
    // Late comers of the same are looked for: what is left of the same span.
    assert_eq!(spread(at(2), long - Duration::from_secs(1), 0.0), 0);
    assert_eq!(guard.stop_at(), stop);
    assert_eq!(spread(at(3), Duration::ZERO, 0.0), 1);
    assert_eq!(guard.stop_at(), Some(at(3)));
}

#[test]
fn all_sessions_are_seen_in_many_short_walks_that_change_does_not_disturb() {
    let registry = SessionRegistry::new(2);
    let mut guards: Vec<_> = (0..10).map(|_| registry.enter(1)).collect();
    guards.iter().enumerate().filter(|(i, _)| *i != 4).for_each(|(i, guard)| guard.join(i, at(0)));
    assert_eq!(registry.sessions(), 9, "one is no session yet");
    let (mut seen, mut after, mut walks) = (vec![], None, 0);
    loop {
        walks += 1;
        assert!(walks < 99, "{after:?}");
        after = registry.walk(after, 2, |id, member| seen.push((id, *member)));
        if walks == 2 {
            // One that was seen, and the one that the next walk would begin after.
            guards.retain(|guard| ![0, 3].contains(&guard.key));
            assert_eq!(registry.sessions(), 7);
        }
        if after.is_none() {
            break;
        }
    }
    assert!(walks >= 5, "{walks}");
    assert_eq!(seen.iter().map(|(_, member)| *member).collect::<Vec<_>>(), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
    let listed = |at: usize| registry.listed(seen[at].0).map(|listed| listed.member);
    assert_eq!((listed(0), listed(1)), (None, Some(1)));
    // Another at the place of one that has gone.
    let newcomer = registry.enter(1);
    newcomer.join(77, at(1));
    assert!([0, 3].contains(&newcomer.key) && listed(0).is_none() && listed(3).is_none());
}

#[test]
fn selected_sessions_report_and_stop_alone() {
    let registry = SessionRegistry::new(1);
    let cx = Context::from_waker(Waker::noop());
    let guards = [registry.enter(1), registry.enter(1)];
    guards.iter().enumerate().for_each(|(i, guard)| guard.join(i, at(0)));
    guards.iter().for_each(|guard| drop(guard.poll_stop(&cx, report(1))));
    let mut ids = vec![];
    registry.walk(None, 9, |id, _| ids.push(id));
    assert!(registry.has_reported(ids[0]));
    registry.request_reports_at([ids[0]]);
    assert_eq!((registry.has_reported(ids[0]), registry.has_reported(ids[1])), (false, true));
    guards[0].poll_stop(&cx, report(7));
    assert!(registry.has_reported(ids[0]));
    assert_eq!(registry.listed(ids[0]).unwrap().report, report(7));
    let spread = || registry.spread_over([ids[1]], at(9), Duration::ZERO, || 0.0, &StopReason::Rebalance);
    assert_eq!((spread(), spread()), (1, 0), "a session is not stopped twice");
    assert_eq!(guards.each_ref().map(Guard::stop_at), [None, Some(at(9))]);
    drop(guards);
    assert!(registry.has_reported(ids[0]), "an ended session is not waited for");
    assert_eq!(spread(), 0);
}

#[test]
fn stopping_the_requests_of_a_listener_keeps_its_sessions() {
    let registry = SessionRegistry::new(1);
    let guards = [1, 1, 2].map(|listener| registry.enter(listener));
    guards[0].join((), at(0));
    registry.stop_requests(1, at(5), &StopReason::Drain);
    assert_eq!(guards.each_ref().map(Guard::stop_at), [None, Some(at(5)), None]);
}

#[test]
fn a_survey_sees_every_session_once_and_whether_it_should_stop() {
    let registry = SessionRegistry::new(1);
    let mut guards: Vec<_> = (0..2 * SLICE_ENTRIES + 10).map(|_| registry.enter(1)).collect();
    let survey = || {
        let (mut seen, mut stopping) = (vec![], 0);
        registry.for_each_session(|member: &usize, stop| {
            seen.push(*member);
            stopping += usize::from(stop.is_some());
        });
        (seen, stopping)
    };
    assert_eq!((survey(), registry.is_any_stopping()), ((vec![], 0), false), "none is a session yet");
    guards.iter().enumerate().for_each(|(i, guard)| guard.join(i, at(0)));
    guards.swap_remove(5);
    let (seen, stopping) = survey();
    assert_eq!((seen, stopping), ((0..2 * SLICE_ENTRIES + 10).filter(|i| *i != 5).collect(), 0));
    let spread = |seconds, why| registry.spread(|_, i| i % 2 == 0, at(seconds), Duration::ZERO, || 0.0, &why);
    let even = spread(50, StopReason::RouteDrain);
    spread(40, StopReason::Reload);
    assert_eq!((survey().1, registry.is_any_stopping()), (even, true));
    registry.cancel_stop(|_, why| *why == StopReason::RouteDrain, at(0));
    assert_eq!(survey().1, even, "the earlier moment holds");
    guards.retain(|guard| guard.stop_at().is_none());
    assert_eq!((survey().1, registry.is_any_stopping()), (0, false));
    spread(50, StopReason::Reload);
    registry.stop_all(at(1), Duration::ZERO, || 0.0);
    let late = registry.enter(1);
    assert!(registry.is_any_stopping());
    drop(guards);
    assert!(registry.is_any_stopping());
    drop(late);
    assert!(!registry.is_any_stopping());
}

#[test]
fn a_last_request_may_open_a_session_which_goes_on() {
    let registry = SessionRegistry::new(1);
    let cx = Context::from_waker(Waker::noop());
    let (session, request) = (registry.enter(1), registry.enter(2));
    session.join(1, at(0));
    assert!(request.poll_last_request(&cx).is_pending());
    registry.last_requests(|_| true);
    assert!(request.poll_last_request(&cx).is_ready() && session.poll_last_request(&cx).is_pending());
    request.join(2, at(1));
    assert_eq!((request.stop_at(), session.stop_at()), (None, None));
    assert_eq!(registry.spread(|_, _| true, at(2), Duration::ZERO, || 0.0, &StopReason::Upgrade), 2);
    assert!(registry.enter(1).poll_last_request(&cx).is_pending(), "only those that were there");
}

#[test]
fn an_id_has_one_text_form() {
    let id = SessionId { slab: 1, key: 31, generation: 0xabc };
    assert_eq!(id.to_string(), "1-1f-abc");
    assert_eq!("1-1f-abc".parse::<SessionId>().unwrap(), id);
    for text in ["", "1-1f", "1-1f-abc-0", "01-1f-abc", "+1-1f-abc", "1-1F-abc", "1-1f-100000000", "x-y-z"] {
        assert!(text.parse::<SessionId>().is_err(), "{text}");
    }
}
