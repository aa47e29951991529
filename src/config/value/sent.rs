//! The further headers that a server may be sent: a closed list, each with one meaning.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;

use crate::config::read::suggest::did_you_mean;
use crate::config::value::{BadValue, Scalar, as_scalar};
use crate::header::variable::Variable;

/// One of these headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentHeader(usize);

/// Their names as they are written, and what they say.
const ALL: [(&str, &str, Variable); 4] = [
    ("X-Real-IP", "x-real-ip", Variable::ClientIp),
    ("X-Forwarded-Port", "x-forwarded-port", Variable::RequestPort),
    ("X-Forwarded-Prefix", "x-forwarded-prefix", Variable::RewritePrefix),
    ("X-Request-Id", "x-request-id", Variable::RequestId),
];

impl SentHeader {
    /// Returns its name.
    pub fn name(self) -> HeaderName {
        HeaderName::from_static(ALL[self.0].1)
    }

    /// Returns what it says.
    pub fn variable(self) -> Variable {
        ALL[self.0].2
    }
}

impl Scalar for SentHeader {
    const EXPECTED: &'static str = "`X-Real-IP`, `X-Forwarded-Port`, `X-Forwarded-Prefix` or `X-Request-Id`";
}

impl FromStr for SentHeader {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<SentHeader, BadValue> {
        let found = ALL.iter().position(|(name, ..)| name.eq_ignore_ascii_case(text));
        found.map(SentHeader).ok_or_else(|| {
            let names = ALL.map(|(name, ..)| name);
            let is_sent_anyway = ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "Host"]
                .iter()
                .any(|name| name.eq_ignore_ascii_case(text));
            let help = match did_you_mean(text, &names) {
                _ if is_sent_anyway => "remove it: servers get it anyway".to_owned(),
                Some(question) => question,
                None => format!("these can: {}; any other is `request: {{ set: {{ {text}: … }} }}`", Self::EXPECTED),
            };
            BadValue::new(format!("`{text}` is no header that can be sent by its name"), help)
        })
    }
}

impl fmt::Display for SentHeader {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(ALL[self.0].0)
    }
}

as_scalar!(SentHeader, "SentHeader", {
    "description": "A further header for servers.",
    "type": "string",
    "examples": ["X-Real-IP", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Request-Id"],
});

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_known_in_any_case_and_shown_in_one() {
        for (written, shown) in [("x-real-ip", "X-Real-IP"), ("X-REQUEST-ID", "X-Request-Id")] {
            let header: SentHeader = written.parse().unwrap();
            assert_eq!((header.to_string().as_str(), header.name().as_str()), (shown, &*shown.to_ascii_lowercase()));
        }
        for (written, help) in
            [("X-Request-ID2", "did you mean `X-Request-Id`?"), ("x-forwarded-for", "remove it: servers get it anyway")]
        {
            assert_eq!(written.parse::<SentHeader>().unwrap_err().help, help);
        }
    }
}
