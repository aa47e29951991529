//! Compiles what instances share.

use std::sync::Arc;

use super::Compiler;
use crate::config::{KeyPath, SharedConfig};
use crate::net::socket::TcpOptions;
use crate::shared::SharedStore;
use crate::tls::certificates::ClientTlsScope;
use crate::tls::client::server_name;
use crate::upstream::connect::{ConnectTarget, Connector, Tls};

impl Compiler<'_> {
    /// Returns the store: the same one as long as nobody changes anything about it.
    pub(super) fn store_of(&mut self, shared: &SharedConfig) -> Option<Arc<SharedStore>> {
        let redis = shared.redis.as_ref()?;
        let path = KeyPath::root().key("shared").key("redis");
        let (url, written) = (&redis.url, redis.tls.as_deref());
        let tls = match url.is_tls {
            false => None,
            true => {
                let config = self.client_tls(&path, "redis", ClientTlsScope::Shared, written)?;
                let name = written.and_then(|tls| tls.server_name.as_deref()).unwrap_or(&url.host);
                Some(Tls { config, server_name: self.ok_or_report(&path.key("url"), server_name(name))? })
            }
        };
        let target = ConnectTarget::new(&url.host, url.port, &self.context.families.names);
        let connector = Connector {
            target,
            tls,
            tcp: TcpOptions::default(),
            sources: None,
            reach: None,
            protocol: Default::default(),
        };
        let before = self.previous.and_then(|previous| previous.store.as_ref());
        Some(self.context.shared.store(redis, connector, before))
    }
}
