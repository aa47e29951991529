//! Compiles discovery: the task that finds an upstream's endpoints, and how its lists are put in force.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use super::Compiler;
use crate::base::clock;
use crate::config::{self, Discover, EndpointUrl, EtcdSource, KeyPath, SourceRef};
#[cfg(feature = "dns")]
use crate::discovery::dns;
use crate::discovery::{Discovery, EndpointSink, etcd, file};
use crate::net::listener::Address;
use crate::tls::client::server_name;
use crate::upstream::Upstream;
use crate::upstream::connect::{ConnectTarget, Connector, Tls};
use crate::upstream::reach::Reach;

impl Compiler<'_> {
    #[cfg(not(feature = "dns"))]
    pub(super) fn no_dns(&mut self, path: &KeyPath) {
        let message = "this wsluice was built without DNS (cargo feature `dns`)";
        self.report(&path.key("dns"), message);
    }

    pub(super) fn discovery(
        &mut self,
        path: &KeyPath,
        discover: &Discover,
        upstream: &Arc<Upstream>,
        [tls, discovery_tls]: &[Option<Arc<rustls::ClientConfig>>; 2],
        reach: Option<Arc<Reach>>,
    ) -> Option<Discovery> {
        let (name, has_tls) = (upstream.name.as_str(), tls.is_some());
        let teller = discover.source()?;
        let (provider, allow_empty) = match teller {
            SourceRef::File(source) => ("file", source.allow_empty),
            SourceRef::Dns(source) => ("dns", source.allow_empty),
            SourceRef::Etcd(source) => ("etcd", source.allow_empty),
        };
        let metrics = self.context.families.discovery.upstream(name, provider);
        let upstream = Arc::clone(upstream);
        let apply =
            move |endpoints: &[config::EndpointConfig]| replace(&upstream, endpoints, has_tls, reach.as_deref());
        let (outlet, first) = EndpointSink::new(name, allow_empty, metrics, Box::new(apply));
        let task: Pin<Box<dyn Future<Output = ()> + Send>> = match teller {
            SourceRef::File(source) => {
                Box::pin(file::FileWatch { path: source.path.clone(), scheme: source.scheme }.run(outlet))
            }
            #[cfg(feature = "dns")]
            SourceRef::Dns(source) => Box::pin(
                dns::Dns {
                    name: source.name.clone(),
                    port: source.port,
                    scheme: source.scheme,
                    family: source.family,
                    server: source.server,
                    every: source.every.duration(),
                }
                .run(outlet),
            ),
            #[cfg(not(feature = "dns"))]
            SourceRef::Dns(_) => {
                self.no_dns(path);
                return None;
            }
            SourceRef::Etcd(source) => {
                Box::pin(self.etcd(&path.key("etcd"), source, discovery_tls.as_ref())?.run(outlet))
            }
        };
        Some(Discovery { upstream: name.to_owned(), task, first })
    }

    pub(super) fn etcd(
        &mut self,
        path: &KeyPath,
        written: &EtcdSource,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> Option<etcd::Etcd> {
        let mut servers = vec![];
        for (index, url) in written.servers.iter().enumerate() {
            let (target, host, authority) = match url {
                EndpointUrl::Tcp { host, port, .. } => {
                    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                    (
                        ConnectTarget::new(host, *port, &self.context.families.names),
                        host.as_str(),
                        format!("{bracketed}:{port}"),
                    )
                }
                EndpointUrl::Unix(path) => (ConnectTarget::Unix(path.clone()), "localhost", "localhost".to_owned()),
            };
            let tls = match tls.filter(|_| url.is_tls()) {
                // The mistake has been reported.
                None if url.is_tls() => return None,
                None => None,
                Some(config) => {
                    let name = written.tls.as_ref().and_then(|tls| tls.server_name.as_deref()).unwrap_or(host);
                    let server_name = self.ok_or_report(&path.key("servers").index(index), server_name(name))?;
                    Some(Tls { config: Arc::clone(config), server_name })
                }
            };
            servers.push(etcd::EtcdMember { authority, connector: Connector::new(target, tls) });
        }
        let login = written.user.clone().zip(written.password.as_ref());
        let login = login.map(|(user, password)| etcd::Login { user, password: password.reveal().to_owned() });
        Some(etcd::Etcd { servers, prefix: written.prefix.clone(), login })
    }
}

/// Puts a discovered list in force. Returns the endpoints that cannot be used, with the reason.
fn replace(
    upstream: &Upstream,
    endpoints: &[config::EndpointConfig],
    has_tls: bool,
    reach: Option<&Reach>,
) -> Result<Vec<String>, String> {
    let mut reachable = Vec::with_capacity(endpoints.len());
    let mut refused = vec![];
    for endpoint in endpoints {
        let place = match &endpoint.url {
            // A name is checked once it is resolved.
            EndpointUrl::Tcp { host, port, .. } => {
                host.parse::<IpAddr>().ok().map(|ip| Address::Tcp(SocketAddr::new(ip, *port)))
            }
            EndpointUrl::Unix(path) => Some(Address::Unix(path.clone())),
        };
        match reach.zip(place).map_or(Ok(()), |(reach, place)| reach.judge(&place)) {
            Ok(()) => reachable.push(endpoint.clone()),
            Err(why) => refused.push(format!("{}: {why}", endpoint.url)),
        }
    }
    if let (true, Some(first)) = (reachable.is_empty(), refused.first()) {
        return Err(format!("none of the endpoints may be used; the first one: {first}"));
    }
    let (usable, unusable): (Vec<_>, Vec<_>) =
        reachable.into_iter().partition(|endpoint| has_tls || !endpoint.url.is_tls());
    if usable.is_empty() && !unusable.is_empty() {
        return Err("all endpoints need TLS, and there is no authority to trust (see `tls` of the upstream)".to_owned());
    }
    let change = upstream.replace(&usable, clock::now());
    let no_tls =
        unusable.iter().map(|endpoint| format!("{} needs TLS, and there is no authority to trust", endpoint.url));
    Ok(refused.into_iter().chain(no_tls).chain(change.refused.iter().map(ToString::to_string)).collect())
}
