//! The patterns of a route: as written in the configuration, and as matched.
//!
//! Hosts and paths are matched in the normal form that `crate::header` gives them. A pattern that can never equal a
//! normal form is an error when it is read, not a route that silently never matches. Regexes run in linear time and
//! match the whole text: a forgotten `^` or `$` must not match more than was meant.

mod client_cert;
mod host;
mod name;
mod one_or_more;
mod path;
mod value;

use thiserror::Error;

use crate::header::HostError;
use crate::header::path::PathError;

pub use client_cert::{ClientCertPattern, FingerprintPattern, SanPattern, SubjectPattern};
pub use host::HostPattern;
pub use name::{FieldName, MethodName, Subprotocol};
pub use one_or_more::OneOrMore;
pub use path::{PathPattern, PlainPath};
pub use value::{SOURCE_BYTES_MAX, ValuePattern, WholeRegex, within};

/// Why a text is not a valid pattern. The message says what to write.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Empty, or only white space.
    #[error("a host is empty: write a name such as `chat.example.com`, `*.example.com`, or `*` for any")]
    HostEmpty,
    /// A URL instead of a name.
    #[error("`{0}` is a URL: write its host alone, such as `chat.example.com`")]
    HostIsUrl(String),
    /// `example.com:8443`
    #[error("`{0}` has a port, which routes do not look at: write `{1}`")]
    HostHasPort(String, String),
    /// `a*.example.com`, `*.*.com`, `example.*`
    #[error("`{0}`: `*` stands alone for any host, or as the first label, such as `*.example.com`")]
    HostWildcard(String),
    /// `bücher.example`
    #[error("`{0}` is not ASCII: write an internationalised name in its `xn--` form")]
    HostNotAscii(String),
    /// Any other fault of a host.
    #[error("`{text}` is not a host")]
    Host {
        /// As written.
        text: String,
        /// What is wrong with it.
        #[source]
        source: HostError,
    },
    /// A path that does not begin with `/`.
    #[error("`{0}` is not a path: it starts with `/`")]
    PathRelative(String),
    /// A path with a query or fragment.
    #[error("`{0}`: a path has no query or fragment; queries are matched under `query`")]
    PathQuery(String),
    /// A path that no request has after normalisation.
    #[error("`{0}` never matches, because paths are normalised first: write `{1}`")]
    PathNotNormal(String, String),
    /// A path whose requests are refused.
    #[error("`{text}` never matches, because such requests are refused")]
    PathRefused {
        /// As written.
        text: String,
        /// Why they are refused.
        #[source]
        source: PathError,
    },
    /// Not a valid regex.
    #[error("`{0}` is not a valid regex: {1}")]
    Regex(String, String),
    /// A regex that is too long to be readable.
    #[error("a regex has at most {1} characters, this one {0}")]
    RegexLong(usize, usize),
    /// A regex that needs more memory than is left.
    #[error("the regexes up to this one are too large when they are compiled")]
    RegexLarge,
    /// Not a field name.
    #[error("`{0}` is not a header name: it has letters, digits and `-`, without a colon")]
    FieldName(String),
    /// Not a method name.
    #[error("`{0}` is not a method: it is one word such as `GET`")]
    Method(String),
    /// `get`: a known method in lower case.
    #[error("`{0}` never matches, because the case of methods counts: write `{1}`")]
    MethodLowerCase(String, String),
    /// CONNECT or TRACE.
    #[error("`{0}` never matches, because CONNECT and TRACE are refused before routes are looked at")]
    MethodRefused(String),
    /// Not a token.
    #[error(
        "`{0}` is not a subprotocol: it is one name of letters, digits and marks such as `.` and `-` (RFC 6455 §4.1)"
    )]
    Subprotocol(String),
    /// Not visible ASCII.
    #[error("`{0}` is not a name in a certificate: write a host, `*.` and a host, a URI, a mailbox or an IP address")]
    San(String),
    /// `*`
    #[error("`*` is no name in a certificate: for any certificate write `client_cert: {{}}`")]
    SanAny,
    /// Not a whole subject in the form of RFC 4514.
    #[error(
        "`{0}` is not a subject: write all of it, such as `CN=device-1,O=Example`, as `openssl x509 -noout -subject -nameopt RFC2253 -in FILE` shows it"
    )]
    Subject(String),
    /// Not 32 bytes in hex.
    #[error(
        "`{0}` is not a fingerprint: write the SHA-256 of the certificate, 64 hex digits, as `openssl x509 -noout -fingerprint -sha256 -in FILE` shows it"
    )]
    Fingerprint(String),
    /// 20 bytes in hex.
    #[error(
        "this is a fingerprint by SHA-1, which can be forged: write that by SHA-256, as `openssl x509 -noout -fingerprint -sha256 -in FILE` shows it"
    )]
    FingerprintSha1,
}

/// Implements serde and schemars for a text type: it is read by `FromStr`, written by `Display`, and a string in the
/// configuration. `$read` takes the text from a deserializer.
macro_rules! as_string {
    ($type:ty, $name:literal, $schema:tt) => {
        as_string!($type, $name, String::deserialize, $schema);
    };
    ($type:ty, $name:literal, $read:expr, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text: String = $read(deserializer)?;
                text.parse().map_err(|error| de::Error::custom($crate::base::error_chain::error_chain(&error)))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}
pub(crate) use as_string;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    /// Reads as the configuration is read: text to `Value`, `Value` to the type.
    pub(super) fn from_yaml<T: serde::de::DeserializeOwned>(yaml: &str) -> Result<T, String> {
        let value: serde_yaml::Value = serde_yaml::from_str(yaml).unwrap();
        serde_yaml::from_value(value).map_err(|error| error.to_string())
    }
}
