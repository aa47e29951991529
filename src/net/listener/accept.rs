//! Accepts connections, and pauses when descriptors or memory run out.
//!
//! The last descriptors are reserved (`net::descriptors`). Only accepting a connection shows whether one is free:
//! without room, the connection is held and not served. To its client it looks as if it still waited in the backlog.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::Instant;

use super::BACKLOG;
use crate::base::labels::variant_labels;
use crate::net::descriptors::{self, DescriptorUse};
use crate::net::stream::{PeerAddr, Stream};

const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_LAST: Duration = Duration::from_secs(1);
/// How long after a logged failure further ones are not logged. At the limit each connection that ends lets one in, and
/// the next fails again: all one event.
const NEWS: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl ListeningSocket {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, PeerAddr)>> {
        match self {
            ListeningSocket::Tcp(listener) => {
                listener.poll_accept(cx).map_ok(|(stream, addr)| (stream.into(), addr.into()))
            }
            ListeningSocket::Unix(listener) => {
                listener.poll_accept(cx).map_ok(|(stream, _)| (stream.into(), PeerAddr::Unix))
            }
        }
    }

    /// Asks the kernel, since the runtime learns of a connection only at its next poll.
    fn accept_now(&self) -> io::Result<(Stream, PeerAddr)> {
        match self {
            ListeningSocket::Tcp(listener) => {
                let (socket, addr) = SockRef::from(listener).accept()?;
                socket.set_nonblocking(true)?;
                let addr = addr.as_socket().ok_or(io::ErrorKind::InvalidData)?;
                Ok((TcpStream::from_std(socket.into())?.into(), addr.into()))
            }
            ListeningSocket::Unix(listener) => {
                let (socket, _) = SockRef::from(listener).accept()?;
                socket.set_nonblocking(true)?;
                Ok((UnixStream::from_std(socket.into())?.into(), PeerAddr::Unix))
            }
        }
    }
}

/// Accepts connections on one worker.
#[derive(Debug)]
pub struct Acceptor {
    /// The sockets, at least one.
    listeners: Vec<ListeningSocket>,
    /// The socket that is polled first.
    first: usize,
    paused_until: Option<Instant>,
    failures: u32,
    /// When accepting last failed.
    failed: Option<Instant>,
    /// The use that bounds its descriptors.
    taker: DescriptorUse,
    /// A connection accepted without room for it.
    held: Option<(Stream, PeerAddr)>,
}

/// Accepting has to pause. The next call of [`Acceptor::accept`] waits before it tries again, so the caller only counts
/// this, and logs it if it is news.
#[derive(Debug, thiserror::Error)]
#[error("cannot accept connections, trying again in {} ms{}", .pause.as_millis(), .reason.hint())]
pub struct AcceptPause {
    /// The system's error.
    #[source]
    pub source: io::Error,
    /// What has run out.
    pub reason: AcceptPauseReason,
    /// How long the next call waits: 10 ms, doubled each time, at most 1 s.
    pub pause: Duration,
    /// The number of failures in a row, this one included.
    pub in_a_row: u32,
    /// Whether there was no other failure for a minute.
    pub is_news: bool,
}

/// What has run out; a label for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptPauseReason {
    /// EMFILE, ENFILE.
    Descriptors,
    /// ENOBUFS, ENOMEM.
    Memory,
    /// Any unexpected error.
    Other,
}

variant_labels! {
    AcceptPauseReason {
        Descriptors => "descriptors",
        Memory => "memory",
        Other => "other",
    }
}

impl AcceptPauseReason {
    fn hint(self) -> &'static str {
        match self {
            AcceptPauseReason::Descriptors => " (raise the limit of open files: ulimit -n, or LimitNOFILE= in systemd)",
            AcceptPauseReason::Memory | AcceptPauseReason::Other => "",
        }
    }
}

impl Acceptor {
    pub(super) fn new(listeners: Vec<ListeningSocket>) -> Acceptor {
        debug_assert!(!listeners.is_empty());
        let (paused_until, failed, taker, held) = (None, None, DescriptorUse::Traffic, None);
        Acceptor { listeners, first: 0, paused_until, failures: 0, failed, taker, held }
    }

    /// Allows it the descriptors reserved for the admin listener.
    #[must_use]
    pub fn for_admin(self) -> Acceptor {
        Acceptor { taker: DescriptorUse::Admin, ..self }
    }

    /// Lets the next call of [`Acceptor::accept`] try at once: the caller has made room.
    pub fn try_again(&mut self) {
        self.paused_until = None;
    }

