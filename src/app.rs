//! The process: built in order, run, drained, stopped.
//!
//! Workers are threads, each with a current-thread runtime of its own and its own listening sockets; a connection never
//! leaves its worker. The admin listener has a thread too, so that a scrape disturbs no session and answers when they
//! are busy; and what is done apart from any client has one (`control`): health checks, discovery, moving sessions. Nothing
//! here reads the command line or signals: `cli` does, and tests do without.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::Registry;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::admin::health::{Readiness, State};
use crate::admin::{self, AdminState};
use crate::config::{ConfigErrors, Loaded, Log, LogFormat, Workers};
use crate::control::compile::{self, Families, Surroundings, compile};
use crate::control::shed::{self, Shedding};
use crate::discovery::Discovery;
use crate::drain::Drain;
use crate::net::listener::{Acceptor, Address, BindError, Bound, bind};
use crate::probe::{self, Check};
use crate::server::Listener;
use crate::telemetry::logging::Format;
use crate::telemetry::process;
use crate::telemetry::sink::LogSink;
use crate::upstream::Upstream;
use crate::upstream::live::Lives;
use crate::{clock, server, worker};

/// What is kept back of the drain time, so that the last sessions told to end still have time to answer.
const LAST_ANSWER: Duration = Duration::from_secs(3);

/// How long the first endpoints of a discovery are waited for at the start.
const FIRST_ENDPOINTS: Duration = Duration::from_secs(5);

/// Why the process could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file cannot be turned into a configuration in force.
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    /// A listener.
    #[error("listener {listener}: {error}")]
    Bind {
        /// Its name.
        listener: String,
        /// Why.
        error: BindError,
    },
    /// A metric name was registered twice: a mistake of ours.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A thread or a runtime could not be made.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// A running proxy.
#[derive(Debug)]
pub struct App {
    listeners: Vec<(Arc<str>, Address)>,
    admin: Option<Address>,
    registry: Registry,
    readiness: Readiness,
    drain: Arc<Drain>,
    drain_time: Duration,
    phase: watch::Sender<Phase>,
    /// Ends when no worker accepts any more: each holds a sender as long as it does.
    accepting: mpsc::Receiver<Infallible>,
    threads: Vec<JoinHandle<()>>,
    bound: Vec<Bound>,
}

/// What is done apart from any client.
struct Background {
    /// Health checks.
    checks: Vec<(Arc<Upstream>, Check)>,
    /// Upstreams whose endpoints somebody else tells.
    discoveries: Vec<Discovery>,
    /// Upstreams whose sessions are moved or closed for the sake of their endpoints.
    sheddings: Vec<(Arc<Upstream>, Shedding)>,
}

/// What all threads are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// No new connections.
    Draining,
    /// Go.
    Over,
}

/// How the drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections and sessions that were still there at the deadline, and were cut.
    pub left: usize,
}

/// The look of log lines: as the file says, or by what the output is.
pub fn log_format(log: &Log, terminal: bool) -> Format {
    match log.format {
        LogFormat::Json => Format::Json,
        LogFormat::Human => Format::Human,
        LogFormat::Auto if terminal => Format::Human,
        LogFormat::Auto => Format::Json,
    }
}

