//! From the configuration as written to the one in force, and whatever else changes while the process runs.
//!
//! `Controller` is the only writer: reloads, drains and closes are [`ControlRequest`]s to it, whoever wants them (a signal, a file
//! that changed, an operator), and it carries them out one after the other, on a thread of its own. A configuration is
//! built and checked whole before anything of it is seen (`compile`, then sockets, then the first endpoints), and then
//! put in force piece by piece, each by one swap; what is the same as before is not touched. Others only read, through
//! [`ControlHandle`].

mod active_config;
mod alive;
mod background;
mod check;
pub mod compile;
pub mod context;
mod error;
pub mod evict;
mod handle;
mod listeners;
pub mod metrics;
mod reload;
mod start;
mod upgrades;
pub mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch as latest;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::base::clock;
use crate::handover::systemd::{Notifier, Word};
use crate::handover::{Reporter, Successor};
use crate::net::listener::Inheritance;
use crate::telemetry::panics;
pub use active_config::ActiveConfig;
use background::EvictionStates;
use compile::Compiled;
use context::CompileContext;
pub use error::ReloadError;
use evict::drains::Drains;
pub use evict::drains::{DrainProgress, DrainTarget};
pub use handle::{ControlHandle, ControlRequest};
pub use listeners::AdminEndpoint;
use listeners::Openings;
use metrics::Metrics;
pub use metrics::Trigger;
pub use reload::{Changed, Changes, Loader};
use reload::{PendingReload, Read, is_read};
pub use start::Started;
pub use upgrades::Succession;
use upgrades::Upgrades;

/// How many orders may wait. They come from operators and from one watcher.
const ORDERS_MAX: usize = 64;

/// The single writer.
pub struct Controller {
    context: CompileContext,
    metrics: Metrics,
    loader: Option<Loader>,
    /// The files are being read for a reload; meanwhile whatever does not touch the configuration is carried out.
    reading: Option<PendingReload>,
    /// The files are still being read for somebody who waits no longer.
    hanging: Arc<Mutex<Option<JoinHandle<Read>>>>,
    /// Orders that go one after the other, behind the reload that is under way.
    behind: VecDeque<ControlRequest>,
    checks: JoinSet<()>,
    /// Who checks now.
    checking: Arc<Semaphore>,
    orders: mpsc::Receiver<ControlRequest>,
    in_force: Arc<ArcSwap<ActiveConfig>>,
    compiled: Compiled,
    openings: Openings,
    /// What is done for each upstream apart from any client.
    tasks: BTreeMap<String, JoinSet<()>>,
    door: latest::Sender<Option<AdminEndpoint>>,
    drains: Drains,
    /// What is under way for the sessions of each upstream.
    evictions: EvictionStates,
    /// Sessions of routes that are not as they were, on their way out: late comers are looked for, by the route's name.
    sweeps: BTreeMap<String, JoinSet<()>>,
    /// A reload has ended in the middle: nothing of it is taken for what it was.
    is_suspect: bool,
    upgrades: Upgrades,
    successor: latest::Sender<Option<u32>>,
    notifier: Arc<Notifier>,
    /// What the service manager is told to see that we live.
    watchdog: JoinSet<()>,
    /// What the next process is told of us.
    report: JoinSet<()>,
}

/// Where the process comes from, and what is to follow it.
#[derive(Debug, Default)]
pub struct ProcessOrigin {
    /// It was started to take over from another one.
    pub successor: Option<Successor>,
    /// Sockets that a service manager has opened for it.
    pub sockets: Inheritance,
    /// How the next one is started; `None`: it cannot be replaced while it runs.
    pub succession: Option<Succession>,
    /// Who wants to hear how it does.
    pub notifier: Notifier,
    /// In which time it must say that it is alive.
    pub watchdog: Option<Duration>,
    /// Becomes true when it is to end before it has taken over.
    pub given_up: Option<latest::Receiver<bool>>,
}

impl Controller {
    /// Carries out orders until it is dropped.
    pub async fn run(mut self) {
        loop {
            tokio::select! {
                order = self.orders.recv() => match order {
                    // What failed in the middle is done as far as it came; the next order finds what there is.
                    Some(order) => drop(panics::catching(panics::PanicSite::Control, Box::pin(self.carry_out(order))).await),
                    None => return std::future::pending().await,
                },
                read = is_read(&mut self.reading) => {
                    if let Some(PendingReload { trigger, done, .. }) = self.reading.take() {
                        let reload = Box::pin(self.go_on(trigger, done, read));
                        drop(panics::catching(panics::PanicSite::Control, reload).await);
                    }
                    while self.reading.is_none() && let Some(order) = self.behind.pop_front() {
                        drop(panics::catching(panics::PanicSite::Control, Box::pin(self.carry_out(order))).await);
                    }
                }
                (reporter, done) = self.upgrades.next() => self.retreat(reporter, done).await,
            }
        }
    }

