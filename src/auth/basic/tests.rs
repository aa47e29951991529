//! Checks at once, in line and given up; what is remembered, and what is not.

use std::net::Ipv4Addr;
use std::sync::Condvar;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::join_all;
use futures_util::poll;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::runtime::Builder;

use super::*;

const NOW: MonotonicTime = MonotonicTime::from_micros(1_000_000_000);

/// Those of "hunter2" and of "".
const HASH: &str = "$2b$04$abcdefghijklmnopqrstuuV3duMsC0HpUex6N9qapiuOHHWkwRXVm";
const OTHER_HASH: &str = "$2b$04$abcdefghijklmnopqrstuubyCG3zY1GIXMyxfivm.ClDiInHzxjiq";

fn users(hash: &str) -> Users {
    Users::read(format!("ann:{hash}\nbob:{hash}").as_bytes()).expect("a file of users")
}

fn credentials(user: &str, password: &str) -> Credentials {
    let mut headers = HeaderMap::new();
    let value = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
    headers.insert(AUTHORIZATION, value.parse().expect("visible ASCII"));
    Credentials::of(&headers).expect("credentials")
}

fn run<T>(test: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(test)
}

const CLIENT: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

const LIMITS: Limits =
    Limits { at_once: 2, under_way: 256, of_client: 200, wait: Duration::from_secs(60), remembered: 3 };

/// Counts the checks, and holds them while it is closed.
#[derive(Default)]
struct Gate {
    checks: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
    is_closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn verifier(self: &Arc<Gate>, limits: Limits) -> BasicVerifier {
        let gate = Arc::clone(self);
        let check = move |hash: &PasswordHash, password: &Password| {
            gate.checks.fetch_add(1, Ordering::SeqCst);
            let running = gate.running.fetch_add(1, Ordering::SeqCst) + 1;
            gate.most.fetch_max(running, Ordering::SeqCst);
            let closed = gate.is_closed.lock().expect("no panic");
            drop(gate.opened.wait_while(closed, |is_closed| *is_closed).expect("no panic"));
            let is_right = hash.verify(password);
            gate.running.fetch_sub(1, Ordering::SeqCst);
            is_right
        };
        BasicVerifier::with(limits, Box::new(check))
    }

    fn set_closed(&self, is_closed: bool) {
        *self.is_closed.lock().expect("no panic") = is_closed;
        self.opened.notify_all();
    }

    fn checks(&self) -> usize {
        self.checks.load(Ordering::SeqCst)
    }
}

fn under_way(verifier: &BasicVerifier) -> usize {
    verifier.0.under_way.len()
}

#[test]
fn the_right_password_of_a_user_lets_in_and_nothing_else_does() {
    let verifier = BasicVerifier::new(1);
    let users = users(HASH);
    run(async {
        for _ in 0..2 {
            assert_eq!(
                verifier.verify(&users, &credentials("ann", "hunter2"), CLIENT, NOW).await.as_deref(),
                Ok("ann")
            );
            for (user, password) in
                [("ann", "hunter3"), ("ann", ""), ("eve", "hunter2"), ("", "hunter2"), ("Ann", "hunter2")]
            {
                let denied = verifier.verify(&users, &credentials(user, password), CLIENT, NOW).await;
                assert_eq!(denied, Err(BasicDenial::Wrong), "{user}");
            }
        }
    });
    assert_eq!(format!("{verifier:?}").split(',').next(), Some("BasicVerifier(Limits { at_once: 1"));
}

#[test]
fn who_was_right_is_remembered_for_a_while_and_who_was_wrong_is_checked_each_time() {
    let gate = Arc::<Gate>::default();
    let (verifier, users) = (gate.verifier(LIMITS), users(HASH));
    let later = NOW + REMEMBERED_FOR;
    let just_before = MonotonicTime::from_micros(later.as_micros() - 1);
    run(async {
        // Each with how many checks there were until then. A stranger costs as many as a user.
        for (user, password, now, is_right, checks) in [
            ("ann", "hunter2", NOW, true, 1),
            ("ann", "hunter2", just_before, true, 1),
            ("ann", "hunter2", later, true, 2),
            ("bob", "hunter2", later, true, 3),
            ("ann", "hunter3", later, false, 4),
            ("ann", "hunter3", later, false, 5),
            ("eve", "hunter2", later, false, 6),
            ("eve", "hunter2", later, false, 7),
            ("ann", "hunter2", later, true, 7),
        ] {
            let found = verifier.verify(&users, &credentials(user, password), CLIENT, now).await;
            assert_eq!((found.is_ok(), gate.checks()), (is_right, checks), "{user} {password}");
        }
    });
}

