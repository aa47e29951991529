//! Policies: who may come and open a tunnel and when, what key a request is balanced by, and how often it may be retried;
//! without sockets or clock. A policy that may refuse returns an allowance or a typed denial.

pub mod address;
pub mod balance_key;
pub mod basic;
pub mod bucket;
pub mod clients;
pub mod denied;
pub mod jwt;
pub mod origin;
pub mod reach;
pub mod recheck;
pub mod refused;
pub mod retry_budget;
pub mod subject;

pub use origin::{Insecure, Missing, OriginDenial, OriginPattern, OriginPolicy, OriginTarget};
