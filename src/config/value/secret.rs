//! Secrets that sign something, or verify what others have signed.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::config::read::MASK;
use crate::config::value::{BadValue, Scalar, as_scalar};

/// A shorter secret could be guessed; 32 hexadecimal digits are 128 bits.
pub(in crate::config) const SECRET_CHARS_MIN: usize = 32;

/// Reads one value a line; empty lines do not count.
pub(in crate::config) fn lines<T: FromStr<Err = BadValue>>(text: &str) -> Result<Vec<T>, BadValue> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::parse).collect()
}

/// A secret text that is never shown: it signs, or verifies what others have signed.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(String);

impl SigningSecret {
    /// Returns the secret itself.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Reads the secrets of a file, one a line; empty lines do not count.
    ///
    /// # Errors
    /// If the file cannot be read or holds a bad secret; the text reveals nothing of its content.
    pub fn read_file(file: &Path) -> Result<Vec<SigningSecret>, String> {
        let text = crate::config::read::read_text(file)?;
        SigningSecret::read_text(&text).map_err(|problem| format!("{}: {problem}", file.display()))
    }

    /// Reads the secrets of a text, one a line; empty lines do not count.
    ///
    /// # Errors
    /// If there is none or a bad one; the message reveals nothing of the text.
    pub fn read_text(text: &str) -> Result<Vec<SigningSecret>, String> {
        match lines(text) {
            Ok(secrets) if Vec::is_empty(&secrets) => Err("there is no secret in it".to_owned()),
            Ok(secrets) => Ok(secrets),
            Err(bad) => Err(bad.problem),
        }
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("SigningSecret(…)")
    }
}

impl Scalar for SigningSecret {
    const EXPECTED: &'static str = "a secret of at least 32 characters";
}

impl FromStr for SigningSecret {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<SigningSecret, BadValue> {
        let help = "write `${NAME}`, with what `openssl rand -hex 32` gives in the environment";
        if text.chars().count() < SECRET_CHARS_MIN {
            return Err(BadValue::new(format!("a secret has at least {SECRET_CHARS_MIN} characters"), help));
        }
        Ok(SigningSecret(text.to_owned()))
    }
}

as_scalar!(SigningSecret shown as MASK, "SigningSecret", {
    "description": "A secret of at least 32 characters.",
    "type": "string",
    "pattern": r"^.{32,}$|\$\{",
    "examples": ["${SECRET}"],
});

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_from_a_file_and_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            SigningSecret::read_file(file.path())
        };
        let (one, other) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
        let secrets = read(&format!("{one}\n\n  {other}\r\n")).unwrap();
        assert_eq!(secrets.iter().map(SigningSecret::as_bytes).collect::<Vec<_>>(), [one.as_bytes(), other.as_bytes()]);
        assert_eq!(format!("{secrets:?}"), "[SigningSecret(…), SigningSecret(…)]");
        let name = file.path().display();
        assert_eq!(read("\n").unwrap_err(), format!("{name}: there is no secret in it"));
        assert_eq!(read("hunter2\n").unwrap_err(), format!("{name}: a secret has at least 32 characters"));
        assert!(
            SigningSecret::read_file(Path::new("/nowhere/secrets"))
                .unwrap_err()
                .starts_with("cannot read /nowhere/secrets: ")
        );
    }
}
