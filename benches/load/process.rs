//! What a running proxy costs: CPU time, memory, and which worker holds which connection, of all its processes.
//!
//! CPU time is the kernel's process clock (`clock_getcpuclockid`): nanoseconds, of all threads, those that have ended
//! included. The figures of `/proc/PID/stat` are cut to 10 ms, `/proc/PID/schedstat` knows only the first thread, and
//! the sum over `/proc/PID/task/*/schedstat` forgets threads that have ended. A thread that runs at this instant on
//! another core is counted up to the scheduler's last tick, 0.1–0.2 % of a round of 2 s.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use rustix::time::ClockId;

/// A process and all its descendants, as they were when it was made (nginx: the master and its workers).
#[derive(Clone, Debug)]
pub struct Tree {
    pids: Vec<i32>,
}

impl Tree {
    pub fn of(root: i32) -> Tree {
        let mut pids = vec![root];
        let family: Vec<(i32, i32)> = every_process().filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
        let mut next = 0;
        while let Some(&parent) = pids.get(next) {
            pids.extend(family.iter().filter(|(_, its)| *its == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        Tree { pids }
    }

    pub fn pids(&self) -> &[i32] {
        &self.pids
    }

    /// CPU time used so far, user and system.
    pub fn cpu(&self) -> Result<Duration> {
        self.pids.iter().map(|&pid| cpu_of(pid)).sum()
    }

    /// Proportional set size in KiB: memory of its own, and its share of what it shares. Without pages of files: their
    /// shares change by megabytes whenever another process starts or ends that maps the same library.
    pub fn pss(&self) -> Result<f64> {
        self.pids.iter().map(|&pid| pss_of(pid)).sum()
    }

    /// The most that was resident at any time, KiB (`VmHWM`): a peak that a sample would miss, and reading it costs the
    /// proxy nothing. Pages that its processes share are counted in each.
    pub fn peak(&self) -> Result<f64> {
        self.pids.iter().map(|&pid| peak_of(pid)).sum()
    }

    /// How many descriptors each epoll instance watches: one instance is one worker in every proxy here.
    pub fn watched(&self) -> Vec<usize> {
        self.pids.iter().flat_map(|&pid| epolls_of(pid)).map(|watched| watched.lines().count()).collect()
    }
}

/// What each epoll instance of a process watches, a line a descriptor. Descriptors of the same instance (tokio has two)
/// say the same.
fn epolls_of(pid: i32) -> Vec<String> {
    let mut instances: Vec<String> = Vec::new();
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        if !fs::read_link(descriptor.path()).is_ok_and(|target| target == Path::new("anon_inode:[eventpoll]")) {
            continue;
        }
        let info = Path::new(&format!("/proc/{pid}/fdinfo")).join(descriptor.file_name());
        let info = fs::read_to_string(info).unwrap_or_default();
        let watched: String =
            info.lines().filter(|line| line.starts_with("tfd:")).map(|line| format!("{line}\n")).collect();
        if !instances.contains(&watched) {
            instances.push(watched);
        }
    }
    instances
}

/// CPU time of this process, the generator and the backend.
pub fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

fn cpu_of(pid: i32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).with_context(|| format!("CPU clock of process {pid}"))?;
    Ok(Duration::from(clock_gettime(clock).with_context(|| format!("reading the CPU clock of process {pid}"))?))
}

fn pss_of(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let rollup = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let (anonymous, shared) = (kib(&rollup, "Pss_Anon:"), kib(&rollup, "Pss_Shmem:"));
    anonymous
        .zip(shared)
        .map(|(anonymous, shared)| anonymous + shared)
        .with_context(|| format!("{path} is too old a one"))
}

fn peak_of(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    kib(&status, "VmHWM:").with_context(|| format!("{path} has no peak"))
}

fn kib(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

fn every_process() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The fourth field of `/proc/PID/stat`; the second, the name in brackets, may contain anything.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(1)?.parse().ok()
}

/// What `cargo test --benches` holds this file to: the clock counts threads that have ended.
pub fn check_itself() -> Result<()> {
    let me = Tree::of(std::process::id() as i32);
    let before = me.cpu()?;
    let spun = std::thread::spawn(|| {
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        rustix::time::clock_gettime(ClockId::ThreadCPUTime).tv_nsec
    });
    let spun = Duration::from_nanos(spun.join().unwrap_or_default().unsigned_abs());
    let counted = me.cpu()?.saturating_sub(before);
    anyhow::ensure!(counted + Duration::from_millis(1) >= spun, "an ended thread ran {spun:?}, counted {counted:?}");
    Ok(())
}
