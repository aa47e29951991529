//! The command line for people and service managers: messages, exit codes, signals, and too few descriptors.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use wsluice::net::listener::Address;

use crate::harness::{Authority, Conn, Echo, Event, Frame, Handshake, eventually, yaml};
use crate::plain::{at_home, get};
use crate::process::{Process, run, text, wsluice};

fn file(dir: &Path, yaml: &str) -> String {
    let path = dir.join("wsluice.yaml");
    std::fs::write(&path, yaml).unwrap();
    path.to_str().unwrap().to_owned()
}

const GOOD: &str = r#"
listeners: [{ name: plain, bind: "127.0.0.1:0" }]
routes: [{ name: all, upstream: app }]
upstreams: { app: { endpoints: ["ws://127.0.0.1:9000"] } }
"#;

// ---- words and exit codes

#[test]
fn it_tells_its_version_and_its_commands() {
    let output = run(&["--version"]);
    assert_eq!(text(&output).0, concat!("wsluice ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(output.status.code(), Some(0));
    let output = run(&["--help"]);
    let (help, _) = text(&output);
    for command in ["demo", "run", "check", "proxy", "ping", "schema"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} is missing in\n{help}");
    }
    assert!(help.contains(wsluice::demo::SERVERS), "{help}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &["frobnicate"][..],
        &["run"],
        &["check"],
        &["proxy", "--listen", "127.0.0.1:0"],
        &["proxy", "--listen", "8080", "--to", "http://127.0.0.1:1"],
        &["proxy", "--listen", "127.0.0.1:0", "--to", "ftp://127.0.0.1:1"],
        &["proxy", "--listen", "127.0.0.1:0", "--to", "http://127.0.0.1:1/path"],
        &["demo", "--listen", "9000"],
        &["demo", "--listen", "unix:/run/x.sock"],
        &["demo", "--admin", "0.0.0.0:9902"],
        &["--frobnicate"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let (out, err) = text(&output);
        assert!(out.is_empty() && err.starts_with("error: "), "{arguments:?}: {err}");
    }
}

#[test]
fn a_good_file_is_ok() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), GOOD);
    let output = run(&["check", "--config", &path]);
    let (out, err) = text(&output);
    assert_eq!((out.as_str(), err.as_str()), (&*format!("{path}: ok: 1 listener, 1 route, 1 upstream\n"), ""));
    assert_eq!(output.status.code(), Some(0));
    // The environment may name the file.
    let output = wsluice(&["check"]).env("WSLUICE_CONFIG", &path).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn values_come_from_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), &GOOD.replace("127.0.0.1:9000", "${WSLUICE_TEST_HOST}:9000"));
    let output = run(&["check", "--config", &path]);
    let (_, err) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains("WSLUICE_TEST_HOST") && err.contains(&format!("{path}:4:")), "{err}");
    let output = wsluice(&["check", "--config", &path]).env("WSLUICE_TEST_HOST", "app.test").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_doubtful_file_is_ok_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let routes =
        "routes: [{ name: all, upstream: app }, { name: never, match: { path: { prefix: /ws } }, upstream: app }]";
    let path = file(dir.path(), &GOOD.replace("routes: [{ name: all, upstream: app }]", routes));
    let output = run(&["check", "--config", &path]);
    let (out, err) = text(&output);
    assert_eq!(output.status.code(), Some(0));
    assert!(out.contains(": ok: "), "{out}");
    assert!(err.contains("warning") && err.contains("never") && err.contains(&format!("{path}:3:")), "{err}");
}

#[test]
fn all_errors_of_a_file_are_told_at_once_with_place_and_advice() {
    let dir = tempfile::tempdir().unwrap();
    let bad = r#"
listeners: [{ name: plain, bind: "127.0.0.1:0", tsl: {} }]
routes:
  - { name: all, upstream: ap }
  - { name: two, upstream: app, timeouts: { idle: 5 minutes } }
upstreams: { app: { endpoints: ["ws://127.0.0.1:9000"] } }
"#;
    let path = file(dir.path(), bad);
    for (command, code) in [("check", 1), ("run", 78)] {
        let output = run(&[command, "--config", &path]);
        let (out, err) = text(&output);
        assert_eq!(output.status.code(), Some(code), "{err}");
        assert_eq!(out, "");
        for (line, words) in [(2, &["tsl", "tls"][..]), (4, &["ap", "app"]), (5, &["idle", "minutes", "5m"])] {
            assert!(err.contains(&format!("{path}:{line}:")), "line {line} is missing in\n{err}");
            for word in words {
                assert!(err.contains(word), "{word} is missing in\n{err}");
            }
        }
    }
}

