//! Traffic that detects every fault: numbered messages both ways, each compared with what was sent.
//!
//! The number of a stream and of a message determines its kind, size, contents, and fragments. So both ends know what
//! must come next, and a message that is lost, doubled, out of order or altered by one byte ends the session with a
//! precise failure. At its end a session is either finished by its client, and both ends have received everything; or
//! somebody else closed it, and its [`Report`] says how.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ServerConfig};
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use wsluice::net::listener::Address;

use super::{BINARY, CLOSE, Conn, Event, Frame, Handshake, PING, PONG, RawServer, Reader, TEXT, Writer, within};

/// How many messages a client may have sent that were not echoed yet.
pub const UNANSWERED_MAX: u64 = 4;
/// The source of message contents.
const POOL_BYTES: usize = 512 << 10;

// ---- messages

/// The messages of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stream {
    id: u64,
    bytes_max: usize,
}

impl Stream {
    /// Returns the other direction's, if the server sends its own messages.
    fn back(self) -> Stream {
        Stream { id: !self.id, ..self }
    }

    fn random(self, number: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.id.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number)
    }

    /// Returns opcode and contents of a message.
    fn message(self, number: u64) -> (u8, Vec<u8>) {
        let mut random = self.random(number);
        let bytes = match random.u32(0..64) {
            0..4 => 0,
            4..44 => random.usize(1..=200),
            44..60 => random.usize(200..=5_000),
            60..63 => random.usize(5_000..=70_000),
            _ => random.usize(70_000..=300_000),
        };
        let bytes = bytes.min(self.bytes_max);
        let is_text = random.bool();
        let head = format!("{:x}:{number}:", self.id).into_bytes();
        let from = random.usize(..POOL_BYTES - bytes);
        let mut contents = pool(is_text)[from..from + bytes].to_vec();
        let shown = head.len().min(bytes);
        contents[..shown].copy_from_slice(&head[..shown]);
        (if is_text { TEXT } else { BINARY }, contents)
    }

    /// Returns the same as frames; one in four messages is fragmented, with some empty fragments.
    fn frames(self, number: u64) -> Vec<Frame> {
        let (opcode, contents) = self.message(number);
        let mut random = self.random(!number);
        let pieces = if random.u8(0..4) == 0 { random.usize(2..=4) } else { 1 };
        let mut cuts: Vec<usize> = (1..pieces).map(|_| random.usize(0..=contents.len())).collect();
        cuts.sort_unstable();
        let (starts, ends) =
            ([0].into_iter().chain(cuts.iter().copied()), cuts.iter().copied().chain([contents.len()]));
        let pieces = starts.zip(ends).enumerate();
        let mut frames: Vec<Frame> = pieces
            .map(|(at, (start, end))| Frame::new(if at == 0 { opcode } else { 0 }, &contents[start..end]).unfinished())
            .collect();
        frames.last_mut().unwrap().fin = true;
        frames
    }

    /// Panics unless this is message `number`.
    fn check(self, number: u64, opcode: u8, contents: &[u8]) {
        let (expected_opcode, expected) = self.message(number);
        if opcode == expected_opcode && contents == expected {
            return;
        }
        let near = number.saturating_sub(100)..number + 100;
        let is = near.into_iter().find(|other| self.message(*other) == (opcode, contents.to_vec()));
        let what = match is {
            Some(other) if other < number => format!("message {other} once more"),
            Some(other) => format!("message {other}: those between are lost"),
            None => {
                let at = contents.iter().zip(&expected).position(|(found, expected)| found != expected);
                format!(
                    "{} bytes of opcode {opcode}, different from byte {at:?} on, beginning {:?}",
                    contents.len(),
                    String::from_utf8_lossy(&contents[..contents.len().min(40)])
                )
            }
        };
        let bytes = expected.len();
        panic!(
            "stream {:x}: instead of message {number} ({bytes} bytes of opcode {expected_opcode}) came {what}",
            self.id
        );
    }
}

fn pool(text: bool) -> &'static [u8] {
    static POOLS: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    let pools = POOLS.get_or_init(|| {
        let mut random = fastrand::Rng::with_seed(7);
        let binary = (0..POOL_BYTES).map(|_| random.u8(..)).collect();
        [binary, (0..POOL_BYTES).map(|_| random.alphanumeric() as u8).collect()]
    });
    &pools[usize::from(text)]
}

