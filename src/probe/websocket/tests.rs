//! A probe before servers of every kind of badness.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::health::threshold::HealthThresholds;
use crate::probe::{Check, Probe};
use crate::upstream::connect::ConnectTarget;
use crate::ws::frame::{ControlFrame, FrameHeader, HEADER_BYTES_MAX, apply_mask};
use crate::ws::handshake::{WebSocketKey, accept_for};

fn plain() -> WebSocket {
    WebSocket {
        target: "/ws?x=1".into(),
        host: None,
        headers: HeaderMap::new(),
        subprotocol: None,
        send: None,
        expect: None,
    }
}

fn contains(text: &str) -> Option<Expect> {
    Some(Expect::Contains(text.into()))
}

/// One connection as its server sees it.
struct Accepted {
    stream: TcpStream,
    head: String,
}

impl Accepted {
    async fn new(listener: &TcpListener) -> Accepted {
        let mut stream = listener.accept().await.unwrap().0;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        Accepted { stream, head: String::from_utf8(head).unwrap() }
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    async fn switch(&mut self, more: &str) {
        let key: WebSocketKey = self.field("Sec-WebSocket-Key").unwrap().as_bytes().try_into().unwrap();
        let accept = String::from_utf8(accept_for(&key).to_vec()).unwrap();
        self.send(&format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
        ))
        .await;
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next frame, which must be masked.
    async fn frame(&mut self) -> (Opcode, Vec<u8>) {
        let mut bytes = Vec::new();
        loop {
            if let Some((header, _)) = FrameHeader::parse(&bytes).unwrap() {
                let mut payload = vec![0; header.payload as usize];
                self.stream.read_exact(&mut payload).await.unwrap();
                apply_mask(header.mask.expect("a client masks"), &mut payload);
                return (header.opcode, payload);
            }
            bytes.push(self.stream.read_u8().await.unwrap());
        }
    }
}

fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    fragment(true, opcode, payload)
}

fn fragment(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = [0; HEADER_BYTES_MAX];
    let length =
        FrameHeader { fin, rsv: 0, opcode, mask: None, payload: payload.len() as u64, shortest: true }.encode(&mut out);
    [&out[..length], payload].concat()
}

/// What `probe` says of a server that does `serve` with its one connection.
async fn verdict<F: Future<Output = ()>>(probe: WebSocket, serve: impl FnOnce(Accepted) -> F) -> &'static str {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connector = Connector::new(ConnectTarget::Address(listener.local_addr().unwrap()), None);
    let second = Duration::from_secs(1);
    let check = Check {
        probe: Probe::WebSocket(probe),
        every: second,
        timeout: Duration::from_millis(300),
        rule: HealthThresholds { rise: 1, fall: 1 },
    };
    let served = async { serve(Accepted::new(&listener).await).await };
    let (result, ()) = tokio::join!(check.once(&connector), served);
    result.map_or_else(|error| error.label(), |()| "passed")
}

#[tokio::test(flavor = "current_thread")]
async fn a_ping_answered_by_its_pong_is_enough_and_the_server_gets_a_close() {
    let probe = WebSocket { subprotocol: Some("chat".into()), ..plain() };
    let said = verdict(probe, async |mut server: Accepted| {
        assert!(server.head.starts_with("GET /ws?x=1 HTTP/1.1\r\nHost: 127.0.0.1:"));
        assert_eq!(server.field("Sec-WebSocket-Version"), Some("13"));
        assert_eq!(server.field("user-agent"), Some("wsluice-probe"));
        server.switch("Sec-WebSocket-Protocol: chat\r\n").await;
        let (opcode, nonce) = server.frame().await;
        assert_eq!(opcode, Opcode::Ping);
        // Other pongs, its own ping and what it has to tell do not matter.
        server.send(frame(Opcode::Pong, b"other")).await;
        server.send(frame(Opcode::Ping, b"you?")).await;
        server.send(frame(Opcode::Binary, &vec![7; 300_000])).await;
        server.send(frame(Opcode::Pong, &nonce)).await;
        assert_eq!(server.frame().await, (Opcode::Pong, b"you?".to_vec()));
        assert_eq!(server.frame().await, (Opcode::Close, 1000u16.to_be_bytes().to_vec()));
        server.send(frame(Opcode::Close, &1000u16.to_be_bytes())).await;
        assert_eq!(server.stream.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
    assert_eq!(said, "passed");
}

#[tokio::test(flavor = "current_thread")]
async fn the_expected_message_may_come_in_fragments_and_after_others() {
    let probe = || WebSocket { send: Some("are you well?".into()), expect: contains("very well"), ..plain() };
    let answer = |last: &'static [u8]| {
        async move |mut server: Accepted| {
            server.switch("").await;
            let (_, nonce) = server.frame().await;
            assert_eq!(server.frame().await, (Opcode::Text, b"are you well?".to_vec()));
            server.send(frame(Opcode::Text, b"hello")).await;
            server.send(frame(Opcode::Binary, b"very well")).await;
            server.send(fragment(false, Opcode::Text, b"very")).await;
            server.send(frame(Opcode::Pong, &nonce)).await;
            server.send(fragment(true, Opcode::Continuation, last)).await;
            // Until the probe has made up its mind.
            let _ = server.stream.read(&mut [0; 64]).await;
        }
    };
    assert_eq!(verdict(probe(), answer(b" well")).await, "passed");
    assert_eq!(verdict(probe(), answer(b" ill")).await, "message_timeout");
}

#[tokio::test(flavor = "current_thread")]
async fn each_way_to_be_unfit_has_its_name() {
    let hold = async |mut server: Accepted| {
        let _ = server.stream.read(&mut [0]).await;
    };
    assert_eq!(verdict(plain(), hold).await, "answer_timeout");
    let refuse = async |mut server: Accepted| server.send("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(verdict(plain(), refuse).await, "status");
    let lie = async |mut server: Accepted| {
        server
            .send(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            )
            .await;
    };
    assert_eq!(verdict(plain(), lie).await, "false_101");
    let gone = async |server: Accepted| drop(server);
    assert_eq!(verdict(plain(), gone).await, "handshake_lost");
    let deaf = async |mut server: Accepted| {
        server.switch("").await;
        while server.stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
    };
    assert_eq!(verdict(plain(), deaf).await, "pong_timeout");
    let other = async |mut server: Accepted| {
        server.switch("").await;
        let _ = server.stream.read(&mut [0]).await;
    };
    assert_eq!(verdict(WebSocket { subprotocol: Some("chat".into()), ..plain() }, other).await, "subprotocol");
    let after = |bytes: Vec<u8>| {
        async move |mut server: Accepted| {
            server.switch("").await;
            let _ = server.frame().await;
            server.send(bytes).await;
            let _ = server.stream.read(&mut [0]).await;
        }
    };
    assert_eq!(verdict(plain(), after(frame(Opcode::Close, &1013u16.to_be_bytes()))).await, "closed");
    let masked = ControlFrame::new(Opcode::Pong, b"", Some([1; 4])).as_bytes().to_vec();
    for illegal in [masked, vec![0xFF, 0], fragment(true, Opcode::Continuation, b""), vec![0xC1, 0], vec![0x09, 0]] {
        assert_eq!(verdict(plain(), after(illegal)).await, "protocol");
    }
}