#[test]
fn certificates_are_checked_too() {
    let dir = tempfile::tempdir().unwrap();
    let tls = "tls: { certificates: [{ cert: /nowhere/a.crt, key: /nowhere/a.key }] }";
    let path = file(dir.path(), &GOOD.replace("0\" }", &format!("0\", {tls} }}")));
    for (command, code) in [("check", 1), ("run", 78)] {
        let output = run(&[command, "--config", &path]);
        let (_, err) = text(&output);
        assert_eq!(output.status.code(), Some(code), "{err}");
        assert!(err.contains("/nowhere/a.crt") && err.contains(&format!("{path}:2:")), "{err}");
    }
}

#[test]
fn what_is_wrong_with_a_key_is_told_at_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (cert, key) = authority.issue("server", &["a.example"]);
    let tls = format!("tls: {{ certificates: [{{ cert: {cert:?}, key: {key:?} }}] }}");
    let path = file(dir.path(), &GOOD.replace("0\" }", &format!("0\", {tls} }}")));
    assert_eq!(run(&["check", "--config", &path]).status.code(), Some(0));
    for spoilt in ["", "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n"] {
        std::fs::write(&key, spoilt).unwrap();
        let output = run(&["check", "--config", &path]);
        let (_, err) = text(&output);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains("error: listeners[0].tls.certificates[0].key: "), "{err}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    for (command, code) in [("check", 1), ("run", 78)] {
        let output = run(&[command, "--config", "/nowhere/wsluice.yaml"]);
        let (_, err) = text(&output);
        assert_eq!(output.status.code(), Some(code), "{err}");
        assert!(err.contains("/nowhere/wsluice.yaml"), "{err}");
    }
}

#[test]
fn an_address_in_use_is_a_failure_that_names_it() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["run", "--config", &file(dir.path(), &GOOD.replace("127.0.0.1:0", &address))]);
    let (_, err) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{err}");
    let last = err.lines().last().unwrap();
    // By whom is a guess, which may fail while other tests open sockets.
    assert!(last.starts_with(&format!("wsluice: listener plain: {address} is in use by ")), "{last}");
}

#[tokio::test]
async fn a_second_process_on_the_same_address_is_told_to_replace_the_first_by_usr2() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Process::start(dir.path(), GOOD);
    let address = first.listening().await.to_string();
    let other = tempfile::tempdir().unwrap();
    let path = file(other.path(), &GOOD.replace("127.0.0.1:0", &address));
    let output = tokio::task::spawn_blocking(move || run(&["run", "--config", &path])).await.unwrap();
    let (_, err) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.lines().last().unwrap().contains("USR2"), "{err}");
    first.signal(Signal::TERM);
}

/// A file with two warnings and no error.
const DOUBTFUL: &str = r#"
listeners: [{ name: plain, bind: "127.0.0.1:0" }]
routes: [{ name: all, upstream: app }, { name: never, match: { path: { prefix: /ws } }, upstream: app }]
upstreams:
  app: { endpoints: ["wss://127.0.0.1:9000"], tls: { verify: off } }
  unused: { endpoints: ["ws://127.0.0.1:9000"] }
"#;

