//! One direction of a relay: reads from one connection, lets the tunnel judge the bytes, and writes to the other.
//!
//! Queues what cannot be written at once, and does not read the source meanwhile. The same goes for what the tunnel does
//! not take yet (`TunnelStep::Wait`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::has_budget_remaining;

use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::net::pool::{self, Buffer, BufferSize};
use crate::net::transport::RelayIo;
use crate::ws::Side;
use crate::ws::frame::ControlFrame;
use crate::ws::tunnel::{Observer, Tunnel, TunnelStep};

/// How much one direction may read in one poll. Then the task yields to all others, so that one busy session does not
/// starve the rest. Counted by the size of the buffers: 2 reads of bulk data, 32 of small messages.
pub(super) const BYTES_PER_POLL: usize = 512 * 1024;

/// The state of one direction, without its two connections. Rarely used state is boxed.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "8 bytes in each session instead of 24")]
pub(super) struct Lane {
    /// Bytes read and not yet forwarded: the start of a header or control frame, bytes that came with the handshake, or
    /// what is left of a read of a peer that has sent all that it may.
    pub(super) carry: Option<Box<Vec<u8>>>,
    /// Whether `carry` holds bytes that the tunnel has not taken, and may take now or later without more of them.
    pub(super) is_carry_new: bool,
    /// Bytes that the far connection does not accept now.
    queued: Option<Box<QueuedBytes>>,
    /// Whether bytes may wait inside the far connection (TLS records).
    unflushed: bool,
    /// Whether a write is in progress that the tunnel counts as done. Still set afterwards only if a panic interrupted
    /// it.
    pub(super) is_half_written: bool,
    /// Whether the source had nothing to read and will wake the task.
    has_waker: bool,
    /// The read size; grows while a connection streams.
    size: BufferSize,
    shut: Shut,
}

/// What a lane holds, written down for another process. All else of a lane is found anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneState {
    carry: Vec<u8>,
    is_carry_new: bool,
    queued: Vec<u8>,
    unflushed: bool,
    shut: Shut,
}

/// The progress of shutting down a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Shut {
    Open,
    /// Shutdown has begun and is not fully written.
    Ending,
    Ended,
}

#[derive(Debug)]
struct QueuedBytes {
    buffer: Buffer,
    start: usize,
    end: usize,
}

/// One direction with its connections, for one call.
pub(super) struct LaneContext<'a, F, T, O> {
    pub(super) tunnel: &'a mut Tunnel,
    pub(super) observer: &'a mut O,
    pub(super) lane: &'a mut Lane,
    pub(super) source: &'a mut F,
    pub(super) target: &'a mut T,
    pub(super) from: Side,
}

