//! From text to a tree, and from a tree to types: the steps, and how each mistake is reported.
//!
//! Nothing here knows what the keys mean.

pub(super) mod decode;
pub(super) mod environment;
pub(super) mod key;
pub(super) mod locate;
pub(super) mod report;
pub(super) mod suggest;
pub(super) mod survey;
pub(super) mod syntax;
pub(super) mod tree;
