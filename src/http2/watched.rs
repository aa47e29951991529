//! A connection whose frames are watched on their way, and which gives its streams their turns.
//!
//! h2 reads as long as there is something to read. A burst of small frames would all be kept before the first of their streams
//! could take any, so reading pauses now and then.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{FrameHeader, FrameReader};

/// What is told of each frame.
pub trait FrameWatcher {
    /// A frame of the peer begins.
    fn received(&mut self, frame: FrameHeader);
    /// A frame of ours begins.
    fn sent(&mut self, frame: FrameHeader);
}

/// One side of a connection, from the client's preface on.
pub struct Watched<S, W> {
    io: S,
    received: FrameReader,
    sent: FrameReader,
    /// What was read since there last was nothing to read, or a pause.
    read_on: usize,
    watcher: W,
}

/// How much is read before the streams have their turn.
const READ_ON_MAX: usize = 64 * 1024;

impl<S, W: FrameWatcher> Watched<S, W> {
    /// Watches the frames of `io` from the client's side.
    pub fn by_client(io: S, watcher: W) -> Watched<S, W> {
        Watched { io, received: FrameReader::of_server(), sent: FrameReader::of_client(), read_on: 0, watcher }
    }

    /// Watches the frames of `io` from the server's side.
    pub fn new(io: S, watcher: W) -> Watched<S, W> {
        Watched { io, received: FrameReader::of_client(), sent: FrameReader::of_server(), read_on: 0, watcher }
    }
}

impl<S: AsyncRead + Unpin, W: FrameWatcher + Unpin> AsyncRead for Watched<S, W> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Watched { io, received, read_on, watcher, .. } = self.get_mut();
        if *read_on >= READ_ON_MAX {
            *read_on = 0;
            // Behind the tasks that are ready.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(io).poll_read(cx, buf);
        let bytes = &buf.filled()[before..];
        received.read(bytes, |frame| watcher.received(frame));
        *read_on = if read.is_pending() { 0 } else { *read_on + bytes.len() };
        read
    }
}

impl<S: AsyncWrite + Unpin, W: FrameWatcher + Unpin> AsyncWrite for Watched<S, W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Watched { io, sent, watcher, .. } = self.get_mut();
        let written = Pin::new(io).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = written {
            sent.read(&buf[..count], |frame| watcher.sent(frame));
        }
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Watched { io, sent, watcher, .. } = self.get_mut();
        let written = Pin::new(io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut left)) = written {
            for buf in bufs {
                let count = left.min(buf.len());
                sent.read(&buf[..count], |frame| watcher.sent(frame));
                left -= count;
            }
        }
        written
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

impl<S: fmt::Debug, W> fmt::Debug for Watched<S, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("io", &self.io).finish_non_exhaustive()
    }
}
