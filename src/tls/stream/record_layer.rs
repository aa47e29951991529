//! TLS after the handshake, without rustls: the connection of another process goes on here.
//!
//! rustls cannot begin in the middle of a connection, so this is the part of it that an established connection needs:
//! records, alerts, KeyUpdate, tickets and the refusal of a renegotiation. It accepts what rustls accepts, refuses the
//! rest with the same alerts, and has the same limits. There are these differences: tickets are passed over, not kept;
//! messages that are refused are not parsed first, so they are refused for their type also where rustls finds an error
//! inside. The counts of what a peer may do only so often begin anew with each process.

use rustls::{AlertDescription, Error, HandshakeType, InvalidMessage, PeerMisbehaved};

use super::super::state::{KeyUpdateAfterMove, Side, TrafficKeys};
use super::cipher::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, HEADER, RECORD, RecordCipher};
use super::message::{CLIENT_HELLO, HELLO_REQUEST, KEY_UPDATE, Message, MessageReader, NEW_SESSION_TICKET};
use super::outgoing::Outgoing;
use super::schedule;
use super::suite::Suite;

/// A record's payload is shorter than this: 2 KiB more than its plaintext, for what encryption adds.
const PAYLOAD_END: usize = RECORD + 2048;
/// The most bytes that a record adds to its plaintext: header, explicit nonce and tag of TLS 1.2.
const OVERHEAD: usize = HEADER + 8 + 16;
/// Room for an alert, or a KeyUpdate.
const SMALL: usize = 64;

/// How many records without contents may follow each other.
const EMPTY_MAX: u8 = 32;
/// How many KeyUpdates may follow each other without data between them.
const KEY_UPDATES_MAX: u8 = 32;
/// How many warnings a peer may send.
const WARNINGS_MAX: u8 = 4;
/// How many times a peer may ask for a renegotiation.
const RENEGOTIATIONS_MAX: u8 = 1;

/// How many records before the end of a key without a successor the session is told to end.
const LAST_RECORDS: u64 = 1 << 16;

/// Alert levels (RFC 8446 §6).
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// What was in a record.
pub enum Contents<'a> {
    /// Bytes for the reader.
    Data(&'a [u8]),
    /// Nothing that concerns the reader.
    None,
    /// The peer's close_notify.
    End,
}

/// Why a record was refused, or none can be sent.
#[derive(Debug)]
pub enum Fault {
    /// The connection ends with this alert.
    Alert(AlertDescription, Error),
    /// The connection ends without one.
    Silent(Error),
    /// The next key is needed and not known. The connection can still be written to, if the fault came from reading.
    NoSecret,
}

impl From<KeyUpdateAfterMove> for Fault {
    fn from(_: KeyUpdateAfterMove) -> Fault {
        Fault::NoSecret
    }
}

/// Returns the fault of an error of the record protection, with the alert that rustls sends.
impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        let alert = match &error {
            Error::InvalidMessage(_) => AlertDescription::DecodeError,
            Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
            Error::DecryptError => AlertDescription::BadRecordMac,
            Error::PeerMisbehaved(
                PeerMisbehaved::IllegalMiddleboxChangeCipherSpec | PeerMisbehaved::KeyEpochWithPendingFragment,
            )
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. } => AlertDescription::UnexpectedMessage,
            _ => return Fault::Silent(error),
        };
        Fault::Alert(alert, error)
    }
}

impl From<InvalidMessage> for Fault {
    fn from(error: InvalidMessage) -> Fault {
        Error::from(error).into()
    }
}

impl From<PeerMisbehaved> for Fault {
    fn from(error: PeerMisbehaved) -> Fault {
        Error::from(error).into()
    }
}

/// The state of a connection that another process began, without its buffers.
pub struct RecordLayer {
    suite: Suite,
    side: Side,
    reading: RecordCipher,
    writing: RecordCipher,
    message: MessageReader,
    /// Whether the peer has asked for a KeyUpdate of ours, which goes before the next record (RFC 8446 §4.6.3).
    owes_key_update: bool,
    empty: u8,
    key_updates: u8,
    warnings: u8,
    renegotiations: u8,
}

