//! A named group of interchangeable servers, and the way to them.

pub mod metrics;
