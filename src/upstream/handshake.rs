//! The WebSocket handshake with an endpoint: one request written, one response head read, the 101 verified.
//!
//! Bytes after the 101 are passed on unchanged. An answer other than 101 is an ordinary HTTP response and goes back to
//! the client as one; hyper reads its body and gets the same bytes again (`Replay`), so there is only one body parser,
//! hyper's. An invalid 101 ends the connection.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL,
    TRANSFER_ENCODING,
};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::base::labels::labels;
use crate::header::hop_by_hop::HopByHopFields;
use crate::net::pool::{self, Buffer, BufferSize};
use crate::net::stream::Prefixed;
use crate::upstream::answer_body::AnswerBody;
use crate::upstream::request_head::{RequestHead, UnsayableHead};
use crate::upstream::streams::error::StreamError;
use crate::ws::handshake::{self, AnswerError, HandshakeAnswer, HandshakeOffer, HeaderFields, WebSocketKey};

/// The longest response head that is read; nginx reads 8 KiB by default, cookies of some applications need more.
const HEAD_BYTES_MAX: usize = BufferSize::Medium.bytes();
/// The most headers of a response, as hyper's default.
const HEADERS_MAX: usize = 100;
/// The most interim responses before the real one.
const INTERIM_MAX: usize = 8;

/// The endpoint's reply to the handshake.
#[derive(Debug)]
pub enum HandshakeReply<T> {
    /// It is open.
    Switched(Switched<T>),
    /// Another answer, with the connection that still carries its body.
    Refused(Response<AnswerBody>),
}

/// A WebSocket connection to an endpoint.
#[derive(Debug)]
pub struct Switched<T> {
    /// The connection.
    pub io: T,
    /// What the endpoint accepted.
    pub answer: HandshakeAnswer,
    /// The fields that are passed to the client.
    pub headers: HeaderMap,
    /// Bytes that followed the head.
    pub early: Vec<u8>,
}

