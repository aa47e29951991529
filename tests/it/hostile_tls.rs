//! Endpoints that abuse TLS: each gets its own error, or no more than its turn. The records are made by hand, with the
//! keys of a handshake that rustls performed.
//!
//! Endless new keys, which no library can send, are in `src/tls/stream/tests.rs`.

use std::iter::repeat_n;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ConnectionTrafficSecrets, ServerConfig, ServerConnection};
use tokio::io::AsyncReadExt;

use crate::harness::{Authority, Conn, Event, Frame, Handshake, Head, Proxy, RawServer, switching, within, yaml};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// A server of this authority that sends no tickets and reveals its keys.
fn config(authority: &Authority) -> Arc<ServerConfig> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![TLS13_AES_256_GCM_SHA384];
    let (cert, key) = authority.issue("hostile", &["127.0.0.1"]);
    let certificates = vec![CertificateDer::from_pem_file(cert).unwrap()];
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    config.enable_secret_extraction = true;
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// A proxy with one worker before that server, by TLS, and before `good` if a path begins with `/good`.
fn start(authority: &Authority, hostile: &RawServer, good: &RawServer) -> Proxy {
    let url = hostile.url().replace("ws://", "wss://");
    let yaml = yaml(&[&url], &["timeouts: { connect: 300ms }", "limits: { control: off }"]);
    let yaml = yaml.replace("app: { ", &format!("app: {{ tls: {{ ca: {:?} }}, ", authority.ca()));
    let yaml =
        yaml.replace("routes:", "routes:\n  - { name: good, match: { path: { prefix: /good } }, upstream: good }");
    Proxy::start(&format!("{yaml}  good: {{ endpoints: [{:?}] }}\n", good.url()))
}

/// Reads once, passes the bytes to `tls`, and sends its answer, or the start of that.
async fn step(conn: &mut Conn, tls: &mut ServerConnection, most: usize) {
    let mut bytes = vec![0; 16 * 1024];
    let count = within("bytes of the handshake", conn.io.read(&mut bytes)).await.unwrap();
    assert!(count > 0, "the proxy has gone");
    let mut rest = &bytes[..count];
    while !rest.is_empty() {
        tls.read_tls(&mut rest).unwrap();
        tls.process_new_packets().unwrap();
    }
    let mut answer = vec![];
    while tls.wants_write() {
        tls.write_tls(&mut answer).unwrap();
    }
    answer.truncate(most);
    conn.send(answer).await;
}

/// A session over records made by hand.
struct Hostile {
    conn: Conn,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Hostile {
    /// Performs valid handshakes of TLS and of the WebSocket.
    async fn open(mut conn: Conn, config: &Arc<ServerConfig>) -> Hostile {
        let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
        let mut request = vec![];
        while !request.ends_with(b"\r\n\r\n") {
            step(&mut conn, &mut tls, usize::MAX).await;
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = std::io::Read::read(&mut tls.reader(), &mut bytes) {
                request.extend_from_slice(&bytes[..count]);
            }
        }
        let (sequence, ConnectionTrafficSecrets::Aes256Gcm { key, iv }) = tls.dangerous_extract_secrets().unwrap().tx
        else {
            panic!("the only cipher")
        };
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
        let mut hostile = Hostile { conn, key, iv: iv.as_ref().try_into().unwrap(), sequence };
        let answer = hostile.record(DATA, &switching(&Head::parse(&request), &[]));
        hostile.conn.send(answer).await;
        hostile
    }

    /// Returns the next record (RFC 8446 §5.2).
    fn record(&mut self, kind: u8, plain: &[u8]) -> Vec<u8> {
        let mut nonce = self.iv;
        nonce.iter_mut().rev().zip(self.sequence.to_le_bytes()).for_each(|(byte, of_sequence)| *byte ^= of_sequence);
        self.sequence += 1;
        let mut sealed = [plain, &[kind]].concat();
        let [high, low] = u16::try_from(sealed.len() + 16).unwrap().to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed).unwrap();
        [&header[..], &sealed].concat()
    }

    fn records<'a>(&mut self, all: impl IntoIterator<Item = (u8, &'a [u8])>) -> Vec<u8> {
        all.into_iter().flat_map(|(kind, plain)| self.record(kind, plain)).collect()
    }
}

/// A NewSessionTicket (RFC 8446 §4.6.1) of 100 bytes.
fn ticket() -> Vec<u8> {
    let mut message = vec![4, 0, 0, 0, 0, 0, 28, 32, 1, 2, 3, 4, 1, 7, 0, 100];
    message.extend([7; 100]);
    message.extend([0, 0]);
    message[3] = u8::try_from(message.len() - 4).unwrap();
    message
}

