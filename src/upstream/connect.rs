//! One connection to an endpoint: name, socket and TLS, under one deadline.
//!
//! `net::names`, which all connections share, resolves a name; its addresses are tried in order, each with a fair share
//! of the remaining time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use http::uri::Scheme;
use rustix::io::Errno;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout_at};

use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::base::worker::PerWorker;
use crate::net::listener::Address;
use crate::net::names::{HostLookup, LookupError, NameResolver};
use crate::net::socket::{self, ConnectOptions, SocketError, TcpOptions};
use crate::net::stream::Stream;
use crate::net::transport::Transport;
use crate::tls::client::{self, TlsConnectError};
use crate::tls::{ALPN_HTTP_2, ClientStream};
use crate::upstream::reach::{OutOfReach, Reach};

/// A connection to an endpoint.
pub type UpstreamIo = Transport<ClientStream>;

/// The most addresses of one name that are tried; a name with more needs a load balancer.
const ADDRESSES_MAX: usize = 8;

/// How to reach one endpoint.
#[derive(Clone, Debug)]
pub struct Connector {
    /// The location of the endpoint.
    pub target: ConnectTarget,
    /// TLS, if the URL says `wss` or `https`.
    pub tls: Option<Tls>,
    /// When the kernel drops an unresponsive peer.
    pub tcp: TcpOptions,
    /// The local addresses that connections come from, unless the system chooses; shared by the upstream.
    pub sources: Option<Arc<Sources>>,
    /// The allowed address ranges, if the endpoint was discovered.
    pub reach: Option<Arc<Reach>>,
    /// Which versions of HTTP it may be spoken to in.
    pub protocol: Protocol,
}

/// Which versions of HTTP a server may be spoken to in.
#[derive(Clone, Debug, Default)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 or HTTP/1.1, as TLS by this configuration decides (ALPN).
    Negotiated(Arc<ClientConfig>),
    /// HTTP/2 alone; over TLS by this configuration, if there is one.
    Http2(Option<Arc<ClientConfig>>),
}

/// A connection, by the version of HTTP that is spoken on it.
#[derive(Debug)]
pub enum Connected {
    /// HTTP/1.1.
    Http1(UpstreamIo),
    /// HTTP/2.
    Http2(UpstreamIo),
}

/// Local addresses to connect from, by family; each worker takes them in turn.
#[derive(Debug)]
pub struct Sources {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    turn: PerWorker<AtomicUsize>,
}

impl Sources {
    /// Creates the sources for `workers` workers; `None` if there are no addresses.
    pub fn new(addresses: &[IpAddr], workers: usize) -> Option<Sources> {
        let (v4, v6) = addresses.iter().copied().partition(IpAddr::is_ipv4);
        (!addresses.is_empty()).then(|| Sources { v4, v6, turn: PerWorker::new(workers, AtomicUsize::default) })
    }

    /// Returns the next source address towards `to`; `None` if none is of its family.
    fn next(&self, to: IpAddr) -> Option<IpAddr> {
        let fitting = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        // Relaxed: the turn orders nothing but itself.
        let turn = self.turn.get().fetch_add(1, Ordering::Relaxed);
        fitting.get(turn.checked_rem(fitting.len())?).copied()
    }
}

