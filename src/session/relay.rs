//! Drives a `Tunnel`: two connections, one task, one timer.
//!
//! The relay moves bytes and knows no frames; the tunnel knows frames and no sockets. A message that arrives while
//! nothing is queued costs one read, one judgement in place and one write, in a buffer of the worker's pool that is
//! returned before the task sleeps. A connection holds bytes in four cases only: the start of an incomplete header (at
//! most 139 bytes), bytes that came with the handshake, bytes that the other peer does not accept now, and bytes of a
//! peer that has sent all that it may for now (at most 16 KiB). While bytes are queued for a peer, the other one is not
//! read: back-pressure goes from end to end, and a session never holds more than one read each way.
//!
//! The timer is lazy: traffic does not reset it. When it fires, it is set to the next deadline.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::ClosePolicy;
use super::lane::{Lane, LaneContext, LaneState};
use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::base::worker::yield_to_all;
use crate::net::transport::RelayIo;
use crate::session::registry::{Guard, SessionReport};
use crate::ws::Side;
use crate::ws::tunnel::{End, Observer, Tunnel, TunnelSettings};

/// Why a poll is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The session is over.
    Over,
    /// The session was asked to go to another process. If it cannot, it is polled again.
    Leaving,
}

/// A relay written down for another process, without its connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayState {
    tunnel: Tunnel,
    to_server: LaneState,
    to_client: LaneState,
}

impl RelayState {
    /// Returns the tunnel.
    pub fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    /// See [`Tunnel::share_settings`].
    pub fn share_settings(&mut self, settings: &Arc<TunnelSettings>) -> &Arc<TunnelSettings> {
        self.tunnel.share_settings(settings)
    }
}

/// How far the coarse clock may lag.
const COARSE_TICK: Duration = Duration::from_millis(20);

/// Two connections and the tunnel between them.
#[derive(Debug)]
pub struct Relay<C, S, O> {
    tunnel: Tunnel,
    client: C,
    server: S,
    to_server: Lane,
    to_client: Lane,
    observer: O,
    /// When the timer is set to fire.
    armed: Option<MonotonicTime>,
    /// [`Guard::signals`] when the guard was last polled; 0: never.
    signals: u64,
}

impl<C, S, O> Relay<C, S, O> {
    /// Returns the tunnel.
    pub fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    /// Returns the observer.
    pub fn observer(&self) -> &O {
        &self.observer
    }

    /// Returns the connections to the client and to the server.
    pub fn connections(&self) -> (&C, &S) {
        (&self.client, &self.server)
    }

    /// Takes it apart between two polls: the state, the connections, and the observer.
    pub fn into_parts(self) -> (RelayState, C, S, O) {
        let Relay { tunnel, client, server, to_server, to_client, observer, armed: _, signals: _ } = self;
        let state = RelayState { tunnel, to_server: to_server.into_state(), to_client: to_client.into_state() };
        (state, client, server, observer)
    }

    /// Puts it together again.
    pub fn from_parts(state: RelayState, client: C, server: S, observer: O) -> Self {
        let RelayState { mut tunnel, to_server, to_client } = state;
        tunnel.rearm();
        Relay {
            tunnel,
            client,
            server,
            to_server: Lane::restore(to_server),
            to_client: Lane::restore(to_client),
            observer,
            armed: None,
            signals: 0,
        }
    }
}

