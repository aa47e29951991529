//! wsluice
