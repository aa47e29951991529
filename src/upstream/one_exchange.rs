//! One HTTP/1.1 exchange on a connection of its own: for what the proxy itself asks of a server.

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::connect::UpstreamIo;

/// A connection under way. Dropping it closes the connection.
pub type OpenConnection = JoinSet<()>;

/// Sends a request and waits for the head of its answer. The answer's body comes only as long as the connection is kept.
/// Cancel-safe: dropping it closes the connection.
///
/// # Errors
/// If the connection broke, or the answer is no HTTP.
///
/// # Panics
/// Outside of a runtime.
pub async fn send<B>(io: UpstreamIo, request: Request<B>) -> Result<(Response<Incoming>, OpenConnection), hyper::Error>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let mut task = JoinSet::new();
    task.spawn(async move {
        // Its error reaches the reader of the answer.
        let _ = connection.await;
    });
    Ok((sender.send_request(request).await?, task))
}

/// Why a body was not read to its end.
#[derive(Debug)]
pub enum Uncollected {
    /// It is larger than it may be.
    TooLarge,
    /// The connection broke.
    Broken(hyper::Error),
}

/// Reads a whole body of at most `bytes_max` bytes. Not cancel-safe: what was read is lost.
///
/// # Errors
/// See [`Uncollected`].
pub async fn collect(body: &mut Incoming, bytes_max: usize) -> Result<Bytes, Uncollected> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        collected.extend_from_slice(&frame.map_err(Uncollected::Broken)?.into_data().unwrap_or_default());
        if collected.len() > bytes_max {
            return Err(Uncollected::TooLarge);
        }
    }
    Ok(collected.freeze())
}
