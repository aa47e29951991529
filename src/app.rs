//! The process: starts its threads in order, runs, drains, stops.
//!
//! Each worker is a thread with its own current-thread runtime and its own listening sockets; a connection never leaves its
//! worker. The admin server has a thread too, so that a scrape does not delay sessions and is answered while they are busy.
//! So has `control`, for reloads and background tasks: health checks, discovery, moving sessions. Nothing here reads the
//! command line or signals; `cli` does, and tests do without.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::Registry;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::admin::access::{Access, AdminHosts};
use crate::admin::api::{self, Api};
use crate::admin::health::{Lifecycle, Readiness};
use crate::admin::process::ProcessBackend;
use crate::admin::{self, AdminState, connections};
use crate::auth::basic::BasicVerifier;
use crate::base::worker::WorkerHeartbeat;
use crate::base::{clock, worker};
use crate::config::{Loaded, OnChange, OnUpgrade, Workers};
use crate::control::context::{CompileContext, LogOutput, MetricFamilies, WaitLimits};
use crate::control::evict;
use crate::control::{
    AdminEndpoint, ControlHandle, ControlRequest, Controller, Loader, ProcessOrigin, ReloadError, Started,
};
use crate::net::listener::Address;
use crate::proxy::quota::RouteQuotas;
use crate::server::{accepting, turns};
use crate::session::Sessions;
use crate::session::registry::SessionRegistry;
use crate::session::stop::StopReason;
use crate::telemetry::process;
use crate::upstream::endpoint_state::EndpointStates;
use crate::upstream::reach::Own;

/// The end of the drain time in which no more sessions are closed, so that the last ones have time to answer; at most a
/// quarter of it.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// The longest wait for each step before sessions are closed: a reload under way may wait for others.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// The time for threads to end.
const THREADS_END: Duration = Duration::from_secs(5);

