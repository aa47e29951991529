//! Refuses line ends that HTTP forbids, in the first request head of a connection.
//!
//! hyper's parser takes a bare LF for a line end. RFC 9112 §2.2 allows that, but a proxy that reads a line end where the
//! next one reads a character is how requests are smuggled; so we take CR LF and nothing else, and refuse a bare CR, a
//! bare LF and NUL (RFC 9110 §5.5).
//!
//! The guard stands between the socket (or TLS) and hyper and looks at bytes as hyper reads them; it holds none. When
//! it finds a bad one, it puts a NUL in its place and ends the stream there. No head with a NUL in it is valid anywhere,
//! so hyper answers 400 by itself, with all that belongs to it (`Connection: close`, an end in order); had the guard
//! returned an I/O error, hyper would have closed without an answer. [`HeadGuard::refusal`] tells afterwards what it was:
//! drive the connection by `poll_without_shutdown` (the service's future is boxed for it, as the handshake phase should be
//! anyway), and on an error look into `into_parts().io`.
//!
//! After the end of the head the guard is one branch per read. Later requests on the same connection are not watched:
//! hyper's own parser refuses all of this but the bare LF there, and re-encodes what it has understood.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Prefixed;

/// What was wrong in a request head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadRefusal {
    /// LF without CR before it.
    #[error("a line of the request head ends with LF alone")]
    BareLf,
    /// CR without LF behind it.
    #[error("the request head has a CR without LF")]
    BareCr,
    /// A NUL.
    #[error("the request head has a NUL")]
    Nul,
}

/// A stream whose first request head is watched.
#[derive(Debug)]
pub struct HeadGuard<S> {
    io: Prefixed<S>,
    state: State,
}

#[derive(Debug)]
enum State {
    Watching(Scan),
    Transparent,
    Refused(HeadRefusal),
}

impl<S> HeadGuard<S> {
    /// Watches the head that comes first on `io`, early bytes included.
    pub fn new(io: Prefixed<S>) -> HeadGuard<S> {
        HeadGuard { io, state: State::Watching(Scan::default()) }
    }

    /// What was found to be wrong, if anything was.
    pub fn refusal(&self) -> Option<HeadRefusal> {
        match self.state {
            State::Refused(refusal) => Some(refusal),
            State::Watching(_) | State::Transparent => None,
        }
    }

    /// The stream beneath.
    pub fn io(&self) -> &S {
        self.io.io()
    }

