//! Bytes from the socket that rustls has not consumed.
//!
//! The socket is read in large steps: a record of 16 KiB takes one call, and many small records that arrive together
//! take one call. The buffer comes from the worker's pool when there is something to read and is returned once it is
//! empty. The start of a record may have to wait for long, so it waits in memory of its own size.
//!
//! This also saves the call that returns EAGAIN: after a read that did not fill its buffer, tokio assumes that nothing
//! more is there and waits for the poll, and with a large buffer nearly every read is such a one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::span::ByteSpan;
use crate::net::pool::{self, BufferSize};

/// Holds three whole records of the largest size; a connection that fills it gets the large buffer. It also bounds an
/// incomplete message: no sensible handshake message has 64 KiB.
const USUAL: BufferSize = BufferSize::Medium;

/// The length of a record's header (RFC 8446 §5.1).
const HEADER: usize = 5;

/// Bytes from the socket, cut into records.
#[derive(Debug)]
pub struct Incoming {
    /// Never empty.
    span: Option<ByteSpan>,
    /// The number of bytes at the front that are whole records which rustls has seen and keeps in place: parts of an
    /// incomplete handshake message (RFC 8446 §5.1).
    joined: usize,
    /// The size of the next read; grows when a read fills its buffer.
    size: BufferSize,
}

impl Incoming {
    /// Begins with `early`, which was read from the socket before.
    pub fn new(early: &[u8]) -> Incoming {
        let span = (!early.is_empty()).then(|| ByteSpan::new(pool::copy_of(early), early.len()));
        Incoming { span, joined: 0, size: USUAL }
    }

    /// Returns all bytes.
    pub fn bytes(&self) -> &[u8] {
        self.span.as_ref().map_or(&[], ByteSpan::bytes)
    }

    /// Returns the end of the first whole record that rustls has not seen, if there is one.
    #[inline]
    pub fn record_end(&self) -> Option<usize> {
        let bytes = &self.bytes()[self.joined..];
        let &[_, _, _, high, low, ref rest @ ..] = bytes else { return None };
        let length = usize::from(u16::from_be_bytes([high, low]));
        (rest.len() >= length).then_some(self.joined + HEADER + length)
    }

    /// Returns the first `count` bytes, for rustls to decrypt in place.
    pub fn front_mut(&mut self, count: usize) -> &mut [u8] {
        self.span.as_mut().map_or(&mut [], |span| &mut span.bytes_mut()[..count])
    }

    /// Returns the bytes that rustls keeps in place; nearly always none. Every call of rustls needs them.
    pub fn joined_mut(&mut self) -> &mut [u8] {
        self.front_mut(self.joined)
    }

    /// Records that rustls has seen `seen` bytes, all whole records, and no longer needs the first `discard` of them.
    pub fn consume(&mut self, seen: usize, discard: usize) {
        debug_assert!(discard <= seen);
        self.joined = seen - discard;
        let Some(span) = &mut self.span else { return };
        span.advance(discard);
        if span.len() == 0 {
            self.span = None;
        }
    }

    /// Returns how many bytes at the front rustls has seen and keeps.
    pub fn joined(&self) -> usize {
        self.joined
    }

    /// Drops all bytes.
    pub fn clear(&mut self) {
        (self.span, self.joined) = (None, 0);
    }

