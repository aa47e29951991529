//! Names of servers, and the addresses they stand for: one book for the process.
//!
//! A name is looked up when somebody wants to connect to it and its last answer is too old (`known`); all who want it
//! meanwhile share the one question. Look-ups are done on a thread of their own, never on one that relays, so many at a
//! time; it is there as long as anybody knows a name. Whom it asks is `dns` with its TTLs, or, in a build without that
//! feature, the `system`.

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
use crate::net::descriptors::{Taker, lowest};
use crate::telemetry::counters::Counters;
use crate::telemetry::labelled::IntCounterVec;
pub use known::{Addresses, LookupAnswer, LookupError};
use known::{NameCache, News, Next};

/// Look-ups under way at a time; further ones wait for their turn.
const AT_ONCE: usize = 32;
/// Threads on which the system is asked, one for each question at a time.
const SYSTEM_AT_ONCE: usize = 8;
/// How long one look-up may take.
const LOOKUP: Duration = Duration::from_secs(15);
/// How long addresses that were good a moment ago are not used, for the sake of those that are looked up now.
const SOON: Duration = Duration::from_secs(1);

/// Finds out what a name stands for.
pub type LookupFn =
    dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<LookupAnswer, LookupError>> + Send>> + Send + Sync;

/// All names of the process. Clones are the same.
#[derive(Clone)]
pub struct NameResolver(Arc<Book>);

struct Book {
    /// By the name.
    entries: Mutex<HashMap<String, Weak<LookupEntry>>>,
    desk: Arc<LookupQueue>,
}

/// Where look-ups are ordered.
struct LookupQueue {
    ask: Arc<LookupFn>,
    metrics: Metrics,
    /// The way to the thread, once there is one. At most one order for each name is under way.
    orders: Mutex<Option<mpsc::UnboundedSender<Question>>>,
}

/// A name that somebody wants to connect to. Clones are the same.
#[derive(Clone)]
pub struct HostLookup(Arc<LookupEntry>);

struct LookupEntry {
    host: String,
    known: Mutex<NameCache>,
    answered: Notify,
    /// Whoever comes next begins with another of the best addresses.
    turn: AtomicUsize,
    desk: Arc<LookupQueue>,
}

/// A look-up under way. Dropping it without an answer lets another one ask.
struct Question(Option<Arc<LookupEntry>>);

impl NameResolver {
    /// No name yet. Counts on `registry`.
    ///
    /// # Errors
    /// If the metric's name is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<NameResolver> {
        #[cfg(feature = "dns")]
        return NameResolver::asking(None, registry);
        #[cfg(not(feature = "dns"))]
        NameResolver::told_by(Arc::new(|name: String| Box::pin(async move { system::ask(&name).await })), registry)
    }

    /// The same, asking this server of DNS; without one, whom the system asks.
    ///
    /// # Errors
    /// If the metric's name is taken.
    #[cfg(feature = "dns")]
    pub fn asking(server: Option<std::net::SocketAddr>, registry: &Registry) -> prometheus::Result<NameResolver> {
        let ask = move |name: String| -> Pin<Box<dyn Future<Output = _> + Send>> {
            Box::pin(async move { dns::ask(&name, server).await })
        };
        NameResolver::told_by(Arc::new(ask), registry)
    }

    /// The same, told by whoever is asked.
    ///
    /// # Errors
    /// If the metric's name is taken.
    pub fn told_by(ask: Arc<LookupFn>, registry: &Registry) -> prometheus::Result<NameResolver> {
        let desk = Arc::new(LookupQueue { ask, metrics: Metrics::register(registry)?, orders: Mutex::default() });
        Ok(NameResolver(Arc::new(Book { entries: Mutex::default(), desk })))
    }

    /// This name, of which the same is known as long as anybody holds it.
    pub fn of(&self, host: &str) -> HostLookup {
        let mut entries = lock(&self.0.entries);
        if let Some(entry) = entries.get(host).and_then(Weak::upgrade) {
            return HostLookup(entry);
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let entry = Arc::new(LookupEntry {
            host: host.to_owned(),
            known: Mutex::default(),
            answered: Notify::new(),
            turn: AtomicUsize::new(0),
            desk: Arc::clone(&self.0.desk),
        });
        entries.insert(host.to_owned(), Arc::downgrade(&entry));
        HostLookup(entry)
    }
}

impl fmt::Debug for NameResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Names").field(&lock(&self.0.entries).len()).finish()
    }
}

impl fmt::Debug for HostLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Name").field(&self.0.host).finish()
    }
}

