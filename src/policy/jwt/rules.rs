//! The rules of a route for tokens, and the judgement.

use std::time::Duration;

use serde_json::Value;

use super::algorithm::Algorithm;
use super::claims::{Claims, is_scope};
use super::denial::{Flaw, TokenDenial};
use super::keys::KeySet;
use super::token::Token;
use crate::base::time::UNIX_SECONDS_MAX;
use crate::policy::subject::SUBJECT_BYTES_MAX;

/// The latest time that a token may name, in seconds since the epoch. Later ones count as this.
const TIME_MAX: f64 = UNIX_SECONDS_MAX as f64;

/// What a token must be to let a request in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JwtRules {
    /// How it may be signed.
    pub algorithms: Vec<Algorithm>,
    /// Who may have issued it; anybody if empty.
    pub issuers: Vec<String>,
    /// Of these, it must be for one; for anybody if empty.
    pub audiences: Vec<String>,
    /// How far the clocks of its issuer and of this machine may be apart.
    pub leeway: Duration,
    /// What it must claim, all of it.
    pub require: Vec<RequiredClaim>,
}

/// A claim that must grant one of some values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredClaim {
    /// Its name; see [`Claims::get`].
    pub name: String,
    /// The values.
    pub one_of: Vec<String>,
}

/// What a token says that lets a request in.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedToken {
    /// All that it claims.
    pub claims: Claims,
    /// Its `sub`.
    pub subject: Option<Box<str>>,
    /// Until when it lets in, the leeway included; since the epoch.
    pub expires: Duration,
}

impl JwtRules {
    /// Judges a token at `now`, which is the time since the epoch.
    ///
    /// # Errors
    /// The first reason to refuse it: its form, then its signature, then what it claims.
    pub fn judge(&self, token: &str, keys: &KeySet, now: Duration) -> Result<VerifiedToken, TokenDenial> {
        let token = Token::parse(token)?;
        if !self.algorithms.contains(&token.algorithm) {
            return Err(TokenDenial::Algorithm(Some(token.algorithm.name())));
        }
        keys.verify(&token)?;
        self.judge_claims(Claims::new(token.claims()?), now)
    }

    fn judge_claims(&self, claims: Claims, now: Duration) -> Result<VerifiedToken, TokenDenial> {
        let (now, leeway) = (now.as_secs_f64(), self.leeway.as_secs_f64());
        let expires = time(&claims, "exp")?.ok_or(Flaw::Endless)? + leeway;
        if now >= expires {
            let ago = Duration::try_from_secs_f64(now - expires).unwrap_or_default();
            return Err(TokenDenial::Expired(Duration::from_millis(
                u64::try_from(ago.as_millis()).unwrap_or(u64::MAX),
            )));
        }
        if time(&claims, "nbf")?.is_some_and(|not_before| now + leeway < not_before) {
            return Err(TokenDenial::Early);
        }
        let issuer = text(&claims, "iss")?;
        if !self.issuers.is_empty() && !issuer.is_some_and(|issuer| self.issuers.iter().any(|known| known == issuer)) {
            return Err(TokenDenial::Issuer);
        }
        let audiences = audiences(&claims)?;
        if !self.audiences.is_empty() && !self.audiences.iter().any(|ours| audiences.contains(&ours.as_str())) {
            return Err(TokenDenial::Audience);
        }
        let subject = text(&claims, "sub")?;
        if subject.is_some_and(|subject| subject.len() > SUBJECT_BYTES_MAX) {
            return Err(Flaw::Subject.into());
        }
        for RequiredClaim { name, one_of } in &self.require {
            if !one_of.iter().any(|wanted| claims.grants(name, wanted)) {
                return Err(TokenDenial::Claim { claim: name.as_str().into(), scope: shown_scope(name, one_of) });
            }
        }
        let subject = subject.map(Into::into);
        // Neither is negative, and the sum is far from the end of either type.
        let expires = Duration::try_from_secs_f64(expires).unwrap_or_default();
        Ok(VerifiedToken { claims, subject, expires })
    }
}

/// Returns a date (RFC 7519 §2, NumericDate): seconds, maybe with a fraction.
fn time(claims: &Claims, name: &'static str) -> Result<Option<f64>, TokenDenial> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    match value.as_f64().filter(|seconds| *seconds >= 0.0) {
        Some(seconds) => Ok(Some(seconds.min(TIME_MAX))),
        None => Err(Flaw::Type(name).into()),
    }
}

fn text<'a>(claims: &'a Claims, name: &'static str) -> Result<Option<&'a str>, TokenDenial> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Flaw::Type(name).into()),
    }
}

/// RFC 7519 §4.1.3: a text, or a list of texts.
fn audiences(claims: &Claims) -> Result<Vec<&str>, TokenDenial> {
    let wrong = || TokenDenial::from(Flaw::Type("aud"));
    match claims.get("aud") {
        None => Ok(vec![]),
        Some(Value::String(audience)) => Ok(vec![audience]),
        Some(Value::Array(all)) => all.iter().map(|audience| audience.as_str().ok_or_else(wrong)).collect(),
        Some(_) => Err(wrong()),
    }
}

/// Returns the scope for the challenge of a refusal, if that is what is required, and one only (RFC 6750 §3).
fn shown_scope(name: &str, one_of: &[String]) -> Option<Box<str>> {
    let [scope] = one_of else { return None };
    let fits = scope.bytes().all(|byte| matches!(byte, b' ' | 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
    (is_scope(name) && fits).then(|| scope.as_str().into())
}
