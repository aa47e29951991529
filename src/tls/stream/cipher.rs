//! Seals and opens the records of one direction.
//!
//! The nonce is the IV xor the sequence number (RFC 8446 §5.3, RFC 7905 §2). AES-GCM of TLS 1.2 lets the sender choose
//! a part of the nonce; rustls counts there too, from where the IV says, and this goes on with it (RFC 5288 §3).

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{Error, PeerMisbehaved};

use super::super::state::TrafficKeys;
use super::suite::Suite;

/// The most plaintext of one record (RFC 8446 §5.1).
pub const RECORD: usize = 16 * 1024;
/// The length of a record's header.
pub const HEADER: usize = 5;
const TAG: usize = 16;
const EXPLICIT_NONCE: usize = 8;

/// Content types (RFC 8446 §5.1).
pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const APPLICATION_DATA: u8 = 23;

/// The version that stands in each record.
const VERSION: [u8; 2] = [3, 3];

/// The protection of one direction.
pub struct RecordCipher {
    suite: Suite,
    key: LessSafeKey,
    /// What the key was made of; its sequence number is that of the next record.
    pub keys: TrafficKeys,
}

impl RecordCipher {
    /// Returns `None` if the key does not fit the suite.
    pub fn new(suite: Suite, keys: TrafficKeys) -> Option<RecordCipher> {
        let key = LessSafeKey::new(UnboundKey::new(suite.aead, &keys.key.0).ok()?);
        Some(RecordCipher { suite, key, keys })
    }

    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.keys.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.keys.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    /// Returns the additional data of TLS 1.2 (RFC 5246 §6.2.3.3).
    fn aad_tls12(&self, kind: u8, version: [u8; 2], length: usize) -> [u8; 13] {
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&self.keys.sequence.to_be_bytes());
        aad[8] = kind;
        aad[9..11].copy_from_slice(&version);
        aad[11..].copy_from_slice(&(length as u16).to_be_bytes());
        aad
    }

    fn count(&mut self) -> Result<(), Error> {
        self.keys.sequence = self.keys.sequence.checked_add(1).ok_or(Error::EncryptError)?;
        Ok(())
    }

    /// Writes a record with `plain` to the front of `out`, and returns its length.
    ///
    /// # Errors
    /// Fails if there is no sequence number left, or no room.
    pub fn seal(&mut self, kind: u8, plain: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let nonce = self.nonce();
        let explicit = if self.suite.has_explicit_nonce() { EXPLICIT_NONCE } else { 0 };
        // TLS 1.3 puts the content type behind the plaintext (RFC 8446 §5.2).
        let hidden = [kind];
        let hidden = if self.suite.is_tls13() { &hidden[..] } else { &[] };
        let length = explicit + plain.len() + hidden.len() + TAG;
        let out = out.get_mut(..HEADER + length).ok_or(Error::EncryptError)?;
        let [high, low] = (length as u16).to_be_bytes();
        let kind_shown = if self.suite.is_tls13() { APPLICATION_DATA } else { kind };
        let header = [kind_shown, VERSION[0], VERSION[1], high, low];
        out[..HEADER].copy_from_slice(&header);
        out[HEADER..HEADER + explicit].copy_from_slice(&nonce[12 - explicit..]);
        let (body, end) = out[HEADER + explicit..].split_at_mut(plain.len());
        let nonce = Nonce::assume_unique_for_key(nonce);
        if self.suite.is_tls13() {
            self.key.seal_out_of_place_scatter(nonce, Aad::from(header), plain, body, hidden, end)
        } else {
            let aad = self.aad_tls12(kind, VERSION, plain.len());
            self.key.seal_out_of_place_scatter(nonce, Aad::from(aad), plain, body, hidden, end)
        }
        .map_err(|_| Error::EncryptError)?;
        self.count()?;
        Ok(HEADER + length)
    }

    /// Decrypts a whole record in place. Returns its content type and contents.
    ///
    /// # Errors
    /// Fails if it was altered, or its contents are longer than is allowed.
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<(u8, &'a [u8]), Error> {
        let (header, payload) = record.split_first_chunk_mut::<HEADER>().ok_or(Error::DecryptError)?;
        let opened = if self.suite.is_tls13() {
            self.open_tls13(payload)?
        } else {
            (header[0], self.open_tls12(*header, payload)?)
        };
        self.count().map_err(|_| Error::DecryptError)?;
        Ok(opened)
    }

    fn open_tls12<'a>(&self, header: [u8; HEADER], payload: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let mut nonce = self.nonce();
        let payload = if self.suite.has_explicit_nonce() {
            let (explicit, sealed) = payload.split_at_mut_checked(EXPLICIT_NONCE).ok_or(Error::DecryptError)?;
            nonce[12 - EXPLICIT_NONCE..].copy_from_slice(explicit);
            sealed
        } else {
            payload
        };
        let length = payload.len().checked_sub(TAG).ok_or(Error::DecryptError)?;
        let [kind, major, minor, ..] = header;
        let aad = Aad::from(self.aad_tls12(kind, [major, minor], length));
        let plain = self.key.open_in_place(Nonce::assume_unique_for_key(nonce), aad, payload);
        let plain = plain.map_err(|_| Error::DecryptError)?;
        if plain.len() > RECORD { Err(Error::PeerSentOversizedRecord) } else { Ok(plain) }
    }

    fn open_tls13<'a>(&self, payload: &'a mut [u8]) -> Result<(u8, &'a [u8]), Error> {
        let [high, low] = (payload.len() as u16).to_be_bytes();
        // What the header says of type and version is not looked at, as with rustls.
        let aad = Aad::from([APPLICATION_DATA, VERSION[0], VERSION[1], high, low]);
        let plain = self.key.open_in_place(Nonce::assume_unique_for_key(self.nonce()), aad, payload);
        let plain = plain.map_err(|_| Error::DecryptError)?;
        if plain.len() > RECORD + 1 {
            return Err(Error::PeerSentOversizedRecord);
        }
        // The type stands before the padding (RFC 8446 §5.4).
        let end = plain.iter().rposition(|&byte| byte != 0).ok_or(PeerMisbehaved::IllegalTlsInnerPlaintext)?;
        match (plain[end], &plain[..end]) {
            (CHANGE_CIPHER_SPEC, _) => Err(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into()),
            (_, plain) if plain.len() > RECORD => Err(Error::PeerSentOversizedRecord),
            opened => Ok(opened),
        }
    }
}
