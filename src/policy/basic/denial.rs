//! Why a request with a name and a password, or without, is not let in. No text quotes either of them.

/// The longest credentials that are looked at, in base64. Names have at most 255 bytes, and bcrypt reads 72 of a password.
pub const CREDENTIALS_BYTES_MAX: usize = 2 << 10;

/// What is wrong with credentials themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsFlaw {
    /// They are too long.
    #[error("they are longer than {} KiB", CREDENTIALS_BYTES_MAX >> 10)]
    Long,
    /// They are not what RFC 4648 §4 calls base64.
    #[error("they are no base64 (RFC 4648 §4, with its `=`)")]
    Base64,
    /// They are of another charset than the challenge says.
    #[error("they are not UTF-8, which the challenge asks for")]
    Charset,
    /// There is no colon between name and password.
    #[error("they have no `:` between name and password")]
    Colon,
    /// RFC 7617 §2 forbids control characters.
    #[error("they have a control character")]
    Control,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BasicDenial {
    /// It has no credentials of this scheme.
    #[error("there is no `Authorization: Basic`")]
    Missing,
    /// It has several `Authorization`, of which another reader may take another.
    #[error("there are several `Authorization`")]
    Several,
    /// It has some that cannot be read.
    #[error("the Basic credentials are refused: {0}")]
    Malformed(#[from] CredentialsFlaw),
    /// No user has this name, or the password is another.
    #[error("there is no such user, or the password is wrong")]
    Wrong,
    /// They were not checked.
    #[error("the password was not checked: too many others are, or no thread is left for it")]
    Busy,
}

impl BasicDenial {
    /// Returns what a client may be told: enough to mend its own mistake, and not who exists.
    pub fn hint(self) -> &'static str {
        match self {
            BasicDenial::Missing => "a name and a password are needed here",
            BasicDenial::Several => "there is more than one Authorization",
            BasicDenial::Malformed(_) => "the name and the password cannot be read",
            BasicDenial::Wrong => "the name or the password is wrong",
            BasicDenial::Busy => "passwords cannot be checked now, try again later",
        }
    }

    /// Returns the challenge of the answer; `None` if other credentials would do no better.
    pub fn challenge(self, realm: &str) -> Option<String> {
        match self {
            BasicDenial::Busy => None,
            BasicDenial::Missing | BasicDenial::Several | BasicDenial::Malformed(_) | BasicDenial::Wrong => {
                Some(challenge(realm))
            }
        }
    }
}

/// Returns the challenge for a realm (RFC 7617 §2.1): a quoted string, as RFC 9110 §5.6.4 has them.
pub fn challenge(realm: &str) -> String {
    let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
    format!("Basic realm=\"{quoted}\", charset=\"UTF-8\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_is_quoted() {
        for (realm, quoted) in [
            ("Restricted", r#"Basic realm="Restricted", charset="UTF-8""#),
            ("a, b=c", r#"Basic realm="a, b=c", charset="UTF-8""#),
            (r#"the "inner" \ ring"#, r#"Basic realm="the \"inner\" \\ ring", charset="UTF-8""#),
        ] {
            assert_eq!(challenge(realm), quoted);
        }
    }

    #[test]
    fn who_may_try_again_gets_a_challenge() {
        let flawed = BasicDenial::Malformed(CredentialsFlaw::Colon);
        for denial in [BasicDenial::Missing, BasicDenial::Several, flawed, BasicDenial::Wrong] {
            assert_eq!(denial.challenge("a"), Some(challenge("a")), "{denial}");
        }
        assert_eq!(BasicDenial::Busy.challenge("a"), None);
        assert_eq!(flawed.to_string(), "the Basic credentials are refused: they have no `:` between name and password");
    }
}
