//! What instances share by a Redis: limits of clients and denied subjects, and what holds while it is away.

mod denied;
mod script;
pub mod server;
mod store;

use wsluice::net::listener::Address;

use self::server::RedisServer;
use crate::discovery::is_here;
use crate::harness::{Authority, Conn, Echo, Handshake, Head, Proxy, eventually, within, yaml};
use crate::plain::with_listener;
use crate::process::Process;

/// Returns whether there is a redis-server.
fn has_redis() -> bool {
    is_here("redis-server")
}

/// A configuration with this `shared.redis`, and these limits of each client, who is what a header says.
fn configuration(echo: &Echo, redis: &str, limits: &str) -> String {
    let limits = format!("limits: {{ per_client: {{ {limits}, key: {{ header: X-User }} }} }}");
    let text = with_listener(&yaml(&[&echo.url()], &[&limits]), &["trusted_proxies: [127.0.0.1]"]);
    format!("{text}shared: {{ redis: {{ {redis} }} }}\n")
}

/// A proxy that has found its store, or knows that it has not.
fn start(echo: &Echo, redis: &str, limits: &str) -> Proxy {
    Proxy::start(&configuration(echo, redis, limits))
}

/// The settings of a store without anything special. Tests wait for it as long as they must.
fn at(server: &RedisServer, more: &str) -> String {
    format!("url: {:?}, timeout: 5s{more}", server.url())
}

/// The same, with a time that a test can wait for.
fn soon(server: &RedisServer, more: &str) -> String {
    format!("url: {:?}, timeout: 300ms{more}", server.url())
}

async fn handshake(address: &Address, user: &str) -> (Conn, Head) {
    let mut client = Conn::connect(address).await;
    let head = client.ask(&Handshake::new().with("X-User", user)).await;
    (client, head)
}

async fn from(proxy: &Proxy, user: &str) -> (Conn, Head) {
    handshake(proxy.address(), user).await
}

/// Returns the first word of the answer.
async fn refused(proxy: &Proxy, user: &str) -> (u16, String) {
    let (mut client, head) = from(proxy, user).await;
    let body = String::from_utf8(client.body(&head).await).unwrap();
    (head.status(), body.split(':').next().unwrap().to_owned())
}

/// Opens a session as soon as the client may.
async fn admitted(proxy: &Proxy, user: &str) -> Conn {
    within("a place", async {
        loop {
            let (client, head) = from(proxy, user).await;
            if head.status() == 101 {
                return client;
            }
        }
    })
    .await
}

/// Waits until the proxy knows that its store answers, or that it does not.
async fn becomes_up(proxy: &Proxy, server: &RedisServer, is_up: bool) {
    let name = server.url().replace("redis://", "");
    let value = f64::from(u8::from(is_up));
    proxy.metric_becomes("wsluice_shared_store_up", &[("server", &name)], value).await;
}

fn failures(proxy: &Proxy, server: &RedisServer, reason: &str) -> f64 {
    let name = server.url().replace("redis://", "");
    proxy.metric("wsluice_shared_store_failures_total", &[("server", &name), ("reason", reason)])
}

async fn fails(proxy: &Proxy, server: &RedisServer, reason: &str) {
    eventually(reason, || (failures(proxy, server, reason) > 0.0).then_some(())).await;
}

