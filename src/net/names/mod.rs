//! Host names of servers and their addresses, in one table for the process.
//!
//! A name is looked up when a connection needs it and its last answer is too old (`known`); all connections that need
//! it meanwhile share one look-up. Look-ups run on a separate thread, never on a worker, a limited number at a time;
//! the thread exists as long as any name is in use. It uses `dns`, with its TTLs, or, in a build without that feature,
//! the `system`.

#[cfg(feature = "dns")]
mod dns;
mod known;
mod system;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus::{Opts, Registry};
use rustix::io::Errno;
use tokio::runtime::Builder;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use crate::base::clock;
use crate::net::descriptors::{DescriptorUse, lowest};
use crate::telemetry::counters::Counters;
use crate::telemetry::labelled::IntCounterVec;
pub use known::{Addresses, LookupAnswer, LookupError};
use known::{CacheChange, NameCache, NextStep};

/// The most look-ups at a time; further ones wait.
const LOOKUPS_MAX: usize = 32;
/// Threads for the system's resolver, one for each concurrent look-up.
const SYSTEM_LOOKUPS_MAX: usize = 8;
/// How long one look-up may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);
/// How long to wait for a new answer before old addresses are used.
const STALE_WAIT: Duration = Duration::from_secs(1);

/// Looks up a name.
pub type LookupFn =
    dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<LookupAnswer, LookupError>> + Send>> + Send + Sync;

/// All names of the process. Clones share the same table.
#[derive(Clone)]
pub struct NameResolver(Arc<NameTable>);

struct NameTable {
    /// By name.
    entries: Mutex<HashMap<String, Weak<LookupEntry>>>,
    queue: Arc<LookupQueue>,
}

/// Passes look-ups to their thread.
struct LookupQueue {
    lookup: Arc<LookupFn>,
    metrics: Metrics,
    /// The sender to the thread, once there is one. At most one look-up of each name is under way.
    sender: Mutex<Option<mpsc::UnboundedSender<LookupTask>>>,
}

/// A host name that is in use. Clones share the same entry.
#[derive(Clone)]
pub struct HostLookup(Arc<LookupEntry>);

struct LookupEntry {
    host: String,
    cache: Mutex<NameCache>,
    answered: Notify,
    /// The number of the next user; each begins with another of the best addresses.
    turn: AtomicUsize,
    queue: Arc<LookupQueue>,
}

/// A running look-up. Dropping it without an answer lets another begin.
struct LookupTask(Option<Arc<LookupEntry>>);

impl NameResolver {
    /// Creates an empty table, with its counters in `registry`.
    ///
    /// # Errors
    /// Fails if the metric's name is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<NameResolver> {
        #[cfg(feature = "dns")]
        return NameResolver::with_dns_server(None, registry);
        #[cfg(not(feature = "dns"))]
        NameResolver::with_lookup(Arc::new(|name: String| Box::pin(async move { system::ask(&name).await })), registry)
    }

    /// Does the same with this DNS server; without one, with those of the system.
    ///
    /// # Errors
    /// Fails if the metric's name is taken.
    #[cfg(feature = "dns")]
    pub fn with_dns_server(
        server: Option<std::net::SocketAddr>,
        registry: &Registry,
    ) -> prometheus::Result<NameResolver> {
        let ask = move |name: String| -> Pin<Box<dyn Future<Output = _> + Send>> {
            Box::pin(async move { dns::ask(&name, server).await })
        };
        NameResolver::with_lookup(Arc::new(ask), registry)
    }

    /// Does the same with this look-up function.
    ///
    /// # Errors
    /// Fails if the metric's name is taken.
    pub fn with_lookup(ask: Arc<LookupFn>, registry: &Registry) -> prometheus::Result<NameResolver> {
        let queue =
            Arc::new(LookupQueue { lookup: ask, metrics: Metrics::register(registry)?, sender: Mutex::default() });
        Ok(NameResolver(Arc::new(NameTable { entries: Mutex::default(), queue })))
    }

    /// Returns the entry of this name, which lives as long as something holds it.
    pub fn of(&self, host: &str) -> HostLookup {
        let mut entries = lock(&self.0.entries);
        if let Some(entry) = entries.get(host).and_then(Weak::upgrade) {
            return HostLookup(entry);
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let entry = Arc::new(LookupEntry {
            host: host.to_owned(),
            cache: Mutex::default(),
            answered: Notify::new(),
            turn: AtomicUsize::new(0),
            queue: Arc::clone(&self.0.queue),
        });
        entries.insert(host.to_owned(), Arc::downgrade(&entry));
        HostLookup(entry)
    }
}

