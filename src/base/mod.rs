//! What every floor may use: time for pure code, the clock, random bytes, worker threads, the state of a watched file.

pub mod time;

pub mod allocator;
pub mod clock;
pub mod error_chain;
pub mod file_state;
pub(crate) mod labels;
pub mod random;
pub mod worker;
