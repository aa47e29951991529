//! Keys at a URL: fetched by one task, and shared by all workers.
//!
//! They are fetched at the start, again before they are stale, and when a request needs a key that is not there. For the
//! last there is a bound, since whoever sends tokens can name keys: three times at once, and then once in ten seconds. A
//! request that needs a key waits for the fetch under way, for a bounded time. The last keys stay through every failure.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, HOST, HeaderMap, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::metrics::{Fetched, SourceMetrics};
use super::schedule::next_fetch;
use crate::base::clock;
use crate::base::error_chain::error_chain;
use crate::config::HttpUrl;
use crate::discovery::Backoff;
use crate::policy::bucket::{AdmissionRate, Bucket};
use crate::policy::jwt::keys::KEYS_BYTES_MAX;
use crate::policy::jwt::{KeySet, KeysError};
use crate::telemetry::log_limiter::{LinePermit, LogLimiter};
use crate::telemetry::panics::{self, PanicSite};
use crate::upstream::connect::{ConnectError, Connector};
use crate::upstream::one_exchange::{self, Uncollected};

/// One fetch, the connection included.
const FETCH: Duration = Duration::from_secs(10);
/// How long a request waits for keys: a client that opens a WebSocket gives up after some 10 s.
const WAIT: Duration = Duration::from_secs(5);
/// How often keys are fetched because requests need one that is not there.
const WANTED_EVERY: Duration = Duration::from_secs(10);
const WANTED_AT_ONCE: u32 = 3;

/// Why there are no keys this time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
struct FetchError {
    kind: Fetched,
    detail: String,
}

/// The keys at a URL. Dropping it ends its task.
#[derive(Debug)]
pub struct RemoteKeys {
    shared: Arc<Shared>,
    task: OnceLock<JoinSet<()>>,
}

/// What the task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FetchState {
    /// It waits.
    Idle,
    /// It is about to fetch.
    Wanted,
    /// It fetches.
    UnderWay,
}

#[derive(Debug)]
struct Shared {
    url: HttpUrl,
    connector: Connector,
    keys: ArcSwap<KeySet>,
    state: Mutex<FetchState>,
    /// How many have ended.
    fetches: watch::Sender<u64>,
    /// Somebody needs other keys.
    wanted: Notify,
    bucket: Bucket,
    metrics: SourceMetrics,
}

impl RemoteKeys {
    pub(super) fn new(url: HttpUrl, connector: Connector, known: Arc<KeySet>, metrics: SourceMetrics) -> RemoteKeys {
        let shared = Shared {
            url,
            connector,
            keys: ArcSwap::new(known),
            // The first fetch begins with the task: whoever comes before it waits for it.
            state: Mutex::new(FetchState::Wanted),
            fetches: watch::Sender::new(0),
            wanted: Notify::new(),
            bucket: Bucket::default(),
            metrics,
        };
        RemoteKeys { shared: Arc::new(shared), task: OnceLock::new() }
    }

    /// Starts its task, once.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn start(&self) {
        self.task.get_or_init(|| {
            let shared = Arc::clone(&self.shared);
            let mut task = JoinSet::new();
            task.spawn(async move {
                let run = || shared.run();
                panics::keep(PanicSite::Control, "fetching keys", run).await;
            });
            task
        });
    }

    /// Returns the keys of this moment; none before the first fetch.
    pub fn current(&self) -> Arc<KeySet> {
        self.shared.keys.load_full()
    }

    /// Returns the URL.
    pub fn url(&self) -> &HttpUrl {
        &self.shared.url
    }

    pub(super) fn is_reached_by(&self, connector: &Connector) -> bool {
        self.shared.connector.has_tls_of(connector)
    }

    /// Begins to wait for other keys. Keys that come from now on are not missed: look at those that are there once more, and
    /// then at what [`KeysWait::fetched`] says.
    pub fn wait(&self) -> KeysWait<'_> {
        KeysWait { shared: &self.shared, fetches: self.shared.fetches.subscribe() }
    }
}

/// A wait for keys.
#[derive(Debug)]
pub struct KeysWait<'a> {
    shared: &'a Shared,
    fetches: watch::Receiver<u64>,
}

/// What came of a wait for keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// A fetch that was begun after the wait.
    New,
    /// A fetch that was under way: what it brought may be older than what is looked for.
    UnderWay,
    /// None in time, or too many were wanted.
    Nothing,
}

