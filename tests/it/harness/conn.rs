//! One end of a connection: writes anything, reads strictly.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use wsluice::net::listener::Address;

use super::frame::Input;
use super::{Event, Frame, Handshake, Head, Io, KEY, accept_for, within};

/// The longest head that is accepted.
const HEAD_BYTES_MAX: usize = 256 << 10;

/// A client's or a server's end. It checks what it reads by the rules for that end.
#[derive(Debug)]
pub struct Conn {
    pub io: Io,
    pub input: Input,
}

impl Conn {
    /// Connects a client.
    pub async fn connect(to: &Address) -> Conn {
        let io = match to {
            Address::Tcp(address) => {
                let stream = within("connect", TcpStream::connect(address)).await.unwrap();
                stream.set_nodelay(true).unwrap();
                Io::Tcp(stream)
            }
            Address::Unix(path) => Io::Unix(within("connect", UnixStream::connect(path)).await.unwrap()),
        };
        Conn::client(io)
    }

    /// Connects a client over TLS.
    pub async fn connect_tls(to: &Address, name: &str, config: Arc<ClientConfig>) -> std::io::Result<Conn> {
        let Address::Tcp(address) = to else { panic!("TLS goes over TCP here") };
        let stream = within("connect", TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let tls = within("TLS handshake", tokio_rustls::TlsConnector::from(config).connect(name, stream)).await?;
        Ok(Conn::client(Io::TlsClient(Box::new(tls))))
    }

    /// Creates a client's end, which must not read masked frames.
    pub fn client(io: Io) -> Conn {
        Conn { io, input: Input::new(false) }
    }

    /// Creates a server's end, which must read masked frames.
    pub fn server(io: Io) -> Conn {
        Conn { io, input: Input::new(true) }
    }

    fn is_client(&self) -> bool {
        !self.input.masked
    }

    // ---- bytes

    /// Writes all of these bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> impl Future<Output = ()> {
        within("send", async move {
            self.io.write_all(bytes.as_ref()).await.unwrap();
            self.io.flush().await.unwrap();
        })
    }

