//! The proxies under test: how each is configured, started, found ready and stopped.
//!
//! All get one worker (or `--workers`), the same certificate, a backlog of 4096, no access log, and an hour's patience
//! with idle tunnels; the rest is as each comes. A proxy is a fresh process in each round.

mod haproxy;
mod nginx;
mod wsluice;

pub use haproxy::CONNECTIONS_MAX as HAPROXY_CONNECTIONS_MAX;

use std::fmt;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::args::{Admission, Versus};
use crate::floor;
use crate::machine::{Cores, free_ports};
use crate::process::Tree;
use crate::tls::Identity;

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    Wsluice,
    Nginx,
    Haproxy,
    /// A bare forwarder: what the kernel alone costs.
    Floor,
    /// No proxy: what the rig itself can do.
    Direct,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Wsluice => "wsluice",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
            Kind::Floor => "floor",
            Kind::Direct => "direct",
        })
    }
}

/// A proxy that is installed here.
#[derive(Clone, Debug)]
pub struct Program {
    pub kind: Kind,
    /// What the report calls it: the kind's name, or that of a further wsluice (`--versus`).
    pub label: String,
    /// Empty for [`Kind::Direct`].
    path: PathBuf,
    /// The program's own words.
    pub version: String,
}

/// The paths that go to [`Behind::apart`].
pub const APART: &str = "/apart";

/// What is behind a proxy.
pub struct Behind {
    /// The endpoints of one upstream.
    pub endpoints: Vec<SocketAddr>,
    /// The endpoint of another one.
    pub apart: Option<SocketAddr>,
    /// What the first upstream admits.
    pub admission: Option<Admission>,
}

/// What a configuration is made of.
struct Plan<'a> {
    plain_port: u16,
    tls_port: u16,
    admin_port: u16,
    behind: &'a Behind,
    workers: usize,
    identity: &'a Identity,
    directory: &'a Path,
}

impl Program {
    /// Looks a proxy up; `None` when it is not installed.
    pub fn find(kind: Kind, wsluice: Option<&Path>) -> Option<Program> {
        let path = match kind {
            Kind::Floor => std::env::current_exe().ok()?,
            Kind::Direct => PathBuf::new(),
            Kind::Wsluice => wsluice.map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_wsluice")), Path::to_owned),
            Kind::Nginx => in_path("nginx")?,
            Kind::Haproxy => in_path("haproxy")?,
        };
        let version = match kind {
            Kind::Wsluice => version_of(&path, "--version")?,
            Kind::Nginx => version_of(&path, "-V")?,
            Kind::Haproxy => version_of(&path, "-vv")?,
            Kind::Floor => "bytes from one socket to the other by epoll, no HTTP; rustls for wss".to_owned(),
            Kind::Direct => "no proxy".to_owned(),
        };
        Some(Program { kind, label: kind.to_string(), path, version })
    }

    /// A further wsluice under a name of its own, for a comparison of before and after.
    pub fn versus(versus: &Versus) -> Result<Program> {
        let program = Program::find(Kind::Wsluice, Some(&versus.path));
        let program = program.with_context(|| format!("{} cannot be run", versus.path.display()))?;
        Ok(Program { label: versus.label.clone(), ..program })
    }

    /// Starts the proxy on the proxy's core and waits until it accepts; `None` for [`Kind::Direct`].
    pub fn start(&self, behind: &Behind, workers: usize, identity: &Identity, cores: Cores) -> Result<Option<Running>> {
        let directory = TempDir::new()?;
        let [plain_port, tls_port, admin_port] = free_ports()?;
        let plan = Plan { plain_port, tls_port, admin_port, behind, workers, identity, directory: directory.path() };
        let mut command = Command::new(&self.path);
        match self.kind {
            Kind::Wsluice => wsluice::prepare(&mut command, &plan)?,
            Kind::Nginx => nginx::prepare(&mut command, &plan)?,
            Kind::Haproxy => haproxy::prepare(&mut command, &plan)?,
            Kind::Floor => {
                let backend = *behind.endpoints.first().context("nothing is behind the floor")?;
                floor::prepare(&mut command, plain_port, tls_port, backend, identity.cert_file(), identity.key_file());
            }
            Kind::Direct => return Ok(None),
        }
        let log = directory.path().join("output.log");
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // A child runs where the thread that starts it runs.
        cores.become_proxy(workers)?;
        let child = command.spawn().with_context(|| format!("starting {}", self.path.display()))?;
        let mut running = Running { child, plain_port, tls_port, log, _directory: directory };
        if let Ok(mut started) = STARTED.lock() {
            started.push(running.pid());
        }
        running.wait().with_context(|| format!("{} does not come up", self.label))?;
        Ok(Some(running))
    }
}

