//! The command line: run, check, proxy, ping, schema and the demo; signals; exit codes.

mod arguments;
mod check;
mod import;
mod ping;
mod upgrade;

use std::io::IsTerminal as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use prometheus::Registry;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch as latest};
use tokio::task::JoinSet;

use crate::app::{App, StartError};
use crate::config::{Bind, ConfigErrors, EndpointUrl, Loaded, load_again, load_file, load_str, schema};
use crate::control::context::LogOutput;
use crate::control::{ControlHandle, Loader, ProcessOrigin, ReloadError, Succession, Trigger, watch};
use crate::demo::{self, DemoAddresses, DemoCertificate, DemoCounters};
use crate::handover::systemd::{self, Notifier};
use crate::handover::{Deadlines, Invocation, Successor};
use crate::net::descriptors;
use crate::telemetry::logging::{self, Options};
use crate::telemetry::panics;
use crate::telemetry::sink::LogSink;

/// EX_CONFIG of sysexits(3): systemd can be told not to restart on it (`RestartPreventExitStatus=78`).
const EXIT_CONFIG: u8 = 78;
/// The time for other threads to finish at the end.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// The time to write the last log lines.
const LOG_FLUSH: Duration = Duration::from_secs(2);

/// A WebSocket reverse proxy and load balancer that understands frames.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = format!("Without a command, the demo starts: a proxy in front of {}, to try it.", demo::SERVERS)
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a proxy in front of built-in servers, with a page to try it (the default).
    Demo(DemoListen),
    /// Run with a configuration file.
    Run {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Check a configuration file and its certificates, and report all mistakes; or tell what becomes of a request.
    Check(check::CheckArguments),
    /// Run without a file: one listener in front of one server, for WebSockets and plain HTTP.
    Proxy {
        /// Where to listen: an address and a port, or unix:/path.
        #[arg(long, value_name = "ADDRESS", value_parser = parse::<Bind>)]
        listen: Bind,
        /// The server: http://, https://, ws://, wss:// host and port, or unix:/path.
        #[arg(long, value_name = "URL", value_parser = parse::<EndpointUrl>)]
        to: EndpointUrl,
    },
    /// Open one WebSocket as a client, and show each step: name, TCP, TLS, handshake, Ping, Close.
    Ping(ping::PingArguments),
    /// Replace a running process by a new one, which its sessions go to; as USR2 does, but tells what came of it.
    Upgrade(upgrade::UpgradeArguments),
    /// Turn the configuration of another proxy into one of wsluice, on standard output.
    Import {
        #[command(subcommand)]
        from: import::ImportFrom,
    },
    /// Print the JSON Schema of configuration files, for editors.
    Schema,
}

/// Where the demo listens. A default that is in use gives way to a free port, an address that was asked for does not.
#[derive(Debug, Default, clap::Args)]
struct DemoListen {
    /// Where to listen for http and ws, such as 127.0.0.1:9000; 0.0.0.0 lets other devices in [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_tcp)]
    listen: Option<SocketAddr>,
    /// Where to listen for https and wss [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_tcp)]
    listen_tls: Option<SocketAddr>,
    /// Where to serve metrics, health and the API, on loopback [default: 127.0.0.1:9902]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_loopback)]
    admin: Option<SocketAddr>,
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", env = "WSLUICE_CONFIG")]
    config: PathBuf,
}

fn parse<T>(text: &str) -> Result<T, String>
where
    T: std::str::FromStr<Err = crate::config::BadValue>,
{
    text.parse().map_err(|error: crate::config::BadValue| format!("{}: {}", error.problem, error.help))
}

fn parse_tcp(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<Bind>() {
        Ok(Bind::Tcp(address)) => Ok(address),
        _ => Err("write an address and a port, such as 127.0.0.1:9000".to_owned()),
    }
}

fn parse_loopback(text: &str) -> Result<SocketAddr, String> {
    let address = parse_tcp(text)?;
    let refused = "the demo's admin listener has no token, so it must be on loopback, such as 127.0.0.1:9902";
    if address.ip().is_loopback() { Ok(address) } else { Err(refused.to_owned()) }
}

