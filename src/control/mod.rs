//! Turns the configuration as written into the one in force, and makes every other change while the process runs.
//!
//! [`Controller`] is the only writer. Reloads, drains and closes reach it as [`ControlRequest`]s, whether they come from a
//! signal, a changed file or an operator, and it handles them one after the other on its own thread. A configuration is
//! built and checked as a whole before any of it takes effect (`compile`, then sockets, then the first endpoints); then it
//! is put in force piece by piece, each by one swap. What has not changed is not touched. All others only read, through
//! [`ControlHandle`].

mod active_config;
mod arrivals;

mod background;
mod check;
pub mod compile;
pub mod context;
mod departures;
mod error;
pub mod evict;
mod handle;
mod known;
mod listeners;
pub mod metrics;
mod reload;
mod start;
mod upgrades;
pub mod watch;
mod watchdog;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch as latest;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::base::clock;
use crate::config::OnUpgrade;
use crate::handover::systemd::{Notification, Notifier};
use crate::handover::{Reporter, Successor};
use crate::net::listener::Inheritance;
use crate::telemetry::panics;
pub use active_config::ActiveConfig;
use arrivals::Destination;
use background::EvictionStates;
use compile::Compiled;
use context::CompileContext;
use departures::Move;
pub use departures::MoveReport;
pub use error::ReloadError;
use evict::drains::Drains;
pub use evict::drains::{DrainProgress, DrainTarget};
pub use handle::{ControlHandle, ControlRequest};
pub use listeners::AdminEndpoint;
use listeners::Listeners;
use metrics::Metrics;
pub use metrics::Trigger;
pub use reload::{Changed, Changes, Loader};
use reload::{PendingReload, Read, files_read};
pub use start::Started;
use upgrades::Upgrades;
pub use upgrades::{Succession, Upgraded};

/// The most requests that may wait. They come from operators and one file watcher.
const REQUESTS_MAX: usize = 64;

/// The single writer.
pub struct Controller {
    context: CompileContext,
    metrics: Metrics,
    loader: Option<Loader>,
    /// The reload whose files are being read. Requests that do not touch the configuration are handled meanwhile.
    pending_reload: Option<PendingReload>,
    /// An earlier read that has not returned although its reload timed out.
    hanging: Arc<Mutex<Option<JoinHandle<Read>>>>,
    /// Reloads and upgrades that wait for the pending reload.
    queued: VecDeque<ControlRequest>,
    checks: JoinSet<()>,
    /// Lets one check at a time run on a thread.
    check_permit: Arc<Semaphore>,
    requests: mpsc::Receiver<ControlRequest>,
    /// The warnings about the configuration in force, which have been logged.
    warned: HashSet<String>,
    in_force: Arc<ArcSwap<ActiveConfig>>,
    compiled: Compiled,
    listeners: Listeners,
    /// Background tasks of each upstream: discovery, health checks, eviction.
    tasks: BTreeMap<String, JoinSet<()>>,
    admin: latest::Sender<Option<AdminEndpoint>>,
    drains: Drains,
    /// The state of evictions, by upstream; it outlives a reload.
    evictions: EvictionStates,
    /// Tasks that close sessions which open late on a changed route, by the route's name.
    sweeps: BTreeMap<String, JoinSet<()>>,
    /// A reload panicked half-way, so the next one must not reuse anything of the last configuration.
    reload_interrupted: bool,
    upgrades: Upgrades,
    successor: latest::Sender<Option<u32>>,
    /// Becomes true when the sessions that can have gone to the next process.
    moved: Arc<latest::Sender<bool>>,
    notifier: Arc<Notifier>,
    /// Sends keep-alives to the service manager.
    watchdog: JoinSet<()>,
    /// Reports our remaining sessions to the next process.
    report: JoinSet<()>,
    /// Closes sessions of subjects that are denied.
    #[expect(dead_code, reason = "it ends with the controller")]
    closing_denied: JoinSet<()>,
}

/// Where the process gets its sockets from, and how it can be replaced.
#[derive(Debug, Default)]
pub struct ProcessOrigin {
    /// Set if it was started to take over from another process.
    pub successor: Option<Successor>,
    /// Sockets that the service manager has opened for it.
    pub sockets: Inheritance,
    /// How to start the next process; `None` if it cannot be replaced while it runs.
    pub succession: Option<Succession>,
    /// Sends its state to the service manager.
    pub notifier: Notifier,
    /// The watchdog's interval, if the service manager has one.
    pub watchdog: Option<Duration>,
    /// Becomes true if the process must end before it has taken over.
    pub cancelled: Option<latest::Receiver<bool>>,
}

impl Controller {
    /// Handles requests until it is dropped.
    pub async fn run(mut self) {
        loop {
            let Controller {
                compiled, listeners, context, evictions, requests, pending_reload, upgrades, drains, ..
            } = &mut self;
            let destination = Destination { compiled, listeners, context, evictions };
            let judge = |sessions| destination.judge(sessions);
            let known = || known::all(destination.compiled, &drains.all(), destination.context);
            tokio::select! {
                request = requests.recv() => match request {
                    // A request that panics stays half done; the next one finds the state as it is.
                    Some(request) => drop(panics::catching(panics::PanicSite::Control, Box::pin(self.handle_request(request))).await),
                    None => return std::future::pending().await,
                },
                read = files_read(pending_reload) => {
                    if let Some(PendingReload { trigger, done, .. }) = self.pending_reload.take() {
                        let reload = Box::pin(self.finish_reload(trigger, done, read));
                        drop(panics::catching(panics::PanicSite::Control, reload).await);
                    }
                    while self.pending_reload.is_none() && let Some(request) = self.queued.pop_front() {
                        drop(panics::catching(panics::PanicSite::Control, Box::pin(self.handle_request(request))).await);
                    }
                }
                (reporter, done) = upgrades.next(&judge, &known) => self.yield_to_successor(reporter, done).await,
            }
        }
    }

