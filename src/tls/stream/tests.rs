//! Tests of the TLS streams against rustls' usual interface, driven by tokio-rustls.
//!
//! Tests of behaviour that the crate relies on run with both kinds of stream. Tests of buffers, reads, sends and turns
//! run with our own only: the other kind does not promise these.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

use super::super::kinds::{Cut, Io, Kind, Own, with_both_kinds};
use super::super::server::{ClientAuth, ClientAuthMode, MinVersion, ServerTlsOptions, server_config};
use super::super::test_certificates::Ca;
use super::super::tickets::TicketKeys;
use super::super::{client::ClientTlsOptions, client::client_config, provider};
use super::*;
use rustls::version::{TLS12, TLS13};

// With tokio-rustls, no configuration keeps what a move needs.
#[cfg(not(feature = "tls-tokio"))]
mod moving;
#[cfg(not(feature = "tls-tokio"))]
mod openssl;
#[cfg(not(feature = "tls-tokio"))]
mod record_by_record;

/// Counts the reads and writes that moved bytes.
struct Counting {
    io: DuplexStream,
    reads: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.reads.fetch_add(1, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.writes.fetch_add(1, Relaxed);
        Poll::Ready(Ok(count))
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

with_both_kinds! {
    the_bytes_do_not_depend_on_how_the_stream_is_cut,
    records_of_every_size_arrive_whole,
    slices_are_written_whole_and_in_order,
    keys_change_in_mid_stream,
    a_close_notify_is_the_end_and_a_cut_is_an_error,
    a_bad_record_ends_it_with_an_alert,
    a_handshake_message_that_never_ends_is_refused,
    early_data_is_passed_over,
    we_understand_ourselves,
}

const NAME: &str = "a.example";

fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

/// The configurations of both sides; both have certificates.
fn configs(version: &'static SupportedProtocolVersion) -> (ServerConfig, ClientConfig) {
    let ca = Ca::new();
    let options = ServerTlsOptions {
        identities: vec![ca.identity(&[NAME])],
        min_version: MinVersion::Tls12,
        client_auth: Some(ClientAuth { roots: ca.authorities(), mode: ClientAuthMode::Require }),
        alpn: vec![b"http/1.1"],
        may_move: true,
    };
    let server = server_config(&options, &TicketKeys::new().unwrap());
    let identity = ca.identity(&["client.example"]);
    let mut client = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(ca.roots())
        .with_no_client_auth();
    client.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&identity.key)));
    (ServerConfig::clone(&server.unwrap()), client)
}

/// Connects our server and the other implementation's client, and performs the handshake.
async fn served<K: Kind, S: Io>(
    version: &'static SupportedProtocolVersion,
    ours: S,
    theirs: DuplexStream,
) -> (K::Server<S>, client::TlsStream<DuplexStream>) {
    let (server, client) = configs(version);
    let (server, client) =
        tokio::join!(K::accept(server, ours), TlsConnector::from(Arc::new(client)).connect(name(), theirs));
    (server.unwrap(), client.unwrap())
}

fn bytes(random: &mut fastrand::Rng, count: usize) -> Vec<u8> {
    (0..count).map(|_| random.u8(..)).collect()
}

/// Writes all bytes in random pieces.
async fn write_in_pieces(mut to: impl AsyncWrite + Unpin, all: &[u8], mut random: fastrand::Rng, largest: usize) {
    let mut rest = all;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(random.usize(1..=largest).min(rest.len()));
        to.write_all(now).await.unwrap();
        to.flush().await.unwrap();
        rest = later;
    }
    to.shutdown().await.unwrap();
}

/// Reads to the end in random pieces.
async fn read_in_pieces(mut from: impl AsyncRead + Unpin, mut random: fastrand::Rng, largest: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let mut piece = vec![0; random.usize(1..=largest)];
        match from.read(&mut piece).await.unwrap() {
            0 => return all,
            count => all.extend_from_slice(&piece[..count]),
        }
    }
}

