//! Affinity: the cookie that brings a client back to its previous endpoint.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::read::MASK;
use crate::config::value::{BadValue, Scalar, TimeSpan, as_scalar};

/// A shorter secret could be guessed; 32 hexadecimal digits are 128 bits.
pub(in crate::config) const SECRET_CHARS_MIN: usize = 32;

/// The affinity cookie of an upstream.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StickyConfig {
    /// The cookie's name. Required.
    pub cookie: String,

    /// Secrets that sign the cookie, at least 32 characters each, such as `openssl rand -hex 32` prints; best as
    /// `${NAME}`. The first signs, all are accepted: to change it, put the new one first and remove the old one once
    /// its cookies have expired. All instances of wsluice that share clients need the same. Required, unless there is
    /// a `secrets_file`; there is no default, as cookies signed with a secret made at start would be void after each
    /// restart.
    #[serde(default)]
    pub secrets: Vec<CookieSecret>,

    /// A file with the secrets, one a line, in place of `secrets`. Default: none.
    #[serde(default)]
    pub secrets_file: Option<PathBuf>,

    /// How long the cookie is valid; it is renewed after half of that time. Default: until the browser is closed.
    #[serde(default)]
    pub max_age: Option<TimeSpan>,

    /// The path below which browsers send it. Default: `/`.
    #[serde(default = "everywhere")]
    pub path: String,

    /// Whether browsers send it only over TLS: `always`, `never`, or `auto`, if the client came over TLS. Default:
    /// `auto`.
    #[serde(default)]
    pub secure: CookieSecure,

    /// Whether scripts in the page cannot read it. Default: true.
    #[serde(default = "yes")]
    pub http_only: bool,

    /// Whether browsers send it with requests from other sites: `lax` (links only), `strict` (not at all) or `none`
    /// (always; needs `secure: always`). Default: `lax`, as browsers do by themselves.
    #[serde(default)]
    pub same_site: CookieSameSite,
}

/// When browsers send a cookie only over TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CookieSecure {
    /// If the client came over TLS.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Which requests from other sites carry a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CookieSameSite {
    /// None, links included.
    Strict,
    /// Links.
    #[default]
    Lax,
    /// All.
    None,
}

fn everywhere() -> String {
    "/".to_owned()
}

const fn yes() -> bool {
    true
}

/// A secret text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct CookieSecret(String);

impl CookieSecret {
    /// Returns the secret itself.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Reads the secrets of a file, one a line; empty lines do not count.
    ///
    /// # Errors
    /// If the file cannot be read or holds a bad secret; the text reveals nothing of its content.
    pub fn read_file(file: &Path) -> Result<Vec<CookieSecret>, String> {
        let text = crate::config::read::read_text(file)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let secrets: Result<Vec<CookieSecret>, BadValue> = lines.map(str::parse).collect();
        match secrets {
            Ok(secrets) if secrets.is_empty() => Err(format!("there is no secret in {}", file.display())),
            Ok(secrets) => Ok(secrets),
            Err(bad) => Err(format!("{}: {}", file.display(), bad.problem)),
        }
    }
}

impl fmt::Debug for CookieSecret {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("CookieSecret(…)")
    }
}

impl Scalar for CookieSecret {
    const EXPECTED: &'static str = "a secret of at least 32 characters";
}

impl FromStr for CookieSecret {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<CookieSecret, BadValue> {
        let help = "write `${NAME}`, with what `openssl rand -hex 32` gives in the environment";
        if text.chars().count() < SECRET_CHARS_MIN {
            return Err(BadValue::new(format!("a secret has at least {SECRET_CHARS_MIN} characters"), help));
        }
        Ok(CookieSecret(text.to_owned()))
    }
}

as_scalar!(CookieSecret shown as MASK, "CookieSecret", {
    "description": "A secret of at least 32 characters.",
    "type": "string",
    "pattern": r"^.{32,}$|\$\{",
    "examples": ["${STICKY_SECRET}"],
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
            CookieSecret::read_file(file.path())
        };
        let (one, other) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
        let secrets = read(&format!("{one}\n\n  {other}\r\n")).unwrap();
        assert_eq!(secrets.iter().map(CookieSecret::as_bytes).collect::<Vec<_>>(), [one.as_bytes(), other.as_bytes()]);
        assert_eq!(format!("{secrets:?}"), "[CookieSecret(…), CookieSecret(…)]");
        let name = file.path().display();
        assert_eq!(read("\n").unwrap_err(), format!("there is no secret in {name}"));
        assert_eq!(read("hunter2\n").unwrap_err(), format!("{name}: a secret has at least 32 characters"));
        assert!(
            CookieSecret::read_file(Path::new("/nowhere/secrets"))
                .unwrap_err()
                .starts_with("cannot read /nowhere/secrets: ")
        );
    }
}
