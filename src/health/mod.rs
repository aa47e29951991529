//! Health of an endpoint, judged from the results of probes (`threshold`; `expect` says what a probe wants in an
//! answer) and of live traffic (`outlier`).
//!
//! Both only judge: `probe` runs the checks, and `upstream` decides what a verdict means for a pick. The state belongs
//! to the endpoint and the rule to a configuration, so each call takes the rule as an argument: a new file changes what
//! is expected from now on and forgets nothing.

pub mod expect;
pub mod outlier;
pub mod threshold;
