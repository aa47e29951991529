//! The form of a token: three parts in base64url (RFC 7515 §3.1), the first of them its header.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::algorithm::Algorithm;
use super::denial::{Flaw, TOKEN_BYTES_MAX, TokenDenial};
use super::json;

/// The longest `kid`. Identity providers use hashes and UUIDs.
pub(super) const KID_BYTES_MAX: usize = 512;

/// A token that has the right form. Nothing of what it says is verified.
#[derive(Debug)]
pub(super) struct Token<'a> {
    pub(super) algorithm: Algorithm,
    /// The name of the key with which it says that it is signed.
    pub(super) kid: Option<String>,
    /// Header and claims, as they are signed.
    pub(super) signed: &'a str,
    /// In base64url.
    pub(super) signature: &'a str,
    claims: &'a str,
}

impl<'a> Token<'a> {
    /// Takes a token apart.
    pub(super) fn parse(text: &'a str) -> Result<Token<'a>, TokenDenial> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Flaw::Long.into());
        }
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !text.bytes().all(|byte| is_base64(byte) || byte == b'.') {
            return Err(Flaw::Form.into());
        }
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Flaw::Form.into());
        };
        match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => {}
            (Some(_), Some(_), None) => return Err(Flaw::Encrypted.into()),
            _ => return Err(Flaw::Form.into()),
        }
        let header = decoded(header).and_then(|header| json::object(&header)).ok_or(Flaw::Header)?;
        // RFC 7515 §4.1.11: who does not know what it asks for refuses it. We know nothing of that kind.
        if header.contains_key("crit") {
            return Err(Flaw::Critical.into());
        }
        let kid = match header.get("kid") {
            None => None,
            Some(kid) => Some(kid.as_str().filter(|kid| kid.len() <= KID_BYTES_MAX).ok_or(Flaw::Header)?.to_owned()),
        };
        let algorithm = header.get("alg").and_then(|algorithm| algorithm.as_str()).ok_or(Flaw::Header)?;
        let algorithm = Algorithm::named(algorithm).ok_or(TokenDenial::Algorithm(None))?;
        if signature.is_empty() {
            return Err(Flaw::Form.into());
        }
        let signed = &text[..text.len() - signature.len() - 1];
        Ok(Token { algorithm, kid, signed, signature, claims })
    }

    /// Returns what it claims.
    pub(super) fn claims(&self) -> Result<serde_json::Map<String, serde_json::Value>, TokenDenial> {
        decoded(self.claims).and_then(|claims| json::object(&claims)).ok_or(Flaw::Claims.into())
    }
}

fn decoded(part: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(part).ok()
}
