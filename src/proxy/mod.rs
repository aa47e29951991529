//! The walk of a request: route, policies, upstream, answer.

pub mod metrics;
