//! What a service is asked again during a session: the question of its handshake, and when.

use std::fmt;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::base::time::MonotonicTime;

/// The fields of a question. They have credentials: they are kept as bytes of their own, which do not keep the buffer alive
/// that the request was read into, and are wiped in the end.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptQuestion(Box<[u8]>);

/// A question, and when it is asked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRecheck {
    /// What is asked.
    pub question: KeptQuestion,
    /// When.
    pub due: MonotonicTime,
}

impl KeptQuestion {
    /// Keeps these fields.
    pub fn of(headers: &HeaderMap) -> KeptQuestion {
        let length = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 2).sum();
        let mut bytes = Vec::with_capacity(length);
        for (name, value) in headers {
            // No name has a colon, and no value a line end.
            for part in [name.as_str().as_bytes(), b":", value.as_bytes(), b"\n"] {
                bytes.extend_from_slice(part);
            }
        }
        KeptQuestion(bytes.into())
    }

    /// Returns the fields, in their order.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in self.0.split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let name = HeaderName::from_bytes(&line[..colon]);
            let value = HeaderValue::from_bytes(&line[colon + 1..]);
            if let (Ok(name), Ok(mut value)) = (name, value) {
                value.set_sensitive(true);
                headers.append(name, value);
            }
        }
        headers
    }
}

/// Wipes it.
impl Drop for KeptQuestion {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Without its content.
impl fmt::Debug for KeptQuestion {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "KeptQuestion({} bytes)", self.0.len())
    }
}

/// Returns when a session is asked about next: after three quarters of `every` to the whole of it, so that sessions which
/// have begun together are not asked about together. `random` is from 0 to 1.
pub fn next(now: MonotonicTime, every: Duration, random: f64) -> MonotonicTime {
    now + every.mul_f64(0.75 + random.clamp(0.0, 1.0) / 4.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_question_is_the_same_when_it_is_asked_again(
            fields in proptest::collection::vec(("[a-z][a-z0-9-]{0,20}", "[ -~\\x80-\\u{ff}\t]{0,60}"), 0..20)
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                let name = HeaderName::from_bytes(name.as_bytes());
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
                    headers.append(name, value);
                }
            }
            let kept = KeptQuestion::of(&headers);
            prop_assert_eq!(kept.headers(), headers);
            let copy = kept.clone();
            prop_assert_eq!(copy, kept);
        }

        #[test]
        fn it_is_asked_in_time_and_never_at_once(random in 0.0..=1.0, every in 1u64..100_000) {
            let (now, every) = (MonotonicTime::from_micros(7), Duration::from_secs(every));
            let at = next(now, every, random);
            prop_assert!(at >= now + every / 2 && at <= now + every);
        }
    }

    #[test]
    fn no_log_reveals_it() {
        let mut headers = HeaderMap::new();
        headers.insert("cookie", HeaderValue::from_static("session=secret"));
        assert_eq!(format!("{:?}", KeptQuestion::of(&headers)), "KeptQuestion(22 bytes)");
    }
}
