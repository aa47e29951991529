//! The open listeners: their sockets, and the workers that accept on them.
//!
//! Each command waits for all workers, but not for long for one that hangs. Such a worker has its commands queued and runs
//! them in order when it resumes; nothing is undone because of it, as all other workers are done by then. Until it resumes,
//! connections on its sockets wait.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::compile::{Compiled, CompiledListener, address};
use super::error::ReloadError;
use crate::config::{AdminToken, Config};
use crate::handover::HandoverOffer;
use crate::net::listener::{Address, BindError, Bound, Inheritance, adopt, bind, bind_beside};
use crate::route::pattern::HostPattern;
use crate::server::Listener;
use crate::server::accepting::{AcceptCommand, PendingConnections};
use crate::server::moving::Arrival;

/// The admin listener's name in errors and in a handover.
const ADMIN: &str = "admin";

/// The admin listener: its socket and its access rules.
#[derive(Clone, Debug)]
pub struct AdminEndpoint {
    /// Its socket.
    pub bound: Arc<Bound>,
    /// The address as configured; with port 0 the bound one differs.
    pub written: Address,
    /// The tokens of its API; empty if it needs none.
    pub tokens: Arc<[AdminToken]>,
    /// The values of `Host` that it accepts.
    pub hosts: Arc<[HostPattern]>,
}

/// All listeners of the process.
#[derive(Debug)]
pub struct Listeners {
    workers: Vec<mpsc::UnboundedSender<AcceptCommand>>,
    /// The open ones, by name.
    open: BTreeMap<String, OpenListener>,
    /// Listeners that are drained: in the configuration, but not open. By name.
    paused: BTreeMap<String, Arc<Listener>>,
    next_id: u64,
    /// No more listeners are opened, for good.
    is_stopped: bool,
    /// Inherited sockets that no listener has claimed yet.
    inheritance: Inheritance,
    /// How many listeners have inherited their sockets.
    inherited: usize,
    /// How long to wait for workers.
    patience: Duration,
    /// Workers that have not finished a command: each unfinished command holds one sender.
    late: BTreeMap<usize, mpsc::WeakSender<()>>,
    /// Log when such a worker has caught up.
    late_watchers: JoinSet<()>,
}

/// The workers, which take sessions in turn.
#[derive(Clone, Debug)]
pub struct WorkerSenders(Vec<mpsc::UnboundedSender<AcceptCommand>>);

impl WorkerSenders {
    /// Gives a session to one of the workers.
    pub fn adopt(&self, arrival: Box<Arrival>) {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let turn = TURN.fetch_add(1, Ordering::Relaxed) % self.0.len().max(1);
        if let Some(worker) = self.0.get(turn) {
            // A worker ends only with the process.
            let _ = worker.send(AcceptCommand::Adopt(arrival));
        }
    }
}

/// The acknowledgements of one command, by worker.
struct WorkerAcks {
    done: Vec<(mpsc::Sender<()>, Option<mpsc::Receiver<()>>)>,
}

#[derive(Debug)]
struct OpenListener {
    id: u64,
    /// The address as configured; with port 0 the bound one differs.
    written: Address,
    bound: Arc<Bound>,
    listener: Arc<Listener>,
}

/// Takes ownership of sockets that were bound or inherited, and starts listening.
///
/// # Errors
/// If one of them does not listen.
pub fn take_charge<'a>(bound: impl Iterator<Item = (&'a str, &'a mut Arc<Bound>)>) -> Result<(), ReloadError> {
    for (name, bound) in bound {
        // A socket that was just bound is not shared; a shared one is ours already.
        let Some(bound) = Arc::get_mut(bound) else { continue };
        if let Err(source) = bound.take_charge() {
            let error = BindError::Io { address: bound.address().clone(), source };
            return Err(ReloadError::Bind { listener: name.to_owned(), error });
        }
    }
    Ok(())
}

/// Sets the listener's TCP options for connections accepted from now on.
fn set_tcp_options(bound: &Bound, compiled: &CompiledListener) {
    if let Err(error) = bound.set_tcp((&compiled.written.tcp).into()) {
        tracing::warn!(listener = compiled.written.name, %error, "the options of `tcp` cannot be set");
    }
}

/// Sockets of listeners that are not open yet, by the listener's name.
pub type Bindings = BTreeMap<String, Arc<Bound>>;