impl App {
    /// Builds everything and begins to accept. `registry` gets all metrics of the process; `sink` the access log.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left listening then.
    pub fn start(loaded: &Loaded, registry: Registry, sink: LogSink, format: Format) -> Result<App, StartError> {
        let workers = match loaded.file.workers {
            Workers::Count(count) => usize::from(count),
            Workers::Auto => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let drain = Drain::new(workers);
        let families = Families::register(&registry, workers)?;
        let readiness = Readiness::new();
        readiness.register(&registry)?;
        process::register(&registry, &sink)?;
        let log = compile::access_log(&loaded.file, sink, format);
        let probes = families.probe.clone();
        let around = Surroundings { workers, families, log, drain: Arc::clone(&drain), lives: Lives::default() };
        let compiled = compile(loaded, &around)?;
        for warning in &compiled.warnings {
            tracing::warn!("{warning}");
        }
        let (phase, _) = watch::channel(Phase::Running);
        let (accepts, accepting) = mpsc::channel(1);
        let mut app = App {
            listeners: vec![],
            admin: None,
            registry,
            readiness,
            drain,
            drain_time: loaded.file.drain.time.duration(),
            phase,
            accepting,
            threads: vec![],
            bound: vec![],
        };
        for (address, listener) in &compiled.listeners {
            let bound = bind(address, workers)
                .map_err(|error| StartError::Bind { listener: listener.name.to_string(), error })?;
            app.listeners.push((Arc::clone(&listener.name), bound.address().clone()));
            app.bound.push(bound);
        }
        if let Some(written) = &loaded.file.admin {
            let bound = bind(&compile::address(&written.bind), 1)
                .map_err(|error| StartError::Bind { listener: "admin".into(), error })?;
            app.admin = Some(bound.address().clone());
            app.serve_admin(bound)?;
        }
        let background =
            Background { checks: compiled.checks, discoveries: compiled.discoveries, sheddings: compiled.sheddings };
        app.spawn_control(background, probes)?;
        let listeners: Vec<Arc<Listener>> = compiled.listeners.into_iter().map(|(_, listener)| listener).collect();
        for index in 0..workers {
            app.spawn_worker(index, &listeners, accepts.clone())?;
        }
        drop(accepts);
        app.readiness.advance(State::Ready);
        for ((name, address), listener) in app.listeners.iter().zip(&listeners) {
            tracing::info!(listener = %name, %address, tls = listener.tls.is_some(), "listening");
        }
        if let Some(address) = &app.admin {
            tracing::info!(%address, "admin: /metrics /livez /readyz");
        }
        Ok(app)
    }

    /// Listeners by name, with the addresses they are bound to.
    pub fn listeners(&self) -> &[(Arc<str>, Address)] {
        &self.listeners
    }

    /// Where the admin listener is, if there is one.
    pub fn admin(&self) -> Option<&Address> {
        self.admin.as_ref()
    }

    /// All metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Connections and sessions at the moment.
    pub fn active(&self) -> usize {
        self.drain.active()
    }

    /// Stops accepting, tells `/readyz`, and lets sessions end with their Close, spread over the drain time. Returns when
    /// all have ended or the time is over.
    ///
    /// Cancel-safe; dropping the `App` afterwards ends what is left.
    pub async fn drain(&mut self) -> Drained {
        self.readiness.advance(State::Draining);
        let _ = self.phase.send(Phase::Draining);
        self.bound.clear();
        // The workers' duplicates go with their accept loops. Nobody who was let in is overlooked below.
        let deadline = Instant::now() + self.drain_time;
        let _ = timeout_at(deadline, self.accepting.recv()).await;
        let span = self.drain_time - LAST_ANSWER.min(self.drain_time / 2);
        let paced = self.drain.begin(clock::now(), span, fastrand::f64);
        tracing::info!(sessions = paced, time = ?self.drain_time, "draining: no new connections, sessions get 1012");
        let _ = timeout_at(deadline, self.drain.wait_idle()).await;
        Drained { left: self.drain.active() }
    }

    fn spawn_worker(
        &mut self,
        index: usize,
        listeners: &[Arc<Listener>],
        accepts: mpsc::Sender<Infallible>,
    ) -> Result<(), StartError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let accepting: Vec<(Arc<Listener>, Acceptor)> = listeners
            .iter()
            .zip(&self.bound)
            .map(|(listener, bound)| Ok((Arc::clone(listener), bound.for_worker(index)?)))
            .collect::<io::Result<_>>()?;
        drop(entered);
        let (phase, drain) = (self.phase.subscribe(), Arc::clone(&self.drain));
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        self.threads.push(thread.spawn(move || {
            worker::enter(index);
            runtime.block_on(work(accepting, accepts, drain, phase));
            end(runtime);
        })?);
        Ok(())
    }

