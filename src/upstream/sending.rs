//! Sends a plain request to an endpoint, by whichever version of HTTP it is spoken to in.

use http::{Request, Response};
use tokio::time::Instant;

use super::answer_body::AnswerBody;
use super::connect::ConnectError;
use super::endpoint::Endpoint;
use super::pool;
use super::pooled::PooledConnection;
use super::request_body::RequestBody;
use super::streams::exchange::{self, ExchangeError};
use super::streams::{Acquired, Streams, Want};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// By HTTP/1.1, a missing connection included.
    #[error(transparent)]
    Http1(#[from] hyper_util::client::legacy::Error),
    /// There is no connection that streams share.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// By a stream.
    #[error(transparent)]
    Http2(#[from] ExchangeError),
}

impl SendError {
    /// Returns true if nothing was sent, since there was no connection.
    pub fn is_connect(&self) -> bool {
        match self {
            SendError::Http1(error) => error.is_connect(),
            SendError::Connect(_) => true,
            SendError::Http2(_) => false,
        }
    }

    /// Returns why there was no connection.
    pub fn connect_error(&self) -> Option<&ConnectError> {
        match self {
            SendError::Http1(error) => std::error::Error::source(error)?.downcast_ref(),
            SendError::Connect(error) => Some(error),
            SendError::Http2(_) => None,
        }
    }

    /// Returns true if the request failed on a used connection before anything came back, as if the server had closed it as
    /// unused while the request was on its way. The server may have read it: only an idempotent one may be sent again (RFC
    /// 9110 §9.2.2).
    pub fn was_stale(&self) -> bool {
        match self {
            SendError::Http1(error) => pool::was_stale(error),
            SendError::Http2(ExchangeError::Stream(error)) => error.was_stale(),
            _ => false,
        }
    }

    /// Returns true if the server surely did nothing with the request: any may be sent again, if its body is still there.
    pub fn is_unprocessed(&self) -> bool {
        matches!(self, SendError::Http2(ExchangeError::Stream(error)) if error.is_unprocessed() || error.wants_http1())
    }

    /// Returns true if the request's body could not be read, or HTTP/2 has no form for the request.
    pub const fn is_of_request(&self) -> bool {
        matches!(self, SendError::Http2(ExchangeError::Body(_) | ExchangeError::Head(_)))
    }
}

/// Sends a request with a URI of [`pool::uri`] and waits for the answer's head.
///
/// # Errors
/// See [`SendError`].
pub async fn send(endpoint: &Endpoint, request: Request<RequestBody>) -> Result<Response<AnswerBody>, SendError> {
    match by_stream(endpoint, request).await? {
        ByStream::Answer(answer) => Ok(answer),
        ByStream::Http1(request) => Ok(endpoint.pool.send(request).await?.map(AnswerBody::Http1)),
    }
}

/// Does the same on another connection than one that was used before: others may be closed, too.
///
/// # Errors
/// See [`SendError`].
pub async fn send_anew(endpoint: &Endpoint, request: Request<RequestBody>) -> Result<Response<AnswerBody>, SendError> {
    // One that streams share is known to be lost if it is.
    match by_stream(endpoint, request).await? {
        ByStream::Answer(answer) => Ok(answer),
        ByStream::Http1(request) => Ok(endpoint.pool.send_anew(request).await?.map(AnswerBody::Http1)),
    }
}

/// What became of a request that may go by a stream.
enum ByStream {
    Answer(Response<AnswerBody>),
    /// It is to go by HTTP/1.1.
    Http1(Request<RequestBody>),
}

/// Sends a request by a stream, if the endpoint may speak HTTP/2.
async fn by_stream(endpoint: &Endpoint, request: Request<RequestBody>) -> Result<ByStream, SendError> {
    match &endpoint.streams {
        None => Ok(ByStream::Http1(request)),
        // Boxed: others pay nothing for it.
        Some(streams) => Box::pin(on_stream(endpoint, streams, request)).await,
    }
}

async fn on_stream(
    endpoint: &Endpoint,
    streams: &Streams,
    mut request: Request<RequestBody>,
) -> Result<ByStream, SendError> {
    let place = match streams.acquire(Want::Plain, Instant::now() + endpoint.pool.connect_timeout()).await? {
        Acquired::Stream(place) => place,
        Acquired::Http1(io) => {
            io.into_iter().for_each(|io| endpoint.pool.give(io));
            return Ok(ByStream::Http1(request));
        }
        // It is not asked for one.
        Acquired::NoWebSockets => return Ok(ByStream::Http1(request)),
    };
    let uploading = PooledConnection::of_request(&mut request);
    let (parts, body) = request.into_parts();
    let head = exchange::head(parts, &streams.scheme, &streams.authority).map_err(ExchangeError::Head)?;
    let answer = exchange::send(place, head, body, uploading).await;
    if let Err(ExchangeError::Stream(error)) = &answer
        && error.wants_http1()
        && streams.may_use_http1()
    {
        streams.wants_http1(Want::Plain);
    }
    Ok(ByStream::Answer(answer?))
}
