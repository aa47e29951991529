//! Sockets: where we listen, what we accept, how we connect, and what is read before HTTP begins.
//!
//! Knows bytes and addresses only; TLS stands above it, HTTP above that.

mod address;
pub mod listener;
