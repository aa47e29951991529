//! Compiles how to reach a server that is no endpoint: one that is asked about clients, or keeps what instances share.

use super::Compiler;
use crate::config::{ClientTls, KeyPath};
use crate::tls::certificates::ClientTlsScope;
use crate::tls::client::server_name;
use crate::upstream::connect::{ConnectTarget, Connector, Tls};

/// A server as its URL and the `tls` beside it describe it.
pub(super) struct Server<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) is_tls: bool,
    pub(super) tls: Option<&'a ClientTls>,
}

impl Compiler<'_> {
    /// Returns how to reach a server whose `url` and `tls` stand at `path`; `of` is whose it is.
    pub(super) fn connector(
        &mut self,
        path: &KeyPath,
        of: &str,
        scope: ClientTlsScope,
        server: Server<'_>,
    ) -> Option<Connector> {
        let Server { host, port, is_tls, tls: written } = server;
        let tls = match is_tls {
            false => None,
            true => {
                let config = self.client_tls(path, of, scope, written)?;
                let name = written.and_then(|tls| tls.server_name.as_deref()).unwrap_or(host);
                Some(Tls { config, server_name: self.ok_or_report(&path.key("url"), server_name(name))? })
            }
        };
        Some(Connector::new(ConnectTarget::new(host, port, &self.context.families.names), tls))
    }
}
