//! What the rig asks of the machine: one core for the proxy, one for itself, descriptors, and timers that are on time.

use std::io;
use std::net::TcpListener;
use std::num::NonZeroU64;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity, set_current_timer_slack};

/// Which cores the two sides run on.
#[derive(Clone, Copy)]
pub struct Cores {
    all: CpuSet,
    proxy: Option<usize>,
    rig: Option<usize>,
}

impl Cores {
    /// The proxy's core and the rig's; `None` leaves both to the scheduler, which also happens where there is only one.
    pub fn new(pinned: Option<(usize, usize)>) -> Result<Cores> {
        let all = sched_getaffinity(None).context("reading the cores this process may use")?;
        let usable = |core: usize| all.is_set(core);
        let (proxy, rig) = match pinned {
            Some((proxy, rig)) if proxy != rig && usable(proxy) && usable(rig) => (Some(proxy), Some(rig)),
            Some((proxy, rig)) => {
                eprintln!("load: cores {proxy} and {rig} are not both there: nothing is pinned, expect noise");
                (None, None)
            }
            None => (None, None),
        };
        Ok(Cores { all, proxy, rig })
    }

    /// Moves this thread, and what it starts from now on, to the proxy's core (to all cores for several workers).
    pub fn become_proxy(&self, workers: usize) -> Result<()> {
        self.pin(if workers == 1 { self.proxy } else { None })
    }

    /// Moves this thread, and what it starts from now on, to the rig's core.
    pub fn become_rig(&self) -> Result<()> {
        self.pin(self.rig)
    }

    fn pin(&self, core: Option<usize>) -> Result<()> {
        let mut set = self.all;
        if let Some(core) = core {
            set = CpuSet::new();
            set.set(core);
        }
        sched_setaffinity(None, &set).context("pinning a thread")
    }

    pub fn describe(&self) -> String {
        match (self.proxy, self.rig) {
            (Some(proxy), Some(rig)) => format!("proxy on core {proxy}, generator and backend on core {rig}"),
            _ => "not pinned".to_owned(),
        }
    }
}

/// Raises the descriptor limit to the hard one (inherited by the proxies) and returns it.
pub fn raise_descriptors() -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("raising the descriptor limit")?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Lets this thread's sleeps end when asked and not up to 50 µs later.
pub fn sleep_exactly() -> Result<()> {
    set_current_timer_slack(NonZeroU64::new(1)).context("setting the timer slack")
}

/// Who of the rig goes first where there are more threads than cores.
#[derive(Clone, Copy)]
pub enum Priority {
    /// Before the proxy: what it does is to be measured, and not how long it waits for a core.
    High,
    /// As the proxy.
    Usual,
    /// After the proxy, as if it were on another machine.
    Low,
}

impl Priority {
    /// Gives this thread, and what it starts from now on, this priority. Only root may have a high one.
    pub fn take(self) {
        let nice = match self {
            Priority::High => -15,
            Priority::Usual => return,
            Priority::Low => 10,
        };
        // On Linux a thread has a priority of its own. Without it the figures are the noisier, and no less true.
        let _refused = setpriority_process(None, nice);
    }
}

/// Loopback ports that nobody listens on now. All are held until the last is found, or the kernel may give one twice.
pub fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT]> {
    let held = (0..COUNT).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<Vec<_>>>();
    let held = held.context("looking for free ports")?;
    let mut ports = [0; COUNT];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
