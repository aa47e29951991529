//! What a session costs in heap, so that it cannot creep: bytes that a worker keeps for each idle session.
//!
//! An allocator counts what each thread has taken and not given back; only the worker's thread is looked at. The
//! figures are those of `benches/load`'s memory workloads without the kernel's part and without the allocator's rounding.
#![allow(unsafe_code, reason = "a counting allocator cannot be written without")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::Registry;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use wsluice::app::App;
use wsluice::control::context::LogOutput;
use wsluice::net::listener::Address;
use wsluice::telemetry::sink::LogSink;
use wsluice::ws::handshake::accept_for;

/// Bytes that threads named `worker-*` hold.
static HELD: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// 0: not known yet, 1: a worker, 2: another thread.
    static KIND: std::cell::Cell<u8> = const { std::cell::Cell::new(0) };
}

struct Counting;

fn count(bytes: i64) {
    let _ = KIND.try_with(|kind| {
        if kind.get() == 0 {
            // Looking at the name may allocate; not again.
            kind.set(2);
            let is_worker = std::thread::current().name().is_some_and(|name| name.starts_with("worker-"));
            kind.set(if is_worker { 1 } else { 2 });
        }
        if kind.get() == 1 {
            HELD.fetch_add(bytes, Ordering::Relaxed);
        }
    });
}

// SAFETY: everything is passed on to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A server that answers each handshake and echoes frames of up to 64 KiB.
async fn echo(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut head = vec![];
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap_or_default();
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\n",
                std::str::from_utf8(&accept_for(key.as_bytes())).unwrap()
            );
            stream.write_all(answer.as_bytes()).await?;
            loop {
                let mut frame = vec![stream.read_u8().await?, stream.read_u8().await? & 0x7f];
                let mut length = usize::from(frame[1]);
                if length == 126 {
                    length = usize::from(stream.read_u16().await?);
                    frame.extend((length as u16).to_be_bytes());
                }
                let mut payload = vec![0; 4 + length];
                stream.read_exact(&mut payload).await?;
                let (key, payload) = payload.split_at(4);
                frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
                stream.write_all(&frame).await?;
            }
            #[allow(unreachable_code, reason = "names the type of the errors above")]
            Ok::<(), std::io::Error>(())
        });
    }
}

/// A client's connection, with or without TLS.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn client(address: std::net::SocketAddr, tls: Option<&TlsConnector>) -> Box<dyn Io> {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream: Box<dyn Io> = match tls {
        None => Box::new(stream),
        Some(connector) => {
            Box::new(connector.connect(ServerName::try_from("chat.example.com").unwrap(), stream).await.unwrap())
        }
    };
    stream
        .write_all(
            b"GET /chat/room?id=7 HTTP/1.1\r\nHost: chat.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await
        .unwrap();
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    // What a session has grown by its first message belongs to it.
    say(&mut stream, 2).await;
    stream
}

/// Sends a message of `length` bytes, fewer than 64 KiB, and reads its echo.
async fn say(stream: &mut Box<dyn Io>, length: u16) {
    let payload = vec![b'x'; usize::from(length)];
    let mut header = vec![0x81];
    match length {
        0..126 => header.push(length as u8),
        _ => {
            header.push(126);
            header.extend(length.to_be_bytes());
        }
    }
    let mut masked = header.clone();
    masked[1] |= 0x80;
    masked.extend([0; 4]);
    stream.write_all(&[masked, payload.clone()].concat()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = vec![0; header.len() + payload.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(answer == [header, payload].concat());
}

/// A certificate and its key in files, and a client that trusts it.
fn certificate(folder: &std::path::Path) -> (String, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(vec!["chat.example.com".to_owned()]).unwrap();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(&cert).unwrap()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (format!("tls: {{ certificates: [{{ cert: {cert:?}, key: {key:?} }}] }}"), Arc::new(config).into())
}

/// The heap that a session keeps when it is idle: after a message of two bytes, and after one of 16 KiB.
struct PerSession {
    idle: i64,
    after_a_burst: i64,
}

/// Opens sessions and looks at what they keep.
async fn per_session(access_log: bool, tls: bool) -> PerSession {
    const SESSIONS: usize = 200;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(echo(listener));
    let folder = tempfile::tempdir().unwrap();
    let (tls, connector) = match tls {
        true => {
            let (written, connector) = certificate(folder.path());
            (format!(", {written}"), Some(connector))
        }
        false => (String::new(), None),
    };
    let yaml = format!(
        "workers: 1\nlisteners: [{{ name: l, bind: '127.0.0.1:0'{tls} }}]\n\
         routes: [{{ name: r, upstream: u, timeouts: {{ idle: 1h }} }}]\n\
         upstreams: {{ u: {{ endpoints: ['ws://{server}'] }} }}\nlog: {{ access: {access_log} }}\n"
    );
    let loaded = wsluice::config::load_str("test", &yaml, &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = LogSink::new(Written(Arc::clone(&lines))).unwrap();
    let app = App::start(loaded, None, Registry::new(), LogOutput { sink, terminal: false, switch: None }).unwrap();
    let Address::Tcp(address) = app.listeners()[0].1.clone() else { panic!("TCP") };
    // The first ones fill pools and tables that all share.
    let mut open = vec![];
    for _ in 0..50 {
        let mut stream = client(address, connector.as_ref()).await;
        say(&mut stream, 16 * 1024).await;
        open.push(stream);
    }
    let before = settled().await;
    for _ in 0..SESSIONS {
        open.push(client(address, connector.as_ref()).await);
    }
    let idle = settled().await;
    for stream in &mut open[50..] {
        say(stream, 16 * 1024).await;
    }
    let after_a_burst = settled().await;
    drop(open);
    drop(app);
    let each = |held: i64| (held - before) / SESSIONS as i64;
    PerSession { idle: each(idle), after_a_burst: each(after_a_burst) }
}

struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the worker holds once it has held the same for a while: it is asleep.
async fn settled() -> i64 {
    let (mut last, mut same) = (HELD.load(Ordering::Relaxed), 0);
    while same < 20 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let now = HELD.load(Ordering::Relaxed);
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

#[tokio::test]
async fn an_idle_session_keeps_little() {
    let bare = per_session(false, false).await;
    let logged = per_session(true, false).await.idle;
    let tls = per_session(false, true).await;
    println!("heap of an idle session: {} bytes, {logged} with what its log line will say", bare.idle);
    println!("the same with TLS: {} bytes, {} after a message of 16 KiB", tls.idle, tls.after_a_burst);
    // 110 of them are the book in which an operator finds it, and in which it is told to stop.
    assert!(bare.idle <= 1300, "{} bytes", bare.idle);
    assert!(logged <= bare.idle + 300, "{logged} bytes");
    assert!(bare.after_a_burst <= bare.idle + 16, "{} bytes", bare.after_a_burst);
    // tokio-rustls keeps buffers of its own for each connection.
    if cfg!(not(feature = "tls-tokio")) {
        assert!(tls.idle <= 4500, "{} bytes", tls.idle);
        assert!(tls.after_a_burst <= tls.idle + 16, "{} bytes", tls.after_a_burst);
    }
}