    /// Accepts the next connection. TCP_NODELAY is already set on it.
    ///
    /// Skips connections that ended while they waited. Cancel-safe: no connection is lost, and a pause that has begun
    /// is kept.
    ///
    /// # Errors
    /// Fails if descriptors or memory run out; see [`AcceptPause`].
    pub async fn accept(&mut self) -> Result<(Stream, PeerAddr), AcceptPause> {
        if let Some(until) = self.paused_until {
            tokio::time::sleep_until(until).await;
            self.paused_until = None;
        }
        loop {
            let accepted = match self.held.take() {
                Some(held) => self.admit_held(held),
                None => poll_fn(|cx| self.poll_accept(cx)).await.and_then(|accepted| self.hold_without_room(accepted)),
            };
            match accepted {
                Ok(accepted) => {
                    self.failures = 0;
                    return Ok(accepted);
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => return Err(self.pause(error)),
            }
        }
    }

    /// Returns the connection if there is room for it. Otherwise holds it, or drops it if there is no room to hold it:
    /// each acceptor holds one.
    fn hold_without_room(&mut self, accepted: (Stream, PeerAddr)) -> io::Result<(Stream, PeerAddr)> {
        if descriptors::is_within(&accepted.0, self.taker) {
            return Ok(accepted);
        }
        // There is only one admin listener.
        let may_be_held = |stream: &Stream| {
            self.taker == DescriptorUse::Admin || descriptors::is_within(stream, DescriptorUse::Waiting)
        };
        self.held = Some(accepted).filter(|(stream, _)| may_be_held(stream));
        Err(Errno::MFILE.into())
    }

    /// Admits a held connection if there is room. It gets a new descriptor number, within the bound of its use: with
    /// the old one it would count as reserved.
    fn admit_held(&mut self, (stream, peer): (Stream, PeerAddr)) -> io::Result<(Stream, PeerAddr)> {
        if descriptors::is_within(&stream, self.taker) {
            return Ok((stream, peer));
        }
        match descriptors::lowest(&stream, self.taker) {
            Ok(fd) => Ok((stream.behind(fd)?, peer)),
            Err(error) => {
                self.held = Some((stream, peer));
                Err(error)
            }
        }
    }

    /// Polls the sockets in turn, so that none starves the others.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, PeerAddr)>> {
        let count = self.listeners.len();
        for index in (self.first..count).chain(0..self.first) {
            if let Poll::Ready(accepted) = self.listeners[index].poll_accept(cx) {
                self.first = (index + 1) % count;
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }

    /// Returns the connections that wait already, and at most as many as can wait at a time, for a socket about to be
    /// closed for good, which would reset them. Never blocks. Drop the result and the [`Bound`](super::Bound) right
    /// after its end; connections that arrive in between are still reset.
    pub fn into_waiting(self) -> WaitingConnections {
        // The kernel lets one more wait than the backlog says.
        let left = self.listeners.len() * (BACKLOG as usize + 1);
        WaitingConnections { held: self.held, listeners: self.listeners, taker: self.taker, left }
    }

    fn pause(&mut self, source: io::Error) -> AcceptPause {
        let pause = PAUSE_FIRST.saturating_mul(1 << self.failures.min(16)).min(PAUSE_LAST);
        self.failures = self.failures.saturating_add(1);
        let now = Instant::now();
        self.paused_until = Some(now + pause);
        let is_news = self.failed.replace(now).is_none_or(|last| now - last >= NEWS);
        let reason = match Errno::from_io_error(&source) {
            Some(Errno::MFILE | Errno::NFILE) => AcceptPauseReason::Descriptors,
            Some(Errno::NOBUFS | Errno::NOMEM) => AcceptPauseReason::Memory,
            _ => AcceptPauseReason::Other,
        };
        AcceptPause { source, reason, pause, in_a_row: self.failures, is_news }
    }
}

/// The connections of [`Acceptor::into_waiting`]. Ends early if descriptors or memory run out.
#[derive(Debug)]
pub struct WaitingConnections {
    held: Option<(Stream, PeerAddr)>,
    listeners: Vec<ListeningSocket>,
    taker: DescriptorUse,
    left: usize,
}

impl Iterator for WaitingConnections {
    type Item = (Stream, PeerAddr);

    fn next(&mut self) -> Option<(Stream, PeerAddr)> {
        if let Some(held) = self.held.take() {
            return Some(held);
        }
        while let Some(listener) = self.listeners.last() {
            self.left = self.left.checked_sub(1)?;
            match listener.accept_now() {
                Ok(accepted) => return Some(accepted).filter(|(stream, _)| descriptors::is_within(stream, self.taker)),
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => drop(self.listeners.pop()),
                Err(_) => return None,
            }
        }
        None
    }
}

/// Returns true for errors that accept(2) passes on from the connection that it was about to return; that one has left
/// the queue, so trying again at once makes progress.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::PERM
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::TIMEDOUT
        )
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::net::TcpStream as StdTcpStream;
    use std::process::Command;

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;
    use crate::net::listener::{Bound, bind};

