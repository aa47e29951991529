//! Encrypted bytes that are not sent yet.
//!
//! Empty as long as the socket takes all bytes. Otherwise the rest waits here, and nothing more is encrypted until it
//! is gone: a peer that does not read costs one buffer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use super::span::ByteSpan;
use crate::net::pool;

/// Records on their way to the socket.
#[derive(Debug, Default)]
pub struct Outgoing {
    span: Option<ByteSpan>,
    /// Whether the bytes may wait for the next write.
    patient: bool,
}

impl Outgoing {
    /// Goes on with `bytes` of another process; `patient` is whether they may wait for the next write.
    pub fn restore(bytes: &[u8], patient: bool) -> Outgoing {
        let span = (!bytes.is_empty()).then(|| ByteSpan::new(pool::copy_of(bytes), bytes.len()));
        Outgoing { patient: patient && span.is_some(), span }
    }

    /// Returns the waiting bytes.
    pub fn bytes(&self) -> &[u8] {
        self.span.as_ref().map_or(&[], ByteSpan::bytes)
    }

    /// Returns true if the waiting bytes may wait for the next write.
    pub fn may_wait(&self) -> bool {
        self.patient && self.span.is_some()
    }

    /// Returns true if bytes wait that should be sent now.
    pub fn is_due(&self) -> bool {
        self.span.is_some() && !self.patient
    }

    /// Lets the current bytes wait for the next write.
    pub fn wait(&mut self) {
        self.patient = true;
        if let Some(span) = &mut self.span {
            span.shrink();
        }
    }

    /// Returns room for at least `count` bytes after the waiting ones.
    pub fn room(&mut self, count: usize) -> &mut [u8] {
        let fits = |span: &ByteSpan| span.capacity() - span.bytes().len() >= count;
        let span = match self.span.take() {
            Some(mut span) if fits(&span) => {
                if span.room().len() < count {
                    span.compact();
                }
                span
            }
            before => {
                let before = before.as_ref().map_or(&[][..], ByteSpan::bytes);
                let mut buffer = pool::take_at_least(before.len() + count);
                buffer[..before.len()].copy_from_slice(before);
                ByteSpan::new(buffer, before.len())
            }
        };
        self.span.insert(span).room()
    }

    /// Adds `count` bytes that were written into the [`room`](Self::room); they and all before them are due now.
    pub fn add(&mut self, count: usize) {
        self.patient = false;
        if let Some(span) = &mut self.span {
            span.add(count);
        }
    }

    /// Sends the waiting bytes, in one call if the socket takes them.
    ///
    /// # Errors
    /// Returns those of the socket; the waiting bytes are then dropped.
    pub fn poll_send<S>(&mut self, cx: &mut Context<'_>, io: &mut S) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        while let Some(span) = &mut self.span {
            let sent = match span.bytes() {
                [] => Ok(0),
                bytes => match Pin::new(&mut *io).poll_write(cx, bytes) {
                    Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(result) => result,
                    Poll::Pending => {
                        span.shrink();
                        return Poll::Pending;
                    }
                },
            };
            match sent {
                Ok(count) if count < span.len() => span.advance(count),
                Ok(_) => self.span = None,
                Err(error) => {
                    self.span = None;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
