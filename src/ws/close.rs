//! Close codes and the body of a Close frame (RFC 6455 §5.5.1, §7.4; the IANA registry of close codes).

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::frame::CONTROL_PAYLOAD_MAX;

/// A close code: any 16 bits; `is_sendable` says which may stand in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// 1000: the purpose is fulfilled.
    pub const NORMAL: CloseCode = CloseCode(1000);
    /// 1001: a peer goes away: a server shuts down, or a browser leaves the page.
    pub const GOING_AWAY: CloseCode = CloseCode(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: CloseCode = CloseCode(1002);
    /// 1007: data does not fit its type, for example text that is not UTF-8.
    pub const INVALID_PAYLOAD: CloseCode = CloseCode(1007);
    /// 1008: a policy was violated.
    pub const POLICY_VIOLATION: CloseCode = CloseCode(1008);
    /// 1009: a message or frame is too big to process.
    pub const MESSAGE_TOO_BIG: CloseCode = CloseCode(1009);
    /// 1011: the server met an unexpected condition.
    pub const INTERNAL_ERROR: CloseCode = CloseCode(1011);
    /// 1012: the service restarts; a client may reconnect at once.
    pub const SERVICE_RESTART: CloseCode = CloseCode(1012);
    /// 1014: a gateway got no valid response from its upstream.
    pub const BAD_GATEWAY: CloseCode = CloseCode(1014);

    /// Returns true if this code may stand in a Close frame: the registered codes without 1005, 1006 and 1015 (which
    /// only report that there was none), 3000-3999 for libraries and 4000-4999 for applications (RFC 6455 §7.4.2).
    pub const fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The body of a Close frame from a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseBody {
    /// Absent when the frame is empty.
    pub code: Option<CloseCode>,
    /// At most 123 bytes; often empty.
    pub reason: Box<str>,
}

/// Why a Close frame breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// A body must be empty or begin with a 2-byte code (RFC 6455 §5.5.1).
    #[error("a Close body of one byte")]
    Truncated,
    /// This code must not be sent (RFC 6455 §7.4).
    #[error("close code {0} must not be sent")]
    Code(CloseCode),
    /// The reason must be UTF-8 (RFC 6455 §5.5.1).
    #[error("a close reason that is not UTF-8")]
    Reason,
}

impl CloseBody {
    /// Reads the unmasked body of a Close frame.
    ///
    /// # Errors
    /// Fails if RFC 6455 forbids the body.
    pub fn parse(body: &[u8]) -> Result<CloseBody, CloseError> {
        let Some((code, reason)) = body.split_first_chunk::<2>() else {
            return if body.is_empty() {
                Ok(CloseBody { code: None, reason: "".into() })
            } else {
                Err(CloseError::Truncated)
            };
        };
        let code = CloseCode(u16::from_be_bytes(*code));
        if !code.is_sendable() {
            return Err(CloseError::Code(code));
        }
        let reason = std::str::from_utf8(reason).map_err(|_| CloseError::Reason)?;
        Ok(CloseBody { code: Some(code), reason: reason.into() })
    }
}

/// A Close that the proxy sends itself: a code, and a reason that a developer reads in the browser's console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// Sendable; absent only in the answer to a Close without a code.
    pub code: Option<CloseCode>,
    /// At most 123 bytes; empty without a code.
    pub reason: Cow<'static, str>,
}

impl Close {
    /// Returns a Close with this code and reason.
    pub const fn new(code: CloseCode, reason: &'static str) -> Close {
        Close { code: Some(code), reason: Cow::Borrowed(reason) }
    }

    /// Returns the unmasked body of the frame, and its length.
    pub fn body(&self) -> ([u8; CONTROL_PAYLOAD_MAX], usize) {
        let mut body = [0; CONTROL_PAYLOAD_MAX];
        let Some(code) = self.code else { return (body, 0) };
        debug_assert!(code.is_sendable());
        body[..2].copy_from_slice(&code.0.to_be_bytes());
        let mut end = self.reason.len().min(CONTROL_PAYLOAD_MAX - 2);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        body[2..2 + end].copy_from_slice(&self.reason.as_bytes()[..end]);
        (body, 2 + end)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn codes_that_only_report_are_never_sendable() {
        let sendable: Vec<u16> = (0..=u16::MAX).filter(|&code| CloseCode(code).is_sendable()).collect();
        for never in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            assert!(!sendable.contains(&never), "{never}");
        }
        for legal in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            assert!(sendable.contains(&legal), "{legal}");
        }
    }

    #[test]
    fn bodies_are_read_or_refused() {
        assert_eq!(CloseBody::parse(b"").unwrap().code, None);
        let body = CloseBody::parse(b"\x03\xe8bye").unwrap();
        assert_eq!((body.code, &*body.reason), (Some(CloseCode::NORMAL), "bye"));
        assert_eq!(CloseBody::parse(b"\x03"), Err(CloseError::Truncated));
        assert_eq!(CloseBody::parse(b"\x03\xee"), Err(CloseError::Code(CloseCode(1006))));
        assert_eq!(CloseBody::parse(b"\x03\xe8\xff"), Err(CloseError::Reason));
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_between_two_characters() {
        for before in 0..4 {
            // RFC 6455 §5.5: 125 bytes in all, two of them the code.
            for (character, width) in [('é', 2), ('€', 3), ('🦀', 4)] {
                let reason = "x".repeat(before) + &character.to_string().repeat(100);
                let close = Close { code: Some(CloseCode::NORMAL), reason: Cow::Owned(reason.clone()) };
                let (body, length) = close.body();
                let read = CloseBody::parse(&body[..length]).unwrap();
                assert!(reason.starts_with(&*read.reason));
                assert_eq!(read.reason.len(), before + (123 - before) / width * width, "{before} and {character}");
            }
        }
    }

    #[test]
    fn our_own_body_reads_back() {
        let close = Close::new(CloseCode::SERVICE_RESTART, "draining");
        let (body, length) = close.body();
        let read = CloseBody::parse(&body[..length]).unwrap();
        assert_eq!((read.code, &*read.reason), (close.code, &*close.reason));
    }
}
