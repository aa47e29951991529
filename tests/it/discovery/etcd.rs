//! etcd: keys that come and go, a server that dies, loses its data, compacts, and requires a password.

use serde_json::json;
use wsluice::discovery::{
    DiscoveryErrorKind,
    etcd::{Etcd, EtcdMember, Login},
};
use wsluice::upstream::connect::{ConnectTarget, Connector};

use super::Discovery;
use super::servers::{EtcdServer, is_here};

const PREFIX: &str = "/wsluice/chat/";

fn server(server: &EtcdServer) -> EtcdMember {
    let address = server.address();
    EtcdMember { authority: address.to_string(), connector: Connector::new(ConnectTarget::Address(address), None) }
}

fn discover(server_: &EtcdServer) -> Discovery {
    let etcd = Etcd { servers: vec![server(server_)], prefix: PREFIX.into(), login: None };
    Discovery::start(|outlet| etcd.run(outlet))
}

fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

#[tokio::test]
async fn keys_come_change_and_go_and_a_lease_ends_its_own() {
    if !is_here("etcd") {
        return;
    }
    let etcd = EtcdServer::start().await;
    etcd.put(&key("a"), "ws://a:1").await;
    etcd.put("/wsluice/chat0", "ws://neighbour:1").await;
    let discovery = discover(&etcd);
    discovery.becomes(&["ws://a:1 1"]).await;
    etcd.put(&key("b"), r#"{"url": "ws://b:1", "weight": 3}"#).await;
    discovery.becomes(&["ws://a:1 1", "ws://b:1 3"]).await;
    etcd.put(&key("b"), "{ url: 'ws://b:1', weight: 4 }").await;
    discovery.becomes(&["ws://a:1 1", "ws://b:1 4"]).await;
    etcd.delete(&key("b")).await;
    discovery.becomes(&["ws://a:1 1"]).await;
    let lease = etcd.lease(1).await;
    etcd.put_with(&key("c"), "ws://c:1", Some(&lease)).await;
    discovery.becomes(&["ws://a:1 1", "ws://c:1 1"]).await;
    // Its lease is not renewed.
    discovery.becomes(&["ws://a:1 1"]).await;
    // An invalid value only changes the count of errors.
    etcd.put(&key("a"), "a:1").await;
    discovery.fails(DiscoveryErrorKind::Malformed).await;
    etcd.put(&key("d"), "ws://d:1").await;
    discovery.becomes(&["ws://a:1 1", "ws://d:1 1"]).await;
    // An empty answer is not used.
    etcd.delete(&key("d")).await;
    discovery.becomes(&["ws://a:1 1"]).await;
    etcd.delete(&key("a")).await;
    discovery.fails(DiscoveryErrorKind::Empty).await;
    assert_eq!(discovery.lists().last().unwrap(), &["ws://a:1 1"]);
}

#[tokio::test]
async fn a_server_that_was_killed_is_followed_again_with_what_happened_since() {
    if !is_here("etcd") {
        return;
    }
    let mut etcd = EtcdServer::start().await;
    etcd.put(&key("a"), "ws://a:1").await;
    let discovery = discover(&etcd);
    discovery.becomes(&["ws://a:1 1"]).await;
    etcd.kill();
    discovery.fails(DiscoveryErrorKind::Unreachable).await;
    assert_eq!(discovery.lists().len(), 1, "the last list stays");
    etcd.restart().await;
    etcd.put(&key("b"), "ws://b:1").await;
    discovery.becomes(&["ws://a:1 1", "ws://b:1 1"]).await;
    // Restored empty: revisions begin again, and a watch from the last one would wait for ever.
    etcd.wipe().await;
    etcd.put(&key("c"), "ws://c:1").await;
    discovery.becomes(&["ws://c:1 1"]).await;
}

#[tokio::test]
async fn a_compaction_loses_nothing() {
    if !is_here("etcd") {
        return;
    }
    let mut etcd = EtcdServer::start().await;
    etcd.put(&key("a"), "ws://a:1").await;
    let discovery = discover(&etcd);
    discovery.becomes(&["ws://a:1 1"]).await;
    etcd.kill();
    discovery.fails(DiscoveryErrorKind::Unreachable).await;
    etcd.restart().await;
    for n in 0..5 {
        etcd.put(&key("a"), &format!("{{ url: 'ws://a:1', weight: {} }}", n + 2)).await;
    }
    let revision = etcd.put(&key("b"), "ws://b:1").await;
    etcd.post("/v3/kv/compaction", json!({ "revision": revision.to_string(), "physical": true })).await;
    discovery.becomes(&["ws://a:1 6", "ws://b:1 1"]).await;
}

#[tokio::test]
async fn several_proxies_have_one_view_and_a_dead_member_is_passed_over() {
    if !is_here("etcd") {
        return;
    }
    let mut dead = EtcdServer::start().await;
    dead.kill();
    let etcd = EtcdServer::start().await;
    etcd.put(&key("a"), "ws://a:1").await;
    let proxies: Vec<Discovery> = (0..3)
        .map(|_| {
            let servers = vec![server(&dead), server(&etcd)];
            let etcd = Etcd { servers, prefix: PREFIX.into(), login: None };
            Discovery::start(|outlet| etcd.run(outlet))
        })
        .collect();
    for proxy in &proxies {
        proxy.becomes(&["ws://a:1 1"]).await;
    }
    for n in 0..50 {
        etcd.put(&key(&format!("b{n}")), &format!("ws://b:{}", n + 1)).await;
    }
    etcd.delete(&key("a")).await;
    for proxy in &proxies {
        let last = || proxy.lists().last().cloned();
        crate::harness::eventually("50 endpoints", || last().filter(|last| last.len() == 50)).await;
        assert_eq!(last(), proxies[0].lists().last().cloned());
    }
}

#[tokio::test]
async fn users_log_in_and_strangers_are_told_so() {
    if !is_here("etcd") {
        return;
    }
    let mut etcd = EtcdServer::start().await;
    etcd.put(&key("a"), "ws://a:1").await;
    etcd.post("/v3/auth/user/add", json!({ "name": "root", "password": "secret" })).await;
    etcd.post("/v3/auth/user/grant", json!({ "user": "root", "role": "root" })).await;
    etcd.post("/v3/auth/enable", json!({})).await;
    let with = |login: Option<Login>| {
        let etcd = Etcd { servers: vec![server(&etcd)], prefix: PREFIX.into(), login };
        Discovery::start(|outlet| etcd.run(outlet))
    };
    let login = |password: &str| Some(Login { user: "root".into(), password: password.into() });
    let discovery = with(login("secret"));
    discovery.becomes(&["ws://a:1 1"]).await;
    with(login("guess")).fails(DiscoveryErrorKind::Denied).await;
    with(None).fails(DiscoveryErrorKind::Denied).await;
    let answer = etcd.post("/v3/auth/authenticate", json!({ "name": "root", "password": "secret" })).await;
    etcd.token = Some(answer["token"].as_str().unwrap().to_owned());
    etcd.put(&key("b"), "ws://b:1").await;
    discovery.becomes(&["ws://a:1 1", "ws://b:1 1"]).await;
}