/// A record layer taken apart.
pub struct Parts {
    /// See [`RecordLayer::new`].
    pub suite: Suite,
    pub side: Side,
    pub reading: TrafficKeys,
    pub writing: TrafficKeys,
    pub message: MessageReader,
}

impl RecordLayer {
    /// Returns `None` if the keys do not fit the suite.
    pub fn new(parts: Parts) -> Option<RecordLayer> {
        let Parts { suite, side, reading, writing, message } = parts;
        let reading = RecordCipher::new(suite, reading)?;
        let writing = RecordCipher::new(suite, writing)?;
        Some(RecordLayer {
            suite,
            side,
            reading,
            writing,
            message,
            owes_key_update: false,
            empty: 0,
            key_updates: 0,
            warnings: 0,
            renegotiations: 0,
        })
    }

    /// Takes it apart. A KeyUpdate that it owes is lost, see [`pay`](Self::pay).
    pub fn into_parts(self) -> Parts {
        let RecordLayer { suite, side, reading, writing, message, .. } = self;
        Parts { suite, side, reading: reading.keys, writing: writing.keys, message }
    }

    /// Returns the cipher suite.
    pub fn suite(&self) -> &Suite {
        &self.suite
    }

    /// Returns true if the key for writing is nearly used up and has no successor.
    pub fn must_end(&self) -> bool {
        let left = self.suite.records_max().saturating_sub(self.writing.keys.sequence);
        left < LAST_RECORDS && self.suite.is_tls13() && self.writing.keys.secret.is_none()
    }

    /// Judges the start of a record that has not arrived whole.
    ///
    /// # Errors
    /// Fails if it cannot become one.
    pub fn check_start(start: &[u8]) -> Result<(), InvalidMessage> {
        let &[kind, ref rest @ ..] = start else { return Ok(()) };
        if !(CHANGE_CIPHER_SPEC..=24).contains(&kind) {
            return Err(InvalidMessage::InvalidContentType);
        }
        let &[major, _, ref rest @ ..] = rest else { return Ok(()) };
        if major != 3 {
            return Err(InvalidMessage::UnknownProtocolVersion);
        }
        let &[high, low, ..] = rest else { return Ok(()) };
        match usize::from(u16::from_be_bytes([high, low])) {
            0 if kind != APPLICATION_DATA => Err(InvalidMessage::InvalidEmptyPayload),
            PAYLOAD_END.. => Err(InvalidMessage::MessageTooLarge),
            _ => Ok(()),
        }
    }

