//! Listeners that are open: their sockets, and the workers that accept on them.
//!
//! A worker that hangs is waited for a while and no longer. It has been told what to do, and does it, in order, when it goes
//! on: nothing is taken back for its sake, since all other workers have done it by then. Until it goes on it accepts nobody,
//! and who is dealt to its sockets waits there.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
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

/// The admin listener's name, in errors and where its sockets are handed on.
const ADMIN: &str = "admin";

/// Where the admin listener is, and who is let in.
#[derive(Clone, Debug)]
pub struct AdminEndpoint {
    /// Its socket.
    pub bound: Arc<Bound>,
    /// Where it was to be; with port 0 it is elsewhere.
    pub written: Address,
    /// What opens its API, if it is not open.
    pub tokens: Arc<[AdminToken]>,
    /// Names by which it may be asked for.
    pub hosts: Arc<[HostPattern]>,
}

/// All of them.
#[derive(Debug)]
pub struct Openings {
    workers: Vec<mpsc::UnboundedSender<AcceptCommand>>,
    /// By name.
    open: BTreeMap<String, ListenerStart>,
    /// Listeners that are not to be open although the configuration has them: by name, as they are.
    shut: BTreeMap<String, Arc<Listener>>,
    next: u64,
    /// None are opened any more.
    is_over: bool,
    /// Sockets that others have left to us, until it is known who wants them.
    inheritance: Inheritance,
    /// How many listeners have got theirs from there.
    inherited: usize,
    /// How long workers are waited for.
    patience: Duration,
    /// Workers that have not done what they were told: each order that they owe holds one of these.
    late: BTreeMap<usize, mpsc::WeakSender<()>>,
    /// Say when they have.
    watches: JoinSet<()>,
}

/// What workers are told, and whether each has done it.
struct WorkerAcks {
    done: Vec<(mpsc::Sender<()>, Option<mpsc::Receiver<()>>)>,
}

#[derive(Debug)]
struct ListenerStart {
    number: u64,
    /// As it is written; with port 0 the address that it is bound to is another.
    written: Address,
    bound: Arc<Bound>,
    listener: Arc<Listener>,
}

/// Sockets that were bound, and adopted maybe, are ours from now on.
///
/// # Errors
/// If one of them does not listen.
pub fn take_charge<'a>(bound: impl Iterator<Item = (&'a str, &'a mut Arc<Bound>)>) -> Result<(), ReloadError> {
    for (name, bound) in bound {
        // Nobody else has what has just been bound; what is shared is ours already.
        let Some(bound) = Arc::get_mut(bound) else { continue };
        if let Err(source) = bound.take_charge() {
            let error = BindError::Io { address: bound.address().clone(), source };
            return Err(ReloadError::Bind { listener: name.to_owned(), error });
        }
    }
    Ok(())
}

/// What is accepted from now on gets the options that the listener says.
fn tune(bound: &Bound, compiled: &CompiledListener) {
    if let Err(error) = bound.set_tcp((&compiled.written.tcp).into()) {
        tracing::warn!(listener = compiled.written.name, %error, "the options of `tcp` cannot be set");
    }
}

/// Sockets for listeners that are not open yet, by the names of these.
pub type Bindings = BTreeMap<String, Arc<Bound>>;

/// All of these, by the names of their listeners.
pub fn all<'a>(
    bindings: &'a mut Bindings,
    admin: &'a mut Option<AdminEndpoint>,
) -> impl Iterator<Item = (&'a str, &'a mut Arc<Bound>)> {
    let listeners = bindings.iter_mut().map(|(name, bound)| (name.as_str(), bound));
    listeners.chain(admin.iter_mut().map(|door| (ADMIN, &mut door.bound)))
}

impl Openings {
    /// None yet, for these workers, who are waited for with this `patience`; with the sockets that others have left to us.
    pub fn new(
        workers: Vec<mpsc::UnboundedSender<AcceptCommand>>,
        inheritance: Inheritance,
        patience: Duration,
    ) -> Openings {
        Openings {
            workers,
            open: BTreeMap::new(),
            shut: BTreeMap::new(),
            next: 1,
            is_over: false,
            inheritance,
            inherited: 0,
            patience,
            late: BTreeMap::new(),
            watches: JoinSet::new(),
        }
    }

    /// Workers that have not done yet what they were told.
    pub fn late(&mut self) -> Vec<usize> {
        self.late.retain(|_, owed| owed.strong_count() > 0);
        self.late.keys().copied().collect()
    }

    /// What each worker is to be told about now.
    fn begin(&mut self) -> WorkerAcks {
        let late = &self.late;
        let done = |worker| match late.get(&worker).and_then(mpsc::WeakSender::upgrade) {
            // One that hangs already: nobody waits for it again.
            Some(owed) => (owed, None),
            None => {
                let (done, is_done) = mpsc::channel(1);
                (done, Some(is_done))
            }
        };
        WorkerAcks { done: (0..self.workers.len()).map(done).collect() }
    }

