//! The body of a request to an endpoint, whatever version of HTTP it goes by.

/// A body as it goes.
pub type RequestBody =
    http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, Box<dyn std::error::Error + Send + Sync>>;