    fn loopback() -> Bound {
        bind(&"127.0.0.1:0".parse().unwrap(), 1).unwrap()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn pauses_double_up_to_a_second_and_say_what_to_do() {
        let bound = loopback();
        let mut acceptor = bound.for_worker(0).unwrap();
        let pauses: Vec<_> = (0..9)
            .map(|_| acceptor.pause(io::Error::from(Errno::MFILE)))
            .inspect(|pause| assert!(pause.to_string().contains("LimitNOFILE")))
            .map(|pause| (pause.in_a_row, pause.pause.as_millis()))
            .collect();
        assert_eq!(pauses[..3], [(1, 10), (2, 20), (3, 40)]);
        assert_eq!(pauses[7..], [(8, 1000), (9, 1000)]);
        assert_eq!(acceptor.pause(Errno::NOBUFS.into()).reason.label(), "memory");
        assert!(concerns_one_connection(&Errno::CONNABORTED.into()));
        assert!(!concerns_one_connection(&Errno::BADF.into()));
    }

    /// Runs in a process of its own (see the next test), since the limit of descriptors belongs to the process.
    #[test]
    #[ignore = "run by running_out_of_descriptors_pauses_and_then_goes_on"]
    fn child_with_few_descriptors() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bound = loopback();
            let mut acceptor = bound.for_worker(0).unwrap();
            let _client = StdTcpStream::connect(bound.address().tcp().unwrap()).unwrap();
            let before = getrlimit(Resource::Nofile);
            setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: before.maximum }).unwrap();
            let pause = acceptor.accept().await.unwrap_err();
            assert_eq!((pause.reason, pause.in_a_row), (AcceptPauseReason::Descriptors, 1));
            assert!(pause.is_news);
            let begun = Instant::now();
            let pause = acceptor.accept().await.unwrap_err();
            assert_eq!((pause.in_a_row, pause.pause), (2, 2 * PAUSE_FIRST));
            assert!(begun.elapsed() >= PAUSE_FIRST, "the second attempt waits");
            setrlimit(Resource::Nofile, before).unwrap();
            acceptor.accept().await.unwrap();
            assert_eq!(acceptor.failures, 0);
            let pause = acceptor.pause(Errno::MFILE.into());
            assert_eq!((pause.in_a_row, pause.pause, pause.is_news), (1, PAUSE_FIRST, false));
            acceptor.failed = Some(Instant::now() - NEWS);
            assert!(acceptor.pause(Errno::MFILE.into()).is_news);
        });
    }

    /// See above. An eighth of 64 is 8: traffic may use the numbers below 56, and held connections those below 60.
    #[test]
    #[ignore = "run by the_last_descriptors_are_the_admin_listeners"]
    fn child_with_an_eighth_kept_back() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (public, door) = (loopback(), loopback());
            let (mut acceptor, mut admin) = (public.for_worker(0).unwrap(), door.for_worker(0).unwrap().for_admin());
            let clients: Vec<_> =
                (0..2).map(|_| StdTcpStream::connect(public.address().tcp().unwrap()).unwrap()).collect();
            let _operator = StdTcpStream::connect(door.address().tcp().unwrap()).unwrap();
            let maximum = getrlimit(Resource::Nofile).maximum;
            setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
            descriptors::reread_limit();
            let mut taken = vec![];
            while let Ok(fd) = descriptors::lowest(&clients[0], DescriptorUse::Traffic) {
                taken.push(fd);
            }
            let pause = acceptor.accept().await.unwrap_err();
            assert_eq!((pause.reason, acceptor.held.is_some()), (AcceptPauseReason::Descriptors, true));
            let pause = acceptor.accept().await.unwrap_err();
            assert_eq!((pause.in_a_row, acceptor.held.is_some()), (2, true), "one is held, and no second one taken");
            assert!(crate::net::socket::connect(public.address(), &Default::default()).await.is_err());
            admin.accept().await.expect("the admin listener has its own");

            // A returned descriptor lets the client in, with a number for its use.
            taken.pop();
            acceptor.try_again();
            let (stream, _) = acceptor.accept().await.unwrap();
            assert!(descriptors::is_within(&stream, DescriptorUse::Traffic));
            // Without room for held connections, new ones are dropped.
            while let Ok(fd) = descriptors::lowest(&clients[0], DescriptorUse::Waiting) {
                taken.push(fd);
            }
            acceptor.accept().await.unwrap_err();
            assert!(acceptor.held.is_none());
        });
    }

    #[test]
    fn the_last_descriptors_are_the_admin_listeners() {
        in_a_process("net::listener::accept::tests::child_with_an_eighth_kept_back");
    }

    fn in_a_process(test: &str) {
        let output =
            Command::new(std::env::current_exe().unwrap()).args(["--ignored", "--exact", test]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    #[test]
    fn running_out_of_descriptors_pauses_and_then_goes_on() {
        in_a_process("net::listener::accept::tests::child_with_few_descriptors");
    }
}
