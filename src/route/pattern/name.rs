//! Names of fields, methods and subprotocols: tokens of RFC 9110 §5.6.2.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::{HeaderName, Method};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{PatternError, as_string};

/// The name of a header field, written in any case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldName(HeaderName);

impl FieldName {
    /// Returns the name as a type of `http`.
    pub fn name(&self) -> &HeaderName {
        &self.0
    }
}

impl PartialOrd for FieldName {
    fn partial_cmp(&self, other: &FieldName) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for FieldName {
    fn cmp(&self, other: &FieldName) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl FromStr for FieldName {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<FieldName, PatternError> {
        HeaderName::from_str(text).map(FieldName).map_err(|_| PatternError::FieldName(text.to_owned()))
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

as_string!(FieldName, "FieldName", { "type": "string", "pattern": "^[-!#$%&'*+.^_`|~0-9A-Za-z]+$" });

/// The name of a method; case-sensitive (RFC 9110 §9.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MethodName(Method);

impl MethodName {
    /// Returns the method as a type of `http`.
    pub fn method(&self) -> &Method {
        &self.0
    }
}

impl FromStr for MethodName {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<MethodName, PatternError> {
        let method = |text: &str| Method::from_bytes(text.as_bytes());
        let written = method(text).map_err(|_| PatternError::Method(text.to_owned()))?;
        let upper = text.to_ascii_uppercase();
        match method(&upper) {
            Ok(Method::CONNECT | Method::TRACE) => Err(PatternError::MethodRefused(text.to_owned())),
            Ok(meant) if upper != text && is_registered(&meant) => {
                Err(PatternError::MethodLowerCase(text.to_owned(), upper))
            }
            _ => Ok(MethodName(written)),
        }
    }
}

/// Returns true if the method is one of RFC 9110, or PATCH, which `http` knows too.
fn is_registered(method: &Method) -> bool {
    let all = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH];
    all.contains(method)
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

as_string!(MethodName, "Method", {
    "type": "string",
    "description": "A method, in upper case.",
    "pattern": "^[-!#$%&'*+.^_`|~0-9A-Za-z]+$",
    "examples": ["GET", "POST"]
});

/// The name of a subprotocol; case-sensitive (RFC 6455 §4.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subprotocol(String);

impl Subprotocol {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Subprotocol {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Subprotocol, PatternError> {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        match !text.is_empty() && text.bytes().all(is_token) {
            true => Ok(Subprotocol(text.to_owned())),
            false => Err(PatternError::Subprotocol(text.to_owned())),
        }
    }
}

impl fmt::Display for Subprotocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_string!(Subprotocol, "Subprotocol", { "type": "string", "pattern": "^[-!#$%&'*+.^_`|~0-9A-Za-z]+$" });
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    #[test]
    fn names_are_tokens() {
        assert_eq!("X-Tenant".parse::<FieldName>().unwrap().to_string(), "x-tenant");
        assert!("X-Tenant:".parse::<FieldName>().is_err());
        assert!("".parse::<FieldName>().is_err());
        assert_eq!("PROPFIND".parse::<MethodName>().unwrap().to_string(), "PROPFIND");
        for (text, message) in [
            ("get", "`get` never matches, because the case of methods counts: write `GET`"),
            ("Patch", "`Patch` never matches, because the case of methods counts: write `PATCH`"),
            ("TRACE", "`TRACE` never matches, because CONNECT and TRACE are refused before routes are looked at"),
            ("GET ", "`GET ` is not a method: it is one word such as `GET`"),
            ("", "`` is not a method: it is one word such as `GET`"),
        ] {
            assert_eq!(text.parse::<MethodName>().unwrap_err().to_string(), message);
        }
        assert_eq!("graphql-ws".parse::<Subprotocol>().unwrap().as_str(), "graphql-ws");
        for text in ["", "a b", "a,b", "a\n", "ü"] {
            assert!(text.parse::<Subprotocol>().is_err(), "{text:?}");
        }
    }
}
