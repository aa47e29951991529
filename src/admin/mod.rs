//! The operator's door: `/metrics`, `/livez`, `/readyz`, and the API below `/api/v1/`, on a listener of its own.
//!
//! Apart from the data plane so that it answers when that is busy; the caller gives it a thread of its own, since a
//! scrape of many routes takes milliseconds that no session should wait for. It only reads, and passes orders on (`desk`).
//! Metrics and health are for whoever can connect, the API is for those whom `access` lets in. What it costs is bounded:
//! connections, the time of each, and the time and size of a request.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::net::listener::{AcceptPause, Acceptor};
use crate::net::stream::Stream;
use crate::telemetry::exposition;

pub mod access;
pub mod api;
pub mod call;
pub mod desk;
pub mod filter;
pub mod health;
pub mod process;
pub mod roll;

use access::Who;
use api::Api;
use health::{Readiness, State};

/// Connections at a time; further ones wait in the backlog. A scraper or two, a probe, a person.
const CONNECTIONS_MAX: usize = 64;
/// For sending a request, and for the next one on a kept connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection's whole life; who wants more opens another. Bounds the time of a client that does not read.
const LIFETIME: Duration = Duration::from_secs(60);
/// For the answer that is under way when a connection is told to end.
const GRACE: Duration = Duration::from_secs(1);

const INDEX: &str = "<!doctype html><title>wsluice</title><h1>wsluice</h1>\n\
    <ul>\n<li><a href=\"metrics\">metrics</a>: for Prometheus\n<li><a href=\"livez\">livez</a>: the process answers\n\
    <li><a href=\"readyz\">readyz</a>: new sessions are welcome\n<li><a href=\"api/v1/status\">api/v1</a>: for operators\n\
    </ul>\n";

/// What it shows.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// All metrics of the process.
    pub registry: Registry,
    /// Whether new sessions are welcome.
    pub readiness: Readiness,
    /// What can be asked and ordered besides.
    pub api: Option<Arc<Api>>,
}

/// Answers on what `acceptor` accepts until `shutdown` comes, then lets the answers under way end (a second at most).
///
/// Dropping it closes the connections at once.
pub async fn serve(mut acceptor: Acceptor, state: AdminState, shutdown: impl Future<Output = ()>) {
    let (stop, stopped) = watch::channel(());
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let begin = |connections: &mut JoinSet<()>, io: Stream, who, slot| {
        let (state, stopped) = (state.clone(), stopped.clone());
        connections.spawn(async move {
            connection(io, who, state, stopped, HEADER_TIMEOUT).await;
            drop(slot);
        });
    };
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&mut acceptor, &slots) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((io, who, slot)) => begin(&mut connections, io, who, slot),
            // The next call waits; the same again is not worth a line.
            Err(pause) if pause.is_news => warn!(error = %pause.source, "{pause}"),
            Err(_) => {}
        }
    }
    // Those that wait would be reset with the socket.
    for (io, peer) in acceptor.into_waiting().take(CONNECTIONS_MAX) {
        let who = Who::of(&io, peer);
        begin(&mut connections, io, who, None);
    }
    let _ = stop.send(());
    while connections.join_next().await.is_some() {}
}

/// Waits for a free slot, then for a connection. Cancel-safe: both waits are.
async fn accept(
    acceptor: &mut Acceptor,
    slots: &Arc<Semaphore>,
) -> Result<(Stream, Who, Option<OwnedSemaphorePermit>), AcceptPause> {
    // Never closed, so never an error.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    let (stream, peer) = acceptor.accept().await?;
    let who = Who::of(&stream, peer);
    Ok((stream, who, slot))
}