#[tokio::test]
async fn the_sessions_of_a_client_are_limited_over_two_instances() {
    if !has_redis() {
        return;
    }
    let (redis, echo) = (RedisServer::start().await, Echo::start().await);
    let [one, other] = [0, 1].map(|_| start(&echo, &at(&redis, ""), "sessions: 3"));
    let mine = [from(&one, "ann").await, from(&one, "ann").await, from(&other, "ann").await];
    assert!(mine.iter().all(|(_, head)| head.status() == 101));
    for proxy in [&one, &other, &one] {
        assert_eq!(refused(proxy, "ann").await, (429, "client_sessions".into()));
    }
    assert_eq!(from(&other, "bob").await.1.status(), 101, "others notice nothing");
    let [first, _second, _third] = mine;
    drop(first);
    let back = admitted(&other, "ann").await;
    assert_eq!(refused(&one, "ann").await.0, 429);
    drop(back);
    let _again = admitted(&one, "ann").await;
    // One question for each handshake, and nothing is left of those who have gone.
    let name = redis.url().replace("redis://", "");
    let asked = |proxy: &Proxy| proxy.metric("wsluice_shared_store_duration_seconds_count", &[("server", &name)]);
    assert!(asked(&one) >= 5.0 && asked(&other) >= 4.0);
    drop((one, other));
    eventually("an end that is told", || {
        let alive: Vec<String> = redis.say("KEYS wsluice:alive:*");
        alive.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn handshakes_of_a_client_are_limited_over_two_instances() {
    if !has_redis() {
        return;
    }
    let (redis, echo) = (RedisServer::start().await, Echo::start().await);
    let [one, other] = [0, 1].map(|_| start(&echo, &at(&redis, ""), "handshakes: 1/s, burst: 6"));
    let began = std::time::Instant::now();
    let mut opened = 0;
    for number in 0..40 {
        let proxy = if number % 2 == 0 { &one } else { &other };
        let (_client, head) = from(proxy, "ann").await;
        match head.status() {
            101 => opened += 1,
            status => {
                assert_eq!(status, 429);
                assert!(head.get("retry-after").is_some());
            }
        }
    }
    let most = 6 + usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    assert!((6..=most).contains(&opened), "{opened} of {most}");
    assert_eq!(from(&other, "bob").await.1.status(), 101);
    // Who does not wait costs the store nothing.
    let name = redis.url().replace("redis://", "");
    let asked = |proxy: &Proxy, result: &str| {
        proxy.metric("wsluice_shared_store_questions_total", &[("server", &name), ("result", result)])
    };
    assert!(asked(&one, "remembered") > asked(&one, "client_rate"), "{}", asked(&one, "client_rate"));
}

#[tokio::test]
async fn the_sessions_of_an_instance_that_was_killed_vanish_after_its_lease() {
    if !has_redis() {
        return;
    }
    let (redis, echo) = (RedisServer::start().await, Echo::start().await);
    let dir = tempfile::tempdir().unwrap();
    let mut killed = Process::start(dir.path(), &configuration(&echo, &at(&redis, ""), "sessions: 2"));
    let address = killed.listening().await;
    let _held = [handshake(&address, "ann").await, handshake(&address, "ann").await];
    let proxy = start(&echo, &at(&redis, ""), "sessions: 2");
    assert_eq!(refused(&proxy, "ann").await.0, 429);
    drop(killed);
    let _place = admitted(&proxy, "ann").await;
}

#[tokio::test]
async fn while_the_store_is_gone_the_limit_is_the_share_of_each_or_none_or_nobody_comes_in() {
    if !has_redis() {
        return;
    }
    let (mut redis, echo) = (RedisServer::start().await, Echo::start().await);
    let proxies = [", instances: 2", ", on_failure: allow", ", on_failure: deny"]
        .map(|more| start(&echo, &soon(&redis, more), "sessions: 4"));
    let [local, allow, deny] = &proxies;
    let mut held = vec![from(local, "ann").await.0];
    redis.kill();
    for proxy in &proxies {
        becomes_up(proxy, &redis, false).await;
    }
    // One is there already.
    held.push(from(local, "ann").await.0);
    assert_eq!(refused(local, "ann").await, (429, "client_sessions".into()));
    for _ in 0..6 {
        let (client, head) = from(allow, "ann").await;
        assert_eq!(head.status(), 101);
        held.push(client);
    }
    assert_eq!(refused(deny, "ann").await, (503, "shared_store".into()));
    let name = redis.url().replace("redis://", "");
    for (proxy, kind) in proxies.iter().zip(["local", "allow", "deny"]) {
        let labels = [("server", name.as_str()), ("on_failure", kind)];
        assert!(proxy.metric("wsluice_shared_store_fallbacks_total", &labels) > 0.0);
        fails(proxy, &redis, "unreachable").await;
        let lines = proxy.log();
        assert!(lines.iter().all(|line| line["target"] == "access"), "the log of the process is elsewhere: {lines:?}");
    }
    // It comes back empty: what is open is told again, and counts everywhere.
    redis.restart().await;
    for proxy in &proxies {
        becomes_up(proxy, &redis, true).await;
    }
    eventually("eight sessions in the store", || {
        let held: Vec<String> = redis.say("KEYS wsluice:held:*");
        let counts: Vec<u32> = held.iter().flat_map(|key| redis.say::<Vec<u32>>(&format!("HVALS {key}"))).collect();
        (counts.iter().sum::<u32>() == 8).then_some(())
    })
    .await;
    assert_eq!(refused(deny, "ann").await, (429, "client_sessions".into()));
}

#[tokio::test]
async fn a_store_that_hangs_holds_nobody_for_long_and_is_asked_again_when_it_goes_on() {
    if !has_redis() {
        return;
    }
    let (redis, echo) = (RedisServer::start().await, Echo::start().await);
    let proxy = start(&echo, &soon(&redis, ", on_failure: deny"), "sessions: 4");
    assert_eq!(from(&proxy, "ann").await.1.status(), 101);
    redis.pause();
    // More at once than may wait: all of them are answered.
    let crowd: Vec<_> = (0..40).map(|_| refused(&proxy, "ann")).collect();
    for answer in futures_util::future::join_all(crowd).await {
        assert_eq!(answer, (503, "shared_store".into()));
    }
    becomes_up(&proxy, &redis, false).await;
    fails(&proxy, &redis, "timeout").await;
    redis.go_on();
    becomes_up(&proxy, &redis, true).await;
    let _place = admitted(&proxy, "ann").await;
}

#[tokio::test]
async fn a_store_that_takes_no_writes_is_away_until_it_does() {
    if !has_redis() {
        return;
    }
    let (redis, echo) = (RedisServer::start().await, Echo::start().await);
    let proxy = start(&echo, &soon(&redis, ", on_failure: deny"), "sessions: 4");
    for (breaks, mends, reason) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "full"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "read_only"),
    ] {
        drop(admitted(&proxy, "ann").await);
        redis.say::<String>(breaks);
        fails(&proxy, &redis, reason).await;
        becomes_up(&proxy, &redis, false).await;
        assert_eq!(refused(&proxy, "ann").await, (503, "shared_store".into()));
        redis.say::<String>(mends);
        becomes_up(&proxy, &redis, true).await;
    }
    // What is full of other things is no better.
    redis.say::<String>("CONFIG SET maxmemory-policy noeviction");
    redis.say::<u64>(&format!("SETRANGE ballast 2000000 {}", "x".repeat(10)));
    let before = failures(&proxy, &redis, "full");
    redis.say::<String>("CONFIG SET maxmemory 1mb");
    eventually("a full store", || (failures(&proxy, &redis, "full") > before).then_some(())).await;
    redis.say::<u64>("DEL ballast");
    redis.say::<String>("CONFIG SET maxmemory 0");
    becomes_up(&proxy, &redis, true).await;
}

#[tokio::test]
async fn users_of_the_store_need_their_password_and_tls_is_verified() {
    if !has_redis() {
        return;
    }
    let (authority, echo) = (Authority::new(), Echo::start().await);
    let (cert, key) = authority.issue("redis", &["localhost", "127.0.0.1"]);
    let redis = RedisServer::start_tls(&cert, &key, &authority.ca()).await;
    let tls_port: Vec<String> = redis.say("CONFIG GET tls-port");
    // What REFERENCE.md says that the user needs.
    redis.say::<String>(
        "ACL SETUSER sluice on >hunter2%3a resetkeys ~wsluice:* -@all +evalsha +script|load +time +get +set +exists +del \
         +incr +hgetall +hset +hdel +hexists +hlen +pexpire",
    );
    let url = |password: &str| format!("rediss://sluice:{password}@localhost:{}/0", tls_port[1]);
    let settings = |password: &str, tls: &str| format!("url: {:?}, timeout: 5s, on_failure: deny{tls}", url(password));
    let ca = format!(", tls: {{ ca: {:?} }}", authority.ca().display().to_string());
    // The percent sign of the password is percent-encoded in the URL.
    let mut proxy = start(&echo, &settings("hunter2%253a", &ca), "sessions: 1, handshakes: 100/s");
    let held = from(&proxy, "ann").await;
    assert_eq!(held.1.status(), 101);
    assert_eq!(refused(&proxy, "ann").await, (429, "client_sessions".into()));
    // What was wrong is told without the password.
    let name = format!("localhost:{}", tls_port[1]);
    for (password, tls, reason) in [("hunter3", ca.as_str(), "denied"), ("hunter2%253a", "", "unreachable")] {
        proxy.reload(&configuration(&echo, &settings(password, tls), "sessions: 1")).await.unwrap();
        let labels = [("server", name.as_str()), ("reason", reason)];
        eventually(reason, || (proxy.metric("wsluice_shared_store_failures_total", &labels) > 0.0).then_some(())).await;
        assert_eq!(refused(&proxy, "bob").await, (503, "shared_store".into()));
    }
    // The right one again: the session that was open all the time counts.
    proxy.reload(&configuration(&echo, &settings("hunter2%253a", &ca), "sessions: 1")).await.unwrap();
    proxy.metric_becomes("wsluice_shared_store_up", &[("server", &name)], 1.0).await;
    eventually("the session in the store", || {
        let held: Vec<String> = redis.say("KEYS wsluice:held:*");
        (!held.is_empty()).then_some(())
    })
    .await;
    assert_eq!(refused(&proxy, "ann").await, (429, "client_sessions".into()));
    // And without any store, each instance is alone.
    let text = configuration(&echo, &settings("hunter2", &ca), "sessions: 1");
    let alone = text[..text.find("shared:").unwrap()].to_owned();
    let changes = proxy.reload(&alone).await.unwrap();
    assert_eq!(changes.others, ["shared"]);
    assert_eq!(refused(&proxy, "ann").await, (429, "client_sessions".into()));
    assert_eq!(proxy.series("wsluice_shared_store_up", &[("server", &name)]), None);
}

#[tokio::test]
async fn the_password_of_the_store_stands_in_no_line_and_in_no_answer() {
    let echo = Echo::start().await;
    let dir = tempfile::tempdir().unwrap();
    let redis = "url: \"redis://sluice:hunter2@127.0.0.1:1\", on_failure: deny";
    let text = configuration(&echo, redis, "sessions: 1") + "admin: { bind: \"127.0.0.1:0\" }\nlog: { level: trace }\n";
    let mut process = Process::start(dir.path(), &text);
    let address = process.listening().await;
    let admin = process.admin().await;
    assert_eq!(handshake(&address, "ann").await.1.status(), 503);
    let (_, shown) = crate::process::ask(&admin, "/api/v1/config").await;
    assert!(shown.contains("redis://***@127.0.0.1:1/0"), "{shown}");
    let (_, metrics) = crate::process::ask(&admin, "/metrics").await;
    process.signal(rustix::process::Signal::TERM);
    process.end().await;
    let log = process.seen.join("\n");
    assert!(log.contains("the shared store is away"), "{log}");
    for text in [shown, metrics, log] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}
