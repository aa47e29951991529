//! Drains of a listener, a route, an upstream or an endpoint, and their end, while the rest of the process goes on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use wsluice::control::{ControlRequest, DrainTarget, ReloadError};

use crate::harness::{Conn, Echo, Event, Frame, Handshake, Proxy, RawServer, eventually, within};
use crate::plain::{get, ok};

/// Two listeners, two routes by path; `one` has two endpoints, `two` has one.
struct Parts {
    proxy: Proxy,
    first: Echo,
    second: Echo,
    other: Echo,
    /// Returns the address of the first listener.
    left: PathBuf,
    _dir: tempfile::TempDir,
}

impl Parts {
    async fn start() -> Parts {
        let (first, second, other) = (Echo::start().await, Echo::start().await, Echo::start().await);
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("left.sock");
        let text = format!(
            r#"
workers: 2
listeners:
  - {{ name: left, bind: "unix:{}" }}
  - {{ name: right, bind: "127.0.0.1:0" }}
routes:
  - {{ name: one, match: {{ path: {{ prefix: /one }} }}, upstream: one }}
  - {{ name: two, match: {{ path: {{ prefix: /two }} }}, upstream: two }}
upstreams:
  one: {{ balance: round_robin, endpoints: ["{}", "{}"] }}
  two: {{ endpoints: ["{}"] }}
"#,
            left.display(),
            first.url(),
            second.url(),
            other.url()
        );
        Parts { proxy: Proxy::start(&text), first, second, other, left, _dir: dir }
    }

    async fn client(&self, listener: &str) -> Conn {
        Conn::connect(self.proxy.listener(listener)).await
    }

    async fn open(&self, listener: &str, path: &str) -> Conn {
        let mut client = self.client(listener).await;
        client.open(&Handshake::to(path)).await;
        // With the first message the session is in all counters.
        echoes(&mut client, "there").await;
        client
    }

    /// Opens this number of sessions on the target, and some elsewhere.
    async fn sessions(&self, target: &DrainTarget, count: usize) -> (Vec<Conn>, Vec<Conn>) {
        // Those of the last target may still be counted.
        self.proxy.idle().await;
        let (mut meant, mut others) = (vec![], vec![]);
        if let DrainTarget::Endpoint { endpoint, .. } = target {
            // They take turns; which is next is unknown.
            for _ in 0..2 * count {
                let before = self.picks(endpoint);
                let session = self.open("left", "/one").await;
                if self.picks(endpoint) > before { meant.push(session) } else { others.push(session) }
            }
        }
        for _ in 0..count {
            match target {
                DrainTarget::Listener { .. } => {
                    meant.push(self.open("left", "/one").await);
                    others.push(self.open("right", "/one").await);
                }
                DrainTarget::Route { .. } | DrainTarget::Upstream { .. } => {
                    meant.push(self.open("left", "/one").await);
                    others.push(self.open("right", "/two").await);
                }
                DrainTarget::Endpoint { .. } => {}
            }
        }
        (meant, others)
    }

    async fn drain(&self, target: &DrainTarget, span: Duration) -> Option<usize> {
        let target = target.clone();
        let control = self.proxy.app.control();
        within("a drain", control.request(|done| ControlRequest::Drain { target, span, done })).await.unwrap()
    }

    async fn end(&self, target: &DrainTarget) -> Result<bool, ReloadError> {
        let target = target.clone();
        let control = self.proxy.app.control();
        within("the end of a drain", control.request(|done| ControlRequest::EndDrain { target, done })).await.unwrap()
    }

    fn targets(&self) -> [(DrainTarget, &'static str, &'static str); 4] {
        let one = || "one".to_owned();
        [
            (
                DrainTarget::Listener { name: "left".to_owned() },
                "listener_drain",
                "this address is taken out of service, please reconnect",
            ),
            (DrainTarget::Route { name: one() }, "route_drain", "this service is moved, please reconnect"),
            (
                DrainTarget::Upstream { name: one() },
                "upstream_drain",
                "the servers are taken out of service, please reconnect",
            ),
            (
                DrainTarget::Endpoint { upstream: one(), endpoint: self.first.url() },
                "endpoint_drain",
                "this server is taken out of service, please reconnect",
            ),
        ]
    }

