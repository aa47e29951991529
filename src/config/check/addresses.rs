//! Checks lists of addresses: those that say nothing, and networks that another one makes void.

use super::Checker;
use crate::config::read::key::KeyPath;
use crate::config::schema::addresses::AddressesConfig;
use crate::config::schema::listener::{ListenerConfig, ProxyProtocol};
use crate::config::value::address::Bind;

impl Checker<'_, '_> {
    pub(super) fn addresses(&mut self, path: &KeyPath, written: Option<&AddressesConfig>) {
        let Some(AddressesConfig { allow, deny }) = written else { return };
        if allow.is_none() && deny.is_none() {
            self.error(path, "this names no address").help("write `allow: [10.0.0.0/8]`, or `deny: …`");
        }
        for (key, networks) in [("allow", allow), ("deny", deny)] {
            if networks.as_ref().is_some_and(Vec::is_empty) {
                let help = match key {
                    "allow" => "name networks; to refuse everybody, write `deny: [0.0.0.0/0, \"::/0\"]`",
                    _ => "remove it",
                };
                self.error(&path.key(key), "the list is empty").help(help);
            }
        }
        let denied = deny.as_deref().unwrap_or_default();
        for (index, network) in allow.iter().flatten().enumerate() {
            if let Some(wider) = denied.iter().position(|denied| denied.contains(network)) {
                let (deny, at) = (path.key("deny").index(wider), path.key("allow").index(index));
                let involved = self.written.original(&deny);
                let message = format!("nobody of `{network}` is let in: `{}` is denied, and deny wins", denied[wider]);
                self.warn(&at, message).help("remove one of the two").involving(involved);
            }
        }
    }

    /// Refuses what is about the addresses of connections where they have none.
    pub(super) fn listener_addresses(&mut self, path: &KeyPath, listener: &ListenerConfig) {
        self.addresses(&path.key("addresses"), listener.addresses.as_deref());
        let has_none = matches!(listener.bind, Bind::Unix(_)) && listener.proxy_protocol == ProxyProtocol::Off;
        if has_none && listener.addresses.is_some() {
            self.error(&path.key("addresses"), "connections to a Unix socket have no address")
                .at_key()
                .help("write `addresses` in a route, or `proxy_protocol: require` if a proxy tells them");
        }
    }
}
