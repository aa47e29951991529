//! Passwords and their bcrypt hashes.

use std::fmt;
use std::hint::black_box;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::alphabet::BCRYPT;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

/// The highest cost. Each step doubles the time of a check: 10 takes 50 to 100 ms, 14 one or two seconds.
pub const COST_MAX: u8 = 14;
/// The lowest that bcrypt has.
const COST_MIN: u8 = 4;
/// That of users who are not there, if nobody is.
const COST_OF_NOBODY: u8 = 10;

/// What bcrypt reads of a password, its NUL included.
const PASSWORD_BYTES_MAX: usize = 72;
const SALT_BYTES: usize = 16;
const SALT_CHARS: usize = 22;
/// Of the 24 bytes that come out, the last is dropped; every implementation does.
const DIGEST_BYTES: usize = 23;
const HASH_CHARS: usize = 60;

/// bcrypt's own alphabet. The bits that are left over at an end count nothing, and not all programs set them to 0.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &BCRYPT,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Why a text is no hash that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashFlaw {
    /// It is of another kind. Carries which.
    #[error("the password is {0}, and only bcrypt is taken: write it anew by `htpasswd -B -C 10 FILE NAME`")]
    Kind(&'static str),
    /// Checks would take too long.
    #[error(
        "the cost {0} is above {COST_MAX}, and a check would take seconds: write it anew by `htpasswd -B -C 10 FILE NAME`"
    )]
    Slow(u8),
    /// bcrypt has no such cost.
    #[error("a bcrypt hash has a cost of at least {COST_MIN}: write it anew by `htpasswd -B -C 10 FILE NAME`")]
    Fast,
    /// It is cut off, or changed.
    #[error(
        "the bcrypt hash is damaged: it has {HASH_CHARS} characters, `$2y$`, two digits, `$` and 53 of ./A-Za-z0-9"
    )]
    Damaged,
}

/// A password as bcrypt reads it: 72 bytes at most, with the NUL at its end if that has room. Wiped when dropped.
#[derive(Clone)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Takes over a password. What goes beyond 72 bytes does not count, here as in every implementation.
    pub fn new(text: &str) -> Password {
        // It never grows: what it would leave behind is not wiped.
        let mut bytes = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX));
        bytes.extend(text.bytes().chain([0]).take(PASSWORD_BYTES_MAX));
        Password(bytes)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("Password(…)")
    }
}

/// The bcrypt hash of a user's password, or one that no password has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PasswordHash {
    cost: u8,
    salt: [u8; SALT_BYTES],
    /// `None` if no password has it.
    digest: Option<[u8; DIGEST_BYTES]>,
}

impl PasswordHash {
    /// Reads one.
    ///
    /// # Errors
    /// If it is none, or if a check would take too long.
    pub fn parse(text: &str) -> Result<PasswordHash, HashFlaw> {
        let known = ["$2a$", "$2b$", "$2y$"].into_iter().find_map(|prefix| text.strip_prefix(prefix));
        let rest = known.ok_or(HashFlaw::Kind(kind_of(text)))?;
        let (cost, rest) = rest.split_once('$').ok_or(HashFlaw::Damaged)?;
        let is_number = cost.len() == 2 && cost.bytes().all(|byte| byte.is_ascii_digit());
        let cost: u8 = cost.parse().ok().filter(|_| is_number).ok_or(HashFlaw::Damaged)?;
        let (salt, digest) = rest.split_at_checked(SALT_CHARS).ok_or(HashFlaw::Damaged)?;
        let (salt, digest) = (decode(salt)?, decode(digest)?);
        match cost {
            0..COST_MIN => Err(HashFlaw::Fast),
            COST_MIN..=COST_MAX => Ok(PasswordHash { cost, salt, digest: Some(digest) }),
            _ => Err(HashFlaw::Slow(cost)),
        }
    }

    /// Returns one that no password has, and that takes as long to check as those of `cost`.
    pub(super) fn of_nobody(cost: Option<u8>) -> PasswordHash {
        PasswordHash { cost: cost.unwrap_or(COST_OF_NOBODY), salt: [0; SALT_BYTES], digest: None }
    }

    /// Returns its cost.
    pub fn cost(&self) -> u8 {
        self.cost
    }

    /// Returns true if it is that of a password. Takes a thread for 50 to 100 ms at the cost 10, twice as long for each more,
    /// whatever comes out.
    pub fn verify(&self, password: &Password) -> bool {
        let found = bcrypt::bcrypt(u32::from(self.cost), self.salt, &password.0);
        // So that the work is done also where nothing can come of it.
        let found = black_box(found);
        self.digest.is_some_and(|digest| verify_slices_are_equal(&found[..DIGEST_BYTES], &digest).is_ok())
    }

    /// Returns what tells it from others.
    pub fn to_bytes(&self) -> [u8; 2 + SALT_BYTES + DIGEST_BYTES] {
        let mut bytes = [0; 2 + SALT_BYTES + DIGEST_BYTES];
        bytes[0] = self.cost;
        bytes[1] = u8::from(self.digest.is_some());
        bytes[2..][..SALT_BYTES].copy_from_slice(&self.salt);
        bytes[2 + SALT_BYTES..].copy_from_slice(&self.digest.unwrap_or_default());
        bytes
    }
}

/// Shows nothing to guess passwords by.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "PasswordHash(cost {})", self.cost)
    }
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], HashFlaw> {
    BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(HashFlaw::Damaged)
}

