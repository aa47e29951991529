//! Endpoints that are killed, hang, or lie: how they are detected, and where new sessions go.

use super::harness::{
    Authority, Behavior, Conn, Echo, Event, Frame, Handshake, Proxy, RawServer, ScriptedServer, eventually, within,
    yaml,
};
use super::plain;

/// A configuration with these lines in its upstream.
fn with(upstream: &str, endpoints: &[&str], route: &[&str]) -> String {
    yaml(endpoints, route).replace("app: {", &format!("app: {{ {upstream},"))
}

/// A check that decides within a second or two, and is not too quick for two busy cores.
fn check(kind: &str, more: &str) -> String {
    format!("health: {{ {kind}: {{ every: 400ms, timeout: 400ms, rise: 2, fall: 2, {more} }} }}")
}

/// The same, with time for two very busy cores: the first check decides, and the test waits for nothing else.
fn patient_check(kind: &str, more: &str) -> String {
    format!("health: {{ {kind}: {{ every: 10s, timeout: 10s, {more} }} }}")
}

fn websocket() -> String {
    check("websocket", "path: /probe")
}

async fn up(proxy: &Proxy, server: &ScriptedServer, up: bool) {
    let labels = [("upstream", "app"), ("endpoint", &*server.url())];
    let what = format!("wsluice_endpoint_up becoming {up}");
    eventually(&what, || (proxy.series("wsluice_endpoint_up", &labels)? == f64::from(up)).then_some(())).await;
}

fn of(proxy: &Proxy, name: &str, server: &ScriptedServer, reason: &str) -> f64 {
    let url = server.url();
    let labels = [("upstream", "app"), ("endpoint", &*url), ("reason", reason)];
    match reason {
        "" => proxy.metric(name, &labels[..2]),
        _ => proxy.metric(name, &labels),
    }
}

fn of_upstream(proxy: &Proxy, name: &str) -> f64 {
    proxy.metric(name, &[("upstream", "app")])
}

/// A client with its answer, and the session if there is one.
async fn open(proxy: &Proxy) -> (u16, Conn) {
    let mut client = proxy.client().await;
    let status = client.ask(&Handshake::new()).await.status();
    (status, client)
}

/// Opens sessions and keeps them.
async fn open_many(proxy: &Proxy, count: usize) -> Vec<Conn> {
    let mut sessions = vec![];
    for _ in 0..count {
        let (status, client) = open(proxy).await;
        assert_eq!(status, 101);
        sessions.push(client);
    }
    sessions
}

// ---- probes

#[tokio::test]
async fn a_killed_endpoint_gets_no_sessions_until_it_is_back() {
    let mut servers = ScriptedServer::start_many::<3>(Behavior::Well).await;
    let urls = servers.each_ref().map(ScriptedServer::url);
    let settings = format!("{}, ejection: off", websocket());
    let proxy = Proxy::start(&with(&settings, &urls.each_ref().map(|url| &**url), &[]));
    for server in &servers {
        up(&proxy, server, true).await;
    }
    let mut sessions = open_many(&proxy, 150).await;
    assert_eq!(servers.each_ref().map(ScriptedServer::sessions), [50, 50, 50]);
    servers[0].kill().await;
    up(&proxy, &servers[0], false).await;
    assert_eq!(of(&proxy, "wsluice_endpoint_transitions_total", &servers[0], "connect"), 1.0);
    // Its own clients get a Close, and no others.
    let mut stayed = vec![];
    for mut session in sessions.drain(..) {
        session.put(&Frame::text("still there?")).await;
        match session.event().await {
            Event::Frame(echo) => {
                assert_eq!(echo, Frame::text("still there?"));
                stayed.push(session);
            }
            end => assert_eq!(end, Event::End),
        }
    }
    assert_eq!(stayed.len(), 100);
    // It now has the fewest sessions, and without its check it would be tried first.
    stayed.extend(open_many(&proxy, 30).await);
    assert_eq!(servers.each_ref().map(ScriptedServer::sessions), [50, 65, 65]);
    assert_eq!(of_upstream(&proxy, "wsluice_upstream_retries_total"), 0.0);
    servers[0].restart().await;
    up(&proxy, &servers[0], true).await;
    assert_eq!(of(&proxy, "wsluice_endpoint_transitions_total", &servers[0], "passed"), 1.0);
    let url = servers[0].url();
    let labels = [("upstream", "app"), ("endpoint", &*url)];
    proxy.metric_becomes("wsluice_endpoint_sessions_active", &labels, 0.0).await;
    stayed.extend(open_many(&proxy, 30).await);
    assert_eq!(servers.each_ref().map(ScriptedServer::sessions), [80, 65, 65]);
}

