//! One request on a stream of a server, and the head of its answer.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::header::{HOST, HeaderValue, TE};
use http::uri::Scheme;
use http::{Request, Response, Version};
use hyper::body::Body as _;

use super::connection::{Place, StreamPermit};
use super::error::StreamError;
use crate::header::hop_by_hop::{self, HopByHopFields};
use crate::header::trailers::Announced;
use crate::http2::body::{self, ReceivedBody};
use crate::upstream::answer_body::AnswerBody;
use crate::upstream::pooled::PooledConnection;
use crate::upstream::request_body::RequestBody;
use crate::upstream::request_head::{UnsayableHead, uri};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// HTTP/2 has no form for the request.
    #[error(transparent)]
    Head(#[from] UnsayableHead),
    /// The stream failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The request's body could not be read.
    #[error("the request's body could not be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Returns the head of a plain request as HTTP/2 has it: Host as the authority, or `own` without one, and no fields of a
/// connection. Its URI is that of a target in origin form, whatever its authority.
///
/// # Errors
/// If HTTP/2 has no form for its Host or its target.
pub fn head(parts: http::request::Parts, scheme: &Scheme, own: &HeaderValue) -> Result<Request<()>, UnsayableHead> {
    let mut request = Request::from_parts(parts, ());
    let headers = request.headers_mut();
    let host = headers.remove(HOST);
    let wants_trailers = hop_by_hop::te_trailers(headers);
    let ending: Vec<_> = headers.keys().filter(|name| HopByHopFields::always(name.as_str())).cloned().collect();
    for name in &ending {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let uri = uri(scheme, host.as_ref().unwrap_or(own).as_bytes(), target.as_bytes())?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    Ok(request)
}

/// Sends a request with a head of [`head`] and waits for the head of its answer. The rest of the request's body goes on beside
/// the answer; `uploading` shows its progress and can end it.
///
/// Cancel-safe: dropping it resets the stream.
///
/// # Errors
/// See [`ExchangeError`].
///
/// # Panics
/// Outside of a runtime.
pub async fn send(
    place: Place,
    head: Request<()>,
    body: RequestBody,
    uploading: Option<PooledConnection>,
) -> Result<Response<AnswerBody>, ExchangeError> {
    let Place { mut sender, permit } = place;
    let permit = Arc::new(permit);
    let was_used = permit.was_used();
    let of_stream = |error| StreamError::of(error, was_used);
    let is_whole = body.is_end_stream();
    let trailers = Announced::of(head.headers());
    let (mut answering, stream) = sender.send_request(head, is_whole).map_err(of_stream)?;
    drop(sender);
    let answer = if is_whole {
        // Dropping it leaves the stream as it is, as long as the answer is waited for.
        drop(stream);
        answering.await.map_err(of_stream)?
    } else {
        let mut upload = Box::pin(upload(stream, body, trailers, uploading.clone(), Arc::clone(&permit)));
        let mut is_uploaded = false;
        let answer = poll_fn(|cx| {
            if !is_uploaded && let Poll::Ready(sent) = upload.as_mut().poll(cx) {
                is_uploaded = true;
                if let Err(body::SendError::Body(error)) = sent {
                    return Poll::Ready(Err(ExchangeError::Body(error)));
                }
            }
            Pin::new(&mut answering).poll(cx).map_err(|error| of_stream(error).into())
        })
        .await?;
        if !is_uploaded {
            tokio::spawn(upload);
        }
        answer
    };
    permit.answered();
    let mut response = answer_of(answer, permit);
    if let Some(uploading) = uploading {
        response.extensions_mut().insert(uploading);
    }
    Ok(response)
}

/// Returns an answer that came by a stream as a neutral one.
pub fn answer_of(answer: Response<RecvStream>, permit: Arc<StreamPermit>) -> Response<AnswerBody> {
    let (mut parts, recv) = answer.into_parts();
    parts.version = Version::HTTP_11;
    let body = ReceivedBody::new(recv, &parts.headers);
    Response::from_parts(parts, AnswerBody::Http2(body, permit))
}

/// Sends a body to its end, unless its connection is to be closed: then the stream alone is.
async fn upload(
    mut stream: SendStream<Bytes>,
    body: RequestBody,
    trailers: Announced,
    uploading: Option<PooledConnection>,
    permit: Arc<StreamPermit>,
) -> Result<(), body::SendError> {
    let stalls = permit.metrics().stalls.clone();
    let moved = || uploading.iter().for_each(PooledConnection::moved);
    let mut sending = pin!(body::send_noted(&mut stream, body, &trailers, None, stalls, moved));
    poll_fn(|cx| {
        if uploading.as_ref().is_some_and(|uploading| uploading.poll_closed(cx).is_err()) {
            return Poll::Ready(Ok(()));
        }
        sending.as_mut().poll(cx)
    })
    .await
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_no_fields_of_a_connection_and_keeps_the_others() {
        let request = Request::post("http://endpoint/a?b=c")
            .header("host", "example.com")
            .header("connection", "TE")
            .header("te", "trailers")
            .header("transfer-encoding", "chunked")
            .header("keep-alive", "timeout=5")
            .header("content-length", "5")
            .header("x-own", "1");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let head = head(parts, &Scheme::HTTPS, &HeaderValue::from_static("own.test")).unwrap();
        assert_eq!(head.uri(), "https://example.com/a?b=c");
        let mut fields: Vec<_> = head.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        fields.sort();
        assert_eq!(fields, [("content-length", &b"5"[..]), ("te", b"trailers"), ("x-own", b"1")]);
        let (parts, ()) = Request::get("http://endpoint/").body(()).unwrap().into_parts();
        let without = super::head(parts, &Scheme::HTTP, &HeaderValue::from_static("own.test:81")).unwrap();
        assert_eq!(without.uri(), "http://own.test:81/");
    }
}
