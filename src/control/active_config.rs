//! The configuration in force, as others see it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::compile::Compiled;
use super::listeners::Openings;
use crate::config::Loaded;
use crate::net::listener::Address;
use crate::upstream::Upstream;

/// The configuration in force.
#[derive(Debug)]
pub struct ActiveConfig {
    /// As it was read.
    pub loaded: Loaded,
    /// Since when.
    pub since: SystemTime,
    /// Listeners that are open, with the addresses they are bound to.
    pub listeners: Vec<(Arc<str>, Address)>,
    /// The upstreams, by name.
    pub upstreams: BTreeMap<String, Arc<Upstream>>,
}

impl ActiveConfig {
    /// A configuration that is put in force now.
    pub fn new(loaded: Loaded, compiled: &Compiled, openings: &Openings) -> ActiveConfig {
        ActiveConfig {
            loaded,
            since: SystemTime::now(),
            listeners: openings.addresses(compiled),
            upstreams: compiled.upstreams.iter().map(|(name, it)| (name.clone(), Arc::clone(&it.upstream))).collect(),
        }
    }
}
