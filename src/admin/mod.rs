//! The admin server: `/metrics`, `/livez`, `/readyz`, and the API below `/api/v1/`, on its own listener.
//!
//! It is separate from the data plane so that it answers when that is busy. The caller gives it its own thread, since a
//! scrape of many routes takes milliseconds that no session should wait for. It only reads, and passes requests on
//! (`backend`). Health is open to any client, metrics to any client that uses one of our host names, the API to clients that
//! `access` allows. Its cost is bounded: the connections, the time of each, and the time and size of a request.
//!
//! `/livez` must always answer: a connection that only waits gives way to a new one (`connections`), metrics are written on
//! another thread (`scrape`), the API may use only a part of the connections, and some descriptors are reserved that
//! clients of the proxy cannot take (`net::descriptors`).

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

use crate::base::clock;
use crate::net::listener::{AcceptPauseReason, Acceptor};
use crate::net::stream::{PeerAddr, Stream};
use crate::telemetry::exposition;

pub mod access;
pub mod api;
pub mod call;
pub mod backend;
pub mod filter;
pub mod health;
pub mod names;
pub mod process;
pub mod session_list;
pub mod scrape;
pub mod connections;

use access::{Access, Caller, Denied};
use api::Api;
use connections::{AdminConnection, AdminConnections, WatchedRequestBody, WatchedStream};
use health::{Lifecycle, Readiness};
use scrape::{NoText, Scrapes};

/// The most connections; beyond that, idle ones give way. Enough for a scraper or two, a probe, a person.
const CONNECTIONS_MAX: usize = 64;
/// The most API requests at a time. Together with waiting scrapes they are fewer than the connections, so that one can
/// always give way.
const API_MAX: usize = 32;
/// The time to send a request, and to wait for the next one on a kept connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take nothing of its response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest life of a connection.
const LIFETIME: Duration = Duration::from_secs(60);
/// The time to finish a response when a connection is told to end.
const GRACE: Duration = Duration::from_secs(1);
/// The same while the response is still being made: that of an upgrade tells what became of all sessions.
const MAKING: Duration = Duration::from_secs(30);

const INDEX: &str = "<!doctype html><title>wsluice</title><h1>wsluice</h1>\n\
    <ul>\n<li><a href=\"metrics\">metrics</a>: for Prometheus\n<li><a href=\"livez\">livez</a>: the process answers\n\
    <li><a href=\"readyz\">readyz</a>: new sessions are welcome\n<li><a href=\"api/v1/status\">api/v1</a>: for operators\n\
    </ul>\n";

/// What the admin server shows.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// All metrics of the process.
    pub registry: Registry,
    /// Whether new sessions are accepted.
    pub readiness: Readiness,
    /// The API, if there is one.
    pub api: Option<Arc<Api>>,
    /// Its own metrics.
    pub metrics: connections::Metrics,
}

/// The admin server: what it shows, and its limits.
#[derive(Debug)]
struct AdminServer {
    state: AdminState,
    scrapes: Scrapes,
    api_turns: Semaphore,
    head_timeout: Duration,
    answer_timeout: Duration,
}

impl AdminServer {
    fn new(state: AdminState) -> AdminServer {
        let (scrapes, api_turns) = (Scrapes::new(state.registry.clone()), Semaphore::new(API_MAX));
        AdminServer { state, scrapes, api_turns, head_timeout: HEADER_TIMEOUT, answer_timeout: ANSWER_TIMEOUT }
    }
}

