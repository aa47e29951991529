//! Who may open a tunnel, decided from the request alone. Each policy answers allow or a typed denial.

pub mod origin;

pub use origin::{Missing, OriginDenial, OriginPattern, OriginPolicy};
