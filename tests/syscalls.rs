//! What relaying costs in calls of the kernel, counted by strace on the built binary: a message is one receive and one
//! send in each direction and nothing else but the wait; no read that finds nothing, no timer set anew, no wake-up of
//! another thread. And how many calls a connection takes from accept to close.
//!
//! Where there is no strace, or tracing is forbidden, these tests say so and prove nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use tempfile::TempDir;
use wsluice::ws::handshake::accept_for;

const MESSAGES: usize = 1_000;

/// Payloads of the echo before and of the echo after those that are counted: the trace shows them.
const BEGIN: &[u8; 8] = b"<BEGIN!>";
const END: &[u8; 8] = b"<FINIS!>";

/// Calls of one whole ws connection. It is alone here and waits for each step of its peers, so waits are not counted:
/// nginx makes 25 for the same life, 27 with the few waits of a busy worker. TCP keep-alive towards the server costs 3
/// more, but only where pings are off or come seldom; what the client's socket has of it is inherited, and costs nothing.
const CONNECTION_CALLS_MAX: usize = 24;

/// What [`Traced::calls`] calls a worker's writing to its own eventfd when its clock has ticked.
const TICK: &str = "tick";

/// No step takes so long.
const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn a_message_is_one_receive_and_one_send_each_way() {
    let Some(traced) = Traced::start() else { return };
    let calls = traced.count_echoes(&mut upgrade(TcpStream::connect(traced.plain).unwrap()));
    assert_eq!(calls.of(&["recvfrom"]), 2 * MESSAGES, "{calls:?}");
    assert_eq!(calls.of(&["sendto"]), 2 * MESSAGES, "{calls:?}");
    calls.assert_few_waits();
    assert_eq!(calls.all(), calls.of(&["recvfrom", "sendto", "epoll_wait", TICK]), "{calls:?}");
}

#[test]
fn a_message_over_tls_is_the_same() {
    let Some(traced) = Traced::start() else { return };
    let calls = traced.count_echoes(&mut upgrade(traced.tls_client()));
    // Payloads are seen at the server's side only: one send of the echo before and one receive of the echo after lie
    // in between.
    assert_eq!(calls.of(&["recvfrom"]), 2 * MESSAGES + 1, "{calls:?}");
    assert_eq!(calls.of(&["sendto"]), 2 * MESSAGES + 1, "{calls:?}");
    calls.assert_few_waits();
    // rustls allocates for each record, and every so many allocations jemalloc wakes its own thread.
    assert!(calls.of(&["futex"]) <= MESSAGES / 100, "{calls:?}");
    assert_eq!(calls.all(), calls.of(&["recvfrom", "sendto", "epoll_wait", "futex", TICK]), "{calls:?}");
}

#[test]
fn a_connection_takes_fewer_calls_than_with_nginx() {
    let Some(traced) = Traced::start() else { return };
    // The first pays for what is made once; the last only marks the end of those that are counted.
    let lives = 10;
    for _ in 0..lives + 2 {
        let mut client = upgrade(TcpStream::connect(traced.plain).unwrap());
        echo(&mut client, b"a word..");
        client.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).unwrap();
        client.read_to_end(&mut Vec::new()).unwrap();
    }
    let accepted = |call: &Call| call.name == "accept4" && !call.text.contains(" = -1 ");
    let calls = traced.calls_when("all were accepted", |calls| {
        let starts: Vec<usize> = (0..calls.len()).filter(|&at| accepted(&calls[at])).collect();
        Some(starts[1]..*starts.get(lives + 1)?)
    });
    // Builds with debug assertions ask fcntl whether a descriptor is open before they close it.
    let each = (calls.all() - calls.of(&["epoll_wait", TICK, "fcntl"])) / lives;
    assert!(each <= CONNECTION_CALLS_MAX, "{each} calls a connection: {calls:?}");
}

/// A call that a thread made.
struct Call {
    thread: String,
    name: String,
    text: String,
}

