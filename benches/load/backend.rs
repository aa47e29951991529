//! The server behind the proxies: plain WebSocket, one thread, five paths.
//!
//! * `/echo` sends each message back;
//! * [`NOTED`] does the same, and notes when the handshake came;
//! * `/sink` compares bulk messages with what they must be, and answers the text `end` with their number;
//! * `/source` answers the text `go MS` with bulk messages for so long, and then the text of their number;
//! * `/push` is silent until [`Backend::push`] sends one message to everybody there.
//!
//! It must cost far less than a proxy: one read takes all that waits, one write answers it, all connections share one
//! buffer, and bulk is compared in place and never copied.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::ready;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet, spawn_local};

use crate::client::{Scratch, scratch};
use crate::frame::{self, BINARY, CLOSE, Expect, Frame, Other, PING, PONG, Sender, TEXT};
use crate::handshake::{Head, answer};
use crate::machine::{Cores, Priority};
use crate::workload::{BULK_LEN, MESSAGE_LEN};

/// The path of handshakes whose times are noted.
pub const NOTED: &str = "/noted";

/// A handle on the backend's thread, which runs as long as the rig does.
pub struct Backend {
    addrs: Vec<SocketAddr>,
    waves: mpsc::UnboundedSender<u64>,
    noted: Arc<Mutex<Vec<Instant>>>,
}

struct Shared {
    scratch: Scratch,
    noted: Arc<Mutex<Vec<Instant>>>,
    subscribers: RefCell<HashMap<u64, Rc<OwnedWriteHalf>>>,
}

impl Backend {
    /// Listens on so many ports.
    pub fn start(cores: Cores, ports: usize, priority: Priority) -> Result<Backend> {
        let listeners = (0..ports).map(|_| listen()).collect::<Result<Vec<_>>>()?;
        let addrs = listeners.iter().map(std::net::TcpListener::local_addr).collect::<io::Result<_>>()?;
        let (waves, pushes) = mpsc::unbounded_channel();
        let noted = Arc::default();
        let notes = Arc::clone(&noted);
        std::thread::Builder::new().name("backend".to_owned()).spawn(move || {
            priority.take();
            let ended = cores.become_rig().and_then(|()| run(listeners, pushes, notes));
            if let Err(error) = ended {
                eprintln!("load: the backend has ended: {error:#}");
            }
        })?;
        Ok(Backend { addrs, waves, noted })
    }

    /// Its first address.
    pub fn addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// When the handshakes on [`NOTED`] have come, since this was last asked.
    pub fn take_noted(&self) -> Vec<Instant> {
        self.noted.lock().map(|mut noted| std::mem::take(&mut *noted)).unwrap_or_default()
    }

    /// Sends message number `sequence` to every connection on `/push`.
    pub fn push(&self, sequence: u64) -> Result<()> {
        self.waves.send(sequence).context("the backend is gone")
    }
}

fn listen() -> Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(4096).context("the backend's listener")?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn run(
    listeners: Vec<std::net::TcpListener>,
    pushes: mpsc::UnboundedReceiver<u64>,
    noted: Arc<Mutex<Vec<Instant>>>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let shared = Rc::new(Shared { scratch: scratch(), noted, subscribers: RefCell::default() });
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn_local(accept_all(TcpListener::from_std(listener)?, Rc::clone(&shared)));
        }
        tasks.spawn_local(push_all(Rc::clone(&shared), pushes));
        tasks.join_next().await.context("a backend of no ports")??
    })
}

async fn accept_all(listener: TcpListener, shared: Rc<Shared>) -> Result<()> {
    let port = u64::from(listener.local_addr()?.port());
    for number in (port << 48).. {
        let (stream, _) = listener.accept().await.context("accepting")?;
        let shared = Rc::clone(&shared);
        spawn_local(async move {
            // How a connection ends is the generator's to judge: it sees the same end from the other side.
            let _ended = serve(stream, number, &shared).await;
            shared.subscribers.borrow_mut().remove(&number);
        });
    }
    Ok(())
}

async fn serve(mut stream: TcpStream, number: u64, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let Some(head) = Head::read(&mut stream).await? else { return Ok(()) };
    let key = head.value("sec-websocket-key").context("no Sec-WebSocket-Key")?;
    let path = head.first_line().split(' ').nth(1).unwrap_or_default();
    let (read, write) = stream.into_split();
    let mut peer = Peer { read, write: Rc::new(write), shared };
    if path == NOTED
        && let Ok(mut noted) = shared.noted.lock()
    {
        noted.push(Instant::now());
    }
    if path == "/push" {
        shared.subscribers.borrow_mut().insert(number, Rc::clone(&peer.write));
    }
    peer.write(answer(key).as_bytes()).await?;
    match path {
        "/sink" => peer.sink(&head.rest).await,
        "/source" => peer.source(&head.rest).await,
        _ => peer.echo(&head.rest).await,
    }
}

async fn push_all(shared: Rc<Shared>, mut waves: mpsc::UnboundedReceiver<u64>) -> Result<()> {
    let mut frame = Frame::new(Sender::Server, MESSAGE_LEN);
    while let Some(sequence) = waves.recv().await {
        frame.stamp(sequence);
        let subscribers: Vec<_> = shared.subscribers.borrow().values().cloned().collect();
        for subscriber in subscribers {
            // Who has gone is removed by its own task.
            let _gone = write_all(&subscriber, frame.bytes()).await;
        }
    }
    // Nobody can ask any more; what is connected goes on.
    std::future::pending().await
}

