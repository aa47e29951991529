//! wsluice
fn main() {}