/// The location of an endpoint.
#[derive(Clone, Debug)]
pub enum ConnectTarget {
    /// A known address.
    Address(SocketAddr),
    /// A name to look up.
    Name(HostLookup, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl ConnectTarget {
    /// Returns the target of a host in a URL: an address, or a name of `names`.
    pub fn new(host: &str, port: u16, names: &NameResolver) -> ConnectTarget {
        match host.parse::<IpAddr>() {
            Ok(ip) => ConnectTarget::Address(SocketAddr::new(ip, port)),
            Err(_) => ConnectTarget::Name(names.of(host), port),
        }
    }
}

/// The TLS settings of an endpoint.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Roots, client certificate, tickets: shared by the upstream.
    pub config: Arc<ClientConfig>,
    /// The name that the endpoint's certificate must have.
    pub server_name: ServerName<'static>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name could not be resolved.
    #[error("cannot resolve {0}")]
    Resolve(String, #[source] LookupError),
    /// No source address is of the address's family.
    #[error("none of the upstream's `source_addresses` can reach {0}: they are of the other family")]
    NoSource(IpAddr),
    /// The address was discovered, and discovered endpoints may not have it.
    #[error("it is out of reach")]
    OutOfReach(#[source] OutOfReach),
    /// The socket could not be connected.
    #[error("cannot connect")]
    Connect(#[source] SocketError),
    /// No descriptors or memory are left for a socket: this machine is at fault, and no endpoint.
    #[error("this machine has no {} left", lacking(*.0))]
    Exhausted(#[source] Errno),
    /// TLS failed, verification included.
    #[error("TLS failed")]
    Tls(#[source] TlsConnectError),
    /// The deadline passed.
    #[error("connecting took too long")]
    Timeout,
    /// TLS has not agreed on HTTP/2, which alone may be spoken.
    #[error(
        "the server does not speak HTTP/2, and the upstream's `protocol` is `h2` (`auto` or `h1` would speak HTTP/1.1)"
    )]
    NotHttp2,
    /// HTTP/2 could not begin.
    #[error("the server does not speak HTTP/2 properly")]
    Http2(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A dial that several have waited for has failed.
    #[error(transparent)]
    Shared(Arc<ConnectError>),
}

impl ConnectError {
    /// The labels of all errors that are an endpoint's fault.
    pub const LABELS: [&'static str; 7] =
        ["resolve", "out_of_reach", "connect", "connect_timeout", "tls", "not_http2", "http2"];

    /// Returns the error for one of several who have waited.
    pub fn shared(error: Arc<ConnectError>) -> ConnectError {
        match &*error {
            ConnectError::Timeout => ConnectError::Timeout,
            ConnectError::Exhausted(errno) => ConnectError::Exhausted(*errno),
            _ => ConnectError::Shared(error),
        }
    }

    /// The name used in metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            ConnectError::Resolve(..) => "resolve",
            ConnectError::OutOfReach(_) => "out_of_reach",
            ConnectError::NoSource(_) | ConnectError::Connect(_) => "connect",
            ConnectError::Timeout => "connect_timeout",
            ConnectError::Tls(_) => "tls",
            ConnectError::Exhausted(_) => "exhausted",
            ConnectError::NotHttp2 => "not_http2",
            ConnectError::Http2(_) => "http2",
            ConnectError::Shared(error) => error.label(),
        }
    }

    /// Returns true if the error is not the endpoint's fault: this machine lacks resources for any connection, or for
    /// one more to this endpoint.
    pub fn is_ours(&self) -> bool {
        match self {
            ConnectError::Exhausted(_) | ConnectError::Connect(SocketError::NoPort { .. }) => true,
            ConnectError::Shared(error) => error.is_ours(),
            _ => false,
        }
    }
}

impl Connector {
    /// Reaches `target` by HTTP/1.1, with everything else as usual.
    pub fn new(target: ConnectTarget, tls: Option<Tls>) -> Connector {
        let (tcp, protocol) = (TcpOptions::default(), Protocol::Http1);
        Connector { target, tls, tcp, sources: None, reach: None, protocol }
    }

    /// Returns true if both use the same setting of TLS, read from the same files; or none.
    pub fn has_tls_of(&self, other: &Connector) -> bool {
        let config = |connector: &Connector| connector.tls.as_ref().map(|tls| Arc::as_ptr(&tls.config));
        config(self) == config(other)
    }

    /// Returns the endpoint's own Host: as in its URL, without the default port. A Unix socket is `localhost`.
    pub fn authority(&self) -> HeaderValue {
        let usual = if self.tls.is_some() { 443 } else { 80 };
        let authority = match &self.target {
            ConnectTarget::Address(address) if address.port() == usual => match address.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            },
            ConnectTarget::Address(address) => address.to_string(),
            ConnectTarget::Name(name, port) if *port == usual => name.host().to_owned(),
            ConnectTarget::Name(name, port) => format!("{}:{port}", name.host()),
            ConnectTarget::Unix(_) => "localhost".to_owned(),
        };
        HeaderValue::from_str(&authority).unwrap_or(HeaderValue::from_static("localhost"))
    }

    /// Returns true if HTTP/1.1 may be spoken.
    pub const fn may_use_http1(&self) -> bool {
        !matches!(self.protocol, Protocol::Http2(_))
    }

    /// Returns the scheme of its requests.
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }

    /// Connects by `deadline`.
    ///
    /// # Errors
    /// Returns the error of the first step that fails; of several addresses, the last one's.
    pub async fn connect(&self, deadline: Instant) -> Result<UpstreamIo, ConnectError> {
        self.connect_with(self.tcp, self.tls.as_ref().map(|tls| &tls.config), deadline).await
    }

    /// Connects by `deadline` for whichever version of HTTP may be spoken.
    ///
    /// # Errors
    /// See [`Connector::connect`]. Also if HTTP/2 alone may be spoken, and TLS has not agreed on it.
    pub async fn connect_by_protocol(&self, deadline: Instant) -> Result<Connected, ConnectError> {
        let offer = match &self.protocol {
            Protocol::Http1 => return self.connect(deadline).await.map(Connected::Http1),
            Protocol::Negotiated(offer) => Some(offer),
            Protocol::Http2(offer) => offer.as_ref(),
        };
        let io = self.connect_with(self.tcp, offer, deadline).await?;
        let has_agreed = match &io {
            Transport::Tls(stream) => stream.alpn_protocol() == Some(ALPN_HTTP_2),
            // It is known beforehand.
            Transport::Plain(_) | Transport::Multiplexed(_) => true,
        };
        match &self.protocol {
            _ if has_agreed => Ok(Connected::Http2(io)),
            Protocol::Http2(_) => Err(ConnectError::NotHttp2),
            _ => Ok(Connected::Http1(io)),
        }
    }

    /// Connects by `deadline` for a session that pings a silent server after `ping`. Where the kernel's keep-alive would
    /// begin later, it never gets its turn and is not set, which saves three calls.
    ///
    /// # Errors
    /// See [`Connector::connect`].
    pub async fn connect_pinged(&self, ping: Option<Duration>, deadline: Instant) -> Result<UpstreamIo, ConnectError> {
        let keepalive = self.tcp.keepalive.filter(|keepalive| ping.is_none_or(|ping| keepalive.idle <= ping));
        let tls = self.tls.as_ref().map(|tls| &tls.config);
        self.connect_with(TcpOptions { keepalive, ..self.tcp }, tls, deadline).await
    }

    async fn connect_with(
        &self,
        tcp: TcpOptions,
        offer: Option<&Arc<ClientConfig>>,
        deadline: Instant,
    ) -> Result<UpstreamIo, ConnectError> {
        let stream = self.socket(tcp, deadline).await?;
        let (Some(tls), Some(offer)) = (&self.tls, offer) else {
            return Ok(Transport::Plain(stream));
        };
        let handshake = Box::pin(client::connect(stream, tls.server_name.clone(), Arc::clone(offer)));
        let stream =
            timeout_at(deadline, handshake).await.map_err(|_| ConnectError::Timeout)?.map_err(ConnectError::Tls)?;
        Ok(Transport::Tls(Box::new(stream)))
    }

    async fn socket(&self, tcp: TcpOptions, deadline: Instant) -> Result<Stream, ConnectError> {
        match &self.target {
            ConnectTarget::Address(address) => self.tcp(*address, tcp, deadline).await,
            ConnectTarget::Unix(path) => {
                self.connect_to(&Address::Unix(path.clone()), &ConnectOptions::default(), deadline).await
            }
            ConnectTarget::Name(name, port) => {
                let found = name.addresses(deadline).await.ok_or(ConnectError::Timeout)?;
                let (addresses, turn) = found.map_err(|trouble| unresolved(name.host(), trouble))?;
                let addresses = addresses.in_turn(turn).take(ADDRESSES_MAX);
                let mut left = addresses.len();
                let mut failed = ConnectError::Timeout;
                for mut address in addresses {
                    address.set_port(*port);
                    let time = deadline.saturating_duration_since(Instant::now());
                    let share = time / u32::try_from(left).unwrap_or(1);
                    left -= 1;
                    match self.tcp(address, tcp, Instant::now() + share).await {
                        Ok(stream) => return Ok(stream),
                        Err(error) => failed = error,
                    }
                }
                Err(failed)
            }
        }
    }

    async fn tcp(&self, address: SocketAddr, tcp: TcpOptions, deadline: Instant) -> Result<Stream, ConnectError> {
        let mut options = ConnectOptions { tcp, source: None };
        if let Some(sources) = &self.sources {
            let to = address.ip();
            options.source = Some(sources.next(to).ok_or(ConnectError::NoSource(to))?);
        }
        self.connect_to(&Address::Tcp(address), &options, deadline).await
    }

    async fn connect_to(
        &self,
        address: &Address,
        options: &ConnectOptions,
        deadline: Instant,
    ) -> Result<Stream, ConnectError> {
        self.reach.as_ref().map_or(Ok(()), |reach| reach.judge(address)).map_err(ConnectError::OutOfReach)?;
        connect_by(address, options, deadline).await
    }
}

async fn connect_by(address: &Address, options: &ConnectOptions, deadline: Instant) -> Result<Stream, ConnectError> {
    timeout_at(deadline, socket::connect(address, options)).await.map_err(|_| ConnectError::Timeout)?.map_err(|error| {
        match &error {
            SocketError::Io(cause) => exhausted(cause).unwrap_or(ConnectError::Connect(error)),
            _ => ConnectError::Connect(error),
        }
    })
}

fn unresolved(host: &str, trouble: LookupError) -> ConnectError {
    let lacking = match trouble {
        LookupError::Exhausted(errno) => exhausted(&io::Error::from_raw_os_error(errno)),
        _ => None,
    };
    lacking.unwrap_or_else(|| ConnectError::Resolve(host.to_owned(), trouble))
}

const fn lacking(errno: Errno) -> &'static str {
    match errno {
        Errno::MFILE | Errno::NFILE => "file descriptors",
        _ => "memory",
    }
}

/// How long a lack of resources is not logged again: otherwise each request would log it.
const NEWS: Duration = Duration::from_secs(60);

/// Returns the error for a lack of resources, if `error` is one. Logs it, but not each time.
fn exhausted(error: &io::Error) -> Option<ConnectError> {
    static SAID: AtomicU64 = AtomicU64::new(0);
    let errno = Errno::from_io_error(error)?;
    if !matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) {
        return None;
    }
    let now = clock::coarse();
    let said = SAID.load(Ordering::Relaxed);
    let is_news = said == 0 || now.since(MonotonicTime::from_micros(said)) >= NEWS;
    if is_news && SAID.compare_exchange(said, now.as_micros(), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        tracing::error!(
            error = %errno,
            "cannot connect to endpoints, clients get 503 (raise the limit of open files: ulimit -n, or LimitNOFILE= in systemd)"
        );
    }
    Some(ConnectError::Exhausted(errno))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::pin::Pin;

