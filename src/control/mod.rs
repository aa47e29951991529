//! From the configuration as written to the one in force, and whatever else changes while the process runs.
//!
//! `Controller` is the only writer: reloads, drains and closes are [`ControlRequest`]s to it, whoever wants them (a signal, a file
//! that changed, an operator), and it carries them out one after the other, on a thread of its own. A configuration is
//! built and checked whole before anything of it is seen (`compile`, then sockets, then the first endpoints), and then
//! put in force piece by piece, each by one swap; what is the same as before is not touched. Others only read, through
//! [`ControlHandle`].

mod alive;
mod background;

pub mod compile;
pub mod context;
pub mod evict;
mod handle;

pub mod metrics;
mod reload;
mod listeners;

mod upgrades;
pub mod watch;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::watch as latest;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::base::clock;
use crate::base::file_state::look;
use crate::config;
use crate::config::{Config, ConfigErrors, Loaded, OnChange};
use crate::handover::systemd::{Notifier, Word};
use crate::handover::{Activated, Predecessors, PreparedSuccessor, Reporter, Successor};
use crate::net::listener::Inheritance;
use crate::server::accepting;
use crate::session::registry::SessionId;
use crate::session::{Member, RouteSessions};
use crate::telemetry::panics;
use crate::ws::tunnel::Stopping;
use background::{EvictionStates, attend, discover};
use compile::{Compiled, FileChecks, compile, examine};
use context::CompileContext;
use evict::drains::Drains;
pub use evict::drains::{DrainProgress, DrainTarget};
use evict::sweep;
pub use handle::{ActiveConfig, AdminEndpoint, ControlHandle, ControlRequest};
use listeners::{Bindings, Openings};
pub use metrics::Trigger;
use metrics::{Metrics, Reloaded};
pub use reload::{Changed, Changes, ReloadError};
pub use upgrades::Succession;
use upgrades::Upgrades;

/// How many orders may wait. They come from operators and from one watcher.
const ORDERS_MAX: usize = 64;
/// How many checks may be under way or wait. One at a time has a thread.
const CHECKS_MAX: usize = 8;
/// The section of the configuration.
const ADMIN: &str = "admin";

/// Reads the configuration anew.
pub type Loader = Arc<dyn Fn() -> Result<Loaded, ConfigErrors> + Send + Sync>;

type Read = Result<Loaded, ConfigErrors>;

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

