//! What a peer sends, record by record, to a connection that rustls has and to one that has moved: both read the same
//! bytes, end by the same error, and answer with the same records.

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;

use super::moving::{both, moved, suites};
use super::*;
use crate::tls::state::Side;
use crate::tls::stream::cipher::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, HEADER, RecordCipher};
use crate::tls::stream::message::{CLIENT_HELLO, HELLO_REQUEST, KEY_UPDATE, NEW_SESSION_TICKET};
use crate::tls::stream::schedule;
use crate::tls::stream::suite::Suite;

/// Something that a peer does.
#[derive(Debug, Clone)]
enum Act {
    /// Sends a record.
    Send(u8, Vec<u8>),
    /// Sends a record with padding (TLS 1.3).
    Padded(u8, Vec<u8>, usize),
    /// Sends a record twice.
    Twice(u8, Vec<u8>),
    /// Sends a record with a byte changed.
    Altered(u8, Vec<u8>, usize),
    /// Sends two records in the wrong order.
    Swapped(u8, Vec<u8>),
    /// Sends these bytes without encrypting them.
    Raw(Vec<u8>),
    /// Sends the start of a record.
    Cut(u8, Vec<u8>, usize),
    /// Changes its key (TLS 1.3), and asks for the same.
    Update(bool),
}

/// A peer that can send anything, under the keys of a connection.
struct Attacker {
    suite: Suite,
    io: DuplexStream,
    reading: RecordCipher,
    writing: RecordCipher,
    /// What it sends.
    bytes: Vec<u8>,
}

impl Attacker {
    fn new<C: TlsConnection>(stream: TlsStream<C, DuplexStream>) -> Attacker {
        let (state, io) = stream.into_state().unwrap();
        let suite = Suite::of(state.suite).unwrap();
        let cipher = |keys: &crate::tls::state::TrafficKeys| RecordCipher::new(suite, keys.clone()).unwrap();
        // A server's tickets wait for its first write.
        let bytes = state.outgoing.clone();
        Attacker { suite, io, reading: cipher(&state.reading), writing: cipher(&state.writing), bytes }
    }

    fn seal(&mut self, kind: u8, plain: &[u8]) -> Vec<u8> {
        let mut room = vec![0; plain.len() + 100];
        let count = self.writing.seal(kind, plain, &mut room).unwrap();
        room.truncate(count);
        room
    }

    fn act(&mut self, act: &Act) {
        let sent = match act {
            Act::Send(kind, plain) => self.seal(*kind, plain),
            Act::Padded(kind, plain, padding) => {
                // A type of 0 is the last byte of the padding.
                let plain = [&plain[..], &[*kind], &vec![0; *padding]].concat();
                self.seal(0, &plain)
            }
            Act::Twice(kind, plain) => self.seal(*kind, plain).repeat(2),
            Act::Altered(kind, plain, at) => {
                let mut record = self.seal(*kind, plain);
                // The header has its own rules.
                let at = HEADER + at % (record.len() - HEADER);
                record[at] ^= 0x10;
                record
            }
            Act::Swapped(kind, plain) => {
                let (first, second) = (self.seal(*kind, plain), self.seal(*kind, plain));
                [second, first].concat()
            }
            Act::Raw(bytes) => bytes.clone(),
            Act::Cut(kind, plain, at) => {
                let mut record = self.seal(*kind, plain);
                record.truncate(1 + at % (record.len() - 1));
                record
            }
            Act::Update(asks) => {
                let record = self.seal(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, u8::from(*asks)]);
                if let Some(keys) = schedule::next_keys(&self.suite, &self.writing.keys) {
                    self.writing = RecordCipher::new(self.suite, keys).unwrap();
                }
                record
            }
        };
        self.bytes.extend(sent);
    }

    /// Decrypts all that the other side sent.
    fn read(&mut self, mut bytes: &mut [u8]) -> Vec<(u8, Vec<u8>)> {
        let mut records = vec![];
        while bytes.len() >= HEADER {
            let end = HEADER + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
            let (record, rest) = bytes.split_at_mut(end);
            let (kind, plain) = self.reading.open(record).unwrap();
            // Tickets differ.
            let is_ticket = (kind, plain.first()) == (HANDSHAKE, Some(&NEW_SESSION_TICKET));
            records.push((kind, if is_ticket { vec![NEW_SESSION_TICKET] } else { plain.to_vec() }));
            if self.suite.is_tls13() && (kind, plain.first()) == (HANDSHAKE, Some(&KEY_UPDATE)) {
                let keys = schedule::next_keys(&self.suite, &self.reading.keys).unwrap();
                self.reading = RecordCipher::new(self.suite, keys).unwrap();
            }
            bytes = rest;
        }
        assert!(bytes.is_empty());
        records
    }
}

