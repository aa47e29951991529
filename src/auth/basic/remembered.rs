//! Credentials that were found right a while ago: a page with fifty files costs one check.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{Context, Key};

use crate::base::time::MonotonicTime;
use crate::policy::basic::{Credentials, PasswordHash};

const PRINT_BYTES: usize = 32;

/// What tells credentials from others: a keyed hash of name, password and the hash in the file. A file with another hash has
/// forgotten the old one.
#[derive(Clone, Copy, Eq)]
pub(super) struct Fingerprint([u8; PRINT_BYTES]);

impl Fingerprint {
    /// Takes that of credentials by the key of this process, for HMAC-SHA-256.
    pub(super) fn of(key: &Key, credentials: &Credentials, hash: &PasswordHash) -> Fingerprint {
        let mut context = Context::with_key(key);
        // No name and no password has a NUL, so that what is one never looks like the other.
        for part in [credentials.user().as_bytes(), &[0], credentials.password_text().as_bytes(), &[0]] {
            context.update(part);
        }
        context.update(&hash.to_bytes());
        let mut bytes = [0; PRINT_BYTES];
        bytes.copy_from_slice(&context.sign().as_ref()[..PRINT_BYTES]);
        Fingerprint(bytes)
    }
}

/// Takes the same time whatever is equal.
impl PartialEq for Fingerprint {
    fn eq(&self, other: &Fingerprint) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("Fingerprint(…)")
    }
}

/// Those that were found right, and until when that counts.
#[derive(Debug)]
pub(super) struct Remembered {
    until: HashMap<Fingerprint, MonotonicTime>,
    most: usize,
}

impl Remembered {
    /// Begins with none; there will never be more than `most`.
    pub(super) fn new(most: usize) -> Remembered {
        Remembered { until: HashMap::new(), most }
    }

    /// Returns true if they were found right, and if that still counts.
    pub(super) fn has(&self, print: &Fingerprint, now: MonotonicTime) -> bool {
        self.until.get(print).is_some_and(|until| now < *until)
    }

    /// Keeps some that were found right. If there are too many, those go whose time is over, or else the ones whose time is
    /// over next: a check has taken far longer than looking for them.
    pub(super) fn keep(&mut self, print: Fingerprint, until: MonotonicTime, now: MonotonicTime) {
        if self.until.len() >= self.most && !self.until.contains_key(&print) {
            self.until.retain(|_, until| now < *until);
            let oldest = || self.until.iter().min_by_key(|(_, until)| **until).map(|(print, _)| *print);
            if self.until.len() >= self.most
                && let Some(oldest) = oldest()
            {
                self.until.remove(&oldest);
            }
        }
        self.until.insert(print, until);
    }

    /// Returns how many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.until.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few places and many credentials, so that some give way all the time.
        #[test]
        fn there_are_never_more_than_the_most_and_only_those_that_were_kept_and_are_not_over(
            most in 1_usize..6,
            steps in prop::collection::vec((0_u8..12, 0_u64..40, any::<bool>()), 1..300),
        ) {
            let mut remembered = Remembered::new(most);
            let (mut now, mut model) = (MonotonicTime::from_micros(1), BTreeMap::new());
            for (number, pause, keeps) in steps {
                now = now + Duration::from_micros(pause);
                let print = Fingerprint([number; PRINT_BYTES]);
                if keeps {
                    let until = now + Duration::from_micros(100);
                    remembered.keep(print, until, now);
                    model.insert(number, until);
                    prop_assert!(remembered.has(&print, now), "what was just kept is there");
                } else if remembered.has(&print, now) {
                    prop_assert!(model.get(&number).is_some_and(|until| now < *until));
                }
                prop_assert!(remembered.len() <= most);
                // Of those whose time is not over, the newest are there.
                let mut alive: Vec<_> = model.iter().filter(|(_, until)| now < **until).collect();
                alive.sort_by_key(|(_, until)| std::cmp::Reverse(**until));
                if alive.len() <= most {
                    prop_assert!(alive.iter().all(|(number, _)| remembered.has(&Fingerprint([**number; PRINT_BYTES]), now)));
                }
            }
        }
    }
}