    /// Reads from the socket and appends. Returns how many bytes arrived, 0 at its end.
    ///
    /// # Errors
    /// Returns those of the socket, or an error if a message is too large.
    pub fn poll_fill<S>(&mut self, cx: &mut Context<'_>, io: &mut S) -> Poll<io::Result<usize>>
    where
        S: AsyncRead + Unpin,
    {
        let held = self.bytes().len();
        if held >= USUAL.bytes() {
            let error = rustls::Error::InvalidMessage(rustls::InvalidMessage::HandshakePayloadTooLarge);
            return Poll::Ready(Err(super::tls_error(error)));
        }
        match &mut self.span {
            Some(span) if span.capacity() == self.size.bytes() => span.compact(),
            Some(span) => {
                let mut buffer = pool::take(self.size);
                buffer[..held].copy_from_slice(span.bytes());
                *span = ByteSpan::new(buffer, held);
            }
            none => *none = Some(ByteSpan::new(pool::take(self.size), 0)),
        }
        let Some(span) = &mut self.span else { unreachable!("it was put there") };
        let mut read = ReadBuf::new(span.room());
        let result = Pin::new(io).poll_read(cx, &mut read);
        let (count, full) = (read.filled().len(), read.remaining() == 0);
        span.add(count);
        if count > 0 {
            self.size = match () {
                () if full => self.size.grown(),
                () if span.len() <= USUAL.bytes() => USUAL,
                () => self.size,
            };
        } else if held > 0 {
            span.shrink();
        } else {
            self.span = None;
        }
        result.map_ok(|()| count)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use tokio::io::{AsyncWriteExt, Interest};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A socket with `waiting` bytes to read, which counts the reads.
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

    fn record(length: u16) -> Vec<u8> {
        let mut record = vec![23, 3, 3];
        record.extend(length.to_be_bytes());
        record.extend((0..length).map(|i| i as u8));
        record
    }

    fn fill(incoming: &mut Incoming, socket: &mut Counted) -> Poll<io::Result<usize>> {
        incoming.poll_fill(&mut Context::from_waker(Waker::noop()), socket)
    }

    /// Reads whole records until no more arrive.
    fn drain(incoming: &mut Incoming, socket: &mut Counted) -> Vec<u8> {
        let mut all = Vec::new();
        while let Poll::Ready(count) = fill(incoming, socket) {
            count.unwrap();
            while let Some(end) = incoming.record_end() {
                all.extend_from_slice(&incoming.bytes()[..end]);
                incoming.consume(end, end);
            }
        }
        all
    }

    #[test]
    fn a_whole_record_is_one_read_and_nothing_is_held_afterwards() {
        let mut socket = Counted { waiting: record(16_401), ..Counted::default() };
        let mut incoming = Incoming::new(&[]);
        assert_eq!(drain(&mut incoming, &mut socket), record(16_401));
        assert_eq!((socket.reads, socket.pending), (1, 1));
        assert!(incoming.span.is_none());
        assert_eq!(pool::free(USUAL), 1);
    }

    #[test]
    fn a_socket_that_fills_its_buffer_gets_a_larger_one_until_it_calms_down() {
        let all = record(9_999).repeat(60);
        let mut socket = Counted { waiting: all.clone(), ..Counted::default() };
        let mut incoming = Incoming::new(&[]);
        assert_eq!(drain(&mut incoming, &mut socket), all);
        // 64 KiB, then 256, 256 and the rest.
        assert_eq!(socket.reads, 4);
        socket.waiting = record(100);
        drain(&mut incoming, &mut socket);
        assert_eq!(incoming.size, USUAL);
    }

    #[test]
    fn the_start_of_a_record_waits_in_memory_of_its_own_size() {
        let whole = record(3_000);
        let mut socket = Counted::default();
        let mut incoming = Incoming::new(&whole[..3]);
        for end in [4, 5, 6, 1_000, 2_000, 3_004] {
            socket.waiting = whole[incoming.bytes().len()..end].to_vec();
            assert!(drain(&mut incoming, &mut socket).is_empty());
            assert_eq!(incoming.bytes(), &whole[..end]);
            assert!(incoming.span.as_ref().unwrap().capacity() <= 2 * end);
        }
        socket.waiting = whole[3_004..].to_vec();
        assert_eq!(drain(&mut incoming, &mut socket), whole);
        assert!(incoming.span.is_none());
    }

    #[test]
    fn what_rustls_keeps_stays_at_the_front_and_has_an_end() {
        let mut socket = Counted { waiting: record(30).repeat(3), ..Counted::default() };
        let mut incoming = Incoming::new(&[]);
        assert!(fill(&mut incoming, &mut socket).is_ready());
        incoming.consume(35, 0);
        assert_eq!((incoming.record_end(), incoming.joined_mut().len()), (Some(70), 35));
        incoming.consume(70, 70);
        assert_eq!((incoming.record_end(), incoming.joined_mut().len()), (Some(35), 0));

        socket.waiting = record(30).repeat(3_000);
        let refused = loop {
            while let Some(end) = incoming.record_end() {
                incoming.consume(end, 0);
            }
            match fill(&mut incoming, &mut socket) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => break error,
                Poll::Pending => panic!("all was taken"),
            }
        };
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn after_a_short_read_the_socket_is_not_asked_again_before_it_has_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut incoming = Incoming::new(&[]);
        client.write_all(&record(5_000)).await.unwrap();
        while incoming.record_end().is_none() {
            poll_fn(|cx| incoming.poll_fill(cx, &mut server)).await.unwrap();
        }
        // tokio regards the socket as not readable: a read now returns without a call.
        let mut cx = Context::from_waker(Waker::noop());
        let ready = std::pin::pin!(server.ready(Interest::READABLE)).poll(&mut cx);
        assert!(ready.is_pending());

        client.shutdown().await.unwrap();
        assert_eq!(poll_fn(|cx| incoming.poll_fill(cx, &mut server)).await.unwrap(), 0);
    }
}
