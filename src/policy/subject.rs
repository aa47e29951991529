//! The name of whoever a request belongs to.

/// The longest that is kept of one: as long as OpenID Connect lets it be.
pub const SUBJECT_BYTES_MAX: usize = 255;
