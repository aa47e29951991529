//! What a stream may hold on either side, and how much of it may be sent: the least of the peer's two windows and the
//! connection's send buffer (RFC 9113 §5.2).

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use prometheus::IntCounter;

/// What may come on a stream before it is taken: at 20 ms, 12 MB a second.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// What may wait on a stream to be sent.
pub const SEND_BUFFER: usize = 64 * 1024;
/// The largest window (RFC 9113 §6.9.1).
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// Returns the window of a connection that has room for so many streams: one that is not taken from never holds up the others.
pub fn of_connection(streams: u32) -> u32 {
    STREAM_WINDOW.saturating_mul(streams).min(WINDOW_MAX)
}

/// Counts how often a stream had to wait for a window.
#[derive(Debug)]
pub(super) struct Stalls {
    counter: IntCounter,
    is_stalled: bool,
}

impl Stalls {
    pub(super) fn new(counter: IntCounter) -> Stalls {
        Stalls { counter, is_stalled: false }
    }
}

/// Waits until some of `wanted` bytes may be sent, and returns how many.
///
/// # Errors
/// If the stream was reset, or ended, or its connection is lost.
pub(super) fn poll_room(
    send: &mut SendStream<Bytes>,
    stalls: &mut Stalls,
    cx: &mut Context<'_>,
    wanted: usize,
) -> Poll<Result<usize, h2::Error>> {
    // Reserved only while something is to be written: what is reserved is taken from the connection's window.
    if send.capacity() < wanted {
        send.reserve_capacity(wanted);
    }
    while send.capacity() == 0 {
        match send.poll_capacity(cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
            // It is no longer open.
            Poll::Ready(None) => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
            Poll::Pending => {
                if !std::mem::replace(&mut stalls.is_stalled, true) {
                    stalls.counter.inc();
                }
                return Poll::Pending;
            }
        }
    }
    stalls.is_stalled = false;
    Poll::Ready(Ok(send.capacity().min(wanted)))
}
