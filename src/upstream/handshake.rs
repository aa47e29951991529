//! The WebSocket handshake with an endpoint: one request written, one response head read, the 101 verified.
//!
//! What follows the 101 is handed on as it came. An answer that is no 101 is an ordinary HTTP response and goes back to
//! the client as one; its body is then read by hyper, which is shown the same bytes again (`Replay`), so that there is
//! one body parser in the house and it is not ours. A false 101 ends the connection.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::net::pool::{self, Size};
use crate::net::stream::Prefixed;
use crate::ws::handshake::{Answer, AnswerError, Offer};

/// The longest response head that is read; nginx reads 8 KiB by default, cookies of some applications need more.
const HEAD_BYTES_MAX: usize = Size::Medium.bytes();
/// Headers of a response that are read, as hyper's default.
const HEADERS_MAX: usize = 100;
/// Interim responses before the real one.
const INTERIM_MAX: usize = 8;

/// What the endpoint said to the handshake.
#[derive(Debug)]
pub enum Reply<T> {
    /// A 101 that keeps all the rules.
    Switched(Switched<T>),
    /// Another answer, with the connection that still carries its body.
    Refused(Response<Incoming>),
}

/// A WebSocket to an endpoint.
#[derive(Debug)]
pub struct Switched<T> {
    /// The connection.
    pub io: T,
    /// What was agreed on.
    pub answer: Answer,
    /// The response's headers, hop-by-hop ones included.
    pub headers: HeaderMap,
    /// Bytes that came behind the head.
    pub early: Vec<u8>,
}

