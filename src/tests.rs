//! The whole in this process, where it makes a mistake: what a panic ends, and what goes on.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::app::App;
use crate::control::context::LogOutput;
use crate::net::listener::Address;
use crate::telemetry::panics::{TRAP_BODY, TRAP_MESSAGE_BYTES, TRAP_REQUEST};
use crate::telemetry::sink::LogSink;
use crate::ws::frame::{FrameHeader, HEADER_BYTES_MAX, Opcode};

const LONG: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A proxy of one worker before a server that echoes messages and answers plain requests with `answer`.
struct Whole {
    app: App,
    address: SocketAddr,
    sink: LogSink,
    lines: Lines,
    /// How each session ended for the server: the code and reason of a Close, or what was lost.
    ends: UnboundedReceiver<String>,
}

impl Whole {
    async fn start() -> Whole {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let (told, ends) = unbounded_channel();
        tokio::spawn(serve(listener, told));
        let yaml = format!(
            "workers: 1\nlisteners: [{{ name: l, bind: '127.0.0.1:0' }}]\nroutes: [{{ name: r, upstream: u, limits: {{ connections: 3 }} }}]\n\
             upstreams: {{ u: {{ endpoints: ['ws://{server}'] }} }}\n"
        );
        let loaded = crate::config::load_str("test", &yaml, &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
        let lines = Lines::default();
        let sink = LogSink::new(lines.clone()).unwrap();
        let output = LogOutput { sink: sink.clone(), terminal: false, switch: None };
        let app = App::start(loaded, None, Registry::new(), output).unwrap();
        let Address::Tcp(address) = app.listeners()[0].1 else { panic!("TCP") };
        Whole { app, address, sink, lines, ends }
    }

    async fn client(&self) -> WebSocketStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        client_async(format!("ws://{}/chat", self.address), stream).await.unwrap().0
    }

    /// What the proxy answers to a request, up to the end of the connection.
    async fn ask(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).as_bytes()).await.unwrap();
        let mut answer = vec![];
        // A connection that is cut is an end as well.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    fn metric(&self, series: &str) -> f64 {
        let text = crate::telemetry::exposition::encode(self.app.registry()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    async fn metric_becomes(&self, series: &str, value: f64) {
        eventually(|| self.metric(series) == value).await;
    }

    fn log(&self) -> Vec<serde_json::Value> {
        assert!(self.sink.flush(LONG));
        let text = String::from_utf8(self.lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Nothing is left of any connection: not in the gauges, not on the endpoint, not on the route, which has room again.
    async fn is_empty(&self) {
        eventually(|| self.app.active() == 0).await;
        self.metric_becomes("wsluice_connections_active{listener=\"l\"}", 0.0).await;
        assert_eq!(self.metric("wsluice_sessions_active{listener=\"l\",route=\"r\",upstream=\"u\"}"), 0.0);
        let mut clients = vec![];
        for _ in 0..3 {
            clients.push(self.client().await);
            echoes(clients.last_mut().unwrap()).await;
        }
    }
}

async fn eventually(mut check: impl FnMut() -> bool) {
    let looked = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, looked).await.expect("it never came");
}

async fn serve(listener: TcpListener, told: UnboundedSender<String>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let told = told.clone();
        tokio::spawn(async move {
            let mut head = [0; 4096];
            let seen = stream.peek(&mut head).await.unwrap();
            if !String::from_utf8_lossy(&head[..seen]).to_lowercase().contains("upgrade: websocket") {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody").await.unwrap();
                let _ = stream.read_to_end(&mut vec![]).await;
                return;
            }
            let mut socket = accept_async(stream).await.unwrap();
            let end = loop {
                match socket.next().await {
                    Some(Ok(Message::Close(Some(close)))) => break format!("{} {}", close.code, close.reason),
                    Some(Ok(message)) if message.is_close() => break "no code".into(),
                    Some(Ok(message)) => drop(socket.send(message).await),
                    Some(Err(error)) => break error.to_string(),
                    None => break "nothing".into(),
                }
            };
            while let Some(Ok(_)) = socket.next().await {}
            let _ = told.send(end);
        });
    }
}

async fn echoes(client: &mut WebSocketStream<TcpStream>) {
    client.send(Message::text("hello")).await.unwrap();
    let answer = tokio::time::timeout(LONG, client.next()).await.unwrap();
    assert_eq!(answer.unwrap().unwrap(), Message::text("hello"));
}

