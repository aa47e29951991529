//! Why a request is not let in. No text quotes the token.

use std::fmt::Write as _;
use std::time::Duration;

use crate::policy::subject::SUBJECT_BYTES_MAX;

/// The longest token that is looked at. Those of identity providers have 1 to 4 KiB; longer ones do not fit into the head of
/// a request that most servers take.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;

/// What is wrong with a token itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is too long.
    #[error("it is longer than {} KiB", TOKEN_BYTES_MAX >> 10)]
    Long,
    /// It does not have three parts in base64url.
    #[error("it is no JWT: three parts of base64url with dots between them")]
    Form,
    /// It is a JWE.
    #[error("it is encrypted (JWE); only signed tokens are read")]
    Encrypted,
    /// The header cannot be read.
    #[error("its header is no JSON object with a text `alg`, and maybe a text `kid`, each name once")]
    Header,
    /// The header asks for an extension.
    #[error("its header has `crit`, and no extension is known here")]
    Critical,
    /// The claims cannot be read.
    #[error("its claims are no JSON object in which each name stands once")]
    Claims,
    /// `exp` is missing.
    #[error("it has no `exp`: a token that never expires is not taken")]
    Endless,
    /// A claim is of the wrong type. Carries its name.
    #[error("its `{0}` is not what RFC 7519 says it is")]
    Type(&'static str),
    /// The subject is too long to be kept.
    #[error("its `sub` is longer than {} bytes", SUBJECT_BYTES_MAX)]
    Subject,
}

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenDenial {
    /// It has no token. Carries where one may be.
    #[error("there is no token: expected in {0}")]
    Missing(Box<str>),
    /// It has several tokens in one place, of which another reader may take another. Carries the place.
    #[error("there are several tokens in {0}")]
    Several(Box<str>),
    /// It is no token that can be read.
    #[error("the token is refused: {0}")]
    Flawed(#[from] Flaw),
    /// It is signed in a way that is not allowed, or not known. Carries the way, if it is known.
    #[error("the token is signed with {}, which is not one of `algorithms`", .0.unwrap_or("an unknown algorithm"))]
    Algorithm(Option<&'static str>),
    /// No key has the name that it gives, or is of the kind that it needs.
    #[error("no key fits the token: none has its `kid`, or is for its algorithm")]
    UnknownKey,
    /// It does not name its key, and too many may be meant.
    #[error("the token names no key (`kid`), and too many may be meant")]
    Unnamed,
    /// It was not signed with the key, or was changed.
    #[error("the token's signature is wrong")]
    Signature,
    /// It has expired. Carries how long ago, the leeway included.
    #[error("the token expired {0:?} ago, the leeway included")]
    Expired(Duration),
    /// It is not valid yet.
    #[error("the token is not valid yet (`nbf`): are the clocks right?")]
    Early,
    /// It is of another issuer.
    #[error("the token's `iss` is not the `issuer`")]
    Issuer,
    /// It is for somebody else.
    #[error("the token's `aud` has no `audience` of this route")]
    Audience,
    /// It lacks what the route requires. Carries the claim, and the scope that is asked for, if it is one.
    #[error("the token's `{claim}` is not what `require` says")]
    Claim {
        /// The name of the claim.
        claim: Box<str>,
        /// The words of the scope.
        scope: Option<Box<str>>,
    },
    /// There are no keys yet to verify it with.
    #[error("there are no keys yet to verify tokens with")]
    NoKeys,
}

impl TokenDenial {
    /// Returns true if other keys may change it.
    pub fn asks_for_keys(&self) -> bool {
        matches!(self, TokenDenial::UnknownKey | TokenDenial::NoKeys)
    }

    /// Returns what a client may be told: enough to mend its own mistake, and nothing of what the route wants.
    pub fn hint(&self) -> &'static str {
        match self {
            TokenDenial::Missing(_) => "a token is needed here",
            TokenDenial::Several(_) => "there is more than one token",
            TokenDenial::Flawed(_) => "the token cannot be read",
            TokenDenial::Algorithm(_) | TokenDenial::UnknownKey | TokenDenial::Unnamed | TokenDenial::Signature => {
                "the token cannot be verified"
            }
            TokenDenial::Expired(_) => "the token has expired",
            TokenDenial::Early => "the token is not valid yet",
            TokenDenial::Issuer | TokenDenial::Audience => "the token is not meant for this service",
            TokenDenial::Claim { .. } => "the token does not grant this",
            TokenDenial::NoKeys => "tokens cannot be verified now, try again later",
        }
    }

    /// Returns the challenge of the answer (RFC 6750 §3); `None` if another token would do no better.
    pub fn challenge(&self) -> Option<String> {
        let error = match self {
            // RFC 6750 §3.1: a client that has not tried is told nothing more.
            TokenDenial::Missing(_) => return Some("Bearer".to_owned()),
            TokenDenial::NoKeys => return None,
            TokenDenial::Several(_) => "invalid_request",
            TokenDenial::Claim { .. } => "insufficient_scope",
            _ => "invalid_token",
        };
        let mut challenge = format!("Bearer error=\"{error}\", error_description=\"{}\"", self.hint());
        if let TokenDenial::Claim { scope: Some(scope), .. } = self {
            // Writing to a String cannot fail.
            let _ = write!(challenge, ", scope=\"{scope}\"");
        }
        Some(challenge)
    }
}
