//! What several instances keep together, in a Redis or Valkey: how much each client uses, and who is denied.
//!
//! One connection for the process, on a thread of its own (`run`), since a reload must not hold it up, nor a scrape, nor sessions.
//! Workers put questions into a bounded queue and wait for a bounded time; the thread sends what waits in one batch. As soon as
//! one question takes too long, or is answered with an error, the connection is given up, and nobody waits any more until a new one
//! has answered in time: a slow store holds no more handshakes than fit in the queue, and none for long.
//!
//! What sessions are open is counted here (`holdings`) and only told there: under a name that lives as long as one connection, as
//! whole numbers, so that nothing that is lost on the way is wrong for long. When an instance or a connection is gone, its name
//! expires (`LEASE`), and with it all that it has told.
//!
//! Whoever asks says what holds if there is no answer; here is only why there is none ([`Away`]).

pub mod answer;
pub mod deny_list;
pub mod holdings;
pub mod metrics;
#[cfg(feature = "redis")]
mod connection;
mod link;
#[cfg(feature = "redis")]
mod run;
pub mod scripts;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::base::clock;
use crate::config::RedisConfig;
use crate::upstream::connect::Connector;
use answer::Question;
pub use answer::{Ask, Away, Verdict};
use deny_list::DenyList;
use holdings::Holdings;
use link::{Link, Queues};
use metrics::{Asked, Metrics, StoreMetrics};

/// The most questions that wait to be sent.
const QUESTIONS_MAX: usize = 1024;

/// The most changes of the list of denied subjects that wait: each is a request of an operator.
const ORDERS_MAX: usize = 32;

/// How long the end of a store may take.
const END: Duration = Duration::from_secs(2);

/// What all stores of the process share with the rest of it: one is replaced by another when its configuration changes.
#[derive(Clone)]
pub struct SharedState {
    /// The open sessions of clients.
    pub holdings: Arc<Holdings>,
    /// Who is denied.
    pub denied: Arc<DenyList>,
    metrics: Metrics,
}

impl fmt::Debug for SharedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedState").field("denied", &self.denied).finish_non_exhaustive()
    }
}

impl SharedState {
    /// Creates the state of a process that shares nothing yet.
    pub fn new(metrics: Metrics) -> SharedState {
        let denied = Arc::new(DenyList::new(metrics.denied()));
        SharedState { holdings: Arc::default(), denied, metrics }
    }

    /// Returns the store that this configuration describes, which is reached by `connector`: the one `before`, or a new one that
    /// still has to be started ([`SharedStore::start`]).
    pub fn store(
        &self,
        written: &RedisConfig,
        connector: Connector,
        before: Option<&Arc<SharedStore>>,
    ) -> Arc<SharedStore> {
        let is_same = |before: &&Arc<SharedStore>| {
            before.link.written == *written && before.link.connector.has_tls_of(&connector)
        };
        if let Some(before) = before.filter(is_same) {
            return Arc::clone(before);
        }
        let link = Link {
            written: written.clone(),
            connector,
            is_up: AtomicBool::new(false),
            settled: watch::Sender::new(false),
            stopped: watch::Sender::new(false),
            ended: watch::Sender::new(false),
            holdings: Arc::clone(&self.holdings),
            denied: Arc::clone(&self.denied),
            metrics: self.metrics.server(&written.url.server()),
        };
        Arc::new(SharedStore::new(Arc::new(link)))
    }
}

/// The store of one configuration. Dropping it ends its thread.
#[derive(Debug)]
pub struct SharedStore {
    link: Arc<Link>,
    questions: mpsc::Sender<Question>,
    orders: mpsc::Sender<deny_list::Order>,
    /// Until it is started.
    queues: Mutex<Option<Queues>>,
}

impl SharedStore {
    fn new(link: Arc<Link>) -> SharedStore {
        let (questions, waiting) = mpsc::channel(QUESTIONS_MAX);
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        let queues = Queues { questions: waiting, orders: ordered };
        SharedStore { link, questions, orders, queues: Mutex::new(Some(queues)) }
    }

    /// Ends its thread, so that another store can begin. Returns when it has ended, or after a while. Cancel-safe.
    pub async fn stop(&self) {
        if self.queues.lock().unwrap_or_else(PoisonError::into_inner).take().is_none() {
            self.link.stopped.send_replace(true);
            let _ = timeout(END, self.link.ended.subscribe().wait_for(|has_ended| *has_ended)).await;
        }
    }

    /// Starts its thread, once, and makes the list of denied subjects follow it.
    pub fn start(&self) {
        let Some(queues) = self.queues.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        self.link.denied.follow(Some(self.orders.clone()));
        #[cfg(feature = "redis")]
        run::spawn(Arc::clone(&self.link), queues);
        #[cfg(not(feature = "redis"))]
        drop(queues);
    }

    /// Waits until it has answered, or has failed, for the first time. Cancel-safe.
    pub async fn settled(&self) {
        let _ = self.link.settled.subscribe().wait_for(|is_settled| *is_settled).await;
    }

    /// Its configuration.
    pub fn written(&self) -> &RedisConfig {
        &self.link.written
    }

    /// Its metrics.
    pub fn metrics(&self) -> &StoreMetrics {
        &self.link.metrics
    }

    /// The sessions that are counted for it.
    pub fn holdings(&self) -> &Arc<Holdings> {
        &self.link.holdings
    }

    /// Asks about a client, and waits for the answer, for no longer than the configuration says.
    ///
    /// # Errors
    /// If there is none.
    pub async fn ask(&self, ask: Ask) -> Result<Verdict, Away> {
        if !self.link.is_up.load(Ordering::Relaxed) {
            return Err(Away::Unreachable);
        }
        let (reply, answer) = oneshot::channel();
        let began = clock::now();
        let answered = match self.questions.try_send(Question { ask, reply }) {
            Err(_) => Err(Away::Busy),
            Ok(()) => match timeout(self.link.written.timeout.duration(), answer).await {
                Ok(answered) => answered.unwrap_or(Err(Away::Unreachable)),
                Err(_) => Err(Away::Timeout),
            },
        };
        match answered {
            Ok(verdict) => {
                self.link.metrics.answered(Asked::of(verdict), clock::now().since(began));
            }
            // What the thread has found it has counted itself.
            Err(away @ (Away::Busy | Away::Timeout)) => self.link.metrics.failed(away),
            Err(_) => {}
        }
        answered
    }
}
