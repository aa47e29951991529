//! Compiles what instances share.

use std::sync::Arc;

use super::Compiler;
use super::connector::Server;
use crate::config::{KeyPath, SharedConfig};
use crate::shared::SharedStore;
use crate::tls::certificates::ClientTlsScope;

impl Compiler<'_> {
    /// Returns the store: the same one as long as nobody changes anything about it.
    pub(super) fn store_of(&mut self, shared: &SharedConfig) -> Option<Arc<SharedStore>> {
        let redis = shared.redis.as_ref()?;
        let path = KeyPath::root().key("shared").key("redis");
        let (url, tls) = (&redis.url, redis.tls.as_deref());
        let server = Server { host: &url.host, port: url.port, is_tls: url.is_tls, tls };
        let connector = self.connector(&path, "redis", ClientTlsScope::Shared, server)?;
        let before = self.previous.and_then(|previous| previous.store.as_ref());
        Some(self.context.shared.store(redis, connector, before))
    }
}