/// Why the process could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be put in force, or the process could not take over from another one.
    #[error(transparent)]
    Refused(#[from] ReloadError),
    /// A metric name was registered twice, which is a bug.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A thread or its runtime could not be created.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// A running proxy.
#[derive(Debug)]
pub struct App {
    ending: Arc<AtomicBool>,
    control: ControlHandle,
    admin: watch::Receiver<Option<AdminEndpoint>>,
    registry: Registry,
    readiness: Readiness,
    sessions: Arc<Sessions>,
    _threads: Threads,
}

/// All threads of the process. Dropping it ends them and waits, so that every session is logged.
#[derive(Debug)]
struct Threads {
    over: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// The result of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// The connections and sessions that were cut at the deadline.
    pub left: usize,
}

impl App {
    /// Starts everything and begins to accept. `loader` reads the configuration again for a reload, `registry` gets all
    /// metrics of the process, `output` all log lines.
    ///
    /// # Errors
    /// See [`StartError`]; no socket is left listening.
    pub fn start(
        loaded: Loaded,
        loader: Option<Loader>,
        registry: Registry,
        output: LogOutput,
    ) -> Result<App, StartError> {
        App::start_from(ProcessOrigin::default(), loaded, loader, registry, output)
    }

    /// Like [`App::start`], for a process that inherits sockets or can be replaced while it runs. A process that takes over
    /// from another one accepts when that one says so.
    ///
    /// # Errors
    /// See [`StartError`]; no socket is left listening here, and the other process goes on.
    pub fn start_from(
        origin: ProcessOrigin,
        loaded: Loaded,
        loader: Option<Loader>,
        registry: Registry,
        output: LogOutput,
    ) -> Result<App, StartError> {
        let workers = match loaded.file.workers {
            Workers::Count(count) => usize::from(count),
            Workers::Auto => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let sessions = SessionRegistry::new(workers);
        let families = MetricFamilies::register(&registry, workers)?;
        let readiness = Readiness::new();
        readiness.register(&registry)?;
        process::register(&registry, &output.sink)?;
        let ending = Arc::<AtomicBool>::default();
        let context = CompileContext {
            workers,
            key_sources: families.key_sources(),
            shared: families.shared_state(),
            passwords: Arc::new(BasicVerifier::new(std::thread::available_parallelism().map_or(1, usize::from))),
            families,
            log: Some(output),
            sessions: Arc::clone(&sessions),
            states: EndpointStates::default(),
            quotas: RouteQuotas::default(),
            own: Own::default(),
            pulse: WorkerHeartbeat::new(workers, clock::now()),
            replacing: Arc::default(),
            ending: Arc::clone(&ending),
            wait_limits: WaitLimits::default(),
        };
        let denied = Arc::clone(&context.shared.denied);
        let mut threads = Threads { over: watch::Sender::new(false), threads: vec![] };
        let mut orders = vec![];
        for index in 0..workers {
            orders.push(threads.spawn_worker(index, Arc::clone(&sessions), context.pulse.clone())?);
        }
        let Started { handle, admin, warnings } = threads.spawn_control(loaded, loader, context, orders, origin)?;
        evict::metrics::register(&registry, Arc::clone(&sessions), handle.watch_drains())?;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let backend = ProcessBackend::new(handle.clone(), Arc::clone(&sessions), denied, readiness.clone());
        let api = Api::new(Arc::new(backend), Access::default(), api::Metrics::register(&registry)?);
        let api = Some(Arc::new(api));
        let metrics = connections::Metrics::register(&registry)?;
        let state = AdminState { registry: registry.clone(), readiness: readiness.clone(), api, metrics };
        // Before the admin server starts: in an upgrade, requests may be waiting already.
        readiness.advance(Lifecycle::Ready);
        threads.spawn_admin(state, admin.clone())?;
        Ok(App { ending, control: handle, admin, registry, readiness, sessions, _threads: threads })
    }

    /// Returns the listeners by name, with the addresses they are bound to.
    pub fn listeners(&self) -> Vec<(Arc<str>, Address)> {
        self.control.in_force().listeners.clone()
    }

    /// Returns the address of the admin listener, if there is one.
    pub fn admin(&self) -> Option<Address> {
        self.admin.borrow().as_ref().map(|admin| admin.bound.address().clone())
    }

    /// Returns the handle of the controller.
    pub fn control(&self) -> &ControlHandle {
        &self.control
    }

    /// Returns the metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns the number of connections and sessions.
    pub fn active(&self) -> usize {
        self.sessions.active()
    }

    /// Sets `/readyz` to draining, stops accepting after the configured delay, and closes sessions, spread over the drain
    /// time. Returns when all have ended or the time is over.
    ///
    /// Cancel-safe; dropping the `App` afterwards ends the rest.
    pub async fn drain(&mut self) -> Drained {
        let wanted = self.control.in_force().loaded.file.drain.clone();
        let (delay, time) = (wanted.delay.duration(), wanted.time.duration());
        self.readiness.advance(Lifecycle::Draining);
        self.ending.store(true, Ordering::Relaxed);
        // When this returns, a next process has been killed or has taken over. If a slow reload is in between, it is killed
        // after that, and makes no progress until then.
        let _ = timeout(STOP_WAIT, self.control.request(|done| ControlRequest::End { done })).await;
        if !delay.is_zero() && !self.control.is_replaced() {
            tracing::info!(?delay, "draining soon: /readyz says so, connections are still accepted");
            tokio::time::sleep(delay).await;
        }
        let deadline = Instant::now() + time;
        // First: from now on, new connections get a last response, and refusals say that the drain has begun.
        let span = time - LAST_ANSWER.min(time / 4);
        let paced = self.sessions.stop_all(clock::now(), span, fastrand::f64);
        let stopped = (Instant::now() + STOP_WAIT).min(deadline);
        let _ = timeout_at(stopped, self.control.request(|done| ControlRequest::StopAccepting { done })).await;
        tracing::info!(sessions = paced, ?time, "draining: no new connections, sessions get 1012");
        let _ = timeout_at(deadline, self.sessions.wait_idle()).await;
        Drained { left: self.sessions.active() }
    }

    /// Winds down after another process has taken over ([`ControlHandle::replaced`]): lets requests finish, and closes sessions
    /// as `on_upgrade` says. Returns when all have ended or their time is over; if sessions are kept, there is no limit.
    ///
    /// Cancel-safe; [`App::drain`] ends it sooner.
    pub async fn wind_down(&mut self) -> Drained {
        let in_force = self.control.in_force();
        let (on_upgrade, grace) = (in_force.loaded.file.on_upgrade, in_force.loaded.file.drain.time.duration());
        self.readiness.advance(Lifecycle::Draining);
        self.sessions.last_requests(|_| true);
        tracing::info!(%on_upgrade, connections = self.active(), "this process ends with its last session");
        let span = match on_upgrade {
            OnUpgrade::Stay(OnChange::Keep) => None,
            OnUpgrade::Stay(OnChange::Drain(span)) => Some(span.duration()),
            OnUpgrade::Stay(OnChange::Close) => Some(Duration::ZERO),
            // The controller gives them away, and closes those that cannot go.
            OnUpgrade::Move(span) => {
                let control = self.control.clone();
                let all = async { tokio::join!(control.moved(), self.sessions.wait_idle()) };
                let _ = timeout(span.duration() + grace, all).await;
                return Drained { left: self.sessions.active() };
            }
        };
        let sessions = Arc::clone(&self.sessions);
        let closing = async {
            let Some(span) = span else { return pending().await };
            let (sweep, _) = evict::sweep::begin(&sessions, |_, _| true, span, StopReason::Upgrade);
            // Handshakes under way may still open sessions, which get the same time.
            let _ = timeout(span + grace, sweep.sweep_late()).await;
        };
        tokio::select! {
            () = self.sessions.wait_idle() => {}
            () = closing => {}
        }
        Drained { left: self.sessions.active() }
    }
}

impl Threads {
    /// Starts a worker. Returns the sender of its commands.
    fn spawn_worker(
        &mut self,
        index: usize,
        sessions: Arc<Sessions>,
        pulse: WorkerHeartbeat,
    ) -> Result<mpsc::UnboundedSender<accepting::AcceptCommand>, StartError> {
        let runtime = Builder::new_current_thread().enable_all().on_thread_park(turns::begin).build()?;
        let (sender, orders) = mpsc::unbounded_channel();
        let over = self.over.subscribe();
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        self.threads.push(thread.spawn(move || {
            worker::enter(index);
            runtime.block_on(work(index, orders, sessions, pulse, over));
            end(runtime);
        })?);
        Ok(sender)
    }

    /// Starts the control thread and waits for the first configuration.
    fn spawn_control(
        &mut self,
        loaded: Loaded,
        loader: Option<Loader>,
        context: CompileContext,
        workers: Vec<mpsc::UnboundedSender<accepting::AcceptCommand>>,
        origin: ProcessOrigin,
    ) -> Result<Started, StartError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let over = self.over.subscribe();
        let (tell, started) = std::sync::mpsc::channel();
        self.threads.push(std::thread::Builder::new().name("control".into()).spawn(move || {
            runtime.block_on(async move {
                let control = match Controller::start(loaded, loader, context, workers, origin).await {
                    Ok((control, started)) => {
                        let _ = tell.send(Ok(started));
                        control
                    }
                    Err(refused) => return drop(tell.send(Err(refused))),
                };
                tokio::select! {
                    () = control.run() => {}
                    () = until(over) => {}
                }
            });
            end(runtime);
        })?);
        match started.recv() {
            Ok(Ok(started)) => Ok(started),
            Ok(Err(refused)) => Err(StartError::Refused(refused)),
            Err(_) => Err(io::Error::other("the control thread has ended").into()),
        }
    }

    fn spawn_admin(
        &mut self,
        state: AdminState,
        admin: watch::Receiver<Option<AdminEndpoint>>,
    ) -> Result<(), StartError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let over = self.over.subscribe();
        self.threads.push(std::thread::Builder::new().name("admin".into()).spawn(move || {
            runtime.block_on(serve_admin(state, admin, over));
            end(runtime);
        })?);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.over.send_replace(true);
        let deadline = std::time::Instant::now() + THREADS_END;
        for thread in self.threads.drain(..) {
            // A thread that hangs, say in a file system, is left behind: the process ends all the same.
            while !thread.is_finished() && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

/// Waits for the end of the process.
async fn until(mut over: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end as well.
    let _ = over.wait_for(|over| *over).await;
}

/// Runs the admin server, and follows its listener when a reload moves it.
async fn serve_admin(
    state: AdminState,
    mut admin: watch::Receiver<Option<AdminEndpoint>>,
    over: watch::Receiver<bool>,
) {
    loop {
        let at = admin.borrow_and_update().clone();
        let set_access = |at: &AdminEndpoint| {
            let names = AdminHosts::new(&at.hosts, at.bound.address().is_local());
            state.api.iter().for_each(|api| api.set_access(Access::new(&at.tokens, names.clone())));
        };
        // The server on the previous listener has ended.
        at.iter().for_each(set_access);
        let mut seen = admin.clone();
        let bound = at.as_ref().map(|at| Arc::downgrade(&at.bound));
        let moves = async {
            while seen.changed().await.is_ok() {
                match (&bound, &*seen.borrow_and_update()) {
                    (Some(bound), Some(now)) if std::ptr::eq(bound.as_ptr(), Arc::as_ptr(&now.bound)) => {
                        set_access(now)
                    }
                    _ => return,
                }
            }
            std::future::pending().await
        };
        let next = async {
            tokio::select! {
                () = until(over.clone()) => {}
                () = moves => {}
            }
        };
        match at.as_ref().map(|at| at.bound.for_worker(0)) {
            Some(Ok(acceptor)) => {
                if let Some(at) = &at {
                    tracing::info!(address = %at.bound.address(), "admin: /metrics /livez /readyz /api/v1/");
                }
                // The acceptor alone holds the socket: once it has taken those who wait, nobody can come to wait there.
                drop(at);
                admin::serve(acceptor, state.clone(), next).await;
            }
            None => next.await,
            Some(Err(error)) => {
                tracing::error!(%error, "the admin listener cannot be opened");
                next.await;
            }
        }
        if *over.borrow() {
            return;
        }
    }
}

/// The longest a worker sleeps. tokio wakes its own thread through an eventfd whenever a timer is set that is earlier than
/// all others, which a connection does three times (head, handshake, closing). Next to a tick that is always near, none is:
/// that saves two system calls a connection, for four wake-ups a second (a timer moves down tokio's wheel before it fires).
const TICK: Duration = Duration::from_millis(500);

/// Runs a worker.
async fn work(
    index: usize,
    orders: mpsc::UnboundedReceiver<accepting::AcceptCommand>,
    sessions: Arc<Sessions>,
    pulse: WorkerHeartbeat,
    over: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            pulse.beat(clock::now());
        }
    });
    tasks.spawn(accepting::run(index, orders, sessions));
    until(over).await;
}

/// Drops a runtime's tasks without waiting for a name lookup that may still run on a blocking thread.
fn end(runtime: Runtime) {
    runtime.shutdown_timeout(Duration::from_millis(100));
}
