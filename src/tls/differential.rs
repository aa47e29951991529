//! Plays the same script to both kinds of stream: they read the same bytes, reach the same end, and answer the peer
//! alike.
//!
//! One peer makes its records by hand, with the keys of a handshake that rustls performed, so it can send what no
//! library sends. The other peer is tokio-rustls; it changes its keys.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use proptest::prelude::*;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::cipher_suite::{TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS13_AES_256_GCM_SHA384};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, Connection, ConnectionTrafficSecrets, ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::client::{ClientTlsOptions, client_config};
use super::kinds::{Cut, Io, Kind, Own, TokioRustls};
use super::server::{MinVersion, ServerTlsOptions, server_config};
use super::test_certificates::Ca;
use super::tickets::TicketKeys;

const CHANGE_CIPHER: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

const NAME: &str = "a.example";

fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

/// How the two sides meet.
#[derive(Debug, Clone, Copy)]
struct Meeting {
    is_tls_1_3: bool,
    /// Whether our side is the server.
    we_serve: bool,
    /// The seed by which our socket is cut.
    seed: u64,
    most: usize,
    largest_read: usize,
}

/// What the peer sends after the handshake.
#[derive(Debug, Clone)]
enum Step {
    /// An encrypted record of this type.
    Record(u8, Vec<u8>),
    /// Bytes as they are.
    Raw(Vec<u8>),
}

/// How the peer ends the connection: after the last step it sends this and FIN.
#[derive(Debug, Clone, Copy)]
enum Last {
    CloseNotify,
    Nothing,
    HalfARecord,
}

/// Types and contents of records.
type Records = Vec<(u8, Vec<u8>)>;

/// The outcome of a script.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    read: Vec<u8>,
    /// The results of the read that ended it, and of the one after.
    ends: [String; 2],
    /// The results of later writes and ends on our side.
    afterwards: Vec<String>,
    /// What the peer received: types and contents; adjacent data as one.
    told: Records,
}

fn described(result: io::Result<usize>) -> String {
    match result {
        Ok(count) => format!("{count} bytes"),
        Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => format!("{:?}: {tls:?}", error.kind()),
            None => format!("{:?}", error.kind()),
        },
    }
}

/// Our side: writes `x`, reads to the end, and tries to go on.
async fn subject(mut tls: impl Io, largest_read: usize) -> (Vec<u8>, [String; 2], Vec<String>) {
    tls.write_all(b"x").await.unwrap();
    tls.flush().await.unwrap();
    let mut all = Vec::new();
    let mut piece = vec![0; largest_read];
    let end = loop {
        match tls.read(&mut piece).await {
            Ok(count @ 1..) => all.extend_from_slice(&piece[..count]),
            end => break described(end),
        }
    };
    let again = described(tls.read(&mut piece).await);
    let mut afterwards = Vec::new();
    afterwards.push(described(tls.write(b"after the end").await));
    afterwards.push(described(tls.flush().await.map(|()| 0)));
    afterwards.push(described(tls.shutdown().await.map(|()| 0)));
    afterwards.push(described(tls.write(b"never").await));
    (all, [end, again], afterwards)
}

/// The configurations, made once, since certificates take time.
struct Configs {
    our_server: ServerConfig,
    our_client: ClientConfig,
    /// For TLS 1.2 and 1.3.
    servers: [Arc<ServerConfig>; 2],
    clients: [Arc<ClientConfig>; 2],
}

fn configs() -> &'static Configs {
    static CONFIGS: OnceLock<Configs> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let ca = Ca::new();
        let identity = ca.identity(&[NAME]);
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites = vec![TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS13_AES_256_GCM_SHA384];
        let provider = Arc::new(provider);
        let servers = [&TLS12, &TLS13].map(|version| {
            let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&identity.key))));
            server.enable_secret_extraction = true;
            Arc::new(server)
        });
        let clients = [&TLS12, &TLS13].map(|version| {
            let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(ca.roots())
                .with_no_client_auth();
            client.enable_secret_extraction = true;
            client.resumption = Resumption::disabled();
            Arc::new(client)
        });
        let options = ServerTlsOptions {
            identities: vec![identity],
            min_version: MinVersion::Tls12,
            client_auth: None,
            alpn: vec![b"http/1.1"],
            may_move: false,
        };
        let our_server = server_config(&options, &TicketKeys::new().unwrap()).unwrap();
        let our_client = ClientTlsOptions { roots: Some(ca.authorities()), ..ClientTlsOptions::default() };
        let mut our_client = ClientConfig::clone(&client_config(&our_client).unwrap());
        our_client.resumption = Resumption::disabled();
        Configs { our_server: ServerConfig::clone(&our_server), our_client, servers, clients }
    })
}

