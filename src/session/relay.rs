//! Drives a `Tunnel`: two connections, one task, one timer.
//!
//! The relay moves bytes and knows nothing of frames; the tunnel knows frames and nothing of sockets. What it costs: a
//! message that arrives when nothing waits is one read, one judgement in place and one write, out of a buffer of the
//! worker's pool that is given back before the task sleeps. A connection holds bytes of its own in two cases only: the
//! start of a header that is not whole (at most 131 bytes), and what the other peer does not take at the moment. While
//! something waits for a peer, the other one is not read: back-pressure goes from end to end, and a session never
//! holds more than one read each way.
//!
//! The timer is lazy: data moves deadlines away without touching it; when it fires, it is set to what is due by then.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Table;
use crate::clock;
use crate::drain::Guard;
use crate::moment::Moment;
use crate::net::pool::{self, Buffer, Size};
use crate::net::transport::EndsOnDrop;
use crate::ws::Side;
use crate::ws::tunnel::{Observer, Step, Tunnel};

/// Reads of one direction in one poll; then the task yields, so that one busy session does not starve the others.
const READS_PER_POLL: usize = 8;
/// How far behind the coarse clock may be.
const COARSE_TICK: Duration = Duration::from_millis(20);

/// A session at work.
#[derive(Debug)]
pub struct Relay<C, S, O> {
    tunnel: Tunnel,
    client: C,
    server: S,
    to_server: Lane,
    to_client: Lane,
    observer: O,
    table: Table,
    /// When the timer is set to fire.
    armed: Option<Moment>,
    draining: bool,
}

/// One direction, without its two connections.
#[derive(Debug, Default)]
struct Lane {
    /// What was read and not passed on: the start of a header or control frame, or bytes that came with the handshake.
    carry: Vec<u8>,
    /// `carry` has bytes that the tunnel has not seen.
    unseen: bool,
    /// Bytes that the far connection does not take now. Boxed, since most sessions never have any.
    waiting: Option<Box<Waiting>>,
    /// Bytes may wait inside the far connection (TLS records).
    unflushed: bool,
    /// How much is read at once: grows where a connection streams.
    size: Option<Size>,
    shut: Shut,
}

/// How far the end of a stream has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shut {
    #[default]
    Open,
    /// The end was begun and not all of it could be written.
    Ending,
    Ended,
}

#[derive(Debug)]
struct Waiting {
    buffer: Buffer,
    start: usize,
    end: usize,
}

impl<C, S, O> Relay<C, S, O> {
    /// The tunnel, for what it knows at the end.
    pub fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    /// Who counted.
    pub fn observer(&self) -> &O {
        &self.observer
    }
}

impl<C, S, O> Relay<C, S, O>
where
    C: AsyncRead + AsyncWrite + EndsOnDrop + Unpin,
    S: AsyncRead + AsyncWrite + EndsOnDrop + Unpin,
    O: Observer,
{
    /// Joins two connections. `early_client` and `early_server` were read behind the handshake and come first.
    pub fn new(
        tunnel: Tunnel,
        (client, early_client): (C, Vec<u8>),
        (server, early_server): (S, Vec<u8>),
        observer: O,
        table: Table,
    ) -> Self {
        Relay {
            tunnel,
            client,
            server,
            to_server: Lane::starting_with(early_client),
            to_client: Lane::starting_with(early_server),
            observer,
            table,
            armed: None,
            draining: false,
        }
    }

    /// Relays until the session is over. `guard` tells when the process wants it to end.
    ///
    /// Not cancel-safe in the sense of going on later; dropping it drops both connections.
    pub async fn run(&mut self, guard: &Guard) {
        let timer = pin!(sleep_until(Instant::now()));
        let mut timer = timer;
        poll_fn(|cx| self.poll(cx, timer.as_mut(), guard)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, guard: &Guard) -> Poll<()> {
        let mut now = if self.tunnel.awaits_pong() { clock::now() } else { clock::coarse() };
        if !self.draining
            && let Poll::Ready(at) = guard.poll_notice(cx)
        {
            self.draining = true;
            self.tunnel.drain(at);
        }
        // Bounded: each further round follows a timer that fired.
        loop {
            if self.armed.is_some_and(|at| at <= now + COARSE_TICK) && timer.as_mut().poll_ready(cx) {
                self.armed = None;
                now = clock::now();
                self.tunnel.handle_timeout(now);
            }
            let busy = self.pump(cx, now, Side::Client) | self.pump(cx, now, Side::Server);
            if self.settle(cx, now) {
                return Poll::Ready(());
            }
            if busy {
                cx.waker().wake_by_ref();
            }
            if !self.tunnel.timer_moved() {
                return Poll::Pending;
            }
            let due = self.tunnel.poll_timeout();
            if due == self.armed {
                return Poll::Pending;
            }
            self.armed = due;
            let Some(due) = due else { return Poll::Pending };
            let exact = clock::now();
            timer.as_mut().reset(Instant::now() + due.since(exact));
            if !timer.as_mut().poll_ready(cx) {
                return Poll::Pending;
            }
            // It will not wake us again, so it must be seen to be due, however long this poll has taken.
            now = exact.max(due);
        }
    }

    /// Moves what there is from one peer to the other. `true`: there is more, but others want their turn.
    fn pump(&mut self, cx: &mut Context<'_>, now: Moment, from: Side) -> bool {
        match from {
            Side::Client => Direction {
                tunnel: &mut self.tunnel,
                observer: &mut self.observer,
                lane: &mut self.to_server,
                source: &mut self.client,
                target: &mut self.server,
                from,
            }
            .pump(cx, now),
            Side::Server => Direction {
                tunnel: &mut self.tunnel,
                observer: &mut self.observer,
                lane: &mut self.to_client,
                source: &mut self.server,
                target: &mut self.client,
                from,
            }
            .pump(cx, now),
        }
    }

    /// Does what follows from what has happened: codes for an end, frames of our own, ends of streams. `true`: over.
    fn settle(&mut self, cx: &mut Context<'_>, now: Moment) -> bool {
        if let Some(end) = self.tunnel.poll_end() {
            let closing = (self.table)(end);
            self.tunnel.close(now, Side::Client, closing.client);
            self.tunnel.close(now, Side::Server, closing.server);
        }
        let (tunnel, observer) = (&mut self.tunnel, &mut self.observer);
        let over = tunnel.is_finished() || (self.client.ends_on_drop() && tunnel.is_agreed());
        let server = self.to_server.finish(cx, now, tunnel, observer, &mut self.server, Side::Server, over);
        let client = self.to_client.finish(cx, now, tunnel, observer, &mut self.client, Side::Client, over);
        self.tunnel.gave_up() || (over && server && client)
    }
}

/// One direction with all it needs for a while.
struct Direction<'a, F, T, O> {
    tunnel: &'a mut Tunnel,
    observer: &'a mut O,
    lane: &'a mut Lane,
    source: &'a mut F,
    target: &'a mut T,
    from: Side,
}

