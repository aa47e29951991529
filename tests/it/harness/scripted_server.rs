//! A server whose behavior a test sets for each connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Head, accept_for};

/// How the server treats a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    /// Upgrades, echoes, answers pings; other requests are answered with 200 and `well`.
    Well,
    /// Accepts and sends nothing.
    Silent,
    /// Closes after the request.
    Rude,
    /// Answers 101 with a wrong accept value.
    False,
    /// Upgrades and never reads a frame.
    Deaf,
    /// Upgrades and closes the connection without a Close frame.
    Fleeting,
    /// Answers everything with 503 and `busy`.
    Busy,
}

/// The server. Dropping it closes its port and resets its connections, as a kill does.
#[derive(Debug)]
pub struct ScriptedServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    behavior: Mutex<Behavior>,
    sessions: AtomicUsize,
    probes: AtomicUsize,
}

impl ScriptedServer {
    pub async fn start(behavior: Behavior) -> ScriptedServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared =
            Shared { behavior: Mutex::new(behavior), sessions: AtomicUsize::new(0), probes: AtomicUsize::new(0) };
        let shared = Arc::new(shared);
        let task = Some(tokio::spawn(serve(listener, Arc::clone(&shared))));
        ScriptedServer { address, shared, task }
    }

    pub async fn start_many<const N: usize>(behavior: Behavior) -> [ScriptedServer; N] {
        let mut all = vec![];
        for _ in 0..N {
            all.push(ScriptedServer::start(behavior).await);
        }
        all.try_into().unwrap()
    }

    /// Returns its URL for a configuration.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Sets the behavior from the next connection on.
    pub fn set_behavior(&self, behavior: Behavior) {
        *self.shared.behavior.lock().unwrap() = behavior;
    }

    /// Returns the number of requests that were not probes.
    pub fn sessions(&self) -> usize {
        self.shared.sessions.load(Ordering::SeqCst)
    }

    /// Returns the number of probes.
    pub fn probes(&self) -> usize {
        self.shared.probes.load(Ordering::SeqCst)
    }

    /// Closes the port and all connections, as `kill -9` does.
    pub async fn kill(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    /// Listens on the same port again.
    pub async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.task = Some(tokio::spawn(serve(listener, Arc::clone(&self.shared))));
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Its connections go with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let _ = connection(stream, &shared).await;
        });
    }
}

async fn connection(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = Head::parse(&head);
    let is_probe = head.get("user-agent") == Some("wsluice-probe");
    let count = if is_probe { &shared.probes } else { &shared.sessions };
    count.fetch_add(1, Ordering::SeqCst);
    let behavior = *shared.behavior.lock().unwrap();
    let key = head.get("sec-websocket-key");
    let accept = match (behavior, key) {
        (Behavior::Silent, _) => return std::future::pending().await,
        (Behavior::Rude, _) => return Ok(()),
        (Behavior::Busy, _) => {
            return stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy").await;
        }
        (_, None) => {
            return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwell").await;
        }
        (Behavior::False, _) => "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned(),
        (_, Some(key)) => accept_for(key),
    };
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
    stream.write_all(format!("{answer}{accept}\r\n\r\n").as_bytes()).await?;
    match behavior {
        Behavior::Fleeting => Ok(()),
        Behavior::Deaf | Behavior::False => std::future::pending().await,
        _ => {
            let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            while let Some(Ok(message)) = socket.next().await {
                if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                    break;
                }
            }
            Ok(())
        }
    }
}
