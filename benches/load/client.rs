//! One WebSocket connection of the generator, plain or TLS.
//!
//! All methods take `&self`, and the socket is borrowed only while it is polled, so one task may send while another
//! receives (the open loop needs it). All connections of a thread read into one scratch buffer: nothing is held while
//! a connection waits, and one read takes whatever is there.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::frame::{self, CLOSE, Expect, Other, PING, Sender, TEXT};
use crate::handshake::{Head, request};

/// Where a proxy (or the backend itself) listens, and how to speak to it.
#[derive(Clone)]
pub struct Target {
    pub addr: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
}

/// The buffer that all connections of a thread read into.
pub type Scratch = Rc<RefCell<Box<[u8]>>>;

pub fn scratch() -> Scratch {
    Rc::new(RefCell::new(vec![0; 256 * 1024].into_boxed_slice()))
}

pub struct Conn {
    io: RefCell<Io>,
    expect: RefCell<Expect>,
    scratch: Scratch,
    others: RefCell<Vec<Other>>,
    closing: Cell<bool>,
    resumed: bool,
}

/// What one read brought.
#[derive(Default)]
pub struct Received {
    /// Messages that are now whole, each compared byte by byte.
    pub messages: u64,
    /// A word from the backend.
    pub note: Option<String>,
    /// The peer closed, as it was asked to.
    pub closed: bool,
}

impl Conn {
    /// Connects, shakes hands and upgrades; messages of `len` bytes are expected from then on.
    pub async fn open(target: &Target, path: &str, len: usize, scratch: &Scratch) -> Result<Conn> {
        let tcp = TcpStream::connect(target.addr).await.with_context(|| format!("connecting to {}", target.addr))?;
        tcp.set_nodelay(true)?;
        let mut io = match &target.tls {
            None => Io::Plain(tcp),
            Some(config) => {
                let name = ServerName::try_from("localhost")?;
                let connecting = TlsConnector::from(Arc::clone(config)).connect(name, tcp);
                Io::Tls(Box::new(connecting.await.context("TLS handshake")?))
            }
        };
        let resumed = match &io {
            Io::Tls(tls) => tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed),
            Io::Plain(_) => false,
        };
        io.write_all(request(path, target.addr.port()).as_bytes()).await.context("sending the upgrade request")?;
        io.flush().await?;
        let head = Head::read(&mut io).await?.context("the connection was closed instead of upgraded")?;
        head.check_answer()?;
        let conn = Conn {
            io: RefCell::new(io),
            expect: RefCell::new(Expect::new(Sender::Server, len)),
            scratch: Rc::clone(scratch),
            others: RefCell::default(),
            closing: Cell::new(false),
            resumed,
        };
        conn.expect.borrow_mut().feed(&head.rest, &mut conn.others.borrow_mut())?;
        Ok(conn)
    }

    /// Was the TLS session resumed?
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Expect messages of `len` bytes with numbers from `sequence`.
    pub fn expect(&self, len: usize, sequence: u64) {
        let mut expect = Expect::new(Sender::Server, len);
        expect.restart_at(sequence);
        self.expect.replace(expect);
    }

    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        poll_fn(|cx| {
            let mut io = self.io.borrow_mut();
            while sent < bytes.len() {
                match ready!(Pin::new(&mut *io).poll_write(cx, &bytes[sent..]))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => sent += written,
                }
            }
            Pin::new(&mut *io).poll_flush(cx)
        })
        .await
    }

    /// Reads once, compares, and answers Pings.
    pub async fn receive(&self) -> Result<Received> {
        let mut received = Received::default();
        let len = poll_fn(|cx| self.poll_feed(cx, &mut received.messages)).await?;
        if len == 0 {
            ensure!(self.closing.get(), "the connection was lost without a Close");
            received.closed = true;
        }
        if !self.others.borrow().is_empty() {
            for other in self.others.take() {
                self.judge(other, &mut received).await?;
            }
        }
        Ok(received)
    }

    fn poll_feed(&self, cx: &mut TaskContext<'_>, messages: &mut u64) -> Poll<Result<usize>> {
        let mut scratch = self.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        match ready!(Pin::new(&mut *self.io.borrow_mut()).poll_read(cx, &mut buffer)) {
            // A server that leaves without close_notify, after its Close frame: an end like any other.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
            other => other.context("reading")?,
        }
        *messages += self.expect.borrow_mut().feed(buffer.filled(), &mut self.others.borrow_mut())?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    async fn judge(&self, other: Other, received: &mut Received) -> Result<()> {
        match other.opcode {
            PING => self.send(&frame::small(frame::PONG, Sender::Client, &other.payload)).await?,
            TEXT => received.note = Some(String::from_utf8(other.payload)?),
            CLOSE if !self.closing.get() => {
                let (code, reason) = other.payload.split_at(other.payload.len().min(2));
                let code = code.iter().fold(0, |code, &byte| code << 8 | u16::from(byte));
                bail!("closed by the peer: {code} {:?}", String::from_utf8_lossy(reason));
            }
            _ => {}
        }
        Ok(())
    }

    /// Waits until one more message has come whole.
    pub async fn message(&self) -> Result<()> {
        while self.receive().await?.messages == 0 {}
        Ok(())
    }

    /// Says something to the backend.
    pub async fn say(&self, text: &str) -> Result<()> {
        Ok(self.send(&frame::small(TEXT, Sender::Client, text.as_bytes())).await?)
    }

    /// Reads on until the backend says something; returns it and the number of messages that came before.
    pub async fn listen(&self) -> Result<(u64, String)> {
        let mut messages = 0;
        loop {
            let received = self.receive().await?;
            messages += received.messages;
            if let Some(note) = received.note {
                return Ok((messages, note));
            }
        }
    }

    /// The closing handshake of RFC 6455 §7: Close, its echo, and the server ends the TCP connection first.
    pub async fn close(self) -> Result<()> {
        self.closing.set(true);
        self.send(&frame::close(Sender::Client, 1000, "")).await?;
        while !self.receive().await?.closed {}
        Ok(())
    }
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Io::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Io::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Io::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Io::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
