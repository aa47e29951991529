//! From the head of a request to its route: the patterns a user writes, and the table that is walked.

pub mod mismatch;
pub mod pattern;
pub mod reading;
pub mod rewrite;
pub mod table;

pub mod shadow;

pub use reading::Paths;
pub use rewrite::Rewrite;
pub use table::{Match, RequestView, RouteMatch, RouteTable};
