//! One connection to an endpoint: name, socket, TLS, all under one deadline.
//!
//! A name is resolved for each connection by the system's resolver, so that `/etc/hosts` and short-lived DNS answers are
//! honoured; its addresses are tried in the order given, each with a fair share of the time that is left.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout_at};

use crate::net::listener::Address;
use crate::net::socket::{self, ConnectOptions};
use crate::net::stream::Stream;
use crate::net::transport::Transport;
use crate::tls::ClientStream;
use crate::tls::client::{self, TlsConnectError};

/// A connection to an endpoint.
pub type UpstreamIo = Transport<ClientStream>;

/// Addresses of one name that are tried; a name with more is a balancer's business, not ours.
const ADDRESSES_MAX: usize = 8;

/// How to reach one endpoint.
#[derive(Clone, Debug)]
pub struct Connector {
    /// Where it is.
    pub target: Target,
    /// TLS, where the URL says `wss` or `https`.
    pub tls: Option<Tls>,
}

/// Where an endpoint is.
#[derive(Clone, Debug)]
pub enum Target {
    /// A known address.
    Address(SocketAddr),
    /// A name to resolve.
    Name(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Target {
    /// A host as written in a URL, which may be an address.
    pub fn new(host: &str, port: u16) -> Target {
        match host.parse::<IpAddr>() {
            Ok(ip) => Target::Address(SocketAddr::new(ip, port)),
            Err(_) => Target::Name(host.to_owned(), port),
        }
    }
}

/// TLS towards an endpoint.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Roots, client certificate, tickets: shared by the upstream.
    pub config: Arc<ClientConfig>,
    /// The name the endpoint's certificate must be for.
    pub server_name: ServerName<'static>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name could not be resolved.
    #[error("cannot resolve {0}")]
    Resolve(String, #[source] io::Error),
    /// The name has no address.
    #[error("{0} has no address")]
    NoAddress(String),
    /// The socket could not be connected.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// TLS failed, verification included.
    #[error("TLS failed")]
    Tls(#[source] TlsConnectError),
    /// It took too long.
    #[error("connecting took too long")]
    Timeout,
}

impl ConnectError {
    /// All names used in metrics and logs.
    pub const LABELS: [&'static str; 4] = ["resolve", "connect", "connect_timeout", "tls"];

    /// The name used in metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            ConnectError::Resolve(..) | ConnectError::NoAddress(_) => "resolve",
            ConnectError::Connect(_) => "connect",
            ConnectError::Timeout => "connect_timeout",
            ConnectError::Tls(_) => "tls",
        }
    }
}

impl Connector {
    /// Connects by `deadline`.
    ///
    /// # Errors
    /// The first step that fails; of several addresses, the last one's error.
    pub async fn connect(&self, deadline: Instant) -> Result<UpstreamIo, ConnectError> {
        let stream = self.socket(deadline).await?;
        let Some(tls) = &self.tls else {
            return Ok(Transport::Plain(stream));
        };
        let handshake = Box::pin(client::connect(stream, tls.server_name.clone(), Arc::clone(&tls.config)));
        let stream =
            timeout_at(deadline, handshake).await.map_err(|_| ConnectError::Timeout)?.map_err(ConnectError::Tls)?;
        Ok(Transport::Tls(Box::new(stream)))
    }

    async fn socket(&self, deadline: Instant) -> Result<Stream, ConnectError> {
        match &self.target {
            Target::Address(address) => one(&Address::Tcp(*address), deadline).await,
            Target::Unix(path) => one(&Address::Unix(path.clone()), deadline).await,
            Target::Name(host, port) => {
                // getaddrinfo on a thread of the runtime's own.
                let resolved = Box::pin(timeout_at(deadline, lookup_host((host.as_str(), *port))));
                let addresses: Vec<_> = resolved
                    .await
                    .map_err(|_| ConnectError::Timeout)?
                    .map_err(|error| ConnectError::Resolve(host.clone(), error))?
                    .take(ADDRESSES_MAX)
                    .collect();
                let mut failed = ConnectError::NoAddress(host.clone());
                for (tried, address) in addresses.iter().enumerate() {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let share = left / u32::try_from(addresses.len() - tried).unwrap_or(1);
                    match one(&Address::Tcp(*address), Instant::now() + share).await {
                        Ok(stream) => return Ok(stream),
                        Err(error) => failed = error,
                    }
                }
                Err(failed)
            }
        }
    }
}

async fn one(address: &Address, deadline: Instant) -> Result<Stream, ConnectError> {
    timeout_at(deadline, socket::connect(address, &ConnectOptions::default()))
        .await
        .map_err(|_| ConnectError::Timeout)?
        .map_err(ConnectError::Connect)
}