#[tokio::test]
async fn only_a_ping_finds_a_server_that_upgrades_and_hangs() {
    let (deaf, well) = (ScriptedServer::start(Behavior::Deaf).await, ScriptedServer::start(Behavior::Well).await);
    let urls = [deaf.url(), well.url()];
    let urls = [&*urls[0], &*urls[1]];
    let proxy = Proxy::start(&with(&check("tcp", ""), &urls, &[]));
    up(&proxy, &deaf, true).await;
    drop(proxy);
    let proxy = Proxy::start(&with(&websocket(), &urls, &[]));
    up(&proxy, &deaf, false).await;
    up(&proxy, &well, true).await;
    assert_eq!(of(&proxy, "wsluice_endpoint_transitions_total", &deaf, "pong_timeout"), 1.0);
    let before = deaf.sessions();
    let _sessions = open_many(&proxy, 3).await;
    assert_eq!((deaf.sessions(), well.sessions()), (before, 3));
    // Probes count neither as load nor as picks.
    assert_eq!(of(&proxy, "wsluice_endpoint_picks_total", &deaf, ""), 0.0);
    assert!(deaf.probes() > 0);
}

#[tokio::test]
async fn every_check_finds_what_it_can_and_says_what_it_was() {
    for (kind, more, behavior, reason) in [
        ("websocket", "path: /probe", Behavior::False, "false_101"),
        ("websocket", "path: /probe", Behavior::Silent, "answer_timeout"),
        ("websocket", "path: /probe", Behavior::Rude, "handshake_lost"),
        ("websocket", "path: /probe", Behavior::Busy, "status"),
        ("websocket", "path: /probe", Behavior::Fleeting, "closed"),
        ("websocket", "path: /probe, subprotocol: chat", Behavior::Well, "subprotocol"),
        ("websocket", "path: /probe, send: hello, expect: { contains: bye }", Behavior::Well, "message_timeout"),
        ("http", "path: /healthz", Behavior::Busy, "status"),
        ("http", "path: /healthz", Behavior::Silent, "answer_timeout"),
        ("http", "path: /healthz", Behavior::Rude, "bad_response"),
        ("http", "path: /healthz, status: 503, body: { matches: '^well$' }", Behavior::Busy, "body"),
    ] {
        let server = ScriptedServer::start(behavior).await;
        // If time decides, it must be short; otherwise it must not decide.
        let is_late = reason.ends_with("_timeout");
        let check = if is_late { check(kind, more) } else { patient_check(kind, more) };
        let proxy = Proxy::start(&with(&check, &[&server.url()], &[]));
        up(&proxy, &server, false).await;
        assert_eq!(
            of(&proxy, "wsluice_endpoint_transitions_total", &server, reason),
            1.0,
            "{kind} {more} {behavior:?}"
        );
        assert!(of(&proxy, "wsluice_probe_failures_total", &server, reason) >= 1.0);
    }
    for (kind, more, behavior) in [
        ("tcp", "", Behavior::Silent),
        ("http", "path: /healthz, body: { contains: wel }", Behavior::Well),
        ("http", "path: /healthz, status: '200,503'", Behavior::Busy),
        ("websocket", "path: /probe, send: hello, expect: { matches: '^hel+o$' }", Behavior::Well),
        ("websocket", "path: /probe, host: chat.example.com, headers: { Origin: 'https://x.y' }", Behavior::Well),
    ] {
        let server = ScriptedServer::start(behavior).await;
        let proxy = Proxy::start(&with(&check(kind, more), &[&server.url()], &[]));
        up(&proxy, &server, true).await;
        let probes = [("upstream", "app"), ("kind", kind)];
        assert!(proxy.metric("wsluice_probe_duration_seconds_count", &probes) >= 1.0, "{kind} {more}");
    }
}

#[tokio::test]
async fn probes_use_the_tls_of_the_upstream() {
    let authority = Authority::new();
    for (hosts, expected) in [("127.0.0.1", 1.0), ("elsewhere.example", 0.0)] {
        let server = RawServer::start_tls(authority.server(&[hosts])).await;
        let url = server.url().to_owned();
        let settings = format!("{}, tls: {{ ca: {:?} }}", check("tcp", ""), authority.ca());
        let proxy = Proxy::start(&with(&settings, &[&url], &[]));
        let labels = [("upstream", "app"), ("endpoint", &*url)];
        let seen = eventually("a verdict", || proxy.series("wsluice_endpoint_up", &labels)).await;
        assert_eq!(seen, expected, "{hosts}");
    }
}

