//! What says whose a request is: the keys that verify credentials, and services that are asked.
//!
//! What a credential must be is a matter of `policy::jwt`; here is what needs files or the network. Keys that are fetched are
//! shared by all routes and workers that name the same URL, and outlive a reload. A service belongs to one route.

pub mod basic;
pub mod jwks;
pub mod metrics;
pub mod pem;
mod schedule;
pub mod service;
mod sources;
mod together;

use std::sync::Arc;

pub use jwks::RemoteKeys;
pub use sources::KeySources;

use crate::policy::jwt::KeySet;

/// The keys of a route.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Of the configuration, or of a file that it names.
    Fixed(Arc<KeySet>),
    /// Fetched.
    Remote(Arc<RemoteKeys>),
}

impl Keys {
    /// Returns the keys of this moment.
    pub fn current(&self) -> Arc<KeySet> {
        match self {
            Keys::Fixed(keys) => Arc::clone(keys),
            Keys::Remote(remote) => remote.current(),
        }
    }
}

/// Two are equal if they are the same.
impl PartialEq for Keys {
    fn eq(&self, other: &Keys) -> bool {
        match (self, other) {
            (Keys::Fixed(one), Keys::Fixed(other)) => Arc::ptr_eq(one, other),
            (Keys::Remote(one), Keys::Remote(other)) => Arc::ptr_eq(one, other),
            (Keys::Fixed(_), Keys::Remote(_)) | (Keys::Remote(_), Keys::Fixed(_)) => false,
        }
    }
}