    use tokio::net::TcpListener;

    use super::*;
    use crate::net::names::LookupAnswer;

    #[test]
    fn what_this_machine_lacks_is_no_fault_of_an_endpoint() {
        let of = |errno: Errno| exhausted(&errno.into()).map(|error| (error.is_ours(), error.to_string()));
        assert_eq!(of(Errno::MFILE), Some((true, "this machine has no file descriptors left".into())));
        assert_eq!(of(Errno::NOBUFS), Some((true, "this machine has no memory left".into())));
        assert_eq!(of(Errno::CONNREFUSED), None);
        assert!(unresolved("a.test", LookupError::Exhausted(Errno::MFILE.raw_os_error())).is_ours());
        let refused = unresolved("nowhere.test", LookupError::NotFound("nobody knows it".into()));
        assert!(!refused.is_ours() && refused.label() == "resolve");
    }

    #[tokio::test]
    async fn the_next_address_of_a_name_is_tried_when_one_does_not_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Two addresses without a listener, one of each family, and one with a listener.
        let all = ["[::1]:0", "127.0.0.2:0", "127.0.0.1:0"].map(|address| address.parse().unwrap());
        let lookup = move |_| -> Pin<Box<dyn Future<Output = _> + Send>> {
            Box::pin(async move { Ok(LookupAnswer { addresses: all.into(), alike: 2, ttl: Duration::from_secs(60) }) })
        };
        let names = NameResolver::with_lookup(Arc::new(lookup), &prometheus::Registry::new()).unwrap();
        let connector = Connector::new(ConnectTarget::new("chat.test", port, &names), None);
        assert_eq!(connector.authority(), format!("chat.test:{port}"));
        for _ in 0..3 {
            let connected = connector.connect(Instant::now() + Duration::from_secs(20));
            let (connected, accepted) = tokio::join!(connected, listener.accept());
            assert!(connected.is_ok() && accepted.is_ok());
        }
        drop(listener);
        let refused = connector.connect(Instant::now() + Duration::from_secs(20)).await;
        assert_eq!(refused.map_err(|error| error.label()).err(), Some("connect"));
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_and_one_of_which_nobody_hears_are_told_apart() {
        let lookup = |name: String| -> Pin<Box<dyn Future<Output = _> + Send>> {
            Box::pin(async move {
                match name == "gone.test" {
                    true => Err(LookupError::NotFound("gone".into())),
                    false => std::future::pending().await,
                }
            })
        };
        let names = NameResolver::with_lookup(Arc::new(lookup), &prometheus::Registry::new()).unwrap();
        let connect = async |host: &str, millis| {
            let connector = Connector::new(ConnectTarget::new(host, 1, &names), None);
            connector.connect(Instant::now() + Duration::from_millis(millis)).await.map_err(|error| error.label()).err()
        };
        assert_eq!(connect("gone.test", 20_000).await, Some("resolve"));
        assert_eq!(connect("slow.test", 10).await, Some("connect_timeout"));
    }

    #[test]
    fn sources_take_turns_within_their_family() {
        let parsed = |text: &str| text.parse::<IpAddr>().ok();
        let addresses: Vec<_> = ["10.0.0.1", "fd00::1", "10.0.0.2"].into_iter().filter_map(parsed).collect();
        let next = |sources: &Option<Sources>, to: &str| sources.as_ref()?.next(parsed(to)?).map(|ip| ip.to_string());
        let both = Sources::new(&addresses, 1);
        let turns: Vec<_> = (0..3).filter_map(|_| next(&both, "10.9.9.9")).collect();
        assert_eq!(turns, ["10.0.0.1", "10.0.0.2", "10.0.0.1"]);
        assert_eq!(next(&both, "fd00::9").as_deref(), Some("fd00::1"));
        assert_eq!(next(&Sources::new(&addresses[..1], 1), "fd00::9"), None);
        assert!(Sources::new(&[], 1).is_none());
    }
}
