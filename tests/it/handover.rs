//! Handovers to another process and from a service manager. This test binary plays both roles; the other role is a test
//! that a normal run ignores.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, test_kill_process, waitpid};
use wsluice::handover::systemd;
use wsluice::handover::{
    Attempt, Deadlines, ENVIRONMENT, HandoverOffer, Known, Metrics, Predecessors, SuccessionError, Successor,
};
use wsluice::net::listener::{Address, Bound, adopt, bind};
use wsluice::net::stream::Stream;
use wsluice::upstream;
use wsluice::upstream::endpoint_state::{ConnectionPermit, EndpointState, EndpointStates};

/// The state of a process: its sessions and metrics.
struct Process {
    lives: EndpointStates,
    metrics: Metrics,
    families: upstream::metrics::Metrics,
}

impl Process {
    fn new() -> Process {
        let registry = Registry::new();
        let (metrics, families) = (Metrics::register(&registry), upstream::metrics::Metrics::register(&registry));
        Process { lives: EndpointStates::default(), metrics: metrics.unwrap(), families: families.unwrap() }
    }

    fn state(&self) -> Arc<EndpointState> {
        self.lives.of("chat", "a", || self.families.endpoint("chat", "a", &[]))
    }

    fn session(&self) -> ConnectionPermit {
        self.state().enter(u32::MAX).unwrap()
    }
}

/// Returns an offer with a listener.
fn offer() -> (HandoverOffer, Bound, Address) {
    let bound = bind(&"127.0.0.1:0".parse().unwrap(), 2).unwrap();
    let mut offer = HandoverOffer::default();
    offer.add("plain", &bound).unwrap();
    let address = bound.address().clone();
    (offer, bound, address)
}

/// The variable for the role of a child, which runs only the test of that role.
const PART: &str = "WSLUICE_TEST_PART";

/// Returns the command of a process in a role.
pub fn child(part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "handover::the_other_process"]);
    command.env(PART, part).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Counts the sockets of this process.
fn sockets() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

#[test]
#[ignore = "run as a child by the tests below"]
fn the_other_process() {
    let sockets = sockets();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(play(&std::env::var(PART).unwrap(), sockets));
}

async fn play(part: &str, sockets: usize) {
    let successor = match Successor::from_env(Deadlines::default()) {
        Ok(Some(successor)) => successor,
        Ok(None) => std::process::exit(10),
        Err(SuccessionError::NotParent) => std::process::exit(11),
        Err(SuccessionError::NoLine) => std::process::exit(12),
        Err(_) => std::process::exit(13),
    };
    if part == "exits" {
        std::process::exit(78);
    }
    let (prepared, mut inheritance) = successor.receive_offer().await.unwrap();
    match part {
        "counts_sockets" => return prepared.refuse(&format!("{sockets} sockets at the start")).await,
        "hangs" => std::thread::sleep(Duration::from_secs(600)),
        _ => {}
    }
    let address = inheritance.left().next().unwrap().clone();
    let (address, inherited) = inheritance.take("plain", &address).unwrap();
    let mut bound = adopt(&address, inherited, 1).unwrap();
    let activated = prepared.ready().await.unwrap();
    if part == "hangs_with_the_word" {
        std::thread::sleep(Duration::from_secs(600));
    }
    if part == "dies" {
        kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
    }
    bound.take_charge().unwrap();
    let mut acceptor = bound.for_worker(0).unwrap();
    let (mut before, process) = (activated.confirm(inheritance).await, Process::new());
    // Reports to each client what is left of the old process, until nothing is.
    loop {
        tokio::select! {
            accepted = acceptor.accept() => {
                let Stream::Tcp(stream) = accepted.unwrap().0 else { panic!("TCP") };
                let mut stream = stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                let left = process.state().load();
                stream.write_all(&[u8::try_from(left).unwrap()]).unwrap();
                if before.is_empty() {
                    return;
                }
            }
            () = before.follow(&process.lives, &process.metrics, &|_| unreachable!("nothing moves")) => unreachable!(),
        }
    }
}

/// Returns what a process reports of the old one's sessions.
fn asks(address: &Address) -> std::io::Result<u8> {
    let mut answer = [0];
    let mut client = TcpStream::connect(address.tcp().unwrap())?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    client.read_exact(&mut answer)?;
    Ok(answer[0])
}

