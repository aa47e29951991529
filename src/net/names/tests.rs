//! Tests of the name table with a scripted resolver.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::net::SocketAddr;

use prometheus::Registry;
use tokio::sync::Barrier;

use super::*;
use crate::telemetry::exposition::encode;

const LONG: Duration = Duration::from_secs(20);

/// Answers as scripted, once there is an answer; counts the questions.
#[derive(Default)]
struct ScriptedLookup {
    asked: AtomicUsize,
    says: Mutex<Option<Result<LookupAnswer, LookupError>>>,
    changed: Notify,
}

impl ScriptedLookup {
    fn resolver(self: &Arc<ScriptedLookup>) -> (NameResolver, Registry) {
        let (scripted, registry) = (Arc::clone(self), Registry::new());
        let ask = move |_| -> Pin<Box<dyn Future<Output = _> + Send>> {
            let scripted = Arc::clone(&scripted);
            Box::pin(async move {
                scripted.asked.fetch_add(1, Ordering::SeqCst);
                loop {
                    let changed = scripted.changed.notified();
                    if let Some(answer) = lock(&scripted.says).clone() {
                        return answer;
                    }
                    changed.await;
                }
            })
        };
        (NameResolver::with_lookup(Arc::new(ask), &registry).unwrap(), registry)
    }

    fn says(&self, answer: Option<Result<&[&str], LookupError>>, ttl: Duration) {
        let at = |ip: &&str| SocketAddr::new(ip.parse().unwrap(), 0);
        let of = |ips: &[&str]| LookupAnswer { addresses: ips.iter().map(at).collect(), alike: ips.len(), ttl };
        *lock(&self.says) = answer.map(|answer| answer.map(of));
        self.changed.notify_waiters();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn addresses(name: &HostLookup, wait: Duration) -> Option<Result<Vec<String>, LookupError>> {
    let found = name.addresses(Instant::now() + wait).await?;
    Some(found.map(|(found, turn)| found.in_turn(turn).map(|address| address.ip().to_string()).collect()))
}

#[tokio::test]
async fn many_who_want_a_name_at_once_share_one_look_up_and_its_answer() {
    let scripted = Arc::<ScriptedLookup>::default();
    let (names, registry) = scripted.resolver();
    let barrier = Arc::new(Barrier::new(51));
    let mut tasks = vec![];
    for _ in 0..50 {
        // Each looks the name up by itself, as connections do.
        let (name, barrier) = (names.of("chat.test"), Arc::clone(&barrier));
        tasks.push(tokio::spawn(async move {
            barrier.wait().await;
            addresses(&name, LONG).await
        }));
    }
    let kept = names.of("chat.test");
    barrier.wait().await;
    while scripted.asked() == 0 {
        tokio::task::yield_now().await;
    }
    scripted.says(Some(Ok(&["10.0.0.1", "10.0.0.2"])), Duration::from_secs(60));
    let mut firsts = [0; 2];
    for task in tasks {
        let found = task.await.unwrap().unwrap().unwrap();
        assert_eq!(found.len(), 2);
        firsts[usize::from(found[0] == "10.0.0.2")] += 1;
    }
    assert_eq!((firsts, scripted.asked()), ([25, 25], 1), "equals take turns");
    assert!(encode(&registry).unwrap().contains("wsluice_name_lookups_total{result=\"found\"} 1"));
    // Another name needs another look-up.
    addresses(&names.of("other.test"), LONG).await.unwrap().unwrap();
    assert_eq!(scripted.asked(), 2);
    drop(kept);
    assert_eq!(names.0.entries.lock().unwrap().get("chat.test").map(Weak::strong_count), Some(0));
    names.of("third.test");
    assert!(!names.0.entries.lock().unwrap().contains_key("chat.test"), "no longer in use");
}

#[tokio::test]
async fn a_name_that_is_gone_fails_for_all_who_wait_and_is_not_asked_for_each() {
    let scripted = Arc::<ScriptedLookup>::default();
    let (names, registry) = scripted.resolver();
    scripted.says(Some(Err(LookupError::NotFound("gone".into()))), Duration::ZERO);
    let name = names.of("gone.test");
    for _ in 0..2 {
        assert_eq!(addresses(&name, LONG).await, Some(Err(LookupError::NotFound("gone".into()))));
    }
    assert!(scripted.asked() <= 2, "a busy machine may be a second late");
    assert!(encode(&registry).unwrap().contains("wsluice_name_lookups_total{result=\"not_found\"}"));
}

#[tokio::test]
async fn what_was_good_is_used_while_nobody_answers() {
    let scripted = Arc::<ScriptedLookup>::default();
    let (names, _registry) = scripted.resolver();
    let name = names.of("chat.test");
    scripted.says(Some(Ok(&["10.0.0.1"])), Duration::ZERO);
    addresses(&name, LONG).await.unwrap().unwrap();
    scripted.says(None, Duration::ZERO);
    // Its TTL, of at least a second, has passed, and the next look-up gets no answer.
    while scripted.asked() < 2 {
        assert_eq!(addresses(&name, LONG).await.unwrap().unwrap(), ["10.0.0.1"]);
    }
    scripted.says(Some(Err(LookupError::Failed("no server".into()))), Duration::ZERO);
    assert_eq!(addresses(&name, LONG).await.unwrap().unwrap(), ["10.0.0.1"]);
    scripted.says(Some(Ok(&["10.0.0.2"])), Duration::from_secs(60));
    timeout(LONG, async { while addresses(&name, LONG).await.unwrap().unwrap() != ["10.0.0.2"] {} }).await.unwrap();
}

#[tokio::test]
async fn who_has_no_time_left_does_not_wait_and_the_answer_comes_for_the_next() {
    let scripted = Arc::<ScriptedLookup>::default();
    let (names, _registry) = scripted.resolver();
    let name = names.of("chat.test");
    assert_eq!(addresses(&name, Duration::from_millis(5)).await, None);
    scripted.says(Some(Ok(&["10.0.0.1"])), Duration::from_secs(60));
    assert_eq!(addresses(&name, LONG).await.unwrap().unwrap(), ["10.0.0.1"]);
    assert_eq!(scripted.asked(), 1, "the look-up outlives the caller that began it");
}

#[tokio::test]
async fn a_look_up_that_panics_is_asked_again_and_the_thread_ends_with_the_last_name() {
    let (ended, asked) = (Arc::new(()), Arc::<AtomicUsize>::default());
    let ask = {
        let (ended, asked) = (Arc::clone(&ended), Arc::clone(&asked));
        move |_| -> Pin<Box<dyn Future<Output = _> + Send>> {
            let (_ended, asked) = (Arc::clone(&ended), Arc::clone(&asked));
            Box::pin(async move {
                assert!(asked.fetch_add(1, Ordering::SeqCst) > 0, "a mistake of ours");
                Err(LookupError::Failed("no".into()))
            })
        }
    };
    let names = NameResolver::with_lookup(Arc::new(ask), &Registry::new()).unwrap();
    let name = names.of("chat.test");
    assert_eq!(addresses(&name, LONG).await, Some(Err(LookupError::Failed("no".into()))));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    drop((name, names));
    timeout(LONG, async {
        while Arc::strong_count(&ended) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn this_machine_is_found_by_whatever_the_build_asks() {
    let names = NameResolver::register(&Registry::new()).unwrap();
    let found = addresses(&names.of("localhost"), LONG).await.unwrap().unwrap();
    assert!(found.iter().any(|ip| ip == "127.0.0.1" || ip == "::1"), "{found:?}");
    assert!(addresses(&names.of("nowhere.invalid"), LONG).await.unwrap().is_err());
}
