//! A file of users, as htpasswd writes it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use super::hash::PasswordHash;
use crate::base::file_state;
use crate::policy::subject::SUBJECT_BYTES_MAX;

/// The largest file: twice what the most users need.
pub const USERS_BYTES_MAX: usize = 1 << 20;

/// The most users.
pub const USERS_MAX: usize = 10_000;

/// Who is known, and by which password.
#[derive(Default)]
pub struct Users {
    hashes: HashMap<Box<str>, PasswordHash>,
    /// The cost of each of them, for those who are not there.
    costs: Vec<u8>,
    /// Which cost a name has that is not there: nobody can tell beforehand.
    strangers: RandomState,
}

impl Users {
    /// Reads a file: `NAME:HASH` a line. Empty lines, those that begin with `#`, and what follows a second colon do not count.
    ///
    /// # Errors
    /// What is wrong first, and on which line; the text reveals nothing of it.
    pub fn read(bytes: &[u8]) -> Result<Users, String> {
        if bytes.len() > USERS_BYTES_MAX {
            return Err(format!("it is larger than {USERS_BYTES_MAX} bytes"));
        }
        let text = file_state::text(bytes.to_vec()).map_err(|error| format!("it {error}"))?;
        let mut users = Users::default();
        let mut lines = HashMap::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hash) = entry(line).map_err(|problem| format!("line {number}: {problem}"))?;
            if let Some(first) = lines.insert(name, number) {
                return Err(format!("line {number}: this user is on line {first} already: keep one of the two"));
            }
            if users.hashes.len() == USERS_MAX {
                return Err(format!("line {number}: there are more than {USERS_MAX} users"));
            }
            users.costs.push(hash.cost());
            users.hashes.insert(name.into(), hash);
        }
        // With nobody in it, nobody is let in: whoever takes out the last one means that.
        Ok(users)
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Returns true if there is none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Returns the hash of a user's password. For a name that is not there it is one that no password has, with the cost of
    /// some user, always the same one: as a rule that of all.
    pub fn hash_of(&self, user: &str) -> PasswordHash {
        if let Some(hash) = self.hashes.get(user) {
            return *hash;
        }
        let random = usize::try_from(self.strangers.hash_one(user)).unwrap_or_default();
        PasswordHash::of_nobody(random.checked_rem(self.costs.len()).and_then(|at| self.costs.get(at)).copied())
    }
}

/// Shows neither names nor hashes.
impl fmt::Debug for Users {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "Users({})", self.len())
    }
}