/// Names what stands in place of a bcrypt hash, without showing it.
fn kind_of(text: &str) -> &'static str {
    let kinds = [
        ("$apr1$", "hashed by MD5 (`$apr1$`)"),
        ("$1$", "hashed by MD5 (`$1$`)"),
        ("$2x$", "hashed by a program whose bcrypt was broken (`$2x$`)"),
        ("$5$", "hashed by SHA-256 (`$5$`)"),
        ("$6$", "hashed by SHA-512 (`$6$`)"),
        ("$argon2", "hashed by Argon2"),
        ("$scrypt$", "hashed by scrypt"),
        ("$7$", "hashed by scrypt"),
        ("$y$", "hashed by yescrypt"),
        ("$gy$", "hashed by yescrypt"),
        ("{SHA}", "hashed by SHA-1 (`{SHA}`)"),
        ("{SSHA", "hashed by SHA (`{SSHA}`)"),
    ];
    let known = kinds.into_iter().find(|(prefix, _)| text.starts_with(prefix)).map(|(_, kind)| kind);
    known.unwrap_or("plain text, or hashed by crypt (DES)")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by Apache's htpasswd, the first, and by libxcrypt.
    const VECTORS: &[(&str, &str)] = &[
        ("hunter2", "$2y$05$7IU7mjd4j9ww6w9yAqIFzOPE3ogLVceqxEQUtFBExDsTqSc1zgQEa"),
        ("hunter2", "$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8."),
        ("hunter2", "$2b$04$abcdefghijklmnopqrstuuV3duMsC0HpUex6N9qapiuOHHWkwRXVm"),
        ("päss:wörd", "$2b$04$abcdefghijklmnopqrstuukt5gEdxhyYU8q7nPVxOXoWsXfLuYbs6"),
        ("", "$2b$04$abcdefghijklmnopqrstuubyCG3zY1GIXMyxfivm.ClDiInHzxjiq"),
    ];

    #[test]
    fn passwords_are_verified_as_other_programs_do() {
        for (text, hash) in VECTORS {
            let read = PasswordHash::parse(hash).unwrap();
            assert!(read.verify(&Password::new(text)), "{text}");
            for other in ["hunter3", "Hunter2", "hunter2 ", "päss:word", "x"] {
                assert!(!read.verify(&Password::new(other)), "{text} {other}");
            }
            assert_eq!(
                format!("{read:?} {:?}", Password::new(text)),
                format!("PasswordHash(cost {}) Password(…)", read.cost)
            );
        }
        let nobody = PasswordHash::of_nobody(Some(4));
        assert!(VECTORS.iter().all(|(text, _)| !nobody.verify(&Password::new(text))));
    }

    #[test]
    fn of_a_password_72_bytes_count() {
        let whole = PasswordHash::parse("$2a$04$abcdefghijklmnopqrstuubzadhGtS2zEF.gu0yd0opP6cVzb.e0i").unwrap();
        let shorter = PasswordHash::parse("$2a$04$abcdefghijklmnopqrstuu.gc7UY/21CSNJGJg21jJzx9QiOpJ9bO").unwrap();
        let of = |length: usize| Password::new(&"x".repeat(length));
        assert!([72, 73, 100].iter().all(|length| whole.verify(&of(*length))) && !whole.verify(&of(71)));
        assert!(shorter.verify(&of(71)) && !shorter.verify(&of(72)) && !shorter.verify(&of(70)));
        // The end may cut a character in two.
        assert!(!whole.verify(&Password::new(&format!("x{}", "ü".repeat(40)))));
    }

    #[test]
    fn other_hashes_are_named_and_never_shown() {
        for (text, words) in [
            ("$apr1$zIsbS9Rt$Dx4D7ZMMqjeCMSxpuTYqA/", "MD5 (`$apr1$`)"),
            ("{SHA}2PRZAyDhNDqRW2OUFwZQqPNdaSY=", "SHA-1"),
            ("$6$abc$hunter2", "SHA-512"),
            ("$argon2id$v=19$hunter2", "Argon2"),
            ("$2x$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.", "`$2x$`"),
            ("hunter2", "plain text"),
            ("", "plain text"),
            ("$2y$15$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.", "the cost 15 is above 14"),
            ("$2y$03$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.", "at least 4"),
            ("$2y$5$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.", "damaged"),
            ("$2y$+5$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.", "damaged"),
            ("$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8", "damaged"),
            ("$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8..", "damaged"),
            ("$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t+.", "damaged"),
            ("$2y$05$abcdefghijklmnopqrstüoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.", "damaged"),
            ("$2y$05$", "damaged"),
            ("$2y$", "damaged"),
        ] {
            let error = PasswordHash::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains("hunter2") && !error.contains("abcdef"), "{error}");
        }
    }

    #[test]
    fn bits_that_are_left_over_count_nothing() {
        // The same salt and hash with other spare bits at both ends.
        let (written, other) = (VECTORS[2].1, "$2b$04$abcdefghijklmnopqrstuvV3duMsC0HpUex6N9qapiuOHHWkwRXVn");
        assert_eq!(PasswordHash::parse(written).unwrap(), PasswordHash::parse(other).unwrap());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\$2[aby]\\$)?(0[0-9]\\$)?\\PC{0,60}") {
            let _ = PasswordHash::parse(&text);
        }
    }
}
