//! Socket options and connecting.
//!
//! Every option costs a system call on each connection, so only necessary ones are set: TCP_NODELAY always (waiting for
//! more bytes only adds delay in a proxy), the others on request. Linux copies the options of a listening socket to the
//! sockets that it accepts, so each is set once there; see [`listener`](super::listener).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::address::Address;
use super::descriptors::for_traffic;
use super::stream::Stream;
use crate::config::TcpConfig;

/// How the kernel detects a peer that has vanished: after `idle` without traffic it sends probes, `interval` apart, as
/// many as the system is set to (net.ipv4.tcp_keepalive_probes, 9). That number is kept, since each option costs a call
/// on each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepaliveTimes {
    /// How long a connection is silent before the first probe.
    pub idle: Duration,
    /// The time between two probes.
    pub interval: Duration,
}

impl KeepaliveTimes {
    /// Begins after `idle`, in whole seconds; the 9 probes, some of which may be lost, take about half of it longer, at
    /// most a minute.
    pub fn after(idle: Duration) -> KeepaliveTimes {
        let interval = Duration::from_secs((idle.as_secs() / 16).clamp(1, 7));
        KeepaliveTimes { idle: Duration::from_secs(idle.as_secs().max(1)), interval }
    }

    fn set(self, socket: &SockRef<'_>) -> io::Result<()> {
        let params = TcpKeepalive::new().with_time(self.idle).with_interval(self.interval);
        socket.set_tcp_keepalive(&params)
    }
}

/// How the kernel detects that a peer is gone; the same on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOptions {
    /// TCP keep-alive.
    pub keepalive: Option<KeepaliveTimes>,
    /// How long sent bytes may stay unacknowledged before the kernel drops the connection (TCP_USER_TIMEOUT); replaces
    /// the number of keep-alive probes. A peer that answers but accepts nothing is dropped, too: the kernel sees no
    /// difference (tcp_probe_timer). Linux only; no effect elsewhere.
    pub user_timeout: Option<Duration>,
}

impl Default for TcpOptions {
    fn default() -> TcpOptions {
        TcpOptions::from(&TcpConfig::default())
    }
}

impl From<&TcpConfig> for TcpOptions {
    fn from(written: &TcpConfig) -> TcpOptions {
        TcpOptions {
            keepalive: written.keepalive.duration().map(KeepaliveTimes::after),
            user_timeout: written.user_timeout.duration(),
        }
    }
}

impl TcpOptions {
    /// Sets the options on a socket that has none.
    fn set(self, socket: &SockRef<'_>) -> io::Result<()> {
        self.keepalive.map_or(Ok(()), |keepalive| keepalive.set(socket))?;
        #[cfg(target_os = "linux")]
        if self.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.user_timeout)?;
        }
        Ok(())
    }

    /// Sets the options in place of others.
    pub(super) fn replace(self, socket: &SockRef<'_>) -> io::Result<()> {
        if self.keepalive.is_none() {
            socket.set_keepalive(false)?;
        }
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(None)?;
        self.set(socket)
    }
}

/// Options of a socket to an upstream, besides TCP_NODELAY.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// When the kernel drops an unresponsive peer.
    pub tcp: TcpOptions,
    /// The local address to connect from; it must be of the family of the address to connect to.
    pub source: Option<IpAddr>,
}

/// Why there is no connected socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The source address cannot be used.
    #[error("cannot connect from {0}: is it an address of this machine?")]
    Source(IpAddr, #[source] io::Error),
    /// Every local port is in use for this destination.
    #[error(
        "every local port towards {to} is taken: give the upstream more `source_addresses`, or widen \
         net.ipv4.ip_local_port_range"
    )]
    NoPort {
        /// The destination.
        to: SocketAddr,
    },
    /// Any other error of the system: refused, unreachable, no descriptors left.
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
        Address::Unix(path) => Ok(Stream::Unix(for_traffic(UnixStream::connect(path).await?)?)),
    }
}