    /// Takes it apart: early bytes that nobody has read (rare: hyper's first read takes them all), and the stream.
    pub fn into_parts(self) -> (Vec<u8>, S) {
        self.io.into_parts()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadGuard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let scan = match &mut this.state {
            State::Transparent => return Pin::new(&mut this.io).poll_read(cx, buf),
            State::Refused(_) => return Poll::Ready(Ok(())),
            State::Watching(scan) => scan,
        };
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        match scan.scan(&buf.filled()[before..]) {
            Verdict::More => {}
            Verdict::End => this.state = State::Transparent,
            Verdict::Refused { at, refusal } => {
                buf.filled_mut()[before + at] = 0;
                buf.set_filled(before + at + 1);
                this.state = State::Refused(refusal);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadGuard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Where in the head we are, between two reads.
#[derive(Debug, Default)]
struct Scan {
    after_cr: bool,
    line_has_bytes: bool,
    /// A line that is not empty was seen. Empty lines before it are skipped (RFC 9112 §2.2).
    begun: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    More,
    End,
    Refused { at: usize, refusal: HeadRefusal },
}

impl Scan {
    fn scan(&mut self, bytes: &[u8]) -> Verdict {
        let mut at = 0;
        loop {
            if self.after_cr {
                match bytes.get(at) {
                    None => return Verdict::More,
                    Some(b'\n') if self.begun && !self.line_has_bytes => return Verdict::End,
                    Some(b'\n') => {}
                    Some(_) => return Verdict::Refused { at, refusal: HeadRefusal::BareCr },
                }
                *self = Scan { after_cr: false, line_has_bytes: false, begun: self.begun };
                at += 1;
            }
            let Some(length) = memchr::memchr3(b'\r', b'\n', 0, &bytes[at..]) else {
                self.saw_text(at < bytes.len());
                return Verdict::More;
            };
            self.saw_text(length > 0);
            at += length;
            match bytes[at] {
                b'\r' => self.after_cr = true,
                b'\n' => return Verdict::Refused { at, refusal: HeadRefusal::BareLf },
                _ => return Verdict::Refused { at, refusal: HeadRefusal::Nul },
            }
            at += 1;
        }
    }

    fn saw_text(&mut self, any: bool) {
        self.line_has_bytes |= any;
        self.begun |= any;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Empty;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const HEAD: &[u8] = b"\r\nGET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";

    fn scan_all(chunks: &[&[u8]]) -> (Verdict, usize) {
        let (mut scan, mut before) = (Scan::default(), 0);
        for chunk in chunks {
            match scan.scan(chunk) {
                Verdict::More => before += chunk.len(),
                Verdict::Refused { at, refusal } => return (Verdict::Refused { at: before + at, refusal }, 0),
                Verdict::End => return (Verdict::End, 0),
            }
        }
        (Verdict::More, before)
    }

    #[test]
    fn the_head_ends_with_its_empty_line_and_not_before() {
        assert_eq!(scan_all(&[HEAD]).0, Verdict::End);
        assert_eq!(scan_all(&[&HEAD[..HEAD.len() - 1]]).0, Verdict::More);
        assert_eq!(scan_all(&[b"\r\n\r\n\r\n"]).0, Verdict::More);
        // What follows the head is nobody's business here.
        assert_eq!(scan_all(&[HEAD, b"\n\0\r"]).0, Verdict::End);
    }

    #[test]
    fn each_forbidden_byte_is_found_where_it_stands() {
        let cases: [(&[u8], usize, HeadRefusal); 8] = [
            (b"\nGET", 0, HeadRefusal::BareLf),
            (b"GET / HTTP/1.1\nHost: a\n\n", 14, HeadRefusal::BareLf),
            (b"GET / HTTP/1.1\r\nA: b\n\r\n", 20, HeadRefusal::BareLf),
            (b"GET / HTTP/1.1\r\nA: b\r\n\n", 22, HeadRefusal::BareLf),
            (b"GET / HTTP/1.1\r\nA: b\rc\r\n", 21, HeadRefusal::BareCr),
            (b"GET / HTTP/1.1\r\r\n", 15, HeadRefusal::BareCr),
            (b"GET /\0 HTTP/1.1\r\n", 5, HeadRefusal::Nul),
            (b"GET / HTTP/1.1\r\0", 15, HeadRefusal::BareCr),
        ];
        for (bytes, at, refusal) in cases {
            assert_eq!(
                scan_all(&[bytes]).0,
                Verdict::Refused { at, refusal },
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(text in "[a\r\n\0]{0,40}|(a{0,3}\r\n){0,6}[\r\n\0a]{0,4}", cut in 0usize..40) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let singles: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(scan_all(&[bytes]), scan_all(&singles));
            prop_assert_eq!(scan_all(&[bytes]), scan_all(&[&bytes[..cut], &bytes[cut..]]));
        }
    }

    /// Sends `request` to a hyper server behind a guard; its answer, and what the guard says.
    async fn through_hyper(request: &[u8]) -> (String, Option<HeadRefusal>) {
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        theirs.write_all(request).await.unwrap();
        let service =
            service_fn(|_| std::future::ready(Ok::<_, Infallible>(http::Response::new(Empty::<&[u8]>::new()))));
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
    async fn early_bytes_are_watched_too() {
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        let mut guard = HeadGuard::new(Prefixed::new(b"GET / HTTP/1.1\nHost".to_vec(), ours));
        let mut read = Vec::new();
        guard.read_to_end(&mut read).await.unwrap();
        assert_eq!((read.as_slice(), guard.refusal()), (b"GET / HTTP/1.1\0".as_slice(), Some(HeadRefusal::BareLf)));
    }
}