    fn closed(&self, label: &str) -> f64 {
        let labels = |route| [("route", route), ("initiator", "proxy"), ("code", "1012"), ("reason", label)];
        let of = |route| self.proxy.metric("wsluice_session_closes_total", &labels(route));
        of("one") + of("two")
    }

    /// Returns how often an endpoint of `one` was chosen.
    fn picks(&self, endpoint: &str) -> f64 {
        self.proxy.metric("wsluice_endpoint_picks_total", &[("upstream", "one"), ("endpoint", endpoint)])
    }

    /// Returns true if a session can be opened there.
    async fn is_let_in(&self, target: &DrainTarget) -> bool {
        match target {
            DrainTarget::Listener { .. } => {
                let Ok(stream) = tokio::net::UnixStream::connect(&self.left).await else { return false };
                Conn::client(crate::harness::Io::Unix(stream)).open(&Handshake::to("/one")).await;
                true
            }
            DrainTarget::Route { .. } | DrainTarget::Upstream { .. } => {
                let status = self.client("right").await.ask(&Handshake::to("/one")).await.status();
                assert!(matches!(status, 101 | 503), "{status}");
                status == 101
            }
            DrainTarget::Endpoint { endpoint, .. } => {
                let before = self.picks(endpoint);
                for _ in 0..2 {
                    drop(self.open("right", "/one").await);
                }
                self.picks(endpoint) > before
            }
        }
    }
}

async fn echoes(client: &mut Conn, text: &str) {
    client.put(&Frame::text(text)).await;
    client.expect(&Frame::text(text)).await;
}

#[tokio::test]
async fn sessions_of_what_is_drained_are_closed_in_time_and_nobody_else_is() {
    let parts = Parts::start().await;
    for (target, label, reason) in parts.targets() {
        let (meant, mut others) = parts.sessions(&target, 6).await;
        assert_eq!(parts.drain(&target, Duration::from_secs(1)).await, Some(6), "{target}");
        let drains = parts.proxy.app.control().drains();
        assert_eq!((drains.len(), &drains[0].target, drains[0].span), (1, &target, Duration::from_secs(1)));
        assert!(!parts.is_let_in(&target).await, "{target}");
        for mut client in meant {
            assert_eq!(client.expect_closed_with(1012).await, reason, "{target}");
            client.finish().await;
        }
        for client in &mut others {
            echoes(client, "still here").await;
        }
        eventually("the books", || (parts.closed(label) == 6.0).then_some(())).await;
        assert!(!parts.is_let_in(&target).await, "{target}: until it is ended");
        assert!(parts.end(&target).await.unwrap());
        assert!(parts.proxy.app.control().drains().is_empty());
        assert!(parts.is_let_in(&target).await, "{target}");
        assert!(!parts.end(&target).await.unwrap(), "{target}: there is none any more");
        assert_eq!(parts.closed(label), 6.0, "{target}: nobody else");
    }
}

#[tokio::test]
async fn sessions_that_were_not_due_stay_when_a_drain_is_ended() {
    let parts = Parts::start().await;
    for (target, label, _) in parts.targets() {
        let (meant, others) = parts.sessions(&target, 20).await;
        let (before, begun) = (parts.closed(label), Instant::now());
        // One each 850 ms, except for three seconds of pauses.
        assert_eq!(parts.drain(&target, Duration::from_secs(20)).await, Some(20));
        eventually("the first to go", || (parts.closed(label) > before).then_some(())).await;
        assert!(parts.end(&target).await.unwrap());
        let took = begun.elapsed();
        assert!(parts.is_let_in(&target).await, "{target}");
        // Meanwhile another drain takes its time, in which some of the first would have been due.
        let two = parts.open("right", "/two").await;
        let drained =
            parts.drain(&DrainTarget::Route { name: "two".to_owned() }, Duration::from_secs(3)).await.unwrap();
        assert!(drained >= 1);
        let mut two = two;
        two.expect_closed_with(1012).await;
        drop(others);
        assert!(parts.end(&DrainTarget::Route { name: "two".to_owned() }).await.unwrap());
        let (mut gone, mut stayed) = (0, 0);
        for mut client in meant {
            // A closed session may have no way left to send anything.
            let _ = client.try_send(Frame::text("still here?").masked()).await;
            match client.event().await {
                Event::Frame(frame) if frame.opcode == crate::harness::CLOSE => gone += 1,
                Event::Frame(frame) => {
                    assert_eq!(frame, Frame::text("still here?"));
                    stayed += 1;
                }
                other => panic!("{target}: {other:?}"),
            }
        }
        assert_eq!(gone + stayed, 20);
        // The first ends when its client has not answered for two seconds, in which others were due.
        let due = (took.as_secs_f64() / 0.85).ceil() as u32;
        assert!((1..=due).contains(&gone), "{target}: {gone} have gone in {took:?}");
        // Those of the other drain have the same label.
        if label != "route_drain" {
            // A session is counted when it is over, which may be after its Close was seen.
            let what = format!("{gone} closes for {target}");
            eventually(&what, || (parts.closed(label) - before == f64::from(gone)).then_some(())).await;
        }
    }
}

