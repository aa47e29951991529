//! Plain HTTP over connections that are used again: each answer is that of its request, and no server sees a request that
//! no client sent, whatever the two of them do halfway.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use super::harness::{Conn, Proxy, RawServer, within};
use super::{Plan, never_panicked, proxy, variable};

/// What happens to a body or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    None,
    Length,
    Chunked,
    Trailers,
    /// Until the connection ends: answers only.
    Close,
}

/// One request and what its server does, as a number says it.
#[derive(Clone, Debug)]
struct Exchange {
    method: &'static str,
    body: Vec<u8>,
    framing: Framing,
    /// The client goes after so much of its body.
    abort: Option<usize>,
    /// The server answers before it has read the body.
    early: bool,
    answer: Vec<u8>,
    answer_framing: Framing,
    /// The server ends the connection after so much of its answer.
    cut: Option<usize>,
    /// The server says more than its answer.
    extra: bool,
    status: u16,
    interim: bool,
    client_close: bool,
}

/// What looks like a request, and is a part of a body.
const HIDDEN: &[u8] = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\nX-Id: smuggled\r\n\r\n";

fn body(random: &mut fastrand::Rng) -> Vec<u8> {
    let bytes = [0, 1, 5, 300, 5000, 20_000, 100_000][random.usize(..7)];
    match random.u8(0..3) {
        0 => HIDDEN.repeat(bytes / HIDDEN.len() + 1),
        1 => vec![b'\r'; bytes],
        _ => (0..bytes).map(|_| random.u8(..)).collect(),
    }
}

impl Exchange {
    fn new(random: &mut fastrand::Rng) -> Exchange {
        let method = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "X-OWN"][random.usize(..8)];
        let framing = match method {
            "GET" | "HEAD" if random.u8(0..8) != 0 => Framing::None,
            _ => [Framing::None, Framing::Length, Framing::Chunked, Framing::Trailers][random.usize(..4)],
        };
        let body = if framing == Framing::None { vec![] } else { body(random) };
        let answer_framing = [Framing::Length, Framing::Chunked, Framing::Trailers, Framing::Close][random.usize(..4)];
        let answer = self::body(random);
        let rarely = |random: &mut fastrand::Rng| random.u8(0..8) == 0;
        let abort = (rarely(random) && !body.is_empty()).then(|| random.usize(..body.len()));
        let cut = (rarely(random) && answer_framing != Framing::Close).then(|| random.usize(..=answer.len()));
        Exchange {
            early: rarely(random),
            extra: rarely(random),
            status: [200, 200, 200, 404, 500, 204, 304][random.usize(..7)],
            interim: rarely(random),
            client_close: rarely(random),
            method,
            body,
            framing,
            abort,
            answer,
            answer_framing,
            cut,
        }
    }

    fn has_body(&self) -> bool {
        match self.framing {
            Framing::None | Framing::Close => false,
            Framing::Length => !self.body.is_empty(),
            Framing::Chunked | Framing::Trailers => true,
        }
    }

    fn has_answer_body(&self) -> bool {
        self.method != "HEAD" && !matches!(self.status, 204 | 304)
    }

    /// The request's head and what of its body the client sends.
    fn request(&self, id: &str, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut bytes = format!("{} /{id} HTTP/1.1\r\nHost: a\r\nX-Id: {id}\r\n", self.method).into_bytes();
        if self.client_close {
            bytes.extend(b"Connection: close\r\n");
        }
        let sent = &self.body[..self.abort.unwrap_or(self.body.len())];
        framed(&mut bytes, self.framing, &self.body, sent, random);
        bytes
    }
}

/// Appends the rest of a head and `sent` of `body`; all of it ends as it should.
fn framed(bytes: &mut Vec<u8>, framing: Framing, body: &[u8], sent: &[u8], random: &mut fastrand::Rng) {
    match framing {
        Framing::None | Framing::Close => {
            bytes.extend(b"\r\n");
            bytes.extend(sent);
        }
        Framing::Length => {
            bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            bytes.extend(sent);
        }
        Framing::Chunked | Framing::Trailers => {
            let trailers = framing == Framing::Trailers;
            let announced: &[u8] = if trailers { b"Trailer: X-Sum\r\n" } else { b"" };
            bytes.extend([b"Transfer-Encoding: chunked\r\n", announced, b"\r\n"].concat());
            let mut rest = sent;
            while !rest.is_empty() {
                let (chunk, tail) = rest.split_at(random.usize(1..=rest.len().min(8000)));
                bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
                rest = tail;
            }
            if sent.len() == body.len() {
                bytes.extend(if trailers { &b"0\r\nX-Sum: 1\r\nX-Id: smuggled\r\n\r\n"[..] } else { b"0\r\n\r\n" });
            }
        }
    }
}

/// What the server knows of the exchanges under way, by id.
type Book = Arc<Mutex<Vec<Exchange>>>;

