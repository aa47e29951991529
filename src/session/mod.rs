//! One relayed connection, from handshake to its log line.

pub mod access_log;
pub mod metrics;
pub mod relay;
