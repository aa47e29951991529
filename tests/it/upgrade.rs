//! Upgrades by USR2: the next process takes over, and neither new nor existing connections suffer. Uses real processes, which
//! inherit each other's output, so that one pipe has the lines of all.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, set_child_subreaper, test_kill_process,
    waitid, waitpid,
};
use wsluice::control::{ProcessOrigin, ReloadError, Succession, Trigger};
use wsluice::handover::{Deadlines, HandoverOffer, Invocation, Known, Predecessors, UpgradeError};
use wsluice::net::listener::{Address, bind};
use wsluice::telemetry::logging::Format;
use wsluice::upstream::endpoint_state::EndpointStates;

use crate::harness::{Conn, Echo, Event, Frame, Handshake, Proxy, eventually, within, yaml};
use crate::plain::{at_home, get};
use crate::process::{Process, wsluice};

/// A process and all its successors. Dropping it kills the remaining ones.
pub struct ProcessChain {
    pub process: Process,
    /// Their process ids, the youngest last.
    pub pids: Vec<Pid>,
}

pub fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

impl ProcessChain {
    pub fn new(process: Process) -> ProcessChain {
        // An orphan becomes our child, so we can wait for it and read its exit status.
        set_child_subreaper(Some(getpid())).unwrap();
        let pids = vec![pid(process.pid())];
        ProcessChain { process, pids }
    }

    pub fn start(dir: &Path, yaml: &str) -> ProcessChain {
        ProcessChain::new(Process::start(dir, yaml))
    }

    pub fn youngest(&self) -> Pid {
        *self.pids.last().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.youngest(), signal).unwrap();
    }

    /// Sends USR2, and returns once the next process has started.
    pub async fn begin(&mut self) -> Pid {
        self.signal(Signal::USR2);
        let line = self.process.message("starting the next process").await;
        pid(u32::try_from(line["pid"].as_u64().unwrap()).unwrap())
    }

    /// Upgrades, and waits until the next process has taken over. Returns the old one.
    pub async fn upgrade(&mut self) -> Pid {
        let next = self.begin().await;
        self.pids.push(next);
        let line = self.process.message("the next process has taken over").await;
        assert_eq!(line["pid"].as_i64(), Some(next.as_raw_nonzero().get().into()));
        self.pids[self.pids.len() - 2]
    }

    /// Waits for the end of a process. Returns its exit code.
    pub async fn end(&mut self, number: Pid) -> Option<i32> {
        if number == pid(self.process.pid()) {
            return eventually("the end of the first process", || self.process.exited()).await.code();
        }
        let waited = eventually("the end of a process", || {
            // While its parent lives, we cannot wait for it.
            waitpid(Some(number), WaitOptions::NOHANG).ok().flatten()
        });
        waited.await.1.exit_status()
    }

    /// Ends the youngest process and waits for it.
    pub async fn finish(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.end(self.youngest()).await, Some(0));
    }
}

