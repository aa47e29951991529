//! Whether an endpoint is fit for new sessions, judged from what is told here: the results of probes (`threshold`; what
//! one wants to find in an answer: `expect`), and those of live traffic (`outlier`).
//!
//! Both only judge. Who probes is `probe`, what a verdict means for a pick is `upstream`. The state belongs to the
//! endpoint and the rule to a configuration, so a rule is an argument wherever a state is asked: a new file changes what
//! is expected from now on and forgets nothing.

pub mod expect;
pub mod outlier;
pub mod threshold;
