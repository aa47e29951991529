//! The store alone: followed to another address of its name, and a crowd that leaves nothing behind.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::Registry;
use wsluice::config::load_str;
use wsluice::net::names::{LookupAnswer, NameResolver};
use wsluice::policy::bucket::AdmissionRate;
use wsluice::policy::clients::{ClientDigest, ClientKey};
use wsluice::shared::metrics::Metrics;
use wsluice::shared::{Ask, SharedState, SharedStore, Verdict};
use wsluice::upstream::connect::{ConnectTarget, Connector};

use super::has_redis;
use super::server::RedisServer;
use crate::discovery::free_port;
use crate::harness::{eventually, within};

/// A store at this target.
fn store(state: &SharedState, target: ConnectTarget) -> Arc<SharedStore> {
    let text =
        "routes: [{ name: a, respond: { body: a } }]\nshared: { redis: { url: 'redis://redis.test', timeout: 5s } }";
    let written = load_str("a.yaml", text, &|_| None).unwrap().file.shared.unwrap().redis.unwrap();
    let connector = Connector::new(target, None);
    let store = state.store(&written, connector, None);
    store.start();
    store
}

fn state() -> SharedState {
    SharedState::new(Metrics::register(&Registry::new()).unwrap())
}

fn client(number: usize) -> ClientDigest {
    ClientKey::Subject(&number.to_string()).digest("chat")
}

async fn asks(store: &SharedStore, ask: Ask) -> Verdict {
    within("an answer", async {
        loop {
            if let Ok(verdict) = store.ask(ask).await {
                return verdict;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test]
async fn the_store_is_found_again_under_another_address_of_its_name() {
    if !has_redis() {
        return;
    }
    let port = free_port();
    let mut first = RedisServer::start_at("127.0.0.1", port, &[]).await;
    let now_at: Arc<Mutex<SocketAddr>> = Arc::new(Mutex::new("127.0.0.1:0".parse().unwrap()));
    let lookup = {
        let now_at = Arc::clone(&now_at);
        move |_| -> Pin<Box<dyn Future<Output = _> + Send>> {
            let addresses = [*now_at.lock().unwrap()].into();
            Box::pin(async move { Ok(LookupAnswer { addresses, alike: 1, ttl: Duration::from_millis(100) }) })
        }
    };
    let names = NameResolver::with_lookup(Arc::new(lookup), &Registry::new()).unwrap();
    let state = state();
    let store = store(&state, ConnectTarget::Name(names.of("redis.test"), port));
    let place = state.holdings.enter(client(1));
    let ask = Ask { client: client(1), pace: None, sessions: Some(1) };
    assert_eq!(asks(&store, ask).await, Verdict::Allowed);
    let other = RedisServer::start_at("127.0.0.2", port, &[]).await;
    *now_at.lock().unwrap() = "127.0.0.2:0".parse().unwrap();
    first.kill();
    eventually("the other server", || {
        let held: Vec<String> = other.say("KEYS wsluice:held:*");
        (held.len() == 1).then_some(())
    })
    .await;
    assert_eq!(asks(&store, ask).await, Verdict::Allowed, "it is its own place");
    drop(place);
}

#[tokio::test]
async fn ten_thousand_clients_over_their_limit_leave_nothing_behind() {
    if !has_redis() {
        return;
    }
    const CLIENTS: usize = 10_000;
    let redis = RedisServer::start().await;
    let state = state();
    let store = store(&state, ConnectTarget::Address(SocketAddr::from(([127, 0, 0, 1], redis.port()))));
    let pace = Some(AdmissionRate::new(1, 1, Duration::ZERO));
    let crowd = async |from: usize| {
        for number in (from..CLIENTS).step_by(16) {
            let client = client(number);
            let _place = state.holdings.enter(client);
            // The slot is free, and there is no place.
            assert_eq!(asks(&store, Ask { client, pace, sessions: Some(0) }).await, Verdict::TooMany);
            let again = asks(&store, Ask { client, pace, sessions: Some(0) }).await;
            assert!(matches!(again, Verdict::TooFast(_) | Verdict::TooMany), "{again:?}");
        }
    };
    futures_util::future::join_all((0..16).map(crowd)).await;
    eventually("all ends that are told", || (state.holdings.clients() == 0).then_some(())).await;
    let held: Vec<String> = redis.say("KEYS wsluice:held:*");
    assert!(held.is_empty());
    // Buckets that are full again are forgotten.
    eventually("an empty store", || (redis.say::<Vec<String>>("KEYS wsluice:rate:*").is_empty()).then_some(())).await;
}