/// What runs with the first configuration.
#[derive(Debug)]
pub struct Started {
    /// The way to it.
    pub handle: ControlHandle,
    /// Where the admin listener is to be.
    pub door: latest::Receiver<Option<AdminEndpoint>>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// A reload whose files are being read.
struct PendingReload {
    trigger: Trigger,
    done: oneshot::Sender<Result<Changes, ReloadError>>,
    read: JoinHandle<Result<Read, ReloadError>>,
}

/// The first configuration, with all that it needs to be put in force, and nothing that could be noticed from outside.
struct Built {
    compiled: Compiled,
    openings: Openings,
    bound: listeners::Bindings,
    admin: Option<AdminEndpoint>,
    tasks: BTreeMap<String, JoinSet<()>>,
}

impl Built {
    async fn new(loaded: &Loaded, context: &CompileContext, mut openings: Openings) -> Result<Built, ReloadError> {
        let mut compiled = compile(loaded, context, None)?;
        let bound = openings.bind(&compiled, None)?;
        let admin = openings.bind_admin(&loaded.file, &compiled, None)?;
        context.own.set(openings.where_we_are(&bound, [admin.as_ref()]));
        let mut tasks = BTreeMap::new();
        discover(&mut compiled, &mut tasks, &context.ending).await;
        Ok(Built { compiled, openings, bound, admin, tasks })
    }
}

impl Controller {
    /// Puts the first configuration in force: binds, waits a while for the first endpoints of all upstreams that are told
    /// theirs (a proxy without them would only have 503 to give; clients that come meanwhile wait in the listeners'
    /// backlog), and has the workers accept. `loader` reads it again.
    ///
    /// A process that is to take over does all but the last, and that only when it is told to.
    ///
    /// # Errors
    /// See [`ReloadError`]; nothing is left listening then.
    pub async fn start(
        loaded: Loaded,
        loader: Option<Loader>,
        context: CompileContext,
        workers: Vec<mpsc::UnboundedSender<accepting::AcceptCommand>>,
        origin: ProcessOrigin,
    ) -> Result<(Controller, Started), ReloadError> {
        let ProcessOrigin { successor, sockets, succession, notifier, watchdog, given_up } = origin;
        let (heir, inheritance) = match successor {
            Some(successor) => {
                let (heir, inheritance) = successor.inventory().await?;
                (Some(heir), inheritance)
            }
            None => (None, sockets),
        };
        let built = Built::new(&loaded, &context, Openings::new(workers, inheritance, context.patience.workers)).await;
        let (built, mut promoted) = match (built, heir) {
            (Ok(built), Some(heir)) => (built, Some(promotion(heir, given_up).await?)),
            (Ok(built), None) => (built, None),
            (Err(refused), heir) => {
                if let Some(heir) = heir {
                    heir.refuse(&refused.to_string()).await;
                }
                return Err(refused);
            }
        };
        let Built { mut compiled, mut openings, mut bound, mut admin, mut tasks } = built;
        if let Some(promoted) = &mut promoted {
            promoted.predecessors().show(&context.lives, &context.families.handover);
        }
        listeners::take_charge(listeners::all(&mut bound, &mut admin))?;
        let mut evictions = EvictionStates::new();
        for (name, upstream) in &mut compiled.upstreams {
            attend(upstream, tasks.entry(name.clone()).or_default(), &context, &[], &mut evictions);
        }
        openings.open(bound, &compiled).await;
        let (inherited, unwanted) = openings.settle_inheritance();
        context.families.handover.inherited(inherited);
        let predecessors = match promoted {
            Some(promoted) => {
                context.families.handover.upgraded(promoted.upgrades());
                promoted.taken(unwanted).await
            }
            None => {
                for address in unwanted.left() {
                    tracing::warn!(%address, "closing a socket of the service manager: no listener is there");
                }
                Predecessors::default()
            }
        };
        commit(&context, &mut compiled);
        let warnings = std::mem::take(&mut compiled.warnings);
        let in_force = in_force(loaded, &compiled, &openings);
        let in_force = Arc::new(ArcSwap::from_pointee(in_force));
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let (door, door_seen) = latest::channel(admin);
        let (drains, drains_seen) = Drains::new(Arc::clone(&context.sessions));
        let (successor, successor_seen) = latest::channel(None);
        let certificates = context.families.certificates.clone();
        let handle = ControlHandle {
            orders: sender,
            in_force: Arc::clone(&in_force),
            drains: drains_seen,
            certificates,
            successor: successor_seen,
            handovers: context.families.handover.clone(),
        };
        let metrics = context.families.control.clone();
        let (lives, handovers) = (context.lives.clone(), context.families.handover.clone());
        let upgrades = Upgrades::new(succession, predecessors, lives, handovers);
        let notifier = Arc::new(notifier);
        let watchdog = watchdog.map(|span| alive::run(Arc::clone(&notifier), span, context.pulse.clone()));
        let control = Controller {
            context,
            metrics,
            loader,
            reading: None,
            hanging: Arc::default(),
            behind: VecDeque::new(),
            checks: JoinSet::new(),
            checking: Arc::new(Semaphore::new(1)),
            orders,
            in_force,
            compiled,
            openings,
            tasks,
            door,
            drains,
            evictions,
            sweeps: BTreeMap::new(),
            is_suspect: false,
            upgrades,
            successor,
            notifier,
            watchdog: watchdog.into_iter().collect(),
            report: JoinSet::new(),
        };
        control.tell_in_force();
        control.say_ready();
        Ok((control, Started { handle, door: door_seen, warnings }))
    }

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