impl<F, T, O> LaneContext<'_, F, T, O>
where
    F: AsyncRead + RelayIo + Unpin,
    T: AsyncWrite + Unpin,
    O: Observer,
{
    pub(super) fn pump(&mut self, cx: &mut Context<'_>, now: MonotonicTime) -> bool {
        let mut allowed = BYTES_PER_POLL;
        let mut was_short = false;
        while allowed > 0 {
            if self.lane.is_blocked()
                && !self.lane.write_queued(cx, now, self.tunnel, self.target, self.from.other())
                && self.tunnel.forwards(self.from)
            {
                return false;
            }
            if self.tunnel.is_delayed(now, self.from) {
                return false;
            }
            if self.lane.is_carry_new {
                let carry = self.lane.carry.take().unwrap_or_default();
                self.lane.is_carry_new = false;
                let mut buffer = pool::take_at_least(carry.len());
                buffer[..carry.len()].copy_from_slice(&carry);
                self.pass(cx, now, buffer, carry.len());
                continue;
            }
            if !self.tunnel.wants_bytes(self.from) {
                return false;
            }
            // Most wake-ups are for the other direction: this check then saves a lock.
            if self.lane.has_waker && !self.source.may_read() {
                return false;
            }
            // A read that did not fill the buffer usually took everything: then only the waker must be registered.
            if was_short && self.source.poll_may_read(cx).is_pending() {
                self.lane.has_waker = has_budget_remaining();
                return false;
            }
            // What is read of a peer that may send only so much may have to be kept.
            let size = if self.tunnel.is_metered(self.from) { BufferSize::Small } else { self.lane.size };
            allowed = allowed.saturating_sub(size.bytes());
            let mut buffer = pool::take(size);
            let held = self.lane.carry.as_ref().map_or(0, |carry| carry.len());
            if let Some(carry) = &self.lane.carry {
                buffer[..held].copy_from_slice(carry);
            }
            let mut read = ReadBuf::new(&mut buffer[held..]);
            match Pin::new(&mut *self.source).poll_read(cx, &mut read) {
                Poll::Pending => {
                    // Without coop budget the read may not have registered its waker.
                    self.lane.has_waker = has_budget_remaining();
                    return false;
                }
                Poll::Ready(Ok(())) => {
                    self.lane.has_waker = false;
                    let count = read.filled().len();
                    if count == 0 {
                        self.tunnel.handle_eof(now, self.from);
                        return false;
                    }
                    was_short = held + count < size.bytes();
                    self.lane.size = match count {
                        _ if held + count == size.bytes() => size.grown(),
                        _ if count < size.bytes() / 4 => size.shrunk(),
                        _ => size,
                    };
                    self.lane.carry = None;
                    self.pass(cx, now, buffer, held + count);
                }
                Poll::Ready(Err(error)) => {
                    // A TLS stream that ends without close_notify counts as FIN; any other error ends both directions.
                    if error.kind() != io::ErrorKind::UnexpectedEof {
                        self.tunnel.handle_broken(now, self.from);
                    }
                    self.tunnel.handle_eof(now, self.from);
                    return false;
                }
            }
        }
        true
    }

    /// Judges `buffer[..end]` and writes what should be forwarded.
    fn pass(&mut self, cx: &mut Context<'_>, now: MonotonicTime, buffer: Buffer, end: usize) {
        let to = self.from.other();
        let mut at = 0;
        while at < end {
            match self.tunnel.handle_bytes(now, self.from, &buffer[at..end], self.observer) {
                TunnelStep::Forward(count) if at + count == end => {
                    self.lane.write_last(cx, self.tunnel, self.target, to, buffer, at, end);
                    return;
                }
                TunnelStep::Forward(count) => {
                    self.lane.write(cx, self.tunnel, self.target, to, &buffer[at..at + count]);
                    self.lane.inject(cx, now, self.tunnel, self.observer, self.target, to);
                    at += count;
                }
                TunnelStep::Remask(count) => {
                    let mask = (to == Side::Server).then(|| fastrand::u32(..).to_ne_bytes());
                    let frame = ControlFrame::masked_anew(&buffer[at..at + count], mask);
                    self.lane.write(cx, self.tunnel, self.target, to, frame.as_bytes());
                    at += count;
                }
                TunnelStep::Drop(count) => at += count,
                step @ (TunnelStep::NeedMore | TunnelStep::Wait) => {
                    debug_assert!(self.lane.carry.is_none());
                    self.lane.carry = Some(Box::new(buffer[at..end].to_vec()));
                    self.lane.is_carry_new = matches!(step, TunnelStep::Wait);
                    break;
                }
            }
        }
        self.lane.flush(cx, self.tunnel, self.target, to);
    }
}

impl Lane {
    pub(super) fn starting_with(early: Vec<u8>) -> Lane {
        Lane {
            is_carry_new: !early.is_empty(),
            carry: (!early.is_empty()).then(|| Box::new(early)),
            queued: None,
            unflushed: false,
            is_half_written: false,
            has_waker: false,
            size: BufferSize::Small,
            shut: Shut::Open,
        }
    }

