//! Opens a WebSocket at an endpoint, by whichever version of HTTP it is spoken to in.
//!
//! To the caller both are one: a head goes out, and a reply comes back. An Upgrade has a connection of its own, an extended
//! CONNECT takes a stream of one that is shared. What happens to such a connection by the way, that the server goes away or
//! had just closed it, is no failure of the endpoint: the handshake goes on another one.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::connect::{ConnectError, Connected, Connector, UpstreamIo};
use super::endpoint::Endpoint;
use super::extended_connect;
use super::handshake::{self, HandshakeError, HandshakeReply};
use super::metrics::{Http2Metrics, UpstreamMetrics};
use super::request_head::RequestHead;
use super::streams::connection::{BeginError, Connection};
use super::streams::{Acquired, Streams, Want};
use crate::ws::handshake::{HandshakeOffer, key};

/// How many connections a handshake goes on, if those before took no more requests.
const CONNECTIONS_TRIED_MAX: usize = 3;

/// Why nothing was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The reply did not come in time.
    #[error("the endpoint took too long to answer")]
    Timeout,
}

/// The times of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct OpenTimes {
    /// When it began.
    pub started: Instant,
    /// When there must be a connection.
    pub connected_by: Instant,
    /// When the reply must be there.
    pub deadline: Instant,
    /// After which silence the session pings the server, if it ever does.
    pub pings_after: Option<Duration>,
}

/// Opens a WebSocket at `endpoint`: connects, writes, reads, verifies.
///
/// # Errors
/// See [`OpenError`].
pub async fn open(
    endpoint: &Endpoint,
    head: &mut RequestHead,
    offer: &HandshakeOffer,
    times: OpenTimes,
    metrics: &UpstreamMetrics,
) -> Result<HandshakeReply<UpstreamIo>, OpenError> {
    let io = match &endpoint.streams {
        None => None,
        Some(streams) => match Box::pin(by_stream(streams, head, offer, times)).await? {
            ByStream::Reply(reply) => return Ok(reply),
            ByStream::Http1(io) => io,
        },
    };
    let io = match io {
        Some(io) => io,
        None => endpoint.connector.connect_pinged(times.pings_after, times.connected_by).await?,
    };
    metrics.connected(times.started.elapsed());
    let key = key(fastrand::u128(..).to_ne_bytes());
    let reply = timeout_at(times.deadline, handshake::open(io, head, &key, offer)).await;
    Ok(reply.map_err(|_| OpenError::Timeout)??)
}

/// A connection that nobody shares: for what must not depend on those that there are.
#[derive(Debug)]
pub enum Alone {
    /// HTTP/1.1.
    Http1(UpstreamIo),
    /// HTTP/2.
    Http2(Connection),
}

/// Connects by `deadline`, as for a request of a client, but for one request alone.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect_alone(connector: &Connector, deadline: Instant) -> Result<Alone, ConnectError> {
    let io = match connector.connect_by_protocol(deadline).await? {
        Connected::Http1(io) => return Ok(Alone::Http1(io)),
        Connected::Http2(io) => io,
    };
    match Connection::begin(io, &Http2Metrics::unseen().into(), deadline).await {
        Ok(connection) => Ok(Alone::Http2(connection)),
        Err(BeginError::Timeout) => Err(ConnectError::Timeout),
        Err(_) if connector.may_use_http1() => connector.connect(deadline).await.map(Alone::Http1),
        Err(error) => Err(ConnectError::Http2(Box::new(error))),
    }
}

/// Opens a WebSocket on a connection of its own. The caller sets the deadline for the reply; `deadline` is for one more
/// connection.
///
/// # Errors
/// See [`OpenError`].
pub async fn open_alone(
    connector: &Connector,
    connection: Alone,
    head: &mut RequestHead,
    offer: &HandshakeOffer,
    deadline: Instant,
) -> Result<HandshakeReply<UpstreamIo>, OpenError> {
    let io = match connection {
        Alone::Http1(io) => io,
        Alone::Http2(connection) => match connection.place().filter(|_| connection.takes_websockets) {
            Some(place) => {
                let request = head.extended_connect(&connector.scheme(), &connector.authority());
                return Ok(extended_connect::open(place, request.map_err(HandshakeError::Head)?, offer).await?);
            }
            None if connector.may_use_http1() => connector.connect(deadline).await?,
            None => return Err(HandshakeError::NoExtendedConnect.into()),
        },
    };
    let key = key(fastrand::u128(..).to_ne_bytes());
    Ok(handshake::open(io, head, &key, offer).await?)
}

/// What became of a handshake that may go by a stream.
enum ByStream {
    Reply(HandshakeReply<UpstreamIo>),
    /// It is to go by an Upgrade; with a connection, if one has just been made.
    Http1(Option<UpstreamIo>),
}

async fn by_stream(
    streams: &Streams,
    head: &RequestHead,
    offer: &HandshakeOffer,
    times: OpenTimes,
) -> Result<ByStream, OpenError> {
    let mut tried = 0;
    loop {
        let place = match streams.acquire(Want::WebSocket, times.connected_by).await? {
            Acquired::Stream(place) => place,
            Acquired::Http1(io) => return Ok(ByStream::Http1(io)),
            Acquired::NoWebSockets => return Err(HandshakeError::NoExtendedConnect.into()),
        };
        tried += 1;
        let request = head.extended_connect(&streams.scheme, &streams.authority).map_err(HandshakeError::Head)?;
        let reply = timeout_at(times.deadline, extended_connect::open(place, request, offer)).await;
        match reply.map_err(|_| OpenError::Timeout)? {
            // A handshake is a GET, which may be sent again.
            Err(HandshakeError::Stream(error))
                if tried < CONNECTIONS_TRIED_MAX && (error.is_unprocessed() || error.was_stale()) =>
            {
                tracing::debug!(%error, "the handshake goes on another connection");
            }
            Err(HandshakeError::Stream(error)) if error.wants_http1() && streams.may_use_http1() => {
                streams.wants_http1(Want::WebSocket);
                return Ok(ByStream::Http1(None));
            }
            reply => return Ok(ByStream::Reply(reply?)),
        }
    }
}
