//! Plain HTTP to an endpoint over reused connections: hyper-util's client, one for each worker.
//!
//! Each worker has its own pool, so that a request never wakes another thread. If a connection went stale before the
//! request was written, the client itself sends it again on another. If the server closed it while the request was on
//! its way, only the caller knows whether it may be sent again ([`was_stale`], [`Pool::send_anew`]); the caller also
//! decides whether an unsent request goes to another endpoint.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, sleep};
use tower_service::Service;

use super::connect::{ConnectError, Connector, UpstreamIo};
use super::pooled::{PooledConnection, PooledIo};
use super::request_body::RequestBody;
use crate::base::worker::PerWorker;

/// How long an unused connection is kept: less than servers keep theirs, so that the proxy closes first. By default
/// gunicorn closes after 2 s, Node.js, uvicorn and Apache after 5 s, Passenger after 15 s, nginx after 75 s; others
/// later. A new connection costs a round trip; a request that meets a closing one costs that too, or a 502 if it may
/// not be repeated.
const IDLE: Duration = Duration::from_millis(1500);
/// The most unused connections that one worker keeps to an endpoint.
const IDLE_MAX: usize = 32;
/// Tells connections of a pool apart from nobody else's; never sent.
const AUTHORITY: &str = "endpoint";
/// The longest response head that is read.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Connections to one endpoint.
#[derive(Debug)]
pub struct Pool {
    clients: PerWorker<Client<Dial, RequestBody>>,
    dial: Dial,
}

impl Pool {
    /// Creates an empty pool; `connector` makes its connections, each within `connect_timeout`.
    pub fn new(connector: Connector, connect_timeout: Duration, workers: usize) -> Pool {
        let spare = Arc::new(PerWorker::new(workers, Mutex::default));
        let dial = Dial { connector, timeout: connect_timeout, spare };
        Pool { clients: PerWorker::new(workers, || client(&dial, IDLE_MAX)), dial }
    }

    /// Returns the limit for making a connection.
    pub fn connect_timeout(&self) -> Duration {
        self.dial.timeout
    }

    /// Gives it a connection that has just been made, for the request that comes next on this worker.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn give(&self, io: UpstreamIo) {
        self.dial.spare(Some(io));
        // A connection of the pool may serve the request instead.
        let dial = self.dial.clone();
        tokio::spawn(async move {
            sleep(IDLE).await;
            dial.spare(None);
        });
    }

    /// Sends a request with a URI of [`uri`] and waits for the response's head.
    ///
    /// # Errors
    /// Fails if there was no connection (`Error::is_connect`), or if it failed before the head was complete.
    pub fn send(
        &self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Error>> + use<> {
        self.clients.get().request(request)
    }

    /// Does the same on a new connection, which is not kept: others of the pool may be closed, too.
    ///
    /// # Errors
    /// See [`Pool::send`].
    pub fn send_anew(
        &self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Error>> + use<> {
        client(&self.dial, 0).request(request)
    }
}

fn client(dial: &Dial, idle_max: usize) -> Client<Dial, RequestBody> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(idle_max)
        .http1_max_buf_size(HEAD_BYTES_MAX)
        .set_host(false)
        .build(dial.clone())
}

/// Returns the URI of a request that a pool sends to this target in origin form.
///
/// # Errors
/// If it is none.
pub fn uri(target: String) -> Result<Uri, http::Error> {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(Authority::from_static(AUTHORITY));
    uri.path_and_query = Some(PathAndQuery::try_from(target)?);
    Ok(Uri::from_parts(uri)?)
}

/// Returns true if the request failed on a reused connection before any byte came back: mostly the server closed it as
/// unused while the request was on its way. The server may have read the request, so only an idempotent one may be sent
/// again (RFC 9110 §9.2.2).
pub fn was_stale(error: &Error) -> bool {
    error.connect_info().filter(|_| !error.is_connect()).and_then(PooledConnection::of).is_some_and(|it| it.was_stale())
}

/// `Connector` as the service that hyper-util needs.
#[derive(Clone, Debug)]
struct Dial {
    connector: Connector,
    timeout: Duration,
    /// A connection that was made otherwise, on each worker.
    spare: Arc<PerWorker<Mutex<Option<UpstreamIo>>>>,
}

impl Dial {
    /// Puts a connection aside, or nothing, and returns the one that was there.
    fn spare(&self, io: Option<UpstreamIo>) -> Option<UpstreamIo> {
        std::mem::replace(&mut *self.spare.get().lock().unwrap_or_else(PoisonError::into_inner), io)
    }
}

impl Service<Uri> for Dial {
    type Response = PooledIo;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<PooledIo, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Dial { connector, timeout, .. } = self.clone();
        let spare = self.spare(None);
        Box::pin(async move {
            let io = match spare {
                Some(io) => io,
                None => connector.connect(Instant::now() + timeout).await?,
            };
            Ok(PooledIo::new(io))
        })
    }
}