    /// Has a text checked, or the file, on a thread of its own: what takes a while keeps nobody else waiting.
    fn check(&mut self, text: Option<String>, done: oneshot::Sender<Result<Vec<String>, ReloadError>>) {
        while self.checks.try_join_next().is_some() {}
        if self.checks.len() >= CHECKS_MAX {
            return answer(done, Err(ReloadError::Busy));
        }
        let (loader, checking) = (self.loader.clone(), Arc::clone(&self.checking));
        let patience = self.context.patience.files;
        let late = if text.is_some() { ReloadError::Busy } else { ReloadError::Unread(patience) };
        self.checks.spawn(async move {
            let checked = timeout(patience, async {
                // Its thread has it until it is through, whether or not somebody still waits.
                let mine = checking.acquire_owned().await.map_err(|_| ReloadError::Ending)?;
                let check = move || {
                    let _mine = mine;
                    match text {
                        Some(text) => check_text(&text),
                        None => check_file(loader.as_ref()),
                    }
                };
                spawn_blocking(check).await.unwrap_or(Err(ReloadError::Ending))
            });
            answer(done, checked.await.unwrap_or(Err(late)));
        });
    }

    /// Its files have been read: puts the configuration in force, if that may still be.
    async fn go_on(
        &mut self,
        trigger: Trigger,
        done: oneshot::Sender<Result<Changes, ReloadError>>,
        read: Result<Read, ReloadError>,
    ) {
        match self.upgrades.allow_changes() {
            Ok(()) => answer(done, self.reload(trigger, read).await),
            // The service manager has been told of that, and hears of no reload any more.
            Err(refused) => {
                tracing::warn!(trigger = trigger.label(), reason = %refused, "the configuration is not put in force");
                answer(done, Err(refused));
            }
        }
    }

    async fn reload(&mut self, trigger: Trigger, read: Result<Read, ReloadError>) -> Result<Changes, ReloadError> {
        let done = self.reload_now(read).await;
        match &done {
            Ok(changes) if !changes.workers_late.is_empty() => self.metrics.reloaded(trigger, Reloaded::Late),
            Ok(changes) if changes.is_empty() => self.metrics.reloaded(trigger, Reloaded::Unchanged),
            Ok(_) => self.metrics.reloaded(trigger, Reloaded::Done),
            // That is no fault of what is in a file.
            Err(ReloadError::NoFile | ReloadError::Ending | ReloadError::Upgrading | ReloadError::Replaced(_)) => {}
            Err(_) => self.metrics.reloaded(trigger, Reloaded::Refused),
        }
        let trigger = trigger.label();
        match &done {
            Ok(changes) if changes.is_empty() => {
                tracing::info!(trigger, "configuration read again: it says what it said before");
                changes.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            }
            Ok(changes) => {
                tracing::info!(
                    trigger,
                    listeners = %changes.listeners, routes = %changes.routes, upstreams = %changes.upstreams,
                    others = changes.others.join(", "), sessions_closing = changes.sessions_closing,
                    workers_late = changes.workers_late.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
                    "configuration reloaded"
                );
                changes.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            }
            Err(error) => {
                tracing::error!(trigger, %error, "the new configuration is refused, the one before stays in force");
            }
        }
        match &done {
            Ok(_) => self.say_ready(),
            Err(_) => {
                let status = "the configuration as it is now is refused, the one before stays in force";
                self.notifier.say(&[Word::Ready, Word::Status(status)]);
            }
        }
        done
    }

    async fn reload_now(&mut self, read: Result<Read, ReloadError>) -> Result<Changes, ReloadError> {
        let done = match read? {
            Ok(loaded) => self.apply(loaded).await,
            Err(errors) => Err(errors.into()),
        };
        if let Err(ReloadError::Config(_)) = done {
            // Certificates are renewed meanwhile, whatever else somebody has written: by what is in force.
            let loaded = self.in_force.load().loaded.clone();
            match self.apply(loaded).await {
                Ok(changes) if changes.is_empty() => {}
                Ok(changes) => {
                    tracing::info!(listeners = %changes.listeners, upstreams = %changes.upstreams, "files it names are renewed");
                }
                Err(error) => tracing::error!(%error, "the files that the configuration names cannot be renewed"),
            }
        }
        done
    }