async fn connect_tcp(addr: SocketAddr, options: &ConnectOptions) -> Result<Stream, SocketError> {
    let socket = for_traffic(tcp_socket(addr)?)?;
    socket.set_tcp_nodelay(true)?;
    options.tcp.set(&SockRef::from(&socket))?;
    if let Some(source) = options.source {
        bind_address(&socket, source).map_err(|error| SocketError::Source(source, error))?;
    }
    match establish(socket, addr).await {
        Ok(stream) => Ok(Stream::Tcp(stream)),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Err(SocketError::NoPort { to: addr }),
        Err(error) => Err(error.into()),
    }
}

/// Creates a socket that does not block.
fn tcp_socket(addr: SocketAddr) -> io::Result<Socket> {
    #[cfg(target_os = "linux")]
    return Socket::new_raw(Domain::for_address(addr), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP));
    #[cfg(not(target_os = "linux"))]
    {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// Connects. Unlike tokio's own, it asks for the socket's error only if the event says that there is one, which saves a
/// call.
async fn establish(socket: Socket, addr: SocketAddr) -> io::Result<TcpStream> {
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    if stream.ready(Interest::WRITABLE).await?.is_write_closed()
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    Ok(stream)
}

/// Binds the address and leaves the port to `connect`: the kernel then needs a port that is free for this destination,
/// not one that is free for all.
fn bind_address(socket: &Socket, source: IpAddr) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(source, 0).into())
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
        let socket = SockRef::from(&plain);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(120));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));

        let none = TcpOptions { keepalive: None, user_timeout: None };
        let options = ConnectOptions { tcp: none, source: None };
        let Stream::Tcp(bare) = connect(&address, &options).await.unwrap() else { panic!("TCP again") };
        assert!(!SockRef::from(&bare).keepalive().unwrap());

        let keepalive = Some(KeepaliveTimes::after(Duration::from_secs(7)));
        let tcp = TcpOptions { keepalive, user_timeout: Some(Duration::from_secs(9)) };
        let options = ConnectOptions { tcp, source: None };
        let Stream::Tcp(tuned) = connect(&address, &options).await.unwrap() else { panic!("TCP again") };
        let socket = SockRef::from(&tuned);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(9)));
        none.replace(&socket).unwrap();
        assert!(!socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }

    #[test]
    fn questions_are_asked_in_whole_seconds_and_not_too_seldom() {
        for (idle, interval) in [(1, 1), (7, 1), (60, 3), (120, 7), (7200, 7)] {
            let keepalive = KeepaliveTimes::after(Duration::from_secs(idle));
            assert_eq!((keepalive.idle.as_secs(), keepalive.interval.as_secs()), (idle, interval));
        }
        assert_eq!(KeepaliveTimes::after(Duration::from_millis(1)).idle, Duration::from_secs(1));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test(flavor = "current_thread")]
    async fn one_who_takes_nothing_is_given_up_after_the_user_timeout() {
        use tokio::io::AsyncReadExt;

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let tcp = TcpOptions { keepalive: None, user_timeout: Some(Duration::from_secs(1)) };
        let options = ConnectOptions { tcp, source: None };
        let Stream::Tcp(mut stream) = connect(&address, &options).await.unwrap() else { panic!("TCP") };
        let (_deaf, _) = listener.accept().unwrap();
        // Until both buffers are full.
        let chunk = [0; 1 << 16];
        loop {
            stream.writable().await.unwrap();
            match stream.try_write(&chunk) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let full = tokio::time::timeout(Duration::from_millis(200), stream.writable()).await.is_err();
                    if full {
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut [0; 1])).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_refused_connection_is_an_error() {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = connect(&Address::Tcp(address), &ConnectOptions::default()).await.unwrap_err();
        let SocketError::Io(error) = error else { panic!("{error}") };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
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
        let socket = tcp_socket(([127, 0, 0, 1], 9).into()).unwrap();
        bind_address(&socket, [127, 0, 0, 2].into()).unwrap();
        assert_eq!(socket.local_addr().unwrap().as_socket(), Some(([127, 0, 0, 2], 0).into()));
    }
}