impl<F: AsyncRead + Unpin, T: AsyncWrite + Unpin, O: Observer> Direction<'_, F, T, O> {
    fn pump(&mut self, cx: &mut Context<'_>, now: Moment) -> bool {
        for _ in 0..READS_PER_POLL {
            if self.lane.is_blocked() && !self.lane.drain(cx, now, self.tunnel, self.target, self.from.other()) {
                return false;
            }
            if self.lane.unseen {
                let carry = std::mem::take(&mut self.lane.carry);
                self.lane.unseen = false;
                let mut buffer = pool::take_at_least(carry.len());
                buffer[..carry.len()].copy_from_slice(&carry);
                self.pass(cx, now, buffer, carry.len());
                continue;
            }
            if !self.tunnel.wants_bytes(self.from) {
                return false;
            }
            let size = self.lane.size.unwrap_or(Size::Small);
            let mut buffer = pool::take(size);
            let held = self.lane.carry.len();
            buffer[..held].copy_from_slice(&self.lane.carry);
            let mut read = ReadBuf::new(&mut buffer[held..]);
            match Pin::new(&mut *self.source).poll_read(cx, &mut read) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) => {
                    let count = read.filled().len();
                    if count == 0 {
                        self.tunnel.handle_eof(now, self.from);
                        return false;
                    }
                    self.lane.size = Some(match count {
                        _ if held + count == size.bytes() => size.grown(),
                        _ if count < size.bytes() / 4 => size.shrunk(),
                        _ => size,
                    });
                    self.lane.carry.clear();
                    self.pass(cx, now, buffer, held + count);
                }
                Poll::Ready(Err(error)) => {
                    // A TLS stream that ends without close_notify is an end like a FIN; anything else ends both ways.
                    if error.kind() != io::ErrorKind::UnexpectedEof {
                        self.tunnel.handle_broken(self.from);
                    }
                    self.tunnel.handle_eof(now, self.from);
                    return false;
                }
            }
        }
        true
    }

    /// Judges `buffer[..end]` and writes on what goes on.
    fn pass(&mut self, cx: &mut Context<'_>, now: Moment, buffer: Buffer, end: usize) {
        let to = self.from.other();
        let mut at = 0;
        while at < end {
            match self.tunnel.handle_bytes(now, self.from, &buffer[at..end], self.observer) {
                Step::Forward(count) if at + count == end => {
                    self.lane.write_last(cx, self.tunnel, self.target, to, buffer, at, end);
                    return;
                }
                Step::Forward(count) => {
                    self.lane.write(cx, self.tunnel, self.target, to, &buffer[at..at + count]);
                    self.lane.inject(cx, now, self.tunnel, self.observer, self.target, to);
                    at += count;
                }
                Step::Drop(count) => at += count,
                Step::NeedMore => {
                    self.lane.carry.extend_from_slice(&buffer[at..end]);
                    break;
                }
            }
        }
        self.lane.flush(cx, self.tunnel, self.target, to);
    }
}