    /// Begins to read the configuration as its files have it now.
    fn read(&self) -> Result<JoinHandle<Result<Read, ReloadError>>, ReloadError> {
        let loader = Arc::clone(self.loader.as_ref().ok_or(ReloadError::NoFile)?);
        let (hanging, patience) = (Arc::clone(&self.hanging), self.context.patience.files);
        Ok(tokio::spawn(async move {
            let late = |_| ReloadError::Unread(patience);
            let mut hanging = hanging.lock().await;
            // Who hangs there is waited for, and not joined by another: an operator who tries again and again has one thread.
            if let Some(before) = &mut *hanging {
                let _ = timeout(patience, before).await.map_err(late)?;
                *hanging = None;
            }
            // On a thread for such things: a network file system may hang, and a large file takes a while.
            let mut reading = spawn_blocking(move || {
                let read = loader()?;
                // Certificates and what else it names are read when it is compiled, which must not be what hangs.
                read.file.files().iter().for_each(|file| drop(look(file)));
                Ok(read)
            });
            match timeout(patience, &mut reading).await {
                Ok(read) => read.map_err(|_| ReloadError::Ending),
                Err(elapsed) => {
                    *hanging = Some(reading);
                    Err(late(elapsed))
                }
            }
        }))
    }

    /// Puts a configuration in force.
    async fn apply(&mut self, loaded: Loaded) -> Result<Changes, ReloadError> {
        let previous = (!self.is_suspect).then_some(&self.compiled);
        let mut compiled = compile(&loaded, &self.context, previous)?;
        let before = self.in_force.load_full();
        let mut changes = self.compare(&before.loaded.file, &loaded.file, &compiled);
        changes.warnings.extend(std::mem::take(&mut compiled.warnings));
        if changes.is_empty() {
            // A certificate may have been refused.
            commit(&self.context, &mut compiled);
            changes.workers_late = self.openings.late();
            return Ok(changes);
        }
        let door = self.door.borrow().clone();
        // First: of what listens beside another, nothing may be closed again.
        let mut admin = self.openings.bind_admin(&loaded.file, &compiled, door.as_ref())?;
        let mut bound = self.openings.bind(&compiled, door.as_ref())?;
        listeners::take_charge(listeners::all(&mut bound, &mut admin))?;
        // What is given up below is ours until then.
        self.context.own.set(self.openings.where_we_are(&bound, [admin.as_ref(), door.as_ref()]));
        // From here on nothing fails, and what does after all leaves things in the middle.
        self.is_suspect = true;
        let mut tasks = BTreeMap::new();
        discover(&mut compiled, &mut tasks, &self.context.ending).await;
        let gone: Vec<String> =
            self.tasks.keys().filter(|name| !compiled.upstreams.contains_key(*name)).cloned().collect();
        gone.iter().for_each(|name| drop(self.evictions.remove(name)));
        for name in gone.iter().chain(tasks.keys()) {
            // The old ones let go of their series before the new ones begin.
            if let Some(mut tasks) = self.tasks.remove(name) {
                tasks.shutdown().await;
            }
        }
        for (name, mut tasks) in tasks {
            let old = self.compiled.upstreams.get(&name).map_or_else(Vec::new, |old| old.upstream.endpoints());
            if let Some(upstream) = compiled.upstreams.get_mut(&name) {
                attend(upstream, &mut tasks, &self.context, &old, &mut self.evictions);
            }
            self.tasks.insert(name, tasks);
        }
        commit(&self.context, &mut compiled);
        self.openings.swap(&compiled);
        self.openings.open(bound, &compiled).await;
        for listener in self.openings.close_others(&compiled).await {
            // They would find what is in force now no more.
            self.context.sessions.last_requests(|number| number == listener.id);
        }
        changes.sessions_closing = self.retire(&compiled);
        self.compiled = compiled;
        if let Some(output) = &self.context.log {
            output.set(&loaded.file.log);
        }
        if changes.others.contains(&ADMIN) {
            self.door.send_replace(admin);
        }
        self.in_force.store(Arc::new(in_force(loaded, &self.compiled, &self.openings)));
        self.tell_in_force();
        self.is_suspect = false;
        changes.workers_late = self.openings.late();
        let door = self.door.borrow();
        self.context.own.set(self.openings.where_we_are(&Bindings::new(), [door.as_ref()]));
        Ok(changes)
    }