/// The first line of what a program says of itself, and its OpenSSL: handshakes differ by a quarter between versions.
fn version_of(path: &Path, flag: &str) -> Option<String> {
    let said = Command::new(path).arg(flag).output().ok()?;
    let said = [said.stdout, said.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let version = said.lines().next().unwrap_or_default().trim().trim_start_matches("nginx version: ").to_owned();
    let library = said.lines().find_map(|line| {
        let line =
            line.strip_prefix("built with ").or_else(|| Some(line.strip_prefix("Running on ")?.split_once(": ")?.1));
        line.filter(|line| line.contains("OpenSSL ") && !line.contains("gcc"))
    });
    Some(library.map_or(version.clone(), |library| format!("{version}, {library}")))
}

fn in_path(name: &str) -> Option<PathBuf> {
    let mut directories: Vec<_> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    // Where servers live, which the PATH of an ordinary user may leave out.
    directories.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    directories.into_iter().map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// A proxy at work; stopped when dropped.
pub struct Running {
    child: Child,
    plain_port: u16,
    tls_port: u16,
    log: PathBuf,
    _directory: TempDir,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn plain(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.plain_port).into()
    }

    pub fn tls(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.tls_port).into()
    }

    /// What it has printed, for a round that failed.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        while [self.plain(), self.tls()].iter().any(|addr| TcpStream::connect(addr).is_err()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{status}: {}", self.output());
            }
            if start.elapsed() > Duration::from_secs(10) {
                bail!("not listening after 10 s: {}", self.output());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let family = Tree::of(self.pid());
        // The second one is for those that drain first.
        for _ in 0..2 {
            signal(self.pid(), Signal::TERM);
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_secs(2) {
                if matches!(self.child.try_wait(), Ok(Some(_))) {
                    forget(self.pid());
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        family.pids().iter().for_each(|&pid| signal(pid, Signal::KILL));
        let _reaped = self.child.wait();
        forget(self.pid());
    }
}

/// What has been started and not yet stopped: interrupting the rig must not leave proxies behind.
static STARTED: Mutex<Vec<i32>> = Mutex::new(Vec::new());

fn forget(pid: i32) {
    if let Ok(mut started) = STARTED.lock() {
        started.retain(|other| *other != pid);
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended by itself.
        let _gone = kill_process(pid, signal);
    }
}

/// On INT or TERM, ends the proxies and then this process.
pub fn end_with_us() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
            let started = STARTED.lock().map(|started| started.clone()).unwrap_or_default();
            for pid in started.into_iter().flat_map(|root| Tree::of(root).pids().to_vec()) {
                self::signal(pid, Signal::KILL);
            }
            std::process::exit(130);
        });
    })?;
    Ok(())
}

/// What `cargo test --benches` holds this directory to.
pub fn check_itself(identity: &Identity) -> Result<()> {
    let (directory, endpoint) = (TempDir::new()?, SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
    let [plain_port, tls_port, admin_port] = free_ports()?;
    let directory = directory.path();
    let plain = Behind { endpoints: vec![endpoint], apart: None, admission: None };
    let apart = SocketAddr::from((Ipv4Addr::LOCALHOST, 10));
    let full = Behind { endpoints: vec![endpoint], apart: Some(apart), admission: Some(Admission { per_second: 10 }) };
    for behind in [&plain, &full] {
        wsluice::check_itself(&Plan { plain_port, tls_port, admin_port, behind, workers: 1, identity, directory })?;
    }
    Ok(())
}
