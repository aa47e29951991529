//! Policies: who may open a tunnel, when, which endpoint key it has, and how often it may be retried; no sockets, no
//! clock. A policy that may refuse returns allow or a typed denial.

pub mod balance_key;
pub mod bucket;
pub mod origin;
pub mod reach;
pub mod retry_budget;

pub use origin::{Insecure, Missing, OriginDenial, OriginPattern, OriginPolicy, OriginTarget};
