//! The demo's backends: four servers on loopback, on ports that the kernel chooses.
//!
//! Everything is bounded (connections per server here, sizes and deadlines where the protocol is spoken) and everything
//! ends with [`DemoServers`]: dropping it aborts the accepting tasks, and each of those owns the tasks of its connections.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

use super::web::Web;
use super::{DemoCounters, sockets};

/// The most connections per server: more than a load generator opens by accident, and at some 20 KB each still a small
/// process.
const CONNECTIONS_MAX: usize = 1_024;
/// The pause after a failed accept, mostly for lack of descriptors: long enough not to spin, too short to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The running backends and where they listen. Dropping it ends them and all their connections.
#[derive(Debug)]
pub struct DemoServers {
    /// Sends back what it gets; obeys `close CODE REASON`.
    pub echo: SocketAddr,
    /// Sends the time each second.
    pub clock: SocketAddr,
    /// Pings, and reports the round trip.
    pub heartbeat: SocketAddr,
    /// The page, `/stats` and `/events`.
    pub web: SocketAddr,
    _tasks: [AbortOnDrop; 4],
}

/// Starts the backends on the current runtime. `counters` is asked once a second for each page that is open.
///
/// # Errors
/// When loopback has no port left.
///
/// # Panics
/// Outside a tokio runtime.
pub fn start(counters: impl Fn() -> DemoCounters + Send + Sync + 'static) -> io::Result<DemoServers> {
    let web = Arc::new(Web::new(counters));
    let (echo, echo_task) = serve("echo", sockets::echo)?;
    let (clock, clock_task) = serve("clock", sockets::clock)?;
    let (heartbeat, heartbeat_task) = serve("heartbeat", sockets::heartbeat)?;
    let (web, web_task) = serve("web", move |stream| Arc::clone(&web).serve(stream))?;
    Ok(DemoServers { echo, clock, heartbeat, web, _tasks: [echo_task, clock_task, heartbeat_task, web_task] })
}

/// Ends a task when dropped.
#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn serve<F, E>(
    name: &'static str,
    connection: impl Fn(TcpStream) -> F + Send + 'static,
) -> io::Result<(SocketAddr, AbortOnDrop)>
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: std::error::Error + 'static,
{
    // Bound the synchronous way, so that the demo's start need not be async.
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = TcpListener::from_std(listener)?;
    let task = tokio::spawn(accept(name, listener, connection));
    Ok((address, AbortOnDrop(task.abort_handle())))
}

/// Accepts for ever. At the limit it stops accepting until a connection ends; the rest wait in the kernel's queue.
async fn accept<F, E>(name: &'static str, listener: TcpListener, connection: impl Fn(TcpStream) -> F)
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: std::error::Error + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    let connection = connection(stream);
                    connections.spawn(async move {
                        if let Err(error) = connection.await {
                            debug!(server = name, %error, "demo connection ended");
                        }
                    });
                }
                Err(error) => {
                    debug!(server = name, %error, "demo server cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed step is the test's failure
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    use tokio_tungstenite::tungstenite::protocol::Message;
    use tokio_tungstenite::{WebSocketStream, client_async};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    async fn within<T>(work: impl Future<Output = T>) -> T {
        tokio::time::timeout(DEADLINE, work).await.expect("in time")
    }

    fn started() -> DemoServers {
        start(|| DemoCounters { sessions: 7, closes: [("1000".to_owned(), 3)].into(), ..DemoCounters::default() })
            .unwrap()
    }

    async fn connect(address: SocketAddr) -> WebSocketStream<TcpStream> {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut request = format!("ws://{address}/").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "nothing, chat".parse().unwrap());
        let (socket, response) = client_async(request, stream).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        socket
    }

    /// One request over a connection of its own; reads until `end` says that enough has come.
    async fn exchange(address: SocketAddr, request: &str, end: impl Fn(&str) -> bool) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut answer, mut chunk) = (String::new(), [0; 4096]);
        while !end(&answer) {
            let count = stream.read(&mut chunk).await.unwrap();
            answer.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
            if count == 0 {
                break;
            }
        }
        answer
    }

    #[tokio::test]
    async fn echo_sends_back_what_it_gets_and_closes_as_it_is_told() {
        let servers = started();
        within(async {
            let mut socket = connect(servers.echo).await;
            for message in [Message::text("grüße"), Message::binary(vec![0, 255, 7]), Message::text("")] {
                socket.send(message.clone()).await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap(), message);
            }
            socket.send(Message::text("close 1006")).await.unwrap();
            assert!(socket.next().await.unwrap().unwrap().into_text().unwrap().starts_with("usage: close"));
            socket.send(Message::text("close 4001 some reason")).await.unwrap();
            let Message::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else { panic!("no Close") };
            assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4001, "some reason"));
            assert!(socket.next().await.is_none());
        })
        .await;
    }

    #[tokio::test]
    async fn clock_speaks_first_and_heartbeat_reports_the_pong() {
        let servers = started();
        within(async {
            let first = connect(servers.clock).await.next().await.unwrap().unwrap().into_text().unwrap();
            assert_eq!(serde_json::from_str::<serde_json::Value>(&first).unwrap()["tick"], 0);
            let mut socket = connect(servers.heartbeat).await;
            assert!(matches!(socket.next().await.unwrap().unwrap(), Message::Ping(_)));
            let report = socket.next().await.unwrap().unwrap().into_text().unwrap();
            assert_eq!(serde_json::from_str::<serde_json::Value>(&report).unwrap()["missed"], 0);
        })
        .await;
    }

    #[tokio::test]
    async fn the_web_server_gives_page_counters_and_events() {
        let servers = started();
        within(async {
            let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n");
            let page = exchange(servers.web, &get("/"), |_| false).await;
            assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("id=\"open\""), "{page}");
            assert!(page.contains("content-security-policy: default-src 'none'"), "{page}");
            let stats = exchange(servers.web, &get("/stats"), |_| false).await;
            assert!(stats.contains(r#""sessions":7"#) && stats.contains(r#""closes":{"1000":3}"#), "{stats}");
            let twice = |text: &str| text.matches("data: {").count() >= 2;
            let events = exchange(servers.web, &get("/events"), twice).await;
            assert!(events.contains("content-type: text/event-stream"), "{events}");
            assert!(exchange(servers.web, &get("/nothing"), |_| false).await.starts_with("HTTP/1.1 404"));
        })
        .await;
    }

    #[tokio::test]
    async fn dropping_the_servers_ends_their_connections() {
        let servers = started();
        within(async {
            let mut socket = connect(servers.clock).await;
            let (echo, clock) = (servers.echo, servers.clock);
            drop(servers);
            while let Some(Ok(_)) = socket.next().await {}
            for address in [echo, clock] {
                // The aborted task's listener goes with it, at its next turn.
                while TcpStream::connect(address).await.is_ok() {
                    tokio::task::yield_now().await;
                }
            }
        })
        .await;
    }
}
