//! The way to an endpoint: the queue for a permit, the admission rate, and the affinity cookie.

use std::time::Instant;

use futures_util::future::join_all;

use super::harness::{Conn, Echo, Frame, Handshake, Head, Proxy, RawServer, eventually, yaml};

/// A configuration with more lines in its upstream.
fn with(upstream: &str, endpoints: &[String]) -> String {
    yaml(&[], &[]).replace("{ endpoints: [] }", &format!("{{ {upstream}, endpoints: [{}] }}", endpoints.join(", ")))
}

fn endpoint(url: &str, max_connections: u32) -> String {
    format!("{{ url: {url:?}, max_connections: {max_connections} }}")
}

const APP: (&str, &str) = ("upstream", "app");

async fn queue_length_becomes(proxy: &Proxy, length: u32) {
    proxy.metric_becomes("wsluice_upstream_queue_length", &[APP], f64::from(length)).await;
}

fn rejections(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric("wsluice_rejections_total", &[("listener", "plain"), ("route", "all"), ("reason", reason)])
}

/// A client that has sent its handshake.
async fn asking(proxy: &Proxy, handshake: &Handshake) -> Conn {
    let mut client = proxy.client().await;
    client.send(handshake.bytes()).await;
    client
}

async fn close(mut client: Conn, mut server: Conn) {
    client.put(&Frame::close(1000, "")).await;
    server.expect(&Frame::close(1000, "")).await;
    server.put(&Frame::close(1000, "")).await;
    client.expect_close().await;
    client.expect_end().await;
}

// ---- the queue

#[tokio::test]
async fn who_finds_all_full_waits_and_the_first_to_come_is_the_first_to_go_in() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&with("queue: { length: 2, wait: 9s }", &[endpoint(server.url(), 1)]));
    let mut first = asking(&proxy, &Handshake::to("/first")).await;
    let mut upstream = server.accept().await;
    upstream.switch(&[]).await;
    assert_eq!(first.head().await.status(), 101);
    let mut waiting = vec![];
    for (length, path) in [(1, "/second"), (2, "/third")] {
        waiting.push((path, asking(&proxy, &Handshake::to(path)).await));
        queue_length_becomes(&proxy, length).await;
    }
    let mut refused = proxy.client().await;
    let head = refused.ask(&Handshake::new()).await;
    assert_eq!(head.status(), 503);
    assert!(head.get("retry-after").is_some());
    assert!(refused.body(&head).await.starts_with(b"queue_full: "));
    assert_eq!(rejections(&proxy, "queue_full"), 1.0);
    assert_eq!(server.connections().await, 1, "who waits has no connection to the endpoint");
    for (path, mut client) in waiting {
        close(first, upstream).await;
        upstream = server.accept().await;
        assert_eq!(upstream.switch(&[]).await.target(), path);
        assert_eq!(client.head().await.status(), 101);
        first = client;
    }
    close(first, upstream).await;
    queue_length_becomes(&proxy, 0).await;
    assert_eq!(proxy.metric("wsluice_upstream_queue_wait_seconds_count", &[APP]), 2.0);
    let log = proxy.log_lines(4).await;
    for (path, has_waited) in [("/first", false), ("/second", true), ("/third", true)] {
        let line = log.iter().find(|line| line["path"] == path).unwrap();
        assert_eq!(line["waited_ms"].as_f64().is_some_and(|waited| waited > 0.0), has_waited, "{line}");
    }
}

#[tokio::test]
async fn a_client_that_goes_leaves_the_line_at_once() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&with("queue: { wait: 9s }", &[endpoint(server.url(), 1)]));
    let mut first = asking(&proxy, &Handshake::new()).await;
    let mut upstream = server.accept().await;
    upstream.switch(&[]).await;
    assert_eq!(first.head().await.status(), 101);
    let gone = asking(&proxy, &Handshake::to("/gone")).await;
    queue_length_becomes(&proxy, 1).await;
    let mut patient = asking(&proxy, &Handshake::to("/patient")).await;
    queue_length_becomes(&proxy, 2).await;
    drop(gone);
    queue_length_becomes(&proxy, 1).await;
    let line = &proxy.log_lines(1).await[0];
    assert_eq!(
        (&line["path"], &line["status"], &line["reason"]),
        (&"/gone".into(), &499.into(), &"client_gone".into())
    );
    assert!(line["waited_ms"].as_f64().unwrap() > 0.0);
    close(first, upstream).await;
    assert_eq!(server.accept().await.switch(&[]).await.target(), "/patient");
    assert_eq!(patient.head().await.status(), 101);
}

