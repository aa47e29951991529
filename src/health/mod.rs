//! Health of an endpoint, judged from probes (`threshold`; `expect` says what an answer must contain) and from live
//! traffic (`outlier`).
//!
//! Both only judge: `probe` runs the checks, and `upstream` decides what a verdict means for a pick. The state belongs
//! to the endpoint and the rule to a configuration, so each call takes the rule as an argument: a new file changes the
//! rule from now on and loses no state.

pub mod expect;
pub mod outlier;
pub mod threshold;
