//! A stream whose writes fail if the peer reads nothing for too long.
//!
//! While the peer reads, it costs neither a timer nor a clock reading.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// A stream with a time limit for each write.
#[derive(Debug)]
pub struct WriteTimeout<S> {
    io: S,
    limit: Option<Duration>,
    /// While there are any, it does not end: they have limits of their own.
    sessions: Option<Arc<AtomicUsize>>,
    /// Created when a write waits; kept for the next one.
    timer: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
    is_over: bool,
}

impl<S> WriteTimeout<S> {
    /// Limits each write on `io` to `limit`, if there is one.
    pub fn new(io: S, limit: Option<Duration>) -> WriteTimeout<S> {
        WriteTimeout { io, limit, sessions: None, timer: None, is_waiting: false, is_over: false }
    }

    /// The same for a connection that carries this many sessions, among others: it may wait as long as they may.
    pub fn with_sessions(self, sessions: Arc<AtomicUsize>) -> WriteTimeout<S> {
        WriteTimeout { sessions: Some(sessions), ..self }
    }

    /// Returns whether a write has timed out, and the stream.
    pub fn into_parts(self) -> (bool, S) {
        (self.is_over, self.io)
    }

    fn check_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Some(limit) = self.limit.filter(|_| written.is_pending()) else {
            self.is_waiting = false;
            return written;
        };
        let until = || Instant::now() + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until())));
        if !std::mem::replace(&mut self.is_waiting, true) {
            timer.as_mut().reset(until());
        }
        std::task::ready!(timer.as_mut().poll(cx));
        if self.sessions.as_ref().is_some_and(|sessions| sessions.load(Ordering::Relaxed) > 0) {
            timer.as_mut().reset(until());
            std::task::ready!(timer.as_mut().poll(cx));
        }
        self.is_over = true;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.check_time(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.check_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.io).poll_flush(cx) {
            // A write may still wait: a flush tells nothing about it.
            Poll::Ready(flushed) => Poll::Ready(flushed),
            Poll::Pending => this.check_time(cx, Poll::Pending),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let ended = Pin::new(&mut this.io).poll_shutdown(cx);
        this.check_time(cx, ended)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_write_that_nobody_takes_fails() {
        let (ours, _theirs) = tokio::io::duplex(4);
        let mut io = WriteTimeout::new(ours, Some(Duration::from_millis(20)));
        assert_eq!(io.write_all(b"more than fits").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(io.into_parts().0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn each_write_has_the_whole_time() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut io = WriteTimeout::new(ours, Some(Duration::from_secs(3600)));
        let reading = async {
            for _ in 0..3 {
                tokio::task::yield_now().await;
                theirs.read_exact(&mut [0; 4]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(io.write_all(&[0; 12]), reading);
        written.unwrap();
        assert!(io.timer.is_some(), "it has waited");
        assert!(!io.is_waiting, "and waits no longer: the next time begins anew");
        let first = io.timer.as_ref().unwrap().deadline();
        let mut more = std::pin::pin!(io.write_all(&[0; 8]));
        std::future::poll_fn(|cx| Poll::Ready(more.as_mut().poll(cx).is_pending())).await;
        drop(theirs);
        let _ = more.await;
        assert!(io.timer.as_ref().unwrap().deadline() > first);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_a_limit_there_is_no_timer() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut io = WriteTimeout::new(ours, None);
        let mut taken = [0; 8];
        let (written, read) = tokio::join!(io.write_all(&[0; 8]), theirs.read_exact(&mut taken));
        assert!(written.is_ok() && read.is_ok() && io.timer.is_none());
    }
}