/// What came of it.
#[derive(Debug, PartialEq)]
struct Outcome {
    read: Vec<u8>,
    error: Option<String>,
    answers: Vec<(u8, Vec<u8>)>,
}

/// The part of an error that does not depend on who found it.
fn named(error: &io::Error) -> String {
    let shown = format!("{:?} {:?}", error.kind(), error.get_ref());
    shown.split(['{', '"']).next().unwrap().to_owned()
}

/// Lets the attacker act on `target`, which writes a little after each read.
async fn outcome<C>(mut target: TlsStream<C, DuplexStream>, mut attacker: Attacker, acts: &[Act]) -> Outcome
where
    C: TlsConnection + Unpin,
{
    acts.iter().for_each(|act| attacker.act(act));
    attacker.io.write_all(&attacker.bytes).await.unwrap();
    attacker.io.shutdown().await.unwrap();
    let (mut read, mut error) = (vec![], None);
    for turn in 0..u32::MAX {
        let mut buffer = [0; 1000];
        match target.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => read.extend_from_slice(&buffer[..count]),
            Err(found) => {
                error = Some(named(&found));
                break;
            }
        }
        if turn % 2 == 0 {
            // It has failed by then if the error stood behind these bytes.
            let _ = target.write_all(b"abc").await;
        }
    }
    let _ = target.write_all(b"end").await;
    let _ = target.shutdown().await;
    drop(target);
    let mut answers = vec![];
    attacker.io.read_to_end(&mut answers).await.unwrap();
    Outcome { read, error, answers: attacker.read(&mut answers) }
}

/// Returns what comes of it if our side is the server, or the client: with rustls, or after a move.
async fn result_of(suite: rustls::SupportedCipherSuite, side: Side, moves: bool, acts: &[Act]) -> Outcome {
    let both = both(suite);
    let (one, other) = duplex(8 << 20);
    let key_log = Arc::new(CapturingKeyLog);
    match side {
        Side::Server => {
            let mut client = both.their_client;
            (client.enable_secret_extraction, client.key_log) = (true, key_log);
            let (ours, theirs) = tokio::join!(Own::accept(both.our_server, one), Own::connect(client, name(), other));
            let (ours, attacker) = (ours.unwrap(), Attacker::new(theirs.unwrap()));
            outcome::<UnbufferedServerConnection>(if moves { moved(ours) } else { ours }, attacker, acts).await
        }
        Side::Client => {
            let mut server = both.their_server;
            (server.enable_secret_extraction, server.key_log) = (true, key_log);
            let (ours, theirs) = tokio::join!(Own::connect(both.our_client, name(), one), Own::accept(server, other));
            let (ours, attacker) = (ours.unwrap(), Attacker::new(theirs.unwrap()));
            outcome::<UnbufferedClientConnection>(if moves { moved(ours) } else { ours }, attacker, acts).await
        }
    }
}

/// Compares a moved connection with one that rustls has, and returns what came of it.
async fn same_as_rustls(suite: rustls::SupportedCipherSuite, side: Side, acts: &[Act]) -> Outcome {
    let by_rustls = result_of(suite, side, false, acts).await;
    let after_a_move = result_of(suite, side, true, acts).await;
    // rustls reads contents, and what stands behind a message, before it refuses that message; ours refuses it at once. Both end.
    let is_malformed =
        by_rustls.error.as_ref().is_some_and(|error| error.starts_with("InvalidData Some(InvalidMessage("));
    if is_malformed && after_a_move.error.as_ref().is_some_and(|error| error.contains("(Inappropriate")) {
        assert_eq!(after_a_move.read, by_rustls.read, "{:?} {side:?} {acts:?}", suite.suite());
    } else {
        assert_eq!(after_a_move, by_rustls, "{:?} {side:?} {acts:?}", suite.suite());
    }
    after_a_move
}

fn message(kind: u8, contents: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (contents.len() as u32).to_be_bytes();
    [&[kind], &length[..], contents].concat()
}

