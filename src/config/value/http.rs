//! SourceParts of requests and answers: a request target, a host, a subprotocol, statuses.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ::http::HeaderValue;
use ::http::header::HeaderName;
use ::http::uri::PathAndQuery;

use crate::config::value::{BadValue, Scalar, as_scalar};

/// A request target in origin form: a path, with or without a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTarget(pub PathAndQuery);

impl Scalar for RequestTarget {
    const EXPECTED: &'static str = "a path such as `/healthz`";
}

impl FromStr for RequestTarget {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<RequestTarget, BadValue> {
        let bad = |problem: &str| BadValue::new(format!("`{text}` {problem}"), "write a path such as `/healthz`");
        if !text.starts_with('/') {
            return Err(bad("does not begin with `/`"));
        }
        text.parse().map(RequestTarget).map_err(|_| bad("is not a path"))
    }
}

impl fmt::Display for RequestTarget {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The name of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldName(pub HeaderName);

impl Scalar for FieldName {
    const EXPECTED: &'static str = "the name of a header such as `X-User`";
}

impl FromStr for FieldName {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<FieldName, BadValue> {
        let help = "write a name of letters, digits and `-`, such as `X-Tenant`, without a colon";
        let name = text.parse().map_err(|_| BadValue::new(format!("`{text}` is not the name of a header"), help));
        name.map(FieldName)
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(out)
    }
}

as_scalar!(FieldName, "FieldName", {
    "description": "The name of a header.",
    "type": "string",
    "pattern": r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$|\$\{",
    "examples": ["X-User"],
});

/// The value of a Host field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// Returns it as a field's value.
    pub fn value(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("it was read from an authority, which is visible ASCII")
    }
}

impl Scalar for HostName {
    const EXPECTED: &'static str = "a host such as `chat.example.com`";
}

impl FromStr for HostName {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<HostName, BadValue> {
        let authority =
            text.parse::<::http::uri::Authority>().ok().filter(|authority| !authority.as_str().contains('@'));
        authority.map(|authority| HostName(authority.to_string())).ok_or_else(|| {
            BadValue::new(
                format!("`{text}` is not a host"),
                "write a name, perhaps with a port, such as `chat.example.com`",
            )
        })
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// The name of a subprotocol: a token (RFC 6455 §4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedSubprotocol(String);

impl Scalar for OfferedSubprotocol {
    const EXPECTED: &'static str = "the name of a subprotocol such as `mqtt`";
}

impl FromStr for OfferedSubprotocol {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<OfferedSubprotocol, BadValue> {
        // A header's name is a token, too.
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(_) => Ok(OfferedSubprotocol(text.to_owned())),
            Err(_) => Err(BadValue::new(
                format!("`{text}` is not the name of a subprotocol"),
                "write one without spaces, such as `mqtt` or `graphql-transport-ws`",
            )),
        }
    }
}

impl fmt::Display for OfferedSubprotocol {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// The statuses that count as good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedStatuses(Vec<RangeInclusive<u16>>);

impl ExpectedStatuses {
    /// Returns them as ranges.
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.0
    }
}

impl Default for ExpectedStatuses {
    fn default() -> ExpectedStatuses {
        ExpectedStatuses(vec![200..=399])
    }
}

impl Scalar for ExpectedStatuses {
    const EXPECTED: &'static str = "statuses such as `200` or `200-399`";

    fn from_number(status: u64) -> Option<ExpectedStatuses> {
        status.to_string().parse().ok()
    }
}

impl FromStr for ExpectedStatuses {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<ExpectedStatuses, BadValue> {
        let status = |text: &str| text.trim().parse().ok().filter(|status| (200..=599u16).contains(status));
        let range = |part: &str| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (status(from)?, status(to)?);
            (from <= to).then_some(from..=to)
        };
        text.split(',').map(range).collect::<Option<Vec<_>>>().map(ExpectedStatuses).ok_or_else(|| {
            BadValue::new(
                format!("`{text}` are not statuses of an answer"),
                "write one from 200 to 599, a range, or several with commas: `200`, `200-399`, `200,404`",
            )
        })
    }
}

impl fmt::Display for ExpectedStatuses {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (from, to) if from == to => write!(out, "{comma}{from}")?,
                (from, to) => write!(out, "{comma}{from}-{to}")?,
            }
        }
        Ok(())
    }
}

as_scalar!(RequestTarget, "RequestTarget", {
    "description": "A path, perhaps with a query.",
    "type": "string",
    "pattern": r"^/|\$\{",
    "examples": ["/healthz"],
});
as_scalar!(HostName, "HostName", { "description": "A host, perhaps with a port.", "type": "string", "examples": ["chat.example.com"] });
as_scalar!(OfferedSubprotocol, "Subprotocol", { "description": "The name of a subprotocol.", "type": "string", "examples": ["mqtt"] });
as_scalar!(ExpectedStatuses, "Statuses", {
    "description": "Statuses of an answer: one, a range, or several with commas.",
    "type": ["string", "integer"],
    "pattern": r"^[0-9, -]+$|\$\{",
    "minimum": 200,
    "maximum": 599,
    "examples": [200, "200-399", "200,404"],
});

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_printed_as_they_were_written() {
        for text in ["200", "200-399", "200,204,300-399"] {
            assert_eq!(text.parse::<ExpectedStatuses>().unwrap().to_string(), text);
        }
        for text in ["/", "/healthz", "/ws?probe=1"] {
            assert_eq!(text.parse::<RequestTarget>().unwrap().to_string(), text);
        }
        assert_eq!("chat.example.com:8443".parse::<HostName>().unwrap().value(), "chat.example.com:8443");
    }

    #[test]
    fn values_that_are_none_are_refused() {
        for text in ["", "99", "101", "600", "399-200", "200-", "ok", "200,"] {
            text.parse::<ExpectedStatuses>().unwrap_err();
        }
        for text in ["", "healthz", "http://x/", "/a b"] {
            text.parse::<RequestTarget>().unwrap_err();
        }
        for text in ["", "a b", "user@host", "a/b"] {
            text.parse::<HostName>().unwrap_err();
        }
        for text in ["", "a b", "a,b"] {
            text.parse::<OfferedSubprotocol>().unwrap_err();
        }
    }
}
