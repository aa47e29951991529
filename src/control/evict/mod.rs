//! Closes sessions that would go on: drains by an operator, endpoints that are emptied or overloaded, changed routes, denied
//! subjects.

pub mod denied;
pub mod drains;
pub mod eviction;
pub mod metrics;
pub mod sweep;
