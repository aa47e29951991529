//! JSON Web Tokens (RFC 7519) as credentials: whether a token lets a request in, given keys and the time.
//!
//! Signatures are verified by `jsonwebtoken`. Claims are judged here, since the time is an argument, and since what two
//! readers may understand differently is refused: a name that stands twice, a date that is no number, a header that asks for
//! an extension (`crit`). What RFC 8725 warns of cannot happen: the algorithm is one of the route's list, and a key serves
//! only algorithms of its own kind, so that a public key is never a secret; `none` is not among the algorithms; a `kid` is
//! only compared; and keys that a token brings along (`jwk`, `jku`, `x5u`, `x5c`) are not looked at.

mod algorithm;
mod claims;
mod denial;
mod json;
pub mod keys;
pub mod place;
mod rules;
mod token;

pub use algorithm::Algorithm;
pub use claims::Claims;
pub use denial::{TOKEN_BYTES_MAX, TokenDenial};
pub use keys::{Key, KeySet, KeysError};
pub use place::TokenPlace;
pub use rules::{JwtRules, RequiredClaim, VerifiedToken};

#[cfg(test)]
mod tests;