/// The keys of one direction, and the number of records so far.
struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    is_tls_1_3: bool,
}

impl Keys {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets), is_tls_1_3: bool) -> Keys {
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("the only cipher") };
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
        Keys { key, iv: iv.as_ref().try_into().unwrap(), sequence, is_tls_1_3 }
    }

    /// Returns nonce and additional data of the next record (RFC 8446 §5.2, §5.3; RFC 5288 §3, RFC 5246 §6.2.3.3).
    fn next(&mut self, kind: u8, explicit: [u8; 8], plain: usize) -> (Nonce, Vec<u8>) {
        let sequence = self.sequence.to_be_bytes();
        self.sequence += 1;
        let mut nonce = self.iv;
        if self.is_tls_1_3 {
            nonce[4..].iter_mut().zip(sequence).for_each(|(byte, of_sequence)| *byte ^= of_sequence);
            let [high, low] = u16::try_from(plain + 16).unwrap().to_be_bytes();
            (Nonce::assume_unique_for_key(nonce), vec![DATA, 3, 3, high, low])
        } else {
            nonce[4..].copy_from_slice(&explicit);
            let [high, low] = u16::try_from(plain).unwrap().to_be_bytes();
            let additional = [&sequence[..], &[kind, 3, 3, high, low]].concat();
            (Nonce::assume_unique_for_key(nonce), additional)
        }
    }

    fn seal(&mut self, kind: u8, plain: &[u8]) -> Vec<u8> {
        let explicit = self.sequence.to_be_bytes();
        let mut sealed = plain.to_vec();
        if self.is_tls_1_3 {
            sealed.push(kind);
        }
        let (nonce, additional) = self.next(kind, explicit, sealed.len());
        self.key.seal_in_place_append_tag(nonce, Aad::from(additional), &mut sealed).unwrap();
        let (kind, explicit) = if self.is_tls_1_3 { (DATA, &[][..]) } else { (kind, &explicit[..]) };
        let [high, low] = u16::try_from(explicit.len() + sealed.len()).unwrap().to_be_bytes();
        [&[kind, 3, 3, high, low], explicit, &sealed].concat()
    }

    /// Returns type and content of a record; `None` if it uses other keys.
    fn open(&mut self, kind: u8, sealed: &[u8]) -> Option<(u8, Vec<u8>)> {
        let (explicit, sealed) = if self.is_tls_1_3 { (&[0; 8][..], sealed) } else { sealed.split_at(8) };
        let (nonce, additional) = self.next(kind, explicit.try_into().unwrap(), sealed.len() - 16);
        let mut sealed = sealed.to_vec();
        let mut plain = self.key.open_in_place(nonce, Aad::from(additional), &mut sealed).ok()?.to_vec();
        let kind = if self.is_tls_1_3 { plain.pop()? } else { kind };
        Some((kind, plain))
    }

    /// Returns all records of `bytes` without tickets, since their time does not concern the reader.
    fn open_all(&mut self, mut bytes: &[u8]) -> Records {
        let mut all = Records::new();
        while let &[kind, _, _, high, low, ref rest @ ..] = bytes {
            let (sealed, rest) = rest.split_at(usize::from(u16::from_be_bytes([high, low])));
            bytes = rest;
            match (self.open(kind, sealed), all.last_mut()) {
                (Some((HANDSHAKE, _)), _) => {}
                (Some((DATA, more)), Some((DATA, data))) => data.extend(more),
                (Some(record), _) => all.push(record),
                (None, _) => all.push((0, Vec::new())),
            }
        }
        assert!(bytes.is_empty(), "half a record");
        all
    }
}