/// What a session sends, and how often.
#[derive(Clone, Debug)]
pub struct Talk {
    /// The path of its request.
    pub path: String,
    /// Whether the server sends its own messages instead of echoing.
    pub push: bool,
    /// The pause between two messages of one end.
    pub pause: Range<Duration>,
    /// The bounds of message sizes.
    pub bytes_max: usize,
}

impl Talk {
    /// Messages of all sizes, echoed, a few a second.
    pub fn to(path: &str) -> Talk {
        let pause = Duration::from_millis(20)..Duration::from_millis(150);
        Talk { path: path.to_owned(), push: false, pause, bytes_max: 300_000 }
    }

    /// The server sends its own messages.
    pub fn push(self) -> Talk {
        Talk { push: true, ..self }
    }

    pub fn pause(self, from: u64, to: u64) -> Talk {
        Talk { pause: Duration::from_millis(from)..Duration::from_millis(to), ..self }
    }

    pub fn bytes_max(self, bytes_max: usize) -> Talk {
        Talk { bytes_max, ..self }
    }

    fn handshake(&self, id: u64) -> Handshake {
        let (from, to) = (self.pause.start.as_millis(), self.pause.end.as_millis());
        let Talk { path, push, bytes_max, .. } = self;
        Handshake::to(&format!("{path}?id={id}&push={push}&from={from}&to={to}&max={bytes_max}"))
    }

    /// Reads what a request asks for.
    fn parse(target: &str) -> (u64, Talk) {
        let (path, query) = target.split_once('?').unwrap();
        let values: HashMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let number = |name: &str| values[name].parse::<u64>().unwrap();
        let talk = Talk::to(path).pause(number("from"), number("to")).bytes_max(number("max") as usize);
        (number("id"), if values["push"] == "true" { talk.push() } else { talk })
    }
}

// ---- one end

/// How a session ended, as one of its ends saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The client ended it: both ends have received everything.
    Finished,
    /// A Close arrived.
    With(u16, String),
    /// The connection ended without a Close.
    Broken(String),
}

/// What one end reports at its end.
#[derive(Clone, Debug)]
pub struct Report {
    /// The number of its session.
    pub id: u64,
    /// Whole messages sent.
    pub sent: u64,
    /// Whole messages received.
    pub received: u64,
    /// How it ended.
    pub closed: Closed,
    /// When it ended.
    pub at: Instant,
    /// Whether it ended inside a message.
    pub in_message: bool,
}

/// What both halves of an end share.
struct End {
    writer: AsyncMutex<Writer>,
    /// Whether sending has ended.
    is_closing: AtomicBool,
    /// Whether no new message begins: the rest follows, and then the count.
    is_last: AtomicBool,
    wake: Notify,
    sent: AtomicU64,
    received: AtomicU64,
}

impl End {
    /// Sends a frame unless sending has ended. The reader notices if the peer is gone.
    async fn put(&self, frame: &Frame) -> bool {
        let mut writer = self.writer.lock().await;
        !self.is_closing.load(Ordering::Relaxed) && writer.put(frame).await.is_ok()
    }

    /// Sends the last frame.
    async fn close(&self, code: u16) {
        let mut writer = self.writer.lock().await;
        if !self.is_closing.swap(true, Ordering::Relaxed) {
            let _ = writer.put(&Frame::close(code, "")).await;
        }
        self.wake.notify_one();
    }