#[tokio::test]
async fn what_is_no_handshake_is_a_502_at_once() {
    let authority = Authority::new();
    let (mut hostile, good) = (RawServer::start().await, RawServer::start().await);
    let proxy = start(&authority, &hostile, &good);
    let url = hostile.url().replace("ws://", "wss://");
    let record = |kind: u8, plain: &[u8]| [&[kind, 3, 3, 0, u8::try_from(plain.len()).unwrap()], plain].concat();
    let answers: [(&str, Vec<u8>); 12] = [
        ("plain HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("noise", vec![0x5a; 100_000]),
        ("a fatal alert", record(ALERT, &[2, 40])),
        ("warnings without end", record(ALERT, &[1, 90]).repeat(10_000)),
        ("changes of cipher without end", record(20, &[1]).repeat(10_000)),
        ("empty messages without end", record(HANDSHAKE, &[]).repeat(10_000)),
        ("HelloRequests without end", record(HANDSHAKE, &[0; 4]).repeat(10_000)),
        ("data before all", record(DATA, &[7; 100]).repeat(1_000)),
        ("a record of 65,535 bytes", [&[HANDSHAKE, 3, 3, 0xff, 0xff][..], &[0; 65_535]].concat()),
        ("a message of 16 MiB", record(HANDSHAKE, &[2, 0xff, 0xff, 0xff, 3, 3]).repeat(10_000)),
        ("SSL 3", record(HANDSHAKE, &[[2, 0, 0, 38, 3, 0].as_slice(), &[7; 32], &[0, 0, 5, 0]].concat())),
        ("the end", vec![]),
    ];
    for (count, (what, answer)) in (1..).zip(answers) {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut conn = hostile.accept().await;
        assert_eq!(conn.read_exact(1).await, [HANDSHAKE]);
        // The other side may refuse it before all of it is sent.
        let _ = conn.try_send(answer).await;
        conn.finish().await;
        assert_eq!(client.head().await.status(), 502, "{what}");
        let labels = [("upstream", "app"), ("endpoint", &*url), ("reason", "tls")];
        assert_eq!(proxy.metric("wsluice_upstream_errors_total", &labels), f64::from(count), "{what}");
    }
    proxy.idle().await;
}

#[tokio::test]
async fn half_a_handshake_is_a_504_wherever_it_stops() {
    let authority = Authority::new();
    let config = config(&authority);
    let (mut hostile, good) = (RawServer::start().await, RawServer::start().await);
    let proxy = start(&authority, &hostile, &good);
    // Within the first record's header, within ServerHello, and within the encrypted bytes after it.
    for most in [3, 60, 200, 500] {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut conn = hostile.accept().await;
        let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        step(&mut conn, &mut tls, most).await;
        assert_eq!(client.head().await.status(), 504, "{most}");
        // Its connection is closed, too.
        conn.read_to_end().await;
    }
    proxy.idle().await;
}

#[tokio::test]
async fn records_that_carry_nothing_hold_nobody_up() {
    let authority = Authority::new();
    let config = config(&authority);
    let (mut hostile, mut good) = (RawServer::start().await, RawServer::start().await);
    let proxy = start(&authority, &hostile, &good);
    let mut beside = proxy.client().await;
    beside.send(Handshake::to("/good").bytes()).await;
    let mut beside_server = good.accept().await;
    beside_server.switch(&[]).await;
    assert_eq!(beside.head().await.status(), 101);

    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut server = Hostile::open(hostile.accept().await, &config).await;
    assert_eq!(client.head().await.status(), 101);
    let ticket = ticket();
    let whole: Vec<u8> = ticket.repeat(16_000 / ticket.len());
    let pong = Frame::pong("").plain();
    let many: Vec<_> = [&pong[..1], &[], &[], &[], &pong[1..], &[], &[], &[]].map(|plain| (DATA, plain)).into();
    let floods = [
        server.records(repeat_n((HANDSHAKE, &ticket[..]), 5_000)),
        server.records(repeat_n((HANDSHAKE, &whole[..]), 100)),
        server.records(repeat_n(many, 2_000).flatten()),
    ];
    for flood in floods {
        server.conn.send(flood).await;
        beside.put(&Frame::text("beside it")).await;
        beside_server.expect(&Frame::text("beside it")).await;
    }
    let after = server.record(DATA, &Frame::text("after it").plain());
    server.conn.send(after).await;
    for _ in 0..2_000 {
        client.expect(&Frame::pong("")).await;
    }
    client.expect(&Frame::text("after it")).await;
    drop((client, server, beside, beside_server));
    proxy.idle().await;
}

#[tokio::test]
async fn a_session_whose_tls_breaks_ends_with_what_came_before() {
    let authority = Authority::new();
    let config = config(&authority);
    let (mut hostile, good) = (RawServer::start().await, RawServer::start().await);
    let proxy = start(&authority, &hostile, &good);
    type Attack = fn(&mut Hostile) -> Vec<u8>;
    let attacks: [(&str, Attack); 10] = [
        ("a bad record", |_| [&[DATA, 3, 3, 0, 48][..], &[7; 48]].concat()),
        ("a record that is too long", |_| [&[DATA, 3, 3, 0xff, 0xff][..], &[7; 65_535]].concat()),
        ("more than a record may carry", |server| server.record(DATA, &[7; 16_385])),
        ("empty records without end", |server| server.records(repeat_n((DATA, &[][..]), 1_000))),
        ("warnings without end", |server| server.records(repeat_n((ALERT, &[1, 90][..]), 1_000))),
        ("a fatal alert", |server| server.record(ALERT, &[2, 40])),
        ("a HelloRequest", |server| server.record(HANDSHAKE, &[0; 4])),
        ("changes of cipher", |_| [20, 3, 3, 0, 1, 1].repeat(1_000)),
        ("a ticket that never ends", |server| {
            let start = server.record(HANDSHAKE, &[4, 0, 0xff, 0xff]);
            start.into_iter().chain(server.records(repeat_n((HANDSHAKE, &[7][..]), 20_000))).collect()
        }),
        ("data behind close_notify", |server| {
            let behind = Frame::text("never").plain();
            server.records([(ALERT, &[1, 0][..]), (DATA, &behind), (DATA, &behind)])
        }),
    ];
    for (what, attack) in attacks {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut server = Hostile::open(hostile.accept().await, &config).await;
        assert_eq!(client.head().await.status(), 101, "{what}");
        let before = server.record(DATA, &Frame::text("before it").plain());
        let attack = attack(&mut server);
        let _ = server.conn.try_send([before, attack].concat()).await;
        client.expect(&Frame::text("before it")).await;
        assert_eq!(client.event().await, Event::End, "{what}");
        drop((client, server));
        proxy.idle().await;
    }
}