/// Serves connections of `acceptor` until `shutdown`, then lets responses under way finish (a second at most).
///
/// Dropping the future closes the connections at once.
pub async fn serve(acceptor: Acceptor, state: AdminState, shutdown: impl Future<Output = ()>) {
    let mut acceptor = acceptor.for_admin();
    let (stop, stopped) = watch::channel(());
    let mut connections = AdminConnections::new(CONNECTIONS_MAX, state.metrics.clone());
    let server = Arc::new(AdminServer::new(state));
    let mut shutdown = pin!(shutdown);
    let begin = |connections: &mut AdminConnections, (io, peer): (Stream, PeerAddr)| {
        let caller = Caller::of(&io, peer);
        let client = Arc::new(AdminConnection::new(clock::now()));
        connections.enter(Arc::clone(&client), connection(io, caller, client, Arc::clone(&server), stopped.clone()));
    };
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = acceptor.accept() => accepted,
            Some(_) = connections.next_ended() => continue,
        };
        match accepted {
            Ok(accepted) => {
                connections.make_room().await;
                begin(&mut connections, accepted);
            }
            // The reserved descriptors are in use too: by this server itself.
            Err(pause) if pause.reason == AcceptPauseReason::Descriptors && connections.give_way().await => {
                acceptor.try_again();
            }
            // The next call waits; a repeated error is not logged.
            Err(pause) if pause.is_news => warn!(error = %pause.source, "{pause}"),
            Err(_) => {}
        }
    }
    // Connections that wait would be reset with the socket.
    for accepted in acceptor.into_waiting().take(CONNECTIONS_MAX) {
        begin(&mut connections, accepted);
    }
    let _ = stop.send(());
    while connections.next_ended().await.is_some() {}
}

