//! The process metrics that every Prometheus client library has, under the names all dashboards know, and our
//! version.
//!
//! Read from /proc/self at a scrape, and only then. The prometheus crate's own collector would bring procfs and a
//! second rustix. On a system without /proc the values that need it are left out.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntCounter, Opts, Registry};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::labelled::IntGaugeVec;
use super::panics;
use super::sink::LogSink;

/// Ticks a second in /proc/self/stat: USER_HZ, which is 100 wherever Linux runs Rust.
const USER_HZ: u64 = 100;

/// Registers the process's own metrics, `wsluice_build_info`, and the failures of the process as a whole.
///
/// # Errors
/// If one of the names is taken.
pub fn register(registry: &Registry, sink: &LogSink) -> prometheus::Result<()> {
    let build = IntGaugeVec::new(Opts::new("wsluice_build_info", "The version that runs; always 1."), &["version"])?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(build))?;
    panics::register(registry)?;
    registry.register(Box::new(LostLines::new(sink.clone())?))?;
    registry.register(Box::new(ProcessMetrics::new()?))
}

/// Lines that the log had no room for, read from the sink at each scrape.
struct LostLines {
    sink: LogSink,
    desc: Vec<Desc>,
}

impl LostLines {
    fn new(sink: LogSink) -> prometheus::Result<LostLines> {
        let desc = LostLines::counter()?.desc().into_iter().cloned().collect();
        Ok(LostLines { sink, desc })
    }

    fn counter() -> prometheus::Result<IntCounter> {
        let help = "Log lines dropped because the output was too slow or gone.";
        IntCounter::new("wsluice_log_lines_dropped_total", help)
    }
}

impl Collector for LostLines {
    fn desc(&self) -> Vec<&Desc> {
        self.desc.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(counter) = LostLines::counter() else { return Vec::new() };
        counter.inc_by(self.sink.dropped());
        counter.collect()
    }
}

/// The `process_*` family; values are read anew into these at each scrape.
struct ProcessMetrics {
    cpu: Desc,
    open_fds: Gauge,
    max_fds: Gauge,
    virtual_memory: Gauge,
    resident_memory: Gauge,
    threads: Gauge,
    start_time: Gauge,
}

impl ProcessMetrics {
    fn new() -> prometheus::Result<ProcessMetrics> {
        let process = ProcessMetrics {
            cpu: cpu_counter()?.desc()[0].clone(),
            open_fds: Gauge::new("process_open_fds", "Number of open file descriptors.")?,
            max_fds: Gauge::new("process_max_fds", "Maximum number of open file descriptors.")?,
            virtual_memory: Gauge::new("process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
            resident_memory: Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            threads: Gauge::new("process_threads", "Number of operating system threads.")?,
            start_time: Gauge::new(
                "process_start_time_seconds",
                "Start time of the process since the Unix epoch in seconds.",
            )?,
        };
        process.start_time.set(start_time().unwrap_or_default());
        Ok(process)
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = vec![&self.cpu];
        for gauge in [
            &self.open_fds,
            &self.max_fds,
            &self.virtual_memory,
            &self.resident_memory,
            &self.threads,
            &self.start_time,
        ] {
            all.extend(gauge.desc());
        }
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::with_capacity(7);
        if let Ok(cpu) = cpu_counter() {
            cpu.inc_by(cpu_time().as_secs_f64());
            families.extend(cpu.collect());
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let readings = [
            (&self.open_fds, open_fds()),
            (&self.max_fds, getrlimit(Resource::Nofile).current.map(|limit| limit as f64)),
            (&self.virtual_memory, status_number(&status, "VmSize").map(|kib| kib * 1024.0)),
            (&self.resident_memory, status_number(&status, "VmRSS").map(|kib| kib * 1024.0)),
            (&self.threads, status_number(&status, "Threads")),
            (&self.start_time, Some(self.start_time.get()).filter(|&start| start > 0.0)),
        ];
        for (gauge, reading) in readings {
            if let Some(value) = reading {
                gauge.set(value);
                families.extend(gauge.collect());
            }
        }
        families
    }
}

/// Makes the counter anew for each scrape: a counter of the crate can only grow, and cannot be set to the kernel's
/// value.
fn cpu_counter() -> prometheus::Result<Counter> {
    Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
}

/// Returns the kernel's own account, exact to the microsecond; /proc/self/stat has it in hundredths.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Returns the number of open descriptors: since Linux 6.2 the size of the directory, before that its entries,
/// counted.
fn open_fds() -> Option<f64> {
    match fs::metadata("/proc/self/fd").ok()?.len() {
        // One of the entries is the directory itself, open for being read.
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64),
        count => Some(count as f64),
    }
}

/// Returns the number after `key:` in /proc/self/status.
fn status_number(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Returns the seconds from 1970 to the start of the process: that of the machine, plus how long after it we started.
fn start_time() -> Option<f64> {
    let machine = fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let process = fs::read_to_string("/proc/self/stat").ok()?;
    // Field 22 (proc_pid_stat(5)), counted after the name in parentheses, which may hold anything.
    let ticks: u64 = process.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let start = UNIX_EPOCH + Duration::from_secs(boot) + Duration::from_millis(ticks * 1000 / USER_HZ);
    Some(start.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::io;
    use std::time::SystemTime;

    use super::*;
    use crate::telemetry::exposition::encode;

    fn value(text: &str, name: &str) -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    #[test]
    fn the_process_knows_itself() {
        let registry = Registry::new();
        register(&registry, &LogSink::new(io::sink()).unwrap()).unwrap();
        let text = encode(&registry).unwrap();

        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let start = value(&text, "process_start_time_seconds");
        assert!(start < now + 2.0 && start > now - 3600.0, "started {start}, now {now}");
        assert!(value(&text, "process_cpu_seconds_total") > 0.0);
        assert!(value(&text, "process_threads") >= 2.0);
        assert!(value(&text, "process_resident_memory_bytes") > 1e6);
        assert!(value(&text, "process_virtual_memory_bytes") >= value(&text, "process_resident_memory_bytes"));
        let open = value(&text, "process_open_fds");
        assert!(open >= 3.0 && open <= value(&text, "process_max_fds"));
        assert_eq!(value(&text, "wsluice_log_lines_dropped_total"), 0.0);
        assert!(text.contains(concat!("wsluice_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")));
    }

    #[test]
    fn open_files_are_counted_while_they_are_open() {
        let before = open_fds().unwrap();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let during = open_fds().unwrap();
        // Other tests of this process open and close files at the same time.
        assert!(during > before + 20.0, "{before} {during}");
        drop(files);
    }

    #[test]
    fn cpu_time_only_grows() {
        let mut last = cpu_time();
        for _ in 0..100 {
            let now = cpu_time();
            assert!(now >= last);
            last = now;
        }
    }
}
