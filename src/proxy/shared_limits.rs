//! Where the clients of a route are counted for all instances together.

use std::sync::Arc;

use crate::policy::clients::ClientKey;
use crate::policy::refused::RefusedClients;
use crate::shared::SharedStore;
use crate::shared::holdings::SharedPlace;

/// Where the clients of a route are counted for all instances.
#[derive(Debug)]
pub struct SharedLimits {
    pub(super) store: Arc<SharedStore>,
    pub(super) route: Arc<str>,
    /// Those that were told to wait.
    pub(super) refused: RefusedClients,
}

impl SharedLimits {
    /// Counts the clients of `route` in this store.
    pub fn new(store: Arc<SharedStore>, route: Arc<str>) -> SharedLimits {
        SharedLimits { store, route, refused: RefusedClients::default() }
    }

    /// Returns where they are counted.
    pub fn store(&self) -> &Arc<SharedStore> {
        &self.store
    }

    /// Takes a place for a session that comes from another process.
    pub(super) fn readmit(&self, client: ClientKey<'_>) -> SharedPlace {
        self.store.holdings().enter_untold(client.digest(&self.route))
    }
}