#[test]
fn a_file_with_another_hash_forgets_the_password_and_one_without_the_user_forgets_the_user() {
    let gate = Arc::<Gate>::default();
    let verifier = gate.verifier(LIMITS);
    let (before, after, gone) = (users(HASH), users(OTHER_HASH), Users::read(format!("bob:{HASH}").as_bytes()));
    let (gone, ann) = (gone.expect("a file of users"), credentials("ann", "hunter2"));
    run(async {
        assert!(verifier.verify(&before, &ann, CLIENT, NOW).await.is_ok());
        assert_eq!(verifier.verify(&after, &ann, CLIENT, NOW).await, Err(BasicDenial::Wrong));
        assert_eq!(verifier.verify(&gone, &ann, CLIENT, NOW).await, Err(BasicDenial::Wrong));
        assert!(verifier.verify(&after, &credentials("ann", ""), CLIENT, NOW).await.is_ok());
        assert!(verifier.verify(&before, &ann, CLIENT, NOW).await.is_ok());
        assert_eq!(gate.checks(), 4, "the last was remembered");
    });
}

#[test]
fn no_more_are_remembered_than_there_may_be() {
    let gate = Arc::<Gate>::default();
    let verifier = gate.verifier(LIMITS);
    let lines: String = (0..20).map(|user| format!("u{user}:{HASH}\n")).collect();
    let users = Users::read(lines.as_bytes()).expect("a file of users");
    run(async {
        for user in 0..20 {
            let right = credentials(&format!("u{user}"), "hunter2");
            assert!(verifier.verify(&users, &right, CLIENT, NOW + Duration::from_secs(user)).await.is_ok());
            assert!(verifier.0.remembered().len() <= LIMITS.remembered);
        }
        let last = credentials("u19", "hunter2");
        assert!(verifier.verify(&users, &last, CLIENT, NOW + Duration::from_secs(20)).await.is_ok());
        assert_eq!(gate.checks(), 20);
    });
}

#[test]
fn a_hundred_at_once_are_checked_a_few_at_once_and_equal_ones_together() {
    let gate = Arc::<Gate>::default();
    let (verifier, users) = (gate.verifier(LIMITS), users(HASH));
    run(async {
        gate.set_closed(true);
        let wrong: Vec<Credentials> = (0..100).map(|number| credentials("ann", &format!("wrong {number}"))).collect();
        let right = credentials("ann", "hunter2");
        let all =
            join_all(wrong.iter().chain((0..50).map(|_| &right)).map(|one| verifier.verify(&users, one, CLIENT, NOW)));
        let mut all = std::pin::pin!(all);
        assert!(poll!(&mut all).is_pending());
        assert_eq!(under_way(&verifier), 101);
        gate.set_closed(false);
        let found = all.await;
        assert!(found[..100].iter().all(|found| *found == Err(BasicDenial::Wrong)));
        assert!(found[100..].iter().all(|found| found.as_deref() == Ok("ann")));
        assert_eq!((gate.checks(), under_way(&verifier)), (101, 0));
        assert!(gate.most.load(Ordering::SeqCst) <= LIMITS.at_once);
    });
}

#[test]
fn whoever_finds_no_place_or_waits_too_long_is_told_so_and_those_who_are_known_pass() {
    let gate = Arc::<Gate>::default();
    let limits = Limits { at_once: 1, under_way: 2, ..LIMITS };
    let (verifier, users) = (gate.verifier(limits), users(HASH));
    let impatient = Limits { wait: Duration::from_millis(1), ..limits };
    run(async {
        let (ann, bob) = (credentials("ann", "hunter2"), credentials("bob", "hunter2"));
        assert!(verifier.verify(&users, &ann, CLIENT, NOW).await.is_ok());
        gate.set_closed(true);
        let (one, other) = (credentials("ann", "1"), credentials("ann", "2"));
        let mut first = Box::pin(verifier.verify(&users, &one, CLIENT, NOW));
        let mut second = Box::pin(verifier.verify(&users, &other, CLIENT, NOW));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        assert_eq!(verifier.verify(&users, &bob, CLIENT, NOW).await, Err(BasicDenial::Busy));
        assert!(verifier.verify(&users, &ann, CLIENT, NOW).await.is_ok());
        // A client that leaves gives its place to another.
        drop(second);
        assert_eq!(under_way(&verifier), 1);
        let mut third = Box::pin(verifier.verify(&users, &bob, CLIENT, NOW));
        assert!(poll!(&mut third).is_pending());
        gate.set_closed(false);
        assert_eq!(first.await, Err(BasicDenial::Wrong));
        assert!(third.await.is_ok());
        assert_eq!((gate.checks(), under_way(&verifier)), (3, 0), "who left was not checked");

        let verifier = gate.verifier(impatient);
        gate.set_closed(true);
        assert_eq!(verifier.verify(&users, &ann, CLIENT, NOW).await, Err(BasicDenial::Busy));
        assert_eq!(under_way(&verifier), 0);
        gate.set_closed(false);
    });
}

