//! Takes the first traffic secrets of TLS 1.3 from rustls, which gives away keys, but not the secrets that the next
//! keys are made of.
//!
//! rustls tells secrets to a `KeyLog` (meant for files that decrypt a trace). Ours belongs to a configuration and knows
//! no connection, so the secrets pass through a place of the thread, which is open only while one handshake is polled.

use std::cell::RefCell;

use rustls::KeyLog;
use zeroize::Zeroize;

/// The longest secret, that of SHA-384.
const SECRET_MAX: usize = 48;

/// The first traffic secrets of both directions, wiped when dropped.
pub struct FirstSecrets(Box<[u8]>);

impl FirstSecrets {
    /// Returns the secret of what the client sends.
    pub fn client(&self) -> &[u8] {
        &self.0[..self.0.len() / 2]
    }

    /// Returns the secret of what the server sends.
    pub fn server(&self) -> &[u8] {
        &self.0[self.0.len() / 2..]
    }
}

impl Drop for FirstSecrets {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A secret that rustls has told; empty before.
struct Told {
    bytes: [u8; SECRET_MAX],
    length: usize,
}

impl Told {
    const NONE: Told = Told { bytes: [0; SECRET_MAX], length: 0 };

    fn put(&mut self, secret: &[u8]) {
        if let Some(to) = self.bytes.get_mut(..secret.len()) {
            to.copy_from_slice(secret);
            self.length = secret.len();
        }
    }

    fn secret(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

thread_local! {
    static PLACE: RefCell<Option<[Told; 2]>> = const { RefCell::new(None) };
}

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// The `KeyLog` of configurations whose connections may move.
#[derive(Debug)]
pub struct CapturingKeyLog;

impl KeyLog for CapturingKeyLog {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        PLACE.with_borrow_mut(|place| match (place, label) {
            (Some([client, _]), CLIENT) => client.put(secret),
            (Some([_, server]), SERVER) => server.put(secret),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER)
    }
}

/// Runs `handshake` and returns the secrets it told, if it told both.
pub fn capturing<R>(handshake: impl FnOnce() -> R) -> (R, Option<FirstSecrets>) {
    /// Closes the place, also when rustls panics.
    struct Close;
    impl Drop for Close {
        fn drop(&mut self) {
            PLACE.take();
        }
    }
    PLACE.set(Some([Told::NONE; 2]));
    let close = Close;
    let result = handshake();
    let told = PLACE.take();
    drop(close);
    let secrets = told.and_then(|[client, server]| {
        let (client, server) = (client.secret(), server.secret());
        let both = !client.is_empty() && client.len() == server.len();
        both.then(|| FirstSecrets([client, server].concat().into_boxed_slice()))
    });
    (result, secrets)
}
