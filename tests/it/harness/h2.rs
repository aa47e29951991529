//! A client of HTTP/2 whose WebSockets are a [`Conn`] like those of HTTP/1.1.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wsluice::net::listener::Address;

use super::{Conn, Io, within};

/// A connection.
pub struct H2Client {
    pub send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
    scheme: &'static str,
}

/// An open WebSocket.
pub struct H2Session {
    pub conn: Conn,
    pub head: http::response::Parts,
    reset: Option<oneshot::Sender<Reason>>,
    ended: Arc<Mutex<Option<Reason>>>,
}

impl H2Client {
    /// Connects with prior knowledge.
    pub async fn connect(to: &Address) -> H2Client {
        let Address::Tcp(address) = to else { panic!("TCP alone") };
        let stream = within("connect", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        H2Client::over(stream, "http").await
    }

    /// Connects by TLS, and has HTTP/2 negotiated.
    pub async fn connect_tls(to: &Address, name: &str, config: &Arc<ClientConfig>) -> H2Client {
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let conn = Conn::connect_tls(to, name, Arc::new(config)).await.unwrap();
        let Io::TlsClient(stream) = conn.io else { panic!("TLS was asked for") };
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        H2Client::over(*stream, "https").await
    }

    /// Begins on a stream.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, scheme: &'static str) -> H2Client {
        H2Client::with(&mut client::Builder::new(), stream, scheme).await
    }

    /// Begins on a stream, with settings.
    pub async fn with(
        settings: &mut client::Builder,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        scheme: &'static str,
    ) -> H2Client {
        let (send, connection) = within("SETTINGS", settings.handshake(stream)).await.unwrap();
        let driver = tokio::spawn(connection);
        let mut client = H2Client { send, driver, scheme };
        // The server says that WebSockets may be asked for in its SETTINGS, which come first.
        super::eventually("SETTINGS", || client.send.is_extended_connect_protocol_enabled().then_some(())).await;
        client.ready().await;
        client
    }

    /// Waits until another stream may be opened.
    pub async fn ready(&mut self) {
        let ready = within("a free stream", self.send.clone().ready()).await;
        self.send = ready.unwrap();
    }

    /// Returns the head of a request.
    pub fn request(&self, method: &str, path: &str, more: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(format!("{}://example.com{path}", self.scheme));
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    /// Returns the head of an extended CONNECT for `protocol`.
    pub fn connect_request(&self, protocol: &str, path: &str, more: &[(&str, &str)]) -> Request<()> {
        let mut request = self.request("CONNECT", path, more);
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
        request
    }

    /// Sends a request, and returns where its answer comes.
    pub async fn ask(&mut self, request: Request<()>, is_whole: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.ready().await;
        self.send.send_request(request, is_whole).unwrap()
    }

    /// Asks for a page.
    pub async fn get(&mut self, path: &str, more: &[(&str, &str)]) -> Response<Bytes> {
        let (answer, _) = self.ask(self.request("GET", path, more), true).await;
        whole(within("the answer", answer).await.unwrap()).await
    }

    /// Asks for a WebSocket.
    ///
    /// # Errors
    /// The answer, if it is refused.
    pub async fn try_open(&mut self, path: &str, more: &[(&str, &str)]) -> Result<H2Session, Response<Bytes>> {
        let version = [("sec-websocket-version", "13")];
        let is_said = more.iter().any(|(name, _)| *name == "sec-websocket-version");
        let all = [if is_said { &[][..] } else { &version[..] }, more].concat();
        let (answer, send) = self.ask(self.connect_request("websocket", path, &all), false).await;
        let answer = within("the answer", answer).await.unwrap();
        if answer.status() != 200 {
            return Err(whole(answer).await);
        }
        let (head, recv) = answer.into_parts();
        Ok(H2Session::new(head, send, recv))
    }

    /// Opens a WebSocket.
    pub async fn open(&mut self, path: &str, more: &[(&str, &str)]) -> H2Session {
        self.try_open(path, more).await.unwrap_or_else(|answer| panic!("refused: {answer:?}"))
    }

    /// Waits until the connection has ended, and returns why.
    pub async fn ended(self) -> Result<(), h2::Error> {
        drop(self.send);
        within("the end of the connection", self.driver).await.unwrap()
    }

    /// Waits until it has ended while requests could still be sent.
    pub async fn ends(&mut self) -> Result<(), h2::Error> {
        within("the end of the connection", &mut self.driver).await.unwrap()
    }

    /// Drops the connection without a word.
    pub fn abort(self) {
        self.driver.abort();
    }

    /// Returns true if it has ended.
    pub fn is_over(&self) -> bool {
        self.driver.is_finished()
    }
}

/// Reads an answer to its end.
pub async fn whole(answer: Response<RecvStream>) -> Response<Bytes> {
    let (head, mut recv) = answer.into_parts();
    let mut body = vec![];
    while let Some(data) = within("the body", recv.data()).await {
        let data = data.unwrap();
        recv.flow_control().release_capacity(data.len()).unwrap();
        body.extend_from_slice(&data);
    }
    Response::from_parts(head, body.into())
}

impl H2Session {
    fn new(head: http::response::Parts, send: SendStream<Bytes>, recv: RecvStream) -> H2Session {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (from, to) = tokio::io::split(far);
        let (reset, told) = oneshot::channel();
        let ended = Arc::new(Mutex::new(None));
        tokio::spawn(write(send, from, told));
        tokio::spawn(read(recv, to, Arc::clone(&ended)));
        H2Session { conn: Conn::client(Io::Duplex(near)), head, reset: Some(reset), ended }
    }

    /// Resets the stream.
    pub fn reset(&mut self, reason: Reason) {
        self.reset.take().expect("once").send(reason).unwrap();
    }

    /// Returns with which code the server has reset the stream.
    pub fn ended(&self) -> Option<Reason> {
        *self.ended.lock().unwrap()
    }
}

pub(super) async fn write(
    mut send: SendStream<Bytes>,
    mut from: impl AsyncRead + Unpin,
    mut told: oneshot::Receiver<Reason>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            biased;
            Ok(reason) = &mut told, if !told.is_terminated() => return send.send_reset(reason),
            read = from.read(&mut buffer) => read.unwrap_or(0),
        };
        let mut left = Bytes::copy_from_slice(&buffer[..read]);
        if left.is_empty() {
            let _ = send.send_data(left, true);
            // Until both ends have seen it: dropping it would reset the stream.
            let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
            return;
        }
        while !left.is_empty() {
            send.reserve_capacity(left.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
            let part = left.split_to(room.min(left.len()));
            if send.send_data(part, false).is_err() {
                return;
            }
        }
    }
}

pub(super) async fn read(mut recv: RecvStream, mut to: impl AsyncWrite + Unpin, ended: Arc<Mutex<Option<Reason>>>) {
    while let Some(data) = recv.data().await {
        match data {
            Ok(data) => {
                if to.write_all(&data).await.is_err() {
                    return;
                }
                let _ = recv.flow_control().release_capacity(data.len());
            }
            Err(error) => {
                *ended.lock().unwrap() = error.reason();
                break;
            }
        }
    }
    let _ = to.shutdown().await;
}
