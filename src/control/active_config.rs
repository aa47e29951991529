//! The configuration in force, as others see it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::compile::Compiled;
use super::listeners::Listeners;
use crate::config::Loaded;
use crate::net::listener::Address;
use crate::upstream::Upstream;

/// The configuration in force.
#[derive(Debug)]
pub struct ActiveConfig {
    /// The file as it was read.
    pub loaded: Loaded,
    /// When it was put in force.
    pub since: SystemTime,
    /// The open listeners, with the addresses they are bound to.
    pub listeners: Vec<(Arc<str>, Address)>,
    /// The upstreams, by name.
    pub upstreams: BTreeMap<String, Arc<Upstream>>,
}

impl ActiveConfig {
    /// Creates the record of a configuration that is being put in force now.
    pub fn new(loaded: Loaded, compiled: &Compiled, listeners: &Listeners) -> ActiveConfig {
        ActiveConfig {
            loaded,
            since: SystemTime::now(),
            listeners: listeners.addresses(compiled),
            upstreams: compiled.upstreams.iter().map(|(name, it)| (name.clone(), Arc::clone(&it.upstream))).collect(),
        }
    }
}
