//! HTTP fields and request targets as a proxy reads them: the host, what may be forwarded, and what may be logged.
//!
//! Everything here judges bytes from strangers. The rule throughout: one meaning or an error, never a guess, because a
//! guess that differs from the upstream's is how requests are smuggled and checks are bypassed.

pub mod authority;
pub mod client_certificate;
pub mod coding;
pub mod content_coding;
pub mod field_line;
pub mod date;
pub mod forwarded;
pub mod hop_by_hop;
pub mod length;
pub mod lookalike;
pub mod media_type;
pub mod network;
pub mod path;
pub mod redact;
pub mod request_id;
pub mod trailers;
pub mod visible;
pub mod weight;

pub mod variable;

pub mod template;

pub mod redirect;

pub use authority::{Host, HostError};
