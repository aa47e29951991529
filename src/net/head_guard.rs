//! Refuses line ends that HTTP forbids in request heads and chunked bodies, and escapes characters of a target that hyper would refuse
//! although they are unambiguous.
//!
//! hyper's parser accepts a bare LF as a line end. RFC 9112 §2.2 allows that, but requests are smuggled past a proxy
//! that reads a line end where the next one reads a character; so only CR LF is accepted, and a bare CR, a bare LF and
//! NUL are refused (RFC 9110 §5.5).
//!
//! The guard stands between the socket (or TLS) and hyper and inspects the bytes that hyper reads, without keeping
//! them. When it finds a bad byte, it replaces it by a NUL and ends the stream there. No head with a NUL is valid, so
//! hyper itself answers 400, with `Connection: close` and an orderly end; after an I/O error from the guard, hyper
//! would close without an answer. [`HeadGuard::refusal`] returns the reason afterwards: drive the connection by
//! `poll_without_shutdown` (the service's future is boxed for it, as the handshake phase should be anyway), and on an
//! error look into `into_parts().io`.
//!
//! Native clients send quotes, angle brackets and letters beyond ASCII in targets unescaped; browsers write them as
//! percent-escapes, which mean the same (RFC 3986 §2.1). The guard escapes them too, because hyper would answer 400 to
//! some. It leaves a space to hyper, which refuses it: the target might end there (RFC 9112 §3.2).
//!
//! The guard checks head after head while it knows where the next one begins: behind no body, one with a Content-Length,
//! and one in chunks, of which it checks each line. hyper takes trailers that begin with LF for one field, where another
//! reader finds their end and the next request. After what may be a WebSocket handshake, which has no body, after a CONNECT
//! and after any other framing of a body the guard is transparent, one branch per read: frames may follow a handshake, and a
//! mistake about framing here would be worse than what hyper lets pass.

mod scan;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::stream::{Prefixed, pass_writes_on};
use scan::{Scan, Verdict};

/// Why a request head, or a line of a chunked body, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadRefusal {
    /// An LF without a CR before it.
    #[error("a line of the request ends with LF alone")]
    BareLf,
    /// A CR without an LF after it.
    #[error("the request has a CR without LF")]
    BareCr,
    /// A NUL.
    #[error("the request has a NUL")]
    Nul,
}

/// A stream that checks the request heads and chunks read from it.
#[derive(Debug)]
pub struct HeadGuard<S> {
    io: Prefixed<S>,
    state: GuardState,
    /// Escaped bytes that did not fit into the reader's buffer.
    grown: Vec<u8>,
    is_head_request: bool,
    has_space_in_target: bool,
}

#[derive(Debug)]
enum GuardState {
    Watching(Scan),
    Transparent,
    Refused(HeadRefusal),
}

impl<S> HeadGuard<S> {
    /// Checks the heads that `io` delivers, early bytes included.
    pub fn new(io: Prefixed<S>) -> HeadGuard<S> {
        let state = GuardState::Watching(Scan::default());
        HeadGuard { io, state, grown: Vec::new(), is_head_request: false, has_space_in_target: false }
    }

    /// Returns why a head or a chunk was refused, if one was.
    pub fn refusal(&self) -> Option<HeadRefusal> {
        match self.state {
            GuardState::Refused(refusal) => Some(refusal),
            GuardState::Watching(_) | GuardState::Transparent => None,
        }
    }

    /// Returns true if the last or current request is a HEAD, whose answer has no body, as far as known.
    pub fn is_head_request(&self) -> bool {
        self.is_head_request
    }

    /// Returns true if the last or current request has a space in its target, as far as known.
    pub fn has_space_in_target(&self) -> bool {
        self.has_space_in_target
    }

    /// Returns the inner stream.
    pub fn io(&self) -> &S {
        self.io.io()
    }

    /// Returns the early bytes that were not read (rare: hyper's first read takes them all), and the inner stream.
    pub fn into_parts(self) -> (Vec<u8>, S) {
        let (mut unread, io) = self.io.into_parts();
        unread.splice(..0, self.grown);
        (unread, io)
    }

    /// Passes on escaped bytes, as many as `buf` takes.
    fn give_grown(&mut self, buf: &mut ReadBuf<'_>) {
        let amount = self.grown.len().min(buf.remaining());
        buf.put_slice(&self.grown[..amount]);
        if amount == self.grown.len() {
            self.grown = Vec::new();
        } else {
            self.grown.drain(..amount);
        }
    }
}

/// Returns `bytes` with percent-escapes in place of the bytes `at` these positions.
fn escaped(bytes: &[u8], at: &[usize]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let (mut out, mut done) = (Vec::with_capacity(bytes.len() + 2 * at.len()), 0);
    for &at in at {
        let byte = bytes[at];
        out.extend_from_slice(&bytes[done..at]);
        out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        done = at + 1;
    }
    out.extend_from_slice(&bytes[done..]);
    out
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadGuard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.grown.is_empty() {
            this.give_grown(buf);
            return Poll::Ready(Ok(()));
        }
        let scan = match &mut this.state {
            GuardState::Transparent => return Pin::new(&mut this.io).poll_read(cx, buf),
            GuardState::Refused(_) => return Poll::Ready(Ok(())),
            GuardState::Watching(scan) => scan,
        };
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let verdict = scan.scan(&buf.filled()[before..]);
        let escapes = scan.take_escapes();
        (this.is_head_request, this.has_space_in_target) = (scan.is_head_request(), scan.has_space_in_target());
        match verdict {
            Verdict::More => {}
            Verdict::Opaque => this.state = GuardState::Transparent,
            Verdict::Refused { at, refusal } => {
                buf.filled_mut()[before + at] = 0;
                buf.set_filled(before + at + 1);
                this.state = GuardState::Refused(refusal);
            }
        }
        if !escapes.is_empty() {
            this.grown = escaped(&buf.filled()[before..], &escapes);
            buf.set_filled(before);
            this.give_grown(buf);
        }
        Poll::Ready(Ok(()))
    }
}