#[tokio::test]
async fn a_drain_outlasts_a_reload_and_what_it_drains_may_change_meanwhile() {
    let mut parts = Parts::start().await;
    let before = parts.proxy.yaml();
    for (target, ..) in parts.targets() {
        // All at once.
        let (meant, _others) = parts.sessions(&target, 3).await;
        assert_eq!(parts.drain(&target, Duration::ZERO).await, Some(3), "{target}");
        for mut client in meant {
            client.expect_closed_with(1012).await;
        }
        let changed = before
            .replace("name: one, match", "name: one, limits: { connections: 1000 }, match")
            .replace("balance: round_robin", "balance: round_robin, when_all_down: refuse")
            .replace("name: left,", "name: left, limits: { connections: 1000 },");
        assert!(!parts.proxy.reload(&changed).await.unwrap().is_empty());
        assert!(!parts.is_let_in(&target).await, "{target}");
        assert!(parts.end(&target).await.unwrap());
        assert!(parts.is_let_in(&target).await, "{target}");
        parts.proxy.reload(&before).await.unwrap();
        assert!(parts.is_let_in(&target).await, "{target}");
    }
}

#[tokio::test]
async fn a_request_on_a_listener_that_is_drained_is_answered_and_its_connection_ends() {
    let mut upstream = RawServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("left.sock");
    let text = crate::harness::yaml(&[upstream.url()], &[])
        .replace("\"127.0.0.1:0\"", &format!("\"unix:{}\"", path.display()));
    let proxy = Proxy::start(&text);
    let mut idle = proxy.client().await;
    let mut client = proxy.client().await;
    client.send(get("/")).await;
    let mut server = upstream.accept().await;
    server.head().await;
    let target = DrainTarget::Listener { name: "plain".to_owned() };
    let control = proxy.app.control();
    let order = target.clone();
    let drain = control.request(|done| ControlRequest::Drain { target: order, span: Duration::from_secs(5), done });
    assert_eq!(drain.await.unwrap(), Some(0), "no session");
    assert_eq!(control.in_force().listeners.len(), 0);
    idle.expect_end().await;
    server.send(ok("")).await;
    let answer = client.head().await;
    assert_eq!((answer.status(), answer.get("connection")), (200, Some("close")));
    client.expect_end().await;
    // Another process has its address meanwhile: it stays drained until the sessions have ended.
    let taken = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let end = async || {
        let target = target.clone();
        control.request(|done| ControlRequest::EndDrain { target, done }).await.unwrap()
    };
    assert!(matches!(end().await, Err(ReloadError::Bind { .. })));
    assert_eq!(control.drains().len(), 1);
    drop(taken);
    assert!(end().await.unwrap());
    assert_eq!(control.in_force().listeners.len(), 1);
    let mut client = proxy.client().await;
    client.send(get("/")).await;
    // Over the existing connection.
    server.head().await;
}

#[tokio::test]
async fn what_is_not_there_cannot_be_drained() {
    let parts = Parts::start().await;
    let none = || "none".to_owned();
    for target in [
        DrainTarget::Listener { name: none() },
        DrainTarget::Route { name: none() },
        DrainTarget::Upstream { name: none() },
        DrainTarget::Endpoint { upstream: "one".to_owned(), endpoint: parts.other.url() },
        DrainTarget::Endpoint { upstream: none(), endpoint: parts.second.url() },
    ] {
        assert_eq!(parts.drain(&target, Duration::from_secs(1)).await, None, "{target}");
        assert!(!parts.end(&target).await.unwrap(), "{target}");
    }
    assert!(parts.proxy.app.control().drains().is_empty());
}
