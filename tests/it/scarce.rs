//! Processes on a machine that runs out of file descriptors, of room for the log, or of a reader of it.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use wsluice::net::listener::Address;

use crate::harness::{Conn, Echo, Frame, Handshake, eventually, yaml};
use crate::plain::{at_home, get};
use crate::process::{Process, wsluice};

async fn opened(address: &Address) -> Conn {
    let mut client = Conn::connect(address).await;
    assert_eq!(client.ask(&Handshake::new()).await.status(), 101);
    echoes(&mut client).await;
    client
}

async fn echoes(client: &mut Conn) {
    client.put(&Frame::text("still here")).await;
    client.expect(&Frame::text("still here")).await;
}

/// Returns the metrics, over a kept connection.
async fn scrape(admin: &mut Conn) -> String {
    admin.send(at_home("/metrics")).await;
    let head = admin.head().await;
    String::from_utf8(admin.body(&head).await).unwrap()
}

/// Returns the sum of all series whose lines begin with this text.
fn sum(metrics: &str, series: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with(series));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

#[tokio::test]
async fn without_descriptors_clients_wait_or_get_503_and_no_endpoint_is_blamed() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let text = yaml(&[&echo.url()], &[])
        .replace("] }", "], health: { tcp: { every: 200ms, timeout: 200ms, fall: 1 } }, ejection: { failures: 1 } }")
        + "admin: { bind: \"127.0.0.1:0\" }\nlog: { format: json }\ndrain: { time: 1s }\n";
    let path = dir.path().join("wsluice.yaml");
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new("sh");
    // The hard limit: the process raises the soft one to it, and no further.
    command.args(["-c", "ulimit -Sn 60 && ulimit -Hn 80 && exec \"$0\" run --config \"$1\""]);
    command.args([env!("CARGO_BIN_EXE_wsluice"), path.to_str().unwrap()]);
    let mut process = Process::spawn(command);
    let raised = process.message("limit of open files raised").await;
    assert_eq!((raised["before"].as_u64(), raised["now"].as_u64()), (Some(60), Some(80)));
    let (address, address_of_admin) = (process.listening().await, process.admin().await);
    let mut admin = Conn::connect(&address_of_admin).await;
    scrape(&mut admin).await;

    let mut sessions = vec![opened(&address).await];
    // Sessions take two descriptors, so one may be left over; this takes it or not.
    let mut odd = Some(Conn::connect(&address).await);
    let mut refused = 0;
    let mut waiting = loop {
        assert!(sessions.len() < 40, "there is no end");
        let mut client = Conn::connect(&address).await;
        client.send(Handshake::new().bytes()).await;
        tokio::select! {
            head = client.head() => match head.status() {
                101 => sessions.push(client),
                503 => {
                    let reason = client.body(&head).await;
                    assert!(reason.starts_with(b"exhausted: ") && head.get("retry-after").is_some(), "{head:?}");
                    refused += 1;
                    sessions.push(Conn::connect(&address).await);
                }
                other => panic!("{other}"),
            },
            _ = process.message("cannot accept connections") => break client,
        }
    };
    if refused == 0 {
        // The returned descriptor lets the client in, and none is left for its upstream connection.
        drop(odd.take());
        let head = waiting.head().await;
        assert_eq!(head.status(), 503);
        assert!(waiting.body(&head).await.starts_with(b"exhausted: "));
        waiting = Conn::connect(&address).await;
        odd = Some(Conn::connect(&address).await);
    }

    // Nothing is left, for several rounds of health checks and pauses. It sleeps most of the time.
    let cpu = |metrics: &str| sum(metrics, "process_cpu_seconds_total ");
    let failed = |metrics: &str| {
        (
            sum(metrics, "wsluice_probe_failures_total{"),
            sum(metrics, "wsluice_connection_errors_total{listener=\"plain\",reason=\"accept_paused\"}"),
        )
    };
    let before = scrape(&mut admin).await;
    let begun = Instant::now();
    let after = loop {
        let now = scrape(&mut admin).await;
        if failed(&now).0 >= failed(&before).0 + 3.0 && failed(&now).1 >= failed(&before).1 + 2.0 {
            break now;
        }
        assert!(begun.elapsed() < crate::harness::DEADLINE, "{now}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    let (used, passed) = (cpu(&after) - cpu(&before), begun.elapsed().as_secs_f64());
    assert!(used < passed / 2.0, "{used} s of {passed} s");
    assert!(failed(&after).1 - failed(&before).1 <= 10.0 + 110.0 * passed, "pauses are no pauses");
    assert!(after.contains("wsluice_probe_failures_total") && after.contains("reason=\"exhausted\""), "{after}");
    assert_eq!(sum(&after, "wsluice_endpoint_up{"), 1.0, "{after}");
    assert_eq!(sum(&after, "wsluice_endpoint_ejections_total{"), 0.0, "{after}");
    assert_eq!(sum(&after, "wsluice_upstream_errors_total{"), 0.0, "{after}");
    let rejected =
        after.lines().filter(|line| line.starts_with("wsluice_rejections_total{") && line.contains("\"exhausted\""));
    assert!(rejected.map(|line| sum(line, "")).sum::<f64>() >= 1.0, "{after}");
    for session in &mut sessions[..3] {
        echoes(session).await;
    }

    // Nothing is left for clients, but something for health checks and for the operator.
    for request in [
        get("/livez"),
        get("/readyz"),
        at_home("/metrics"),
        "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ] {
        let mut operator = Conn::connect(&address_of_admin).await;
        operator.send(&request).await;
        assert_eq!(operator.head().await.status(), 200, "{request}");
    }
    // Not even silent connections there take the rest.
    let silent: Vec<Conn> = {
        let mut silent = vec![];
        for _ in 0..20 {
            silent.push(Conn::connect(&address_of_admin).await);
        }
        silent
    };
    let mut operator = Conn::connect(&address_of_admin).await;
    operator.send(get("/livez")).await;
    assert_eq!(operator.head().await.status(), 200);
    drop((silent, operator));
    let mut admin = Conn::connect(&address_of_admin).await;

    // At the limit clients come and go: each that leaves lets another in, and each time accepting fails again.
    for _ in 0..10 {
        drop(sessions.pop());
        sessions.push(waiting);
        waiting = Conn::connect(&address).await;
        let paused = failed(&scrape(&mut admin).await).1;
        let mut looks = 0;
        while failed(&scrape(&mut admin).await).1 == paused && looks < 20 {
            looks += 1;
        }
    }
    process.access();
    let told = |what: &str| {
        let lines = process.seen.iter().filter(|line| line.contains(what) && !line.contains("admin"));
        lines.count()
    };
    assert_eq!((told("cannot accept connections"), told("cannot connect to endpoints")), (1, 1), "{:#?}", process.seen);

    // When they have left, it is as before.
    drop((sessions, waiting, odd));
    let served = async {
        loop {
            let mut client = Conn::connect(&address).await;
            if client.ask(&Handshake::new()).await.status() == 101 {
                return client;
            }
        }
    };
    let mut client = crate::harness::within("service after the crowd", served).await;
    echoes(&mut client).await;
    process.signal(Signal::TERM);
    client.expect_closed_with(1012).await;
    client.finish().await;
    assert_eq!(process.end().await.code(), Some(0));
}

/// A process that does not log its addresses: it listens at sockets in `dir`.
struct Silent {
    child: Child,
    address: Address,
    admin: Address,
}

impl Silent {
    async fn start(dir: &Path, echo: &Echo, log: Stdio) -> Silent {
        let socket = |name: &str| Address::Unix(dir.join(name));
        let (address, admin) = (socket("s"), socket("a"));
        // By name, since the resolver lacks descriptors too, and reports another error.
        let text = yaml(&[&echo.url().replace("127.0.0.1", "localhost")], &[])
            .replace("127.0.0.1:0", &address.to_string())
            + &format!("admin: {{ bind: \"{admin}\" }}\nlog: {{ format: json }}\ndrain: {{ time: 1s }}\n");
        let path = dir.join("wsluice.yaml");
        std::fs::write(&path, text).unwrap();
        let mut command = wsluice(&["run", "--config", path.to_str().unwrap()]);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let listens = |address: &Address| match address {
            Address::Unix(path) => std::os::unix::net::UnixStream::connect(path).ok(),
            Address::Tcp(_) => None,
        };
        eventually("its listening", || listens(&admin).and(listens(&address))).await;
        Silent { child, address, admin }
    }

    async fn end(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = eventually("the end of the process", || self.child.try_wait().unwrap()).await;
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const DROPPED: &str = "wsluice_log_lines_dropped_total ";

#[tokio::test]
async fn a_full_disk_costs_log_lines_and_nothing_else() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let full = File::options().write(true).open("/dev/full").unwrap();
    let silent = Silent::start(dir.path(), &echo, full.into()).await;
    let mut client = opened(&silent.address).await;
    let mut admin = Conn::connect(&silent.admin).await;
    let before = sum(&scrape(&mut admin).await, DROPPED);
    assert!(before >= 3.0, "the lines of its start");
    drop(opened(&silent.address).await);
    while sum(&scrape(&mut admin).await, DROPPED) == before {}
    echoes(&mut client).await;
    drop(client);
    silent.end().await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_costs_lines_which_is_said_when_somebody_does() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let mut silent = Silent::start(dir.path(), &echo, Stdio::piped()).await;
    let mut log = silent.child.stderr.take().unwrap();
    let mut client = opened(&silent.address).await;
    let mut admin = Conn::connect(&silent.admin).await;
    let mut plain = Conn::connect(&silent.address).await;
    let long = format!("/nowhere?{}", "x".repeat(4000));
    // What the pipe holds, what is being written and what waits: some 2 MiB.
    let mut dropped = 0.0;
    for requests in 0.. {
        assert!(requests < 10_000, "it keeps them all");
        plain.send(get(&long)).await;
        let head = plain.head().await;
        plain.body(&head).await;
        if requests % 100 == 0 {
            echoes(&mut client).await;
            dropped = sum(&scrape(&mut admin).await, DROPPED);
            if dropped > 0.0 {
                break;
            }
        }
    }
    // The log is read again.
    let (told, lines) = tokio::sync::oneshot::channel();
    let reader = std::thread::spawn(move || {
        let (mut text, mut told) = (vec![], Some(told));
        let mut part = [0; 65_536];
        while let Ok(count) = log.read(&mut part)
            && count > 0
        {
            text.extend_from_slice(&part[..count]);
            let is_said = String::from_utf8_lossy(&text).contains("log lines were dropped");
            if let Some(told) = told.take_if(|_| is_said) {
                let _ = told.send(());
            }
        }
        String::from_utf8(text).unwrap()
    });
    crate::harness::within("the word that lines were dropped", lines).await.unwrap();
    echoes(&mut client).await;
    drop((client, plain, admin));
    silent.end().await;
    let text = reader.join().unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: Vec<_> = lines.iter().filter_map(|line| line["lines"].as_f64()).collect();
    assert!(said.iter().sum::<f64>() >= dropped && said.len() <= 3, "{said:?} of {dropped}");
}