/// How often each call was made.
#[derive(Debug)]
struct Calls(BTreeMap<String, usize>);

impl Calls {
    fn of(&self, names: &[&str]) -> usize {
        names.iter().filter_map(|&name| self.0.get(name)).sum()
    }

    fn all(&self) -> usize {
        self.0.values().sum()
    }

    /// A session that has the worker to itself is waited for twice a message; the clock ticks twice a second.
    fn assert_few_waits(&self) {
        assert!(self.of(&[TICK]) <= MESSAGES / 20, "{self:?}");
        assert!(self.of(&["epoll_wait"]) <= 2 * MESSAGES + 2 * self.of(&[TICK]) + MESSAGES / 20, "{self:?}");
    }
}

/// The proxy under strace, with an echo server behind it.
struct Traced {
    strace: Child,
    trace: PathBuf,
    plain: SocketAddr,
    tls: SocketAddr,
    tls_config: Arc<ClientConfig>,
    _dir: TempDir,
}

impl Traced {
    /// `None`, with a word about it, where nothing can be traced.
    fn start() -> Option<Traced> {
        let can = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).status();
        if !can.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: strace is not installed, or may not trace here");
            return None;
        }
        let dir = TempDir::new().unwrap();
        let tls_config = certificate(&dir);
        let config = dir.path().join("wsluice.yaml");
        let yaml = format!(
            r#"
version: 1
workers: 1
listeners:
  - {{ name: plain, bind: "127.0.0.1:0" }}
  - {{ name: tls, bind: "127.0.0.1:0", tls: {{ certificates: [ {{ cert: "{dir}/it.crt", key: "{dir}/it.key" }} ] }} }}
routes:
  - {{ name: all, upstream: app }}
upstreams:
  app: {{ endpoints: ["ws://{server}"] }}
log: {{ format: json, access: false }}
watch: false
"#,
            dir = dir.path().display(),
            server = echo_server(),
        );
        std::fs::write(&config, yaml).unwrap();
        let trace = dir.path().join("trace");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(&trace).arg(env!("CARGO_BIN_EXE_wsluice")).arg("run").arg("--config");
        command.arg(config).env_remove("WSLUICE_CONFIG").stdin(Stdio::null()).stderr(Stdio::piped());
        let mut strace = command.spawn().unwrap();
        let lines = lines(strace.stderr.take().unwrap());
        let (plain, tls) = (listening(&lines), listening(&lines));
        Some(Traced { strace, trace, plain, tls, tls_config, _dir: dir })
    }

    fn tls_client(&self) -> StreamOwned<ClientConnection, TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::clone(&self.tls_config), name).unwrap();
        StreamOwned::new(connection, TcpStream::connect(self.tls).unwrap())
    }

    /// The calls of [`MESSAGES`] echoes on a session, one after the other.
    fn count_echoes(&self, client: &mut (impl Read + Write)) -> Calls {
        // What a session and its worker set up with the first messages is not what a message costs.
        (0..10).for_each(|_| echo(client, b"warm up."));
        echo(client, BEGIN);
        for number in 0..MESSAGES {
            echo(client, format!("{number:08}").as_bytes().as_array().unwrap());
        }
        echo(client, END);
        let with = |call: &Call, mark: &[u8]| call.text.contains(str::from_utf8(mark).unwrap());
        self.calls_when("the last echo", |calls| {
            let end = calls.iter().position(|call| with(call, END))?;
            let begin = calls.iter().rposition(|call| with(call, BEGIN)).unwrap();
            Some(begin + 1..end)
        })
    }

    /// Waits until the trace has what is looked for; counts the calls of that stretch, of the thread that made the one
    /// after it: the worker. What else the process does meanwhile (giving back what the start took, looking at endpoints)
    /// does not depend on messages.
    fn calls_when(&self, what: &str, find: impl Fn(&[Call]) -> Option<std::ops::Range<usize>>) -> Calls {
        let begun = Instant::now();
        loop {
            let calls = self.calls();
            if let Some(range) = find(&calls) {
                let mut counts = BTreeMap::new();
                let worker = &calls[range.end].thread;
                let own = calls[range].iter().filter(|call| call.thread == *worker);
                own.for_each(|call| *counts.entry(call.name.clone()).or_default() += 1);
                return Calls(counts);
            }
            assert!(begun.elapsed() < DEADLINE, "no {what} in the trace");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What has been called so far, in the order in which the calls began.
    fn calls(&self) -> Vec<Call> {
        let mut calls: Vec<Call> = vec![];
        for line in std::fs::read(&self.trace).unwrap().split(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            let Some((thread, text)) = line.split_once(' ') else { continue };
            let text = text.trim_start();
            if let Some((_, rest)) = text.strip_prefix("<... ").and_then(|text| text.split_once(" resumed>")) {
                let begun = calls.iter_mut().rfind(|call| call.thread == thread).unwrap();
                begun.text.push_str(rest);
            } else if text.contains("F_GETFD") {
                // What builds with debug assertions ask of a descriptor before they close it.
            } else if let Some((name, arguments)) = text.split_once('(') {
                let ticks = name == "write" && arguments.contains(r#", "\1\0\0\0\0\0\0\0", 8"#);
                let name = if ticks { TICK } else { name };
                calls.push(Call { thread: thread.to_owned(), name: name.to_owned(), text: text.to_owned() });
            }
        }
        calls
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // strace ends with the process it has started, which is the first in its trace.
        let first = self.calls().first().and_then(|call| Pid::from_raw(call.thread.parse().ok()?));
        if let Some(pid) = first {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.strace.wait();
    }
}

/// Reads lines as they come, so that whoever writes them never waits.
fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}

/// The address of the next listener that the log tells of.
fn listening(lines: &Receiver<String>) -> SocketAddr {
    loop {
        let line = lines.recv_timeout(DEADLINE).expect("a line of the log about a listener");
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        if value["message"] == "listening" {
            return value["address"].as_str().unwrap().parse().unwrap();
        }
    }
}

/// Writes `it.crt` and `it.key`, and returns a client that trusts them.
fn certificate(dir: &TempDir) -> Arc<ClientConfig> {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(dir.path().join("it.crt"), cert.pem()).unwrap();
    std::fs::write(dir.path().join("it.key"), key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(cert.der().to_vec())).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

/// Makes a WebSocket of a connection.
fn upgrade<T: Read + Write>(mut stream: T) -> T {
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let head = head(&mut stream).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream
}

/// Sends a message, with a mask that leaves it readable, and waits for its return.
fn echo(stream: &mut (impl Read + Write), payload: &[u8; 8]) {
    let (mut frame, mut answer) = (vec![0x82, 0x88, 0, 0, 0, 0], [0; 10]);
    frame.extend_from_slice(payload);
    stream.write_all(&frame).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[2..], payload);
}

fn head(stream: &mut impl Read) -> Option<String> {
    let (mut head, mut byte) = (vec![], [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// A server that answers handshakes and echoes small messages, until it is asked to close.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> Option<()> {
    let head = head(&mut stream)?;
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))?;
    let accept = accept_for(key.as_bytes());
    let accept = std::str::from_utf8(&accept).ok()?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).ok()?;
    loop {
        let mut frame = [0; 6 + 8];
        stream.read_exact(&mut frame[..6]).ok()?;
        let len = usize::from(frame[1] & 0x7f);
        stream.read_exact(&mut frame[6..6 + len]).ok()?;
        let mut answer = vec![frame[0], frame[1] & 0x7f];
        answer.extend(frame[6..6 + len].iter().zip(frame[2..6].iter().cycle()).map(|(byte, key)| byte ^ key));
        let closing = frame[0] & 0x0f == 0x8;
        // The end travels with the Close: whether the proxy reads them at once must not depend on this thread's luck.
        socket2::SockRef::from(&stream).set_tcp_cork(closing).ok()?;
        stream.write_all(&answer).ok()?;
        if closing {
            return Some(());
        }
    }
}
