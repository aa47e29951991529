//! A TLS connection that another process began, whose peer has the keys and sends any records under them.
//!
//! However the bytes are cut, the same comes of them; a move in between changes nothing but counts; what is read is what
//! was sent as data, in order; and all that is answered can be read by the peer.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use wsluice::tls::TlsState;
use wsluice::tls::stream::{ClientStream, ServerStream};

use super::stream::{Script, block_on};
use super::{Target, choices, pieces};

/// Choices (suite, side, cut, moves), then for each record: what, length, contents.
pub const TARGET: Target = Target {
    name: "tls_moved",
    run,
    seeds: &[
        b"\x00\x00\x03\x01\x03\x05Hello\x03\x03abc\x01\x02\x01\x00",
        b"\x01\x01\x01\x00\x02\x05\x18\x00\x00\x01\x01\x03\x02hi\x02\x05\x18\x00\x00\x01\x00\x03\x02yo",
        b"\x02\x01\x05\x01\x02\x08\x04\x00\x00\x04\x00\x00\x00\x00\x23\x02hi\x01\x02\x02\x28",
        b"\x03\x00\x07\x01\x03\x03abc\x02\x04\x01\x00\x00\x00\x03\x03abc\x0b\x03abc",
        b"\x05\x01\x09\x00\x02\x02\x00\x00\x02\x02\x00\x00\x03\x03abc\x00\x01\x01",
        b"\x00\x01\x02\x01\x13\x03abc\x03\x03abc\x01\x02\x01\x00",
    ],
    tokens: &[
        b"\x03\x05Hello",
        b"\x03\x00",
        b"\x01\x02\x01\x00",
        b"\x01\x02\x01\x5a",
        b"\x01\x02\x02\x28",
        b"\x02\x05\x18\x00\x00\x01\x00",
        b"\x02\x05\x18\x00\x00\x01\x01",
        b"\x02\x02\x18\x00",
        b"\x02\x03\x00\x01\x01",
        b"\x02\x04\x00\x00\x00\x00",
        b"\x02\x08\x04\x00\x00\x04\x00\x00\x00\x00",
        b"\x23\x03abc",
        b"\x0b\x03abc",
        b"\x13\x03abc",
        b"\x00\x01\x01",
    ],
};

/// The peer's view of one direction: a key and how many records it has seen, written in the simplest way there is.
struct Direction {
    suite: &'static Known,
    key: Vec<u8>,
    iv: [u8; 12],
    secret: Vec<u8>,
    sequence: u64,
}

struct Known {
    number: u16,
    aead: &'static Algorithm,
    hkdf: Option<fn() -> hkdf::Algorithm>,
}

static SUITES: [Known; 6] = [
    Known { number: 0x1301, aead: &AES_128_GCM, hkdf: Some(|| hkdf::HKDF_SHA256) },
    Known { number: 0x1302, aead: &AES_256_GCM, hkdf: Some(|| hkdf::HKDF_SHA384) },
    Known { number: 0x1303, aead: &CHACHA20_POLY1305, hkdf: Some(|| hkdf::HKDF_SHA256) },
    Known { number: 0xc02b, aead: &AES_128_GCM, hkdf: None },
    Known { number: 0xc030, aead: &AES_256_GCM, hkdf: None },
    Known { number: 0xcca9, aead: &CHACHA20_POLY1305, hkdf: None },
];

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(algorithm: hkdf::Algorithm, secret: &[u8], label: &str, length: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let info = [&[0, length as u8, label.len() as u8], label.as_bytes(), &[0]].concat();
    let mut out = vec![0; length];
    let prk = hkdf::Prk::new_less_safe(algorithm, secret);
    prk.expand(&[&info], Length(length)).and_then(|okm| okm.fill(&mut out)).expect("a short output");
    out
}

impl Direction {
    fn new(suite: &'static Known, secret: Vec<u8>) -> Direction {
        let key_length = suite.aead.key_len();
        let (key, iv) = match suite.hkdf {
            Some(hkdf) => (expand(hkdf(), &secret, "key", key_length), expand(hkdf(), &secret, "iv", 12)),
            None => (secret[..key_length].to_vec(), secret[..12].to_vec()),
        };
        Direction { suite, key, iv: iv.try_into().expect("12 bytes"), secret, sequence: 0 }
    }

