//! Who may open a tunnel, when, and what decides where it goes, from the request alone. A policy that may refuse answers
//! allow or a typed denial.

pub mod balance_key;
pub mod bucket;
pub mod origin;

pub use origin::{Missing, OriginDenial, OriginPattern, OriginPolicy};
