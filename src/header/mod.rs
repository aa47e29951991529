//! What HTTP fields and targets mean to a proxy: whom a request is for, what may pass on, and what may be written down.
//!
//! Everything here judges bytes that a stranger sent. The rule throughout: one meaning or an error, never a guess, because
//! a guess that differs from the upstream's is how requests are smuggled and checks are walked around.

pub mod authority;
pub mod coding;
pub mod forwarded;
pub mod hop_by_hop;
pub mod length;
pub mod lookalike;
pub mod network;
pub mod path;
pub mod redact;
pub mod trailers;
pub mod visible;

pub use authority::{Host, HostError};
