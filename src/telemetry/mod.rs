//! Log lines, and the registry of metrics as text.
//!
//! Only the means are here: what is counted or logged stands in the module where it happens. Each of these has its
//! own `metrics.rs` with names, help texts and labels; `counters`, `labelled` and `series` hold what they have in
//! common.

pub mod counters;
pub mod escape;
pub mod exposition;
pub mod labelled;
pub mod logging;
pub mod panics;
pub mod process;
pub mod series;
pub mod sink;
pub mod log_limiter;
pub mod utc;
