//! Reads a socket in large steps beneath rustls, which asks for 4 KiB at a time.
//!
//! A record of 16 KiB is one call instead of five, and many small records that wait together are one call instead of
//! many. The buffer comes from the worker's pool when there is something to read and goes back as soon as rustls has
//! taken all of it, so a connection that waits holds nothing. Only under back-pressure, when rustls has no room left
//! because its reader does not read, it is kept.
//!
//! It also saves the call that says EAGAIN: tokio takes a read that did not fill its buffer as "nothing more there" and
//! waits for the poll, and with a large buffer nearly every read is such a one.
//!
//! Writes pass straight through.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::net::pool::{self, Buffer, Size};
use crate::net::stream::pass_writes_on;

/// Holds three whole records of the largest kind; a connection that fills it gets the large one.
const USUAL: Size = Size::Medium;

/// A stream that is read in large steps.
#[derive(Debug)]
pub struct ReadAhead<S> {
    io: S,
    ahead: Option<Ahead>,
    /// What the next read takes: more where the last one filled its buffer.
    size: Size,
}

/// Bytes that were read and not yet asked for; never empty.
#[derive(Debug)]
struct Ahead {
    buffer: Buffer,
    start: u32,
    end: u32,
}

impl Ahead {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start as usize..self.end as usize]
    }
}

impl<S> ReadAhead<S> {
    /// Reads `io`, after `early`, which was read from it before.
    pub fn new(early: &[u8], io: S) -> ReadAhead<S> {
        let ahead = (!early.is_empty()).then(|| {
            let mut buffer = pool::take_at_least(early.len());
            buffer[..early.len()].copy_from_slice(early);
            Ahead { buffer, start: 0, end: early.len() as u32 }
        });
        ReadAhead { io, ahead, size: USUAL }
    }

    /// The bytes that were read and not yet asked for.
    pub fn bytes(&self) -> &[u8] {
        self.ahead.as_ref().map_or(&[], Ahead::bytes)
    }

    /// The stream beneath.
    pub fn io(&self) -> &S {
        &self.io
    }

    /// The stream beneath. Reading from it directly passes [`bytes`](Self::bytes) by.
    pub fn io_mut(&mut self) -> &mut S {
        &mut self.io
    }

    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let Some(ahead) = &mut self.ahead else { return };
        let bytes = ahead.bytes();
        let amount = bytes.len().min(buf.remaining());
        buf.put_slice(&bytes[..amount]);
        ahead.start += amount as u32;
        if ahead.start == ahead.end {
            self.ahead = None;
        }
    }
}

impl<S: AsyncRead + Unpin> ReadAhead<S> {
    /// Waits until something is there to be looked at; an empty slice is the end of the stream.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_peek(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if self.ahead.is_none() {
            let mut buffer = pool::take(self.size);
            let mut read = ReadBuf::new(&mut buffer);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            let (length, full) = (read.filled().len(), read.remaining() == 0);
            if full {
                self.size = self.size.grown();
            } else if length <= USUAL.bytes() {
                self.size = USUAL;
            }
            if length > 0 {
                self.ahead = Some(Ahead { buffer, start: 0, end: length as u32 });
            }
        }
        Poll::Ready(Ok(self.bytes()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_peek(cx))?;
        this.take(buf);
        Poll::Ready(Ok(()))
    }
}

