//! Options of sockets, and connecting.
//!
//! Every option costs a system call on each connection, so only what is wanted is set: TCP_NODELAY always (a proxy that
//! waits for more bytes only adds delay), the rest when asked for. A listening socket passes its options on to what it
//! accepts (Linux copies them), so there each is set once; see [`listener`](super::listener).

use std::io;
use std::net::SocketAddr;
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
}

/// Connects to `address`. Has no deadline of its own; dropping the future closes the socket.
///
/// # Errors
/// What the system says: refused, unreachable, no descriptors left.
pub async fn connect(address: &Address, options: &ConnectOptions) -> io::Result<Stream> {
    match address {
        Address::Tcp(addr) => connect_tcp(*addr, options).await,
        Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
    }
}

async fn connect_tcp(addr: SocketAddr, options: &ConnectOptions) -> io::Result<Stream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if let Some(keepalive) = options.keepalive {
        keepalive.set(&SockRef::from(&socket))?;
    }
    #[cfg(target_os = "linux")]
    if options.user_timeout.is_some() {
        SockRef::from(&socket).set_tcp_user_timeout(options.user_timeout)?;
    }
    Ok(Stream::Tcp(socket.connect(addr).await?))
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
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
