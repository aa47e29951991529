//! What a probe wants to find in an answer.

use regex::bytes::Regex;

/// Part of a body or of a message.
#[derive(Clone, Debug)]
pub enum Expect {
    /// These bytes stand somewhere in it.
    Contains(String),
    /// It matches somewhere; anchors are the author's business.
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
