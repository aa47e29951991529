//! Sessions that are moved off their endpoint: for balance, or because it is drained, removed, or down.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::harness::{Behavior, Conn, Frame, Handshake, Proxy, ScriptedServer, eventually, yaml};

/// Starts a proxy that discovers its endpoints from a file.
struct FileEndpoints {
    proxy: Proxy,
    path: PathBuf,
    _dir: TempDir,
}

impl FileEndpoints {
    fn start(upstream: &str, list: &[String]) -> FileEndpoints {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("app.yaml");
        put(&path, list);
        let told = format!("{{ discover: {{ file: {{ path: {path:?} }} }}, {upstream} }}");
        let proxy = Proxy::start(&yaml(&[], &[]).replace("{ endpoints: [] }", &told));
        FileEndpoints { proxy, path, _dir: dir }
    }

    fn becomes(&self, list: &[String]) {
        put(&self.path, list);
    }

    async fn open(&self) -> Conn {
        let mut client = self.proxy.client().await;
        assert_eq!(client.ask(&Handshake::new()).await.status(), 101);
        client
    }

    async fn open_many(&self, count: usize) -> Vec<Conn> {
        let mut sessions = vec![];
        for _ in 0..count {
            sessions.push(self.open().await);
        }
        sessions
    }

    fn on(&self, server: &ScriptedServer) -> Option<f64> {
        self.proxy.series("wsluice_endpoint_sessions_active", &[("upstream", "app"), ("endpoint", &*server.url())])
    }

    async fn holds(&self, server: &ScriptedServer, sessions: f64) {
        let what = format!("{sessions} sessions on {}, not {:?}", server.url(), self.on(server));
        eventually(&what, || (self.on(server) == Some(sessions)).then_some(())).await;
    }

    fn closed(&self, reason: &str) -> f64 {
        let labels = [("route", "all"), ("initiator", "proxy"), ("code", "1012"), ("reason", reason)];
        self.proxy.metric("wsluice_session_closes_total", &labels)
    }
}