    /// Writes down what the lane holds.
    pub(super) fn into_state(self) -> LaneState {
        let Lane { carry, is_carry_new, queued, unflushed, is_half_written, has_waker: _, size: _, shut } = self;
        debug_assert!(!is_half_written, "a lane is written down between two polls");
        let queued = queued.map_or_else(Vec::new, |queued| {
            let QueuedBytes { buffer, start, end } = *queued;
            buffer[start..end].to_vec()
        });
        LaneState { carry: carry.map_or_else(Vec::new, |carry| *carry), is_carry_new, queued, unflushed, shut }
    }

    /// Returns the lane that was written down.
    pub(super) fn restore(state: LaneState) -> Lane {
        let LaneState { carry, is_carry_new, queued, unflushed, shut } = state;
        let queued = (!queued.is_empty()).then(|| {
            let mut buffer = pool::take_at_least(queued.len());
            buffer[..queued.len()].copy_from_slice(&queued);
            Box::new(QueuedBytes { buffer, start: 0, end: queued.len() })
        });
        Lane {
            is_carry_new: is_carry_new && !carry.is_empty(),
            carry: (!carry.is_empty()).then(|| Box::new(carry)),
            queued,
            unflushed,
            is_half_written: false,
            has_waker: false,
            size: BufferSize::Small,
            shut,
        }
    }

    /// Returns the number of bytes held for the far connection, without those that it buffers itself.
    pub(super) fn queued(&self) -> usize {
        self.queued.as_ref().map_or(0, |queued| queued.end - queued.start)
            + self.carry.as_ref().map_or(0, |carry| carry.len())
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.queued.is_some() || self.unflushed
    }

    /// Writes the last bytes of a buffer, and queues the buffer itself if not all can be written.
    #[expect(clippy::too_many_arguments, reason = "the hot path: one call, nothing packed or copied")]
    fn write_last(
        &mut self,
        cx: &mut Context<'_>,
        tunnel: &mut Tunnel,
        target: &mut (impl AsyncWrite + Unpin),
        to: Side,
        buffer: Buffer,
        start: usize,
        end: usize,
    ) {
        self.is_half_written = true;
        if self.queued.is_none() {
            match write_some(cx, target, &buffer[start..end]) {
                Ok(written) if start + written == end => self.flush(cx, tunnel, target, to),
                Ok(written) => {
                    let left = end - start - written;
                    tunnel.handle_blocked(to);
                    if left <= BufferSize::Small.bytes() && buffer.len() > BufferSize::Small.bytes() {
                        self.append(&buffer[start + written..end]);
                    } else {
                        self.queued = Some(Box::new(QueuedBytes { buffer, start: start + written, end }));
                    }
                }
                Err(_) => self.broken(tunnel, to),
            }
        } else {
            self.append(&buffer[start..end]);
        }
        self.is_half_written = false;
    }