/// Returns all sockets with the names of their listeners.
pub fn all_sockets<'a>(
    bindings: &'a mut Bindings,
    admin: &'a mut Option<AdminEndpoint>,
) -> impl Iterator<Item = (&'a str, &'a mut Arc<Bound>)> {
    let listeners = bindings.iter_mut().map(|(name, bound)| (name.as_str(), bound));
    listeners.chain(admin.iter_mut().map(|endpoint| (ADMIN, &mut endpoint.bound)))
}

impl Listeners {
    /// Creates an empty set for these workers. `inheritance` holds sockets of an earlier process or a service manager.
    pub fn new(
        workers: Vec<mpsc::UnboundedSender<AcceptCommand>>,
        inheritance: Inheritance,
        patience: Duration,
    ) -> Listeners {
        Listeners {
            workers,
            open: BTreeMap::new(),
            paused: BTreeMap::new(),
            next_id: 1,
            is_stopped: false,
            inheritance,
            inherited: 0,
            patience,
            late: BTreeMap::new(),
            late_watchers: JoinSet::new(),
        }
    }

    /// Returns the workers that have not finished a command.
    pub fn late(&mut self) -> Vec<usize> {
        self.late.retain(|_, owed| owed.strong_count() > 0);
        self.late.keys().copied().collect()
    }

    /// Prepares the acknowledgements of a command.
    fn begin_command(&mut self) -> WorkerAcks {
        let late = &self.late;
        let done = |worker| match late.get(&worker).and_then(mpsc::WeakSender::upgrade) {
            // It hangs already: do not wait for it again.
            Some(owed) => (owed, None),
            None => {
                let (done, is_done) = mpsc::channel(1);
                (done, Some(is_done))
            }
        };
        WorkerAcks { done: (0..self.workers.len()).map(done).collect() }
    }

    /// Waits until all workers have finished, or the time for those that hang is over.
    async fn await_acks(&mut self, WorkerAcks { done }: WorkerAcks) {
        let deadline = Instant::now() + self.patience;
        let awaited: Vec<_> = done.into_iter().map(|(done, is_done)| (done.downgrade(), is_done)).collect();
        while self.late_watchers.try_join_next().is_some() {}
        for (worker, (owed, is_done)) in awaited.into_iter().enumerate() {
            let Some(mut is_done) = is_done else { continue };
            if timeout_at(deadline, is_done.recv()).await.is_ok() {
                continue;
            }
            tracing::error!(worker, waited = ?self.patience, "a worker hangs: it will catch up when it resumes");
            self.late.insert(worker, owed);
            self.late_watchers.spawn(async move {
                let _ = is_done.recv().await;
                tracing::info!(worker, "a worker has resumed and caught up");
            });
        }
    }

    /// Returns the listener of this name, open or drained.
    pub fn by_name(&self, name: &str) -> Option<Arc<Listener>> {
        let open = self.open.get(name).map(|open| &open.listener);
        open.or_else(|| self.paused.get(name)).cloned()
    }

    /// Returns the workers, for sessions that arrive.
    pub fn worker_senders(&self) -> WorkerSenders {
        WorkerSenders(self.workers.clone())
    }

    /// Returns how many listeners have inherited sockets, and the unclaimed rest. Later listeners inherit none.
    pub fn finish_inheritance(&mut self) -> (usize, Inheritance) {
        (self.inherited, std::mem::take(&mut self.inheritance))
    }