/// Runs the command line. Returns the exit code: 0 for success, 1 for a failure or a file that `check` finds wrong, 2 for
/// wrong usage, 78 for a configuration that is wrong.
pub fn main() -> ExitCode {
    let command = Cli::parse().command.unwrap_or(Command::Demo(DemoListen::default()));
    let done = match command {
        Command::Demo(listen) => run_demo(&listen),
        Command::Run { config } => run_file(&config.config),
        Command::Check(arguments) => return check::run(arguments),
        Command::Proxy { listen, to } => run_pair(&listen, &to),
        Command::Ping(arguments) => match ping::run(arguments) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Upgrade(arguments) => match upgrade::run(&arguments) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Import { from } => import::run(&from),
        Command::Schema => print(&format!("{:#}\n", schema())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A report about a file begins with the file's name and needs no prefix.
            if error.is::<ConfigErrors>() {
                complain(&format!("{error}\n"));
                return ExitCode::from(EXIT_CONFIG);
            }
            complain(&format!("wsluice: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Writes to stdout. A reader that has closed it (`| head`) is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// Writes to stderr. A reader that has closed it (`2>&1 | head`) is not an error, and there is nobody else to tell.
fn complain(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn run_file(path: &Path) -> anyhow::Result<()> {
    let loaded = load_file(path, &environment)?;
    run(loaded, Some(path), RunMode::Service, Registry::new(), |_| {})
}

fn run_pair(listen: &Bind, to: &EndpointUrl) -> anyhow::Result<()> {
    // Both have been parsed, so they print in canonical form; a JSON string is a YAML string.
    let (listen, to) = (serde_json::json!(listen.to_string()), serde_json::json!(to.to_string()));
    let text = format!(
        "listeners: [{{ name: default, bind: {listen} }}]\n\
         routes: [{{ name: default, upstream: default }}]\n\
         upstreams: {{ default: {{ endpoints: [{to}] }} }}\n"
    );
    run(load_str("command line", &text, &|_| None)?, None, RunMode::Service, Registry::new(), |_| {})
}

fn run_demo(listen: &DemoListen) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let registry = Registry::new();
    let servers = {
        let _entered = runtime.enter();
        let registry = registry.clone();
        demo::start(move || DemoCounters::gather(&registry)).context("cannot start the demo's servers")?
    };
    let certificate = DemoCertificate::create().context("cannot make a certificate")?;
    let usual = DemoAddresses::default();
    let addresses = DemoAddresses {
        plain: free(listen.listen, usual.plain)?,
        tls: free(listen.listen_tls, usual.tls)?,
        admin: free(listen.admin, usual.admin)?,
    };
    let text = demo::demo_config(&servers, &certificate, addresses);
    let loaded = load_str("demo", &text, &|_| None)?;
    // The servers run on their own thread, which ends with the process.
    std::thread::Builder::new().name("demo-servers".into()).spawn(move || {
        runtime.block_on(std::future::pending::<()>());
    })?;
    let result = run(loaded, None, RunMode::Demo, registry, |_| {
        let _ = print(&demo::banner(&addresses));
    });
    drop(servers);
    result
}

/// Returns the address that was asked for, with a free port in place of 0; else the usual one, or a free port where it is in
/// use.
fn free(wanted: Option<SocketAddr>, usual: SocketAddr) -> anyhow::Result<SocketAddr> {
    let held = match wanted {
        // Whatever is wrong with it is told when the listener opens.
        Some(wanted) if wanted.port() != 0 => return Ok(wanted),
        Some(wanted) => TcpListener::bind(wanted),
        None => TcpListener::bind(usual).or_else(|_| TcpListener::bind((usual.ip(), 0))),
    };
    held.and_then(|listener| listener.local_addr()).context("no free port on loopback")
}

/// How the process runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RunMode {
    /// As a service: a service manager may start and watch it, and an upgrade may replace it.
    Service,
    /// As a demo with its own servers, which no other process could take over.
    Demo,
}

impl RunMode {
    /// Returns where its sockets come from and how it can be replaced.
    fn origin(self) -> anyhow::Result<ProcessOrigin> {
        if self == RunMode::Demo {
            return Ok(ProcessOrigin::default());
        }
        let deadlines = Deadlines::default();
        let invocation = Invocation::of_this_process();
        if let Err(error) = &invocation {
            tracing::warn!(%error, "this process cannot be upgraded: its own command line is unknown");
        }
        Ok(ProcessOrigin {
            successor: Successor::from_env(deadlines)?,
            sockets: systemd::sockets(),
            succession: invocation.ok().map(|invocation| Succession { invocation, deadlines }),
            notifier: Notifier::from_env().context("cannot reach the service manager (NOTIFY_SOCKET)")?,
            watchdog: systemd::watchdog(),
            cancelled: None,
        })
    }
}

/// Runs until a signal ends it, or until another process has taken over and all sessions here have ended.
fn run(
    loaded: Loaded,
    path: Option<&Path>,
    kind: RunMode,
    registry: Registry,
    started: impl FnOnce(&App),
) -> anyhow::Result<()> {
    let sink = LogSink::stderr().context("cannot start the log")?;
    let terminal = std::io::stderr().is_terminal();
    let mut output = LogOutput { sink: sink.clone(), terminal, switch: None };
    let (filter, format) = (loaded.file.log.level.as_str().to_owned(), output.format(&loaded.file.log));
    output.switch = Some(logging::init(&Options { filter, format, ansi: terminal }, sink.clone())?);
    panics::install(sink.clone());
    for warning in &loaded.warnings {
        tracing::warn!(file = warning.file, path = warning.path, line = warning.line, "{}", warning.message);
    }
    raise_descriptor_limit();
    let mut origin = kind.origin()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        // Before anything listens, so that an early signal is not lost.
        let mut signals = Signals::new()?;
        let loader = path.map(|path| {
            let path = path.to_owned();
            Arc::new(move || load_again(&path, &environment)) as Loader
        });
        let (cancel, cancelled) = latest::channel(false);
        origin.cancelled = Some(cancelled);
        // The start may wait for another process. A process that is told to end meanwhile does not take over.
        let (tell, mut starting) = oneshot::channel();
        std::thread::Builder::new().name("start".into()).spawn(move || {
            // The receiver may have gone if we have failed meanwhile.
            let _ = tell.send(App::start_from(origin, loaded, loader, registry, output));
        })?;
        let mut must_end = false;
        let start = tokio::select! {
            start = &mut starting => start,
            () = signals.end() => {
                must_end = true;
                cancel.send_replace(true);
                starting.await
            }
        };
        let mut app = match start.context("the start has failed")? {
            Err(StartError::Refused(ReloadError::Config(errors))) => return Err(errors.into()),
            Err(StartError::Refused(ReloadError::Ending)) => {
                tracing::info!("told to end before taking over");
                return Ok(());
            }
            start => start?,
        };
        started(&app);
        let watching = path.map(|path| {
            let (path, control) = (path.to_owned(), app.control().clone());
            let run = move || watch::run(path.clone(), control.clone());
            tokio::spawn(panics::keep(panics::PanicSite::Control, "watching the configuration", run))
        });
        let control = app.control().clone();
        if !must_end {
            tokio::select! {
                () = signals.stop(&control) => {}
                _ = control.replaced() => {}
            }
        }
        if let Some(watching) = watching {
            watching.abort();
        }
        if control.is_replaced() {
            tokio::select! {
                ended = app.wind_down() => {
                    match ended.left {
                        0 => tracing::info!("all sessions have ended"),
                        left => tracing::warn!(left, "the time for sessions to end is over: the rest is cut"),
                    }
                    drop(app);
                    return Ok(());
                }
                () = signals.stop(&control) => {}
            }
        }
        tokio::select! {
            drained = app.drain() => match drained.left {
                0 => tracing::info!("drained"),
                left => tracing::warn!(left, "drain time is over: the rest is cut"),
            },
            () = signals.stop(&control) => tracing::warn!(left = app.active(), "second signal: ending at once"),
        }
        drop(app);
        Ok(())
    });
    // Do not wait for a file poll that hangs.
    runtime.shutdown_timeout(LAST_LOOK);
    sink.flush(LOG_FLUSH);
    result
}

/// The signals that end the process, and those that must not end it.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
    reopen: tokio::signal::unix::Signal,
    upgrade: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Signals> {
        let of = |kind| signal(kind).context("cannot listen for signals");
        Ok(Signals {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            quit: of(SignalKind::quit())?,
            hang_up: of(SignalKind::hangup())?,
            reopen: of(SignalKind::user_defined1())?,
            upgrade: of(SignalKind::user_defined2())?,
        })
    }

    /// Waits for TERM, INT or QUIT. Cancel-safe.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }

    /// Waits for TERM, INT or QUIT. Meanwhile reloads at HUP, one reload after the other, and starts the next process at USR2;
    /// the end does not wait for either.
    async fn stop(&mut self, control: &ControlHandle) {
        let mut reload = JoinSet::new();
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.quit.recv() => return,
                // Log rotation may send it, as nginx reopens its logs on it; without a handler it would end the process.
                _ = self.reopen.recv() => {
                    tracing::info!("USR1: the log goes to standard error, there is nothing to reopen");
                }
                _ = self.upgrade.recv() => {
                    let control = control.clone();
                    // The result is in the log.
                    tokio::spawn(async move { control.upgrade().await });
                }
                // Signals during a reload cause one more reload after it.
                _ = self.hang_up.recv(), if reload.is_empty() => {
                    let control = control.clone();
                    // The result is in the log.
                    reload.spawn(async move { drop(control.reload(Trigger::Signal).await) });
                }
                Some(_) = reload.join_next() => {}
            }
        }
    }
}

/// Raises the limit of open files: a session needs two, and the usual soft limit (1024) would allow only 500 sessions.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) if before == limit.current => {
            tracing::info!(
                limit = before,
                kept_back = descriptors::reserve(),
                "limit of open files is at its maximum: a session needs two"
            );
        }
        Ok(()) => tracing::info!(
            before,
            now = limit.current,
            kept_back = descriptors::reserve(),
            "limit of open files raised: a session needs two"
        ),
        Err(error) => tracing::warn!(limit = before, %error, "cannot raise the limit of open files"),
    }
}