/// One write where the socket takes it whole, which it does unless the proxy is slow.
async fn write_all(write: &OwnedWriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => write.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Peer<'a> {
    read: OwnedReadHalf,
    write: Rc<OwnedWriteHalf>,
    shared: &'a Shared,
}

impl Peer<'_> {
    async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        write_all(&self.write, bytes).await
    }

    /// Reads once into the shared buffer and shows what came; `None` at the end of the stream.
    async fn read<T>(&mut self, mut show: impl FnMut(&[u8]) -> T) -> io::Result<Option<T>> {
        poll_fn(|cx| {
            let mut scratch = self.shared.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.read).poll_read(cx, &mut buffer))?;
            let filled = buffer.filled();
            std::task::Poll::Ready(Ok((!filled.is_empty()).then(|| show(filled))))
        })
        .await
    }

    async fn echo(&mut self, early: &[u8]) -> Result<()> {
        let mut echo = Echo::default();
        echo.feed(early);
        loop {
            if !echo.answer.is_empty() {
                self.write(&echo.answer).await?;
                echo.forget();
            }
            if echo.closing || self.read(|bytes| echo.feed(bytes)).await?.is_none() {
                return Ok(());
            }
            if echo.answer.len() > BULK_LEN {
                // One that streams is not to delay the others here.
                tokio::task::yield_now().await;
            }
        }
    }

    async fn sink(&mut self, early: &[u8]) -> Result<()> {
        let (mut expect, mut others) = (Expect::new(Sender::Client, BULK_LEN), Vec::new());
        let mut judged = Some(expect.feed(early, &mut others));
        while let Some(result) = judged {
            if let Err(wrong) = result {
                self.write(&frame::close(Sender::Server, 1008, &wrong.to_string())).await?;
                return Ok(());
            }
            for other in others.drain(..) {
                if other.opcode == TEXT {
                    let count = expect.received().to_string();
                    self.write(&frame::small(TEXT, Sender::Server, count.as_bytes())).await?;
                } else if self.reply(other).await?.is_break() {
                    return Ok(());
                }
            }
            judged = self.read(|bytes| expect.feed(bytes, &mut others)).await?;
        }
        Ok(())
    }

    async fn source(&mut self, early: &[u8]) -> Result<()> {
        let (mut expect, mut others) = (Expect::new(Sender::Client, BULK_LEN), Vec::new());
        let mut frame = Frame::new(Sender::Server, BULK_LEN);
        let mut sequence = 0;
        expect.feed(early, &mut others)?;
        loop {
            for other in others.drain(..) {
                if other.opcode != TEXT {
                    if self.reply(other).await?.is_break() {
                        return Ok(());
                    }
                    continue;
                }
                let text = std::str::from_utf8(&other.payload)?;
                let millis = text.strip_prefix("go ").context("asked for what nobody offers")?.parse()?;
                let (start, before) = (Instant::now(), sequence);
                while start.elapsed() < Duration::from_millis(millis) {
                    frame.stamp(sequence);
                    self.write(frame.bytes()).await?;
                    sequence += 1;
                    // write_all does not yield while the socket takes everything.
                    tokio::task::consume_budget().await;
                }
                let count = (sequence - before).to_string();
                self.write(&frame::small(TEXT, Sender::Server, count.as_bytes())).await?;
            }
            let Some(judged) = self.read(|bytes| expect.feed(bytes, &mut others)).await? else { return Ok(()) };
            judged?;
        }
    }

    async fn reply(&self, other: Other) -> io::Result<std::ops::ControlFlow<()>> {
        match other.opcode {
            PING => self.write(&frame::small(PONG, Sender::Server, &other.payload)).await?,
            CLOSE => {
                self.write(&frame::small(CLOSE, Sender::Server, &other.payload)).await?;
                return Ok(std::ops::ControlFlow::Break(()));
            }
            _ => {}
        }
        Ok(std::ops::ControlFlow::Continue(()))
    }
}

/// Turns a client's frames into a server's: unmasked in place, where the answer is put together.
#[derive(Default)]
struct Echo {
    unread: Vec<u8>,
    answer: Vec<u8>,
    closing: bool,
}

impl Echo {
    fn feed(&mut self, bytes: &[u8]) {
        if self.unread.is_empty() {
            let used = self.answer_to(bytes);
            self.unread.extend_from_slice(&bytes[used..]);
        } else {
            let mut all = std::mem::take(&mut self.unread);
            all.extend_from_slice(bytes);
            let used = self.answer_to(&all);
            all.drain(..used);
            self.unread = all;
        }
    }

    fn answer_to(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while !self.closing {
            let Some(header) = frame::parse(&bytes[used..]) else { break };
            let start = used + header.header_len;
            let Some(payload) = bytes.get(start..start + header.payload_len) else { break };
            used = start + header.payload_len;
            let opcode = match header.opcode {
                PING => PONG,
                PONG => continue,
                BINARY | TEXT | CLOSE => header.opcode,
                _ => CLOSE,
            };
            self.closing = opcode == CLOSE;
            self.answer.extend(frame::header(opcode, Sender::Server, payload.len()));
            let at = self.answer.len();
            self.answer.extend_from_slice(payload);
            frame::unmask(&mut self.answer[at..], header.mask.unwrap_or([0; 4]));
        }
        used
    }

    /// The answer has been written; a big one's memory is given back.
    fn forget(&mut self) {
        self.answer.clear();
        self.answer.shrink_to(1024);
        self.unread.shrink_to(1024);
    }
}