impl Lane {
    fn starting_with(early: Vec<u8>) -> Lane {
        Lane { unseen: !early.is_empty(), carry: early, ..Lane::default() }
    }

    fn is_blocked(&self) -> bool {
        self.waiting.is_some() || self.unflushed
    }

    /// Writes the last bytes of a buffer; if they can not all be written, the buffer itself waits.
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
        if self.waiting.is_none() {
            match write_some(cx, target, &buffer[start..end]) {
                Ok(written) if start + written == end => self.flush(cx, tunnel, target, to),
                Ok(written) => {
                    let left = end - start - written;
                    tunnel.handle_blocked(to);
                    if left <= Size::Small.bytes() && buffer.len() > Size::Small.bytes() {
                        self.append(&buffer[start + written..end]);
                    } else {
                        self.waiting = Some(Box::new(Waiting { buffer, start: start + written, end }));
                    }
                }
                Err(_) => self.broken(tunnel, to),
            }
        } else {
            self.append(&buffer[start..end]);
        }
    }

    /// Writes bytes, or lets a copy of them wait.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        tunnel: &mut Tunnel,
        target: &mut (impl AsyncWrite + Unpin),
        to: Side,
        bytes: &[u8],
    ) {
        if self.waiting.is_some() {
            return self.append(bytes);
        }
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

    fn append(&mut self, bytes: &[u8]) {
        if let Some(waiting) = &mut self.waiting
            && waiting.buffer.len() - waiting.end >= bytes.len()
        {
            waiting.buffer[waiting.end..waiting.end + bytes.len()].copy_from_slice(bytes);
            waiting.end += bytes.len();
            return;
        }
        let before: &[u8] = self.waiting.as_ref().map_or(&[], |waiting| &waiting.buffer[waiting.start..waiting.end]);
        let end = before.len() + bytes.len();
        let mut buffer = pool::take_at_least(end);
        buffer[..before.len()].copy_from_slice(before);
        buffer[before.len()..end].copy_from_slice(bytes);
        self.waiting = Some(Box::new(Waiting { buffer, start: 0, end }));
    }

    /// Writes what waits. `true` when nothing waits any more.
    fn drain(
        &mut self,
        cx: &mut Context<'_>,
        now: Moment,
        tunnel: &mut Tunnel,
        target: &mut (impl AsyncWrite + Unpin),
        to: Side,
    ) -> bool {
        if let Some(waiting) = &mut self.waiting {
            match write_some(cx, target, &waiting.buffer[waiting.start..waiting.end]) {
                Ok(0) => return false,
                Ok(written) => {
                    waiting.start += written;
                    let drained = waiting.start == waiting.end;
                    tunnel.handle_progress(now, to, drained);
                    if !drained {
                        return false;
                    }
                    self.waiting = None;
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

    /// Sees to it that nothing stays inside the connection.
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

    /// Frames of our own, where the tunnel wants some.
    fn inject(
        &mut self,
        cx: &mut Context<'_>,
        now: Moment,
        tunnel: &mut Tunnel,
        observer: &mut impl Observer,
        target: &mut (impl AsyncWrite + Unpin),
        to: Side,
    ) {
        // The key need not be secret: no peer chooses what we mask with it (RFC 6455 §10.3).
        while let Some(frame) = tunnel.poll_inject(now, to, fastrand::u32(..).to_ne_bytes(), observer) {
            self.write(cx, tunnel, target, to, frame.as_bytes());
        }
    }

    /// Everything that is due towards one peer after the reading; `over` tells that nothing more is awaited from either. `true` when its stream has been ended or has broken.
    #[expect(clippy::too_many_arguments, reason = "as write_last")]
    fn finish(
        &mut self,
        cx: &mut Context<'_>,
        now: Moment,
        tunnel: &mut Tunnel,
        observer: &mut impl Observer,
        target: &mut (impl AsyncWrite + EndsOnDrop + Unpin),
        to: Side,
        over: bool,
    ) -> bool {
        self.inject(cx, now, tunnel, observer, target, to);
        if self.is_blocked() && !self.drain(cx, now, tunnel, target, to) {
            return false;
        }
        if over && target.ends_on_drop() {
            self.shut = Shut::Ended;
        } else if self.shut != Shut::Ended && (over || tunnel.poll_shutdown(to)) {
            self.shut = match Pin::new(target).poll_shutdown(cx) {
                Poll::Ready(_) => Shut::Ended,
                Poll::Pending => Shut::Ending,
            };
        }
        self.shut == Shut::Ended
    }

    fn broken(&mut self, tunnel: &mut Tunnel, to: Side) {
        tunnel.handle_broken(to);
        self.waiting = None;
        self.unflushed = false;
    }
}

/// Writes as much as goes at once.
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

/// `Sleep::poll` as a yes or no.
trait PollReady {
    fn poll_ready(self, cx: &mut Context<'_>) -> bool;
}

impl PollReady for Pin<&mut Sleep> {
    fn poll_ready(self, cx: &mut Context<'_>) -> bool {
        self.poll(cx).is_ready()
    }
}