pass_writes_on!(ReadAhead);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
    use tokio::net::{TcpListener, TcpStream, UnixStream};
    use tokio_rustls::TlsAcceptor;

    use super::super::client::{ClientTlsOptions, client_config, connect, server_name};
    use super::super::server::{MinVersion, ServerTlsOptions, server_config};
    use super::super::test_certificates::Ca;
    use super::*;

    /// A socket that has `waiting` bytes to read and counts how often it is asked.
    #[derive(Default)]
    struct Counted {
        waiting: Vec<u8>,
        reads: usize,
        pending: usize,
    }

    impl AsyncRead for Counted {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if self.waiting.is_empty() {
                self.pending += 1;
                return Poll::Pending;
            }
            self.reads += 1;
            let amount = self.waiting.len().min(buf.remaining());
            buf.put_slice(&self.waiting[..amount]);
            self.waiting.drain(..amount);
            Poll::Ready(Ok(()))
        }
    }

    /// Reads in steps of 4 KiB, as rustls does, until nothing more comes.
    fn read_as_rustls(stream: &mut ReadAhead<Counted>) -> Vec<u8> {
        let mut all = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let mut bytes = [0; 4096];
            let mut step = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(&mut cx, &mut step) {
                Poll::Ready(result) => {
                    result.unwrap();
                    all.extend_from_slice(step.filled());
                }
                Poll::Pending => return all,
            }
        }
    }

    #[test]
    fn a_whole_record_is_one_read_and_nothing_is_held_afterwards() {
        let record: Vec<u8> = (0..16_406u32).map(|i| i as u8).collect();
        let mut stream = ReadAhead::new(&[], Counted { waiting: record.clone(), ..Counted::default() });
        assert_eq!(read_as_rustls(&mut stream), record);
        assert_eq!((stream.io.reads, stream.io.pending), (1, 1));
        assert!(stream.ahead.is_none());
        assert_eq!(pool::free(USUAL), 1);
    }

    #[test]
    fn a_stream_that_fills_its_buffer_gets_a_larger_one_until_it_calms_down() {
        let mut stream = ReadAhead::new(&[], Counted { waiting: vec![7; 600 << 10], ..Counted::default() });
        assert_eq!(read_as_rustls(&mut stream).len(), 600 << 10);
        // 64 KiB, then 256, 256 and the rest.
        assert_eq!(stream.io.reads, 4);
        stream.io.waiting = vec![7; 100];
        read_as_rustls(&mut stream);
        assert_eq!(stream.size, USUAL);
    }

    #[test]
    fn early_bytes_come_first_without_a_read() {
        let mut stream = ReadAhead::new(b"early", Counted { waiting: b" late".to_vec(), ..Counted::default() });
        assert_eq!(stream.bytes(), b"early");
        assert_eq!(read_as_rustls(&mut stream), b"early late");
        assert_eq!(stream.io.reads, 1);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn after_a_short_read_the_socket_is_not_asked_again_before_it_has_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let mut stream = ReadAhead::new(&[], server);
        client.write_all(&[1; 5000]).await.unwrap();
        stream.read_exact(&mut [0; 5000]).await.unwrap();
        assert!(stream.bytes().is_empty());
        // tokio holds the socket for not readable: a read now returns without a call.
        let mut cx = Context::from_waker(Waker::noop());
        let ready = std::pin::pin!(stream.io().ready(Interest::READABLE)).poll(&mut cx);
        assert!(ready.is_pending());

        client.shutdown().await.unwrap();
        assert!(poll_fn(|cx| stream.poll_peek(cx).map(|bytes| bytes.unwrap().is_empty())).await);
    }

    /// A socket that counts the reads that brought something.
    struct Counting(UnixStream, Arc<AtomicUsize>);

    impl AsyncRead for Counting {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
            self.1.fetch_add(1, Relaxed);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Counting {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn beneath_rustls_a_whole_record_and_many_small_ones_are_one_read_each() {
        let ca = Ca::new();
        let identities = vec![ca.identity(&["a.example"])];
        let options = ServerTlsOptions { identities, min_version: MinVersion::Tls13, client_auth: None };
        let acceptor = TlsAcceptor::from(server_config(&options).unwrap());
        let config = client_config(&ClientTlsOptions { roots: Some(ca.roots()), identity: None }).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let reads = Arc::new(AtomicUsize::new(0));
        let (server, client) = tokio::join!(
            acceptor.accept(ReadAhead::new(&[], Counting(ours, Arc::clone(&reads)))),
            connect(theirs.into(), server_name("a.example").unwrap(), config)
        );
        let (mut server, mut client) = (server.unwrap(), client.unwrap());
        for (message, times) in [(16 * 1024, 1), (100, 50)] {
            for _ in 0..times {
                client.write_all(&vec![7; message]).await.unwrap();
                client.flush().await.unwrap();
            }
            reads.store(0, Relaxed);
            server.read_exact(&mut vec![0; message * times]).await.unwrap();
            assert_eq!(reads.load(Relaxed), 1, "{times} of {message}");
        }
    }
}
