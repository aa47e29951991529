//! Established connections go to another process, and come from one.

use aws_lc_rs::aead::NONCE_LEN;
use rustls::{ConnectionTrafficSecrets, Error};

use super::super::state::{Format, SecretBytes, Side, TlsMoveError, TlsState, TrafficKeys};
use super::TlsStream;
use super::capture::FirstSecrets;
use super::cipher::RECORD;
use super::engine::{Engine, Records, TlsConnection};
use super::incoming::Incoming;
use super::message::MessageReader;
use super::outgoing::Outgoing;
use super::record_layer::{Parts, RecordLayer};
use super::schedule;
use super::suite::Suite;
use crate::net::pool::BufferSize;

/// The most bytes that wait in a connection, in either direction.
const WAITING_MAX: usize = 2 * BufferSize::Large.bytes();

impl<C: TlsConnection, S> TlsStream<C, S> {
    /// Returns true if the connection can go to another process now.
    pub fn may_move(&self) -> bool {
        self.engine.may_move()
    }

    /// Ends the connection in this process, so that another can go on with it. Returns the socket as it is: nothing is
    /// sent or read.
    ///
    /// # Errors
    /// Fails if it [may not move](Self::may_move), or rustls keeps its keys; the connection is then lost.
    pub fn into_state(self) -> Result<(TlsState, S), TlsMoveError> {
        let TlsStream { engine, io } = self;
        Ok((engine.into_state()?, io))
    }

    /// Goes on with a connection that another process began.
    ///
    /// # Errors
    /// Fails if the state is of the other side, or not valid.
    pub fn restore(state: TlsState, io: S) -> Result<TlsStream<C, S>, TlsMoveError> {
        Ok(TlsStream { engine: Engine::restore(&state)?, io })
    }
}

impl<C: TlsConnection> Engine<C> {
    fn may_move(&self) -> bool {
        let is_ready = match &self.records {
            Records::Rustls { connection, may_move, .. } => {
                // A part of a handshake message is in rustls' memory.
                *may_move && !connection.common().is_handshaking() && self.incoming.joined() == 0
            }
            Records::Moved(_) => true,
        };
        is_ready && self.failed.is_none()
    }

    fn into_state(mut self) -> Result<TlsState, TlsMoveError> {
        if !self.may_move() {
            return Err(TlsMoveError::NotMovable);
        }
        self.encode_pending().map_err(TlsMoveError::Keys)?;
        let Engine { records, incoming, mut outgoing, rest, rest_read, failed: _, peer_closed, closed, work: _ } = self;
        let parts = match records {
            Records::Rustls { connection, secrets, may_move: _ } => parts_of(connection, secrets.as_ref())?,
            Records::Moved(layer) if closed => layer.into_parts(),
            Records::Moved(mut layer) => {
                layer.pay(&mut outgoing).map_err(|_| TlsMoveError::NotMovable)?;
                layer.into_parts()
            }
        };
        let Parts { suite, side, reading, writing, message } = parts;
        let mut rest = SecretBytes(rest);
        rest.0.drain(..rest_read);
        Ok(TlsState {
            format: Format::First,
            side,
            suite: suite.number,
            reading,
            writing,
            message_start: message.start().to_vec(),
            message_left: message.left(),
            incoming: incoming.bytes().to_vec(),
            outgoing: outgoing.bytes().to_vec(),
            outgoing_may_wait: outgoing.may_wait(),
            rest,
            peer_closed,
            closed,
        })
    }

    /// Appends what rustls holds back to `outgoing`: the answer to a KeyUpdate, which it sends before the next data.
    fn encode_pending(&mut self) -> Result<(), Error> {
        let Records::Rustls { connection, .. } = &self.records else { return Ok(()) };
        if self.closed {
            return Ok(());
        }
        if connection.common().protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3) {
            // There is no call for it; but an attempt to send data without room gets it out before it fails.
            self.write(|traffic, _| {
                let _ = traffic.encrypt(&[0], &mut []);
                Ok(())
            })?;
        }
        // Each call begins with what is pending.
        self.write(|_, _| Ok(()))
    }

    fn restore(state: &TlsState) -> Result<Engine<C>, TlsMoveError> {
        let TlsState {
            format: Format::First,
            side,
            suite,
            reading,
            writing,
            message_start,
            message_left,
            incoming,
            outgoing,
            outgoing_may_wait,
            rest,
            peer_closed,
            closed,
        } = state;
        if *side != C::SIDE {
            return Err(TlsMoveError::Invalid("it is of the other side"));
        }
        let suite = Suite::of(*suite).ok_or(TlsMoveError::Invalid("the cipher suite is not known"))?;
        let message = MessageReader::restore(message_start, *message_left)
            .ok_or(TlsMoveError::Invalid("the handshake message contradicts itself"))?;
        if [incoming, outgoing].iter().any(|bytes| bytes.len() > WAITING_MAX) || rest.0.len() > RECORD {
            return Err(TlsMoveError::Invalid("more bytes wait than can"));
        }
        let secret_length = suite.hkdf.map(|hkdf| aws_lc_rs::hkdf::KeyType::len(&hkdf));
        let mut secrets = [reading, writing].into_iter().filter_map(|keys| keys.secret.as_ref());
        if secrets.any(|secret| Some(secret.0.len()) != secret_length) {
            return Err(TlsMoveError::Invalid("a secret does not fit the cipher suite"));
        }
        let parts = Parts { suite, side: *side, reading: reading.clone(), writing: writing.clone(), message };
        let layer = RecordLayer::new(parts).ok_or(TlsMoveError::Invalid("a key does not fit the cipher suite"))?;
        let mut engine = Engine::of(Records::Moved(Box::new(layer)), Incoming::new(incoming));
        engine.outgoing = Outgoing::restore(outgoing, *outgoing_may_wait);
        engine.rest = rest.0.clone();
        (engine.peer_closed, engine.closed) = (*peer_closed, *closed);
        Ok(engine)
    }
}

/// Takes the keys out of rustls.
fn parts_of<C: TlsConnection>(connection: C, secrets: Option<&FirstSecrets>) -> Result<Parts, TlsMoveError> {
    let number = connection.common().negotiated_cipher_suite().map(|suite| suite.suite().into());
    let suite = number.and_then(Suite::of).ok_or(TlsMoveError::NotMovable)?;
    let keys = connection.into_secrets().map_err(TlsMoveError::Keys)?;
    let (client, server) = (secrets.map(FirstSecrets::client), secrets.map(FirstSecrets::server));
    let (received, sent) = match C::SIDE {
        Side::Client => (server, client),
        Side::Server => (client, server),
    };
    let reading = traffic_keys(&suite, keys.rx, received)?;
    let writing = traffic_keys(&suite, keys.tx, sent)?;
    Ok(Parts { suite, side: C::SIDE, reading, writing, message: MessageReader::default() })
}

fn traffic_keys(
    suite: &Suite,
    (sequence, keys): (u64, ConnectionTrafficSecrets),
    first_secret: Option<&[u8]>,
) -> Result<TrafficKeys, TlsMoveError> {
    let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
    | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = keys
    else {
        return Err(TlsMoveError::NotMovable);
    };
    let iv: [u8; NONCE_LEN] = iv.as_ref().try_into().map_err(|_| TlsMoveError::NotMovable)?;
    let mut keys = TrafficKeys { key: SecretBytes(key.as_ref().to_vec()), iv, sequence, secret: None };
    keys.secret = first_secret.and_then(|first| schedule::find_secret(suite, first, &keys));
    Ok(keys)
}