#[test]
fn one_address_leaves_places_to_others_and_all_whose_address_is_not_known_are_not_one() {
    let gate = Arc::<Gate>::default();
    let (verifier, users) = (gate.verifier(Limits { of_client: 2, ..LIMITS }), users(HASH));
    let wrong: Vec<Credentials> = (0..6).map(|number| credentials("ann", &format!("wrong {number}"))).collect();
    run(async {
        gate.set_closed(true);
        let from = |client, index: usize| Box::pin(verifier.verify(&users, &wrong[index], client, NOW));
        let (mut first, mut second) = (from(CLIENT, 0), from(CLIENT, 1));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        assert_eq!(from(CLIENT, 2).await, Err(BasicDenial::Busy));
        let mut others =
            [from(Some(Ipv4Addr::new(192, 0, 2, 1).into()), 2), from(None, 3), from(None, 4), from(None, 5)];
        for other in &mut others {
            assert!(poll!(other).is_pending());
        }
        // What is checked already takes no place.
        let mut same = from(CLIENT, 1);
        assert!(poll!(&mut same).is_pending());
        gate.set_closed(false);
        for each in [first, second, same].into_iter().chain(others) {
            assert_eq!(each.await, Err(BasicDenial::Wrong));
        }
        assert_eq!((gate.checks(), verifier.0.clients.clients()), (6, 0));
        assert_eq!(from(CLIENT, 2).await, Err(BasicDenial::Wrong));
    });
}

#[test]
fn one_of_many_who_leaves_takes_nothing_from_the_others() {
    let gate = Arc::<Gate>::default();
    let (verifier, users, ann) = (gate.verifier(LIMITS), users(HASH), credentials("ann", "hunter2"));
    run(async {
        gate.set_closed(true);
        let mut first = Box::pin(verifier.verify(&users, &ann, CLIENT, NOW));
        let mut second = Box::pin(verifier.verify(&users, &ann, CLIENT, NOW));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        drop(first);
        gate.set_closed(false);
        assert_eq!(second.await.as_deref(), Ok("ann"));
        // Nor does what nobody waits for any more get lost.
        gate.set_closed(true);
        let bob = credentials("bob", "hunter2");
        let mut last = Box::pin(verifier.verify(&users, &bob, CLIENT, NOW));
        assert!(poll!(&mut last).is_pending());
        drop(last);
        gate.set_closed(false);
        let turns = verifier.0.turns.acquire_many(u32::try_from(LIMITS.at_once).expect("few")).await;
        assert!(turns.is_ok() && verifier.0.remembered().len() == 2);
    });
    assert_eq!(gate.checks(), 2);
}

#[test]
fn a_check_that_panics_lets_nobody_in_and_leaves_its_turn() {
    let limits = Limits { at_once: 1, ..LIMITS };
    let is_first = AtomicUsize::new(0);
    let check = move |_: &PasswordHash, _: &Password| {
        if is_first.fetch_add(1, Ordering::SeqCst) == 0 {
            std::panic::resume_unwind(Box::new(()));
        }
        true
    };
    let verifier = BasicVerifier::with(limits, Box::new(check));
    let (users, ann) = (users(HASH), credentials("ann", "hunter2"));
    run(async {
        assert_eq!(verifier.verify(&users, &ann, CLIENT, NOW).await, Err(BasicDenial::Busy));
        assert!(verifier.verify(&users, &ann, CLIENT, NOW).await.is_ok());
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_check_gives_way_to_workers_and_takes_nothing_from_the_priority_of_others() {
    use rustix::process::getpriority_process;

    let before = getpriority_process(None).expect("the priority of this thread");
    let check = |_: &PasswordHash, _: &Password| {
        thread::current().name() == Some("password") && getpriority_process(None).is_ok_and(|nice| nice >= NICE)
    };
    let verifier = BasicVerifier::with(LIMITS, Box::new(check));
    run(async { assert!(verifier.verify(&users(HASH), &credentials("ann", "x"), CLIENT, NOW).await.is_ok()) });
    assert_eq!(getpriority_process(None).ok(), Some(before));
}