/// Lets both sides write and read at once, to the end.
async fn converse<A, B>(one: A, other: B, random: &mut fastrand::Rng, amount: usize)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let largest = [1 + amount / 50, 16 * 1024, 70_000, 300_000][random.usize(..4)];
    let (there, back) = (bytes(random, amount), bytes(random, amount));
    let ((one_reads, one_writes), (other_reads, other_writes)) = (split(one), split(other));
    let ((), got_there, (), got_back) = tokio::join!(
        write_in_pieces(one_writes, &there, random.fork(), largest),
        read_in_pieces(other_reads, random.fork(), largest),
        write_in_pieces(other_writes, &back, random.fork(), largest),
        read_in_pieces(one_reads, random.fork(), largest),
    );
    assert!(got_there == there && got_back == back);
}

async fn the_bytes_do_not_depend_on_how_the_stream_is_cut<K: Kind>() {
    let start = fastrand::u64(..);
    for seed in (0..4).chain(start..start.saturating_add(20)) {
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let version = [&TLS12, &TLS13][random.usize(..2)];
        let (mut server, mut client) = configs(version);
        // Handshake messages and tickets in many records.
        let fragment = [None, None, Some(32), Some(100)][random.usize(..4)];
        // One byte at a time is a cut at every position.
        let most = [1, 10, 1_000, 100_000][random.usize(..4)];
        let amount = if most < 1_000 { 5_000 } else { 600_000 };
        // At least a ticket: it is sent after the handshake, while the other side does not read.
        let (ours, theirs) = duplex([3_000, 70_000][random.usize(..2)]);
        let ours = Cut { io: ours, random: random.fork(), most };
        let talk = async {
            if random.bool() {
                client.max_fragment_size = fragment;
                let connector = TlsConnector::from(Arc::new(client));
                let (ours, theirs) = tokio::join!(K::accept(server, ours), connector.connect(name(), theirs));
                converse(ours.unwrap(), theirs.unwrap(), &mut random, amount).await;
            } else {
                server.max_fragment_size = fragment;
                let acceptor = TlsAcceptor::from(Arc::new(server));
                let (ours, theirs) = tokio::join!(K::connect(client, name(), ours), acceptor.accept(theirs));
                converse(ours.unwrap(), theirs.unwrap(), &mut random, amount).await;
            }
        };
        timeout(Duration::from_secs(60), talk).await.unwrap();
    }
}

async fn records_of_every_size_arrive_whole<K: Kind>() {
    for version in [&TLS12, &TLS13] {
        let (ours, theirs) = duplex(1 << 20);
        let (mut ours, mut theirs) = served::<K, _>(version, ours, theirs).await;
        for size in [1, 2, 125, 126, 4_095, 4_096, 16_383, 16_384, 16_385, 65_536, 245_760, 245_761, 300_000] {
            let sent: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let mut got = vec![0; size];
            ours.write_all(&sent).await.unwrap();
            theirs.read_exact(&mut got).await.unwrap();
            assert!(got == sent, "{size} from us");
            got.fill(0);
            theirs.write_all(&sent).await.unwrap();
            theirs.flush().await.unwrap();
            ours.read_exact(&mut got).await.unwrap();
            assert!(got == sent, "{size} to us");
        }
    }
}