    /// Waits until all workers have done it, or those that hang have been waited for long enough.
    async fn finish(&mut self, WorkerAcks { done }: WorkerAcks) {
        let deadline = Instant::now() + self.patience;
        let awaited: Vec<_> = done.into_iter().map(|(done, is_done)| (done.downgrade(), is_done)).collect();
        while self.watches.try_join_next().is_some() {}
        for (worker, (owed, is_done)) in awaited.into_iter().enumerate() {
            let Some(mut is_done) = is_done else { continue };
            if timeout_at(deadline, is_done.recv()).await.is_ok() {
                continue;
            }
            tracing::error!(worker, waited = ?self.patience, "a worker hangs: it does what it was told when it goes on");
            self.late.insert(worker, owed);
            self.watches.spawn(async move {
                let _ = is_done.recv().await;
                tracing::info!(worker, "a worker goes on, and has done what it was told");
            });
        }
    }

    /// How many listeners have inherited sockets, and what nobody has asked for: who asks later gets none.
    pub fn settle_inheritance(&mut self) -> (usize, Inheritance) {
        (self.inherited, std::mem::take(&mut self.inheritance))
    }

    /// What the next process is to get after so many upgrades: all that listens, the admin listener among it.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn offer(&self, admin: Option<&AdminEndpoint>, upgrades: u64) -> io::Result<HandoverOffer> {
        let mut offer = HandoverOffer::after(upgrades);
        for (name, opening) in &self.open {
            offer.add(name, &opening.bound)?;
        }
        if let Some(door) = admin {
            offer.add(ADMIN, &door.bound)?;
        }
        Ok(offer)
    }

    /// Sockets for those listeners that are not open at their address; `admin` is the admin listener's, as it is now.
    ///
    /// # Errors
    /// If one cannot be bound; those that were are closed again, and have taken no connection from any that is open.
    pub fn bind(&mut self, compiled: &Compiled, admin: Option<&AdminEndpoint>) -> Result<Bindings, ReloadError> {
        let mut bindings = Bindings::new();
        for CompiledListener { written, .. } in &compiled.listeners {
            let wanted = address(&written.bind);
            let is_open = self.open.get(&written.name).is_some_and(|opening| opening.written == wanted);
            if is_open || self.shut.contains_key(&written.name) || self.is_over {
                continue;
            }
            let bound = match self.bound_at(&wanted) {
                Some(bound) => bound,
                None => Arc::new(self.bind_one(&written.name, &wanted, self.workers.len(), admin)?),
            };
            bindings.insert(written.name.clone(), bound);
        }
        Ok(bindings)
    }

    /// Sockets that may not listen yet: see [`take_charge`].
    fn bind_one(
        &mut self,
        listener: &str,
        wanted: &Address,
        workers: usize,
        admin: Option<&AdminEndpoint>,
    ) -> Result<Bound, ReloadError> {
        let mut ours = self.open.values().map(|opening| &opening.bound).chain(admin.map(|admin| &admin.bound));
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

    /// The sockets at this address that a listener has now: two may change places.
    fn bound_at(&self, wanted: &Address) -> Option<Arc<Bound>> {
        let mut open = self.open.values();
        open.find(|opening| opening.bound.address() == wanted).map(|opening| Arc::clone(&opening.bound))
    }

    /// The admin listener, if there is to be one: where it is `now`, or anew.
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
            None => Arc::new(self.bind_one(ADMIN, &written, 1, now)?),
        };
        let hosts = admin.hosts.as_slice().into();
        Ok(Some(AdminEndpoint { bound, written, tokens, hosts }))
    }

    /// Gives those that are there what the configuration says of them.
    pub fn swap(&mut self, compiled: &Compiled) {
        let open = self.open.values().map(|opening| &opening.listener);
        for listener in open.chain(self.shut.values()) {
            if let Some(compiled) = compiled.listener(&listener.name) {
                listener.settings.store(Arc::clone(&compiled.settings));
                listener.proxy.store(Arc::clone(&compiled.proxy));
            }
        }
        for (name, opening) in &self.open {
            compiled.listener(name).into_iter().for_each(|compiled| tune(&opening.bound, compiled));
        }
    }

    /// Has the workers accept on `bindings`, and no more on what these listeners had before.
    pub async fn open(&mut self, bindings: Bindings, compiled: &Compiled) {
        let mut replaced = vec![];
        let told = self.begin();
        for (name, bound) in bindings {
            let Some(compiled) = compiled.listener(&name) else { continue };
            tune(&bound, compiled);
            let before = self.open.remove(&name);
            let listener = before.as_ref().map(|opening| Arc::clone(&opening.listener)).unwrap_or_else(|| {
                let (settings, proxy) = (Arc::clone(&compiled.settings), Arc::clone(&compiled.proxy));
                Arc::new(Listener::new(name.as_str().into(), settings, proxy))
            });
            // One that was shut has nothing to be closed.
            replaced.extend(before.filter(|before| before.number != 0));
            let number = self.next;
            self.next += 1;
            for (worker, (done, _)) in self.workers.iter().zip(&told.done) {
                let (listener, bound, done) = (Arc::clone(&listener), Arc::clone(&bound), done.clone());
                // A worker that is gone is gone with the process.
                let _ = worker.send(AcceptCommand::Accept { opening: number, listener, bound, done });
            }
            tracing::info!(
                listener = name, address = %bound.address(), tls = compiled.settings.tls.is_some(), "listening"
            );
            let written = address(&compiled.written.bind);
            self.open.insert(name, ListenerStart { number, written, bound, listener });
        }
        self.finish(told).await;
        self.close(replaced).await;
    }

    /// Accepts no more on listeners that the configuration does not have. Returns these.
    pub async fn close_others(&mut self, compiled: &Compiled) -> Vec<Arc<Listener>> {
        let names: Vec<String> = self.open.keys().filter(|name| compiled.listener(name).is_none()).cloned().collect();
        let gone: Vec<ListenerStart> = names.iter().filter_map(|name| self.open.remove(name)).collect();
        let listeners = gone.iter().map(|opening| Arc::clone(&opening.listener)).collect();
        self.close(gone).await;
        listeners
    }

    /// Accepts no more on any, for good.
    pub async fn close_all(&mut self) {
        self.is_over = true;
        let gone = std::mem::take(&mut self.open).into_values().collect();
        self.close(gone).await;
    }

    /// Another process accepts from now on, on all but the `unwanted` addresses.
    pub async fn leave_to_successor(&mut self, unwanted: &[Address]) {
        self.is_over = true;
        let all = std::mem::take(&mut self.open).into_values();
        let (gone, left): (Vec<_>, Vec<_>) = all.partition(|opening| unwanted.contains(opening.bound.address()));
        left.iter().for_each(|opening| opening.bound.leave_file());
        self.stop(left, PendingConnections::Leave).await;
        self.stop(gone, PendingConnections::Accept).await;
    }

    /// Accepts no more on this listener until it is let in again. Returns it.
    pub async fn shut(&mut self, name: &str) -> Option<Arc<Listener>> {
        if let Some(opening) = self.open.remove(name) {
            self.shut.insert(name.to_owned(), Arc::clone(&opening.listener));
            self.close(vec![opening]).await;
        }
        self.shut.get(name).cloned()
    }

    /// Accepts again on a listener that was shut.
    ///
    /// # Errors
    /// If it cannot be bound; it stays shut.
    pub async fn let_in(&mut self, name: &str, compiled: &Compiled) -> Result<(), ReloadError> {
        let (Some(listener), Some(configured)) = (self.shut.get(name).cloned(), compiled.listener(name)) else {
            self.shut.remove(name);
            return Ok(());
        };
        if self.is_over {
            return Err(ReloadError::Ending);
        }
        let written = address(&configured.written.bind);
        let mut bound = Arc::new(self.bind_one(name, &written, self.workers.len(), None)?);
        take_charge([(name, &mut bound)].into_iter())?;
        self.shut.remove(name);
        let bindings = Bindings::from([(name.to_owned(), Arc::clone(&bound))]);
        // No worker has an opening of this number: there is nothing to stop.
        self.open.insert(name.to_owned(), ListenerStart { number: 0, written, bound, listener });
        self.open(bindings, compiled).await;
        Ok(())
    }

    async fn close(&mut self, gone: Vec<ListenerStart>) {
        let is_shared =
            |gone: &ListenerStart| self.open.values().any(|opening| Arc::ptr_eq(&opening.bound, &gone.bound));
        let (shared, gone) = gone.into_iter().partition(is_shared);
        self.stop(shared, PendingConnections::Leave).await;
        self.stop(gone, PendingConnections::Accept).await;
    }

    /// Has the workers accept no more on these; the sockets are closed when nobody else has them.
    async fn stop(&mut self, gone: Vec<ListenerStart>, waiting: PendingConnections) {
        let told = self.begin();
        for ListenerStart { number, listener, bound, .. } in &gone {
            for (worker, (done, _)) in self.workers.iter().zip(&told.done) {
                let _ = worker.send(AcceptCommand::Stop { opening: *number, waiting, done: done.clone() });
            }
            tracing::info!(listener = %listener.name, address = %bound.address(), "not listening any more");
        }
        self.finish(told).await;
    }

    /// Everything that we listen on, or are about to: what is open, `bindings`, and the admin listeners.
    pub fn where_we_are<const N: usize>(
        &self,
        bindings: &Bindings,
        admin: [Option<&AdminEndpoint>; N],
    ) -> Vec<Address> {
        let open = self.open.values().map(|opening| &opening.bound);
        let all = open.chain(bindings.values()).chain(admin.into_iter().flatten().map(|door| &door.bound));
        all.map(|bound| bound.address().clone()).collect()
    }

    /// Where the open ones are, in the order of the file.
    pub fn addresses(&self, compiled: &Compiled) -> Vec<(Arc<str>, Address)> {
        let open = compiled.listeners.iter().filter_map(|compiled| self.open.get(&compiled.written.name));
        open.map(|opening| (Arc::clone(&opening.listener.name), opening.bound.address().clone())).collect()
    }
}
