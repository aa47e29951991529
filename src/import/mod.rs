//! Configurations of other proxies, turned into one of wsluice: `wsluice import nginx FILE`.
//!
//! Pure: files come through a trait, the result is a text. What has no counterpart stands in that text as a comment, where it would
//! matter, and is counted in the summary.

pub mod nginx;
mod report;
mod yaml;

pub use report::Imported;