    /// Another process has taken over: accepts no more, and tells it what is left here.
    async fn retreat(&mut self, reporter: Reporter, done: upgrades::Done) {
        let successor = reporter.successor();
        self.watchdog.abort_all();
        self.context.replacing.store(true, Ordering::Relaxed);
        self.notifier.say(&[Word::MainPid(successor)]);
        // A worker that hangs takes nobody from the others, who have the same sockets.
        self.openings.leave_to_successor(reporter.unwanted()).await;
        if let Some(door) =
            self.door.send_replace(None).filter(|door| !reporter.unwanted().contains(door.bound.address()))
        {
            door.bound.leave_file();
        }
        let lives = self.context.lives.clone();
        self.report.spawn(async move { reporter.run(&lives).await });
        tracing::info!(pid = successor, "the next process has taken over");
        self.tell_listeners();
        self.successor.send_replace(Some(successor));
        answer(done, Ok(successor));
    }

    /// Tells the service manager that everything runs.
    fn say_ready(&self) {
        let in_force = self.in_force.load();
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let status =
            format!("{}, {}", count(in_force.listeners.len(), "listener"), count(in_force.upstreams.len(), "upstream"));
        self.notifier.say(&[Word::Ready, Word::Status(&status)]);
    }

    async fn carry_out(&mut self, order: ControlRequest) {
        match order {
            ControlRequest::Reload { done, .. } if self.reading.is_some() && self.behind.len() >= ORDERS_MAX => {
                answer(done, Err(ReloadError::Busy));
            }
            order @ (ControlRequest::Reload { .. } | ControlRequest::Upgrade { .. }) if self.reading.is_some() => {
                self.behind.push_back(order);
            }
            ControlRequest::Reload { trigger, done } => {
                match self.upgrades.allow_changes().and_then(|()| self.read()) {
                    Ok(read) => {
                        self.notifier.say(&[Word::Reloading]);
                        self.reading = Some(PendingReload { trigger, done, read });
                    }
                    Err(refused) => {
                        tracing::warn!(trigger = trigger.label(), reason = %refused, "the configuration is not read again");
                        answer(done, Err(refused));
                    }
                }
            }
            ControlRequest::Check { text, done } => self.check(text, done),
            ControlRequest::Drain { target, span, done } => {
                let count = self.drains.begin(target, span, &self.compiled, &mut self.openings, &self.context).await;
                self.tell_listeners();
                answer(done, count);
            }
            ControlRequest::EndDrain { target, done } => {
                let ended = self.drains.end(&target, &mut self.openings, &self.compiled).await;
                self.tell_listeners();
                answer(done, ended);
            }
            ControlRequest::Close { places, span, why, done } => {
                let count = self.context.sessions.spread_over(places, clock::now(), span, fastrand::f64, &why);
                answer(done, count);
            }
            ControlRequest::Upgrade { done } => {
                let (openings, door) = (&self.openings, self.door.borrow());
                let upgrades = self.context.families.handover.upgrades();
                self.upgrades.begin(|| openings.offer(door.as_ref(), upgrades), done);
            }
            ControlRequest::End { done } => {
                if !self.upgrades.end() {
                    self.notifier.say(&[Word::Stopping, Word::Status("draining")]);
                }
                answer(done, ());
            }
            ControlRequest::StopAccepting { done } => {
                self.openings.close_all().await;
                self.tell_listeners();
                answer(done, ());
            }
        }
    }

    /// Says which listeners are open. Before the answer to whoever had some opened or closed, who may look at once.
    fn tell_listeners(&self) {
        let open = self.openings.addresses(&self.compiled);
        let before = self.in_force.load();
        if before.listeners != open {
            let ActiveConfig { loaded, since, upstreams, .. } = &**before;
            let (loaded, upstreams) = (loaded.clone(), upstreams.clone());
            self.in_force.store(Arc::new(ActiveConfig { loaded, since: *since, listeners: open, upstreams }));
        }
    }
}

/// Whoever asked may have gone; it was carried out all the same.
fn answer<T>(done: oneshot::Sender<T>, answer: T) {
    let _ = done.send(answer);
}

#[cfg(test)]
mod tests;
