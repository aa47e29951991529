//! Connections that go from one process to another, with rustls' usual interface on the other side.

use std::sync::OnceLock;

use rustls::SupportedCipherSuite;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use tokio_rustls::server;

use super::*;
use crate::tls::state::{KeyUpdateAfterMove, TlsState};

/// All suites, with the key of a certificate that can be used with each.
pub fn suites() -> Vec<SupportedCipherSuite> {
    rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES.to_vec()
}

/// What `ours` and `theirs` need for a connection with one suite only.
pub struct Both {
    pub our_server: ServerConfig,
    pub our_client: ClientConfig,
    pub their_server: ServerConfig,
    pub their_client: ClientConfig,
}

pub fn both(suite: SupportedCipherSuite) -> Both {
    let ca = Ca::new();
    let is_rsa = format!("{:?}", suite.suite()).contains("_RSA_");
    // It takes long to make one.
    static RSA: OnceLock<String> = OnceLock::new();
    let rsa = || rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem();
    let key = match is_rsa {
        true => rcgen::KeyPair::from_pem(RSA.get_or_init(rsa)).unwrap(),
        false => rcgen::KeyPair::generate().unwrap(),
    };
    let (cert, key) = ca.sign_for(key, &[NAME], |_| {});
    let identity = super::super::super::Identity::from_pem("test", cert.as_bytes(), key.as_bytes()).unwrap();
    let mut provider = rustls::crypto::CryptoProvider::clone(provider());
    provider.cipher_suites = vec![suite];
    let (provider, version) = (Arc::new(provider), [suite.version()]);
    let key = Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&identity.key)));
    let options = ServerTlsOptions {
        identities: vec![identity],
        min_version: MinVersion::Tls12,
        client_auth: None,
        alpn: vec![b"http/1.1"],
        may_move: true,
    };
    let our_server = server_config(&options, &TicketKeys::new().unwrap()).unwrap();
    let options = ClientTlsOptions { roots: Some(ca.authorities()), may_move: true, ..ClientTlsOptions::default() };
    let our_client = client_config(&options).unwrap();
    let their_server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&version);
    let their_server = their_server.unwrap().with_no_client_auth().with_cert_resolver(key);
    let their_client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&version);
    let their_client = their_client.unwrap().with_root_certificates(ca.roots()).with_no_client_auth();
    Both {
        our_server: ServerConfig::clone(&our_server),
        our_client: ClientConfig::clone(&our_client),
        their_server,
        their_client,
    }
}

/// Connects our server and their client.
async fn our_server<S: Io>(
    both: Both,
    ours: S,
    theirs: DuplexStream,
) -> (ServerStream<S>, client::TlsStream<DuplexStream>) {
    let connector = TlsConnector::from(Arc::new(both.their_client));
    let (ours, theirs) = tokio::join!(Own::accept(both.our_server, ours), connector.connect(name(), theirs));
    (ours.unwrap(), theirs.unwrap())
}

/// Connects our client and their server.
async fn our_client<S: Io>(
    both: Both,
    ours: S,
    theirs: DuplexStream,
) -> (ClientStream<S>, server::TlsStream<DuplexStream>) {
    let acceptor = TlsAcceptor::from(Arc::new(both.their_server));
    let (ours, theirs) = tokio::join!(Own::connect(both.our_client, name(), ours), acceptor.accept(theirs));
    (ours.unwrap(), theirs.unwrap())
}

/// Writes the state down and reads it back.
pub fn carried(state: &TlsState) -> TlsState {
    let written = serde_json::to_vec(state).unwrap();
    let read: TlsState = serde_json::from_slice(&written).unwrap();
    assert!(read == *state);
    read
}

/// Moves a connection to "another process".
pub fn moved<C: TlsConnection, S>(stream: TlsStream<C, S>) -> TlsStream<C, S> {
    assert!(stream.may_move());
    let version = stream.protocol_version();
    let (state, io) = stream.into_state().unwrap();
    let stream = TlsStream::restore(carried(&state), io).unwrap();
    assert!(stream.may_move());
    assert_eq!(stream.protocol_version(), version);
    stream
}