    /// Writes these bytes to a peer that may be gone.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within("send", async {
            self.io.write_all(bytes.as_ref()).await?;
            self.io.flush().await
        })
        .await
    }

    /// Ends the writing half.
    pub async fn finish(&mut self) {
        within("shutdown", self.io.shutdown()).await.unwrap();
    }

    /// Ends the connection with a RST.
    pub fn reset(self) {
        self.io.reset();
    }

    /// Reads all bytes until the stream ends; a reset counts as an end.
    #[track_caller]
    pub fn read_to_end(&mut self) -> impl Future<Output = Vec<u8>> {
        within("end of stream", async {
            while let Ok(1..) = self.input.fill(&mut self.io).await {}
            self.input.take(self.input.rest().len())
        })
    }

    /// Reads this number of bytes.
    #[track_caller]
    pub fn read_exact(&mut self, count: usize) -> impl Future<Output = Vec<u8>> {
        within("bytes", async move {
            while self.input.rest().len() < count {
                let read = self.input.fill(&mut self.io).await.unwrap();
                assert!(read > 0, "the stream ended after {} of {count} bytes", self.input.rest().len());
            }
            self.input.take(count)
        })
    }

    // ---- heads

    /// Reads the next request or response head; `None` if the stream ends before one begins.
    #[track_caller]
    pub fn try_head(&mut self) -> impl Future<Output = Option<Head>> {
        within("head", async {
            loop {
                let rest = self.input.rest();
                if let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
                    return Some(Head::parse(&self.input.take(end + 4)));
                }
                assert!(rest.len() < HEAD_BYTES_MAX, "no end of the head");
                if !matches!(self.input.fill(&mut self.io).await, Ok(1..)) {
                    let rest = self.input.rest();
                    assert!(rest.is_empty(), "half a head: {:?}", String::from_utf8_lossy(rest));
                    return None;
                }
            }
        })
    }

    /// Reads the next request or response head, which must come.
    pub async fn head(&mut self) -> Head {
        self.try_head().await.expect("the stream ended before a head")
    }

    /// Reads the body of an answer with this head, by Content-Length, in chunks, or to the end of the stream.
    pub async fn body(&mut self, head: &Head) -> Vec<u8> {
        if let Some(length) = head.get("content-length") {
            return self.read_exact(length.parse().unwrap()).await;
        }
        if head.get("transfer-encoding") != Some("chunked") {
            return self.read_to_end().await;
        }
        let mut body = vec![];
        loop {
            let mut line = vec![];
            while !line.ends_with(b"\r\n") {
                line.extend(self.read_exact(1).await);
            }
            let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            body.extend(self.read_exact(size).await);
            assert_eq!(self.read_exact(2).await, b"\r\n");
            if size == 0 {
                return body;
            }
        }
    }

    /// As a client: sends a handshake and returns the response, whatever it is.
    pub async fn ask(&mut self, handshake: &Handshake) -> Head {
        self.send(handshake.bytes()).await;
        self.head().await
    }

    /// As a client: sends a handshake, which must succeed.
    pub async fn open(&mut self, handshake: &Handshake) -> Head {
        let head = self.ask(handshake).await;
        assert_eq!(head.status(), 101, "{head:#?}");
        let key = handshake.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
        let key = key.map_or(KEY, |(_, key)| key);
        assert_eq!(head.get("sec-websocket-accept"), Some(&*accept_for(key)));
        head
    }

    /// As a server: reads a handshake and answers 101 with `more` header lines. Returns the request.
    pub async fn switch(&mut self, more: &[(&str, &str)]) -> Head {
        let request = self.head().await;
        self.send(switching(&request, more)).await;
        request
    }

    // ---- frames

    /// Writes a frame, masked if this is a client's end.
    #[track_caller]
    pub fn put(&mut self, frame: &Frame) -> impl Future<Output = ()> {
        let bytes = if self.is_client() { frame.masked() } else { frame.plain() };
        self.send(bytes)
    }

    /// Reads what comes next.
    #[track_caller]
    pub fn event(&mut self) -> impl Future<Output = Event> {
        within("frame or end", self.input.next(&mut self.io))
    }

    /// Reads the next frame, which must come.
    #[track_caller]
    pub fn frame(&mut self) -> impl Future<Output = Frame> {
        let event = self.event();
        async move {
            match event.await {
                Event::Frame(frame) => frame,
                other => panic!("no frame but {other:?}"),
            }
        }
    }

    /// Reads the next frame, which must equal this one.
    pub async fn expect(&mut self, frame: &Frame) {
        let found = self.frame().await;
        assert_eq!(&found, frame);
    }

    /// Reads the next frame, which must be a Close; returns its code and reason.
    pub async fn expect_close(&mut self) -> (Option<u16>, String) {
        self.frame().await.close_body()
    }

    /// Expects the end of the stream, between frames.
    pub async fn expect_end(&mut self) {
        let event = self.event().await;
        assert_eq!(event, Event::End);
    }

    /// Expects the end of the stream, or a reset.
    pub async fn expect_gone(&mut self) {
        let mut byte = [0];
        let read = tokio::io::AsyncReadExt::read(&mut self.io, &mut byte);
        let ended = within("the end", read).await;
        assert!(!matches!(ended, Ok(1)), "it goes on with {byte:?}");
    }

    /// Reads a Close with this code, answers it, and expects the end of the stream, as a proper peer does.
    pub async fn expect_closed_with(&mut self, code: u16) -> String {
        let frame = self.frame().await;
        let (found, reason) = frame.close_body();
        assert_eq!(found, Some(code), "{reason:?}");
        self.try_send(if self.is_client() { Frame::close(code, "").masked() } else { Frame::close(code, "").plain() })
            .await
            .unwrap();
        if !self.is_client() {
            // RFC 6455 §7.1.1: the server ends the connection first.
            self.finish().await;
        }
        self.expect_end().await;
        reason
    }

    /// Splits the connection by direction.
    pub fn split(self) -> (Reader, Writer) {
        let masks = self.is_client();
        let (read, write) = tokio::io::split(self.io);
        (Reader { io: read, input: self.input }, Writer { io: write, masks })
    }
}

/// Returns a server's 101 to this request.
pub fn switching(request: &Head, more: &[(&str, &str)]) -> Vec<u8> {
    let accept = accept_for(request.get("sec-websocket-key").expect("a key"));
    let mut text = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
    );
    for (name, value) in more {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// The reading half.
#[derive(Debug)]
pub struct Reader {
    pub io: ReadHalf<Io>,
    pub input: Input,
}

impl Reader {
    /// Reads what comes next.
    #[track_caller]
    pub fn event(&mut self) -> impl Future<Output = Event> {
        within("frame or end", self.input.next(&mut self.io))
    }
}

/// The writing half.
#[derive(Debug)]
pub struct Writer {
    pub io: WriteHalf<Io>,
    masks: bool,
}

impl Writer {
    /// Writes bytes to a peer that may be gone.
    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// Writes a frame to a peer that may be gone.
    pub async fn put(&mut self, frame: &Frame) -> std::io::Result<()> {
        let bytes = if self.masks { frame.masked() } else { frame.plain() };
        self.send(&bytes).await
    }
}