#[tokio::test]
async fn when_all_are_down_they_are_tried_or_refused() {
    for refuse in [false, true] {
        let servers = ScriptedServer::start_many::<2>(Behavior::Well).await;
        let urls = servers.each_ref().map(ScriptedServer::url);
        let word = if refuse { "refuse" } else { "try" };
        // Sessions would work; only the check expects too much.
        let check = check("websocket", "path: /probe, expect: { contains: never }");
        let settings = format!("{check}, when_all_down: {word}");
        let proxy = Proxy::start(&with(&settings, &urls.each_ref().map(|url| &**url), &[]));
        for server in &servers {
            up(&proxy, server, false).await;
        }
        let mut client = proxy.client().await;
        let head = client.ask(&Handshake::new()).await;
        if refuse {
            assert_eq!(head.status(), 503);
            assert!(head.get("retry-after").is_some());
            assert!(client.body(&head).await.starts_with(b"all_down: "));
        } else {
            assert_eq!(head.status(), 101);
        }
        assert_eq!(servers.iter().map(ScriptedServer::sessions).sum::<usize>(), usize::from(!refuse));
    }
}

// ---- ejection

fn ejected(proxy: &Proxy, server: &ScriptedServer) -> f64 {
    of(proxy, "wsluice_endpoint_ejected", server, "")
}

#[tokio::test]
async fn an_endpoint_that_fails_once_is_left_out_and_comes_back_by_a_trial() {
    let (bad, good) = (ScriptedServer::start(Behavior::Rude).await, ScriptedServer::start(Behavior::Well).await);
    let urls = [bad.url(), good.url()];
    let proxy = Proxy::start(&with("ejection: { time: 2s }", &[&urls[0], &urls[1]], &[]));
    // One of two sessions begins with it; then none does, although it has the fewest sessions.
    let sessions = open_many(&proxy, 6).await;
    assert_eq!((bad.sessions(), good.sessions()), (1, 6));
    assert_eq!((ejected(&proxy, &bad), ejected(&proxy, &good)), (1.0, 0.0));
    assert_eq!(of(&proxy, "wsluice_endpoint_ejections_total", &bad, "failures"), 1.0);
    bad.set_behavior(Behavior::Well);
    // Further sessions arrive; one of them tries it.
    within("the trial", async {
        while bad.sessions() == 1 {
            assert_eq!(open(&proxy).await.0, 101);
        }
    })
    .await;
    drop(sessions);
    assert_eq!(ejected(&proxy, &bad), 0.0);
}

#[tokio::test]
async fn a_trial_that_fails_makes_the_ejection_longer() {
    let (bad, good) = (ScriptedServer::start(Behavior::Rude).await, ScriptedServer::start(Behavior::Well).await);
    let urls = [bad.url(), good.url()];
    let proxy = Proxy::start(&with("ejection: { time: 1s }", &[&urls[0], &urls[1]], &[]));
    let _sessions = open_many(&proxy, 2).await;
    let mut times = vec![];
    within("three tries", async {
        while times.len() < 3 {
            assert_eq!(open(&proxy).await.0, 101);
            if bad.sessions() > times.len() {
                times.push(std::time::Instant::now());
            }
        }
    })
    .await;
    let [first, second, third] = times[..] else { panic!() };
    // A little less: the first is noticed later, and the clock has ticks.
    assert!(second - first >= std::time::Duration::from_millis(900), "{:?}", second - first);
    assert!(third - second >= std::time::Duration::from_millis(1900), "{:?}", third - second);
}

#[tokio::test]
async fn no_more_than_a_share_is_ejected_and_who_is_left_out_is_better_than_nobody() {
    let servers = ScriptedServer::start_many::<4>(Behavior::Rude).await;
    let urls = servers.each_ref().map(ScriptedServer::url);
    let urls = urls.each_ref().map(|url| &**url);
    let proxy = Proxy::start(&with("ejection: { time: 60s }, retry_budget: off", &urls, &[]));
    for _ in 0..8 {
        // Each of them is still tried for every request.
        let before = servers.iter().map(ScriptedServer::sessions).sum::<usize>();
        assert_eq!(open(&proxy).await.0, 502);
        assert_eq!(servers.iter().map(ScriptedServer::sessions).sum::<usize>(), before + 4);
    }
    assert_eq!(servers.iter().map(|server| ejected(&proxy, server)).sum::<f64>(), 2.0);
    for server in &servers {
        server.set_behavior(Behavior::Well);
    }
    let _sessions = open_many(&proxy, 1).await;
}

