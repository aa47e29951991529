//! Accepting connections and turning them into requests.

pub mod metrics;
