//! Answers that are remembered for a while. Pure: takes the time.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::QuestionDigest;
use crate::base::time::MonotonicTime;

/// The most answers.
const ANSWERS_MAX: usize = 4096;
/// The most bytes of their fields, all together.
const BYTES_MAX: usize = 4 << 20;

/// Whose request it is, as the service says.
#[derive(Debug, Default, PartialEq)]
pub struct Identity {
    /// The fields that the server gets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The user.
    pub subject: Option<Box<str>>,
    /// Whether the service lets it be remembered.
    pub may_be_remembered: bool,
}

impl Identity {
    fn bytes(&self) -> usize {
        let fields = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
        fields.sum::<usize>() + self.subject.as_ref().map_or(0, |subject| subject.len())
    }
}

/// Answers by what was asked.
#[derive(Debug, Default)]
pub struct RememberedAnswers {
    all: HashMap<QuestionDigest, Answer>,
    bytes: usize,
}

#[derive(Debug)]
struct Answer {
    identity: Arc<Identity>,
    until: MonotonicTime,
}

impl RememberedAnswers {
    /// Returns the answer to this question, if it is still good.
    pub fn get(&self, question: &QuestionDigest, now: MonotonicTime) -> Option<Arc<Identity>> {
        self.all.get(question).filter(|answer| answer.until > now).map(|answer| Arc::clone(&answer.identity))
    }

    /// Remembers an answer `until` then. When there is no room even without those that are over, it is not remembered: who
    /// is remembered already is not asked about again because many others come.
    pub fn insert(
        &mut self,
        question: QuestionDigest,
        identity: Arc<Identity>,
        until: MonotonicTime,
        now: MonotonicTime,
    ) {
        self.forget(&question);
        let bytes = identity.bytes();
        if !self.has_room(bytes) {
            self.all.retain(|_, answer| answer.until > now);
            self.bytes = self.all.values().map(|answer| answer.identity.bytes()).sum();
        }
        if self.has_room(bytes) {
            self.bytes += bytes;
            self.all.insert(question, Answer { identity, until });
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.all.len() < ANSWERS_MAX && self.bytes + bytes <= BYTES_MAX
    }

    /// Forgets the answer to this question.
    pub fn forget(&mut self, question: &QuestionDigest) {
        if let Some(answer) = self.all.remove(question) {
            self.bytes -= answer.identity.bytes();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn identity(bytes: usize) -> Arc<Identity> {
        let value = HeaderValue::try_from("x".repeat(bytes)).unwrap();
        Arc::new(Identity { headers: vec![(HeaderName::from_static("a"), value)], ..Identity::default() })
    }

    fn question(number: u64) -> QuestionDigest {
        let mut question = QuestionDigest::default();
        question[..8].copy_from_slice(&number.to_ne_bytes());
        question
    }

    #[test]
    fn an_answer_is_good_until_its_time_is_over() {
        let (mut answers, now) = (RememberedAnswers::default(), MonotonicTime::from_micros(7));
        answers.insert(question(1), identity(3), now + SECOND, now);
        assert_eq!(answers.get(&question(1), now).as_deref(), Some(&*identity(3)));
        assert_eq!(answers.get(&question(2), now), None);
        assert_eq!(answers.get(&question(1), now + SECOND), None);
        answers.insert(question(1), identity(4), now + SECOND * 2, now);
        assert_eq!(answers.get(&question(1), now + SECOND).as_deref(), Some(&*identity(4)));
        assert_eq!(answers.bytes, 5);
    }

    #[test]
    fn who_is_remembered_is_not_driven_out() {
        let (mut answers, now) = (RememberedAnswers::default(), MonotonicTime::from_micros(7));
        for number in 0..ANSWERS_MAX as u64 + 10 {
            answers.insert(question(number), identity(1), now + SECOND, now);
        }
        assert_eq!(answers.all.len(), ANSWERS_MAX);
        assert!(answers.get(&question(0), now).is_some() && answers.get(&question(ANSWERS_MAX as u64), now).is_none());
        answers.insert(question(u64::MAX), identity(1), now + SECOND * 2, now + SECOND);
        assert_eq!(answers.all.len(), 1, "what was over has made room");
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_never_says_more_than_it_was_told(
            steps in prop::collection::vec((0u64..40, 0usize..1 << 20, 0u64..5, 0u64..3), 1..200),
        ) {
            let (mut answers, mut now) = (RememberedAnswers::default(), MonotonicTime::from_micros(1));
            let mut told: HashMap<u64, (usize, MonotonicTime)> = HashMap::new();
            for (number, bytes, lasts, pause) in steps {
                now = now + SECOND * pause as u32;
                let until = now + SECOND * lasts as u32;
                answers.insert(question(number), identity(bytes), until, now);
                told.insert(number, (bytes, until));
                prop_assert!(answers.all.len() <= ANSWERS_MAX && answers.bytes <= BYTES_MAX);
                prop_assert_eq!(answers.bytes, answers.all.values().map(|answer| answer.identity.bytes()).sum::<usize>());
                for (number, (bytes, until)) in &told {
                    if let Some(found) = answers.get(&question(*number), now) {
                        prop_assert!(now < *until && found.headers[0].1.len() == *bytes);
                    }
                }
            }
        }
    }
}