fn put(path: &PathBuf, list: &[String]) {
    let text: String = list.iter().map(|endpoint| format!("- {endpoint}\n")).collect();
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

async fn echoes(client: &mut Conn, text: &str) {
    client.put(&Frame::text(text)).await;
    client.expect(&Frame::text(text)).await;
}

#[tokio::test]
async fn a_server_that_joins_gets_its_share_of_the_sessions_there_are() {
    let [one, two, three] = ScriptedServer::start_many::<3>(Behavior::Well).await;
    let told =
        FileEndpoints::start("rebalance: { rate: 1000/s, tolerance: 10%, settle: 100ms }", &[one.url(), two.url()]);
    let mut sessions = told.open_many(20).await;
    // The first twelve send, so the last eight have been quiet for longest.
    for session in sessions.iter_mut().rev().take(8) {
        echoes(session, "once").await;
    }
    // More than a tick of the sessions' clock.
    tokio::time::sleep(Duration::from_millis(50)).await;
    for session in sessions.iter_mut().take(12) {
        echoes(session, "later").await;
    }
    told.becomes(&[one.url(), two.url(), three.url()]);
    // 20 sessions on 3 are 6.67 each, and 7 are within the tolerance: three of each ten leave.
    eventually("six were moved", || (told.closed("rebalance") == 6.0).then_some(())).await;
    let mut stayed = sessions.drain(..12).collect::<Vec<_>>();
    let mut moved = 0;
    for mut session in sessions {
        session.put(&Frame::text("still there?")).await;
        let frame = session.frame().await;
        match (frame.opcode == 8).then(|| frame.code()).flatten() {
            Some(1012) => moved += 1,
            code => {
                assert_eq!(code, None);
                stayed.push(session);
            }
        }
    }
    assert_eq!(moved, 6, "all of those who had been quiet for longest");
    let came_back = told.open_many(6).await;
    told.holds(&three, 6.0).await;
    assert_eq!((told.on(&one), told.on(&two)), (Some(7.0), Some(7.0)));
    for session in &mut stayed {
        echoes(session, "undisturbed").await;
    }
    assert_eq!(told.closed("rebalance"), 6.0, "nobody is moved twice");
    drop((came_back, stayed));
}

#[tokio::test]
async fn clients_that_come_back_while_others_are_still_moved_do_not_end_it_early() {
    let [one, two, three] = ScriptedServer::start_many::<3>(Behavior::Well).await;
    let told = Arc::new(FileEndpoints::start(
        "rebalance: { rate: 10/s, tolerance: 10%, settle: 100ms }",
        &[one.url(), two.url()],
    ));
    let mut clients = JoinSet::new();
    for mut client in told.open_many(40).await {
        let told = Arc::clone(&told);
        clients.spawn(async move {
            loop {
                client.event().await;
                client = told.open().await;
            }
        });
    }
    told.becomes(&[one.url(), two.url(), three.url()]);
    // The share is 13.3 each, 14 are within the tolerance: six of each twenty leave.
    // A moved session may be counted on its new endpoint before it leaves the count of its old one.
    for (server, sessions) in [(&three, 12.0), (&one, 14.0), (&two, 14.0)] {
        told.holds(server, sessions).await;
    }
    assert_eq!(told.closed("rebalance"), 12.0);
}

#[tokio::test]
async fn an_endpoint_that_is_drained_takes_nobody_and_is_empty_in_time() {
    let [one, two] = ScriptedServer::start_many::<2>(Behavior::Well).await;
    let told = FileEndpoints::start("", &[one.url(), two.url()]);
    let mut sessions = told.open_many(8).await;
    told.becomes(&[format!("{{ url: {:?}, drain: 1s }}", one.url()), two.url()]);
    told.holds(&one, 0.0).await;
    assert_eq!(told.closed("endpoint_drain"), 4.0);
    assert_eq!(told.on(&two), Some(4.0));
    sessions.extend(told.open_many(2).await);
    assert_eq!((told.on(&one), told.on(&two)), (Some(0.0), Some(6.0)));
    // It is used again, and nothing of the drain is left.
    told.becomes(&[one.url(), two.url()]);
    eventually("sessions go to it again", || (told.on(&one)? == 0.0).then_some(())).await;
    let labels = [("upstream", "app"), ("provider", "file")];
    told.proxy.metric_becomes("wsluice_discovery_updates_total", &labels, 3.0).await;
    let mut last = told.open_many(6).await;
    assert_eq!((told.on(&one), told.on(&two)), (Some(6.0), Some(6.0)));
    for session in &mut last {
        echoes(session, "undisturbed").await;
    }
    assert_eq!(told.closed("endpoint_drain"), 4.0);
}

#[tokio::test]
async fn sessions_of_an_endpoint_that_is_taken_out_leave_if_that_is_wanted() {
    for (upstream, leave) in [("drain_removed: 1s", true), ("", false)] {
        let [one, two] = ScriptedServer::start_many::<2>(Behavior::Well).await;
        let told = FileEndpoints::start(upstream, &[one.url(), two.url()]);
        let mut sessions = told.open_many(4).await;
        told.becomes(&[two.url()]);
        let labels = [("upstream", "app"), ("provider", "file")];
        told.proxy.metric_becomes("wsluice_discovery_endpoints", &labels, 1.0).await;
        if leave {
            eventually("its series has gone with its last session", || told.on(&one).is_none().then_some(())).await;
            assert_eq!((told.closed("endpoint_drain"), told.on(&two)), (2.0, Some(2.0)));
        } else {
            for session in &mut sessions {
                echoes(session, "undisturbed").await;
            }
            assert_eq!((told.closed("endpoint_drain"), told.on(&one)), (0.0, Some(2.0)));
        }
    }
}

#[tokio::test]
async fn sessions_of_an_endpoint_that_is_down_are_closed_if_that_is_wanted() {
    let [one, two] = ScriptedServer::start_many::<2>(Behavior::Well).await;
    let check = "health: { http: { path: /, every: 400ms, timeout: 400ms, rise: 1, fall: 2 } }";
    let told = FileEndpoints::start(&format!("{check}, on_down: close"), &[one.url(), two.url()]);
    let mut sessions = told.open_many(4).await;
    // Its sessions work, but its check fails.
    one.set_behavior(Behavior::Busy);
    told.holds(&one, 0.0).await;
    assert_eq!((told.closed("endpoint_down"), told.on(&two)), (2.0, Some(2.0)));
    sessions.extend(told.open_many(2).await);
    assert_eq!(told.on(&two), Some(4.0));
}