/// Lets both sides speak once with messages of several sizes.
async fn speak(one: &mut (impl AsyncRead + AsyncWrite + Unpin), other: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    for size in [1, 125, 16_383, 16_384, 16_385, 70_000] {
        let message = vec![size as u8; size];
        one.write_all(&message).await.unwrap();
        one.flush().await.unwrap();
        let mut got = vec![0; size];
        other.read_exact(&mut got).await.unwrap();
        assert!(got == message);
        other.write_all(&message).await.unwrap();
        other.flush().await.unwrap();
        let mut got = vec![0; size];
        one.read_exact(&mut got).await.unwrap();
        assert!(got == message);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn every_suite_goes_on_on_both_sides_after_each_of_several_moves() {
    for suite in suites() {
        println!("{suite:?}");
        let (one, other) = duplex(1 << 20);
        let (mut ours, mut theirs) = our_server(both(suite), one, other).await;
        for _ in 0..3 {
            ours = moved(ours);
            speak(&mut ours, &mut theirs).await;
        }
        let (one, other) = duplex(1 << 20);
        let (mut ours, mut theirs) = our_client(both(suite), one, other).await;
        for _ in 0..3 {
            speak(&mut theirs, &mut ours).await;
            ours = moved(ours);
        }
        assert_eq!(ours.engine.protocol_version(), Some(suite.version().version));
    }
}

/// A connection that moves before any read or write.
struct Restless<C, S> {
    stream: Option<TlsStream<C, S>>,
    random: fastrand::Rng,
    moves: Arc<AtomicUsize>,
}

impl<C: TlsConnection, S> Restless<C, S> {
    fn new(stream: TlsStream<C, S>, random: fastrand::Rng, moves: &Arc<AtomicUsize>) -> Self {
        Restless { stream: Some(stream), random, moves: Arc::clone(moves) }
    }

    fn stream(&mut self) -> Pin<&mut TlsStream<C, S>>
    where
        TlsStream<C, S>: Unpin,
    {
        if self.random.u8(..8) == 0 && self.stream.as_ref().unwrap().may_move() {
            self.stream = self.stream.take().map(moved);
            self.moves.fetch_add(1, Relaxed);
        }
        Pin::new(self.stream.as_mut().unwrap())
    }
}

impl<C: TlsConnection + Unpin, S: Io> AsyncRead for Restless<C, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl<C: TlsConnection + Unpin, S: Io> AsyncWrite for Restless<C, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

/// The other side, which changes its keys now and then and asks us for the same.
struct Refreshing<T> {
    stream: T,
    random: fastrand::Rng,
}

/// Asks for new keys.
trait Refresh {
    fn refresh(&mut self);
}

impl Refresh for client::TlsStream<DuplexStream> {
    fn refresh(&mut self) {
        let _ = self.get_mut().1.refresh_traffic_keys();
    }
}

impl Refresh for server::TlsStream<DuplexStream> {
    fn refresh(&mut self) {
        let _ = self.get_mut().1.refresh_traffic_keys();
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Refreshing<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Refresh + Unpin> AsyncWrite for Refreshing<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.random.u8(..8) == 0 {
            self.stream.refresh();
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// With half a record read, records not sent, bytes not read, and while keys change.
#[tokio::test(flavor = "current_thread")]
async fn a_connection_moves_at_any_moment_and_no_byte_is_lost() {
    let moves = Arc::new(AtomicUsize::new(0));
    let start = fastrand::u64(..);
    for seed in (0..4).chain(start..start.saturating_add(20)) {
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let suite = suites()[random.usize(..9)];
        let most = [1, 10, 1_000, 100_000][random.usize(..4)];
        let amount = if most < 1_000 { 5_000 } else { 600_000 };
        let (ours, theirs) = duplex([3_000, 70_000][random.usize(..2)]);
        let ours = Cut { io: ours, random: random.fork(), most };
        let talk = async {
            let refreshing = random.fork();
            if random.bool() {
                let (ours, stream) = our_server(both(suite), ours, theirs).await;
                let ours = Restless::new(ours, random.fork(), &moves);
                converse(ours, Refreshing { stream, random: refreshing }, &mut random, amount).await;
            } else {
                let (ours, stream) = our_client(both(suite), ours, theirs).await;
                let ours = Restless::new(ours, random.fork(), &moves);
                converse(ours, Refreshing { stream, random: refreshing }, &mut random, amount).await;
            }
        };
        timeout(Duration::from_secs(60), talk).await.unwrap();
    }
    assert!(moves.load(Relaxed) > 100, "{moves:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn keys_change_before_a_move_and_after_it() {
    for before in [0, 1, 3] {
        let (one, other) = duplex(1 << 20);
        let (mut ours, mut theirs) = our_server(both(suites()[0]), one, other).await;
        // The ticket goes with the first write.
        ours.write_all(b"x").await.unwrap();
        theirs.read_u8().await.unwrap();
        for _ in 0..before {
            theirs.refresh();
            theirs.write_all(b"x").await.unwrap();
            theirs.flush().await.unwrap();
            assert_eq!(ours.read_u8().await.unwrap(), b'x');
        }
        let (state, io) = ours.into_state().unwrap();
        assert!(state.reading.secret.is_some() && state.writing.secret.is_some());
        // One answer to all of them.
        assert_eq!(state.outgoing.is_empty(), before == 0);
        assert_eq!(state.writing.sequence, if before == 0 { 2 } else { 0 });
        assert_eq!(state.reading.sequence, u64::from(before > 0));
        ours = TlsStream::restore(carried(&state), io).unwrap();
        for _ in 0..3 {
            speak(&mut ours, &mut theirs).await;
            theirs.refresh();
            speak(&mut theirs, &mut ours).await;
            ours = moved(ours);
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn without_secrets_new_keys_end_the_reading_only() {
    let (one, other) = duplex(1 << 20);
    let (ours, mut theirs) = our_client(both(suites()[0]), one, other).await;
    let (mut state, io) = ours.into_state().unwrap();
    (state.reading.secret, state.writing.secret) = (None, None);
    let mut ours = ClientStream::restore(carried(&state), io).unwrap();
    speak(&mut ours, &mut theirs).await;
    theirs.write_all(b"last").await.unwrap();
    theirs.refresh();
    theirs.write_all(b"lost").await.unwrap();
    theirs.flush().await.unwrap();
    let mut last = [0; 100];
    assert_eq!(ours.read(&mut last).await.unwrap(), 4);
    for _ in 0..2 {
        let error = ours.read(&mut last).await.unwrap_err();
        assert!(KeyUpdateAfterMove::is(&error), "{error}");
    }
    assert!(!ours.may_move());
    ours.write_all(b"close").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut all = vec![];
    theirs.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"close");
}

#[tokio::test(flavor = "current_thread")]
async fn the_end_of_each_direction_moves_with_it() {
    // Moves from `first` of five moments on; before the first move rustls has it.
    for (suite, first) in suites().into_iter().flat_map(|suite| (0..5).map(move |first| (suite, first))) {
        let (one, other) = duplex(1 << 20);
        let (mut ours, mut theirs) = our_server(both(suite), one, other).await;
        let moved_from = |at: usize, ours| if at >= first { moved(ours) } else { ours };
        ours = moved_from(0, ours);
        theirs.write_all(b"last").await.unwrap();
        theirs.shutdown().await.unwrap();
        ours = moved_from(1, ours);
        let mut last = [0; 4];
        ours.read_exact(&mut last).await.unwrap();
        assert_eq!(&last, b"last");
        ours = moved_from(2, ours);
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
        ours = moved_from(3, ours);
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
        ours.write_all(b"answer").await.unwrap();
        ours.shutdown().await.unwrap();
        ours = moved_from(4, ours);
        ours.shutdown().await.unwrap();
        assert_eq!(ours.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");

        let (one, other) = duplex(1 << 20);
        let (ours, theirs) = our_server(both(suite), one, other).await;
        let mut ours = moved(ours);
        drop(theirs);
        for _ in 0..2 {
            assert_eq!(ours.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn only_a_sound_connection_of_a_configuration_that_allows_it_moves() {
    let (one, other) = duplex(1 << 20);
    let mut forbidden = both(suites()[0]);
    forbidden.our_server.enable_secret_extraction = false;
    let (ours, _theirs) = our_server(forbidden, one, other).await;
    assert!(!ours.may_move());
    assert!(ours.into_state().is_err());

    let (one, other) = duplex(1 << 20);
    let (mut ours, mut theirs) = our_server(both(suites()[0]), one, other).await;
    theirs.get_mut().0.write_all(b"HTTP/1.1 400 Bad Request").await.unwrap();
    assert!(ours.read(&mut [0]).await.is_err());
    assert!(!ours.may_move());
    assert!(ours.into_state().is_err());

    // A state is of one side, and whole.
    let (one, other) = duplex(1 << 20);
    let (ours, _theirs) = our_server(both(suites()[0]), one, other).await;
    let (state, _) = ours.into_state().unwrap();
    assert!(ClientStream::restore(state.clone(), ()).is_err());
    type Change = fn(&mut TlsState);
    let changes: [Change; 7] = [
        |state| state.suite = 0x1304,
        |state| state.reading.key.0.truncate(8),
        |state| state.writing.secret.as_mut().unwrap().0.truncate(8),
        |state| state.message_left = 1,
        |state| state.rest.0 = vec![0; 16 * 1024 + 1],
        |state| state.incoming = vec![0; 1 << 20],
        |state| state.outgoing = vec![0; 1 << 20],
    ];
    for change in changes {
        let mut bad = state.clone();
        change(&mut bad);
        assert!(ServerStream::restore(bad, ()).is_err());
    }
    assert!(ServerStream::restore(state, ()).is_ok());
}

#[tokio::test(flavor = "current_thread")]
async fn a_state_shows_no_secret() {
    let (one, other) = duplex(1 << 20);
    let (ours, _theirs) = our_server(both(suites()[0]), one, other).await;
    let (mut state, _) = ours.into_state().unwrap();
    state.rest.0 = b"rest".to_vec();
    let shown = format!("{state:?} {:?} {:?}", state.reading, state.rest);
    for secret in [&state.reading.key.0, &state.writing.key.0, &state.rest.0, &state.reading.secret.as_ref().unwrap().0]
    {
        assert!(!shown.contains(&format!("{secret:?}")[1..10]), "{shown}");
    }
}

/// Both sides ours and moved, with so many records sent under the keys of the client.
async fn after_records(suite: SupportedCipherSuite, sent: u64, has_secrets: bool) -> (OurServer, OurClient) {
    let mut both = both(suite);
    let (one, other) = duplex(1 << 20);
    both.their_client.enable_secret_extraction = true;
    both.their_client.key_log = Arc::new(CapturingKeyLog);
    let (server, client) =
        tokio::join!(Own::accept(both.our_server, one), Own::connect(both.their_client, name(), other));
    let ((mut server, one), (mut client, other)) =
        (server.unwrap().into_state().unwrap(), client.unwrap().into_state().unwrap());
    (server.reading.sequence, client.writing.sequence) = (sent, sent);
    if !has_secrets {
        (client.reading.secret, client.writing.secret) = (None, None);
    }
    (TlsStream::restore(server, one).unwrap(), TlsStream::restore(client, other).unwrap())
}

type OurServer = ServerStream<DuplexStream>;
type OurClient = ClientStream<DuplexStream>;

/// How many records rustls lets AES-GCM encrypt under one key.
const GCM_RECORDS: u64 = 1 << 24;

fn sequence<C: TlsConnection>(stream: TlsStream<C, DuplexStream>) -> (u64, TlsStream<C, DuplexStream>) {
    let (state, io) = stream.into_state().unwrap();
    (state.writing.sequence, TlsStream::restore(state, io).unwrap())
}

#[tokio::test(flavor = "current_thread")]
async fn keys_are_changed_before_they_are_used_up() {
    for suite in suites().into_iter().filter(|suite| suite.tls13().is_some()) {
        let is_gcm = format!("{suite:?}").contains("GCM");
        let (mut server, mut client) = after_records(suite, GCM_RECORDS - 3, true).await;
        client.write_all(b"x").await.unwrap();
        let (before, mut client) = sequence(client);
        assert_eq!(before, GCM_RECORDS - 2);
        // Several records at once, which the key has no numbers for.
        client.write_all(&[7; 70_000]).await.unwrap();
        let (after, mut client) = sequence(client);
        assert_eq!(after, if is_gcm { 5 } else { GCM_RECORDS + 3 });
        let mut got = vec![0; 70_001];
        server.read_exact(&mut got).await.unwrap();
        // The other side was asked for new keys, too.
        let server = moved(server);
        let (sent, mut server) = sequence(server);
        assert_eq!(sent, if is_gcm { 0 } else { 1 });
        speak(&mut server, &mut client).await;
    }
    // TLS 1.2 cannot.
    for suite in suites().into_iter().filter(|suite| suite.tls13().is_none() && format!("{suite:?}").contains("GCM")) {
        let (mut server, mut client) = after_records(suite, GCM_RECORDS - 2, true).await;
        client.write_all(b"x").await.unwrap();
        client.write_all(b"y").await.unwrap();
        assert_eq!(client.write(b"z").await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(client.write(b"z").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(!client.may_move());
        let mut all = vec![];
        server.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"xy");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn without_secrets_a_session_hears_of_the_end_of_its_key_while_it_can_still_say_so() {
    let (mut server, mut client) = after_records(suites()[0], GCM_RECORDS - (1 << 16) - 11, false).await;
    speak(&mut server, &mut client).await;
    assert!(client.may_move());
    client.write_all(b"x").await.unwrap();
    server.read_u8().await.unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let read = Pin::new(&mut client).poll_read(&mut cx, &mut ReadBuf::new(&mut [0; 10]));
    assert!(matches!(read, Poll::Ready(Err(error)) if KeyUpdateAfterMove::is(&error)));
    client.write_all(b"close").await.unwrap();
    client.shutdown().await.unwrap();
    let mut all = vec![];
    server.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"close");

    // At the very end it cannot be written to either.
    let (_server, mut client) = after_records(suites()[0], GCM_RECORDS - 2, false).await;
    client.write_all(b"x").await.unwrap();
    for _ in 0..2 {
        assert!(KeyUpdateAfterMove::is(&client.write(b"y").await.unwrap_err()));
    }
    client.shutdown().await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn others_have_their_turn_while_a_peer_sends_to_a_moved_connection() {
    const ROUNDS: usize = 200;
    let (one, other) = duplex(1 << 20);
    let (ours, mut theirs) = our_server(both(suites()[0]), one, other).await;
    let mut ours = moved(ours);
    for _ in 0..ROUNDS {
        for _ in 0..30 {
            theirs.refresh();
        }
        theirs.write_all(b"x").await.unwrap();
    }
    theirs.flush().await.unwrap();
    let turns = turns_of_others(async move {
        ours.read_exact(&mut [0; ROUNDS]).await.unwrap();
        // There is one answer to all.
        ours.write_all(b"y").await.unwrap();
        assert_eq!(theirs.read_u8().await.unwrap(), b'y');
    });
    assert!(turns.await >= ROUNDS * 31 / 2_048);
}

#[tokio::test(flavor = "current_thread")]
async fn a_moved_connection_reads_and_sends_as_often_as_before_and_holds_nothing() {
    let (ours, theirs) = duplex(1 << 20);
    let (reads, writes) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let ours = Counting { io: ours, reads: Arc::clone(&reads), writes: Arc::clone(&writes) };
    let (ours, mut theirs) = our_server(both(suites()[0]), ours, theirs).await;
    let mut ours = moved(ours);
    // The ticket still waits for the first write.
    ours.flush().await.unwrap();
    assert_eq!(writes.load(Relaxed), 1);
    for size in [1, 16 * 1024, 64 * 1024, 15 * 16 * 1024] {
        writes.store(0, Relaxed);
        assert_eq!(ours.write(&vec![7; size]).await.unwrap(), size);
        assert_eq!(writes.load(Relaxed), 1, "{size}");
        theirs.read_exact(&mut vec![0; size]).await.unwrap();
    }
    for (message, times) in [(16 * 1024, 1), (100, 50), (16 * 1024, 3)] {
        for _ in 0..times {
            theirs.write_all(&vec![7; message]).await.unwrap();
            theirs.flush().await.unwrap();
        }
        reads.store(0, Relaxed);
        let mut all = vec![0; message * times];
        assert_eq!(ours.read(&mut all).await.unwrap(), all.len());
        assert_eq!(reads.load(Relaxed), 1, "{times} of {message}");
    }
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut ours).poll_read(&mut cx, &mut ReadBuf::new(&mut [0])).is_pending());
    assert_eq!(ours.engine.rest.capacity(), 0);
    assert!(ours.engine.incoming.bytes().is_empty() && ours.engine.outgoing.bytes().is_empty());
}

const _: fn() = || {
    fn may_go_to_another_thread<T: Send>() {}
    may_go_to_another_thread::<TlsStream<UnbufferedServerConnection, DuplexStream>>();
    may_go_to_another_thread::<TlsStream<UnbufferedClientConnection, DuplexStream>>();
};