impl fmt::Debug for NameResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NameResolver").field(&lock(&self.0.entries).len()).finish()
    }
}

impl fmt::Debug for HostLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostLookup").field(&self.0.host).finish()
    }
}

impl HostLookup {
    /// Returns the name as written.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// Returns its addresses and the number of this user, which decides their order; `None` if it takes too long.
    /// Cancel-safe.
    ///
    /// # Errors
    /// Fails if there are none, and says why.
    pub async fn addresses(&self, deadline: Instant) -> Option<Result<(Addresses, usize), LookupError>> {
        let entry = &self.0;
        let found = match entry.next_step() {
            NextStep::Use(found) => Ok(found),
            NextStep::Fail(trouble) => Err(trouble),
            // The wait is rare; unboxed it would enlarge every connection's task.
            NextStep::Soon(_) | NextStep::Wait => Box::pin(entry.wait(deadline)).await?,
        };
        // Relaxed: the turn orders nothing but itself.
        Some(found.map(|found| (found, entry.turn.fetch_add(1, Ordering::Relaxed))))
    }
}

impl LookupEntry {
    /// Returns the next step; starts a look-up if one is due.
    fn next_step(self: &Arc<LookupEntry>) -> NextStep {
        let (next, asks) = lock(&self.cache).next_step(clock::now());
        if asks {
            self.queue.enqueue(LookupTask(Some(Arc::clone(self))));
        }
        next
    }

    async fn wait(self: &Arc<LookupEntry>, deadline: Instant) -> Option<Result<Addresses, LookupError>> {
        let soon = (Instant::now() + STALE_WAIT).min(deadline);
        loop {
            // Registered before the check, so that a later answer wakes this task.
            let answered = self.answered.notified();
            match self.next_step() {
                NextStep::Use(found) => return Some(Ok(found)),
                NextStep::Fail(trouble) => return Some(Err(trouble)),
                NextStep::Soon(kept) => {
                    let is_answered = timeout_at(soon, answered).await.is_ok();
                    return Some(self.outcome().filter(|_| is_answered).unwrap_or(Ok(kept)));
                }
                NextStep::Wait => {
                    timeout_at(deadline, answered).await.ok()?;
                    if let Some(outcome) = self.outcome() {
                        return Some(outcome);
                    }
                }
            }
        }
    }

    fn outcome(&self) -> Option<Result<Addresses, LookupError>> {
        lock(&self.cache).outcome(clock::now())
    }

    fn answered(&self, answer: Result<LookupAnswer, LookupError>) {
        let trouble = answer.as_ref().err().cloned();
        self.queue.metrics.looked_up(trouble.as_ref());
        let news = lock(&self.cache).answered(answer, clock::now());
        match (news, trouble) {
            (CacheChange::Fails(kept), Some(error)) => {
                tracing::warn!(name = self.host, %error, kept, "name look-up fails, earlier addresses are used if there are any");
            }
            (CacheChange::Works, _) => tracing::info!(name = self.host, "name look-up works again"),
            _ => {}
        }
    }
}

