//! Reloads: what a new configuration changes.

mod compare;

pub use compare::{Changed, Changes, ReloadError};
