//! hickory's resolver with sockets, tasks and timers of tokio.
//!
//! hickory's own feature `tokio` does the same, but turns on tokio's multi-threaded scheduler for the whole program.
//! Nothing uses it, and it makes everything larger: each socket and each timer then holds a scheduler handle of either
//! kind, 8 bytes more, and a connection's task grows into the next allocation size, 768 bytes instead of 640.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_io::{AsyncRead, AsyncWrite};
use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::{DnsTcpStream, DnsUdpSocket, RuntimeProvider, Spawn, Time};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// The longest time to connect if hickory sets none; the whole query has less.
const CONNECT: Duration = Duration::from_secs(2);

/// How long to wait for the answer to one packet; it is sent twice. glibc waits 5 s, but a load balancer must know
/// earlier.
const ANSWER: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// Creates a resolver that asks `server`; without one, the system's servers by /etc/resolv.conf, and /etc/hosts. Create
/// a new one for each query: it then keeps no cache beyond a TTL and no memory of failed servers, and follows changes
/// of these files.
///
/// # Errors
/// Fails if the system's configuration cannot be read.
pub fn resolver(server: Option<SocketAddr>) -> Result<Resolver<Tokio>, NetError> {
    let mut builder = match server {
        Some(server) => {
            let connection = |mut connection: ConnectionConfig| {
                connection.port = server.port();
                connection
            };
            let connections = vec![connection(ConnectionConfig::udp()), connection(ConnectionConfig::tcp())];
            let server = NameServerConfig::new(server.ip(), true, connections);
            let config = ResolverConfig::from_parts(None, vec![], vec![server]);
            let mut builder = Resolver::builder_with_config(config, Tokio::default());
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        }
        None => Resolver::builder(Tokio::default())?,
    };
    let options = builder.options_mut();
    options.timeout = ANSWER;
    options.attempts = ATTEMPTS;
    // More addresses than a datagram of 512 bytes has room for.
    options.edns0 = true;
    builder.build()
}

/// Runs hickory on tokio. Tasks end with the last of its clones.
#[derive(Clone, Default)]
pub struct Tokio(Arc<Mutex<JoinSet<()>>>);

/// tokio's clock.
#[derive(Clone, Copy)]
pub struct Clock;

/// A socket for queries.
pub struct Udp(UdpSocket);

/// A connection for answers larger than a packet.
pub struct Tcp(TcpStream);

impl Spawn for Tokio {
    fn spawn_bg(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(future);
        while tasks.try_join_next().is_some() {}
    }
}

impl RuntimeProvider for Tokio {
    type Handle = Tokio;
    type Timer = Clock;
    type Udp = Udp;
    type Tcp = Tcp;

    fn create_handle(&self) -> Tokio {
        self.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        local: Option<SocketAddr>,
        wait: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Tcp>>>> {
        Box::pin(async move {
            let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(local) = local {
                socket.bind(local)?;
            }
            socket.set_nodelay(true)?;
            Ok(Tcp(tokio::time::timeout(wait.unwrap_or(CONNECT), socket.connect(server)).await??))
        })
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        _server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Udp>>>> {
        Box::pin(async move { UdpSocket::bind(local).await.map(Udp) })
    }
}

#[async_trait]
impl Time for Clock {
    async fn delay_for(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn timeout<F: 'static + Future + Send>(duration: Duration, future: F) -> io::Result<F::Output> {
        Ok(tokio::time::timeout(duration, future).await?)
    }
}

impl DnsUdpSocket for Udp {
    type Time = Clock;

    fn poll_recv_from(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buf = ReadBuf::new(buf);
        let polled = self.0.poll_recv_from(cx, &mut buf);
        polled.map_ok(|from| (buf.filled().len(), from))
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, buf: &[u8], target: SocketAddr) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(cx, buf, target)
    }
}

impl DnsTcpStream for Tcp {
    type Time = Clock;
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        let polled = Pin::new(&mut self.0).poll_read(cx, &mut buf);
        polled.map_ok(|()| buf.filled().len())
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
