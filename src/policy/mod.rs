//! Who may open a tunnel, when, what decides where it goes, and how often that may be tried: no sockets, no clock. A policy
//! that may refuse answers allow or a typed denial.

pub mod balance_key;
pub mod bucket;
pub mod origin;
pub mod reach;
pub mod retry_budget;

pub use origin::{Insecure, Missing, OriginDenial, OriginPattern, OriginPolicy, OriginTarget};
