//! The interface to systemd and similar service managers: sockets that they have opened (sd_listen_fds(3)), and
//! notifications on a datagram socket (sd_notify(3)), keep-alives of the watchdog among them.
//!
//! The variables are meant for one process, by its id; other processes, such as the next one that we start, ignore them.
//! Nothing is removed from the environment, since no thread may change it while others read it; [`for_successor`] decides
//! what the next process gets.
//!
//! This is not the crate `sd-notify` because that does not support sockets in the abstract namespace, which many
//! supervisors use for NOTIFY_SOCKET.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::net::listener::Inheritance;

/// The first of the descriptors (SD_LISTEN_FDS_START).
const LISTEN_FIRST: RawFd = 3;
/// The most that are accepted; each costs a lookup in /proc.
const LISTEN_MAX: RawFd = 1 << 12;

/// A notification to the service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification<'a> {
    /// The process is ready, at the start or after a reload.
    Ready,
    /// The configuration is being read again; [`Notification::Ready`] follows.
    Reloading,
    /// The process is ending.
    Stopping,
    /// Another process, which this one has started, is the main process now.
    MainPid(u32),
    /// The state, as a line for people.
    Status(&'a str),
    /// A keep-alive.
    Watchdog,
}

impl Notification<'_> {
    /// Returns the text to send. `monotonic` is the time since boot, which distinguishes a reload from the one before.
    fn text(self, monotonic: Duration) -> String {
        match self {
            Notification::Ready => "READY=1".to_owned(),
            Notification::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic.as_micros()),
            Notification::Stopping => "STOPPING=1".to_owned(),
            Notification::MainPid(pid) => format!("MAINPID={pid}"),
            // A line break would begin another notification.
            Notification::Status(text) => format!("STATUS={}", text.replace(['\n', '\r'], " ")),
            Notification::Watchdog => "WATCHDOG=1".to_owned(),
        }
    }
}

/// The connection to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notifier(Option<UnixDatagram>);

impl Notifier {
    /// Connects to the socket in NOTIFY_SOCKET. Without that variable, nothing is sent.
    ///
    /// # Errors
    /// If the socket cannot be reached; the service manager would wait in vain.
    pub fn from_env() -> io::Result<Notifier> {
        match std::env::var("NOTIFY_SOCKET") {
            Ok(name) if !name.is_empty() => Notifier::to(&name),
            _ => Ok(Notifier::default()),
        }
    }

    /// Connects to a socket: a path, or `@` and a name in the abstract namespace.
    pub(crate) fn to(name: &str) -> io::Result<Notifier> {
        let socket = UnixDatagram::unbound()?;
        match name.strip_prefix('@') {
            #[cfg(target_os = "linux")]
            Some(name) => {
                use std::os::linux::net::SocketAddrExt as _;
                socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?;
            }
            _ if name.starts_with('/') => socket.connect_addr(&SocketAddr::from_pathname(name)?)?,
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, format!("a socket of another kind: {name}"))),
        }
        // A service manager that does not read must not block us.
        socket.set_nonblocking(true)?;
        Ok(Notifier(Some(socket)))
    }

    /// Returns true if there is a service manager.
    pub fn is_connected(&self) -> bool {
        self.0.is_some()
    }

    /// Sends notifications without waiting. A failure is logged; the service manager then acts as if nothing had been
    /// sent.
    pub fn notify(&self, words: &[Notification<'_>]) {
        let Some(socket) = &self.0 else { return };
        let time = clock_gettime(ClockId::Monotonic);
        let monotonic = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
        let lines: Vec<_> = words.iter().map(|word| word.text(monotonic)).collect();
        if let Err(error) = socket.send(lines.join("\n").as_bytes()) {
            tracing::warn!(?words, %error, "a notification to the service manager failed");
        }
    }

    /// Sends a keep-alive twice in each `span` of the watchdog while it is polled and `is_healthy`, so that the service manager
    /// notices if this thread hangs. Never returns.
    pub async fn keep_alive(&self, span: Duration, mut is_healthy: impl FnMut() -> bool) {
        let mut tick = tokio::time::interval((span / 2).max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if is_healthy() {
                self.notify(&[Notification::Watchdog]);
            }
        }
    }
}

/// Returns the watchdog's interval, if the service manager has one.
pub fn watchdog() -> Option<Duration> {
    watchdog_of(&|name| std::env::var(name).ok(), std::process::id())
}

fn watchdog_of(environment: &dyn Fn(&str) -> Option<String>, own: u32) -> Option<Duration> {
    let is_ours = environment("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(own));
    let span = environment("WATCHDOG_USEC")?.parse().ok().map(Duration::from_micros)?;
    (is_ours && !span.is_zero()).then_some(span)
}

/// Prepares the environment of the next process: it is watched like this one, but gets its sockets from this one and not from
/// the service manager.
pub fn for_successor(command: &mut Command) {
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
}

/// Returns the sockets that the service manager has opened for this process, by address; none on a second call. Descriptors
/// that are not listening sockets are closed and logged.
pub fn sockets() -> Inheritance {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let mut inheritance = Inheritance::default();
    let Some(numbers) = listen_of(&|name| std::env::var(name).ok(), std::process::id()) else {
        return inheritance;
    };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return inheritance;
    }
    for (number, name) in numbers {
        let Some(socket) = inherited(number) else {
            tracing::warn!(number, name, "LISTEN_FDS names a descriptor that was not given to us");
            continue;
        };
        if let Err(unfit) = inheritance.add_socket(socket) {
            tracing::warn!(number, name, %unfit, "closing a descriptor of the service manager");
        }
    }
    inheritance
}