async fn connection(
    io: impl AsyncRead + AsyncWrite + Unpin,
    caller: Caller,
    client: Arc<AdminConnection>,
    server: Arc<AdminServer>,
    mut stopped: watch::Receiver<()>,
) {
    let (requested, making) = (AtomicBool::new(false), AtomicBool::new(false));
    let service = service_fn(|request: Request<Incoming>| {
        let (server, client, making) = (&server, &client, &making);
        requested.store(true, Ordering::Relaxed);
        making.store(true, Ordering::Relaxed);
        async move {
            let request = request.map(|body| WatchedRequestBody::new(body, Arc::clone(client)));
            let answer = answer(server, caller, request).await;
            making.store(false, Ordering::Relaxed);
            client.response_ready(clock::now());
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(server.head_timeout)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(WatchedStream::new(io, Arc::clone(&client))), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = client.stalled(server.answer_timeout) => {
            server.state.metrics.unread();
            return debug!("an admin client did not read its response");
        }
        () = until_told_to_end(&mut stopped) => {
            // hyper would close a connection without a request at once, but its first may be on its way.
            let first = poll_fn(|cx| match connection.as_mut().poll(cx) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending if requested.load(Ordering::Relaxed) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if let Ok(Some(ended)) = tokio::time::timeout(GRACE, first).await {
                ended
            } else {
                connection.as_mut().graceful_shutdown();
                let patience = if making.load(Ordering::Relaxed) { MAKING } else { GRACE };
                match tokio::time::timeout(patience, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return debug!("an admin client did not read its response in time"),
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

/// Answers a request. Only the API reads its body.
async fn answer<B>(server: &AdminServer, caller: Caller, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let state = &server.state;
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if path.starts_with(call::ROOT)
        && let Some(api) = &state.api
    {
        return match server.api_turns.try_acquire() {
            Ok(_turn) => api.answer(caller, Request::from_parts(parts, body)).await,
            Err(_) => busy("too many requests at once, try again\n"),
        };
    }
    if !matches!(path, "/" | "/metrics" | "/livez" | "/readyz") {
        return text(StatusCode::NOT_FOUND, "not found; there are /metrics, /livez, /readyz and /api/v1/status\n");
    }
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match state.readiness.state() {
            Lifecycle::Ready => text(StatusCode::OK, "ok\n"),
            Lifecycle::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            Lifecycle::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        },
        "/metrics" => {
            let is_known = match &state.api {
                Some(api) => api.access().knows(caller, &parts),
                None => Access::default().knows(caller, &parts),
            };
            if !is_known {
                return respond(StatusCode::FORBIDDEN, "text/plain; charset=utf-8", format!("{}\n", Denied::Host));
            }
            match server.scrapes.text().await {
                Ok(metrics) => respond(StatusCode::OK, exposition::CONTENT_TYPE, metrics),
                Err(NoText::Crowded) => busy("too many scrapes at once, try again\n"),
                Err(error) => {
                    warn!(error = &error as &(dyn std::error::Error + 'static), "no metrics");
                    text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written; see the log\n")
                }
            }
        }
        _ => respond(StatusCode::OK, "text/html; charset=utf-8", INDEX),
    }
}

fn busy(why: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, why);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body)
}

/// Builds a response that no cache may keep.
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
        let registry = Registry::new();
        let metrics = connections::Metrics::register(&registry).unwrap();
        let state = AdminState { registry, readiness: Readiness::new(), api: None, metrics };
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
        assert!(answer.contains("# HELP seen_total Seen.\n# TYPE seen_total counter\nseen_total 0\n"), "{answer}");
        let head = admin.ask("HEAD /metrics?anything").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[tokio::test]
    async fn ready_only_between_start_and_drain_and_alive_all_along() {
        let admin = start().await;
        for (state, status, body) in [
            (Lifecycle::Starting, "503", "starting\n"),
            (Lifecycle::Ready, "200", "ok\n"),
            (Lifecycle::Draining, "503", "draining\n"),
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

    /// Serves a connection with short timeouts until it ends.
    async fn served(io: impl AsyncRead + AsyncWrite + Unpin, state: AdminState) {
        let times = Duration::from_millis(20);
        let server = AdminServer { head_timeout: times, answer_timeout: times, ..AdminServer::new(state) };
        let (_stop, stopped) = watch::channel(());
        let client = Arc::new(AdminConnection::new(clock::now()));
        let served = connection(io, Caller::Unix { uid: None, pid: None }, client, Arc::new(server), stopped);
        tokio::time::timeout(LIFETIME / 2, served).await.expect("not only at the end of its life");
    }

    #[tokio::test]
    async fn a_client_that_sends_no_request_is_sent_away() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(b"GET /metrics HT").await.unwrap();
        served(ours, state()).await;
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_its_answer_is_sent_away() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let state = state();
        let registry = state.registry.clone();
        served(ours, state).await;
        let metrics = exposition::encode(&registry).unwrap();
        let dropped = r#"wsluice_admin_connections_dropped_total{reason="unread"} 1"#;
        assert!(metrics.contains(dropped), "{metrics}");
        drop(theirs);
    }

    /// Opens more connections than the limit; each sends this and then nothing.
    async fn crowd(addr: SocketAddr, sent: &str) -> Vec<TcpStream> {
        let mut crowd = vec![];
        for _ in 0..CONNECTIONS_MAX + 36 {
            let mut client = TcpStream::connect(addr).await.unwrap();
            // It may have had to give way already.
            let _ = client.write_all(sent.as_bytes()).await;
            crowd.push(client);
        }
        crowd
    }

    #[tokio::test]
    async fn whoever_comes_is_answered_however_many_are_waited_for() {
        let admin = start().await;
        for sent in [
            "",
            "GET /metrics HTTP/1.1\r\nHost: loc",
            "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "POST /api/v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
        ] {
            let _crowd = crowd(admin.addr, sent).await;
            for path in ["/livez", "/readyz"] {
                let answer = admin.ask(&format!("GET {path}")).await;
                assert!(answer.starts_with("HTTP/1.1 "), "{sent:?} {path}: {answer}");
            }
        }
        let metrics = admin.ask("GET /metrics").await;
        assert!(!metrics.contains(r#"{reason="crowded"} 0"#), "{metrics}");
    }

    #[tokio::test]
    async fn metrics_are_for_those_who_ask_by_an_address_or_a_name_of_this_machine() {
        let admin = start().await;
        for (fields, status) in [
            ("Host: 127.0.0.1:9902", "200"),
            ("Host: localhost", "200"),
            ("Host: evil.example.com", "403"),
            ("Host: evil.example.com:9902", "403"),
            ("Host: localhost\r\nHost: evil.example.com", "400"),
            ("X-Host: localhost", "403"),
        ] {
            let mut io = TcpStream::connect(admin.addr).await.unwrap();
            let head = format!("GET /metrics HTTP/1.1\r\n{fields}\r\nConnection: close\r\n\r\n");
            io.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            io.read_to_string(&mut answer).await.unwrap();
            let is = answer.split(' ').nth(1).unwrap_or_default();
            // Which error two Hosts are is not the point.
            assert!(is == status || (status == "400" && is == "403"), "{fields}: {answer}");
            assert_eq!(answer.contains("seen_total"), status == "200");
        }
        let evil = "GET /livez HTTP/1.1\r\nHost: evil.example.com\r\nConnection: close\r\n\r\n";
        let mut io = TcpStream::connect(admin.addr).await.unwrap();
        io.write_all(evil.as_bytes()).await.unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "health is for whoever can connect: {answer}");
    }
}