#[tokio::test]
async fn who_has_waited_long_enough_is_told_to_come_back() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&with("queue: { wait: 50ms }", &[endpoint(server.url(), 1)]));
    let mut first = asking(&proxy, &Handshake::new()).await;
    server.accept().await.switch(&[]).await;
    assert_eq!(first.head().await.status(), 101);
    for request in [Handshake::new().bytes(), b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec()] {
        let mut late = proxy.client().await;
        late.send(request).await;
        let head = late.head().await;
        assert_eq!(head.status(), 503);
        assert!((1..=10).contains(&head.get("retry-after").unwrap().parse::<u32>().unwrap()));
        assert!(late.body(&head).await.starts_with(b"queue_timeout: "));
    }
    assert_eq!(rejections(&proxy, "queue_timeout"), 2.0);
    queue_length_becomes(&proxy, 0).await;
}

#[tokio::test]
async fn a_crowd_before_few_seats_gets_in_over_all_workers() {
    let echoes = [Echo::start().await, Echo::start().await];
    let endpoints = [endpoint(&echoes[0].url(), 2), endpoint(&echoes[1].url(), 3)];
    let text = with("queue: { length: 100, wait: 9s }", &endpoints).replace("workers: 1", "workers: 3");
    let proxy = Proxy::start(&text);
    join_all((0..60).map(|number: u32| {
        let proxy = &proxy;
        async move {
            let mut client = proxy.client().await;
            client.open(&Handshake::new()).await;
            let frame = Frame::text(&number.to_string());
            client.put(&frame).await;
            client.expect(&frame).await;
            client.put(&Frame::close(1000, "")).await;
            client.expect_close().await;
            client.expect_end().await;
        }
    }))
    .await;
    queue_length_becomes(&proxy, 0).await;
    for echo in &echoes {
        proxy.metric_becomes("wsluice_endpoint_sessions_active", &[APP, ("endpoint", &echo.url())], 0.0).await;
    }
}

// ---- the rate

#[tokio::test]
async fn a_crowd_reaches_the_endpoint_at_the_rate_and_the_rest_is_spread_over_later() {
    const RATE: f64 = 20.0;
    const BURST: usize = 5;
    let mut server = RawServer::start().await;
    let proxy =
        Proxy::start(&with("admission: { rate: 20/s, burst: 5, wait: 500ms }", &[format!("{:?}", server.url())]));
    let admitted = |result| proxy.metric("wsluice_upstream_admissions_total", &[APP, ("result", result)]);
    let started = Instant::now();
    let mut clients = vec![];
    for _ in 0..100 {
        clients.push(asking(&proxy, &Handshake::new()).await);
    }
    let clients = tokio::spawn(join_all(clients.into_iter().map(|mut client| async move {
        let head = client.head().await;
        if head.status() == 503 {
            assert!(client.body(&head).await.starts_with(b"admission: "));
        }
        (head, client)
    })));
    eventually("all are judged", || {
        let judged = admitted("at_once") + admitted("delayed") + admitted("refused");
        (judged == 100.0).then_some(())
    })
    .await;
    let let_in = (admitted("at_once") + admitted("delayed")) as usize;
    let mut open = vec![];
    for number in 1..=let_in {
        let mut upstream = server.accept().await;
        // A slow machine makes it later, never earlier.
        let earliest = number.saturating_sub(BURST) as f64 / RATE;
        assert!(started.elapsed().as_secs_f64() >= earliest, "number {number} came before {earliest} s");
        upstream.switch(&[]).await;
        open.push(upstream);
    }
    let answers: Vec<(Head, Conn)> = clients.await.unwrap();
    assert_eq!(answers.iter().filter(|(head, _)| head.status() == 101).count(), let_in);
    let refused = answers.iter().filter(|(head, _)| head.status() == 503);
    let seconds: Vec<u32> = refused.map(|(head, _)| head.get("retry-after").unwrap().parse().unwrap()).collect();
    assert_eq!(seconds.len(), 100 - let_in);
    assert_eq!(rejections(&proxy, "admission"), seconds.len() as f64);
    assert!(seconds.iter().all(|seconds| (1..=75).contains(seconds)), "{seconds:?}");
    if seconds.len() > 60 {
        // At 20 a second the last is over 3 s behind the first.
        assert!(seconds.iter().max().unwrap() - seconds.iter().min().unwrap() >= 2, "{seconds:?}");
    }
}