#[tokio::test(flavor = "current_thread")]
async fn another_process_takes_over_and_hears_what_is_left() {
    let (offer, bound, address) = offer();
    let old = Process::new();
    let seats = [old.session(), old.session()];
    let prepared = offer.start(child("takes_over"), Deadlines::default()).await.unwrap();
    let mut reporter = prepared.hand_over(&Predecessors::default(), &old.lives, Known::default()).await.unwrap();
    drop(bound);
    let ask = async |wanted| {
        let follow = async {
            loop {
                let address = address.clone();
                let left = tokio::task::spawn_blocking(move || asks(&address)).await.unwrap().unwrap();
                if left == wanted {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), follow).await.unwrap();
    };
    ask(2).await;
    drop(seats);
    let _one = old.session();
    reporter.report(old.lives.counts()).await.unwrap();
    ask(1).await;
    // The closed line means to the other side that the process is gone; it then ends by itself.
    let pid = Pid::from_raw(i32::try_from(reporter.successor()).unwrap()).unwrap();
    drop(reporter);
    ask(0).await;
    let exited = waitpid(Some(pid), WaitOptions::empty()).unwrap();
    assert!(exited.is_some_and(|(_, status)| status.exit_status() == Some(0)), "{exited:?}");
}

/// Returns true if the process exists, even as a zombie.
fn is_there(pid: u32) -> bool {
    test_kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()).is_ok()
}

#[tokio::test(flavor = "current_thread")]
async fn another_process_that_fails_is_ended_and_told_of() {
    let deadlines = Deadlines { ready: Duration::from_secs(20), taken: Duration::from_secs(20) };
    let fails = async |command: Command, deadlines| {
        let (offer, _bound, _) = offer();
        let old = Process::new();
        let prepared = offer.start(command, deadlines).await?;
        prepared.hand_over(&Predecessors::default(), &old.lives, Known::default()).await
    };
    let missing = fails(Command::new("/nowhere/wsluice"), deadlines).await.unwrap_err();
    assert_eq!(missing.attempt(), Attempt::StartFailed);
    let exits = fails(child("exits"), deadlines).await.unwrap_err();
    assert_eq!((exits.attempt(), exits.to_string().contains("exit code 78")), (Attempt::NotReady, true), "{exits}");
    let dies = fails(child("dies"), deadlines).await.unwrap_err();
    assert_eq!((dies.attempt(), dies.to_string().contains("signal 9")), (Attempt::Died, true), "{dies}");
    let counted = fails(child("counts_sockets"), deadlines).await.unwrap_err();
    // The line alone: a child inherits no other descriptor.
    assert!(counted.to_string().contains("refused: 1 sockets at the start"), "{counted}");
    let hangs = fails(child("hangs"), Deadlines { ready: Duration::from_secs(2), ..deadlines }).await.unwrap_err();
    assert_eq!(hangs.attempt(), Attempt::Timeout);
}

#[tokio::test(flavor = "current_thread")]
async fn a_new_process_that_nobody_waits_for_any_more_is_killed() {
    let (offer, _bound, _) = offer();
    let prepared = offer.start(child("takes_over"), Deadlines::default()).await.unwrap();
    let pid = prepared.pid();
    assert!(is_there(pid));
    drop(prepared);
    let ended = async {
        while is_there(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
}

#[test]
fn who_is_not_meant_does_not_take_over() {
    let code = |mark: Option<String>| {
        let mut command = child("nobody");
        command.env_remove(ENVIRONMENT).stdin(Stdio::null());
        if let Some(mark) = mark {
            command.env(ENVIRONMENT, mark);
        }
        command.status().unwrap().code()
    };
    assert_eq!(code(None), Some(10));
    assert_eq!(code(Some("1".into())), Some(11), "left over from another process");
    assert_eq!(code(Some("x".into())), Some(11));
    assert_eq!(code(Some(std::process::id().to_string())), Some(12), "no line");
}

/// Run by the next test, with descriptors as systemd passes them.
#[test]
#[ignore = "run by sockets_of_the_service_manager_are_adopted"]
fn child_with_sockets() {
    let wanted: Address = std::env::var("WSLUICE_TEST_ADDRESS").unwrap().parse().unwrap();
    let mut inheritance = systemd::sockets();
    assert_eq!(systemd::sockets().left().len(), 0, "a second time");
    assert_eq!(inheritance.left().collect::<Vec<_>>(), [&wanted]);
    let (address, inherited) = inheritance.take("web", &wanted).unwrap();
    adopt(&address, inherited, 2).unwrap();
    assert!(std::fs::read_link("/proc/self/fd/4").is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound));
}

#[test]
fn sockets_of_the_service_manager_are_adopted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // As systemd does: 3 is the listener, 4 another descriptor. The number is the shell's, which the child keeps.
    let script = "exec 3<&0 4</dev/null; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:none; \
                  export LISTEN_PID LISTEN_FDS LISTEN_FDNAMES; exec \"$@\" 0</dev/null";
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "handover::child_with_sockets"])
        .env("WSLUICE_TEST_ADDRESS", &address)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