async fn slices_are_written_whole_and_in_order<K: Kind>() {
    let (ours, theirs) = duplex(1 << 20);
    let (mut ours, mut theirs) = served::<K, _>(&TLS13, ours, theirs).await;
    for lengths in [&[0, 0][..], &[0, 5], &[5], &[100, 0, 200, 3], &[16_383, 2], &[16_384, 7], &[10, 70_000]] {
        let slices: Vec<Vec<u8>> = lengths.iter().map(|&length| vec![length as u8; length]).collect();
        let all = slices.concat();
        let mut bufs: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let mut bufs = &mut bufs[..];
        while bufs.iter().any(|slice| !slice.is_empty()) {
            let count = ours.write_vectored(bufs).await.unwrap();
            assert!(count > 0);
            IoSlice::advance_slices(&mut bufs, count);
        }
        let mut got = vec![0; all.len()];
        theirs.read_exact(&mut got).await.unwrap();
        assert!(got == all, "{lengths:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn what_waits_together_is_one_read_and_what_is_written_is_one_send() {
    let (ours, theirs) = duplex(1 << 20);
    let (reads, writes) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let ours = Counting { io: ours, reads: Arc::clone(&reads), writes: Arc::clone(&writes) };
    let (mut ours, mut theirs) = served::<Own, _>(&TLS13, ours, theirs).await;
    // The ticket is not sent yet: it comes with the first write.
    assert_eq!(writes.load(Relaxed), 1);
    ours.flush().await.unwrap();
    assert_eq!(writes.load(Relaxed), 1);
    ours.write_all(b"x").await.unwrap();
    assert_eq!(writes.load(Relaxed), 2);
    theirs.read_u8().await.unwrap();
    assert_eq!(theirs.get_ref().1.tls13_tickets_received(), 1);

    for (message, times) in [(16 * 1024, 1), (100, 50), (16 * 1024, 3)] {
        for _ in 0..times {
            theirs.write_all(&vec![7; message]).await.unwrap();
            theirs.flush().await.unwrap();
        }
        reads.store(0, Relaxed);
        let mut all = vec![0; message * times];
        // And the reader gets them in one read.
        assert_eq!(ours.read(&mut all).await.unwrap(), all.len());
        assert_eq!(reads.load(Relaxed), 1, "{times} of {message}");
    }
    for size in [1, 16 * 1024, 64 * 1024, 15 * 16 * 1024] {
        writes.store(0, Relaxed);
        assert_eq!(ours.write(&vec![7; size]).await.unwrap(), size);
        assert_eq!(writes.load(Relaxed), 1, "{size}");
        theirs.read_exact(&mut vec![0; size]).await.unwrap();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn nothing_is_held_but_what_must_be() {
    let (ours, theirs) = duplex(1 << 20);
    let (mut ours, mut theirs) = served::<Own, _>(&TLS13, ours, theirs).await;
    let mut cx = Context::from_waker(Waker::noop());
    // A reader with little room gets the rest of the record, and nothing else.
    theirs.write_all(&[7; 1000]).await.unwrap();
    theirs.flush().await.unwrap();
    ours.read_exact(&mut [0; 10]).await.unwrap();
    assert_eq!(ours.engine.rest.capacity(), 990);
    ours.read_exact(&mut [0; 990]).await.unwrap();
    let mut byte = [0];
    assert!(Pin::new(&mut ours).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending());
    assert_eq!(ours.engine.rest.capacity(), 0);
    assert!(ours.engine.incoming.bytes().is_empty());
    assert!(!ours.engine.outgoing.is_due());
    // All buffers are returned.
    let (small, medium) = (pool::free(BufferSize::Small), pool::free(BufferSize::Medium));
    ours.write_all(&[7; 100]).await.unwrap();
    assert_eq!((pool::free(BufferSize::Small), pool::free(BufferSize::Medium)), (small.max(1), medium));
}

#[tokio::test(flavor = "current_thread")]
async fn a_peer_that_does_not_read_is_written_no_more_than_a_buffer() {
    let (ours, theirs) = duplex(1000);
    let (mut ours, mut theirs) = served::<Own, _>(&TLS13, ours, theirs).await;
    let mut cx = Context::from_waker(Waker::noop());
    let all: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let Poll::Ready(Ok(taken)) = Pin::new(&mut ours).poll_write(&mut cx, &all) else { panic!("one write is taken") };
    assert!(taken <= BufferSize::Large.bytes());
    assert!(Pin::new(&mut ours).poll_write(&mut cx, &all[taken..]).is_pending());
    assert!(Pin::new(&mut ours).poll_flush(&mut cx).is_pending());
    // Meanwhile bytes from the peer can be read.
    theirs.write_all(b"hello").await.unwrap();
    theirs.flush().await.unwrap();
    let mut hello = [0; 5];
    ours.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");

    let mut got = vec![0; all.len()];
    let rest = async {
        ours.write_all(&all[taken..]).await.unwrap();
        ours.flush().await.unwrap();
    };
    let (_, ()) = tokio::join!(theirs.read_exact(&mut got), rest);
    assert!(got == all);
}

async fn keys_change_in_mid_stream<K: Kind>() {
    let (ours, theirs) = duplex(1 << 16);
    let (mut ours, mut theirs) = served::<K, _>(&TLS13, ours, theirs).await;
    for round in 0..5u8 {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_all(&[round; 100]).await.unwrap();
        theirs.flush().await.unwrap();
        let mut got = [0; 100];
        ours.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [round; 100]);
        // After the answer to it (RFC 8446 §4.6.3).
        ours.write_all(&[round; 20_000]).await.unwrap();
        let mut got = vec![0; 20_000];
        theirs.read_exact(&mut got).await.unwrap();
        assert!(got == [round; 20_000]);
    }
}

/// Returns how often other tasks had a turn until `reading` ended.
async fn turns_of_others(reading: impl Future<Output = ()> + Send + 'static) -> usize {
    let reading = tokio::spawn(reading);
    let mut turns = 0;
    while !reading.is_finished() {
        turns += 1;
        tokio::task::yield_now().await;
    }
    reading.await.unwrap();
    turns
}

#[tokio::test(flavor = "current_thread")]
async fn others_have_their_turn_while_a_peer_sends_a_byte_a_record() {
    const RECORDS: usize = 10_000;
    let (ours, theirs) = duplex(1 << 20);
    let (mut ours, mut theirs) = served::<Own, _>(&TLS13, ours, theirs).await;
    for _ in 0..RECORDS {
        theirs.write_all(b"x").await.unwrap();
    }
    theirs.flush().await.unwrap();
    let turns = turns_of_others(async move {
        ours.read_exact(&mut [0; RECORDS]).await.unwrap();
        drop(theirs);
    });
    assert!(turns.await >= RECORDS / 2_048);
}

#[tokio::test(flavor = "current_thread")]
async fn others_have_their_turn_while_a_peer_changes_its_keys() {
    const ROUNDS: usize = 200;
    let (ours, theirs) = duplex(1 << 20);
    let (mut ours, mut theirs) = served::<Own, _>(&TLS13, ours, theirs).await;
    for _ in 0..ROUNDS {
        for _ in 0..30 {
            theirs.get_mut().1.refresh_traffic_keys().unwrap();
        }
        theirs.write_all(b"x").await.unwrap();
    }
    theirs.flush().await.unwrap();
    let turns = turns_of_others(async move {
        ours.read_exact(&mut [0; ROUNDS]).await.unwrap();
        // There is one answer to all requests (RFC 8446 §4.6.3), and it takes no memory before it is sent.
        assert!(!ours.engine.outgoing.is_due());
        ours.write_all(b"y").await.unwrap();
        assert_eq!(theirs.read_u8().await.unwrap(), b'y');
    });
    assert!(turns.await >= ROUNDS * 31 / 2_048);
}

/// A few are accepted. Thousands that cross the ends of records never leave rustls' memory, which is bounded.
#[tokio::test(flavor = "current_thread")]
async fn tickets_without_end_are_refused() {
    for (tickets, is_taken) in [(100, true), (5_000, false)] {
        let ca = Ca::new();
        let identity = ca.identity(&[NAME]);
        let mut server = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&identity.key))));
        server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        server.send_tls13_tickets = tickets;
        let client = client_config(&ClientTlsOptions { roots: Some(ca.authorities()), ..ClientTlsOptions::default() });
        let (one, other) = duplex(8 << 20);
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let (ours, theirs) =
            tokio::join!(Own::connect(ClientConfig::clone(&client.unwrap()), name(), one), acceptor.accept(other));
        let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
        theirs.write_all(b"x").await.unwrap();
        theirs.flush().await.unwrap();
        let read = ours.read_u8().await;
        assert_eq!(read.is_ok(), is_taken, "{read:?}");
        assert!(ours.engine.incoming.bytes().len() <= BufferSize::Large.bytes());
    }
}