/// The peer: a handshake by rustls, then the script. Returns what it received after the `x`.
async fn peer(mut tls: Connection, mut io: DuplexStream, script: Vec<Step>, last: Last) -> Records {
    let mut got = Vec::new();
    loop {
        let mut bytes = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut bytes).unwrap();
        }
        io.write_all(&bytes).await.unwrap();
        if got == b"x" {
            break;
        }
        let mut buffer = vec![0; 4096];
        let count = io.read(&mut buffer).await.unwrap();
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            tls.read_tls(&mut rest).unwrap();
            tls.process_new_packets().unwrap();
        }
        let _ = io::Read::read_to_end(&mut tls.reader(), &mut got);
    }
    let is_tls_1_3 = tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
    let secrets = tls.dangerous_extract_secrets().unwrap();
    let (mut ours, mut theirs) = (Keys::new(secrets.tx, is_tls_1_3), Keys::new(secrets.rx, is_tls_1_3));
    let mut bytes = Vec::new();
    for step in script {
        match step {
            Step::Record(kind, plain) => bytes.extend(ours.seal(kind, &plain)),
            Step::Raw(raw) => bytes.extend(raw),
        }
    }
    match last {
        Last::CloseNotify => bytes.extend(ours.seal(ALERT, &[1, 0])),
        Last::Nothing => {}
        Last::HalfARecord => bytes.extend(&ours.seal(DATA, &[7; 100])[..60]),
    }
    // The other side may refuse it before all of it is sent.
    let _ = io.write_all(&bytes).await;
    let _ = io.shutdown().await;
    let mut told = Vec::new();
    io.read_to_end(&mut told).await.unwrap();
    theirs.open_all(&told)
}

/// The peer that rustls drives: writes these amounts, behind new keys if the flag is set, and ends.
async fn library(mut tls: tokio_rustls::TlsStream<DuplexStream>, script: Vec<(usize, bool)>, last: Last) -> Records {
    assert_eq!(tls.read_u8().await.unwrap(), b'x');
    for (index, (count, new_keys)) in script.into_iter().enumerate() {
        if new_keys {
            // TLS 1.2 has none.
            let _ = match &mut tls {
                tokio_rustls::TlsStream::Client(stream) => stream.get_mut().1.refresh_traffic_keys(),
                tokio_rustls::TlsStream::Server(stream) => stream.get_mut().1.refresh_traffic_keys(),
            };
        }
        tls.write_all(&vec![index as u8; count]).await.unwrap();
    }
    tls.flush().await.unwrap();
    match last {
        Last::CloseNotify => tls.shutdown().await.unwrap(),
        Last::Nothing => {}
        Last::HalfARecord => tls.get_mut().0.write_all(&[DATA, 3, 3, 0, 100, 7, 7]).await.unwrap(),
    }
    tls.get_mut().0.shutdown().await.unwrap();
    let mut told = Vec::new();
    let end = described(tls.read_to_end(&mut told).await);
    vec![(DATA, told), (0, end.into_bytes())]
}

impl Meeting {
    /// Connects our side of this kind with a peer.
    async fn run<K: Kind, P>(&self, peer: impl FnOnce(DuplexStream) -> P) -> Outcome
    where
        P: Future<Output = Records>,
    {
        let (one, other) = duplex(8 << 20);
        let ours = Cut { io: one, random: fastrand::Rng::with_seed(self.seed), most: self.most };
        let configs = configs();
        let subject = async {
            if self.we_serve {
                subject(K::accept(configs.our_server.clone(), ours).await.unwrap(), self.largest_read).await
            } else {
                subject(K::connect(configs.our_client.clone(), name(), ours).await.unwrap(), self.largest_read).await
            }
        };
        let both = async { tokio::join!(subject, peer(other)) };
        let ((read, ends, afterwards), told) = timeout(Duration::from_secs(60), both).await.unwrap();
        Outcome { read, ends, afterwards, told }
    }

    fn by_hand<K: Kind>(&self, script: &[Step], last: Last) -> Outcome {
        let configs = configs();
        let version = usize::from(self.is_tls_1_3);
        let tls: Connection = if self.we_serve {
            ClientConnection::new(Arc::clone(&configs.clients[version]), name()).unwrap().into()
        } else {
            ServerConnection::new(Arc::clone(&configs.servers[version])).unwrap().into()
        };
        block_on(self.run::<K, _>(|io| peer(tls, io, script.to_vec(), last)))
    }