    /// Decrypts a whole record in place; answers go to `outgoing`.
    ///
    /// # Errors
    /// Fails if the peer breaks the protocol, or ends the connection by an alert.
    pub fn open<'a>(&mut self, record: &'a mut [u8], outgoing: &mut Outgoing) -> Result<Contents<'a>, Fault> {
        RecordLayer::check_start(record)?;
        if record.first() == Some(&CHANGE_CIPHER_SPEC) && self.message.is_empty() {
            // It is never encrypted, and has its place in the handshake only.
            return Err(match record[HEADER..] {
                [1] => inappropriate(rustls::ContentType::ChangeCipherSpec).into(),
                [1, ..] => InvalidMessage::TrailingData("ChangeCipherSpecPayload").into(),
                _ => InvalidMessage::InvalidCcs.into(),
            });
        }
        let (kind, plain) = self.reading.open(record)?;
        if !self.message.is_empty() && kind != HANDSHAKE {
            return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
        }
        self.empty = match plain {
            [] if self.empty == EMPTY_MAX => return Err(PeerMisbehaved::TooManyEmptyFragments.into()),
            [] => self.empty + 1,
            _ => 0,
        };
        match kind {
            APPLICATION_DATA => {
                self.key_updates = 0;
                Ok(Contents::Data(plain))
            }
            HANDSHAKE => self.handshake(plain, outgoing).map(|()| Contents::None),
            ALERT => self.alert(plain),
            _ => Err(InvalidMessage::InvalidContentType.into()),
        }
    }

    fn alert(&mut self, plain: &[u8]) -> Result<Contents<'static>, Fault> {
        let &[level, description] = plain else {
            return Err(match plain {
                [] | [_] => InvalidMessage::MissingData("AlertDescription").into(),
                _ => InvalidMessage::TrailingData("AlertMessagePayload").into(),
            });
        };
        let description = AlertDescription::from(description);
        let error = Error::AlertReceived(description);
        match level {
            WARNING | FATAL if description == AlertDescription::CloseNotify => Ok(Contents::End),
            WARNING if self.warnings == WARNINGS_MAX => Err(PeerMisbehaved::TooManyWarningAlertsReceived.into()),
            WARNING => {
                self.warnings += 1;
                if self.suite.is_tls13() && description != AlertDescription::UserCanceled {
                    return Err(Fault::Alert(AlertDescription::DecodeError, error));
                }
                Ok(Contents::None)
            }
            FATAL => Err(Fault::Silent(error)),
            _ => Err(Fault::Alert(AlertDescription::IllegalParameter, error)),
        }
    }

    fn handshake(&mut self, mut plain: &[u8], outgoing: &mut Outgoing) -> Result<(), Fault> {
        while !plain.is_empty() {
            // rustls sends no alert here.
            let Some(message) = self.message.take(&mut plain).map_err(Fault::Silent)? else { break };
            match (self.suite.is_tls13(), self.side, message.kind) {
                (true, _, KEY_UPDATE) => self.key_update(message, plain.is_empty())?,
                // Its contents would be of use for the next handshake, which is not made here.
                (true, Side::Client, NEW_SESSION_TICKET) => {}
                (false, Side::Client, HELLO_REQUEST) | (false, Side::Server, CLIENT_HELLO) => {
                    self.refuse_renegotiation(outgoing)?;
                }
                _ => return Err(self.inappropriate_message(message.kind).into()),
            }
        }
        Ok(())
    }

    fn inappropriate_message(&self, kind: u8) -> Error {
        if self.suite.is_tls13() {
            let expect_types = vec![HandshakeType::KeyUpdate];
            Error::InappropriateHandshakeMessage { expect_types, got_type: HandshakeType::from(kind) }
        } else {
            inappropriate(rustls::ContentType::Handshake)
        }
    }

    /// The peer's next record is encrypted with its next key.
    fn key_update(&mut self, message: Message, is_aligned: bool) -> Result<(), Fault> {
        if message.length != 1 {
            let what = "KeyUpdate";
            return Err(match message.length {
                0 => InvalidMessage::MissingData(what),
                _ => InvalidMessage::TrailingData(what),
            }
            .into());
        }
        if !is_aligned {
            // What follows in this record would belong to the next key.
            return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
        }
        if self.key_updates == KEY_UPDATES_MAX {
            return Err(PeerMisbehaved::TooManyKeyUpdateRequests.into());
        }
        self.key_updates += 1;
        if message.first > 1 {
            let error = InvalidMessage::InvalidKeyUpdate.into();
            return Err(Fault::Alert(AlertDescription::IllegalParameter, error));
        }
        let is_asked = message.first == 1;
        if is_asked && self.writing.keys.secret.is_none() {
            return Err(Fault::NoSecret);
        }
        self.reading = self.next(&self.reading)?;
        self.owes_key_update |= is_asked;
        Ok(())
    }

    fn next(&self, cipher: &RecordCipher) -> Result<RecordCipher, KeyUpdateAfterMove> {
        let keys = schedule::next_keys(&self.suite, &cipher.keys).ok_or(KeyUpdateAfterMove)?;
        RecordCipher::new(self.suite, keys).ok_or(KeyUpdateAfterMove)
    }

    fn refuse_renegotiation(&mut self, outgoing: &mut Outgoing) -> Result<(), Fault> {
        if self.renegotiations == RENEGOTIATIONS_MAX {
            return Err(PeerMisbehaved::TooManyRenegotiationRequests.into());
        }
        self.renegotiations += 1;
        self.write_small(ALERT, &[WARNING, AlertDescription::NoRenegotiation.into()], outgoing)
    }

    /// Appends a close_notify.
    ///
    /// # Errors
    /// Fails if there is no sequence number left.
    pub fn close(&mut self, outgoing: &mut Outgoing) -> Result<(), Fault> {
        self.pay(outgoing)?;
        self.write_small(ALERT, &[WARNING, AlertDescription::CloseNotify.into()], outgoing)
    }

    /// Appends a fatal alert.
    ///
    /// # Errors
    /// Fails if there is no sequence number left.
    pub fn abort(&mut self, alert: AlertDescription, outgoing: &mut Outgoing) -> Result<(), Fault> {
        self.pay(outgoing)?;
        self.write_small(ALERT, &[FATAL, alert.into()], outgoing)
    }

    /// Encrypts `plain` and appends it to `outgoing`, all in one piece of memory: a few records.
    ///
    /// # Errors
    /// Fails if the key is used up and has no successor.
    pub fn seal(&mut self, plain: &[u8], outgoing: &mut Outgoing) -> Result<(), Fault> {
        self.pay(outgoing)?;
        self.renew_before(plain.len().div_ceil(RECORD) as u64, outgoing)?;
        let size = plain.len() + plain.len().div_ceil(RECORD) * OVERHEAD;
        let room = outgoing.room(size);
        let mut written = 0;
        for piece in plain.chunks(RECORD) {
            written += self.writing.seal(APPLICATION_DATA, piece, &mut room[written..])?;
        }
        outgoing.add(written);
        Ok(())
    }

    /// Makes sure that the key is good for as many records.
    fn renew_before(&mut self, records: u64, outgoing: &mut Outgoing) -> Result<(), Fault> {
        // With TLS 1.3 the KeyUpdate takes a number, too.
        let needed = records.saturating_add(self.suite.is_tls13().into());
        if self.writing.keys.sequence.saturating_add(needed) <= self.suite.records_max() {
            return Ok(());
        }
        if self.suite.is_tls13() {
            return self.send_key_update(true, outgoing);
        }
        // TLS 1.2 cannot change its keys: the connection ends.
        self.close(outgoing)?;
        Err(Fault::Silent(Error::EncryptError))
    }

    /// Sends the KeyUpdate that the peer asked for, one for all that it asked.
    ///
    /// # Errors
    /// Fails if there is no sequence number left.
    pub fn pay(&mut self, outgoing: &mut Outgoing) -> Result<(), Fault> {
        if !self.owes_key_update {
            return Ok(());
        }
        self.send_key_update(false, outgoing)?;
        self.owes_key_update = false;
        Ok(())
    }

    fn send_key_update(&mut self, asks: bool, outgoing: &mut Outgoing) -> Result<(), Fault> {
        let next = self.next(&self.writing)?;
        self.write_small(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, asks.into()], outgoing)?;
        self.writing = next;
        Ok(())
    }

    fn write_small(&mut self, kind: u8, plain: &[u8], outgoing: &mut Outgoing) -> Result<(), Fault> {
        let count = self.writing.seal(kind, plain, outgoing.room(SMALL))?;
        outgoing.add(count);
        Ok(())
    }
}

/// Only data and some handshake messages come after a handshake.
fn inappropriate(got_type: rustls::ContentType) -> Error {
    let expect_types = vec![rustls::ContentType::ApplicationData, rustls::ContentType::Handshake];
    Error::InappropriateMessage { expect_types, got_type }
}
