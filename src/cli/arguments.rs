//! Arguments that describe a request, for `ping` and `check --request`.

use http::header::{HeaderName, HeaderValue};

use crate::route::pattern::Subprotocol;

/// Reads `Name: value`.
pub(super) fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'Name: value'")?;
    let name =
        HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| format!("`{name}` is not a header's name"))?;
    Ok((name, field_value(value)?))
}

/// Reads the value of a header.
pub(super) fn field_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text.trim()).map_err(|_| format!("`{text}` has characters that a header cannot carry"))
}

/// A subprotocol is a token (RFC 6455 §4.1).
pub(super) fn token(text: &str) -> Result<String, String> {
    text.parse::<Subprotocol>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}