    fn by_library<K: Kind>(&self, script: &[(usize, bool)], last: Last) -> Outcome {
        let configs = configs();
        let version = usize::from(self.is_tls_1_3);
        block_on(self.run::<K, _>(async |io| {
            let tls = if self.we_serve {
                let connector = TlsConnector::from(Arc::clone(&configs.clients[version]));
                tokio_rustls::TlsStream::from(connector.connect(name(), io).await.unwrap())
            } else {
                let acceptor = TlsAcceptor::from(Arc::clone(&configs.servers[version]));
                tokio_rustls::TlsStream::from(acceptor.accept(io).await.unwrap())
            };
            library(tls, script.to_vec(), last).await
        }))
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// A NewSessionTicket (RFC 8446 §4.6.1) of 100 bytes.
fn ticket() -> Vec<u8> {
    let mut message = vec![4, 0, 0, 0, 0, 0, 28, 32, 1, 2, 3, 4, 1, 7, 0, 100];
    message.extend([7; 100]);
    message.extend([0, 0]);
    message[3] = u8::try_from(message.len() - 4).unwrap();
    message
}

fn meeting() -> impl Strategy<Value = Meeting> {
    let most = prop_oneof![Just(1_usize), Just(10), Just(1_000), Just(100_000)];
    let read = prop_oneof![Just(1_usize), Just(7), Just(1_000), Just(16_384), Just(100_000)];
    (any::<bool>(), any::<bool>(), any::<u64>(), most, read).prop_map(
        |(is_tls_1_3, we_serve, seed, most, largest_read)| Meeting { is_tls_1_3, we_serve, seed, most, largest_read },
    )
}

fn last() -> impl Strategy<Value = Last> {
    prop_oneof![Just(Last::CloseNotify), Just(Last::Nothing), Just(Last::HalfARecord)]
}

/// Sequences of records.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let data = |sizes: std::ops::Range<usize>| sizes.prop_map(|size| vec![Step::Record(DATA, vec![size as u8; size])]);
    let record = |kind, plain: &[u8]| Just(vec![Step::Record(kind, plain.to_vec())]);
    let many = |kind, plain: &'static [u8], most: usize| {
        (1..most).prop_map(move |count| vec![Step::Record(kind, plain.to_vec()); count])
    };
    let raw = |bytes: &[u8]| Just(vec![Step::Raw(bytes.to_vec())]);
    // Handshake messages in pieces, whose end may be missing.
    let pieces = (1..200_usize, 1..4_usize, 0..3_usize).prop_map(|(size, count, missing)| {
        let all = ticket().repeat(count);
        let mut pieces: Vec<_> = all.chunks(size).map(|piece| Step::Record(HANDSHAKE, piece.to_vec())).collect();
        pieces.truncate(pieces.len() - missing.min(pieces.len() - 1));
        pieces
    });
    prop_oneof![
        20 => data(0..200),
        5 => data(0..16_386),
        3 => many(DATA, b"d", 50),
        3 => many(DATA, b"", 40),
        2 => many(ALERT, &[1, 90], 6),
        4 => pieces,
        1 => record(ALERT, &[1, 0]),
        1 => record(ALERT, &[2, 40]),
        1 => record(ALERT, &[2]),
        2 => many(HANDSHAKE, &[0, 0, 0, 0], 4),
        1 => record(HANDSHAKE, &[]),
        1 => record(HANDSHAKE, &[24, 0, 0, 1, 1]),
        1 => record(HANDSHAKE, &[1, 0, 0, 2, 3, 3]),
        1 => record(CHANGE_CIPHER, &[1]),
        1 => record(99, b"unknown"),
        1 => raw(&[CHANGE_CIPHER, 3, 3, 0, 1, 1]),
        1 => raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        1 => raw(&[DATA, 3, 3, 0xff, 0xff]),
        1 => raw(&[DATA, 3, 3, 0, 0]),
        1 => raw(&[&[DATA, 3, 3, 0, 48][..], &[7; 48]].concat()),
        1 => proptest::collection::vec(any::<u8>(), 1..100).prop_map(|bytes| vec![Step::Raw(bytes)]),
    ]
}

fn script() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(steps(), 0..12).prop_map(|all| all.concat())
}

proptest! {
    #[test]
    fn both_kinds_make_the_same_of_any_records(meeting in meeting(), script in script(), last in last()) {
        let own = meeting.by_hand::<Own>(&script, last);
        let other = meeting.by_hand::<TokioRustls>(&script, last);
        prop_assert_eq!(own, other);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn both_kinds_make_the_same_of_a_peer_that_keeps_to_the_protocol(
        meeting in meeting(),
        script in proptest::collection::vec((prop_oneof![0..100_usize, 0..70_000_usize], any::<bool>()), 0..12),
        last in last(),
    ) {
        let own = meeting.by_library::<Own>(&script, last);
        let other = meeting.by_library::<TokioRustls>(&script, last);
        prop_assert_eq!(own, other);
    }
}