    /// Writes bytes, or queues a copy of them.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        tunnel: &mut Tunnel,
        target: &mut (impl AsyncWrite + Unpin),
        to: Side,
        bytes: &[u8],
    ) {
        self.is_half_written = true;
        if self.queued.is_some() {
            self.append(bytes);
        } else {
            match write_some(cx, target, bytes) {
                Ok(written) => {
                    self.unflushed = true;
                    if written < bytes.len() {
                        tunnel.handle_blocked(to);
                        self.append(&bytes[written..]);
                    }
                }
                Err(_) => self.broken(tunnel, to),
            }
        }
        self.is_half_written = false;
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(queued) = &mut self.queued
            && queued.buffer.len() - queued.end >= bytes.len()
        {
            queued.buffer[queued.end..queued.end + bytes.len()].copy_from_slice(bytes);
            queued.end += bytes.len();
            return;
        }
        let before: &[u8] = self.queued.as_ref().map_or(&[], |queued| &queued.buffer[queued.start..queued.end]);
        let end = before.len() + bytes.len();
        let mut buffer = pool::take_at_least(end);
        buffer[..before.len()].copy_from_slice(before);
        buffer[before.len()..end].copy_from_slice(bytes);
        self.queued = Some(Box::new(QueuedBytes { buffer, start: 0, end }));
    }

    /// Writes what is queued. Returns true once nothing is queued any more.
    fn write_queued(
        &mut self,
        cx: &mut Context<'_>,
        now: MonotonicTime,
        tunnel: &mut Tunnel,
        target: &mut (impl AsyncWrite + Unpin),
        to: Side,
    ) -> bool {
        if tunnel.is_gone(to) {
            self.drop_queued();
            return true;
        }
        if let Some(queued) = &mut self.queued {
            self.is_half_written = true;
            let written = write_some(cx, target, &queued.buffer[queued.start..queued.end]);
            self.is_half_written = false;
            match written {
                Ok(0) => return false,
                Ok(written) => {
                    queued.start += written;
                    let drained = queued.start == queued.end;
                    tunnel.handle_progress(now, to, drained);
                    if !drained {
                        return false;
                    }
                    self.queued = None;
                    self.unflushed = true;
                }
                Err(_) => {
                    self.broken(tunnel, to);
                    return true;
                }
            }
        }
        let was_unflushed = self.unflushed;
        self.flush(cx, tunnel, target, to);
        if was_unflushed && !self.unflushed {
            tunnel.handle_progress(now, to, true);
        }
        !self.unflushed
    }

    /// Flushes the connection, so that its buffer is empty.
    fn flush(&mut self, cx: &mut Context<'_>, tunnel: &mut Tunnel, target: &mut (impl AsyncWrite + Unpin), to: Side) {
        match Pin::new(target).poll_flush(cx) {
            Poll::Ready(Ok(())) => self.unflushed = false,
            Poll::Ready(Err(_)) => self.broken(tunnel, to),
            Poll::Pending => {
                self.unflushed = true;
                tunnel.handle_blocked(to);
            }
        }
    }

    /// Writes the frames that the tunnel injects.
    fn inject(
        &mut self,
        cx: &mut Context<'_>,
        now: MonotonicTime,
        tunnel: &mut Tunnel,
        observer: &mut impl Observer,
        target: &mut (impl AsyncWrite + Unpin),
        to: Side,
    ) {
        // The key need not be secret: no peer chooses what is masked with it (RFC 6455 §10.3).
        while tunnel.wants_inject(to)
            && let Some(frame) = tunnel.poll_inject(now, to, fastrand::u32(..).to_ne_bytes(), observer)
        {
            self.write(cx, tunnel, target, to, frame.as_bytes());
        }
    }

    /// Sends pending frames, drains, and shuts down one side; `over` means that nothing more is expected from either
    /// peer. Returns true once its write side is closed or broken.
    #[expect(clippy::too_many_arguments, reason = "as write_last")]
    pub(super) fn finish(
        &mut self,
        cx: &mut Context<'_>,
        now: MonotonicTime,
        tunnel: &mut Tunnel,
        observer: &mut impl Observer,
        target: &mut (impl AsyncWrite + RelayIo + Unpin),
        to: Side,
        over: bool,
    ) -> bool {
        self.inject(cx, now, tunnel, observer, target, to);
        if self.is_blocked() && !self.write_queued(cx, now, tunnel, target, to) {
            return false;
        }
        if over && (target.ends_on_drop() || tunnel.is_gone(to)) {
            self.shut = Shut::Ended;
        } else if self.shut != Shut::Ended && (over || tunnel.poll_shutdown(to)) {
            self.shut = match Pin::new(target).poll_shutdown(cx) {
                Poll::Ready(_) => Shut::Ended,
                Poll::Pending => Shut::Ending,
            };
        }
        self.shut == Shut::Ended
    }

    pub(super) fn broken(&mut self, tunnel: &mut Tunnel, to: Side) {
        tunnel.handle_broken(clock::coarse(), to);
        self.drop_queued();
    }

    /// Drops what is queued.
    fn drop_queued(&mut self) {
        self.queued = None;
        self.unflushed = false;
    }
}

/// Writes as much as the connection accepts at once.
fn write_some(cx: &mut Context<'_>, target: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match Pin::new(&mut *target).poll_write(cx, &bytes[written..]) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(count)) => written += count,
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    Ok(written)
}
