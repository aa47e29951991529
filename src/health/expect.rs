//! What a probe expects in an answer.

use regex::bytes::Regex;

/// A condition on a body or a message.
#[derive(Clone, Debug)]
pub enum Expect {
    /// It contains these bytes.
    Contains(String),
    /// The regex matches somewhere, unless it is anchored.
    Matches(Regex),
}

impl Expect {
    /// Returns true if `answer` is as expected.
    pub fn is_met(&self, answer: &[u8]) -> bool {
        match self {
            Expect::Contains(text) => memchr::memmem::find(answer, text.as_bytes()).is_some(),
            Expect::Matches(regex) => regex.is_match(answer),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_enough_and_bytes_need_not_be_text() {
        assert!(Expect::Contains("ok".into()).is_met(b"\xff all ok"));
        assert!(!Expect::Contains("ok".into()).is_met(b"o k"));
        assert!(Expect::Contains(String::new()).is_met(b""));
        let regex = Expect::Matches(Regex::new(r"^\d+ ok$").unwrap());
        assert!(regex.is_met(b"12 ok") && !regex.is_met(b"x 12 ok"));
    }
}
