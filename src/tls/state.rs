//! A TLS connection written down, so that another process can go on with it.
//!
//! It holds keys: whoever reads it can read and write as the connection's owner. It is wiped when dropped, and `Debug`
//! shows lengths only.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// All that another process needs besides the socket. The layout has one meaning for each `format`: a process that
/// does not know the format refuses the state.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(Clone, PartialEq))]
pub struct TlsState {
    pub(super) format: Format,
    pub(super) side: Side,
    /// The cipher suite, by its number in IANA's registry; it implies the version.
    pub(super) suite: u16,
    pub(super) reading: TrafficKeys,
    pub(super) writing: TrafficKeys,
    /// The first bytes of a handshake message that has not arrived whole, five at most.
    pub(super) message_start: Vec<u8>,
    /// How many bytes of that message are missing, once its header is whole.
    pub(super) message_left: u32,
    /// Bytes received and not decrypted.
    pub(super) incoming: Vec<u8>,
    /// Bytes encrypted and not sent.
    pub(super) outgoing: Vec<u8>,
    /// Whether those may wait for the next write.
    pub(super) outgoing_may_wait: bool,
    /// Bytes decrypted and not read.
    pub(super) rest: SecretBytes,
    pub(super) peer_closed: bool,
    pub(super) closed: bool,
}

/// What the fields mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Format {
    First,
}

/// Which side of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// We opened the connection.
    Client,
    /// We accepted it.
    Server,
}

/// The keys of one direction.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct TrafficKeys {
    pub(super) key: SecretBytes,
    pub(super) iv: [u8; 12],
    /// The number of the next record under this key.
    pub(super) sequence: u64,
    /// The traffic secret that the key comes from, if known; TLS 1.3 makes the next key from it (RFC 8446 §7.2).
    pub(super) secret: Option<SecretBytes>,
}

impl Drop for TrafficKeys {
    fn drop(&mut self) {
        self.iv.zeroize();
    }
}

/// Bytes that are wiped when dropped, and not shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct SecretBytes(pub(super) Vec<u8>);

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for TlsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsState")
            .field("side", &self.side)
            .field("suite", &format_args!("{:#06x}", self.suite))
            .field("incoming", &self.incoming.len())
            .field("outgoing", &self.outgoing.len())
            .field("rest", &self.rest)
            .field("peer_closed", &self.peer_closed)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// Why a TLS connection cannot move, or a state cannot become a connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsMoveError {
    /// It has failed, is in the middle of a handshake message, or was begun when nothing was to move.
    #[error("the TLS connection cannot move at this moment")]
    NotMovable,
    /// rustls does not give its keys away.
    #[error("rustls keeps the keys of the TLS connection")]
    Keys(#[source] rustls::Error),
    /// The state contradicts itself, or uses what this process does not have.
    #[error("the state of the TLS connection is not valid: {0}")]
    Invalid(&'static str),
}

/// The peer changed its keys, or ours are used up, and the secret for the next ones stayed in the process where the
/// connection began: it can still be written to, but no longer be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the TLS keys changed, and the next ones are not known since the connection moved to this process")]
pub struct KeyUpdateAfterMove;

impl KeyUpdateAfterMove {
    /// Returns true if an error of a TLS stream is this one.
    pub fn is(error: &std::io::Error) -> bool {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::Other(other)) => other.0.is::<KeyUpdateAfterMove>(),
            _ => false,
        }
    }
}

impl From<KeyUpdateAfterMove> for rustls::Error {
    fn from(error: KeyUpdateAfterMove) -> rustls::Error {
        rustls::Error::Other(rustls::OtherError(std::sync::Arc::new(error)))
    }
}