    fn next(&self) -> Direction {
        let hkdf = self.suite.hkdf.expect("TLS 1.3")();
        Direction::new(self.suite, expand(hkdf, &self.secret, "traffic upd", self.secret.len()))
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(self.suite.aead, &self.key).expect("a key of the right length"))
    }

    fn nonce(&mut self) -> [u8; 12] {
        let number = u128::from_be_bytes([&[0; 4], &self.iv[..]].concat().try_into().expect("16 bytes"));
        let nonce = number ^ u128::from(self.sequence);
        self.sequence += 1;
        nonce.to_be_bytes()[4..].try_into().expect("12 bytes")
    }

    fn has_explicit_nonce(&self) -> bool {
        self.suite.hkdf.is_none() && *self.suite.aead != CHACHA20_POLY1305
    }

    fn seal(&mut self, kind: u8, plain: &[u8], padding: usize) -> Vec<u8> {
        let (sequence, nonce) = (self.sequence, self.nonce());
        let explicit = if self.has_explicit_nonce() { &nonce[4..] } else { &[][..] };
        let mut body = plain.to_vec();
        let (shown, aad) = if self.suite.hkdf.is_some() {
            body.push(kind);
            body.extend(vec![0; padding]);
            let length = (body.len() as u16 + 16).to_be_bytes();
            (23, [&[23, 3, 3], &length[..]].concat())
        } else {
            let length = (body.len() as u16).to_be_bytes();
            (kind, [&sequence.to_be_bytes()[..], &[kind, 3, 3], &length].concat())
        };
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        self.cipher().seal_in_place_append_tag(nonce_used, Aad::from(aad), &mut body).expect("little is sealed");
        let length = ((explicit.len() + body.len()) as u16).to_be_bytes();
        [&[shown, 3, 3], &length[..], explicit, &body].concat()
    }

    fn open(&mut self, record: &[u8]) -> (u8, Vec<u8>) {
        let (sequence, mut nonce) = (self.sequence, self.nonce());
        let (header, mut body) = record.split_at(5);
        if self.has_explicit_nonce() {
            nonce[4..].copy_from_slice(&body[..8]);
            body = &body[8..];
        }
        let aad = match self.suite.hkdf {
            Some(_) => header.to_vec(),
            None => {
                let length = (body.len() as u16 - 16).to_be_bytes();
                [&sequence.to_be_bytes()[..], &header[..3], &length].concat()
            }
        };
        let mut body = body.to_vec();
        let plain = self.cipher().open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut body);
        let mut plain = plain.expect("what we send can be read").to_vec();
        let kind = if self.suite.hkdf.is_some() { plain.pop().expect("a type") } else { header[0] };
        (kind, plain)
    }
}

/// What the peer sends.
struct Sent {
    bytes: Vec<u8>,
    /// The data in it.
    data: Vec<u8>,
}

