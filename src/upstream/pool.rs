//! Plain HTTP to an endpoint over connections that are used again: hyper-util's client, one for each worker.
//!
//! One pool a worker, so that a request never wakes another thread. A request that fails on a connection that had gone
//! stale before anything was written is sent again on another by the client itself; whether one that was not sent at all
//! goes to another endpoint is the caller's affair.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;
use tower_service::Service;

use super::connect::{ConnectError, Connector, UpstreamIo};
use crate::worker::Local;

/// How long an unused connection is kept: below the 5 s after which Node.js closes by default, so that we close first.
const IDLE: Duration = Duration::from_secs(4);
/// Unused connections kept to one endpoint by one worker.
const IDLE_MAX: usize = 32;
/// The longest response head that is read.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The body of a request to an endpoint.
pub type RequestBody = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, hyper::Error>;

/// Connections to one endpoint.
#[derive(Debug)]
pub struct Pool {
    clients: Local<Client<Dial, RequestBody>>,
}

impl Pool {
    /// No connection yet; `connector` makes them, each within `connect_timeout`.
    pub fn new(connector: Connector, connect_timeout: Duration, workers: usize) -> Pool {
        let dial = Dial { connector, timeout: connect_timeout };
        let make = || {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(IDLE_MAX)
                .http1_max_buf_size(HEAD_BYTES_MAX)
                .set_host(false)
                .build(dial.clone())
        };
        Pool { clients: Local::new(workers, make) }
    }

    /// Sends a request whose target is in absolute form (the authority only tells connections apart and is not sent)
    /// and waits for the response's head.
    ///
    /// # Errors
    /// When there was no connection (`Error::is_connect`) or it failed before the head was whole.
    pub fn send(
        &self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Error>> + use<> {
        self.clients.get().request(request)
    }
}

/// `Connector` as the service that hyper-util asks for.
#[derive(Clone, Debug)]
struct Dial {
    connector: Connector,
    timeout: Duration,
}

impl Service<Uri> for Dial {
    type Response = PooledIo;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<PooledIo, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Dial { connector, timeout } = self.clone();
        Box::pin(async move {
            let io = connector.connect(Instant::now() + timeout).await?;
            Ok(PooledIo(TokioIo::new(io)))
        })
    }
}

/// A connection in the shape that hyper-util's pool wants.
#[derive(Debug)]
struct PooledIo(TokioIo<UpstreamIo>);

impl Connection for PooledIo {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for PooledIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl Write for PooledIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, bufs)
    }
}
