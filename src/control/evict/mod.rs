//! Closing sessions before they end by themselves: drains of an operator, endpoints that are emptied, changed routes.

pub mod drains;
pub mod eviction;
pub mod metrics;
pub mod sweep;
