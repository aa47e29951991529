//! A server of HTTP/2 whose WebSockets are a [`Conn`] like those of HTTP/1.1.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::h2::{read, write};
use super::{Conn, Io, within};

/// Listens, and has a test accept its connections.
pub struct H2Server {
    url: String,
    listener: TcpListener,
    settings: server::Builder,
    tls: Option<tokio_rustls::TlsAcceptor>,
    accepted: usize,
}

/// One connection of a proxy.
pub struct H2ServerConn {
    streams: mpsc::UnboundedReceiver<H2ServerStream>,
    control: mpsc::UnboundedSender<Control>,
    driver: JoinHandle<()>,
    open: Arc<AtomicUsize>,
}

enum Control {
    /// GOAWAY, and what is there goes on.
    Goaway,
    /// GOAWAY with this code, and the end.
    Abort(Reason),
}

/// A request, which is not answered yet.
pub struct H2ServerStream {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
}

/// An open WebSocket.
pub struct H2ServerSession {
    pub conn: Conn,
    reset: Option<oneshot::Sender<Reason>>,
    ended: Arc<std::sync::Mutex<Option<Reason>>>,
}

impl H2Server {
    /// Takes WebSockets, in plain text.
    pub async fn start() -> H2Server {
        let mut settings = server::Builder::new();
        settings.enable_connect_protocol();
        H2Server::with(settings, None).await
    }

    /// Has these settings, and TLS if there is a configuration for it.
    pub async fn with(settings: server::Builder, tls: Option<Arc<rustls::ServerConfig>>) -> H2Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "wss" } else { "ws" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        H2Server { url, listener, settings, tls: tls.map(tokio_rustls::TlsAcceptor::from), accepted: 0 }
    }

    /// Returns it as an endpoint of a configuration.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Returns how many connections were accepted.
    pub fn accepted(&self) -> usize {
        self.accepted
    }

    /// Accepts the next connection without a word.
    pub async fn accept_tcp(&mut self) -> TcpStream {
        let (stream, _) = within("a connection to the server", self.listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        self.accepted += 1;
        stream
    }

    /// Accepts the next connection by TLS, whatever was negotiated.
    pub async fn accept_tls(&mut self) -> tokio_rustls::server::TlsStream<TcpStream> {
        let stream = self.accept_tcp().await;
        let accepting = self.tls.as_ref().expect("TLS").accept(stream);
        within("a TLS handshake", accepting).await.unwrap()
    }

    /// Accepts the next connection, which must be of HTTP/2.
    pub async fn accept(&mut self) -> H2ServerConn {
        if self.tls.is_some() {
            let stream = self.accept_tls().await;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            self.begin(stream).await
        } else {
            let stream = self.accept_tcp().await;
            self.begin(stream).await
        }
    }

    /// Begins HTTP/2 on a stream.
    pub async fn begin(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> H2ServerConn {
        let mut connection = within("the preface", self.settings.handshake::<_, Bytes>(stream)).await.unwrap();
        let (sender, streams) = mpsc::unbounded_channel();
        let (control, mut told) = mpsc::unbounded_channel();
        let open = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&open);
        let driver = tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    told = told.recv() => match told {
                        Some(Control::Goaway) => connection.graceful_shutdown(),
                        Some(Control::Abort(reason)) => connection.abrupt_shutdown(reason),
                        None => return,
                    },
                    stream = connection.accept() => match stream {
                        Some(Ok((request, respond))) => {
                            seen.fetch_add(1, Ordering::Relaxed);
                            let _ = sender.send(H2ServerStream { request, respond });
                        }
                        _ => return,
                    },
                }
            }
        });
        H2ServerConn { streams, control, driver, open }
    }
}

impl H2ServerConn {
    /// Returns the next request.
    #[track_caller]
    pub fn stream(&mut self) -> impl Future<Output = H2ServerStream> {
        within("a request", async { self.streams.recv().await.expect("the connection goes on") })
    }

    /// Returns the next request that asks for a WebSocket, opened.
    pub async fn open(&mut self, more: &[(&str, &str)]) -> H2ServerSession {
        self.stream().await.open(more)
    }

    /// Returns how many requests have come.
    pub fn requests(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Sends a GOAWAY: what is there goes on.
    pub fn goaway(&self) {
        self.control.send(Control::Goaway).ok().unwrap();
    }

    /// Sends a GOAWAY with a code, and ends.
    pub fn abort(&self, reason: Reason) {
        self.control.send(Control::Abort(reason)).ok().unwrap();
    }

    /// Drops the connection without a word.
    pub fn lose(&self) {
        self.driver.abort();
    }

    /// Waits until it has ended.
    pub async fn ended(self) {
        let H2ServerConn { driver, streams, control, .. } = self;
        drop(streams);
        within("the end of the connection", driver).await.unwrap();
        drop(control);
    }
}

impl H2ServerStream {
    /// Returns the field of its head, all lines.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.request.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    /// Returns the protocol of an extended CONNECT.
    pub fn protocol(&self) -> Option<&str> {
        self.request.extensions().get::<h2::ext::Protocol>().map(h2::ext::Protocol::as_str)
    }

    /// Sends the head of an answer.
    pub fn answer(&mut self, status: u16, more: &[(&str, &str)], is_whole: bool) -> SendStream<Bytes> {
        let mut response = Response::builder().status(status);
        for (name, value) in more {
            response = response.header(*name, *value);
        }
        self.respond.send_response(response.body(()).unwrap(), is_whole).unwrap()
    }

    /// Sends an answer with a body.
    pub fn respond(&mut self, status: u16, more: &[(&str, &str)], body: &str) {
        let mut stream = self.answer(status, more, false);
        stream.send_data(Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
    }

    /// Reads the request's body to its end, and its trailers.
    pub async fn body(&mut self) -> (Vec<u8>, Option<HeaderMap>) {
        let recv = self.request.body_mut();
        let mut body = vec![];
        while let Some(data) = within("the body", recv.data()).await {
            let data = data.unwrap();
            recv.flow_control().release_capacity(data.len()).unwrap();
            body.extend_from_slice(&data);
        }
        (body, within("trailers", recv.trailers()).await.unwrap())
    }

    /// Opens the WebSocket that it asks for.
    pub fn open(mut self, more: &[(&str, &str)]) -> H2ServerSession {
        assert_eq!((self.request.method(), self.protocol()), (&http::Method::CONNECT, Some("websocket")));
        let send = self.answer(200, more, false);
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (from, to) = tokio::io::split(far);
        let (reset, told) = oneshot::channel();
        let ended = Arc::default();
        tokio::spawn(write(send, from, told));
        tokio::spawn(read(self.request.into_body(), to, Arc::clone(&ended)));
        H2ServerSession { conn: Conn::server(Io::Duplex(near)), reset: Some(reset), ended }
    }
}

impl H2ServerSession {
    /// Resets the stream.
    pub fn reset(&mut self, reason: Reason) {
        self.reset.take().expect("once").send(reason).unwrap();
    }

    /// Returns with which code the proxy has reset the stream.
    pub fn ended(&self) -> Option<Reason> {
        *self.ended.lock().unwrap()
    }
}