impl<C, S, O> Relay<C, S, O>
where
    C: AsyncRead + AsyncWrite + RelayIo + Unpin,
    S: AsyncRead + AsyncWrite + RelayIo + Unpin,
    O: Observer + ClosePolicy,
{
    /// Joins two connections. `early_client` and `early_server` were read with the handshake and come first.
    pub fn new(
        tunnel: Tunnel,
        (client, early_client): (C, Vec<u8>),
        (server, early_server): (S, Vec<u8>),
        observer: O,
    ) -> Self {
        Relay {
            tunnel,
            client,
            server,
            to_server: Lane::starting_with(early_client),
            to_client: Lane::starting_with(early_server),
            observer,
            armed: None,
            signals: 0,
        }
    }

    /// Relays all available bytes; `Ready` once the session is over or asked to leave. `guard` says when the process wants it to end;
    /// `timer` belongs to this session and is the same for all polls. Only one task may poll it. Dropping it drops both
    /// connections.
    pub fn poll<M>(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, guard: &Guard<M>) -> Poll<Turn> {
        let mut now = if self.tunnel.awaits_pong() { clock::now() } else { clock::coarse() };
        let signals = guard.signals();
        if self.signals != signals {
            self.signals = signals;
            let queued = self.to_server.queued() + self.to_client.queued();
            let report = SessionReport {
                data_at: Some(self.tunnel.data_at()),
                queued: u32::try_from(queued).unwrap_or(u32::MAX),
            };
            let notice = guard.poll_notice(cx, report);
            if notice.is_leaving {
                // Asked again if it stays.
                self.signals = 0;
                return Poll::Ready(Turn::Leaving);
            }
            self.tunnel.expire(notice.expires);
            match notice.stop {
                Some(stop) => {
                    // The new time may be later than a cancelled one.
                    self.tunnel.cancel_stop();
                    self.tunnel.stop(stop.at, stop.by);
                }
                None => self.tunnel.cancel_stop(),
            }
        }
        // Bounded: each further round follows a timer that fired.
        loop {
            let fired = self.armed.is_some_and(|at| at <= now + COARSE_TICK) && timer.as_mut().poll_ready(cx);
            if fired {
                self.armed = None;
                now = clock::now();
            }
            let busy = self.pump(cx, now, Side::Client) | self.pump(cx, now, Side::Server);
            // Reads what has arrived before the clock judges a peer.
            if fired {
                self.tunnel.handle_timeout(now);
            }
            if self.apply_events(cx, now, guard) {
                return Poll::Ready(Turn::Over);
            }
            if busy {
                yield_to_all(cx);
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
            // The timer will not wake the task again, so it counts as due, however long this poll took.
            now = exact.max(due);
        }
    }

    /// Handles a panic of `poll`. Drops the work in progress; each peer gets its Close if the last bytes sent to it
    /// surely ended with a frame; `poll` then completes the end as usual. A second panic must not be handled.
    pub fn panicked(&mut self) {
        for (lane, to) in [(&mut self.to_server, Side::Server), (&mut self.to_client, Side::Client)] {
            // The bytes that were read and not forwarded are incomplete.
            (lane.carry, lane.is_carry_new) = (None, false);
            if lane.is_half_written {
                lane.broken(&mut self.tunnel, to);
            }
        }
        self.tunnel.abort(clock::now());
    }

    /// Moves available bytes from one peer to the other. Returns true if there are more, but other tasks should run
    /// first.
    fn pump(&mut self, cx: &mut Context<'_>, now: MonotonicTime, from: Side) -> bool {
        match from {
            Side::Client => LaneContext {
                tunnel: &mut self.tunnel,
                observer: &mut self.observer,
                lane: &mut self.to_server,
                source: &mut self.client,
                target: &mut self.server,
                from,
            }
            .pump(cx, now),
            Side::Server => LaneContext {
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

    /// Applies pending tunnel events; true when the session is over.
    fn apply_events<M>(&mut self, cx: &mut Context<'_>, now: MonotonicTime, guard: &Guard<M>) -> bool {
        if let Some(end) = self.tunnel.poll_end() {
            let stop_reason = (*end == End::Stopped).then(|| guard.stop_reason()).flatten();
            let closing = self.observer.closing(end, stop_reason.as_ref());
            self.tunnel.close(now, Side::Client, closing.client);
            self.tunnel.close(now, Side::Server, closing.server);
        }
        if self.tunnel.only_relays() && !self.to_server.is_blocked() && !self.to_client.is_blocked() {
            return false;
        }
        let over = self.is_over();
        let is_done = self.finish(cx, now, over);
        // With the last Close out, both peers may have ended long since: nothing would wake the task any more.
        let is_done = if !over && self.is_over() { self.finish(cx, now, true) } else { over && is_done };
        self.tunnel.gave_up() || is_done
    }

    /// Returns true once both connections may be dropped when what is left is written.
    fn is_over(&self) -> bool {
        self.tunnel.is_finished() || (self.client.ends_on_drop() && self.tunnel.is_close_complete())
    }

    /// Writes what is left to both peers; true if nothing is.
    fn finish(&mut self, cx: &mut Context<'_>, now: MonotonicTime, over: bool) -> bool {
        let (tunnel, observer) = (&mut self.tunnel, &mut self.observer);
        let server = self.to_server.finish(cx, now, tunnel, observer, &mut self.server, Side::Server, over);
        let client = self.to_client.finish(cx, now, tunnel, observer, &mut self.client, Side::Client, over);
        server && client
    }
}

/// `Sleep::poll` as a bool.
trait PollReady {
    fn poll_ready(self, cx: &mut Context<'_>) -> bool;
}

impl PollReady for Pin<&mut Sleep> {
    fn poll_ready(self, cx: &mut Context<'_>) -> bool {
        self.poll(cx).is_ready()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::future::poll_fn;
    use std::io;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
    use tokio::net::UnixStream;
    use tokio::time::sleep_until;

    use super::super::lane::BYTES_PER_POLL;
    use super::*;
    use crate::net::pool::BufferSize;
    use crate::net::stream::Stream;
    use crate::net::transport::Transport;
    use crate::session::CloseActions;
    use crate::session::metrics::Initiator;
    use crate::session::registry::SessionRegistry;
    use crate::session::stop::StopReason;
    use crate::telemetry::panics::{self, PanicSite};
    use crate::ws::close::{Close, CloseCode};
    use crate::ws::frame::Opcode;
    use crate::ws::scanner::{EndedMessage, Rsv, Violation};
    use crate::ws::tunnel::{ECHO_WAIT, Farewell, QUIET, TunnelSettings, Validation};

    /// A peer that always has bytes to read and accepts all writes.
    #[derive(Debug)]
    struct Endless;

    impl AsyncRead for Endless {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let count = buf.initialize_unfilled().len();
            buf.advance(count);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Endless {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl RelayIo for Endless {
        fn ends_on_drop(&self) -> bool {
            true
        }
        fn may_read(&self) -> bool {
            true
        }
        fn poll_may_read(&self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
    }

    /// Counts bytes in a shared counter.
    #[derive(Clone, Debug, Default)]
    struct Passed(Arc<AtomicUsize>);

    impl Observer for Passed {
        fn bytes(&mut self, _: Side, bytes: usize) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
        fn message(&mut self, _: Side, _: EndedMessage, _: u32) {}
        fn control(&mut self, _: Side, _: Opcode, _: u32) {}
        fn delayed(&mut self, _: Side) {}
        fn tolerated(&mut self, _: Side, _: Violation) {}
        fn pinged(&mut self, _: Side) {}
        fn round_trip(&mut self, _: Side, _: Duration) {}
    }

    impl ClosePolicy for Passed {
        fn closing(&self, _: &End, _: Option<&StopReason>) -> CloseActions {
            let close = || Farewell::Close(Close::new(CloseCode::GOING_AWAY, ""));
            CloseActions { client: close(), server: close(), initiator: Initiator::Proxy, reason: "" }
        }
    }

    const BLIND: TunnelSettings = TunnelSettings { validation: Validation::Off, ..TunnelSettings::UNLIMITED };

    /// Relays between two connections in a task. The bytes are not frames.
    fn start<C, S>(client: C, server: S, drain: &Arc<SessionRegistry<()>>) -> Passed
    where
        C: AsyncRead + AsyncWrite + RelayIo + Unpin + Send + 'static,
        S: AsyncRead + AsyncWrite + RelayIo + Unpin + Send + 'static,
    {
        let tunnel = Tunnel::new(Arc::new(BLIND), Rsv::None, [1, 2], clock::now());
        let passed = Passed::default();
        let mut relay = Relay::new(tunnel, (client, vec![]), (server, vec![]), passed.clone());
        let guard = drain.enter(1);
        tokio::spawn(async move {
            let mut timer = pin!(sleep_until(Instant::now()));
            poll_fn(|cx| relay.poll(cx, timer.as_mut(), &guard)).await;
        });
        passed
    }

    /// Runs on one thread with Unix sockets: written bytes can be read at once, so the figures count turns and not
    /// time.
    #[tokio::test(flavor = "current_thread")]
    async fn a_session_that_streams_leaves_a_small_one_its_turns() {
        let drain = SessionRegistry::new(1);
        let streamed = start(Endless, Endless, &drain);
        let plain = |socket: UnixStream| Transport::<Endless>::Plain(Stream::from(socket));
        let ((mut client, near), (far, mut server)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        start(plain(near), plain(far), &drain);
        for _ in 0..50 {
            let before = streamed.0.load(Ordering::Relaxed);
            client.write_all(b"small").await.unwrap();
            server.read_exact(&mut [0; 5]).await.unwrap();
            let meanwhile = streamed.0.load(Ordering::Relaxed) - before;
            // Both ways, until the relay sees the message and until the server does; doubled to be safe.
            assert!(meanwhile <= 4 * 2 * (BYTES_PER_POLL + BufferSize::Large.bytes()), "{meanwhile} bytes");
        }
        assert!(streamed.0.load(Ordering::Relaxed) > 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_stop_that_finds_a_message_under_way_lets_it_end() {
        let drain = SessionRegistry::new(1);
        let plain = |socket: UnixStream| Transport::<Endless>::Plain(Stream::from(socket));
        let ((mut client, near), (far, mut server)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let settings = TunnelSettings { validation: Validation::Strict, ..BLIND };
        let tunnel = Tunnel::new(Arc::new(settings), Rsv::None, [1, 2], clock::now());
        let mut relay = Relay::new(tunnel, (plain(near), vec![]), (plain(far), vec![]), Passed::default());
        let guard = drain.enter(1);
        guard.join((), clock::now());
        tokio::spawn(async move {
            let mut timer = pin!(sleep_until(Instant::now()));
            poll_fn(|cx| relay.poll(cx, timer.as_mut(), &guard)).await;
        });
        server.write_all(&[0x01, 2, b'a', b'b']).await.unwrap();
        client.read_exact(&mut [0; 4]).await.unwrap();
        drain.stop_all(clock::now(), Duration::from_secs(60), || 0.0);
        // Longer than the required pause between messages.
        tokio::time::sleep(2 * QUIET).await;
        server.write_all(&[0x80, 1, b'c']).await.unwrap();
        let mut received = [0; 7];
        client.read_exact(&mut received).await.unwrap();
        assert_eq!(received, [0x80, 1, b'c', 0x88, 2, 3, 0xe9], "the rest of it, and then the Close");
    }

    /// Accepts nothing, and panics on write.
    #[derive(Debug, Default)]
    struct Fragile {
        written: usize,
    }

    impl AsyncRead for Fragile {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Fragile {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.written += 1;
            assert!(buf.is_empty(), "a mistake");
            Poll::Pending
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl RelayIo for Fragile {
        fn ends_on_drop(&self) -> bool {
            true
        }
        fn may_read(&self) -> bool {
            true
        }
        fn poll_may_read(&self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn after_a_panic_in_a_write_that_side_is_not_written_to_again_and_the_other_gets_its_close() {
        let (mut client, near) = UnixStream::pair().unwrap();
        let settings = TunnelSettings { validation: Validation::Strict, ..BLIND };
        let tunnel = Tunnel::new(Arc::new(settings), Rsv::None, [1, 2], clock::now());
        let near = Transport::<Endless>::Plain(Stream::from(near));
        let mut relay = Relay::new(tunnel, (near, vec![]), (Fragile::default(), vec![]), Passed::default());
        let guard = SessionRegistry::<()>::new(1).enter(1);
        let mut timer = pin!(sleep_until(Instant::now()));
        client.write_all(&[0x81, 0x80, 0, 0, 0, 0]).await.unwrap();
        let panic = poll_fn(|cx| match panics::catch(PanicSite::Session, || relay.poll(cx, timer.as_mut(), &guard)) {
            Ok(poll) => poll.map(|_| None),
            Err(panic) => Poll::Ready(Some(panic)),
        });
        assert_eq!(panic.await.unwrap().message, "a mistake");
        relay.panicked();
        client.write_all(b"whatever").await.unwrap();
        poll_fn(|cx| relay.poll(cx, timer.as_mut(), &guard)).await;
        assert_eq!((relay.tunnel.end(), relay.server.written), (Some(&End::Panicked), 1));
        drop(relay);
        let mut received = vec![];
        client.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, [0x88, 2, 3, 0xe9], "the Close of `Passed`, and nothing else");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_session_whose_peers_have_both_gone_is_over_at_once() {
        let plain = |socket: UnixStream| Transport::<Endless>::Plain(Stream::from(socket));
        let ((client, near), (far, server)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let settings = TunnelSettings { validation: Validation::Strict, ..BLIND };
        let tunnel = Tunnel::new(Arc::new(settings), Rsv::None, [1, 2], clock::now());
        let mut relay = Relay::new(tunnel, (plain(near), vec![]), (plain(far), vec![]), Passed::default());
        let guard = SessionRegistry::<()>::new(1).enter(1);
        let mut timer = pin!(sleep_until(Instant::now()));
        // Only ends are shut down: what is sent to a peer still goes somewhere.
        for peer in [&client, &server] {
            rustix::net::shutdown(peer, rustix::net::Shutdown::Write).unwrap();
        }
        let began = clock::now();
        poll_fn(|cx| relay.poll(cx, timer.as_mut(), &guard)).await;
        assert!(clock::now().since(began) < ECHO_WAIT / 2, "it waits for an answer that cannot come");
        assert_eq!(relay.tunnel.end(), Some(&End::Lost(Side::Client)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_drain_reaches_a_session_that_sleeps() {
        let drain = SessionRegistry::new(1);
        let plain = |socket: UnixStream| Transport::<Endless>::Plain(Stream::from(socket));
        let ((mut client, near), (far, mut server)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        start(plain(near), plain(far), &drain);
        // It was polled more than once, and each side was left alone for a while.
        for _ in 0..3 {
            client.write_all(b"x").await.unwrap();
            server.read_exact(&mut [0]).await.unwrap();
            server.write_all(b"y").await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
        }
        drain.stop_all(clock::now(), Duration::ZERO, || 0.0);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        drop((client, server));
        drain.wait_idle().await;
    }
}
