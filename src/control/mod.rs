//! From the configuration as written to the one in force.

pub mod checks;
pub mod compile;
pub mod metrics;
pub mod shed;