#[test]
fn between_warnings_there_is_an_empty_line() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["check", "--config", &file(dir.path(), DOUBTFUL)]);
    let (_, err) = text(&output);
    let warnings: Vec<&str> = err.split("\n\n").collect();
    let [never, unused, verify, ""] = &warnings[..] else { panic!("{err}") };
    for (warning, word) in [(never, "no request ever comes"), (unused, "no route leads"), (verify, "verify is off")] {
        assert!(warning.starts_with("warning: ") && warning.contains(word), "{warning}");
    }
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad");
    std::fs::create_dir(&bad).unwrap();
    let (good, bad) = (file(dir.path(), DOUBTFUL), file(&bad, "routes: []\n"));
    for (arguments, code) in [
        (&["check", "--config", &good][..], 0),
        (&["check", "--config", &bad], 1),
        (&["run", "--config", &bad], 78),
        (&["schema"], 0),
        (&["--help"], 0),
        (&["help", "run"], 0),
        (&["--version"], 0),
        (&["frobnicate"], 2),
    ] {
        let mut command = wsluice(arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        drop(reader);
        assert_eq!(command.status().unwrap().code(), Some(code), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_file_written_just_before_the_start_brings_no_warning_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wsluice.yaml");
    let mut process = Process::start(dir.path(), DOUBTFUL);
    process.listening().await;
    // Whether the start also read it again depends on timing; now it was read.
    std::fs::write(&path, DOUBTFUL.to_owned() + "# the same\n").unwrap();
    process.signal(Signal::HUP);
    process.line("the reload", |line| line.contains("nothing has changed").then_some(())).await;
    std::fs::write(&path, DOUBTFUL.to_owned() + "drain: { time: 1s }\n").unwrap();
    process.signal(Signal::HUP);
    process.line("the second reload", |line| line.contains("configuration reloaded").then_some(())).await;
    // A new warning is logged.
    std::fs::write(&path, DOUBTFUL.replace("unused:", "idle:")).unwrap();
    process.signal(Signal::HUP);
    process.line("a new warning", |line| line.contains("upstreams.idle (line 6): no route leads").then_some(())).await;
    process.seen.pop();
    process.signal(Signal::TERM);
    process.line("the end", |line| line.contains("drained").then_some(())).await;
    for warning in ["verify is off", "no request ever comes", "no route leads"] {
        let said = process.seen.iter().filter(|line| line.contains(warning)).count();
        assert_eq!(said, 1, "{warning}: {:#?}", process.seen);
    }
}

#[test]
fn the_schema_is_json_about_every_section() {
    let output = run(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: Value = serde_json::from_str(&text(&output).0).unwrap();
    for section in ["listeners", "routes", "upstreams", "admin", "log", "drain"] {
        assert!(schema["properties"][section]["description"].is_string(), "{section}");
    }
    // A reader that stops early is no failure.
    let mut child = wsluice(&["schema"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

// ---- running

/// Sends a message to an echo server and reads it back.
async fn echoes(address: &Address, handshake: &Handshake) -> Conn {
    let mut client = Conn::connect(address).await;
    client.open(handshake).await;
    client.put(&Frame::text("hello")).await;
    client.expect(&Frame::text("hello")).await;
    client
}

#[tokio::test]
async fn a_pair_of_addresses_is_all_that_a_proxy_needs() {
    let echo = Echo::start().await;
    for to in [echo.url(), echo.url().replace("ws://", "http://")] {
        let mut process = Process::spawn(wsluice(&["proxy", "--listen", "127.0.0.1:0", "--to", &to]));
        let address = process.listening().await;
        echoes(&address, &Handshake::new()).await;
        process.signal(Signal::INT);
        assert_eq!(process.end().await.code(), Some(0));
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", dir.path().join("a b.sock").display());
    let mut process = Process::spawn(wsluice(&["proxy", "--listen", &socket, "--to", &echo.url()]));
    let address = process.listening().await;
    echoes(&address, &Handshake::new()).await;
}

#[tokio::test]
async fn the_demo_prints_where_to_look_and_works() {
    for arguments in [&[][..], &["demo"]] {
        let mut process = Process::spawn(wsluice(arguments));
        let mut urls = vec![];
        for scheme in ["https://", "http://", "http://"] {
            let url = process.line(scheme, |line| {
                let (_, rest) = line.split_once(scheme)?;
                rest.split(['/', ' ']).next().map(str::to_owned)
            });
            urls.push(url.await);
        }
        let [tls, plain, admin] = &urls[..] else { panic!("three") };
        process.line("the end of the banner", |line| line.starts_with("Ctrl-C").then_some(())).await;
        assert!(tls != plain && plain != admin);
        let address = |text: &str| Address::Tcp(text.parse().unwrap());
        let mut client = echoes(&address(plain), &Handshake::to("/echo").set("Host", plain)).await;
        let mut page = Conn::connect(&address(plain)).await;
        page.send(get("/")).await;
        let answer = page.head().await;
        assert_eq!(answer.status(), 200);
        assert!(answer.get("content-type").unwrap().starts_with("text/html"));
        let mut metrics = Conn::connect(&address(admin)).await;
        metrics.send(at_home("/metrics")).await;
        let answer = metrics.head().await;
        let body = String::from_utf8(metrics.body(&answer).await).unwrap();
        assert!(body.contains(r#"wsluice_sessions_active{listener="demo",route="echo",upstream="echo"} 1"#), "{body}");
        process.signal(Signal::TERM);
        client.expect_closed_with(1012).await;
        client.finish().await;
        drop((page, metrics));
        assert_eq!(process.end().await.code(), Some(0));
    }
}

#[tokio::test]
async fn the_demo_listens_where_it_is_told() {
    let any = ["demo", "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut process = Process::spawn(wsluice(&any));
    let url = |line: &str| Some(line.split_once("or   http://")?.1.trim_end_matches('/').to_owned());
    let address = process.line("the banner", url).await;
    // A configured port is not replaced by another.
    let wanted = address.clone();
    let again = move || run(&["demo", "--listen", &wanted, "--listen-tls", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let output = tokio::task::spawn_blocking(again).await.unwrap();
    let (_, err) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains(&format!("{address} is in use by ")), "{err}");
    process.signal(Signal::TERM);
}

// ---- signals

/// Returns a configuration with an admin listener and this drain time.
fn draining(echo: &Echo, time: &str) -> String {
    let more = format!("admin: {{ bind: \"127.0.0.1:0\" }}\nlog: {{ format: json }}\ndrain: {{ time: {time} }}\n");
    yaml(&[&echo.url()], &[]) + &more
}

/// Returns the status of a response of the admin listener.
async fn admin_status(admin: &Address, path: &str) -> u16 {
    let mut conn = Conn::connect(admin).await;
    conn.send(get(path)).await;
    conn.head().await.status()
}

#[tokio::test]
async fn usr1_ends_nothing_and_quit_drains_as_term_does() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let mut process = Process::start(dir.path(), &draining(&echo, "8s"));
    let address = process.listening().await;
    let mut client = echoes(&address, &Handshake::new()).await;
    process.signal(Signal::USR1);
    process.message("USR1: the log goes to standard error, there is nothing to reopen").await;
    drop(echoes(&address, &Handshake::new()).await);
    process.signal(Signal::QUIT);
    process.message("draining").await;
    client.expect_closed_with(1012).await;
}

#[tokio::test]
async fn term_ends_every_session_properly_and_the_process_with_0() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let mut process = Process::start(dir.path(), &draining(&echo, "8s"));
    let (address, admin) = (process.listening().await, process.admin().await);
    assert_eq!((admin_status(&admin, "/readyz").await, admin_status(&admin, "/livez").await), (200, 200));
    // Opened before the others, so that it was accepted once they are: the kernel resets connections that still wait in
    // the queue.
    let mut idle = Conn::connect(&address).await;
    let mut clients = vec![];
    for _ in 0..8 {
        clients.push(echoes(&address, &Handshake::new()).await);
    }
    process.signal(Signal::TERM);
    process.message("draining").await;
    // No new client gets in, new requests are refused, and existing sessions still work.
    assert_eq!((admin_status(&admin, "/readyz").await, admin_status(&admin, "/livez").await), (503, 200));
    let Address::Tcp(tcp) = &address else { panic!("TCP") };
    assert!(tokio::net::TcpStream::connect(tcp).await.is_err());
    idle.expect_end().await;
    let ends: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                let reason = client.expect_closed_with(1012).await;
                (std::time::Instant::now(), reason)
            })
        })
        .collect();
    let mut times = vec![];
    for end in ends {
        let (at, reason) = end.await.unwrap();
        assert_eq!(reason, "service restart");
        times.push(at);
    }
    times.sort();
    // Three seconds are spread over eight sessions, each somewhere in its eighth; one is over by now.
    assert!(times[7] - times[0] >= Duration::from_secs(1), "all at once");
    assert_eq!(process.end().await.code(), Some(0));
    let access = process.access();
    assert_eq!(access.iter().filter(|line| line["reason"] == "drain" && line["close_code"] == 1012).count(), 8);
    assert!(process.seen.iter().any(|line| line.contains("\"drained\"")), "{:#?}", process.seen);
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let mut process = Process::start(dir.path(), &draining(&echo, "10m"));
    let address = process.listening().await;
    let mut client = echoes(&address, &Handshake::new()).await;
    process.signal(Signal::TERM);
    process.message("draining").await;
    process.signal(Signal::INT);
    assert_eq!(process.end().await.code(), Some(0));
    // A Close if it could still be sent, and in any case an end.
    match client.event().await {
        Event::Frame(frame) => assert_eq!(frame.code(), Some(1012)),
        event => assert!(matches!(event, Event::End | Event::Reset), "{event:?}"),
    }
    let access = process.access();
    assert_eq!(access.len(), 1, "every session has its line: {:#?}", process.seen);
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_end() {
    let mut upstream = crate::harness::RawServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let text = yaml(&[upstream.url()], &[]) + "log: { format: json }\ndrain: { time: 10s }\n";
    let mut process = Process::start(dir.path(), &text);
    let mut client = Conn::connect(&process.listening().await).await;
    client.send(get("/slow")).await;
    let mut server = upstream.accept().await;
    server.head().await;
    process.signal(Signal::TERM);
    process.message("draining").await;
    server.send(crate::plain::ok("done")).await;
    let answer = client.head().await;
    assert_eq!((answer.get("connection"), client.body(&answer).await), (Some("close"), b"done".to_vec()));
    client.expect_end().await;
    client.finish().await;
    assert_eq!(process.end().await.code(), Some(0));
}

#[tokio::test]
async fn hang_up_reads_the_file_again_and_a_bad_one_changes_nothing() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let mut process = Process::start(dir.path(), &draining(&echo, "1s"));
    let address = process.listening().await;
    let mut client = echoes(&address, &Handshake::new()).await;
    process.signal(Signal::HUP);
    process.message("configuration read again").await;
    std::fs::write(dir.path().join("wsluice.yaml"), "version: 7").unwrap();
    process.signal(Signal::HUP);
    process.message("the new configuration is refused").await;
    client.put(&Frame::text("still here")).await;
    client.expect(&Frame::text("still here")).await;
    assert!(process.runs());
}

// ---- descriptors

#[tokio::test]
async fn without_descriptors_it_waits_says_so_once_and_goes_on() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let path = file(dir.path(), &draining(&echo, "1s"));
    let mut command = std::process::Command::new("sh");
    // Soft and hard: it cannot raise it again.
    command.args(["-c", "ulimit -n 64 && exec \"$0\" run --config \"$1\"", env!("CARGO_BIN_EXE_wsluice"), &path]);
    let mut process = Process::spawn(command);
    let (address, admin) = (process.listening().await, process.admin().await);
    let mut session = echoes(&address, &Handshake::new()).await;
    let mut scrape = Conn::connect(&admin).await;
    scrape.send(get("/livez")).await;
    assert_eq!(scrape.head().await.status(), 200);
    let mut crowd = vec![];
    for _ in 0..100 {
        crowd.push(Conn::connect(&address).await);
    }
    let line = process.message("cannot accept connections").await;
    assert_eq!((line["reason"].as_str(), line["level"].as_str()), (Some("descriptors"), Some("error")));
    assert!(line["message"].as_str().unwrap().contains("LimitNOFILE"), "{line}");
    // Existing sessions are served, and so is the operator. Meanwhile the pauses continue.
    let mut failures = 0;
    while failures < 4 {
        session.put(&Frame::text("still here")).await;
        session.expect(&Frame::text("still here")).await;
        scrape.send(at_home("/metrics")).await;
        let text = loop {
            let head = scrape.head().await;
            let body = String::from_utf8(scrape.body(&head).await).unwrap();
            if body.contains("wsluice_") {
                break body;
            }
        };
        let series = r#"wsluice_connection_errors_total{listener="plain",reason="accept_paused"} "#;
        failures = text.lines().find_map(|line| line.strip_prefix(series)).unwrap().parse().unwrap();
    }
    process.access();
    let told = process.seen.iter().filter(|line| line.contains("cannot accept connections") && line.contains("plain"));
    assert_eq!(told.count(), 1, "{:#?}", process.seen);
    // When they have left, new ones are served.
    drop(crowd);
    let served = eventually("service after the crowd", || {
        let Address::Tcp(address) = &address else { panic!("TCP") };
        std::net::TcpStream::connect(address).ok()
    });
    drop(served.await);
    echoes(&address, &Handshake::new()).await;
    session.put(&Frame::text("still here")).await;
    session.expect(&Frame::text("still here")).await;
    process.signal(Signal::TERM);
    session.expect_closed_with(1012).await;
    session.finish().await;
    assert_eq!(process.end().await.code(), Some(0));
}

// ---- the log

#[tokio::test]
async fn a_refused_origin_is_told_with_what_was_allowed() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let route = r#"origins: { allow: [same-origin, "https://*.example.org"] }"#;
    let text = yaml(&[&echo.url()], &[route]) + "log: { format: json }\n";
    let mut process = Process::start(dir.path(), &text);
    let address = process.listening().await;
    let mut client = Conn::connect(&address).await;
    let answer = client.ask(&Handshake::new().with("Origin", "https://evil.example")).await;
    assert_eq!(answer.status(), 403);
    let line = process.message("origin refused").await;
    assert_eq!(
        (line["level"].as_str(), line["route"].as_str(), line["client"].as_str()),
        (Some("warn"), Some("all"), Some("127.0.0.1"))
    );
    let denial = line["denial"].as_str().unwrap();
    for word in ["https://evil.example", "same-origin", "https://*.example.org"] {
        assert!(denial.contains(word), "{denial}");
    }
    assert!(line["message"].as_str().unwrap().contains("origins.allow"));
    let hint = line["hint"].as_str().unwrap();
    for word in ["add \"https://evil.example\" to", "origins.allow", "trusted_proxies"] {
        assert!(hint.contains(word), "{hint}");
    }
}

#[tokio::test]
async fn who_removes_the_origin_from_the_request_is_told_that_it_is_judged_before() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let text = yaml(&[&echo.url()], &["headers: { request: { remove: [origin] } }"]) + "log: { format: json }\n";
    let mut process = Process::start(dir.path(), &text);
    let mut client = Conn::connect(&process.listening().await).await;
    assert_eq!(client.ask(&Handshake::new().with("Origin", "file://")).await.status(), 403);
    let line = process.message("origin refused").await;
    let hint = line["hint"].as_str().unwrap();
    for word in ["add \"file://\" to", "`headers.request` comes after `origins`"] {
        assert!(hint.contains(word), "{hint}");
    }
}

#[tokio::test]
async fn a_server_name_that_is_none_is_told_once_and_not_again_at_once() {
    let (echo, dir, authority) = (Echo::start().await, tempfile::tempdir().unwrap(), Authority::new());
    let (cert, key) = authority.issue("own", &["chat.test"]);
    let tls = format!("tls: {{ certificates: [{{ cert: {cert:?}, key: {key:?} }}] }}");
    let text = crate::plain::with_listener(&yaml(&[&echo.url()], &[]), &[&tls]) + "log: { format: json }\n";
    let mut process = Process::start(dir.path(), &text);
    let address = process.listening().await;
    for name in ["chat..test", "chat-.test"] {
        let mut client = Conn::connect(&address).await;
        client.send(crate::tls::hello(&authority, name)).await;
        assert_ne!(client.read_to_end().await, b"");
    }
    let line = process.message("TLS refused").await;
    assert_eq!(
        (line["level"].as_str(), line["listener"].as_str(), line["client"].as_str(), line["reason"].as_str()),
        (Some("warn"), Some("plain"), Some("127.0.0.1"), Some("tls_server_name"))
    );
    assert!(line["message"].as_str().unwrap().contains("SNI"), "{line}");
    process.signal(Signal::TERM);
    assert_eq!(process.end().await.code(), Some(0));
    assert_eq!(process.seen.iter().filter(|line| line.contains("TLS refused")).count(), 1);
}

#[tokio::test]
async fn log_lines_for_people_are_one_line_each() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let mut process = Process::start(dir.path(), &(yaml(&[&echo.url()], &[]) + "log: { format: human }\n"));
    let told = process.line("the address", |line| {
        let (_, rest) = line.split_once("listening")?;
        let text = rest.split_whitespace().find_map(|word| word.strip_prefix("address="))?;
        Some(Address::Tcp(text.parse().unwrap()))
    });
    let address = told.await;
    drop(echoes(&address, &Handshake::to("/a?token=s3cret")).await);
    let line = process.line("the session", |line| line.contains(" session ").then(|| line.to_owned())).await;
    assert!(line.contains("/a?token=***") && line.contains("route=all"), "{line}");
}