async fn expect_1011(client: &mut WebSocketStream<TcpStream>) {
    let close = tokio::time::timeout(LONG, client.next()).await.unwrap().unwrap().unwrap();
    let Message::Close(Some(close)) = close else { panic!("{close:?}") };
    assert_eq!((u16::from(close.code), close.reason.as_str()), (1011, "internal error"));
    while let Some(Ok(_)) = client.next().await {}
}

const PANICKED: &str = r#"wsluice_session_closes_total{code="1011",initiator="proxy",reason="panic",route="r"}"#;

#[tokio::test]
async fn a_panic_ends_its_session_with_1011_and_no_other() {
    let mut whole = Whole::start().await;
    let (mut neighbour, mut client) = (whole.client().await, whole.client().await);
    echoes(&mut neighbour).await;
    echoes(&mut client).await;
    let counted = whole.metric("wsluice_panics_total{where=\"session\"}");
    client.send(Message::binary(vec![7; TRAP_MESSAGE_BYTES as usize])).await.unwrap();
    expect_1011(&mut client).await;
    assert_eq!(whole.ends.recv().await.unwrap(), "1011 ");
    whole.metric_becomes(PANICKED, 1.0).await;
    assert!(whole.metric("wsluice_panics_total{where=\"session\"}") > counted);
    // Both were on the same thread.
    echoes(&mut neighbour).await;
    let log = whole.log();
    let codes: Vec<_> = log.iter().map(|line| (line["reason"].as_str(), line["close_code"].as_u64())).collect();
    assert_eq!(codes, [(Some("panic"), Some(1011))]);
    neighbour.close(None).await.unwrap();
    while let Some(Ok(_)) = neighbour.next().await {}
    whole.is_empty().await;
}

#[tokio::test]
async fn a_panic_inside_a_frame_leaves_the_peer_that_has_half_of_it_without_a_close() {
    let mut whole = Whole::start().await;
    let mut client = whole.client().await;
    echoes(&mut client).await;
    let mut header = [0; HEADER_BYTES_MAX];
    let frame = FrameHeader {
        fin: true,
        rsv: 0,
        opcode: Opcode::Binary,
        mask: Some([0; 4]),
        payload: TRAP_MESSAGE_BYTES,
        shortest: true,
    };
    let length = frame.encode(&mut header);
    let received = "wsluice_bytes_total{direction=\"in\",route=\"r\"}";
    let before = whole.metric(received);
    client.get_mut().write_all(&header[..length]).await.unwrap();
    client.get_mut().write_all(&[0; 1000]).await.unwrap();
    whole.metric_becomes(received, before + length as f64 + 1000.0).await;
    client.get_mut().write_all(&[0; TRAP_MESSAGE_BYTES as usize - 1000]).await.unwrap();
    expect_1011(&mut client).await;
    let end = whole.ends.recv().await.unwrap();
    assert!(!end.contains("1011"), "{end}");
    whole.metric_becomes(PANICKED, 1.0).await;
    whole.is_empty().await;
}

#[tokio::test]
async fn a_panic_in_a_request_is_a_500_and_the_end_of_its_connection() {
    let whole = Whole::start().await;
    let mut neighbour = whole.client().await;
    let answer = whole.ask(TRAP_REQUEST).await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.ends_with("panic: the proxy failed on this request\n"), "{answer}");
    echoes(&mut neighbour).await;
    neighbour.close(None).await.unwrap();
    while let Some(Ok(_)) = neighbour.next().await {}
    eventually(|| whole.log().len() == 2).await;
    let line = whole.log().remove(0);
    assert_eq!((line["reason"].as_str(), line["status"].as_u64()), (Some("panic"), Some(500)));
    assert!(line["detail"].as_str().unwrap().contains("a mistake"), "{line}");
    whole.is_empty().await;
}

#[tokio::test]
async fn a_panic_amid_an_answer_ends_its_connection_and_no_other() {
    let whole = Whole::start().await;
    let mut neighbour = whole.client().await;
    let counted = whole.metric("wsluice_panics_total{where=\"connection\"}");
    let answer = whole.ask(TRAP_BODY).await;
    assert!(!answer.ends_with("body"), "{answer}");
    eventually(|| whole.metric("wsluice_panics_total{where=\"connection\"}") > counted).await;
    echoes(&mut neighbour).await;
    neighbour.close(None).await.unwrap();
    while let Some(Ok(_)) = neighbour.next().await {}
    whole.is_empty().await;
}