pass_writes_on!(HeadGuard);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use http_body_util::{BodyExt, Empty};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const HEAD: &[u8] = b"\r\nGET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";

    /// Sends `request` to a hyper server behind a guard; returns its answer and the guard's refusal.
    async fn through_hyper(request: &[u8]) -> (String, Option<HeadRefusal>) {
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        theirs.write_all(request).await.unwrap();
        let service = service_fn(|request: http::Request<Incoming>| {
            Box::pin(async {
                let body = request.into_body().collect().await;
                body.map(|_| http::Response::new(Empty::<&[u8]>::new()))
            })
        });
        let mut connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(HeadGuard::new(ours.into())), service);
        let _ = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        let guard = connection.into_parts().io.into_inner();
        let refusal = guard.refusal();
        drop(guard);
        let mut answer = String::new();
        theirs.read_to_string(&mut answer).await.unwrap();
        (answer, refusal)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn hyper_answers_400_wherever_the_bad_byte_stands() {
        for (request, refusal) in [
            ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", HeadRefusal::BareLf),
            ("GET / HTTP/1.1\nHost: a\n\n", HeadRefusal::BareLf),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", HeadRefusal::BareLf),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", HeadRefusal::BareLf),
            ("GET / HTTP/1.1\r\nHost\n: a\r\n\r\n", HeadRefusal::BareLf),
            ("GET\n/ HTTP/1.1\r\nHost: a\r\n\r\n", HeadRefusal::BareLf),
            ("GET /\n HTTP/1.1\r\nHost: a\r\n\r\n", HeadRefusal::BareLf),
            ("GET / HT\nTP/1.1\r\nHost: a\r\n\r\n", HeadRefusal::BareLf),
            ("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", HeadRefusal::BareCr),
            ("GET / HTTP/1.1\rHost: a\r\n\r\n", HeadRefusal::BareCr),
            ("GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", HeadRefusal::Nul),
            ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", HeadRefusal::Nul),
        ] {
            let (answer, found) = through_hyper(request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{request:?}: {answer:?}");
            assert_eq!(found, Some(refusal), "{request:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_good_request_and_what_follows_it_pass() {
        let request = [HEAD, b"GET /again HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"].concat();
        let (answer, refusal) = through_hyper(&request).await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
        assert_eq!(refusal, None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_bad_request_after_a_good_one_is_refused_after_the_good_one_is_answered() {
        let (answer, refusal) = through_hyper(&[HEAD, b"GET /again HTTP/1.1\r\nHost: a\n\r\n"].concat()).await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 400 Bad Request").count(), 1, "{answer}");
        assert_eq!(refusal, Some(HeadRefusal::BareLf));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_line_of_a_chunked_body_is_watched_and_what_is_behind_it_too() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let next = "GET /again HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        for (body, answers, expected) in [
            ("3;a\r\n\n\r\0\r\n0\r\nX: y\r\n\r\n", 2, None),
            ("0\r\n\nX: y\r\n\r\n", 0, Some(HeadRefusal::BareLf)),
            ("0\r\n\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n", 0, Some(HeadRefusal::BareLf)),
            ("0\r\nX: y\n\r\n\r\n", 0, Some(HeadRefusal::BareLf)),
            ("3\r\nabc\n0\r\n\r\n", 0, Some(HeadRefusal::BareLf)),
            ("0\r\n\r\n\n", 1, Some(HeadRefusal::BareLf)),
            ("0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n\n", 2, Some(HeadRefusal::BareLf)),
        ] {
            let (answer, refusal) = through_hyper(format!("{head}{body}{next}").as_bytes()).await;
            assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), answers, "{body:?}: {answer}");
            assert_eq!(refusal, expected, "{body:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_grows_by_escapes_arrives_whole_however_little_is_read() {
        let request = "GET /\"\u{e9}\"?q=<\">` HTTP/1.1\r\nHost: \"a\"\r\n\r\n";
        let expected = "GET /%22%C3%A9%22?q=%3C%22%3E` HTTP/1.1\r\nHost: \"a\"\r\n\r\n";
        for (size, cut) in [(1, 0), (2, 7), (3, 20), (64, 12), (1024, 0)] {
            let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
            theirs.write_all(&request.as_bytes()[cut..]).await.unwrap();
            drop(theirs);
            let mut guard = HeadGuard::new(Prefixed::new(request.as_bytes()[..cut].to_vec(), ours));
            let (mut all, mut buffer) = (vec![], vec![0; size]);
            loop {
                match guard.read(&mut buffer).await.unwrap() {
                    0 => break,
                    read => all.extend_from_slice(&buffer[..read]),
                }
            }
            assert_eq!(String::from_utf8(all).unwrap(), expected, "{size} {cut}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn early_bytes_are_watched_too() {
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        let mut guard = HeadGuard::new(Prefixed::new(b"GET / HTTP/1.1\nHost".to_vec(), ours));
        let mut read = Vec::new();
        guard.read_to_end(&mut read).await.unwrap();
        assert_eq!((read.as_slice(), guard.refusal()), (b"GET / HTTP/1.1\0".as_slice(), Some(HeadRefusal::BareLf)));
    }
}
