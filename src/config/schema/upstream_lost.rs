//! What a client gets when its server is lost without a Close.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use crate::config::value::{BadValue, Scalar, scalar};
use crate::ws::close::CloseCode;

/// What a client gets when its server is lost without a Close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUpstreamLost {
    /// Sends a Close with this code: any that may be sent (1000 to 1003, 1007 to 1014, 3000 to 4999).
    Close(SentCode),
    /// Sends no Close: the client's connection ends as the server's did, and its library reports 1006.
    #[default]
    Cut,
}

/// A close code that may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentCode(pub CloseCode);

const CODES: &str = "a close code: 1000 to 1003, 1007 to 1014 or 3000 to 4999";

impl Scalar for SentCode {
    const EXPECTED: &'static str = CODES;

    fn from_number(number: u64) -> Option<SentCode> {
        u16::try_from(number).ok().map(CloseCode).filter(|code| code.is_sendable()).map(SentCode)
    }
}

impl FromStr for SentCode {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<SentCode, BadValue> {
        let code = text.parse().ok().and_then(SentCode::from_number);
        code.ok_or_else(|| {
            BadValue::new(format!("`{text}` is not a close code that may be sent"), "write 1012, for one")
        })
    }
}

impl fmt::Display for SentCode {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl<'de> Deserialize<'de> for SentCode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from)
    }
}

impl Serialize for SentCode {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u16(self.0.0)
    }
}

impl JsonSchema for SentCode {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CloseCode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A close code that may be sent.",
            "anyOf": [
                { "type": "integer", "minimum": 1000, "maximum": 1003 },
                { "type": "integer", "minimum": 1007, "maximum": 1014 },
                { "type": "integer", "minimum": 3000, "maximum": 4999 },
                { "type": "string", "pattern": r"^[0-9]{4}$|\$\{" },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_that_may_be_sent_are_taken() {
        for code in [1000, 1003, 1007, 1011, 1014, 3000, 4999] {
            assert_eq!(SentCode::from_number(code).map(|code| u64::from(code.0.0)), Some(code));
            assert_eq!(code.to_string().parse::<SentCode>().map(|code| code.to_string()), Ok(code.to_string()));
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65_536 + 1012] {
            assert_eq!(SentCode::from_number(code), None, "{code}");
            assert!(code.to_string().parse::<SentCode>().is_err());
        }
    }
}