async fn a_close_notify_is_the_end_and_a_cut_is_an_error<K: Kind>() {
    for version in [&TLS12, &TLS13] {
        let (ours, theirs) = duplex(1 << 16);
        let (mut ours, mut theirs) = served::<K, _>(version, ours, theirs).await;
        theirs.write_all(b"last").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut last = Vec::new();
        ours.read_to_end(&mut last).await.unwrap();
        assert_eq!(last, b"last");
        // The other direction is still open.
        ours.write_all(b"answer").await.unwrap();
        ours.shutdown().await.unwrap();
        ours.shutdown().await.unwrap();
        assert_eq!(ours.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);

        let (ours, theirs) = duplex(1 << 16);
        let (mut ours, mut theirs) = served::<K, _>(version, ours, theirs).await;
        theirs.write_all(b"last").await.unwrap();
        theirs.flush().await.unwrap();
        drop(theirs);
        ours.read_exact(&mut [0; 4]).await.unwrap();
        for _ in 0..2 {
            assert_eq!(ours.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

async fn a_bad_record_ends_it_with_an_alert<K: Kind>() {
    for (bad, expected) in [
        (&b"\x17\x03\x03\0\x20................................"[..], rustls::AlertDescription::BadRecordMac),
        (b"HTTP/1.1 400 Bad Request", rustls::AlertDescription::DecodeError),
    ] {
        let (ours, theirs) = duplex(1 << 16);
        let (mut ours, mut theirs) = served::<K, _>(&TLS13, ours, theirs).await;
        theirs.write_all(b"good").await.unwrap();
        theirs.flush().await.unwrap();
        theirs.get_mut().0.write_all(bad).await.unwrap();
        // Bytes before it are read first.
        let mut good = [0; 100];
        assert_eq!(ours.read(&mut good).await.unwrap(), 4);
        for _ in 0..2 {
            let error = ours.read(&mut good).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.get_ref().unwrap().is::<rustls::Error>());
        }
        assert!(ours.write(b"more").await.is_err());
        let error = theirs.read(&mut [0]).await.unwrap_err();
        assert!(error.to_string().contains(&format!("{expected:?}")), "{error}");
    }
}

async fn a_handshake_message_that_never_ends_is_refused<K: Kind>() {
    let (ours, mut theirs) = duplex(1 << 20);
    // A ClientHello of 65,535 bytes, ten per record.
    let mut hello = vec![1, 0, 0xff, 0xff];
    hello.resize(65_000, 0);
    for part in hello.chunks(10) {
        theirs.write_all(&[22, 3, 1, 0, part.len() as u8]).await.unwrap();
        theirs.write_all(part).await.unwrap();
    }
    let (server, _) = configs(&TLS13);
    let error = timeout(Duration::from_secs(20), K::accept(server, ours)).await.unwrap().err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

/// A client may send early data with a ticket of an earlier server at this address (RFC 8446 §4.2.10).
async fn early_data_is_passed_over<K: Kind>() {
    let ca = Ca::new();
    let before = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth();
    let identity = ca.identity(&[NAME]);
    let mut before =
        before.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&identity.key))));
    before.max_early_data_size = 16 * 1024;
    let options = ServerTlsOptions {
        identities: vec![identity],
        min_version: MinVersion::Tls12,
        client_auth: None,
        alpn: vec![b"http/1.1"],
        may_move: false,
    };
    let ours = server_config(&options, &TicketKeys::new().unwrap()).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(ca.roots())
        .with_no_client_auth();
    client.enable_early_data = true;
    let connector = TlsConnector::from(Arc::new(client)).early_data(true);

    let (one, other) = duplex(1 << 16);
    let first = async {
        let mut client = connector.connect(name(), one).await.unwrap();
        client.write_all(b"x").await.unwrap();
        client.read_u8().await.unwrap();
    };
    let serve = async {
        let mut server = TlsAcceptor::from(Arc::new(before)).accept(other).await.unwrap();
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
    };
    tokio::join!(first, serve);

    let (one, other) = duplex(1 << 16);
    let again = async {
        let mut client = connector.connect(name(), one).await.unwrap();
        assert!(client.get_mut().1.early_data().is_some());
        client.write_all(&[7; 3_000]).await.unwrap();
        client.flush().await.unwrap();
        assert!(!client.get_ref().1.is_early_data_accepted());
        // The client stays until the server has finished the handshake.
        client
    };
    let serve = async {
        let mut server = K::accept(ServerConfig::clone(&ours), other).await.unwrap();
        let mut got = [0; 3_000];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [7; 3_000]);
    };
    let (_client, ()) = tokio::join!(again, serve);
}

async fn we_understand_ourselves<K: Kind>() {
    let ca = Ca::new();
    let options = ServerTlsOptions {
        identities: vec![ca.identity(&[NAME])],
        min_version: MinVersion::Tls13,
        client_auth: None,
        alpn: vec![b"http/1.1"],
        may_move: false,
    };
    let server = server_config(&options, &TicketKeys::new().unwrap()).unwrap();
    let client =
        client_config(&ClientTlsOptions { roots: Some(ca.authorities()), ..ClientTlsOptions::default() }).unwrap();
    let (one, other) = duplex(30_000);
    let (server, client) = tokio::join!(
        K::accept(ServerConfig::clone(&server), one),
        K::connect(ClientConfig::clone(&client), name(), other)
    );
    let mut random = fastrand::Rng::with_seed(7);
    converse(server.unwrap(), client.unwrap(), &mut random, 300_000).await;
}