#[tokio::test]
async fn sessions_that_break_off_at_once_eject() {
    let (bad, good) = (ScriptedServer::start(Behavior::Fleeting).await, ScriptedServer::start(Behavior::Well).await);
    let urls = [bad.url(), good.url()];
    let proxy = Proxy::start(&with("balance: round_robin, ejection: { time: 60s }", &[&urls[0], &urls[1]], &[]));
    let mut sessions = vec![];
    for _ in 0..10 {
        sessions.extend(open_many(&proxy, 1).await);
    }
    eventually("the ejection", || (ejected(&proxy, &bad) == 1.0).then_some(())).await;
    assert_eq!(of(&proxy, "wsluice_endpoint_ejections_total", &bad, "early_ends"), 1.0);
    assert_eq!(bad.sessions(), 5);
    sessions.extend(open_many(&proxy, 4).await);
    assert_eq!((bad.sessions(), good.sessions()), (5, 9));
}

#[tokio::test]
async fn with_ejection_off_a_failed_endpoint_is_tried_each_time() {
    let (bad, good) = (ScriptedServer::start(Behavior::Rude).await, ScriptedServer::start(Behavior::Well).await);
    let urls = [bad.url(), good.url()];
    let proxy = Proxy::start(&with("balance: round_robin, ejection: off", &[&urls[0], &urls[1]], &[]));
    let _sessions = open_many(&proxy, 8).await;
    assert_eq!((bad.sessions(), good.sessions()), (4, 8));
    assert_eq!(ejected(&proxy, &bad), 0.0);
}

// ---- retries

#[tokio::test]
async fn a_retry_budget_bounds_second_tries_and_the_first_failure_is_the_answer() {
    let (bad, good) = (ScriptedServer::start(Behavior::Rude).await, ScriptedServer::start(Behavior::Well).await);
    let urls = [bad.url(), good.url()];
    let settings = "balance: round_robin, ejection: off, retry_budget: { ratio: 0%, min_per_second: 0 }";
    let proxy = Proxy::start(&with(settings, &[&urls[0], &urls[1]], &[]));
    let mut statuses = vec![];
    for _ in 0..4 {
        statuses.push(open(&proxy).await.0);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [101, 101, 502, 502]);
    assert_eq!(of_upstream(&proxy, "wsluice_upstream_retries_total"), 0.0);
    assert_eq!(of_upstream(&proxy, "wsluice_upstream_retries_denied_total"), 2.0);
    // Plain HTTP uses the same budget; it retries only if connecting failed.
    let mut bad = bad;
    bad.kill().await;
    let mut answers = vec![];
    for _ in 0..2 {
        let mut client = proxy.client().await;
        client.send(plain::get("/")).await;
        answers.push(client.head().await.status());
    }
    answers.sort_unstable();
    assert_eq!(answers, [200, 502]);
    assert_eq!(of_upstream(&proxy, "wsluice_upstream_retries_denied_total"), 3.0);
}

#[tokio::test]
async fn an_endpoint_that_accepts_and_never_answers_does_not_cost_the_client_its_session() {
    let (silent, well) = (ScriptedServer::start(Behavior::Silent).await, ScriptedServer::start(Behavior::Well).await);
    let urls = [silent.url(), well.url()];
    let route = ["timeouts: { handshake: 3s }"];
    let proxy = Proxy::start(&with("balance: round_robin", &[&urls[0], &urls[1]], &route));
    let mut slowest = std::time::Duration::ZERO;
    for _ in 0..4 {
        let started = std::time::Instant::now();
        assert_eq!(open(&proxy).await.0, 101);
        slowest = slowest.max(started.elapsed());
    }
    assert_eq!((silent.sessions(), well.sessions()), (1, 4));
    assert!(slowest >= std::time::Duration::from_millis(1400), "half of the time is the first one's: {slowest:?}");
    assert_eq!(of(&proxy, "wsluice_upstream_errors_total", &silent, "handshake_timeout"), 1.0);
}

#[tokio::test]
async fn the_only_endpoint_has_all_the_time() {
    let silent = ScriptedServer::start(Behavior::Silent).await;
    let proxy = Proxy::start(&with("balance: round_robin", &[&silent.url()], &["timeouts: { handshake: 1s }"]));
    let started = std::time::Instant::now();
    assert_eq!(open(&proxy).await.0, 504);
    assert!(started.elapsed() >= std::time::Duration::from_millis(900));
}

#[tokio::test]
async fn a_server_of_another_make_passes_the_websocket_check() {
    let echo = Echo::start().await;
    let url = echo.url();
    let proxy = Proxy::start(&with(&websocket(), &[&url], &[]));
    proxy.metric_becomes("wsluice_endpoint_up", &[("upstream", "app"), ("endpoint", &url)], 1.0).await;
}