async fn connection(
    io: impl AsyncRead + AsyncWrite + Unpin,
    who: Who,
    state: AdminState,
    mut stopped: watch::Receiver<()>,
    for_head: Duration,
) {
    let requested = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        let state = &state;
        requested.store(true, Ordering::Relaxed);
        async move {
            Ok::<_, Infallible>(match &state.api {
                Some(api) if request.uri().path().starts_with(call::ROOT) => api.answer(who, request).await,
                _ => answer(state, &request),
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(for_head)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = until_told_to_end(&mut stopped) => {
            // hyper would end one without a request at once, and its first may be on its way.
            let first = poll_fn(|cx| match connection.as_mut().poll(cx) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending if requested.load(Ordering::Relaxed) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if let Ok(Some(ended)) = tokio::time::timeout(GRACE, first).await {
                ended
            } else {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(GRACE, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return debug!("an admin client did not read its answer in time"),
                }
            }
        }
    };
    if let Err(error) = ended {
        debug!(error = &error as &(dyn std::error::Error + 'static), "an admin connection failed");
    }
}

async fn until_told_to_end(stopped: &mut watch::Receiver<()>) {
    let _ = tokio::time::timeout(LIFETIME, stopped.changed()).await;
}

fn answer<B>(state: &AdminState, request: &Request<B>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(path, "/" | "/metrics" | "/livez" | "/readyz") {
        return text(StatusCode::NOT_FOUND, "not found; there are /metrics, /livez, /readyz and /api/v1/status\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match state.readiness.state() {
            State::Ready => text(StatusCode::OK, "ok\n"),
            State::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            State::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        },
        "/metrics" => match exposition::encode(&state.registry) {
            Ok(metrics) => respond(StatusCode::OK, exposition::CONTENT_TYPE, metrics),
            Err(error) => {
                warn!(error = &error as &(dyn std::error::Error + 'static), "the metrics cannot be written");
                text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written; see the log\n")
            }
        },
        _ => respond(StatusCode::OK, "text/html; charset=utf-8", INDEX),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body)
}

/// An answer of its moment: no cache may keep it.
fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::net::SocketAddr;

    use prometheus::IntCounter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixStream};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::net::listener::{Address, bind};

    struct Running {
        addr: SocketAddr,
        readiness: Readiness,
        stop: oneshot::Sender<()>,
        task: JoinHandle<()>,
    }

    fn state() -> AdminState {
        let state = AdminState { registry: Registry::new(), readiness: Readiness::new(), api: None };
        state.registry.register(Box::new(IntCounter::new("seen_total", "Seen.").unwrap())).unwrap();
        state
    }

    async fn start() -> Running {
        let bound = bind(&"127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let addr = bound.address().tcp().unwrap();
        let acceptor = bound.for_worker(0).unwrap();
        let state = state();
        let readiness = state.readiness.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        Running { addr, readiness, stop, task: tokio::spawn(serve(acceptor, state, shutdown)) }
    }

    async fn ask(io: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
        let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        io.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        answer
    }

    impl Running {
        async fn ask(&self, request: &str) -> String {
            ask(&mut TcpStream::connect(self.addr).await.unwrap(), request).await
        }
    }

    #[tokio::test]
    async fn metrics_come_in_the_text_format() {
        let admin = start().await;
        let answer = admin.ask("GET /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
        assert!(answer.ends_with("# HELP seen_total Seen.\n# TYPE seen_total counter\nseen_total 0\n"), "{answer}");
        let head = admin.ask("HEAD /metrics?anything").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[tokio::test]
    async fn ready_only_between_start_and_drain_and_alive_all_along() {
        let admin = start().await;
        for (state, status, body) in [
            (State::Starting, "503", "starting\n"),
            (State::Ready, "200", "ok\n"),
            (State::Draining, "503", "draining\n"),
        ] {
            admin.readiness.advance(state);
            let answer = admin.ask("GET /readyz").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with(body), "{answer}");
            assert!(admin.ask("GET /livez").await.starts_with("HTTP/1.1 200 "));
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused_in_the_proper_words() {
        let admin = start().await;
        assert!(admin.ask("GET /").await.contains("<a href=\"readyz\">"));
        assert!(admin.ask("GET /admin").await.starts_with("HTTP/1.1 404 "));
        let answer = admin.ask("POST /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn a_unix_socket_serves_as_well() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("admin.sock");
        let bound = bind(&Address::Unix(path.clone()), 1).unwrap();
        let acceptor = bound.for_worker(0).unwrap();
        let admin = tokio::spawn(serve(acceptor, state(), std::future::pending()));
        let answer = ask(&mut UnixStream::connect(&path).await.unwrap(), "GET /livez").await;
        assert!(answer.starts_with("HTTP/1.1 200 "));
        admin.abort();
    }

    #[tokio::test]
    async fn the_end_closes_kept_connections_and_the_listener() {
        let admin = start().await;
        let mut kept = TcpStream::connect(admin.addr).await.unwrap();
        kept.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut byte = [0; 1];
        kept.read_exact(&mut byte).await.unwrap();
        admin.stop.send(()).unwrap();
        admin.task.await.unwrap();
        let mut rest = String::new();
        kept.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with("\r\n\r\nok\n"));
        assert!(TcpStream::connect(admin.addr).await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_sends_no_request_is_sent_away() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (_stop, stopped) = watch::channel(());
        theirs.write_all(b"GET /metrics HT").await.unwrap();
        let served = connection(ours, Who::Unix { uid: None, pid: None }, state(), stopped, Duration::from_millis(20));
        tokio::time::timeout(LIFETIME / 2, served).await.expect("not only at the end of its life");
    }

    #[tokio::test]
    async fn more_clients_than_there_are_slots_wait_for_their_turn() {
        let admin = start().await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut client = TcpStream::connect(admin.addr).await.unwrap();
            client.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            client.read_exact(&mut [0; 1]).await.unwrap();
            idle.push(client);
        }
        let mut late = TcpStream::connect(admin.addr).await.unwrap();
        late.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), late.read_exact(&mut [0; 1])).await;
        assert!(early.is_err(), "all slots are taken");
        idle.pop();
        late.read_exact(&mut [0; 1]).await.unwrap();
    }
}