/// Why the handshake failed. The connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Writing or reading failed.
    #[error("the connection failed during the handshake")]
    Io(#[source] io::Error),
    /// The connection ended before the response was complete.
    #[error("the endpoint closed the connection without an answer")]
    Closed,
    /// The response is not HTTP/1.1.
    #[error("the endpoint's answer is no HTTP response")]
    Malformed(#[source] httparse::Error),
    /// The response's head is too long.
    #[error("the head of the endpoint's answer is over {HEAD_BYTES_MAX} bytes")]
    TooLong,
    /// The endpoint sent too many interim responses.
    #[error("the endpoint sent over {INTERIM_MAX} interim responses")]
    Interims,
    /// The 101 is invalid.
    #[error("the endpoint's answer, which opens the WebSocket, is false")]
    False(#[from] AnswerError),
    /// hyper could not read the response.
    #[error("the endpoint's answer could not be read")]
    Answer(#[source] hyper::Error),
    /// The endpoint takes no WebSockets by HTTP/2, which alone may be spoken.
    #[error(
        "the endpoint takes no WebSockets by HTTP/2 (SETTINGS_ENABLE_CONNECT_PROTOCOL), and the upstream's `protocol` is `h2` \
         (`auto` or `h1` would use HTTP/1.1)"
    )]
    NoExtendedConnect,
    /// The stream failed before the answer.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// HTTP/2 has no form for the request.
    #[error(transparent)]
    Head(#[from] UnsayableHead),
}

labels! {
    HandshakeError {
        HandshakeError::Io(_) | HandshakeError::Closed | HandshakeError::Stream(StreamError::Lost { .. }) => "handshake_lost",
        HandshakeError::Malformed(_)
        | HandshakeError::TooLong
        | HandshakeError::Interims
        | HandshakeError::Answer(_) => "bad_response",
        HandshakeError::False(_) => "false_101",
        HandshakeError::NoExtendedConnect => "no_extended_connect",
        HandshakeError::Stream(StreamError::Refused(_)) => "stream_refused",
        HandshakeError::Stream(StreamError::Reset(_)) => "stream_reset",
        HandshakeError::Head(_) => "request_head",
    }
}

/// Writes `head` with `key` and reads the answer. The caller sets the deadline.
///
/// Not cancel-safe: a connection with an abandoned handshake is useless.
///
/// # Errors
/// See [`HandshakeError`]; the client has no answer yet.
pub async fn open<T>(
    mut io: T,
    head: &mut RequestHead,
    key: &WebSocketKey,
    offer: &HandshakeOffer,
) -> Result<HandshakeReply<T>, HandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    io.write_all(head.upgrade(key)).await.map_err(HandshakeError::Io)?;
    io.flush().await.map_err(HandshakeError::Io)?;
    let (mut buffer, mut end) = first_read(&mut io).await?;
    let mut start = 0;
    let mut interims = 0;
    loop {
        match parse(&buffer[start..end], key, offer)? {
            ResponseHead::Interim { length } => {
                // hyper would skip any number of them, and return the 101 after them as the response.
                if interims == INTERIM_MAX {
                    return Err(HandshakeError::Interims);
                }
                start += length;
                interims += 1;
            }
            ResponseHead::Switched { length, answer, headers } => {
                let early = buffer[start + length..end].to_vec();
                return Ok(HandshakeReply::Switched(Switched { io, answer, headers, early }));
            }
            ResponseHead::Other => {
                let prefixed = Prefixed::new(buffer[start..end].to_vec(), io);
                let response = Box::pin(read_response(prefixed)).await?;
                return Ok(HandshakeReply::Refused(response.map(AnswerBody::Http1)));
            }
            ResponseHead::Partial => {
                if end == buffer.len() {
                    if end == HEAD_BYTES_MAX {
                        return Err(HandshakeError::TooLong);
                    }
                    let mut larger = pool::take(BufferSize::Medium);
                    larger[..end].copy_from_slice(&buffer[..end]);
                    buffer = larger;
                }
                match io.read(&mut buffer[end..]).await {
                    Ok(0) => return Err(HandshakeError::Closed),
                    Ok(read) => end += read,
                    Err(error) => return Err(HandshakeError::Io(error)),
                }
            }
        }
    }
}

/// Reads the first bytes, and returns how many. Takes a buffer only once there are some: thousands of handshakes may wait.
async fn first_read(io: &mut (impl AsyncRead + Unpin)) -> Result<(Buffer, usize), HandshakeError> {
    poll_fn(|cx| {
        let mut buffer = pool::take(BufferSize::Small);
        let mut read = ReadBuf::new(&mut buffer);
        std::task::ready!(Pin::new(&mut *io).poll_read(cx, &mut read)).map_err(HandshakeError::Io)?;
        let count = read.filled().len();
        Poll::Ready(if count == 0 { Err(HandshakeError::Closed) } else { Ok((buffer, count)) })
    })
    .await
}

/// The start of the received bytes.
enum ResponseHead {
    /// An incomplete head.
    Partial,
    /// A 1xx of this length.
    Interim { length: usize },
    /// A valid 101, and those of its fields that are passed on.
    Switched { length: usize, answer: HandshakeAnswer, headers: HeaderMap },
    /// Another response.
    Other,
}

/// Parses a response head, and judges a 101.
fn parse(bytes: &[u8], key: &WebSocketKey, offer: &HandshakeOffer) -> Result<ResponseHead, HandshakeError> {
    if bytes.is_empty() {
        // Behind an interim response.
        return Ok(ResponseHead::Partial);
    }
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut fields);
    let length = match parsed.map_err(HandshakeError::Malformed)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(ResponseHead::Partial),
    };
    // httparse has checked it; the type cannot show that.
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    match status.ok_or(HandshakeError::Malformed(httparse::Error::Status))? {
        StatusCode::SWITCHING_PROTOCOLS if response.version != Some(1) => {
            Err(HandshakeError::Malformed(httparse::Error::Version))
        }
        StatusCode::SWITCHING_PROTOCOLS => {
            let fields = ParsedFields(response.headers);
            let answer = HandshakeAnswer::from_switching_protocols(&fields, key, offer)?;
            let headers = fields.passed_on(&answer)?;
            Ok(ResponseHead::Switched { length, answer, headers })
        }
        status if status.is_informational() => Ok(ResponseHead::Interim { length }),
        _ => Ok(ResponseHead::Other),
    }
}