impl HostLookup {
    /// As it is written.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// Its addresses, to be tried in the order of this turn; `None`: it takes too long. Cancel-safe.
    ///
    /// # Errors
    /// If none are known, and why.
    pub async fn addresses(&self, deadline: Instant) -> Option<Result<(Addresses, usize), LookupError>> {
        let entry = &self.0;
        let found = match entry.look() {
            Next::Use(found) => Ok(found),
            Next::Fail(trouble) => Err(trouble),
            // The wait is rare, and the place for it would be in every connection's task.
            Next::Soon(_) | Next::Wait => Box::pin(entry.wait(deadline)).await?,
        };
        // Relaxed: the turn orders nothing but itself.
        Some(found.map(|found| (found, entry.turn.fetch_add(1, Ordering::Relaxed))))
    }
}

impl LookupEntry {
    /// What is to be done now; asks if that is to be done.
    fn look(self: &Arc<LookupEntry>) -> Next {
        let (next, asks) = lock(&self.known).look(clock::now());
        if asks {
            self.desk.order(Question(Some(Arc::clone(self))));
        }
        next
    }

    async fn wait(self: &Arc<LookupEntry>, deadline: Instant) -> Option<Result<Addresses, LookupError>> {
        let soon = (Instant::now() + SOON).min(deadline);
        loop {
            // Before the look: what is answered after it wakes.
            let answered = self.answered.notified();
            match self.look() {
                Next::Use(found) => return Some(Ok(found)),
                Next::Fail(trouble) => return Some(Err(trouble)),
                Next::Soon(kept) => {
                    let is_answered = timeout_at(soon, answered).await.is_ok();
                    return Some(self.outcome().filter(|_| is_answered).unwrap_or(Ok(kept)));
                }
                Next::Wait => {
                    timeout_at(deadline, answered).await.ok()?;
                    if let Some(outcome) = self.outcome() {
                        return Some(outcome);
                    }
                }
            }
        }
    }

    fn outcome(&self) -> Option<Result<Addresses, LookupError>> {
        lock(&self.known).outcome(clock::now())
    }

    fn answered(&self, answer: Result<LookupAnswer, LookupError>) {
        let trouble = answer.as_ref().err().cloned();
        self.desk.metrics.looked_up(trouble.as_ref());
        let news = lock(&self.known).answered(answer, clock::now());
        match (news, trouble) {
            (News::Fails(kept), Some(error)) => {
                tracing::warn!(name = self.host, %error, kept, "a name cannot be looked up: earlier addresses are used where there are any");
            }
            (News::Works, _) => tracing::info!(name = self.host, "a name is known again"),
            _ => {}
        }
    }
}

impl Question {
    /// Finds the answer and tells all who wait for it.
    async fn ask(mut self) {
        let Some(entry) = &self.0 else { return };
        let late = |_| Err(LookupError::Timeout(format!("nothing about {} in {LOOKUP:?}", entry.host).into()));
        // Whom we ask does not know which descriptors are kept back.
        let answer = match lacking() {
            Some(errno) => Err(LookupError::Exhausted(errno)),
            None => timeout(LOOKUP, (entry.desk.ask)(entry.host.clone())).await.unwrap_or_else(late),
        };
        // Whatever is asked, a lack of descriptors is told as something else.
        let answer = match answer.as_ref().err().and_then(|_| lacking()) {
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

/// What this machine lacks that a look-up takes: an error number of the system.
fn lacking() -> Option<i32> {
    let error = lowest(io::stderr(), Taker::Traffic).err()?.raw_os_error()?;
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    lacks.iter().any(|errno| errno.raw_os_error() == error).then_some(error)
}

impl Drop for Question {
    fn drop(&mut self) {
        if let Some(entry) = self.0.take() {
            lock(&entry.known).abandoned();
            entry.answered.notify_waiters();
        }
    }
}

impl LookupQueue {
    /// Has it looked up. The thread that does so begins with the first one, and ends with the last who knows a name.
    fn order(&self, question: Question) {
        let mut orders = lock(&self.orders);
        if orders.is_none() {
            match attend() {
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
            // The thread has ended, which it does by a panic alone: the next one begins another.
            *orders = None;
        }
        drop(orders);
    }
}

/// The thread that looks names up, and the way to it.
fn attend() -> io::Result<mpsc::UnboundedSender<Question>> {
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(SYSTEM_AT_ONCE).build()?;
    let (way, mut orders) = mpsc::unbounded_channel::<Question>();
    std::thread::Builder::new().name("names".into()).spawn(move || {
        runtime.block_on(async {
            let places = Arc::new(Semaphore::new(AT_ONCE));
            while let Some(question) = orders.recv().await {
                let places = Arc::clone(&places);
                tokio::spawn(async move {
                    // An error would mean that it is closed, which nobody does.
                    let _place = places.acquire().await;
                    question.ask().await;
                });
            }
        });
        // A look-up of the system may hang.
        runtime.shutdown_background();
    })?;
    Ok(way)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing inside can be left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What look-ups count.
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