/// Reads a line.
fn entry(line: &str) -> Result<(&str, PasswordHash), String> {
    let (name, rest) = line.split_once(':').ok_or("it has no `:`: write `NAME:HASH`, as `htpasswd -B` does")?;
    let problem = match name {
        "" => Some("there is no name before the `:`".to_owned()),
        name if name.len() > SUBJECT_BYTES_MAX => Some(format!("the name is longer than {SUBJECT_BYTES_MAX} bytes")),
        name if name.contains(char::is_control) => Some("the name has a control character".to_owned()),
        name if name.ends_with(char::is_whitespace) => Some("the name has a space before the `:`".to_owned()),
        _ => None,
    };
    if let Some(problem) = problem {
        return Err(problem);
    }
    let hash = rest.split(':').next().unwrap_or_default();
    Ok((name, PasswordHash::parse(hash).map_err(|flaw| flaw.to_string())?))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::Password;
    use super::*;

    /// That of "hunter2".
    const HASH: &str = "$2y$04$abcdefghijklmnopqrstuuV3duMsC0HpUex6N9qapiuOHHWkwRXVm";

    fn hash_of_cost(cost: u8) -> String {
        HASH.replace("$04$", &format!("${cost:02}$"))
    }

    #[test]
    fn users_are_read_as_htpasswd_writes_them() {
        let text = format!(
            "\u{feff}# people\r\nann:{HASH}\r\n\r\n  # {HASH}\n  bob smith:{HASH}:since May  \njörg:{}",
            hash_of_cost(5)
        );
        let users = Users::read(text.as_bytes()).unwrap();
        assert_eq!((users.len(), format!("{users:?}")), (3, "Users(3)".to_owned()));
        let password = Password::new("hunter2");
        assert!(["ann", "bob smith"].iter().all(|name| users.hash_of(name).verify(&password)));
        assert!(["", "bob", "Ann", "# people", "ann "].iter().all(|name| !users.hash_of(name).verify(&password)));
        assert_eq!(users.hash_of("jörg").cost(), 5);
    }

    #[test]
    fn what_is_wrong_is_told_by_line_and_never_shown() {
        let long = "a".repeat(SUBJECT_BYTES_MAX + 1);
        for (text, problem) in [
            (format!("ann:{HASH}\n\nhunter2"), "line 3: it has no `:`: write `NAME:HASH`"),
            ("ann:hunter2".to_owned(), "line 1: the password is plain text, or hashed by crypt (DES), and only bcrypt"),
            (
                format!("ann:{HASH}\nbob:$apr1$hunter2"),
                "line 2: the password is hashed by MD5 (`$apr1$`), and only bcrypt is taken: write it anew by \
                 `htpasswd -B -C 10 FILE NAME`",
            ),
            (format!(":{HASH}"), "line 1: there is no name before the `:`"),
            (format!("hunter2 :{HASH}"), "line 1: the name has a space before the `:`"),
            (format!("hunter2\r:{HASH}"), "line 1: the name has a control character"),
            (format!("{long}:{HASH}"), "line 1: the name is longer than 255 bytes"),
            (format!("hunter2:{HASH}\n#\nhunter2:{HASH}"), "line 3: this user is on line 1 already"),
            (format!("ann:{}", hash_of_cost(31)), "line 1: the cost 31 is above 14"),
            (format!("ann:{HASH}\0"), "line 1: the bcrypt hash is damaged"),
        ] {
            let error = Users::read(text.as_bytes()).unwrap_err();
            assert!(error.starts_with(problem), "{text}: {error}");
            assert!(!error.contains("hunter2") && !error.contains("abcdef"), "{error}");
        }
        assert_eq!(Users::read(b"ann:\xff").unwrap_err(), "it is not UTF-8 text (line 1)");
    }

    #[test]
    fn the_most_users_fit_and_not_one_more() {
        let of = |count: usize| (0..count).map(|user| format!("u{user}:{HASH}\n")).collect::<String>();
        assert_eq!(Users::read(of(USERS_MAX).as_bytes()).unwrap().len(), USERS_MAX);
        let error = Users::read(of(USERS_MAX + 1).as_bytes()).unwrap_err();
        assert_eq!(error, "line 10001: there are more than 10000 users");
        assert!(Users::read(&[b'#'; USERS_BYTES_MAX + 1]).unwrap_err().contains("larger"));
    }

    #[test]
    fn who_is_not_there_costs_what_those_who_are_cost() {
        let same = Users::read(format!("ann:{HASH}\nbob:{HASH}").as_bytes()).unwrap();
        assert!(["", "eve", "Ann"].iter().all(|name| same.hash_of(name).cost() == same.hash_of("ann").cost()));
        let mixed = Users::read(format!("ann:{HASH}\nbob:{}", hash_of_cost(6)).as_bytes()).unwrap();
        let costs: Vec<u8> = (0..200).map(|name| mixed.hash_of(&format!("eve{name}")).cost()).collect();
        assert_eq!(costs.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([4, 6]));
        let again: Vec<u8> = (0..200).map(|name| mixed.hash_of(&format!("eve{name}")).cost()).collect();
        assert_eq!(costs, again, "a name has one cost");
        assert_eq!(Users::default().hash_of("ann").cost(), 10);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = Users::read(&bytes);
        }

        #[test]
        fn whoever_is_in_the_file_is_found_and_nobody_else(names in prop::collection::btree_set("[a-z é]{0,3}[a-zé]", 1..20)) {
            let trimmed: BTreeSet<&str> = names.iter().map(|name| name.trim()).collect();
            let lines: Vec<String> = trimmed.iter().map(|name| format!("{name}:{HASH}")).collect();
            let users = Users::read(lines.join("\n").as_bytes()).unwrap();
            prop_assert_eq!(users.len(), trimmed.len());
            let known = PasswordHash::parse(HASH).unwrap();
            prop_assert!(trimmed.iter().all(|name| users.hash_of(name) == known));
            prop_assert!(users.hash_of("somebody else") != known);
        }
    }
}