/// Why the handshake failed. The connection is gone.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Writing or reading failed.
    #[error("the connection failed during the handshake")]
    Io(#[source] io::Error),
    /// It ended before the response was whole.
    #[error("the endpoint closed the connection without an answer")]
    Closed,
    /// The response is no HTTP/1.1.
    #[error("the endpoint's answer is no HTTP response")]
    Malformed(#[source] httparse::Error),
    /// The response's head is longer than is read.
    #[error("the head of the endpoint's answer is over {HEAD_BYTES_MAX} bytes")]
    TooLong,
    /// It goes on sending interim responses.
    #[error("the endpoint sent over {INTERIM_MAX} interim responses")]
    Interims,
    /// A 101 that is not what was asked for.
    #[error("the endpoint's 101 is false")]
    False(#[from] AnswerError),
    /// hyper could not read the response.
    #[error("the endpoint's answer could not be read")]
    Answer(#[source] hyper::Error),
}

impl HandshakeError {
    /// All names used in metrics and logs.
    pub const LABELS: [&'static str; 3] = ["handshake_lost", "bad_response", "false_101"];

    /// The name used in metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            HandshakeError::Io(_) | HandshakeError::Closed => "handshake_lost",
            HandshakeError::Malformed(_)
            | HandshakeError::TooLong
            | HandshakeError::Interims
            | HandshakeError::Answer(_) => "bad_response",
            HandshakeError::False(_) => "false_101",
        }
    }
}

/// Writes a request head: what the handshake needs, and `headers` without what it brings itself.
///
/// `target` is in origin form, `headers` are free of hop-by-hop fields.
pub fn encode(target: &str, headers: &HeaderMap, key: &str) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    // Writing to a Vec cannot fail. The names are spelled as in RFC 6455: some servers compare them letter by letter.
    let _ = write!(head, "GET {target} HTTP/1.1\r\n");
    let mut line = |name: &str, value: &[u8]| {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    };
    // RFC 9110 §7.2: Host comes first.
    if let Some(host) = headers.get(HOST) {
        line("Host", host.as_bytes());
    }
    line("Upgrade", b"websocket");
    line("Connection", b"Upgrade");
    line("Sec-WebSocket-Key", key.as_bytes());
    for (name, value) in headers {
        match name.as_str() {
            "host" | "upgrade" | "connection" | "sec-websocket-key" | "content-length" => {}
            "sec-websocket-version" => line("Sec-WebSocket-Version", value.as_bytes()),
            "sec-websocket-protocol" => line("Sec-WebSocket-Protocol", value.as_bytes()),
            "sec-websocket-extensions" => line("Sec-WebSocket-Extensions", value.as_bytes()),
            other => line(other, value.as_bytes()),
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Writes `head` (made by [`encode`] with `key`) and reads the answer to it. The caller sets the deadline.
///
/// Not cancel-safe: a connection whose handshake was abandoned is of no use.
///
/// # Errors
/// See [`HandshakeError`]; nothing was promised to anybody yet.
pub async fn open<T>(mut io: T, head: &[u8], key: &str, offer: &Offer) -> Result<Reply<T>, HandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    io.write_all(head).await.map_err(HandshakeError::Io)?;
    io.flush().await.map_err(HandshakeError::Io)?;
    let mut buffer = pool::take(Size::Small);
    let (mut start, mut end) = (0, 0);
    let mut interims = 0;
    loop {
        match parse(&buffer[start..end])? {
            Some(Head { length, status, .. }) if interim(status) => {
                // hyper would skip them without end, and take the 101 behind them for an answer.
                if interims == INTERIM_MAX {
                    return Err(HandshakeError::Interims);
                }
                start += length;
                interims += 1;
            }
            Some(Head { length, status: StatusCode::SWITCHING_PROTOCOLS, headers }) => {
                let answer = Answer::from_switching_protocols(&headers, key, offer)?;
                let early = buffer[start + length..end].to_vec();
                return Ok(Reply::Switched(Switched { io, answer, headers, early }));
            }
            Some(_) => {
                let response = read_response(Prefixed::new(buffer[start..end].to_vec(), io)).await?;
                return Ok(Reply::Refused(response));
            }
            None => {
                if end == buffer.len() {
                    if end == HEAD_BYTES_MAX {
                        return Err(HandshakeError::TooLong);
                    }
                    let mut larger = pool::take(Size::Medium);
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

fn interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

struct Head {
    length: usize,
    status: StatusCode,
    headers: HeaderMap,
}

/// The response head at the start of `bytes`, once it is whole.
fn parse(bytes: &[u8]) -> Result<Option<Head>, HandshakeError> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes).map_err(HandshakeError::Malformed)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    // httparse has checked both; only the types do not know.
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(HandshakeError::Malformed(httparse::Error::Status))?;
    if response.version != Some(1) && status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(HandshakeError::Malformed(httparse::Error::Version));
    }
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(HandshakeError::Malformed(httparse::Error::HeaderValue));
        };
        headers.append(name, value);
    }
    Ok(Some(Head { length, status, headers }))
}

/// Lets hyper read the response of which `io` gives the first bytes again.
async fn read_response<T>(io: Prefixed<T>) -> Result<Response<Incoming>, HandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let replay = TokioIo::new(Replay { io, unasked: Some(None) });
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(replay).await.map_err(HandshakeError::Answer)?;
    // Ends with the response's body: `sender` is dropped below, so there is no other request to wait for.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the body of a refused handshake was cut short");
        }
    });
    sender.send_request(Request::new(Empty::<Bytes>::new())).await.map_err(HandshakeError::Answer)
}

/// A connection on which the request was sent already: what hyper writes goes nowhere, and what is to be read is held
/// back until then, since an answer to nothing would be an error.
struct Replay<T> {
    io: Prefixed<T>,
    /// Until hyper has written its request: who waits to read.
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

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    /// What comes of this answer to a handshake.
    async fn answered(answer: &str) -> Result<Reply<tokio::net::UnixStream>, HandshakeError> {
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let offer = Offer { key: KEY.into(), subprotocols: vec![], extensions: vec![] };
        let head = encode("/", &HeaderMap::new(), KEY);
        theirs.write_all(answer.as_bytes()).await.unwrap();
        open(ours, &head, KEY, &offer).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn interim_responses_are_skipped_and_a_101_behind_too_many_is_nobodys_answer() {
        let switched = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\nearly",
            accept_for(KEY)
        );
        let after = |interims: usize| "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(interims) + &switched;
        let Reply::Switched(switched) = answered(&after(INTERIM_MAX)).await.unwrap() else { panic!("refused") };
        assert_eq!(switched.early, b"early");
        let error = answered(&after(INTERIM_MAX + 1)).await.unwrap_err();
        assert_eq!(error.label(), "bad_response");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_that_is_no_101_comes_with_its_body() {
        let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
        let Reply::Refused(response) = answered(answer).await.unwrap() else { panic!("not refused") };
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        assert_eq!(body.to_bytes(), &b"no"[..]);
    }
}
