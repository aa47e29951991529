//! Why a request is not let in that has to prove whose it is, where the answer has more than a word about it.

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderValue};

use crate::policy::basic::BasicDenial;

/// Why a name and a password do not let in.
#[derive(Debug, thiserror::Error)]
#[error("{denial}")]
pub struct PasswordDenial {
    /// The reason.
    pub denial: BasicDenial,
    /// The challenge of the answer.
    pub challenge: Option<HeaderValue>,
}

/// An answer of the service that does not let in.
#[derive(Clone, Debug)]
pub struct ServiceDenial {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}