#[tokio::test]
async fn plain_requests_and_sessions_do_not_feel_the_pace() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&with("admission: { rate: 1/s, wait: 0s }", &[format!("{:?}", server.url())]));
    let mut client = asking(&proxy, &Handshake::new()).await;
    let mut upstream = server.accept().await;
    upstream.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    for _ in 0..5 {
        let mut plain = proxy.client().await;
        plain.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        let mut answering = server.accept().await;
        answering.head().await;
        answering.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
        assert_eq!(plain.head().await.status(), 204);
        let frame = Frame::text("hello");
        client.put(&frame).await;
        upstream.expect(&frame).await;
    }
}

// ---- the cookie

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn sticky(secrets: &str, servers: &[RawServer], max_connections: u32) -> String {
    let endpoints: Vec<_> = servers.iter().map(|server| endpoint(server.url(), max_connections)).collect();
    with(&format!("sticky: {{ cookie: srv, secrets: [{secrets}] }}"), &endpoints)
}

/// Opens a session with these cookies. Returns the number of the server that got it, its request, and the client's
/// response.
async fn open(proxy: &Proxy, servers: &mut [RawServer], cookies: &[&str]) -> (usize, Head, Head, [Conn; 2]) {
    let handshake = cookies.iter().fold(Handshake::new(), |handshake, line| handshake.with("Cookie", line));
    let mut client = asking(proxy, &handshake).await;
    let accepting = servers.iter_mut().map(|server| Box::pin(server.accept()));
    let (mut upstream, index, _) = futures_util::future::select_all(accepting).await;
    let request = upstream.switch(&[("Set-Cookie", "app=1"), ("Set-Cookie", "srv2=2")]).await;
    let answer = client.head().await;
    assert_eq!(answer.status(), 101);
    (index, request, answer, [client, upstream])
}

/// Returns the value of our cookie, if it was set.
fn set(answer: &Head) -> Option<String> {
    let all = answer.all("set-cookie");
    assert_eq!(all[..2], ["app=1", "srv2=2"], "the server's own pass");
    let ours = all.get(2)?.strip_prefix("srv=")?.strip_suffix("; Path=/; HttpOnly; SameSite=Lax").unwrap();
    assert_eq!(all.len(), 3);
    Some(ours.to_owned())
}

async fn servers(count: usize) -> Vec<RawServer> {
    let mut servers = vec![];
    for _ in 0..count {
        servers.push(RawServer::start().await);
    }
    servers
}

fn counted(proxy: &Proxy) -> [f64; 4] {
    ["new", "hit", "moved", "invalid"]
        .map(|result| proxy.metric("wsluice_upstream_sticky_total", &[APP, ("result", result)]))
}

