//! The admin listener and its token.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::read::MASK;
use crate::config::value::address::Bind;
use crate::config::value::{BadValue, Scalar, as_scalar, secret};
use crate::route::pattern::HostPattern;

/// A shorter token could be guessed; 16 hexadecimal digits are 64 bits, and a guess takes a request.
const TOKEN_BYTES_MIN: usize = 16;
/// A longer one does not fit into a request's head with the rest.
const TOKEN_BYTES_MAX: usize = 1024;

/// Metrics (`/metrics`), health (`/livez`, `/readyz`) and control (`/api/v1/`) for operators.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// The address to serve on: a loopback address or a Unix socket. Any other address needs a token, and a network
    /// where nobody eavesdrops, since there is no TLS here. Required.
    pub bind: Bind,

    /// The host names that requests for `/metrics` may use, as `wsluice.default.svc` or `*.example.internal`; an IP
    /// address and `localhost` always work, and `/livez` and `/readyz` accept any name. Without a token they apply to
    /// `/api/v1/` too. Default: none on a loopback address, since a web page shown on this machine could otherwise
    /// read it under a name of its own (DNS rebinding); any on other addresses, so that scrapers may use whatever
    /// name they know.
    #[serde(default)]
    pub hosts: Vec<HostPattern>,

    /// The token for `/api/v1/` (`Authorization: Bearer …`): at least 16 letters, digits and marks, such as `openssl
    /// rand -hex 32` prints; best as `${NAME}`. `/metrics`, `/livez` and `/readyz` never ask for it. Default: none;
    /// then everybody who reaches the loopback address or may open the Unix socket is an operator.
    #[serde(default)]
    pub token: Option<AdminToken>,

    /// A file with the token, in place of `token`; it may hold several, one a line, all of them valid. Default: none.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
}

impl Admin {
    /// Returns the tokens, as written or from their file; none if neither is written.
    ///
    /// # Errors
    /// If the file cannot be read or holds no good token; the text reveals nothing of its content.
    pub fn tokens(&self) -> Result<Vec<AdminToken>, String> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(vec![token.clone()]),
            (None, Some(file)) => AdminToken::read_file(file),
            (None, None) => Ok(Vec::new()),
        }
    }
}

/// A token that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(String);

impl AdminToken {
    /// Returns the token itself.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn read_file(file: &Path) -> Result<Vec<AdminToken>, String> {
        let name = file.display();
        let text = crate::config::read::read_text(file)?;
        match secret::lines(&text) {
            Ok(tokens) if Vec::is_empty(&tokens) => Err(format!("there is no token in {name}")),
            Ok(tokens) => Ok(tokens),
            Err(bad) => Err(format!("{name}: {}", bad.problem)),
        }
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("AdminToken(…)")
    }
}

impl Scalar for AdminToken {
    const EXPECTED: &'static str = "a token of at least 16 letters, digits and marks";
}

impl FromStr for AdminToken {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<AdminToken, BadValue> {
        let bad = |problem: String| {
            BadValue::new(problem, "write `${NAME}`, with what `openssl rand -hex 32` gives in the environment")
        };
        // RFC 6750 §2.1 names the marks; any that is visible can be sent and compared.
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("a token has letters, digits and marks only, and no spaces".to_owned()));
        }
        match text.len() {
            ..TOKEN_BYTES_MIN => Err(bad(format!("a token has at least {TOKEN_BYTES_MIN} characters"))),
            TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX => Ok(AdminToken(text.to_owned())),
            _ => Err(bad(format!("a token has at most {TOKEN_BYTES_MAX} characters"))),
        }
    }
}

as_scalar!(AdminToken shown as MASK, "AdminToken", {
    "description": "A token of at least 16 letters, digits and marks.",
    "type": "string",
    "pattern": r"^[!-~]{16,1024}$|\$\{",
    "examples": ["${ADMIN_TOKEN}"],
});

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_from_a_file_and_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = file.path().display().to_string();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            AdminToken::read_file(file.path())
        };
        let tokens = read("0123456789abcdef\n\n fedcba9876543210\r\n").unwrap();
        assert_eq!(
            tokens.iter().map(AdminToken::as_bytes).collect::<Vec<_>>(),
            [b"0123456789abcdef", b"fedcba9876543210"]
        );
        assert_eq!(format!("{tokens:?}"), "[AdminToken(…), AdminToken(…)]");
        for (text, problem) in [
            ("", format!("there is no token in {name}")),
            ("hunter2", format!("{name}: a token has at least 16 characters")),
            (
                "correct horse battery staple",
                format!("{name}: a token has letters, digits and marks only, and no spaces"),
            ),
            (&"x".repeat(1025), format!("{name}: a token has at most 1024 characters")),
        ] {
            assert_eq!(read(text).unwrap_err(), problem);
        }
        let absent = AdminToken::read_file(Path::new("/nowhere/token")).unwrap_err();
        assert!(absent.starts_with("cannot read /nowhere/token: "), "{absent}");
    }
}