    fn tell_in_force(&self) {
        let in_force = self.in_force.load();
        self.metrics.in_force(&in_force.loaded.hash(), in_force.since);
    }

    /// What is not as before.
    fn compare(&self, old: &Config, new: &Config, compiled: &Compiled) -> Changes {
        let before = &self.compiled;
        let listener = |name: &str| match (before.listener(name), compiled.listener(name)) {
            (Some(old), Some(new)) => old.is_same(new),
            _ => false,
        };
        let names = |compiled: &Compiled| -> Vec<String> {
            compiled.listeners.iter().map(|listener| listener.written.name.clone()).collect()
        };
        let (old_names, new_names) = (names(before), names(compiled));
        fn keys<T>(map: &BTreeMap<String, T>) -> impl Iterator<Item = &str> + Clone {
            map.keys().map(String::as_str)
        }
        let mut others = vec![];
        let order = |file: &Config| -> Vec<String> { file.routes.iter().map(|route| route.name.clone()).collect() };
        for (name, is_same) in [
            ("order of routes", order(old) == order(new)),
            (ADMIN, old.admin == new.admin && before.tokens == compiled.tokens),
            ("log", old.log == new.log),
            ("drain", old.drain == new.drain),
            ("watch", old.watch == new.watch),
            ("on_upgrade", old.on_upgrade == new.on_upgrade),
        ] {
            if !is_same {
                others.push(name);
            }
        }
        let mut warnings = vec![];
        if old.workers != new.workers {
            warnings.push("a change of `workers` takes effect when the process is started again".to_owned());
        }
        Changes {
            listeners: Changed::between(
                old_names.iter().map(String::as_str),
                new_names.iter().map(String::as_str),
                listener,
            ),
            routes: Changed::between(keys(&before.routes), keys(&compiled.routes), |name| {
                before.routes[name].written == compiled.routes[name].written
            }),
            upstreams: Changed::between(keys(&before.upstreams), keys(&compiled.upstreams), |name| {
                Arc::ptr_eq(&before.upstreams[name].upstream, &compiled.upstreams[name].upstream)
            }),
            others,
            sessions_closing: 0,
            workers_late: vec![],
            warnings,
        }
    }