    fn is_over(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed) || self.is_last.load(Ordering::Relaxed)
    }

    /// Sends messages until sending ends or the last was sent. `answered` makes it wait for the echo.
    async fn say(&self, stream: Stream, pause: &Range<Duration>, answered: bool) {
        while !self.is_over() {
            let next =
                Duration::from_micros(fastrand::u64(pause.start.as_micros() as u64..pause.end.as_micros() as u64));
            tokio::select! {
                () = sleep(next) => {}
                () = self.wake.notified() => continue,
            }
            let sent = self.sent.load(Ordering::Relaxed);
            if answered && sent - self.received.load(Ordering::Relaxed) >= UNANSWERED_MAX {
                continue;
            }
            for frame in stream.frames(sent) {
                if !self.put(&frame).await {
                    return;
                }
            }
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Returns the message by which an end reports how many it has sent.
fn count(sent: u64) -> String {
    format!("that was all: {sent}")
}

/// Which end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Client,
    /// A server that echoes.
    Echo,
    /// A server that sends its own messages.
    Pusher,
}

/// Reads to the end.
async fn hear(id: u64, end: &End, reader: &mut Reader, expected: Stream, who: Who) -> Report {
    let (mut opcode, mut contents, mut in_message) = (0, vec![], false);
    let closed = loop {
        let frame = match reader.input.next(&mut reader.io).await {
            Event::Frame(frame) => frame,
            other => break Closed::Broken(format!("{other:?}")),
        };
        match frame.opcode {
            PING => drop(end.put(&Frame::pong(frame.payload)).await),
            PONG => {}
            CLOSE => {
                let (code, reason) = frame.close_body();
                let (code, was_ours) = (code.unwrap(), end.is_closing.load(Ordering::Relaxed));
                end.close(code).await;
                if who != Who::Client {
                    // RFC 6455 §7.1.1: the server ends the connection first.
                    let _ = tokio::io::AsyncWriteExt::shutdown(&mut end.writer.lock().await.io).await;
                }
                let event = reader.event().await;
                // A client need not wait for the server to end the connection, and to the server the proxy is a client.
                assert!(matches!(event, Event::End | Event::Reset), "session {id:x}: after a Close came {event:?}");
                break if was_ours && code == 1000 { Closed::Finished } else { Closed::With(code, reason) };
            }
            _ => {
                if !in_message {
                    (opcode, in_message) = (frame.opcode, true);
                }
                contents.extend_from_slice(&frame.payload);
                let number = end.received.load(Ordering::Relaxed);
                let is_whole = frame.fin;
                if is_whole && opcode == TEXT && contents.starts_with(b"that was all") {
                    assert_eq!(String::from_utf8_lossy(&contents), count(number), "session {id:x}");
                    (contents, in_message) = (vec![], false);
                    if who != Who::Client {
                        end.is_last.store(true, Ordering::Relaxed);
                        end.wake.notify_one();
                    } else if end.is_last.load(Ordering::Relaxed) {
                        end.close(1000).await;
                    }
                    continue;
                }
                if who == Who::Echo && end.put(&frame).await && is_whole {
                    end.sent.fetch_add(1, Ordering::Relaxed);
                }
                if is_whole {
                    expected.check(number, opcode, &contents);
                    end.received.fetch_add(1, Ordering::Relaxed);
                    (in_message, contents) = (false, vec![]);
                }
            }
        }
    };
    end.is_closing.store(true, Ordering::Relaxed);
    end.wake.notify_one();
    let (sent, received) = (end.sent.load(Ordering::Relaxed), end.received.load(Ordering::Relaxed));
    Report { id, sent, received, closed, at: Instant::now(), in_message }
}

fn end_of(conn: Conn) -> (Arc<End>, Reader) {
    let (reader, writer) = conn.split();
    let end = End {
        writer: AsyncMutex::new(writer),
        is_closing: AtomicBool::new(false),
        is_last: AtomicBool::new(false),
        wake: Notify::new(),
        sent: AtomicU64::new(0),
        received: AtomicU64::new(0),
    };
    (Arc::new(end), reader)
}

// ---- the client

/// Where a client connects.
#[derive(Clone, Debug)]
pub struct To {
    pub address: Address,
    /// The server name to expect there, and the authority to trust.
    pub tls: Option<(String, Arc<ClientConfig>)>,
}

impl To {
    pub fn plain(address: &Address) -> To {
        To { address: address.clone(), tls: None }
    }

    pub fn tls(address: &Address, name: &str, config: &Arc<ClientConfig>) -> To {
        To { address: address.clone(), tls: Some((name.to_owned(), Arc::clone(config))) }
    }

    pub async fn connect(&self) -> Conn {
        match &self.tls {
            None => Conn::connect(&self.address).await,
            Some((name, config)) => Conn::connect_tls(&self.address, name, Arc::clone(config)).await.unwrap(),
        }
    }
}

/// A running session.
pub struct Client {
    pub id: u64,
    end: Arc<End>,
    task: JoinHandle<Report>,
}

impl Client {
    /// Opens a session, which must succeed.
    pub async fn open(to: &To, talk: &Talk) -> Client {
        let conn = to.connect().await;
        Client::on(conn, talk).await
    }

    /// Does the same on an existing connection.
    pub async fn on(mut conn: Conn, talk: &Talk) -> Client {
        // Even: odd numbers belong to the server's own streams.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        conn.open(&talk.handshake(id)).await;
        let (end, reader) = end_of(conn);
        let task = tokio::spawn(Client::run(id, Arc::clone(&end), reader, talk.clone()));
        Client { id, end, task }
    }

    async fn run(id: u64, end: Arc<End>, mut reader: Reader, talk: Talk) -> Report {
        let stream = Stream { id, bytes_max: talk.bytes_max };
        let says = async {
            end.say(stream, &talk.pause, !talk.push).await;
            end.put(&Frame::text(&count(end.sent.load(Ordering::Relaxed)))).await;
        };
        let expected = if talk.push { stream.back() } else { stream };
        let hears = hear(id, &end, &mut reader, expected, Who::Client);
        tokio::join!(says, hears).1
    }

    /// Returns the number of whole messages received so far.
    pub fn received(&self) -> u64 {
        self.end.received.load(Ordering::Relaxed)
    }

    /// Returns whether it is still open.
    pub fn is_open(&self) -> bool {
        !self.task.is_finished()
    }

    /// Waits until it has received this many more messages, so both ways work.
    pub async fn hears(&self, more: u64) {
        let wanted = self.received() + more;
        within("messages", async {
            while self.received() < wanted {
                assert!(self.is_open(), "session {} has ended", self.id);
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Sends the last message, waits for those on their way, and closes with 1000. Panics if somebody else closed it.
    pub async fn finish(self) -> Report {
        self.end.is_last.store(true, Ordering::Relaxed);
        self.end.wake.notify_one();
        let report = self.closed().await;
        assert_eq!(report.closed, Closed::Finished, "{report:?}");
        report
    }

    /// Waits for its end, which somebody else causes.
    pub async fn closed(self) -> Report {
        within("the end of a session", self.task).await.unwrap()
    }

    /// Does the same; the end must be a Close with this code and reason.
    pub async fn closed_with(self, code: u16, reason: &str) -> Report {
        let report = self.closed().await;
        assert_eq!(report.closed, Closed::With(code, reason.to_owned()), "{report:?}");
        report
    }
}

// ---- the server

/// Serves what a [`Talk`] asks for, and records it. Answers other requests with `well`.
pub struct Peers {
    url: String,
    books: Arc<Mutex<Books>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Books {
    ended: HashMap<u64, Report>,
    failures: Vec<String>,
}

impl Peers {
    pub async fn start() -> Peers {
        Peers::on(RawServer::start().await)
    }

    pub async fn start_tls(config: Arc<ServerConfig>) -> Peers {
        Peers::on(RawServer::start_tls(config).await)
    }

    fn on(mut raw: RawServer) -> Peers {
        let (url, books) = (raw.url().to_owned(), Arc::new(Mutex::new(Books::default())));
        let kept = Arc::clone(&books);
        let task = tokio::spawn(async move {
            while let Some(conn) = raw.next().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    // In a task of its own, so that its panic is noticed.
                    match tokio::spawn(serve(conn)).await {
                        Ok(Some(report)) => drop(kept.lock().unwrap().ended.insert(report.id, report)),
                        Ok(None) => {}
                        Err(error) => kept.lock().unwrap().failures.push(error.to_string()),
                    }
                });
            }
        });
        Peers { url, books, task }
    }

    /// Returns it as an endpoint of a configuration.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns how session `id` ended here, if it has.
    pub fn ended(&self, id: u64) -> Option<Report> {
        self.check();
        self.books.lock().unwrap().ended.get(&id).cloned()
    }

    /// Waits for the end of session `id`, and returns it.
    pub async fn report(&self, id: u64) -> Report {
        super::eventually("the server's end of a session", || self.ended(id)).await
    }

    /// Panics if any session failed.
    pub fn check(&self) {
        assert_eq!(self.books.lock().unwrap().failures, [""; 0]);
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut conn: Conn) -> Option<Report> {
    let request = conn.try_head().await?;
    if request.get("upgrade").is_none() {
        let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nwell";
        conn.try_send(answer).await.ok()?;
        return None;
    }
    let (id, talk) = Talk::parse(request.target());
    conn.send(super::switching(&request, &[])).await;
    let (end, mut reader) = end_of(conn);
    let stream = Stream { id, bytes_max: talk.bytes_max };
    let says = async {
        match talk.push {
            true => end.say(stream.back(), &talk.pause, false).await,
            false => {
                while !end.is_over() {
                    end.wake.notified().await;
                }
            }
        }
        end.put(&Frame::text(&count(end.sent.load(Ordering::Relaxed)))).await;
    };
    let who = if talk.push { Who::Pusher } else { Who::Echo };
    let hears = hear(id, &end, &mut reader, stream, who);
    Some(tokio::join!(says, hears).1)
}
