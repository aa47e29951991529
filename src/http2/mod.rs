//! HTTP/2 (RFC 9113), for both sides: a stream as a byte stream, bodies, and windows.
//!
//! On the `h2` crate, and not on hyper: hyper gives a WebSocket's stream a task of its own and a channel before it, copies
//! each write once more, can end it only in order and never by a reset with a code, and closes the whole connection over one
//! request to which it has no answer.

pub mod body;
pub mod flood;
pub mod frame;
pub mod stream;
pub mod watched;
pub mod window;
