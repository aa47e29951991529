//! Makes usable endpoints from configured or discovered ones.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::connect::{ConnectTarget, Connector, Protocol, Sources, Tls};
use super::endpoint::Endpoint;
use super::endpoint_state::EndpointStates;
use super::metrics::Metrics;
use super::pool::Pool;
use super::reach::Reach;
use super::streams::Streams;
use crate::balance::hash;
use crate::config::{self, EndpointUrl, UpstreamProtocol};
use crate::net::names::NameResolver;
use crate::net::socket::TcpOptions;
use crate::tls::client::{self, server_name};
use crate::tls::{ALPN_HTTP_1_1, ALPN_HTTP_2, TlsError};

/// The settings that all endpoints of an upstream share.
#[derive(Debug)]
pub struct Maker {
    /// Name of the upstream.
    pub upstream: String,
    /// TLS towards `wss` and `https`.
    pub tls: Option<Arc<ClientConfig>>,
    /// Which versions of HTTP they may be spoken to in.
    pub protocol: UpstreamProtocol,
    /// The name that their certificates must have; `None` for the host of each.
    pub server_name: Option<String>,
    /// The limit for making one connection of the pool.
    pub connect_timeout: Duration,
    /// The number of worker threads.
    pub workers: usize,
    /// The metric families.
    pub families: Metrics,
    /// The labels of all their failures.
    pub reasons: Arc<[&'static str]>,
    /// When the kernel drops an unresponsive peer.
    pub tcp: TcpOptions,
    /// The local addresses that connections come from.
    pub sources: Option<Arc<Sources>>,
    /// The addresses that discovered endpoints may have.
    pub reach: Option<Arc<Reach>>,
    /// The state of each, which outlives configurations.
    pub states: EndpointStates,
    /// Resolves their names.
    pub names: NameResolver,
}

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The name for TLS is invalid.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The upstream has no TLS settings for the URL.
    #[error("the upstream has no TLS settings for {0}")]
    NoTls(String),
}

impl Maker {
    /// Makes an endpoint. Keeps the state of an endpoint of this name.
    ///
    /// # Errors
    /// Fails if it cannot be used as written.
    pub fn endpoint(&self, written: &config::EndpointConfig) -> Result<Endpoint, MakeError> {
        let label = written.url.to_string();
        let tls = match server_name_of(&written.url, self.server_name.as_deref())? {
            None => None,
            Some(server_name) => {
                let config = self.tls.as_ref().ok_or_else(|| MakeError::NoTls(label.clone()))?;
                Some(Tls { config: Arc::clone(config), server_name })
            }
        };
        let target = match &written.url {
            EndpointUrl::Tcp { host, port, .. } => ConnectTarget::new(host, *port, &self.names),
            EndpointUrl::Unix(path) => ConnectTarget::Unix(path.clone()),
        };
        let protocol = self.protocol(tls.as_ref());
        let connector = Connector {
            target,
            tls,
            tcp: self.tcp,
            sources: self.sources.clone(),
            reach: self.reach.clone(),
            protocol,
        };
        let http2 = || Arc::new(self.families.http2(&self.upstream));
        let metrics = || self.families.endpoint(&self.upstream, &label, &self.reasons);
        Ok(Endpoint {
            identity: hash::of(label.as_bytes()),
            weight: if written.drain.is_some() { 0 } else { u32::from(written.weight) },
            priority: written.priority,
            zone: written.zone.clone(),
            sessions_max: written.max_connections.unwrap_or(u32::MAX),
            pool: Pool::new(connector.clone(), self.connect_timeout, self.workers),
            streams: Streams::new(&connector, self.connect_timeout, self.workers, http2),
            connector,
            state: self.states.of(&self.upstream, &label, metrics),
            name: label.into(),
            written: written.clone(),
        })
    }
}

impl Maker {
    fn protocol(&self, tls: Option<&Tls>) -> Protocol {
        let offering = |protocols: &[&[u8]]| tls.map(|tls| client::with_protocols(&tls.config, protocols));
        match self.protocol {
            UpstreamProtocol::H1 => Protocol::Http1,
            UpstreamProtocol::H2 => Protocol::Http2(offering(&[ALPN_HTTP_2])),
            UpstreamProtocol::Auto => {
                offering(&[ALPN_HTTP_2, ALPN_HTTP_1_1]).map_or(Protocol::Http1, Protocol::Negotiated)
            }
        }
    }
}

/// Returns the name that the certificate of an endpoint must have, if it uses TLS: `settled` for all, or its own host.
///
/// # Errors
/// Fails if that is not a valid name.
pub fn server_name_of(url: &EndpointUrl, settled: Option<&str>) -> Result<Option<ServerName<'static>>, TlsError> {
    let host = match url {
        url if !url.is_tls() => return Ok(None),
        EndpointUrl::Tcp { host, .. } => host.as_str(),
        EndpointUrl::Unix(_) => "localhost",
    };
    server_name(settled.unwrap_or(host)).map(Some)
}
