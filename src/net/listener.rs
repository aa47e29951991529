//! Listening sockets.

pub use super::address::{Address, AddressError};