/// Serves one connection, request by request, as the book says.
async fn serve(mut conn: Conn, book: Book, seen: Arc<Mutex<HashSet<String>>>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    while let Some(head) = conn.try_head().await {
        let ids = head.all("x-id");
        assert_eq!(ids.len(), 1, "{head:#?}");
        let id = ids[0].to_owned();
        assert_eq!(head.target(), format!("/{id}"), "{head:#?}");
        let exchange = {
            let book = book.lock().unwrap();
            let number: usize = id.parse().unwrap_or_else(|_| panic!("a request that nobody sent: {head:#?}"));
            book[number].clone()
        };
        assert!(head.line.starts_with(exchange.method), "{head:#?}: {exchange:?}");
        // A method that may be repeated may come twice, where a connection was used again that had ended.
        let is_first = seen.lock().unwrap().insert(id.clone());
        let is_safe = matches!(exchange.method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE");
        assert!(is_first || is_safe, "{} {id} came twice", exchange.method);
        if !exchange.early {
            let Some(found) = body_of(&mut conn, &head).await else { return };
            assert_eq!(found, exchange.body, "the body of {id}");
            assert!(exchange.abort.is_none(), "{id} was cut short and looks whole");
        }
        let mut bytes = vec![];
        if exchange.interim {
            bytes.extend(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
        }
        bytes.extend(format!("HTTP/1.1 {} Some\r\nX-Id: {id}\r\n", exchange.status).bytes());
        let (mut framing, mut answer) = (exchange.answer_framing, &exchange.answer[..]);
        if !exchange.has_answer_body() {
            (framing, answer) = (Framing::None, &[]);
        }
        if framing == Framing::None && exchange.status == 200 {
            // To HEAD: as long as it would be.
            bytes.extend(b"Content-Length: 77\r\n");
        }
        let sent = &answer[..exchange.cut.unwrap_or(answer.len()).min(answer.len())];
        framed(&mut bytes, framing, answer, sent, &mut random);
        if exchange.extra && framing != Framing::Close && sent.len() == answer.len() {
            bytes.extend(b"HTTP/1.1 200 OK\r\nX-Id: nobody\r\nContent-Length: 3\r\n\r\nbad");
        }
        for piece in bytes.chunks(random.usize(1..20_000)) {
            if conn.try_send(piece).await.is_err() {
                return;
            }
        }
        let ends = exchange.early || exchange.extra || framing == Framing::Close || sent.len() < answer.len();
        if ends {
            let _ = conn.finish().await;
            return;
        }
    }
}

/// A whole body; `None` if it ends before its end.
pub async fn body_of(conn: &mut Conn, head: &super::harness::Head) -> Option<Vec<u8>> {
    async fn more(conn: &mut Conn, count: usize) -> Option<Vec<u8>> {
        while conn.input.rest().len() < count {
            match within("a body", conn.input.fill(&mut conn.io)).await {
                Ok(1..) => {}
                _ => return None,
            }
        }
        Some(conn.input.take(count))
    }
    if let Some(length) = head.get("content-length") {
        assert_eq!(head.get("transfer-encoding"), None, "two framings: {head:#?}");
        return more(conn, length.parse().unwrap()).await;
    }
    let Some(coding) = head.get("transfer-encoding") else { return Some(vec![]) };
    assert_eq!(coding, "chunked");
    let mut body = vec![];
    loop {
        let line = line(conn).await?;
        let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("a chunk of {line:?}"));
        if size == 0 {
            break;
        }
        body.extend(more(conn, size).await?);
        assert_eq!(more(conn, 2).await?, b"\r\n");
    }
    loop {
        match &*line(conn).await? {
            "" => return Some(body),
            trailer => {
                // What says whom a request is for, who sends it or where it ends is for heads, and what is not announced
                // does not pass.
                let (name, _) = trailer.split_once(':').unwrap_or_else(|| panic!("no trailer: {trailer:?}"));
                let never =
                    ["host", "x-id", "content-length", "transfer-encoding", "connection", "cookie", "x-forwarded-for"];
                assert!(!never.contains(&&*name.to_ascii_lowercase()), "{trailer:?} passes");
            }
        }
    }

    async fn line(conn: &mut Conn) -> Option<String> {
        let mut line = vec![];
        while !line.ends_with(b"\r\n") {
            line.extend(more(conn, 1).await?);
        }
        Some(String::from_utf8(line).unwrap().trim_end().to_owned())
    }
}

/// Sends requests one behind the other on as few connections as they leave, and judges the answers.
async fn client(proxy: &Proxy, book: &Book, ids: std::ops::Range<usize>, mut random: fastrand::Rng) {
    let mut conn: Option<Conn> = None;
    for id in ids {
        let exchange = book.lock().unwrap()[id].clone();
        let name = id.to_string();
        let mut own = match conn.take() {
            Some(conn) => conn,
            None => proxy.client().await,
        };
        let request = exchange.request(&name, &mut random);
        let mut refused = false;
        for piece in request.chunks(random.usize(1..20_000)) {
            // An early answer may be the end of it.
            refused |= own.try_send(piece).await.is_err();
        }
        if exchange.abort.is_some() {
            match random.bool() {
                true => own.reset(),
                false => drop(own),
            }
            continue;
        }
        let Some(head) = answer_head(&mut own).await else {
            assert!(refused || exchange.early || exchange.cut.is_some(), "no answer to {id}: {exchange:?}");
            continue;
        };
        let status = head.status();
        if head.get("x-id").is_none() {
            // The proxy's own: the server was lost before its answer had begun, or its answer was none.
            assert!(matches!(status, 502 | 504), "{id} got {head:#?}: {exchange:?}");
            // One whose connection was closed as it was used again goes once more, unless it has a body, which may be half gone.
            let is_repeatable = is_safe(exchange.method) && !exchange.has_body();
            let is_hard = exchange.early || exchange.extra || exchange.cut.is_some() || !is_repeatable;
            assert!(is_hard, "{id} got {head:#?}: {exchange:?}");
            continue;
        }
        assert_eq!(head.get("x-id"), Some(&*name), "somebody else's answer: {exchange:?}");
        assert_eq!(status, exchange.status);
        let is_last = head.get("connection").is_some_and(|value| value.contains("close"));
        if exchange.has_answer_body() {
            match answer_body(&mut own, &head).await {
                Some(body) => {
                    let whole = exchange.cut.is_none_or(|cut| cut >= exchange.answer.len());
                    assert!(whole, "{id}: an answer cut short looks whole: {exchange:?}");
                    assert_eq!(body, exchange.answer, "{id}");
                }
                None => {
                    assert!(
                        exchange.cut.is_some() || exchange.early || exchange.extra,
                        "{id}: its answer is cut: {exchange:?}"
                    );
                    continue;
                }
            }
        }
        if !is_last && !exchange.client_close && !exchange.early {
            assert!(
                own.input.rest().is_empty(),
                "{id}: more than an answer: {:?}",
                own.input.rest().escape_ascii().to_string()
            );
            conn = Some(own);
        }
    }
}

fn is_safe(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
}

/// The head of the answer, behind interim ones.
async fn answer_head(conn: &mut Conn) -> Option<super::harness::Head> {
    loop {
        let rest = conn.input.rest();
        if let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = super::harness::Head::parse(&conn.input.take(end + 4));
            if head.status() >= 200 {
                return Some(head);
            }
            continue;
        }
        if !matches!(within("an answer", conn.input.fill(&mut conn.io)).await, Ok(1..)) {
            return None;
        }
    }
}

