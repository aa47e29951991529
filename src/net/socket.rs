//! Options of sockets, and connecting.
//!
//! Every option costs a system call on each connection, so only what is wanted is set: TCP_NODELAY always (a proxy that
//! waits for more bytes only adds delay), the rest when asked for. A listening socket passes its options on to what it
//! accepts (Linux copies them), so there each is set once; see [`listener`](super::listener).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, UnixStream};

use super::address::Address;
use super::stream::Stream;

/// How the kernel shall notice that a silent peer has vanished: after `idle` it asks `probes` times, `interval` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// How long a connection is silent before the first question.
    pub idle: Duration,
    /// Between two questions.
    pub interval: Duration,
    /// How many stay unanswered before the connection is given up.
    pub probes: u32,
}

impl Keepalive {
    /// For what we accept: a client that vanished without a FIN is let go after three minutes, even on a route without
    /// pings of our own, and a sleeping phone is not woken more often than every two.
    pub const ACCEPTED: Keepalive =
        Keepalive { idle: Duration::from_secs(120), interval: Duration::from_secs(15), probes: 4 };

    pub(super) fn set(self, socket: &SockRef<'_>) -> io::Result<()> {
        let params = TcpKeepalive::new().with_time(self.idle).with_interval(self.interval).with_retries(self.probes);
        socket.set_tcp_keepalive(&params)
    }
}

/// What a socket to an upstream gets besides TCP_NODELAY. By default nothing: WebSocket pings find a dead peer, and idle
/// HTTP connections are closed by their pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// TCP keep-alive.
    pub keepalive: Option<Keepalive>,
    /// How long sent bytes may stay unacknowledged before the connection is given up (TCP_USER_TIMEOUT). Linux only;
    /// nothing elsewhere.
    pub user_timeout: Option<Duration>,
    /// The address of ours to connect from; it must be of the family of the address to connect to.
    pub source: Option<IpAddr>,
}

/// Why there is no connected socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The address to connect from cannot be taken.
    #[error("cannot connect from {0}: is it an address of this machine?")]
    Source(IpAddr, #[source] io::Error),
    /// Each port that connections are made from leads to the same place already.
    #[error(
        "every local port towards {to} is taken: give the upstream more `source_addresses`, or widen \
         net.ipv4.ip_local_port_range"
    )]
    NoPort {
        /// Where.
        to: SocketAddr,
    },
    /// Whatever else the system says: refused, unreachable, no descriptors left.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Connects to `address`. Has no deadline of its own; dropping the future closes the socket.
///
/// # Errors
/// See [`SocketError`].
pub async fn connect(address: &Address, options: &ConnectOptions) -> Result<Stream, SocketError> {
    match address {
        Address::Tcp(addr) => connect_tcp(*addr, options).await,
        Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
    }
}

async fn connect_tcp(addr: SocketAddr, options: &ConnectOptions) -> Result<Stream, SocketError> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if let Some(keepalive) = options.keepalive {
        keepalive.set(&SockRef::from(&socket))?;
    }
    #[cfg(target_os = "linux")]
    if options.user_timeout.is_some() {
        SockRef::from(&socket).set_tcp_user_timeout(options.user_timeout)?;
    }
    if let Some(source) = options.source {
        bind_address(&socket, source).map_err(|error| SocketError::Source(source, error))?;
    }
    match socket.connect(addr).await {
        Ok(stream) => Ok(Stream::Tcp(stream)),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Err(SocketError::NoPort { to: addr }),
        Err(error) => Err(error.into()),
    }
}

/// Chooses the address and leaves the port to `connect`: so the kernel looks for one that is free towards that place, and
/// not for one that nobody uses at all.
fn bind_address(socket: &TcpSocket, source: IpAddr) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(SocketAddr::new(source, 0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_connected_socket_has_what_was_asked_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let plain = connect(&address, &ConnectOptions::default()).await.unwrap();
        let Stream::Tcp(plain) = plain else { panic!("a TCP address gives a TCP socket") };
        assert!(plain.nodelay().unwrap());
        assert!(!SockRef::from(&plain).keepalive().unwrap());

        let options = ConnectOptions {
            keepalive: Some(Keepalive { idle: Duration::from_secs(7), ..Keepalive::ACCEPTED }),
            user_timeout: Some(Duration::from_secs(9)),
            source: None,
        };
        let Stream::Tcp(tuned) = connect(&address, &options).await.unwrap() else { panic!("TCP again") };
        let socket = SockRef::from(&tuned);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(9)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nobody_there_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Unix(directory.path().join("nobody.sock"));
        let error = connect(&address, &ConnectOptions::default()).await.unwrap_err();
        let SocketError::Io(error) = error else { panic!("{error}") };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_address_of_somebody_else_is_named() {
        let address = Address::Tcp(([127, 0, 0, 1], 9).into());
        // TEST-NET-1 (RFC 5737).
        let options = ConnectOptions { source: Some([192, 0, 2, 1].into()), ..ConnectOptions::default() };
        let error = connect(&address, &options).await.unwrap_err();
        assert!(matches!(error, SocketError::Source(..)), "{error:?}");
        assert!(error.to_string().contains("192.0.2.1"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test(flavor = "current_thread")]
    async fn the_port_is_chosen_by_connect() {
        let socket = TcpSocket::new_v4().unwrap();
        bind_address(&socket, [127, 0, 0, 2].into()).unwrap();
        assert_eq!(socket.local_addr().unwrap(), ([127, 0, 0, 2], 0).into());
    }
}
