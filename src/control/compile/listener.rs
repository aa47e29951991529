//! Compiles listeners: TLS, settings, and the proxy that answers their requests.

use std::sync::Arc;

use super::Compiler;
use crate::config::{
    self, Bind, CertificateConfig, ClientAuthModeConfig, ExtendedConnectMode, HttpProtocol, KeyPath, MinTlsVersion,
    ProxyProtocol, ServerTls,
};
use crate::net::listener::Address;
use crate::net::proxy_protocol::Mode;
use crate::policy::address::AddressRules;
use crate::proxy::Proxy;
use crate::proxy::outcome::Failure;
use crate::proxy::snapshot::Snapshot;
use crate::server::ListenerSettings;
use crate::server::metrics::Security;
use crate::tls::certificates::{CertificateFiles, Part, ServerFiles};
use crate::tls::server::{ClientAuthMode, MinVersion};

/// A listener of one configuration.
#[derive(Debug)]
pub struct CompiledListener {
    /// Its section of the file.
    pub written: config::ListenerConfig,
    /// The settings of its connections.
    pub settings: Arc<ListenerSettings>,
    /// The handler of its requests.
    pub proxy: Arc<Proxy>,
}

impl CompiledListener {
    /// Returns true if it is the same as `before`.
    pub fn is_same(&self, before: &CompiledListener) -> bool {
        let tls = |listener: &CompiledListener| listener.settings.tls.as_ref().map(Arc::as_ptr);
        self.written == before.written && tls(self) == tls(before)
    }
}

impl Compiler<'_> {
    pub(super) fn listener(
        &mut self,
        index: usize,
        written: &config::ListenerConfig,
        snapshot: &Arc<Snapshot>,
    ) -> CompiledListener {
        let path = KeyPath::root().key("listeners").index(index);
        let families = &self.context.families;
        let security = if written.tls.is_some() { Security::Tls } else { Security::Plain };
        let metrics = families.server.listener(&written.name, security);
        let name: Arc<str> = written.name.as_str().into();
        let proxy = Proxy {
            snapshot: Arc::clone(snapshot),
            listener: Arc::clone(&name),
            listener_index: index,
            trusted: written.trusted_proxies.clone(),
            redirect: written.redirect.as_ref().map(|redirect| redirect.https),
            unrouted: families.proxy.unrouted(&written.name, &Failure::LABELS),
            log: self.log.clone(),
            sessions: Arc::clone(&self.context.sessions),
        };
        let protocols = written.protocols();
        let tls =
            written.tls.as_ref().and_then(|tls| self.server_tls(&path.key("tls"), &written.name, tls, &protocols));
        let settings = ListenerSettings {
            tls,
            addresses: written.addresses.as_deref().map(address_rules),
            proxy_protocol: match written.proxy_protocol {
                ProxyProtocol::Off => None,
                ProxyProtocol::Optional => Some(Mode::Optional),
                ProxyProtocol::Require => Some(Mode::Require),
            },
            timeouts: written.timeouts.clone(),
            limits: written.limits.clone(),
            protocols,
            extended_connect: written.extended_connect == ExtendedConnectMode::On,
            metrics,
        };
        CompiledListener { written: written.clone(), settings: Arc::new(settings), proxy: Arc::new(proxy) }
    }

    pub(super) fn server_tls(
        &mut self,
        path: &KeyPath,
        listener: &str,
        written: &ServerTls,
        protocols: &[HttpProtocol],
    ) -> Option<Arc<rustls::ServerConfig>> {
        let files = |CertificateConfig { cert, key }: &CertificateConfig| CertificateFiles {
            cert: cert.clone(),
            key: key.clone(),
        };
        let wanted = ServerFiles {
            certificates: written.certificates.iter().map(files).collect(),
            min_version: match written.min_version {
                MinTlsVersion::Tls12 => MinVersion::Tls12,
                MinTlsVersion::Tls13 => MinVersion::Tls13,
            },
            client_auth: written.client_auth.as_ref().map(|auth| {
                let mode = match auth.mode {
                    ClientAuthModeConfig::Require => ClientAuthMode::Require,
                    ClientAuthModeConfig::Optional => ClientAuthMode::Optional,
                };
                (auth.ca.clone(), mode)
            }),
            alpn: protocols.iter().map(|protocol| protocol.alpn()).collect(),
        };
        let built = self.certificates.server(listener, &wanted);
        self.ok_or_report_all(built, |part| match part {
            Part::Certificate(index) => path.key("certificates").index(index).key("cert"),
            Part::Key(index) => path.key("certificates").index(index).key("key"),
            Part::Authorities => path.key("client_auth").key("ca"),
            Part::Whole => path.clone(),
        })
    }
}

/// Returns what the file says of addresses, ready to judge by.
pub fn address_rules(written: &config::AddressesConfig) -> Box<AddressRules> {
    Box::new(AddressRules::new(written.allow.as_deref(), written.deny.as_deref().unwrap_or_default()))
}

/// Returns the address to bind.
pub fn address(bind: &Bind) -> Address {
    match bind {
        Bind::Tcp(addr) => Address::Tcp(*addr),
        Bind::Unix(path) => Address::Unix(path.clone()),
    }
}