async fn answer_body(conn: &mut Conn, head: &super::harness::Head) -> Option<Vec<u8>> {
    if head.get("content-length").is_none() && head.get("transfer-encoding").is_none() {
        return Some(conn.read_to_end().await);
    }
    body_of(conn, head).await
}

#[test]
fn pool() {
    let plan = Plan::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let requests = runtime.block_on(async {
        let mut server = RawServer::start().await;
        let proxy = proxy(&server, &[]);
        let (book, seen): (Book, _) = (Book::default(), Arc::new(Mutex::new(HashSet::new())));
        let failed = Arc::new(tokio::sync::Notify::new());
        let serving = {
            let (book, seen, failed) = (Arc::clone(&book), Arc::clone(&seen), Arc::clone(&failed));
            tokio::spawn(async move {
                let mut connections = tokio::task::JoinSet::new();
                let mut number = 0;
                loop {
                    tokio::select! {
                        conn = server.next() => {
                            let Some(conn) = conn else { return };
                            number += 1;
                            connections.spawn(serve(conn, Arc::clone(&book), Arc::clone(&seen), plan.seed ^ number));
                        }
                        Some(done) = connections.join_next() => {
                            if done.is_err_and(|error| error.is_panic()) {
                                failed.notify_one();
                            }
                        }
                    }
                }
            })
        };
        const CLIENTS: usize = 8;
        const EACH: usize = 8;
        let mut requests = 0;
        for number in plan.rounds() {
            let mut random = plan.random("pool", variable("WSLUICE_FUZZ_ROUND").unwrap_or(number));
            let first = book.lock().unwrap().len();
            book.lock().unwrap().extend((0..CLIENTS * EACH).map(|_| Exchange::new(&mut random)));
            let clients = (0..CLIENTS).map(|index| {
                let start = first + index * EACH;
                client(&proxy, &book, start..start + EACH, random.fork())
            });
            let told = format!("pool, seed {}, round {number}", plan.seed);
            let round = std::panic::AssertUnwindSafe(futures_util::future::join_all(clients));
            tokio::select! {
                done = futures_util::FutureExt::catch_unwind(round) => {
                    if let Err(panic) = done {
                        eprintln!("{told}: WSLUICE_FUZZ_SEED={} WSLUICE_FUZZ_ROUND={number}", plan.seed);
                        std::panic::resume_unwind(panic);
                    }
                }
                () = failed.notified() => panic!("{told}: the server saw what it should not have"),
            }
            requests += CLIENTS * EACH;
            // The book is as long as the round: ids go on, but what is told of old ones is let go.
            book.lock().unwrap().iter_mut().for_each(|old| {
                old.body = vec![];
                old.answer = vec![];
            });
        }
        proxy.idle().await;
        never_panicked(&proxy);
        assert!(!seen.lock().unwrap().iter().any(|id| id == "smuggled"));
        serving.abort();
        requests
    });
    println!("pool: {requests} requests");
}
