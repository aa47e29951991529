//! Subjects that may not come in, until a time that an operator says.
//!
//! The list is bounded, so that it can be held whole by each instance. An entry that has expired counts for nothing, whether it
//! has been taken out already or not. Time is Unix time in milliseconds: that of the shared store where there is one.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// The most subjects in a list: a few megabytes.
pub const DENIED_MAX: usize = 10_000;

/// The longest reason.
pub const REASON_BYTES_MAX: usize = 256;

/// Why a subject may not come in, and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedEntry {
    /// When it may again, in Unix milliseconds; `None`: never.
    pub until: Option<u64>,
    /// When that was said.
    pub since: u64,
    /// What the operator says about it; may be empty.
    pub reason: Box<str>,
}

impl DeniedEntry {
    /// Returns true if it still counts.
    pub fn holds(&self, now: u64) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// Returns it as one text: `UNTIL:SINCE:REASON`, where 0 is never.
    pub fn to_text(&self) -> String {
        format!("{}:{}:{}", self.until.unwrap_or(0), self.since, self.reason)
    }

    /// Reads such a text. What is longer than any that we write is cut.
    pub fn from_text(text: &str) -> Option<DeniedEntry> {
        let mut parts = text.splitn(3, ':');
        let (until, since) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse().ok()?);
        let reason = parts.next()?;
        let end = reason.floor_char_boundary(REASON_BYTES_MAX);
        Some(DeniedEntry { until: (until > 0).then_some(until), since, reason: reason[..end].into() })
    }
}

/// All subjects that may not come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denied(HashMap<Box<str>, DeniedEntry>);

/// There are as many as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{DENIED_MAX} subjects are denied, which is the most; allow some again, or say until when")]
pub struct DeniedFull;

impl Denied {
    /// Makes a list of these, as many as there may be.
    pub fn new(entries: impl IntoIterator<Item = (Box<str>, DeniedEntry)>) -> Denied {
        Denied(entries.into_iter().take(DENIED_MAX).collect())
    }

    /// Returns the entry of a subject that may not come in now.
    pub fn of(&self, subject: &str, now: u64) -> Option<&DeniedEntry> {
        // The usual list is empty.
        if self.0.is_empty() {
            return None;
        }
        self.0.get(subject).filter(|entry| entry.holds(now))
    }

    /// Returns those that hold now.
    pub fn holding(&self, now: u64) -> impl Iterator<Item = (&str, &DeniedEntry)> {
        self.0.iter().filter(move |(_, entry)| entry.holds(now)).map(|(subject, entry)| (&**subject, entry))
    }

    /// Adds a subject, or replaces what was said of it, and takes out what has expired.
    ///
    /// # Errors
    /// If there are too many.
    pub fn put(&mut self, subject: &str, entry: DeniedEntry, now: u64) -> Result<(), DeniedFull> {
        self.0.retain(|_, entry| entry.holds(now));
        if self.0.len() >= DENIED_MAX && !self.0.contains_key(subject) {
            return Err(DeniedFull);
        }
        self.0.insert(subject.into(), entry);
        Ok(())
    }

    /// Takes out a subject. Returns false if it was not denied.
    pub fn remove(&mut self, subject: &str, now: u64) -> bool {
        self.0.remove(subject).is_some_and(|entry| entry.holds(now))
    }

    /// Returns true if nobody is denied.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how many there are, expired ones included.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(until: Option<u64>) -> DeniedEntry {
        DeniedEntry { until, ..DeniedEntry::default() }
    }

    #[test]
    fn an_entry_holds_until_its_time_and_one_without_holds_for_ever() {
        let mut denied = Denied::default();
        denied.put("ann", entry(Some(100)), 0).unwrap();
        denied.put("bob", entry(None), 0).unwrap();
        assert!(denied.of("ann", 99).is_some() && denied.of("ann", 100).is_none());
        assert!(denied.of("bob", u64::MAX).is_some() && denied.of("an", 0).is_none());
        assert_eq!(denied.holding(100).map(|(subject, _)| subject).collect::<Vec<_>>(), ["bob"]);
        assert!(!denied.remove("ann", 100) && denied.remove("bob", 100) && denied.is_empty());
    }

    #[test]
    fn the_list_is_bounded_and_what_has_expired_makes_room() {
        let mut denied = Denied::default();
        for number in 0..DENIED_MAX {
            denied.put(&number.to_string(), entry(Some(10)), 0).unwrap();
        }
        assert_eq!(denied.put("ann", entry(None), 9), Err(DeniedFull));
        assert_eq!(denied.put("7", entry(None), 9), Ok(()), "what is said of one can be changed");
        assert_eq!(denied.put("ann", entry(None), 10), Ok(()));
        assert_eq!(denied.len(), 2);
    }

    #[test]
    fn a_text_that_is_no_entry_is_none() {
        for text in ["", "1", "1:2", "x:2:", "-1:2:", "1:x:"] {
            assert_eq!(DeniedEntry::from_text(text), None, "{text}");
        }
        let long = format!("0:1:{}", "ä".repeat(REASON_BYTES_MAX));
        assert_eq!(DeniedEntry::from_text(&long).unwrap().reason.len(), REASON_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_was_written(until in proptest::option::of(1_u64..), since: u64, reason in ".{0,60}") {
            let entry = DeniedEntry { until, since, reason: reason.into() };
            prop_assert_eq!(DeniedEntry::from_text(&entry.to_text()), Some(entry));
        }
    }
}