    /// Has sessions go whose route, as they know it, is in force no more, if its `on_change` says so: the one that is in
    /// force now, or the last one of a route that is gone.
    fn retire(&mut self, compiled: &Compiled) -> usize {
        let mut count = 0;
        self.sweeps.retain(|_, sweeping| {
            while sweeping.try_join_next().is_some() {}
            !sweeping.is_empty()
        });
        // Late comers are looked for a while, and a later configuration may come meanwhile: its sessions are not meant.
        let later = RouteSessions::next_number();
        for (name, old) in &self.compiled.routes {
            let new = compiled.routes.get(name);
            let listeners = |route: &compile::CompiledRoute| -> Vec<Arc<RouteSessions>> {
                route.route.listeners.iter().map(|handles| Arc::clone(&handles.sessions)).collect()
            };
            let kept: Vec<Arc<RouteSessions>> = new.map_or_else(Vec::new, listeners);
            let is_changed = new.is_none_or(|new| !new.written.is_like(&old.written));
            // Where the route is as it was, its sessions of a listener that is gone are on their way out alone.
            let gone: Option<HashSet<Arc<str>>> = (!is_changed).then(|| {
                let there: HashSet<&str> = kept.iter().map(|sessions| &*sessions.listener).collect();
                let old = old.route.listeners.iter().map(|handles| &handles.sessions.listener);
                old.filter(|listener| !there.contains(&***listener)).cloned().collect()
            });
            if gone.as_ref().is_some_and(HashSet::is_empty) {
                continue;
            }
            let span = match new.map_or(&old.written, |new| &new.written).on_change {
                OnChange::Keep => continue,
                OnChange::Drain(span) => span.duration(),
                OnChange::Close => Duration::ZERO,
            };
            let route = name.clone();
            let select = move |_: SessionId, member: &Member| {
                *member.route.route == *route
                    && member.route.number < later
                    && !kept.iter().any(|kept| Arc::ptr_eq(kept, &member.route))
                    && gone.as_ref().is_none_or(|gone| gone.contains(&member.route.listener))
            };
            let handshake = old.written.timeouts.handshake.duration();
            let (sweep, told) = sweep::begin(&self.context.sessions, select, span, Stopping::Reload);
            count += told;
            if told > 0 {
                tracing::info!(
                    route = name,
                    sessions = told,
                    ?span,
                    "closing the sessions of a route that has changed"
                );
            }
            // A handshake that was under way may still open one.
            let late = handshake + 3 * sweep::LOOK;
            let sweeping = self.sweeps.entry(name.clone()).or_default();
            if is_changed {
                // Those that an earlier one would find, this one does as well.
                *sweeping = JoinSet::new();
            }
            sweeping.spawn(async move { drop(timeout(late, sweep.go_on()).await) });
        }
        count
    }
}

/// Waits for the files of the reload that is under way. Cancel-safe.
async fn is_read(reading: &mut Option<PendingReload>) -> Result<Read, ReloadError> {
    match reading {
        Some(reading) => (&mut reading.read).await.unwrap_or(Err(ReloadError::Ending)),
        None => std::future::pending().await,
    }
}

/// What is wrong with a text that somebody has sent.
fn check_text(text: &str) -> Result<Vec<String>, ReloadError> {
    // Whoever may ask this may not therefore read the environment: a text could name a secret as what is wrong.
    let told = RefCell::new(BTreeSet::new());
    let env = |name: &str| {
        let value = std::env::var(name).ok()?;
        told.borrow_mut().insert(value.clone());
        Some(value)
    };
    let checked = config::load_sent("request", text, &env)
        .and_then(|loaded| Ok((examine(&loaded, FileChecks::Nowhere)?, loaded.warnings)));
    let told: Vec<String> = told.into_inner().into_iter().collect();
    let (more, warnings) = checked.map_err(|errors| errors.without(&told))?;
    let warnings = warnings.iter().map(ToString::to_string).chain(more);
    Ok(warnings.map(|warning| config::without(warning, &told)).collect())
}

/// What is wrong with the file as it is now.
fn check_file(loader: Option<&Loader>) -> Result<Vec<String>, ReloadError> {
    let loaded = (loader.ok_or(ReloadError::NoFile)?)()?;
    let warnings = examine(&loaded, FileChecks::Inside)?;
    Ok(loaded.warnings.iter().map(ToString::to_string).chain(warnings).collect())
}

/// Waits for the word to take over, unless this process is told to end before.
async fn promotion(
    heir: PreparedSuccessor,
    given_up: Option<latest::Receiver<bool>>,
) -> Result<Activated, ReloadError> {
    let is_given_up = async {
        let is_so = match given_up {
            Some(mut given_up) => given_up.wait_for(|is_so| *is_so).await.is_ok(),
            None => false,
        };
        // Otherwise nobody can tell any more.
        if !is_so {
            std::future::pending().await
        }
    };
    tokio::select! {
        // Who has the word takes over, and ends as others do.
        biased;
        promoted = heir.ready() => Ok(promoted?),
        () = is_given_up => Err(ReloadError::Ending),
    }
}

fn commit(context: &CompileContext, compiled: &mut Compiled) {
    if let Some(certificates) = compiled.certificates.take() {
        context.families.certificates.commit(certificates);
    }
}

/// Whoever asked may have gone; it was carried out all the same.
fn answer<T>(done: oneshot::Sender<T>, answer: T) {
    let _ = done.send(answer);
}

fn in_force(loaded: Loaded, compiled: &Compiled, openings: &Openings) -> ActiveConfig {
    ActiveConfig {
        loaded,
        since: SystemTime::now(),
        listeners: openings.addresses(compiled),
        upstreams: compiled.upstreams.iter().map(|(name, it)| (name.clone(), Arc::clone(&it.upstream))).collect(),
    }
}

#[cfg(test)]
mod tests;