fn send(writing: &mut Direction, mut rest: &[u8]) -> Sent {
    let mut sent = Sent { bytes: vec![], data: vec![] };
    while let [what, length, tail @ ..] = rest {
        let (contents, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = tail;
        let kind = 20 + what % 8;
        if what & 16 != 0 {
            sent.bytes.extend([kind, 3, 3, 0, contents.len() as u8]);
            sent.bytes.extend(contents);
            continue;
        }
        let mut record = writing.seal(kind, contents, if what & 32 != 0 { 100 } else { 0 });
        if what & 8 != 0 {
            let at = 5 + contents.len() % (record.len() - 5);
            record[at] ^= 1;
        } else if kind == 23 {
            sent.data.extend(contents);
        }
        sent.bytes.extend(record);
        // The next records are under the next key, as they should be.
        if writing.suite.hkdf.is_some() && kind == 22 && contents.len() == 5 && contents.starts_with(&[24, 0, 0, 1]) {
            *writing = writing.next();
        }
    }
    sent
}

#[derive(Debug, PartialEq)]
struct Outcome {
    read: Vec<u8>,
    error: Option<String>,
    written: Vec<u8>,
}

fn state(suite: &Known, is_server: bool, reading: &Direction, writing: &Direction) -> TlsState {
    let keys = |keys: &Direction| {
        let secret = suite.hkdf.map(|_| &keys.secret);
        serde_json::json!({ "key": keys.key, "iv": keys.iv, "sequence": 0, "secret": secret })
    };
    let empty: [u8; 0] = [];
    serde_json::from_value(serde_json::json!({
        "format": "First", "side": if is_server { "Server" } else { "Client" }, "suite": suite.number,
        "reading": keys(reading), "writing": keys(writing), "message_start": empty, "message_left": 0,
        "incoming": empty, "outgoing": empty, "outgoing_may_wait": false, "rest": empty,
        "peer_closed": false, "closed": false,
    }))
    .expect("a state")
}

/// Reads to the end and closes; `again` moves the stream.
async fn talk<T: AsyncRead + AsyncWrite + Unpin>(
    stream: T,
    size: usize,
    again: impl Fn(T) -> T,
) -> (Vec<u8>, Option<String>) {
    let (mut stream, mut read) = (stream, vec![]);
    let error = loop {
        let mut buffer = vec![0; size];
        match stream.read(&mut buffer).await {
            Ok(0) => break None,
            Ok(count) => read.extend(&buffer[..count]),
            Err(error) => break Some(error.to_string()),
        }
        stream = again(stream);
    };
    let _ = stream.write_all(b"end").await;
    let _ = stream.shutdown().await;
    (read, error)
}

fn outcome(state: TlsState, is_server: bool, moves: bool, size: usize, bytes: &[&[u8]]) -> Outcome {
    let mut script = Script::new(bytes);
    let (read, error) = if is_server {
        let stream = ServerStream::restore(state, &mut script).expect("a valid state");
        block_on(talk(stream, size, |stream| match moves && stream.may_move() {
            true => stream.into_state().and_then(|(state, io)| ServerStream::restore(state, io)).expect("it moves"),
            false => stream,
        }))
    } else {
        let stream = ClientStream::restore(state, &mut script).expect("a valid state");
        block_on(talk(stream, size, |stream| match moves && stream.may_move() {
            true => stream.into_state().and_then(|(state, io)| ClientStream::restore(state, io)).expect("it moves"),
            false => stream,
        }))
    };
    Outcome { read, error, written: script.written }
}

/// The peer reads what was written: whole records, of which a fatal alert is the last.
fn understand(mut reading: Direction, mut written: &[u8]) {
    let mut is_over = false;
    while let [_, _, _, high, low, ..] = *written {
        assert!(!is_over, "something comes after the end");
        let (record, rest) = written.split_at(5 + usize::from(u16::from_be_bytes([high, low])));
        let (kind, plain) = reading.open(record);
        match (kind, &plain[..]) {
            (21, [2, _] | [1, 0]) => is_over = true,
            (22, [24, 0, 0, 1, 0 | 1]) => reading = reading.next(),
            (21, [1, 100]) => {}
            (23, b"end") => {}
            other => panic!("{other:?}"),
        }
        written = rest;
    }
    assert!(written.is_empty());
}

fn run(data: &[u8]) {
    let Some(([suite, side, cut, moves], rest)) = choices::<4>(data) else { return };
    let (suite, is_server) = (&SUITES[usize::from(suite) % SUITES.len()], side % 2 == 0);
    let length = suite.hkdf.map_or(32, |hkdf| hkdf::KeyType::len(&hkdf()));
    let direction = |byte: u8| Direction::new(suite, vec![byte; length]);
    let sent = send(&mut direction(1), rest);
    let state = || state(suite, is_server, &direction(1), &direction(2));

    let whole = outcome(state(), is_server, false, 100_000, &[&sent.bytes]);
    assert!(sent.data.starts_with(&whole.read), "{whole:?}");
    understand(direction(2), &whole.written);
    let size = 1 + usize::from(moves);
    let pieces = pieces(&sent.bytes, cut);
    let in_pieces = outcome(state(), is_server, false, size, &pieces);
    assert_eq!(in_pieces, whole);

    let moved = outcome(state(), is_server, true, size, &pieces);
    assert!(sent.data.starts_with(&moved.read) && moved.read.starts_with(&whole.read), "{moved:?} {whole:?}");
    understand(direction(2), &moved.written);
    // What a peer may do only so often is counted anew.
    if !whole.error.as_ref().is_some_and(|error| error.contains("TooMany")) {
        assert_eq!((moved.read, moved.error), (whole.read, whole.error));
    }
}