impl KeysWait<'_> {
    /// Waits for the fetch under way, or for a new one if there is none. Cancel-safe.
    pub async fn fetched(mut self) -> WaitEnd {
        let awaited = {
            let mut state = self.shared.lock();
            match *state {
                FetchState::UnderWay => WaitEnd::UnderWay,
                FetchState::Wanted => WaitEnd::New,
                FetchState::Idle => {
                    let pace = AdmissionRate::every(WANTED_EVERY, WANTED_AT_ONCE);
                    if self.shared.bucket.take(pace, clock::now()).is_err() {
                        return WaitEnd::Nothing;
                    }
                    *state = FetchState::Wanted;
                    self.shared.wanted.notify_one();
                    WaitEnd::New
                }
            }
        };
        match timeout(WAIT, self.fetches.changed()).await {
            Ok(Ok(())) => awaited,
            Ok(Err(_)) | Err(_) => WaitEnd::Nothing,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, FetchState> {
        // A panic cannot leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self) {
        let (mut backoff, limiter, mut is_failing) = (Backoff::default(), LogLimiter::default(), false);
        loop {
            *self.lock() = FetchState::UnderWay;
            let fetched = Box::pin(self.fetch()).await;
            let wait = match fetched {
                Ok((keys, fresh)) => {
                    self.metrics.fetched(keys.len());
                    if std::mem::take(&mut is_failing)
                        && let Some(LinePermit { suppressed }) = limiter.line(clock::now())
                    {
                        tracing::info!(url = %self.url, keys = keys.len(), suppressed, "keys are fetched again");
                    }
                    self.keys.store(Arc::new(keys));
                    backoff.reset();
                    fresh
                }
                Err(error) => {
                    self.metrics.failed(error.kind);
                    let known = self.keys.load().len();
                    if !std::mem::replace(&mut is_failing, true)
                        && let Some(LinePermit { suppressed }) = limiter.line(clock::now())
                    {
                        tracing::warn!(url = %self.url, reason = error.kind.label(), %error, keys = known, suppressed,
                            "keys cannot be fetched: the last ones stay");
                    }
                    backoff.after_failure(fastrand::f64())
                }
            };
            *self.lock() = FetchState::Idle;
            self.fetches.send_modify(|fetches| *fetches += 1);
            tokio::select! {
                () = sleep(wait) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// Fetches the keys; also returns how long to wait before the next time.
    async fn fetch(&self) -> Result<(KeySet, Duration), FetchError> {
        let (headers, body) = self.get(Instant::now() + FETCH).await?;
        let keys = KeySet::from_json(&body).map_err(|error| {
            let kind = if matches!(error, KeysError::Large | KeysError::Many) {
                Fetched::TooLarge
            } else {
                Fetched::Malformed
            };
            FetchError { kind, detail: error.to_string() }
        })?;
        Ok((keys, next_fetch(&headers, fastrand::f64())))
    }

    async fn get(&self, deadline: Instant) -> Result<(HeaderMap, Bytes), FetchError> {
        let late = |_| FetchError { kind: Fetched::Timeout, detail: format!("no answer in {FETCH:?}") };
        let broken = |error: hyper::Error| FetchError { kind: Fetched::Unreachable, detail: error_chain(&error) };
        let request = Request::builder()
            .method(Method::GET)
            .uri(self.url.target.as_str())
            .header(HOST, self.url.authority())
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, "wsluice")
            .body(Empty::<Bytes>::new());
        let request = request.map_err(|error| FetchError { kind: Fetched::Malformed, detail: error.to_string() })?;
        let stream = self.connector.connect(deadline).await.map_err(|error| FetchError {
            kind: if matches!(error, ConnectError::Timeout) { Fetched::Timeout } else { Fetched::Unreachable },
            detail: error_chain(&error),
        })?;
        let answered = timeout_at(deadline, one_exchange::send(stream, request)).await;
        let (response, _connection) = answered.map_err(late)?.map_err(broken)?;
        let (head, mut body) = response.into_parts();
        if head.status != StatusCode::OK {
            let hint = if head.status.is_redirection() { " (redirects are not followed)" } else { "" };
            return Err(FetchError { kind: Fetched::Status, detail: format!("the answer is {}{hint}", head.status) });
        }
        let collected = timeout_at(deadline, one_exchange::collect(&mut body, KEYS_BYTES_MAX)).await.map_err(late)?;
        let bytes = collected.map_err(|error| match error {
            Uncollected::TooLarge => FetchError { kind: Fetched::TooLarge, detail: KeysError::Large.to_string() },
            Uncollected::Broken(error) => broken(error),
        })?;
        Ok((head.headers, bytes))
    }
}