/// A ClientHello, as a client sends it that wants a new handshake.
fn client_hello() -> Vec<u8> {
    let config = both(suites()[0]).their_client;
    let mut connection = UnbufferedClientConnection::new(Arc::new(config), name()).unwrap();
    let rustls::unbuffered::ConnectionState::EncodeTlsData(mut data) = connection.process(&mut []).state.unwrap()
    else {
        panic!("a client begins");
    };
    let mut record = vec![0; 4096];
    let count = data.encode(&mut record).unwrap();
    record[HEADER..count].to_vec()
}

/// A ticket that rustls takes: lifetime, age, nonce, ticket, no extensions.
fn ticket() -> Vec<u8> {
    message(NEW_SESSION_TICKET, &[0, 0, 1, 0, 1, 2, 3, 4, 1, 9, 0, 4, 5, 5, 5, 5, 0, 0])
}

fn fatal(alert: rustls::AlertDescription) -> Option<(u8, Vec<u8>)> {
    Some((ALERT, vec![2, alert.into()]))
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_refused_is_refused_with_the_alert_that_rustls_sends() {
    use rustls::AlertDescription as A;
    let data = |length: usize| Act::Send(APPLICATION_DATA, vec![7; length]);
    let update = |last| Act::Send(HANDSHAKE, vec![KEY_UPDATE, 0, 0, 1, last]);
    for suite in suites() {
        let is_tls13 = suite.tls13().is_some();
        for side in [Side::Server, Side::Client] {
            let mut cases = vec![
                (Act::Altered(APPLICATION_DATA, vec![7; 100], 0), fatal(A::BadRecordMac)),
                (Act::Altered(APPLICATION_DATA, vec![7; 100], 50), fatal(A::BadRecordMac)),
                (Act::Altered(APPLICATION_DATA, vec![7; 100], 110), fatal(A::BadRecordMac)),
                (Act::Twice(APPLICATION_DATA, vec![7; 100]), fatal(A::BadRecordMac)),
                (Act::Swapped(APPLICATION_DATA, vec![7; 100]), fatal(A::BadRecordMac)),
                (Act::Raw(vec![23, 3, 3, 0, 0]), fatal(A::BadRecordMac)),
                (Act::Raw(vec![23, 3, 3, 0, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), fatal(A::BadRecordMac)),
                (Act::Raw(vec![22, 3, 3, 0, 1, 0]), fatal(A::BadRecordMac)),
                (Act::Raw(vec![21, 3, 3, 0, 2, 1, 0]), fatal(A::BadRecordMac)),
                (Act::Raw(vec![20, 3, 3, 0, 1, 1]), fatal(A::UnexpectedMessage)),
                (Act::Raw(vec![20, 3, 3, 0, 1, 2]), fatal(A::DecodeError)),
                (Act::Raw(vec![20, 3, 3, 0, 2, 1, 1]), fatal(A::DecodeError)),
                (Act::Raw(vec![22, 3, 3, 0, 0]), fatal(A::DecodeError)),
                (Act::Raw(vec![23, 3, 3, 0x48, 0]), fatal(A::DecodeError)),
                (Act::Raw(vec![23, 4]), fatal(A::DecodeError)),
                (Act::Raw(vec![23, 4, 3]), fatal(A::DecodeError)),
                (Act::Raw(vec![19]), fatal(A::DecodeError)),
                (Act::Raw(b"HTTP/1.1 200 OK".to_vec()), fatal(A::DecodeError)),
                (Act::Cut(APPLICATION_DATA, vec![7; 100], 60), None),
                (data(16_385), fatal(A::RecordOverflow)),
                (data(16_900), fatal(A::RecordOverflow)),
                (Act::Send(ALERT, vec![]), fatal(A::DecodeError)),
                (Act::Send(ALERT, vec![1]), fatal(A::DecodeError)),
                (Act::Send(ALERT, vec![1, 0, 0]), fatal(A::DecodeError)),
                (Act::Send(ALERT, vec![3, 0]), fatal(A::IllegalParameter)),
                (Act::Send(ALERT, vec![2, 40]), None),
                (Act::Send(ALERT, vec![1, 90]), None),
                (Act::Send(ALERT, vec![1, 0]), None),
                (Act::Send(ALERT, vec![2, 0]), None),
                (Act::Send(ALERT, vec![1, 80]), is_tls13.then(|| fatal(A::DecodeError)).flatten()),
                (Act::Send(24, vec![1]), fatal(A::DecodeError)),
                (Act::Send(HANDSHAKE, message(14, &[])), fatal(A::UnexpectedMessage)),
                (Act::Send(HANDSHAKE, message(20, &[7; 32])), fatal(A::UnexpectedMessage)),
                (Act::Send(HANDSHAKE, message(99, &[7; 32])), fatal(A::UnexpectedMessage)),
                // Its length says 64 KiB.
                (Act::Send(HANDSHAKE, vec![KEY_UPDATE, 1, 0, 0]), None),
            ];
            if is_tls13 {
                let is_client = side == Side::Client;
                cases.extend([
                    (Act::Padded(APPLICATION_DATA, vec![7; 10], 300), None),
                    (Act::Padded(APPLICATION_DATA, vec![7; 10], 17_000), fatal(A::RecordOverflow)),
                    (Act::Padded(0, vec![0; 10], 300), None),
                    (Act::Padded(CHANGE_CIPHER_SPEC, vec![1], 3), fatal(A::UnexpectedMessage)),
                    (update(2), fatal(A::IllegalParameter)),
                    (Act::Send(HANDSHAKE, message(KEY_UPDATE, &[])), fatal(A::DecodeError)),
                    (Act::Send(HANDSHAKE, message(KEY_UPDATE, &[0, 0])), fatal(A::DecodeError)),
                    (Act::Send(HANDSHAKE, vec![KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE]), fatal(A::UnexpectedMessage)),
                    (Act::Send(HANDSHAKE, ticket()), (!is_client).then(|| fatal(A::UnexpectedMessage)).flatten()),
                    (Act::Send(HANDSHAKE, client_hello()), fatal(A::UnexpectedMessage)),
                ]);
            } else {
                let refusal = Some((ALERT, vec![1, A::NoRenegotiation.into()]));
                let (hello_request, hello) = match side {
                    Side::Client => (refusal, fatal(A::UnexpectedMessage)),
                    Side::Server => (fatal(A::UnexpectedMessage), refusal),
                };
                cases.extend([
                    (Act::Send(HANDSHAKE, message(HELLO_REQUEST, &[])), hello_request),
                    (Act::Send(HANDSHAKE, client_hello()), hello),
                    (update(0), fatal(A::UnexpectedMessage)),
                ]);
                assert_eq!(client_hello()[0], CLIENT_HELLO);
            }
            for (act, alert) in cases {
                let acts = [data(10), act, data(10)];
                let outcome = same_as_rustls(suite, side, &acts).await;
                assert!(outcome.read.starts_with(&[7; 10]), "{acts:?}");
                let failed = outcome.error.as_ref().is_some_and(|error| error.starts_with("InvalidData"));
                let closing = Some((ALERT, vec![1, 0]));
                let mut alerts = outcome.answers.iter().filter(|(kind, _)| *kind == ALERT).cloned();
                assert_eq!(alerts.next(), alert.or(closing.filter(|_| !failed)), "{outcome:?} {acts:?}");
            }
        }
    }
}

/// What a peer may do only so often, each without the data that makes it good again.
#[tokio::test(flavor = "current_thread")]
async fn what_is_too_much_is_too_much_at_the_same_count() {
    for (suite, side) in [(suites()[0], Side::Server), (suites()[0], Side::Client), (suites()[8], Side::Server)] {
        let is_tls13 = suite.tls13().is_some();
        let mut cases = vec![
            (Act::Send(APPLICATION_DATA, vec![]), 32),
            (Act::Send(HANDSHAKE, vec![]), 32),
            (Act::Send(ALERT, vec![1, 90]), 4),
        ];
        match is_tls13 {
            true => cases.extend([(Act::Update(false), 32), (Act::Update(true), 32)]),
            false => cases.push((Act::Send(HANDSHAKE, client_hello()), 1)),
        }
        for (act, most) in cases {
            for (count, is_taken) in [(most, true), (most + 1, false)] {
                let mut acts = vec![act.clone(); count];
                acts.push(Act::Send(APPLICATION_DATA, vec![7]));
                acts.push(Act::Send(ALERT, vec![1, 0]));
                let outcome = same_as_rustls(suite, side, &acts).await;
                assert_eq!(
                    (outcome.read.len(), outcome.error.is_none()),
                    (is_taken.into(), is_taken),
                    "{act:?} {count}"
                );
            }
        }
    }
}

fn some_message(random: &mut fastrand::Rng, is_tls13: bool) -> Vec<u8> {
    match random.u8(..8) {
        // rustls reads the contents first, and they differ in the versions.
        0 | 5.. if !is_tls13 => message(HELLO_REQUEST, &[]),
        0 => ticket(),
        1 => message(KEY_UPDATE, &[random.u8(..3)]),
        2 => message(HELLO_REQUEST, &[]),
        3 => message(random.choice([16, 20, 99]).unwrap(), &vec![7; random.usize(..40)]),
        4 => message(14, &[]),
        _ => ticket().repeat(random.usize(1..3)),
    }
}

fn some_act(random: &mut fastrand::Rng, is_tls13: bool, open: &mut Vec<u8>) -> Act {
    let plain = vec![random.u8(..); random.choice([0, 1, 20, 3_000, 16_384]).unwrap()];
    if !open.is_empty() || random.u8(..4) == 0 {
        // A message, or a part of one.
        if open.is_empty() {
            *open = some_message(random, is_tls13);
        }
        // Never nothing, which RFC 8446 §5.1 forbids: rustls refuses it inside the head of a message and lets it pass elsewhere.
        let now = if random.bool() { open.len() } else { random.usize(1..=open.len()) };
        let rest = open.split_off(now);
        let part = std::mem::replace(open, rest);
        if random.u8(..20) == 0 {
            open.clear();
        }
        return Act::Send(HANDSHAKE, part);
    }
    match random.u8(..60) {
        0..30 => Act::Send(APPLICATION_DATA, plain),
        30..38 => Act::Padded(APPLICATION_DATA, plain, random.usize(..400)),
        38..50 => Act::Update(random.bool()),
        50 => Act::Twice(APPLICATION_DATA, plain),
        51 => Act::Altered(APPLICATION_DATA, plain, random.usize(..20_000)),
        52 => Act::Swapped(APPLICATION_DATA, plain),
        53 => Act::Cut(APPLICATION_DATA, plain, random.usize(..20_000)),
        54 => Act::Raw(vec![random.u8(18..26), 3, 3, 0, 1, random.u8(..3)]),
        55 => Act::Send(random.u8(18..26), vec![random.u8(..3)]),
        _ => Act::Send(ALERT, vec![random.u8(1..3), random.choice([0, 90, 40, 80]).unwrap()]),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn whatever_a_peer_sends_a_moved_connection_does_as_rustls() {
    let start = fastrand::u64(..);
    let (mut with_error, mut without) = (0, 0);
    for seed in (0..60).chain(start..start.saturating_add(120)) {
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let suite = suites()[random.usize(..9)];
        let side = if random.bool() { Side::Server } else { Side::Client };
        let mut open = vec![];
        let is_tls13 = suite.tls13().is_some();
        let mut acts: Vec<Act> = (0..random.usize(1..20)).map(|_| some_act(&mut random, is_tls13, &mut open)).collect();
        if !is_tls13 {
            // Only TLS 1.3 has these.
            acts.retain(|act| !matches!(act, Act::Padded(..) | Act::Update(_)));
        }
        acts.push(Act::Send(ALERT, vec![1, 0]));
        match same_as_rustls(suite, side, &acts).await.error {
            Some(_) => with_error += 1,
            None => without += 1,
        }
    }
    assert!(with_error > 20 && without > 20, "{with_error} {without}");
}

/// rustls keeps a part of a message in its memory, and a connection does not move then. Ours writes it down.
#[tokio::test(flavor = "current_thread")]
async fn a_message_that_is_half_there_moves_unless_rustls_has_it() {
    for moves in [false, true] {
        let mut both = both(suites()[0]);
        let (one, other) = duplex(1 << 20);
        both.their_client.enable_secret_extraction = true;
        let (ours, theirs) =
            tokio::join!(Own::accept(both.our_server, one), Own::connect(both.their_client, name(), other));
        let (mut ours, mut attacker) = (ours.unwrap(), Attacker::new(theirs.unwrap()));
        if moves {
            ours = moved(ours);
        }
        for part in [&[KEY_UPDATE, 0][..], &[0], &[1]] {
            let record = attacker.seal(HANDSHAKE, part);
            attacker.io.write_all(&record).await.unwrap();
            let mut byte = [0];
            let mut cx = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut ours).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending());
            assert_eq!(ours.may_move(), moves);
            if moves {
                ours = moved(ours);
            }
        }
        let record = attacker.seal(HANDSHAKE, &[2]);
        attacker.io.write_all(&record).await.unwrap();
        let error = ours.read(&mut [0]).await.unwrap_err();
        assert!(named(&error).contains("InvalidKeyUpdate"), "{error}");
        assert!(!ours.may_move());
    }
}