    /// Returns the sockets for the next process, those of the admin listener included.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn offer(&self, admin: Option<&AdminEndpoint>, upgrades: u64, moves: bool) -> io::Result<HandoverOffer> {
        let mut offer = HandoverOffer::after(upgrades);
        offer.set_moves(moves);
        for (name, open) in &self.open {
            offer.add(name, &open.bound)?;
        }
        if let Some(endpoint) = admin {
            offer.add(ADMIN, &endpoint.bound)?;
        }
        Ok(offer)
    }

    /// Binds sockets for all listeners that are not open at their address yet. `admin` is the current admin listener.
    ///
    /// # Errors
    /// If one cannot be bound; the others are closed again, and have taken no connection from an open one.
    pub fn bind(&mut self, compiled: &Compiled, admin: Option<&AdminEndpoint>) -> Result<Bindings, ReloadError> {
        let mut bindings = Bindings::new();
        for CompiledListener { written, .. } in &compiled.listeners {
            let wanted = address(&written.bind);
            let is_open = self.open.get(&written.name).is_some_and(|open| open.written == wanted);
            if is_open || self.paused.contains_key(&written.name) || self.is_stopped {
                continue;
            }
            let bound = match self.sockets_at(&wanted) {
                Some(bound) => bound,
                None => Arc::new(self.bind_listener(&written.name, &wanted, self.workers.len(), admin)?),
            };
            bindings.insert(written.name.clone(), bound);
        }
        Ok(bindings)
    }

    /// Binds or inherits the sockets of one listener. They do not listen before [`take_charge`].
    fn bind_listener(
        &mut self,
        listener: &str,
        wanted: &Address,
        workers: usize,
        admin: Option<&AdminEndpoint>,
    ) -> Result<Bound, ReloadError> {
        let mut ours = self.open.values().map(|open| &open.bound).chain(admin.map(|admin| &admin.bound));
        let is_ours = ours.any(|bound| bound.address().overlaps(wanted));
        let bound = match self.inheritance.take(listener, wanted) {
            Some((address, inherited)) => {
                self.inherited += 1;
                adopt(&address, inherited, workers)
            }
            None if is_ours => bind_beside(wanted, workers),
            None => bind(wanted, workers),
        };
        bound.map_err(|error| ReloadError::Bind { listener: listener.to_owned(), error })
    }

    /// Returns the sockets that a listener has at this address now: two listeners may swap addresses.
    fn sockets_at(&self, wanted: &Address) -> Option<Arc<Bound>> {
        let mut open = self.open.values();
        open.find(|open| open.bound.address() == wanted).map(|open| Arc::clone(&open.bound))
    }

    /// Returns the configured admin listener: on its socket of `now` if the address is the same, or on a new one.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub fn bind_admin(
        &mut self,
        file: &Config,
        compiled: &Compiled,
        now: Option<&AdminEndpoint>,
    ) -> Result<Option<AdminEndpoint>, ReloadError> {
        let Some(admin) = &file.admin else { return Ok(None) };
        let (written, tokens) = (address(&admin.bind), compiled.tokens.as_slice().into());
        let bound = match now.filter(|now| now.written == written || *now.bound.address() == written) {
            Some(now) => Arc::clone(&now.bound),
            None => Arc::new(self.bind_listener(ADMIN, &written, 1, now)?),
        };
        let hosts = admin.hosts.as_slice().into();
        Ok(Some(AdminEndpoint { bound, written, tokens, hosts }))
    }

    /// Updates the open and paused listeners to the new configuration.
    pub fn swap(&mut self, compiled: &Compiled) {
        let open = self.open.values().map(|open| &open.listener);
        for listener in open.chain(self.paused.values()) {
            if let Some(compiled) = compiled.listener(&listener.name) {
                listener.settings.store(Arc::clone(&compiled.settings));
                listener.proxy.store(Arc::clone(&compiled.proxy));
            }
        }
        for (name, open) in &self.open {
            compiled.listener(name).into_iter().for_each(|compiled| set_tcp_options(&open.bound, compiled));
        }
    }

    /// Makes the workers accept on `bindings`, and stop on the sockets these listeners had before.
    pub async fn open(&mut self, bindings: Bindings, compiled: &Compiled) {
        let mut replaced = vec![];
        let acks = self.begin_command();
        for (name, bound) in bindings {
            let Some(compiled) = compiled.listener(&name) else { continue };
            set_tcp_options(&bound, compiled);
            let before = self.open.remove(&name);
            let listener = before.as_ref().map(|open| Arc::clone(&open.listener)).unwrap_or_else(|| {
                let (settings, proxy) = (Arc::clone(&compiled.settings), Arc::clone(&compiled.proxy));
                Arc::new(Listener::new(name.as_str().into(), settings, proxy))
            });
            // A paused listener has nothing to close.
            replaced.extend(before.filter(|before| before.id != 0));
            let id = self.next_id;
            self.next_id += 1;
            for (worker, (done, _)) in self.workers.iter().zip(&acks.done) {
                let (listener, bound, done) = (Arc::clone(&listener), Arc::clone(&bound), done.clone());
                // A worker ends only with the process.
                let _ = worker.send(AcceptCommand::Accept { binding_id: id, listener, bound, done });
            }
            tracing::info!(
                listener = name, address = %bound.address(), tls = compiled.settings.tls.is_some(), "listening"
            );
            let written = address(&compiled.written.bind);
            self.open.insert(name, OpenListener { id, written, bound, listener });
        }
        self.await_acks(acks).await;
        self.close(replaced).await;
    }

    /// Closes the listeners that the configuration no longer has. Returns them.
    pub async fn close_others(&mut self, compiled: &Compiled) -> Vec<Arc<Listener>> {
        let names: Vec<String> = self.open.keys().filter(|name| compiled.listener(name).is_none()).cloned().collect();
        let gone: Vec<OpenListener> = names.iter().filter_map(|name| self.open.remove(name)).collect();
        let listeners = gone.iter().map(|open| Arc::clone(&open.listener)).collect();
        self.close(gone).await;
        listeners
    }

    /// Closes all listeners, for good.
    pub async fn close_all(&mut self) {
        self.is_stopped = true;
        let gone = std::mem::take(&mut self.open).into_values().collect();
        self.close(gone).await;
    }

    /// Leaves all listeners to the next process, and closes those at the `unwanted` addresses.
    pub async fn leave_to_successor(&mut self, unwanted: &[Address]) {
        self.is_stopped = true;
        let all = std::mem::take(&mut self.open).into_values();
        let (gone, left): (Vec<_>, Vec<_>) = all.partition(|open| unwanted.contains(open.bound.address()));
        left.iter().for_each(|open| open.bound.leave_file());
        self.stop(left, PendingConnections::Leave).await;
        self.stop(gone, PendingConnections::Accept).await;
    }

    /// Closes this listener until [`resume`](Self::resume). Returns it.
    pub async fn pause(&mut self, name: &str) -> Option<Arc<Listener>> {
        if let Some(open) = self.open.remove(name) {
            self.paused.insert(name.to_owned(), Arc::clone(&open.listener));
            self.close(vec![open]).await;
        }
        self.paused.get(name).cloned()
    }

    /// Opens a paused listener again.
    ///
    /// # Errors
    /// If it cannot be bound; it stays paused.
    pub async fn resume(&mut self, name: &str, compiled: &Compiled) -> Result<(), ReloadError> {
        let (Some(listener), Some(configured)) = (self.paused.get(name).cloned(), compiled.listener(name)) else {
            self.paused.remove(name);
            return Ok(());
        };
        if self.is_stopped {
            return Err(ReloadError::Ending);
        }
        let written = address(&configured.written.bind);
        let mut bound = Arc::new(self.bind_listener(name, &written, self.workers.len(), None)?);
        take_charge([(name, &mut bound)].into_iter())?;
        self.paused.remove(name);
        let bindings = Bindings::from([(name.to_owned(), Arc::clone(&bound))]);
        // No worker knows a binding of this id: there is nothing to stop.
        self.open.insert(name.to_owned(), OpenListener { id: 0, written, bound, listener });
        self.open(bindings, compiled).await;
        Ok(())
    }

    async fn close(&mut self, gone: Vec<OpenListener>) {
        let is_shared = |gone: &OpenListener| self.open.values().any(|open| Arc::ptr_eq(&open.bound, &gone.bound));
        let (shared, gone) = gone.into_iter().partition(is_shared);
        self.stop(shared, PendingConnections::Leave).await;
        self.stop(gone, PendingConnections::Accept).await;
    }

    /// Makes the workers stop accepting on these; the sockets close with their last owner.
    async fn stop(&mut self, gone: Vec<OpenListener>, waiting: PendingConnections) {
        let acks = self.begin_command();
        for OpenListener { id, listener, bound, .. } in &gone {
            for (worker, (done, _)) in self.workers.iter().zip(&acks.done) {
                let _ = worker.send(AcceptCommand::Stop { binding_id: *id, waiting, done: done.clone() });
            }
            tracing::info!(listener = %listener.name, address = %bound.address(), "no longer listening");
        }
        self.await_acks(acks).await;
    }

    /// Returns all addresses that we listen on or are about to: open ones, `bindings`, and admin listeners.
    pub fn all_addresses<const N: usize>(
        &self,
        bindings: &Bindings,
        admin: [Option<&AdminEndpoint>; N],
    ) -> Vec<Address> {
        let open = self.open.values().map(|open| &open.bound);
        let all = open.chain(bindings.values()).chain(admin.into_iter().flatten().map(|endpoint| &endpoint.bound));
        all.map(|bound| bound.address().clone()).collect()
    }

    /// Returns the addresses of the open listeners, in the order of the file.
    pub fn addresses(&self, compiled: &Compiled) -> Vec<(Arc<str>, Address)> {
        let open = compiled.listeners.iter().filter_map(|compiled| self.open.get(&compiled.written.name));
        open.map(|open| (Arc::clone(&open.listener.name), open.bound.address().clone())).collect()
    }
}