#[tokio::test]
async fn a_client_comes_back_to_its_endpoint_through_any_instance_and_after_a_restart() {
    let mut servers = servers(3).await;
    let proxy = Proxy::start(&sticky(SECRET, &servers, 100));
    let (home, request, answer, _first) = open(&proxy, &mut servers, &[]).await;
    assert!(request.get("cookie").is_none());
    let token = set(&answer).unwrap();
    // No other cookie is changed; by load the others would be next.
    let ours = format!("a=1; srv={token}; b=\"2 \"");
    let mut sessions = vec![];
    for cookies in [&[&*ours, "srv=forged"][..], &["c=3", &ours]] {
        let (index, request, answer, session) = open(&proxy, &mut servers, cookies).await;
        assert_eq!((index, set(&answer)), (home, None));
        let others: Vec<&str> = cookies.iter().copied().filter(|line| line.starts_with("c=")).collect();
        assert_eq!(request.all("cookie"), [&others[..], &["a=1; b=\"2 \""]].concat());
        sessions.push(session);
    }
    assert_eq!(counted(&proxy), [1.0, 2.0, 0.0, 0.0]);
    drop((proxy, sessions, _first));
    // Another process, with another order of endpoints and a newer secret.
    servers.rotate_left(1);
    let home = (home + 2) % 3;
    let newer = "fedcba9876543210fedcba9876543210";
    let proxy = Proxy::start(&sticky(&format!("{newer}, {SECRET}"), &servers, 100));
    let (index, _, answer, _session) = open(&proxy, &mut servers, &[&ours]).await;
    assert_eq!(index, home);
    let renewed = set(&answer).unwrap();
    assert_ne!(renewed, token);
    let (index, _, answer, _session) = open(&proxy, &mut servers, &[&format!("srv={renewed}")]).await;
    assert_eq!((index, set(&answer)), (home, None));
    // A process without the secret does not recognise it.
    let proxy = Proxy::start(&sticky(SECRET, &servers, 100));
    let (_, _, answer, session) = open(&proxy, &mut servers, &[&format!("srv={renewed}")]).await;
    assert!(set(&answer).is_some());
    assert_eq!(counted(&proxy), [0.0, 0.0, 0.0, 1.0]);
    let [client, upstream] = session;
    close(client, upstream).await;
    assert_eq!(proxy.log_lines(1).await[0]["sticky"], "invalid");
}

#[tokio::test]
async fn a_client_whose_endpoint_is_full_or_gone_gets_another_and_a_new_cookie() {
    let mut servers = servers(2).await;
    let proxy = Proxy::start(&sticky(SECRET, &servers, 1));
    let (home, _, answer, first) = open(&proxy, &mut servers, &[]).await;
    let token = format!("srv={}", set(&answer).unwrap());
    let (elsewhere, _, answer, second) = open(&proxy, &mut servers, &[&token]).await;
    assert_ne!(elsewhere, home);
    let moved = format!("srv={}", set(&answer).unwrap());
    for [client, upstream] in [first, second] {
        close(client, upstream).await;
    }
    proxy.idle().await;
    // Its new endpoint now refuses connections.
    let gone = servers.remove(elsewhere);
    drop(gone);
    let (_, _, answer, _session) = open(&proxy, &mut servers, &[&moved]).await;
    assert!(set(&answer).is_some());
    assert_eq!(counted(&proxy), [1.0, 0.0, 2.0, 0.0]);
}

#[tokio::test]
async fn an_answer_to_a_plain_request_sets_the_cookie_and_is_kept_from_shared_caches() {
    let mut servers = servers(2).await;
    let proxy = Proxy::start(&sticky(SECRET, &servers, 100));
    let mut plain = proxy.client().await;
    plain.send("GET / HTTP/1.1\r\nHost: example.com\r\nCookie: srv=x\r\nCookie: a=1; srv=y\r\n\r\n").await;
    let accepting = servers.iter_mut().map(|server| Box::pin(server.accept()));
    let (mut upstream, home, _) = futures_util::future::select_all(accepting).await;
    assert_eq!(upstream.head().await.all("cookie"), ["a=1"]);
    upstream.send("HTTP/1.1 204 No Content\r\nSet-Cookie: app=1\r\nSet-Cookie: srv2=2\r\n\r\n").await;
    let answer = plain.head().await;
    assert_eq!(answer.get("cache-control"), Some("private"));
    let token = set(&answer).unwrap();
    // Its WebSocket goes to the same endpoint.
    let (index, _, answer, _session) = open(&proxy, &mut servers, &[&format!("srv={token}")]).await;
    assert_eq!((index, set(&answer)), (home, None));
}
