//! Sockets: listening, accepting, connecting, and what is read before HTTP begins.
//!
//! Knows only bytes and addresses; TLS stands above it, HTTP above that.

mod address;
pub mod descriptors;
#[cfg(feature = "dns")]
pub mod dns;
pub mod head_guard;
pub mod listener;
pub mod names;
pub mod pool;
pub mod portable;
pub mod proxy_protocol;
pub mod socket;
pub mod stream;
pub mod transport;