impl Drop for ProcessChain {
    fn drop(&mut self) {
        // The first one is killed by its own handle.
        for pid in self.pids.drain(1..) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

pub fn is_there(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

/// Returns `/metrics` of the youngest process.
pub async fn metrics(admin: &Address) -> String {
    let mut conn = Conn::connect(admin).await;
    conn.send(at_home("/metrics")).await;
    let head = conn.head().await;
    assert_eq!(head.status(), 200);
    String::from_utf8(conn.body(&head).await).unwrap()
}

/// Waits until a metric of the youngest process has this value.
pub async fn shows(admin: &Address, line: &str) {
    within(line, async {
        while !metrics(admin).await.lines().any(|found| found == line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Opens a session and checks that it works.
async fn session(address: &Address) -> Conn {
    let mut client = Conn::connect(address).await;
    client.open(&Handshake::to("/ws")).await;
    echoes(&mut client).await;
    client
}

async fn echoes(client: &mut Conn) {
    client.put(&Frame::text("hello")).await;
    client.expect(&Frame::text("hello")).await;
}

/// Closes the session from the client.
async fn goes(mut client: Conn) {
    client.put(&Frame::close(1000, "")).await;
    assert_eq!(client.expect_close().await.0, Some(1000));
    client.expect_end().await;
}

/// Returns a configuration with an admin listener and these lines, without log lines of sessions.
pub fn configuration(endpoints: &[&str], more: &str) -> String {
    let route = ["match: { path: { prefix: /ws } }"];
    yaml(endpoints, &route)
        + "admin: { bind: \"127.0.0.1:0\" }\nlog: { format: json, access: false }\nwatch: false\n"
        + more
}

// ---- new clients

/// Clients that connect in sequence, send a request, and expect a response.
struct Visitors {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<VisitTimes>>,
}

#[derive(Debug, Default)]
struct VisitTimes {
    failures: Vec<String>,
    slowest: Duration,
    /// The longest time without a response.
    gap: Duration,
}

/// Connects, sends a request, and reads the response.
type Ask = Box<dyn Fn() -> std::io::Result<String> + Send>;

impl Visitors {
    /// Starts clients that repeat at this interval, as far as the machine can.
    fn come(clients: Vec<(Duration, Ask)>) -> Visitors {
        let (is_over, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let threads = clients.into_iter().map(|(every, ask)| {
            let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
            std::thread::spawn(move || {
                let (mut visits, mut next) = (VisitTimes::default(), Instant::now());
                let mut last = next;
                while !is_over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    match ask() {
                        Ok(answer) if answer.starts_with("HTTP/1.1 404 ") => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(answer) => visits.failures.push(format!("answered {answer:?}")),
                        Err(error) => visits.failures.push(error.to_string()),
                    }
                    let now = Instant::now();
                    visits.slowest = visits.slowest.max(now - begun);
                    visits.gap = visits.gap.max(now - last);
                    last = now;
                    next = (next + every).max(begun);
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                visits
            })
        });
        let threads = threads.collect();
        Visitors { is_over, answered, threads }
    }

    /// Returns how many were answered, the slowest response, and the longest time without a response.
    fn go(self) -> (usize, Duration, Duration) {
        self.is_over.store(true, Ordering::Relaxed);
        let visits: Vec<VisitTimes> = self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let failures: Vec<&String> = visits.iter().flat_map(|visits| &visits.failures).collect();
        assert!(failures.is_empty(), "{} failures: {:#?}", failures.len(), &failures[..failures.len().min(9)]);
        let slowest = visits.iter().map(|visits| visits.slowest).max().unwrap();
        let gap = visits.iter().map(|visits| visits.gap).max().unwrap();
        (self.answered.load(Ordering::Relaxed), slowest, gap)
    }
}

/// Requests a path without a route, so that the proxy itself answers.
fn ask(mut stream: impl Read + Write) -> std::io::Result<String> {
    stream.write_all(b"GET /none HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test]
async fn through_twenty_upgrades_nobody_is_refused_and_no_session_ends() {
    const UPGRADES: usize = 20;
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("upgrade.sock");
    let second = format!("listeners:\n  - {{ name: local, bind: \"unix:{}\" }}\n", path.display());
    let text = configuration(&[&echo.url()], "on_upgrade: keep\n").replace("listeners:\n", &second);
    let with_workers = |count: usize| text.replace("workers: 1", &format!("workers: {count}"));
    let mut chain = ProcessChain::start(dir.path(), &with_workers(2));
    let listening = [chain.process.listening().await, chain.process.listening().await];
    let plain = listening.iter().find(|address| address.tcp().is_some()).unwrap().clone();
    let admin = chain.process.admin().await;
    let addr = plain.tcp().unwrap();
    let over_tcp = move || {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        ask(stream)
    };
    let socket = path.clone();
    let over_unix = move || {
        let stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        ask(stream)
    };
    let visitors = Visitors::come(vec![
        (Duration::from_millis(4), Box::new(over_tcp)),
        (Duration::from_millis(4), Box::new(over_tcp)),
        (Duration::from_millis(20), Box::new(over_unix)),
    ]);
    let mut sessions = vec![];
    let begun = Instant::now();
    for round in 0..UPGRADES {
        let address = if round % 4 == 3 { Address::Unix(path.clone()) } else { plain.clone() };
        sessions.push(session(&address).await);
        // They arrive while the processes change, not only before.
        let seen = visitors.answered.load(Ordering::Relaxed);
        std::fs::write(dir.path().join("wsluice.yaml"), with_workers(1 + round % 3)).unwrap();
        chain.upgrade().await;
        eventually("newcomers", || (visitors.answered.load(Ordering::Relaxed) > seen + 100).then_some(())).await;
    }
    let took = begun.elapsed();
    let (answered, slowest, gap) = visitors.go();
    println!(
        "{answered} connections through {UPGRADES} upgrades in {took:?}: slowest {slowest:?}, longest gap {gap:?}"
    );
    assert!(answered > UPGRADES * 100, "{answered}");

    // Each is in its own process, and the youngest knows all of them.
    for client in &mut sessions {
        echoes(client).await;
    }
    shows(&admin, &format!("wsluice_predecessors {UPGRADES}")).await;
    let series = format!("wsluice_predecessor_sessions{{endpoint=\"{}\",upstream=\"app\"}}", echo.url());
    shows(&admin, &format!("{series} {UPGRADES}")).await;
    shows(&admin, "wsluice_inherited_listeners 3").await;
    shows(&admin, &format!("wsluice_upgrades_total{{result=\"done\"}} {UPGRADES}")).await;
    // The middle one ends first, and then all the others.
    for client in sessions.drain(7..9) {
        goes(client).await;
    }
    shows(&admin, &format!("{series} {}", UPGRADES - 2)).await;
    shows(&admin, &format!("wsluice_predecessors {}", UPGRADES - 2)).await;
    for client in sessions {
        goes(client).await;
    }
    shows(&admin, "wsluice_predecessors 0").await;
    assert!(!metrics(&admin).await.contains(&series));
    for pid in chain.pids.clone().into_iter().take(UPGRADES) {
        assert_eq!(chain.end(pid).await, Some(0));
    }
    // The file of the Unix socket has been passed on each time, and is removed with the last.
    goes(session(&Address::Unix(path.clone())).await).await;
    chain.finish().await;
    assert!(!path.exists());
}

// ---- existing clients

#[tokio::test]
async fn sessions_are_closed_as_on_upgrade_says_and_the_old_process_ends() {
    for on_upgrade in ["close", "drain 1s"] {
        let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
        let text = configuration(&[&echo.url()], &format!("on_upgrade: {on_upgrade}\n"));
        let mut chain = ProcessChain::start(dir.path(), &text);
        let (address, admin) = (chain.process.listening().await, chain.process.admin().await);
        let mut sessions = vec![];
        for _ in 0..5 {
            sessions.push(session(&address).await);
        }
        // A client that has sent a request and may send more, and one that has not.
        let (mut kept, mut new) = (Conn::connect(&address).await, Conn::connect(&address).await);
        kept.send(get("/none")).await;
        let head = kept.head().await;
        kept.body(&head).await;
        let old = chain.upgrade().await;
        assert!(matches!(kept.event().await, Event::End | Event::Reset));
        for client in &mut sessions {
            client.expect_closed_with(1012).await;
            client.finish().await;
        }
        // The old process admitted it, and still serves it.
        new.send(get("/none")).await;
        let head = new.head().await;
        assert_eq!(head.status(), 404);
        new.body(&head).await;
        new.expect_end().await;
        assert_eq!(chain.end(old).await, Some(0));
        goes(session(&address).await).await;
        shows(&admin, "wsluice_predecessors 0").await;
        chain.finish().await;
    }
}

#[tokio::test]
async fn what_is_told_to_the_old_process_and_to_the_new_is_done_by_each() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let text = configuration(&[&echo.url()], "on_upgrade: keep\ndrain: { delay: 60s, time: 2s }\n");
    let mut chain = ProcessChain::start(dir.path(), &text);
    let address = chain.process.listening().await;
    let mut before = session(&address).await;
    let old = chain.upgrade().await;
    let mut after = session(&address).await;
    // The old process serves neither of these any more.
    kill_process(old, Signal::HUP).unwrap();
    let line = chain.process.message("the reload is refused").await;
    assert!(line["reason"].as_str().unwrap().contains("has taken over"), "{line}");
    kill_process(old, Signal::USR2).unwrap();
    let line = chain.process.message("no upgrade").await;
    assert!(line["reason"].as_str().unwrap().contains("has taken over"), "{line}");
    echoes(&mut before).await;
    // The old process serves this one: without a delay, since no client is sent to it.
    kill_process(old, Signal::TERM).unwrap();
    before.expect_closed_with(1012).await;
    before.finish().await;
    assert_eq!(chain.end(old).await, Some(0));
    echoes(&mut after).await;
    chain.signal(Signal::HUP);
    chain.process.message("configuration read again").await;
}

// ---- failures

/// Returns the children and descriptors of a process.
fn belongings(pid: Pid) -> (BTreeSet<String>, usize) {
    let pid = pid.as_raw_nonzero();
    let mut children = BTreeSet::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(text.split_whitespace().map(str::to_owned));
    }
    (children, std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
}

#[tokio::test]
async fn a_next_process_that_fails_or_is_killed_changes_nothing() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let text = configuration(&[&echo.url()], "");
    let mut chain = ProcessChain::start(dir.path(), &text);
    let (address, admin) = (chain.process.listening().await, chain.process.admin().await);
    let mut client = session(&address).await;
    let old = chain.youngest();
    shows(&admin, "wsluice_upgrades_total{result=\"not_ready\"} 0").await;
    let before = belongings(old);
    let file = dir.path().join("wsluice.yaml");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let there = format!("listeners:\n  - {{ name: more, bind: \"{}\" }}\n", taken.local_addr().unwrap());
    for (text, cause) in [
        ("version: 7".to_owned(), "ended before it was ready (exit code 78)"),
        (text.replace("listeners:\n", &there), "refused: listener more: "),
    ] {
        std::fs::write(&file, &text).unwrap();
        let next = chain.begin().await;
        let line = chain.process.message("the upgrade has failed").await;
        assert!(line["error"].as_str().unwrap().contains(cause), "{line}");
        eventually("the end of the next process", || (!is_there(next)).then_some(())).await;
        echoes(&mut client).await;
    }
    // Now it waits for the file to be written.
    std::fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    for (signal, cause) in [(Signal::KILL, "(signal 9)"), (Signal::TERM, "(signal 15)")] {
        let next = chain.begin().await;
        kill_process(next, signal).unwrap();
        let line = chain.process.message("the upgrade has failed").await;
        assert!(line["error"].as_str().unwrap().contains(cause), "{line}");
        eventually("the end of the next process", || (!is_there(next)).then_some(())).await;
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &text).unwrap();
    shows(&admin, "wsluice_upgrades_total{result=\"refused\"} 1").await;
    // No more than before: the end of a scrape may not have been noticed then. Each attempt takes several.
    let stays = || {
        let after = belongings(old);
        (after.0 == before.0 && after.1 <= before.1).then_some(())
    };
    eventually("the descriptors and children that it had before", stays).await;
    goes(session(&address).await).await;
    echoes(&mut client).await;
    // Nothing of it disturbs the next attempt, which succeeds.
    chain.upgrade().await;
    goes(session(&address).await).await;
}

#[tokio::test]
async fn a_next_process_that_is_told_to_end_does_not_take_over() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let file = dir.path().join("wsluice.yaml");
    std::fs::write(&file, configuration(&[&echo.url()], "")).unwrap();
    let bound = bind(&"127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let mut offer = HandoverOffer::default();
    offer.add("plain", &bound).unwrap();
    let command = wsluice(&["run", "--config", file.to_str().unwrap()]);
    let prepared = within("readiness", offer.start(command, Deadlines::default())).await.unwrap();
    let pid = pid(prepared.pid());
    kill_process(pid, Signal::TERM).unwrap();
    let ended = eventually("its end", || {
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT).unwrap()
    });
    assert_eq!(ended.await.exit_status(), Some(0));
    let handed =
        within("failure", prepared.hand_over(&Predecessors::default(), &EndpointStates::default(), Known::default()))
            .await;
    assert!(matches!(handed, Err(UpgradeError::Died(Some(status))) if status.success()), "{handed:?}");
}

/// A proxy in this process, whose successor is the test binary in that role.
fn followed_by(part: &str, yaml: &str, deadlines: Deadlines) -> Proxy {
    let command: Command = crate::handover::child(part);
    // An invocation has no environment variables of its own.
    let environment = command.get_envs().filter_map(|(name, value)| {
        let (name, value) = (name.to_str()?, value?.to_str()?);
        Some(format!("{name}={value}").into())
    });
    let program = [command.get_program().to_owned()];
    let arguments = environment.chain(program).chain(command.get_args().map(ToOwned::to_owned)).collect();
    let invocation = Invocation::of("/usr/bin/env".into(), arguments);
    let origin = ProcessOrigin { succession: Some(Succession { invocation, deadlines }), ..ProcessOrigin::default() };
    Proxy::start_from(origin, yaml, Format::Json)
}

#[tokio::test]
async fn a_next_process_that_hangs_or_dies_with_the_word_is_ended() {
    let echo = Echo::start().await;
    let long = Duration::from_secs(60);
    for (part, deadlines, result) in [
        ("hangs", Deadlines { ready: Duration::from_secs(1), taken: long }, "timeout"),
        ("hangs_with_the_word", Deadlines { ready: long, taken: Duration::from_secs(1) }, "timeout"),
        ("dies", Deadlines { ready: long, taken: long }, "died"),
    ] {
        let mut proxy = followed_by(part, &yaml(&[&echo.url()], &[]), deadlines);
        let mut client = session(proxy.address()).await;
        let refused = within("the end of the attempt", proxy.app.control().upgrade()).await;
        assert!(matches!(refused, Err(ReloadError::Upgrade(_))), "{part}: {refused:?}");
        assert_eq!(proxy.metric("wsluice_upgrades_total", &[("result", result)]), 1.0, "{part}");
        echoes(&mut client).await;
        goes(session(proxy.address()).await).await;
        proxy.reload(&yaml(&[&echo.url()], &["on_change: close"])).await.unwrap();
        assert!(!proxy.app.control().is_replaced());
    }
}

#[tokio::test]
async fn while_the_next_process_is_on_its_way_nothing_is_changed_and_the_end_ends_it_too() {
    let echo = Echo::start().await;
    let yaml = yaml(&[&echo.url()], &[]) + "drain: { time: 1s }\n";
    let mut proxy = followed_by("hangs", &yaml, Deadlines::default());
    let client = session(proxy.address()).await;
    let control = proxy.app.control().clone();
    let upgrade = tokio::spawn({
        let control = control.clone();
        async move { control.upgrade().await }
    });
    let under_way = async {
        while !matches!(control.reload(Trigger::Api).await, Err(ReloadError::Upgrading)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within("the beginning of the upgrade", under_way).await;
    assert!(matches!(control.upgrade().await, Err(ReloadError::Upgrading)));
    let refused = [("trigger", "api"), ("result", "refused")];
    assert_eq!(proxy.metric("wsluice_config_reloads_total", &refused), 0.0, "nothing is wrong with the file");
    goes(session(proxy.address()).await).await;
    let peer = async {
        let mut client = client;
        client.expect_closed_with(1012).await;
        client.finish().await;
    };
    let (drained, ()) = tokio::join!(proxy.drain(), peer);
    assert_eq!(drained.left, 0);
    assert!(matches!(upgrade.await.unwrap(), Err(ReloadError::Ending)));
    assert!(matches!(control.upgrade().await, Err(ReloadError::Ending)));
    assert_eq!(proxy.metric("wsluice_upgrades_total", &[("result", "died")]), 1.0);
}

#[tokio::test]
async fn a_listener_that_the_next_process_does_not_have_is_closed() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("gone.sock");
    let text = configuration(&[&echo.url()], "on_upgrade: keep\n");
    let gone = format!("listeners:\n  - {{ name: local, bind: \"unix:{}\" }}\n", path.display());
    let mut chain = ProcessChain::start(dir.path(), &text.replace("listeners:\n", &gone));
    chain.process.listening().await;
    let (plain, local) = (chain.process.listening().await, Address::Unix(path.clone()));
    let mut client = session(&local).await;
    // This one connects when the old process no longer accepts.
    let mut late = Conn::connect(&local).await;
    std::fs::write(dir.path().join("wsluice.yaml"), &text).unwrap();
    let old = chain.upgrade().await;
    eventually("the end of the listener", || (!path.exists()).then_some(())).await;
    echoes(&mut client).await;
    late.open(&Handshake::to("/ws")).await;
    echoes(&mut late).await;
    goes(late).await;
    goes(client).await;
    assert_eq!(chain.end(old).await, Some(0));
    goes(session(&plain).await).await;
    chain.finish().await;
}

#[tokio::test]
async fn a_proxy_without_a_file_is_called_as_it_was() {
    let echo = Echo::start().await;
    let mut chain =
        ProcessChain::new(Process::spawn(wsluice(&["proxy", "--listen", "127.0.0.1:0", "--to", &echo.url()])));
    let address = chain.process.listening().await;
    let client = session(&address).await;
    let old = chain.upgrade().await;
    goes(session(&address).await).await;
    goes(client).await;
    assert_eq!(chain.end(old).await, Some(0));
    chain.finish().await;
}

#[tokio::test]
async fn the_demo_says_that_it_cannot() {
    let mut process = Process::spawn(wsluice(&["demo"]));
    process.line("the end of the banner", |line| line.starts_with("Ctrl-C").then_some(())).await;
    process.signal(Signal::USR2);
    let line = process.line("no upgrade", |line| line.contains("no upgrade").then(|| line.to_owned())).await;
    assert!(line.contains("cannot be upgraded"), "{line}");
    assert!(process.runs());
}

// ---- counts

#[tokio::test]
async fn sessions_of_old_processes_count_when_new_ones_are_placed() {
    let (one, two) = (Echo::start().await, Echo::start().await);
    let dir = tempfile::tempdir().unwrap();
    let more = "on_upgrade: keep\n";
    let endpoint = |echo: &Echo| format!("{{ url: {:?}, max_connections: 4 }}", echo.url());
    let alone = configuration(&[], more).replace("endpoints: []", &format!("endpoints: [{}]", endpoint(&one)));
    let both = configuration(&[], more)
        .replace("endpoints: []", &format!("endpoints: [{}, {}]", endpoint(&one), endpoint(&two)));
    let mut chain = ProcessChain::start(dir.path(), &alone);
    let (address, admin) = (chain.process.listening().await, chain.process.admin().await);
    let mut old = vec![];
    for _ in 0..3 {
        old.push(session(&address).await);
    }
    std::fs::write(dir.path().join("wsluice.yaml"), both).unwrap();
    chain.upgrade().await;
    let series = |name: &str, echo: &Echo, count: usize| {
        format!("wsluice_{name}{{endpoint=\"{}\",upstream=\"app\"}} {count}", echo.url())
    };
    shows(&admin, &series("predecessor_sessions", &one, 3)).await;
    // Three against none: the next three go there. After that one each.
    let mut new = vec![];
    for _ in 0..3 {
        new.push(session(&address).await);
    }
    shows(&admin, &series("endpoint_sessions_active", &two, 3)).await;
    shows(&admin, &series("endpoint_sessions_active", &one, 0)).await;
    for _ in 0..2 {
        new.push(session(&address).await);
    }
    shows(&admin, &series("endpoint_sessions_active", &two, 4)).await;
    shows(&admin, &series("endpoint_sessions_active", &one, 1)).await;
    let mut refused = Conn::connect(&address).await;
    assert_eq!(refused.ask(&Handshake::to("/ws")).await.status(), 503);
    // Where one of the old process ends, one of the new process fits.
    goes(old.pop().unwrap()).await;
    shows(&admin, &series("predecessor_sessions", &one, 2)).await;
    new.push(session(&address).await);
    shows(&admin, &series("endpoint_sessions_active", &one, 2)).await;
    for client in old {
        goes(client).await;
    }
    shows(&admin, "wsluice_predecessors 0").await;
    new.push(session(&address).await);
    new.push(session(&address).await);
    shows(&admin, &series("endpoint_sessions_active", &one, 4)).await;
}

// ---- a service manager

/// A service manager: receives notifications, keep-alives apart.
struct Manager(UnixDatagram);

impl Manager {
    fn told(&self) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.0.recv(&mut buffer).expect("a word to the service manager");
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if text != "WATCHDOG=1" {
                return text;
            }
        }
    }

    /// Waits for a keep-alive.
    fn is_alive(&self) -> bool {
        let mut buffer = [0; 4096];
        self.0.recv(&mut buffer).is_ok_and(|length| buffer[..length] == *b"WATCHDOG=1")
    }
}

#[tokio::test]
async fn a_service_manager_gives_the_socket_and_hears_of_all_that_happens() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let manager = Manager(UnixDatagram::bind(dir.path().join("notify")).unwrap());
    manager.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let bind = format!("bind: \"{address}\"");
    let text = configuration(&[&echo.url()], "on_upgrade: close\n").replacen("bind: \"127.0.0.1:0\"", &bind, 1);
    let file = dir.path().join("wsluice.yaml");
    std::fs::write(&file, &text).unwrap();
    // As systemd does it. The number is the shell's, which the process keeps.
    let script = "exec 3<&0; export LISTEN_PID=$$ LISTEN_FDS=1 WATCHDOG_PID=$$; exec \"$@\" 0</dev/null";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_wsluice"), "run", "--config"])
        .arg(&file)
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env("WATCHDOG_USEC", "300000")
        .stdin(std::os::fd::OwnedFd::from(listener));
    let mut chain = ProcessChain::new(Process::spawn(command));
    assert_eq!(chain.process.listening().await, address);
    let admin = chain.process.admin().await;
    const READY: &str = "READY=1\nSTATUS=1 listener, 1 upstream";
    assert_eq!(manager.told(), READY);
    assert!(manager.is_alive());
    shows(&admin, "wsluice_inherited_listeners 1").await;
    let mut client = session(&address).await;

    chain.signal(Signal::HUP);
    assert!(manager.told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(manager.told(), READY);
    std::fs::write(&file, "version: 7").unwrap();
    chain.signal(Signal::HUP);
    assert!(manager.told().starts_with("RELOADING=1\n"));
    assert!(manager.told().starts_with("READY=1\nSTATUS=the configuration as it is now is refused"));
    std::fs::write(&file, &text).unwrap();

    let old = chain.upgrade().await;
    // Each sends one message; their order is left to chance.
    let next = chain.youngest().as_raw_nonzero();
    let told = BTreeSet::from([manager.told(), manager.told()]);
    assert_eq!(told, BTreeSet::from([READY.to_owned(), format!("MAINPID={next}")]));
    client.expect_closed_with(1012).await;
    client.finish().await;
    assert_eq!(chain.end(old).await, Some(0));
    // The old one has ended without a message, and the new one is watched as before.
    assert!(manager.is_alive() && manager.is_alive());
    shows(&admin, "wsluice_inherited_listeners 2").await;
    goes(session(&address).await).await;
    let youngest = chain.youngest();
    chain.finish().await;
    assert_eq!(manager.told(), "STOPPING=1\nSTATUS=draining");
    assert!(!is_there(youngest));
}
