//! A server that returns its connections to the test and counts them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Conn, Io, within};

/// Accepts every connection at once, so that its count is exact.
#[derive(Debug)]
pub struct RawServer {
    url: String,
    address: Option<SocketAddr>,
    accepted: Arc<AtomicUsize>,
    conns: mpsc::UnboundedReceiver<Conn>,
    task: JoinHandle<()>,
}

impl RawServer {
    /// Listens on a free TCP port.
    pub async fn start() -> RawServer {
        RawServer::with(|stream| async { Some(Io::Tcp(stream)) }, "ws").await
    }

    /// Listens on a free TCP port, with TLS; failed handshakes count as connections and are never returned.
    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> RawServer {
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        let accept = move |stream| {
            let acceptor = acceptor.clone();
            async move { Some(Io::TlsServer(Box::new(acceptor.accept(stream).await.ok()?))) }
        };
        RawServer::with(accept, "wss").await
    }

    async fn with<F>(wrap: impl Fn(TcpStream) -> F + Send + 'static, scheme: &str) -> RawServer
    where
        F: Future<Output = Option<Io>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, (sender, conns)) = (Arc::new(AtomicUsize::new(0)), mpsc::unbounded_channel());
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                stream.set_nodelay(true).unwrap();
                let (wrapped, sender) = (wrap(stream), sender.clone());
                tokio::spawn(async move {
                    if let Some(io) = wrapped.await {
                        let _ = sender.send(Conn::server(io));
                    }
                });
            }
        });
        RawServer { url: format!("{scheme}://{address}"), address: Some(address), accepted, conns, task }
    }

    /// Listens on a Unix socket.
    pub fn start_unix(path: &Path) -> RawServer {
        let listener = UnixListener::bind(path).unwrap();
        let (accepted, (sender, conns)) = (Arc::new(AtomicUsize::new(0)), mpsc::unbounded_channel());
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = sender.send(Conn::server(Io::Unix(stream)));
            }
        });
        RawServer { url: format!("unix:{}", path.display()), address: None, accepted, conns, task }
    }

    /// Returns it as an endpoint of a configuration.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns its TCP address.
    pub fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    /// Returns the next connection.
    #[track_caller]
    pub fn accept(&mut self) -> impl Future<Output = Conn> {
        within("a connection to the server", async { self.conns.recv().await.unwrap() })
    }

    /// Returns the next connection, however long it takes.
    pub async fn next(&mut self) -> Option<Conn> {
        self.conns.recv().await
    }

    /// Returns how many connections were made so far, without missing any: our own, made now, arrives last.
    pub async fn connections(&mut self) -> usize {
        let own = TcpStream::connect(self.address()).await.unwrap();
        within("our own connection", async {
            let local = own.local_addr().unwrap();
            let mut kept = vec![];
            // A connection is counted before it is returned.
            while let Some(conn) = self.conns.recv().await {
                if conn.io.tcp().unwrap().peer_addr().unwrap() == local {
                    break;
                }
                kept.push(conn);
            }
        })
        .await;
        self.accepted.fetch_sub(1, Ordering::Relaxed);
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
