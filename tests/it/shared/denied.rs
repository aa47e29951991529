//! Denied subjects: on all instances within a moment, until their time is over, through failures of the store.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wsluice::net::listener::Address;

use super::has_redis;
use super::server::RedisServer;
use crate::api::send;
use crate::auth::{SECRET, of};
use crate::harness::{Conn, Echo, Handshake, Head, Proxy, eventually, unix, within, yaml};

/// A proxy whose route asks for tokens, with this `shared`.
fn start(echo: &Echo, shared: &str) -> Proxy {
    let auth = format!("auth: {{ jwt: {{ keys: {{ secret: {SECRET} }}, algorithms: [HS256] }} }}");
    Proxy::start(&format!("{}admin: {{ bind: \"127.0.0.1:0\" }}\n{shared}", yaml(&[&echo.url()], &[&auth])))
}

fn by(redis: &RedisServer) -> String {
    format!("shared: {{ redis: {{ url: {:?}, timeout: 5s }} }}\n", redis.url())
}

async fn open(proxy: &Proxy, subject: &str) -> (Conn, Head) {
    let mut client = proxy.client().await;
    let head = client.ask(&Handshake::new().with("Authorization", &format!("Bearer {}", of(subject)))).await;
    (client, head)
}

/// Waits until a subject is let in, or is not any more.
async fn gets(proxy: &Proxy, subject: &str, status: u16) {
    within("another answer", async {
        while open(proxy, subject).await.1.status() != status {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn admin(proxy: &Proxy) -> Address {
    proxy.app.admin().unwrap()
}

async fn says(proxy: &Proxy, request: &str) -> (u16, Value) {
    let answer = send(&admin(proxy), request, "").await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn a_subject_that_is_denied_at_one_instance_is_thrown_out_of_all() {
    if !has_redis() {
        return;
    }
    let (redis, echo) = (RedisServer::start().await, Echo::start().await);
    let [one, other] = [0, 1].map(|_| start(&echo, &by(&redis)));
    let mut anns = [open(&one, "ann").await.0, open(&other, "ann").await.0];
    let (mut bob, head) = open(&other, "bob").await;
    assert_eq!(head.status(), 101);
    let began = Instant::now();
    let (status, entry) = says(&one, "PUT denied/ann?reason=spam").await;
    assert_eq!((status, &entry["subject"], &entry["reason"]), (200, &json!("ann"), &json!("spam")));
    for ann in &mut anns {
        assert_eq!(ann.expect_closed_with(1008).await, "denied by operator");
    }
    println!("closed on both after {:?}", began.elapsed());
    for proxy in [&one, &other] {
        let (mut client, head) = open(proxy, "ann").await;
        assert_eq!(head.status(), 403);
        assert!(String::from_utf8(client.body(&head).await).unwrap().starts_with("denied: "));
        proxy.metric_becomes("wsluice_denied_subjects", &[], 1.0).await;
        let (_, all) = says(proxy, "GET denied").await;
        assert_eq!((&all["denied"][0]["subject"], &all["shared"]), (&json!("ann"), &json!(true)));
    }
    assert_eq!(open(&other, "bob").await.1.status(), 101);
    bob.put(&crate::harness::Frame::text("a")).await;
    bob.expect(&crate::harness::Frame::text("a")).await;
    // Allowed again at the other one.
    assert_eq!(says(&other, "DELETE denied/ann").await, (200, json!({ "ended": true })));
    assert_eq!(open(&other, "ann").await.1.status(), 101);
    gets(&one, "ann", 101).await;
    assert_eq!(says(&one, "DELETE denied/ann").await.0, 404);
}

#[tokio::test]
async fn what_is_denied_for_a_while_is_over_by_itself() {
    if !has_redis() {
        return;
    }
    let (redis, echo) = (RedisServer::start().await, Echo::start().await);
    let [one, other] = [0, 1].map(|_| start(&echo, &by(&redis)));
    let (status, entry) = says(&one, &format!("PUT denied/ann?until={}", unix(2))).await;
    assert_eq!((status, entry["until"].is_string()), (200, true));
    gets(&other, "ann", 403).await;
    gets(&one, "ann", 101).await;
    gets(&other, "ann", 101).await;
    assert_eq!(says(&one, "GET denied/ann").await.0, 404);
    assert_eq!(says(&one, &format!("PUT denied/ann?until={}", unix(-2))).await.0, 400);
}

#[tokio::test]
async fn the_last_list_holds_while_the_store_is_away_and_one_that_lost_it_gets_it_back() {
    if !has_redis() {
        return;
    }
    let (mut redis, echo) = (RedisServer::start().await, Echo::start().await);
    let proxy = start(&echo, &by(&redis));
    for subject in ["ann", "https://idp/ann%2F1"] {
        assert_eq!(says(&proxy, &format!("PUT denied/{subject}")).await.0, 200);
    }
    redis.kill();
    super::becomes_up(&proxy, &redis, false).await;
    assert_eq!(open(&proxy, "ann").await.1.status(), 403);
    let (status, answer) = says(&proxy, "PUT denied/bob").await;
    assert_eq!(status, 503);
    assert!(answer["error"].as_str().unwrap().contains("nothing is changed"), "{answer}");
    assert_eq!((says(&proxy, "DELETE denied/ann").await.0, open(&proxy, "bob").await.1.status()), (503, 101));
    redis.restart().await;
    super::becomes_up(&proxy, &redis, true).await;
    assert_eq!(open(&proxy, "ann").await.1.status(), 403);
    let subjects: Vec<String> = redis.say("HKEYS wsluice:denied");
    assert_eq!(subjects.len(), 2, "{subjects:?}");
    // Also while it runs, and for those who come later.
    redis.say::<String>("FLUSHALL");
    eventually("the list in the store", || (redis.say::<u64>("HLEN wsluice:denied") == 2).then_some(())).await;
    let later = start(&echo, &by(&redis));
    assert_eq!(open(&later, "https://idp/ann/1").await.1.status(), 403, "a new instance reads it before it accepts");
}

#[tokio::test]
async fn without_a_store_the_list_is_of_one_instance_and_joins_the_others_when_there_is_one() {
    let echo = Echo::start().await;
    let mut proxy = start(&echo, "");
    let (mut ann, _) = open(&proxy, "ann").await;
    let (_, entry) = says(&proxy, "PUT denied/ann\nContent-Type: application/json").await;
    assert_eq!(entry["subject"], "ann");
    ann.expect_closed_with(1008).await;
    assert_eq!(open(&proxy, "ann").await.1.status(), 403);
    assert_eq!(says(&proxy, "GET denied").await.1["shared"], false);
    assert_eq!(says(&proxy, &format!("PUT denied/{}", "x".repeat(256))).await.0, 400);
    if !has_redis() {
        return;
    }
    let redis = RedisServer::start().await;
    let text = proxy.yaml();
    proxy.reload(&format!("{text}{}", by(&redis))).await.unwrap();
    let other = start(&echo, &by(&redis));
    assert_eq!(open(&other, "ann").await.1.status(), 403);
    assert_eq!(says(&other, "GET denied").await.1["shared"], true);
}