    /// The thread of what is done apart from any client. Waits a while for the first endpoints of all upstreams that are
    /// told theirs: a proxy without them would only have 503 to give. Clients that come meanwhile wait in the listeners'
    /// backlog.
    fn spawn_control(&mut self, background: Background, probes: probe::metrics::Metrics) -> Result<(), StartError> {
        let Background { checks, discoveries, sheddings } = background;
        if checks.is_empty() && discoveries.is_empty() && sheddings.is_empty() {
            return Ok(());
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (mut phase, drain) = (self.phase.subscribe(), Arc::clone(&self.drain));
        let (told, all_told) = std::sync::mpsc::channel::<Infallible>();
        self.threads.push(std::thread::Builder::new().name("control".into()).spawn(move || {
            runtime.block_on(async move {
                let mut tasks = JoinSet::new();
                for Discovery { upstream, task, first } in discoveries {
                    tasks.spawn(task);
                    let told = told.clone();
                    tasks.spawn(async move {
                        if timeout(FIRST_ENDPOINTS, first).await.is_err() {
                            tracing::warn!(%upstream, "starting without endpoints: discovery has told none yet");
                        }
                        drop(told);
                    });
                }
                drop(told);
                for (upstream, check) in checks {
                    tasks.spawn(probe::watch::run(upstream, check, probes.clone()));
                }
                for (upstream, wanted) in sheddings {
                    tasks.spawn(shed::run(upstream, Arc::clone(&drain), wanted));
                }
                let _ = phase.wait_for(|phase| *phase == Phase::Over).await;
            });
            end(runtime);
        })?);
        // Ends when all have their first list or have waited for it long enough.
        let _ = all_told.recv();
        Ok(())
    }

    fn serve_admin(&mut self, bound: Bound) -> Result<(), StartError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let state = AdminState { registry: self.registry.clone(), readiness: self.readiness.clone(), api: None };
        let mut phase = self.phase.subscribe();
        let acceptor = {
            let _entered = runtime.enter();
            bound.for_worker(0)?
        };
        self.threads.push(std::thread::Builder::new().name("admin".into()).spawn(move || {
            let over = async move {
                let _ = phase.wait_for(|phase| *phase == Phase::Over).await;
            };
            runtime.block_on(admin::serve(acceptor, state, over));
            end(runtime);
            drop(bound);
        })?);
        Ok(())
    }
}

impl Drop for App {
    /// Ends what is still there and waits for the threads, so that every session has its line in the log.
    fn drop(&mut self) {
        let _ = self.phase.send(Phase::Over);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The longest a worker sleeps. tokio wakes its own thread through an eventfd whenever a timer is set that is nearer than
/// all others, which a connection does three times (head, handshake, closing); next to a tick that is always near none is.
/// Two system calls saved a connection, for four wake-ups a second: a timer moves down tokio's wheel before it fires.
const TICK: Duration = Duration::from_millis(500);

/// What a worker does.
async fn work(
    accepting: Vec<(Arc<Listener>, Acceptor)>,
    accepts: mpsc::Sender<Infallible>,
    drain: Arc<Drain>,
    mut phase: watch::Receiver<Phase>,
) {
    let _tick = tokio::spawn(async {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
        }
    });
    let mut loops = JoinSet::new();
    for (listener, acceptor) in accepting {
        loops.spawn(server::run(listener, acceptor, Arc::clone(&drain)));
    }
    // An error would mean that the `App` is gone: the same as its end.
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    loops.shutdown().await;
    drop(accepts);
    let _ = phase.wait_for(|phase| *phase == Phase::Over).await;
}

/// Drops a runtime's tasks, without waiting for a name look-up that may still be under way on a thread of its own.
fn end(runtime: Runtime) {
    runtime.shutdown_timeout(Duration::from_millis(100));
}