/// The fields of a response, as httparse returns them.
struct ParsedFields<'b>(&'b [httparse::Header<'b>]);

impl HeaderFields for ParsedFields<'_> {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(|field| field.name.eq_ignore_ascii_case(name.as_str())).map(|field| field.value)
    }
}

impl ParsedFields<'_> {
    /// Returns the fields of a 101 that are meant for the client, without those of this hop and those that the proxy
    /// writes.
    fn passed_on(&self, answer: &HandshakeAnswer) -> Result<HeaderMap, HandshakeError> {
        // httparse has checked them; the types cannot show that.
        let malformed = || HandshakeError::Malformed(httparse::Error::HeaderValue);
        let ending = HopByHopFields::new(self.lines(&CONNECTION), self.lines(&TRANSFER_ENCODING).next().is_some());
        let mut headers = HeaderMap::new();
        for field in self.0 {
            let own =
                ["upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol", "sec-websocket-extensions"];
            if own.iter().any(|own| field.name.eq_ignore_ascii_case(own)) {
                continue;
            }
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| malformed())?;
            let value = HeaderValue::from_bytes(field.value).map_err(|_| malformed())?;
            if !ending.has(name.as_str()) && name != CONTENT_LENGTH {
                headers.append(name, value);
            }
        }
        agree(self, answer, &mut headers).map_err(|_| malformed())?;
        Ok(headers)
    }
}

/// Writes the agreed extensions and subprotocol once, however often the server did: clients are stricter.
///
/// # Errors
/// If they are no values, which has been checked.
pub fn agree(
    fields: &impl HeaderFields,
    answer: &HandshakeAnswer,
    headers: &mut HeaderMap,
) -> Result<(), http::header::InvalidHeaderValue> {
    for line in handshake::once(fields, &SEC_WEBSOCKET_EXTENSIONS) {
        headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_bytes(line)?);
    }
    if let Some(chosen) = &answer.subprotocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::try_from(chosen)?);
    }
    Ok(())
}

/// Lets hyper read the response; `io` returns its first bytes again.
async fn read_response<T>(io: Prefixed<T>) -> Result<Response<Incoming>, HandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let replay = TokioIo::new(Replay { io, unasked: Some(None) });
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(replay).await.map_err(HandshakeError::Answer)?;
    // Ends with the response's body: `sender` is dropped below, so no other request can follow.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the body of a refused handshake was cut short");
        }
    });
    sender.send_request(Request::new(Empty::<Bytes>::new())).await.map_err(HandshakeError::Answer)
}

/// A connection on which the request was already sent: discards what hyper writes, and holds back what it reads until
/// then, since an answer without a request would be an error.
struct Replay<T> {
    io: Prefixed<T>,
    /// Until hyper has written its request: the task that waits to read.
    unasked: Option<Option<Waker>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Replay<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(waiting) = &mut this.unasked {
            *waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Replay<T> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(Some(waiting)) = self.get_mut().unasked.take() {
            waiting.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;
    use crate::ws::handshake::accept_for;

    const KEY: &WebSocketKey = b"dGhlIHNhbXBsZSBub25jZQ==";

    /// Performs a handshake that gets this answer.
    async fn answered(answer: &str) -> Result<HandshakeReply<tokio::net::UnixStream>, HandshakeError> {
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let offer = HandshakeOffer { subprotocols: vec![], extensions: vec![] };
        let mut head = RequestHead::new("/", None, None).end();
        theirs.write_all(answer.as_bytes()).await.unwrap();
        open(ours, &mut head, KEY, &offer).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn interim_responses_are_skipped_and_a_101_behind_too_many_is_nobodys_answer() {
        let switched = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\nearly",
            std::str::from_utf8(&accept_for(KEY)).unwrap()
        );
        let after = |interims: usize| "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(interims) + &switched;
        let HandshakeReply::Switched(switched) = answered(&after(INTERIM_MAX)).await.unwrap() else {
            panic!("refused")
        };
        assert_eq!(switched.early, b"early");
        let error = answered(&after(INTERIM_MAX + 1)).await.unwrap_err();
        assert_eq!(error.label(), "bad_response");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_that_is_no_101_comes_with_its_body() {
        let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
        let HandshakeReply::Refused(response) = answered(answer).await.unwrap() else { panic!("not refused") };
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        assert_eq!(body.to_bytes(), &b"no"[..]);
    }
}