    /// Stops accepting after another process has taken over, and starts reporting the remaining sessions to it.
    async fn yield_to_successor(&mut self, reporter: Reporter, done: upgrades::Done) {
        let successor = reporter.successor();
        self.watchdog.abort_all();
        self.context.replacing.store(true, Ordering::Relaxed);
        self.notifier.notify(&[Notification::MainPid(successor)]);
        // A worker that hangs takes no connection from the new process: both have the same sockets.
        self.listeners.leave_to_successor(reporter.unwanted()).await;
        if let Some(admin) =
            self.admin.send_replace(None).filter(|admin| !reporter.unwanted().contains(admin.bound.address()))
        {
            admin.bound.leave_file();
        }
        let states = self.context.states.clone();
        tracing::info!(pid = successor, "the next process has taken over");
        self.publish_listeners();
        self.successor.send_replace(Some(successor));
        match self.in_force.load().loaded.file.on_upgrade {
            OnUpgrade::Move(span) => {
                let routes = self.compiled.routes.iter();
                let fingerprints = routes.map(|(name, route)| (name.clone(), route.written.fingerprint())).collect();
                let sessions = Arc::clone(&self.context.sessions);
                let moving = Move::new(reporter, sessions, states, fingerprints, span.duration());
                let moved = Arc::clone(&self.moved);
                let tell = move |report| {
                    answer(done, Ok(Upgraded { successor, sessions: Some(report) }));
                    moved.send_replace(true);
                };
                self.report.spawn(moving.run(tell));
            }
            OnUpgrade::Stay(_) => {
                self.report.spawn(async move { reporter.run(&states).await });
                answer(done, Ok(Upgraded { successor, sessions: None }));
            }
        }
    }

    /// Tells the service manager that the process is ready.
    fn notify_ready(&self) {
        let in_force = self.in_force.load();
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let status =
            format!("{}, {}", count(in_force.listeners.len(), "listener"), count(in_force.upstreams.len(), "upstream"));
        self.notifier.notify(&[Notification::Ready, Notification::Status(&status)]);
    }

    async fn handle_request(&mut self, request: ControlRequest) {
        match request {
            ControlRequest::Reload { done, .. }
                if self.pending_reload.is_some() && self.queued.len() >= REQUESTS_MAX =>
            {
                answer(done, Err(ReloadError::Busy));
            }
            request @ (ControlRequest::Reload { .. } | ControlRequest::Upgrade { .. })
                if self.pending_reload.is_some() =>
            {
                self.queued.push_back(request);
            }
            ControlRequest::Reload { trigger, done } => {
                match self.upgrades.allow_changes().and_then(|()| self.start_reading()) {
                    Ok(read) => {
                        self.notifier.notify(&[Notification::Reloading]);
                        self.pending_reload = Some(PendingReload { trigger, done, read });
                    }
                    Err(refused) => {
                        tracing::warn!(trigger = trigger.label(), reason = %refused, "the reload is refused");
                        answer(done, Err(refused));
                    }
                }
            }
            ControlRequest::Check { text, done } => self.check(text, done),
            ControlRequest::Drain { target, span, done } => {
                let count = self.drains.begin(target, span, &self.compiled, &mut self.listeners, &self.context).await;
                self.publish_listeners();
                answer(done, count);
            }
            ControlRequest::EndDrain { target, done } => {
                let ended = self.drains.end(&target, &mut self.listeners, &self.compiled).await;
                self.publish_listeners();
                answer(done, ended);
            }
            ControlRequest::Close { sessions, span, why, done } => {
                let count = self.context.sessions.spread_over(sessions, clock::now(), span, fastrand::f64, &why);
                answer(done, count);
            }
            ControlRequest::Upgrade { done } => {
                let (listeners, admin) = (&self.listeners, self.admin.borrow());
                let upgrades = self.context.families.handover.upgrades();
                let moves = matches!(self.in_force.load().loaded.file.on_upgrade, OnUpgrade::Move(_));
                self.upgrades.begin(|| listeners.offer(admin.as_ref(), upgrades, moves), done);
            }
            ControlRequest::End { done } => {
                if !self.upgrades.end() {
                    self.notifier.notify(&[Notification::Stopping, Notification::Status("draining")]);
                }
                answer(done, ());
            }
            ControlRequest::StopAccepting { done } => {
                self.listeners.close_all().await;
                self.publish_listeners();
                answer(done, ());
            }
        }
    }

    /// Publishes which listeners are open. Called before a request is answered, since its sender may look at once.
    fn publish_listeners(&self) {
        let open = self.listeners.addresses(&self.compiled);
        let before = self.in_force.load();
        if before.listeners != open {
            let ActiveConfig { loaded, since, upstreams, .. } = &**before;
            let (loaded, upstreams) = (loaded.clone(), upstreams.clone());
            self.in_force.store(Arc::new(ActiveConfig { loaded, since: *since, listeners: open, upstreams }));
        }
    }
}

/// Sends a reply. Its receiver may have gone; the request has been handled all the same.
fn answer<T>(done: oneshot::Sender<T>, answer: T) {
    let _ = done.send(answer);
}

#[cfg(test)]
mod tests;