impl LookupTask {
    /// Looks the name up and wakes all tasks that wait for it.
    async fn run(mut self) {
        let Some(entry) = &self.0 else { return };
        let late = |_| Err(LookupError::Timeout(format!("nothing about {} in {LOOKUP_TIMEOUT:?}", entry.host).into()));
        // The resolver does not know the reserved descriptors.
        let answer = match exhausted_errno() {
            Some(errno) => Err(LookupError::Exhausted(errno)),
            None => timeout(LOOKUP_TIMEOUT, (entry.queue.lookup)(entry.host.clone())).await.unwrap_or_else(late),
        };
        // Resolvers report a lack of descriptors as another error.
        let answer = match answer.as_ref().err().and_then(|_| exhausted_errno()) {
            Some(errno) => Err(LookupError::Exhausted(errno)),
            None if answer.as_ref().is_ok_and(|answer| answer.addresses.is_empty()) => {
                Err(LookupError::NotFound(format!("{} has no address", entry.host).into()))
            }
            None => answer,
        };
        entry.answered(answer);
        entry.answered.notify_waiters();
        self.0 = None;
    }
}

/// Returns the system's error number if this machine lacks resources for a look-up.
fn exhausted_errno() -> Option<i32> {
    let error = lowest(io::stderr(), DescriptorUse::Traffic).err()?.raw_os_error()?;
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    lacks.iter().any(|errno| errno.raw_os_error() == error).then_some(error)
}

impl Drop for LookupTask {
    fn drop(&mut self) {
        if let Some(entry) = self.0.take() {
            lock(&entry.cache).abandoned();
            entry.answered.notify_waiters();
        }
    }
}

impl LookupQueue {
    /// Starts a look-up. The first one starts the thread, which ends when no name is in use any more.
    fn enqueue(&self, question: LookupTask) {
        let mut orders = lock(&self.sender);
        if orders.is_none() {
            match spawn_lookup_thread() {
                Ok(way) => *orders = Some(way),
                Err(error) => {
                    drop(orders);
                    if let Some(entry) = &question.0 {
                        entry.answered(Err(LookupError::Failed(format!("no thread to look it up: {error}").into())));
                    }
                    return;
                }
            }
        }
        let unsent = orders.as_ref().and_then(|orders| orders.send(question).err());
        if unsent.is_some() {
            // Only a panic ends the thread; the next look-up starts another.
            *orders = None;
        }
        drop(orders);
    }
}

/// Starts the thread for look-ups, and returns the sender to it.
fn spawn_lookup_thread() -> io::Result<mpsc::UnboundedSender<LookupTask>> {
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(SYSTEM_LOOKUPS_MAX).build()?;
    let (way, mut orders) = mpsc::unbounded_channel::<LookupTask>();
    std::thread::Builder::new().name("names".into()).spawn(move || {
        runtime.block_on(async {
            let places = Arc::new(Semaphore::new(LOOKUPS_MAX));
            while let Some(question) = orders.recv().await {
                let places = Arc::clone(&places);
                tokio::spawn(async move {
                    // Fails only if the semaphore is closed, which never happens.
                    let _place = places.acquire().await;
                    question.run().await;
                });
            }
        });
        // A look-up by the system may hang.
        runtime.shutdown_background();
    })?;
    Ok(way)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic cannot leave this half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The counters of look-ups.
#[derive(Clone, Debug)]
struct Metrics(Arc<Counters<&'static str>>);

impl Metrics {
    const LABELS: [&'static str; 5] = ["found", "not_found", "timeout", "failed", "exhausted"];

    fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let lookups = IntCounterVec::new(
            Opts::new("wsluice_name_lookups_total", "Look-ups of the names in endpoints' URLs, by what came of them."),
            &["result"],
        )?;
        registry.register(Box::new(lookups.clone()))?;
        let make = move |label: &&'static str| lookups.with_label_values(&[label]);
        Ok(Metrics(Arc::new(Counters::new(&Metrics::LABELS, make))))
    }

    fn looked_up(&self, trouble: Option<&LookupError>) {
        self.0.inc(match trouble {
            None => "found",
            Some(LookupError::NotFound(_)) => "not_found",
            Some(LookupError::Timeout(_)) => "timeout",
            Some(LookupError::Failed(_)) => "failed",
            Some(LookupError::Exhausted(_)) => "exhausted",
        });
    }
}

#[cfg(test)]
mod tests;
