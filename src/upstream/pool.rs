//! Plain HTTP to an endpoint over connections that are used again: hyper-util's client, one for each worker.
//!
//! One pool a worker, so that a request never wakes another thread. A request that fails on a connection that had gone
//! stale before anything was written is sent again on another by the client itself. Where the server closed it while the
//! request was on its way, only the caller knows whether it may go again ([`was_stale`], [`Pool::send_anew`]); whether one
//! that was not sent at all goes to another endpoint is the caller's affair, too.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tower_service::Service;

use super::connect::{ConnectError, Connector, UpstreamIo};
use crate::worker::Local;

/// How long an unused connection is kept: less than servers keep theirs, so that we close first. By default gunicorn
/// closes after 2 s, Node.js, uvicorn and Apache after 5 s, Passenger after 15 s, nginx after 75 s; others later. A new
/// connection costs a round trip; a request that meets a closing one costs that, too, or a 502 if it may not be repeated.
const IDLE: Duration = Duration::from_millis(1500);
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
    dial: Dial,
}

impl Pool {
    /// No connection yet; `connector` makes them, each within `connect_timeout`.
    pub fn new(connector: Connector, connect_timeout: Duration, workers: usize) -> Pool {
        let dial = Dial { connector, timeout: connect_timeout };
        Pool { clients: Local::new(workers, || client(&dial, IDLE_MAX)), dial }
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

    /// The same on a new connection, which is not kept: others of the pool may have been closed, too.
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

/// Whether the request failed on a connection that had served another before, and not a byte came back: mostly the server
/// has closed it as unused while the request was on its way. Whether it has read the request nobody knows, so only what may
/// be done twice may be sent again (RFC 9110 §9.2.2).
pub fn was_stale(error: &Error) -> bool {
    let mut extras = http::Extensions::new();
    if let Some(connection) = error.connect_info().filter(|_| !error.is_connect()) {
        connection.get_extras(&mut extras);
    }
    extras.get::<Use>().is_some_and(|connection| connection.0.load(Ordering::Relaxed) == ASKED_AGAIN)
}

/// What was last done on a connection.
#[derive(Clone, Debug, Default)]
struct Use(Arc<AtomicU8>);

/// Nothing has been read.
const NEW: u8 = 0;
/// Bytes of an answer were read.
const ANSWERED: u8 = 1;
/// Something was written after an answer.
const ASKED_AGAIN: u8 = 2;

impl Use {
    fn written(&self) {
        if self.0.load(Ordering::Relaxed) != NEW {
            self.0.store(ASKED_AGAIN, Ordering::Relaxed);
        }
    }
}

/// A connection of which is known what was last done on it.
#[derive(Debug)]
struct Used {
    io: UpstreamIo,
    last: Use,
}

impl AsyncRead for Used {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.last.0.store(ANSWERED, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Used {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        this.last.written();
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        this.last.written();
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
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
            Ok(PooledIo(TokioIo::new(Used { io, last: Use::default() })))
        })
    }
}

/// A connection in the shape that hyper-util's pool wants.
#[derive(Debug)]
struct PooledIo(TokioIo<Used>);

impl Connection for PooledIo {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.0.inner().last.clone())
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