/// Returns numbers and names of the descriptors for the process `own`.
fn listen_of(environment: &dyn Fn(&str) -> Option<String>, own: u32) -> Option<Vec<(RawFd, String)>> {
    if environment("LISTEN_PID")?.parse() != Ok(own) {
        return None;
    }
    let count = environment("LISTEN_FDS")?.parse::<RawFd>().ok()?.clamp(0, LISTEN_MAX);
    let names = environment("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    Some((LISTEN_FIRST..LISTEN_FIRST + count).map(|number| (number, names.next().unwrap_or_default())).collect())
}

/// Takes ownership of the descriptor of this number if it was inherited through exec.
///
/// std, tokio and rustix open all descriptors with close-on-exec; so one without that flag existed when the program started,
/// and has no other owner here.
fn inherited(number: RawFd) -> Option<OwnedFd> {
    const CLOEXEC: u32 = 0o2000000;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim();
    if u32::from_str_radix(flags, 8).ok()? & CLOEXEC != 0 {
        return None;
    }
    // SAFETY: it is open and has no other owner, as said above. `sockets`, the only caller, passes each number once.
    #[expect(unsafe_code, reason = "a descriptor that is known by its number can be owned in no other way")]
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    Some(socket)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::collections::HashMap;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;
    use std::os::linux::net::SocketAddrExt;

    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 1000];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn words_arrive_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let at_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("wsluice-test-{}", std::process::id());
        let abstract_one = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, name) in [(&at_path, path.to_str().unwrap().to_owned()), (&abstract_one, format!("@{name}"))] {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let notifier = Notifier::to(&name).unwrap();
            assert!(notifier.is_connected());
            notifier.notify(&[
                Notification::Ready,
                Notification::Status("2 listeners\nMAINPID=1"),
                Notification::MainPid(17),
            ]);
            assert_eq!(heard(socket), "READY=1\nSTATUS=2 listeners MAINPID=1\nMAINPID=17");
            notifier.notify(&[Notification::Stopping]);
            assert_eq!(heard(socket), "STOPPING=1");
            notifier.notify(&[Notification::Reloading]);
            let reloading = heard(socket);
            let at: u64 = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
            let now = clock_gettime(ClockId::Monotonic);
            assert!((0..60).contains(&(now.tv_sec - (at / 1_000_000) as i64)), "{at}");
        }
        let alive = Notifier::to(path.to_str().unwrap()).unwrap();
        let begun = std::time::Instant::now();
        let beats = async {
            for _ in 0..4 {
                let socket = at_path.try_clone().unwrap();
                let word = tokio::task::spawn_blocking(move || heard(&socket)).await.unwrap();
                assert_eq!(word, "WATCHDOG=1");
            }
        };
        tokio::select! {
            () = beats => {}
            () = alive.keep_alive(Duration::from_millis(40), || true) => unreachable!(),
        }
        assert!(begun.elapsed() >= Duration::from_millis(59), "the first at once, then one each half");
    }

    #[test]
    fn nobody_is_told_where_nobody_is_named_or_understood() {
        Notifier::default().notify(&[Notification::Ready]);
        assert!(!Notifier::default().is_connected());
        for name in ["vsock:2:1234", "relative", "/nowhere/notify", "@nobody-here-wsluice"] {
            assert!(Notifier::to(name).is_err(), "{name}");
        }
        // A manager that has stopped reading blocks nothing.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let deaf = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::to(path.to_str().unwrap()).unwrap();
        (0..2000).for_each(|_| notifier.notify(&[Notification::Watchdog]));
        drop(deaf);
        notifier.notify(&[Notification::Ready]);
    }

    fn environment<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        let map: HashMap<_, _> = pairs.iter().copied().collect();
        move |name| map.get(name).map(|value| (*value).to_owned())
    }

    #[test]
    fn what_is_meant_for_another_process_is_not_ours() {
        let watchdog = |pairs| watchdog_of(&environment(pairs), 7);
        let span = Some(Duration::from_secs(2));
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "7")]), span);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "2000000")]), span);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "8")]), None);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "x")]), None);

        let listen = |pairs| listen_of(&environment(pairs), 7);
        let named = |list: &[(RawFd, &str)]| Some(list.iter().map(|(n, name)| (*n, (*name).to_owned())).collect());
        assert_eq!(listen(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "2")]), named(&[(3, ""), (4, "")]));
        let names = [("LISTEN_PID", "7"), ("LISTEN_FDS", "3"), ("LISTEN_FDNAMES", "web:tls")];
        assert_eq!(listen(&names), named(&[(3, "web"), (4, "tls"), (5, "")]));
        assert_eq!(listen(&[("LISTEN_PID", "8"), ("LISTEN_FDS", "2")]), None);
        assert_eq!(listen(&[("LISTEN_FDS", "2")]), None);
        assert_eq!(listen(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "-1")]), named(&[]));
        assert_eq!(listen(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "999999999")]).unwrap().len(), LISTEN_MAX as usize);
    }

    #[test]
    fn what_we_have_opened_ourselves_is_never_taken_for_a_gift() {
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(inherited(ours.as_raw_fd()).is_none());
        assert!(inherited(RawFd::MAX).is_none());
    }

    #[test]
    fn the_next_process_is_watched_and_given_nothing_twice() {
        let mut command = Command::new("true");
        for_successor(&mut command);
        let removed: Vec<_> = command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        assert_eq!(removed, ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_PID"]);
    }
}
