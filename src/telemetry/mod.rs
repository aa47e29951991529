//! How the process tells about itself: log lines, and the registry of metrics as text.
//!
//! Only the means are here: what is counted or logged stands in the module where it happens, each of which has its own
//! `metrics.rs` with names, help texts and labels. `counters`, `labelled` and `series` hold what those have in common.

pub mod counters;
pub mod escape;
pub mod exposition;
pub mod labelled;
pub mod logging;
pub mod panics;
pub mod process;
pub mod series;
pub mod sink;
pub mod sparing;
pub mod utc;
