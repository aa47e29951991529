//! The statuses that a page of one's own may stand for.

use std::fmt;
use std::str::FromStr;

use http::StatusCode;
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use crate::config::value::BadValue;

/// What wsluice itself answers once it has found a route; `proxy::outcome` has the reasons.
const ANSWERED: [u16; 11] = [400, 401, 403, 408, 413, 426, 500, 502, 503, 504, 508];

/// A status of an error, or all of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorStatus {
    /// This one.
    Exact(u16),
    /// `4xx` or `5xx`, by the first digit.
    Class(u16),
}

impl ErrorStatus {
    /// Returns true if `status` is one of these.
    pub fn has(self, status: StatusCode) -> bool {
        match self {
            ErrorStatus::Exact(exact) => status.as_u16() == exact,
            ErrorStatus::Class(digit) => status.as_u16() / 100 == digit,
        }
    }
}

impl FromStr for ErrorStatus {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<ErrorStatus, BadValue> {
        match (text.to_ascii_lowercase().as_str(), text.parse::<u16>()) {
            ("4xx", _) => Ok(ErrorStatus::Class(4)),
            ("5xx", _) => Ok(ErrorStatus::Class(5)),
            (_, Ok(status)) if ANSWERED.contains(&status) => Ok(ErrorStatus::Exact(status)),
            (_, Ok(404)) => {
                let help = "it is the answer where no route matches: write a last route with \
                            `respond: { status: 404, file: … }` and without `match`";
                Err(BadValue::new("wsluice answers no request on a route with `404`", help))
            }
            (_, Ok(status)) => {
                let known: Vec<String> = ANSWERED.iter().map(u16::to_string).collect();
                let help = format!("write one of {}, `4xx` or `5xx`; a server's own answers stay", known.join(", "));
                Err(BadValue::new(format!("wsluice answers no request on a route with `{status}`"), help))
            }
            _ => Err(BadValue::new(format!("`{text}` is no status"), "write one such as `502`, or `5xx`")),
        }
    }
}

impl fmt::Display for ErrorStatus {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ErrorStatus::Exact(status) => write!(out, "{status}"),
            ErrorStatus::Class(digit) => write!(out, "{digit}xx"),
        }
    }
}

/// As a key of a map.
impl<'de> Deserialize<'de> for ErrorStatus {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(BadValue::into_serde)
    }
}

impl Serialize for ErrorStatus {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}
