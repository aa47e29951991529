//! Panics: bugs of ours. Each ends only the work in which it happens, is counted, and leaves one line in the log.
//!
//! `catch` surrounds each poll of a session, a request and a connection, where it is known whose work it was and what
//! can still be sent to its peers; the log line then has those names. The runtime catches other panics task by task
//! and would leave only text on the standard error: `install` turns these into a log line and counts them by thread.
//! So every panic is counted once: by the innermost `catch`, or, without one, by the hook.
//!
//! The counts are those of the process, since the hook is: all registries show the same numbers.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Opts, Registry};
use tokio::time::{Instant, sleep};

use super::labelled::IntCounterVec;
use super::sink::LogSink;

use crate::base::labels::variant_labels;

/// How long a thread whose panic may end the process waits for its line to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long work rests after a panic before it restarts; doubled each time in a row, up to `AGAIN_LAST`. Long enough
/// that work that panics at once does no harm.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_LAST: Duration = Duration::from_secs(60);

/// The work in which a panic happened; a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicSite {
    /// A session: ended with 1011.
    Session,
    /// A request: got a 500, and its connection was closed.
    Request,
    /// A connection before its session, or outside of any request: closed.
    Connection,
    /// Other work of a worker: as a rule a pooled connection to an endpoint, which was closed.
    Worker,
    /// Work without a client: health checks, discovery, reloading, moving sessions.
    Control,
    /// An answer to the operator: its connection was closed.
    Admin,
    /// Any other thread.
    Other,
}

variant_labels! {
    PanicSite {
        Session => "session",
        Request => "request",
        Connection => "connection",
        Worker => "worker",
        Control => "control",
        Admin => "admin",
        Other => "other",
    }
}

impl PanicSite {
    /// Returns the site of a thread, by its name.
    fn of_thread(name: Option<&str>) -> PanicSite {
        match name {
            Some(name) if name.starts_with("worker-") => PanicSite::Worker,
            Some("control") => PanicSite::Control,
            Some("admin") => PanicSite::Admin,
            _ => PanicSite::Other,
        }
    }
}

static COUNTS: [AtomicU64; PanicSite::ALL.len()] = [const { AtomicU64::new(0) }; PanicSite::ALL.len()];

thread_local! {
    /// A `catch` of this thread is running, and will report a panic.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    /// The hook's record, for the `catch` that will report it.
    static SEEN: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// The facts of a panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic {
    /// Its message.
    pub message: String,
    /// File, line and column; `None` without the hook.
    pub location: Option<String>,
}

impl Panic {
    /// Reads what `catch_unwind` caught.
    fn of(payload: &(dyn Any + Send)) -> Panic {
        let seen = SEEN.try_with(|seen| seen.try_borrow_mut().ok()?.take()).ok().flatten();
        seen.unwrap_or_else(|| {
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            Panic { message: text.unwrap_or("no text").to_owned(), location: None }
        })
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.location {
            Some(location) => write!(f, " (at {location})"),
            None => Ok(()),
        }
    }
}

/// Runs `work`. Counts a panic in it for `place` and returns it, for the caller to log with the names it knows.
///
/// The caller must not rely on anything that `work` may have left half done. Without a panic it costs setting and
/// resetting a flag of the thread.
///
/// # Errors
/// The facts of the panic.
#[inline]
pub fn catch<T>(place: PanicSite, work: impl FnOnce() -> T) -> Result<T, Panic> {
    let outer = CATCHING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(outer);
    result.map_err(|payload| caught(place, payload))
}

#[cold]
fn caught(place: PanicSite, payload: Box<dyn Any + Send>) -> Panic {
    COUNTS[place as usize].fetch_add(1, Ordering::Relaxed);
    let panic = Panic::of(&*payload);
    // A payload may panic when it is dropped, outside of any `catch`.
    std::mem::forget(payload);
    panic
}

/// Does the same for each poll of a future, which is not polled again after a panic.
pub fn catching<F: Future + Unpin>(place: PanicSite, mut future: F) -> impl Future<Output = Result<F::Output, Panic>> {
    poll_fn(move |cx| match catch(place, || Pin::new(&mut future).poll(cx)) {
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(panic) => Poll::Ready(Err(panic)),
    })
}

/// Runs work that has no client and lasts as long as the process: after a panic it restarts, with a new future from
/// `make`, after a wait. `what` names it in the log. Ends when the work ends by itself; cancel-safe if the work is.
pub async fn keep<F: Future>(place: PanicSite, what: &str, make: impl FnMut() -> F) -> F::Output {
    keep_after(AGAIN_FIRST, place, what, make).await
}

/// Does the same with another first wait.
async fn keep_after<F: Future>(
    first: Duration,
    place: PanicSite,
    what: &str,
    mut make: impl FnMut() -> F,
) -> F::Output {
    let mut wait = first;
    loop {
        let begun = Instant::now();
        let ended = catching(place, Box::pin(make())).await;
        let panic = match ended {
            Ok(output) => return output,
            Err(panic) => panic,
        };
        // Work that ran well for long has not failed in a row.
        if begun.elapsed() > AGAIN_LAST {
            wait = first;
        }
        tracing::error!(
            r#where = place.label(),
            location = panic.location,
            again_in = ?wait,
            "panic: {}: {what} restarts",
            panic.message
        );
        sleep(wait).await;
        wait = (wait * 2).min(AGAIN_LAST);
    }
}

/// Turns panics into lines of the log, and writes no other text. `sink` is where the log goes.
pub fn install(sink: LogSink) {
    set_hook(Box::new(move |info| hook(info, &sink)));
}

fn hook(info: &PanicHookInfo<'_>, sink: &LogSink) {
    let message = info.payload_as_str().unwrap_or("no text").to_owned();
    let panic = Panic { message, location: info.location().map(ToString::to_string) };
    // A second panic while the first unwinds: the process ends, and no `catch` will report it.
    let first = SEEN.try_with(|seen| seen.try_borrow_mut().ok()?.take()).ok().flatten();
    if CATCHING.try_with(Cell::get).unwrap_or(false) && first.is_none() {
        let _ = SEEN.try_with(|seen| seen.try_borrow_mut().map(|mut seen| *seen = Some(panic)));
        return;
    }
    if let Some(first) = &first {
        tracing::error!(location = first.location, "panic: {}", first.message);
    }
    let thread = std::thread::current();
    let place = PanicSite::of_thread(thread.name());
    COUNTS[place as usize].fetch_add(1, Ordering::Relaxed);
    // Empty unless RUST_BACKTRACE asks for it.
    let backtrace = Some(Backtrace::capture()).filter(|backtrace| backtrace.status() == BacktraceStatus::Captured);
    tracing::error!(
        r#where = place.label(),
        thread = thread.name(),
        location = panic.location,
        backtrace = backtrace.map(tracing::field::display),
        "panic: {}",
        panic.message
    );
    // The process ends with its main thread.
    if first.is_some() || thread.name() == Some("main") {
        sink.flush(LAST_WORDS);
    }
}

/// Registers `wsluice_panics_total`.
///
/// # Errors
/// If the name is taken.
pub fn register(registry: &Registry) -> prometheus::Result<()> {
    let family = family()?;
    let desc = family.desc().into_iter().cloned().collect();
    registry.register(Box::new(Panics { desc }))
}

fn family() -> prometheus::Result<IntCounterVec> {
    let help = "Mistakes of the proxy's own that ended a piece of work, by what that was; any one is worth a report.";
    IntCounterVec::new(Opts::new("wsluice_panics_total", help), &["where"])
}

/// The counts, read at each scrape.
struct Panics {
    desc: Vec<Desc>,
}

impl Collector for Panics {
    fn desc(&self) -> Vec<&Desc> {
        self.desc.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(family) = family() else { return Vec::new() };
        for place in PanicSite::ALL {
            family.with_label_values(&[place.label()]).inc_by(COUNTS[place as usize].load(Ordering::Relaxed));
        }
        family.collect()
    }
}

/// Panics in unit tests if `is_one` returns true, as a bug would. Does nothing in other builds.
#[inline(always)]
pub fn trap(is_one: impl FnOnce() -> bool) {
    assert!(!(cfg!(test) && is_one()), "a mistake");
}

/// In unit tests a message of this many bytes is a bug,
pub const TRAP_MESSAGE_BYTES: u64 = 4099;
/// a request for this path,
pub const TRAP_REQUEST: &str = "/trap/request";
/// and the answer to this one, as soon as its body is asked for.
pub const TRAP_BODY: &str = "/trap/body";

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;
    use crate::telemetry::exposition::encode;
    use crate::telemetry::logging::{self, Format, Options};

    #[test]
    fn what_panics_is_told_and_counted_once_for_the_innermost() {
        let count = |place: PanicSite| COUNTS[place as usize].load(Ordering::Relaxed);
        let before = (count(PanicSite::Other), count(PanicSite::Control));
        let panic = catch(PanicSite::Control, || {
            let within = catch(PanicSite::Other, || std::panic::panic_any(7));
            assert_eq!(within.map_err(|panic| panic.message), Err("no text".to_owned()));
            let number = 12;
            assert!(number < 12, "{number} is too much");
        });
        assert_eq!(panic, Err(Panic { message: "12 is too much".into(), location: None }));
        assert_eq!(catch(PanicSite::Control, || 5), Ok(5));
        assert!(!CATCHING.get());
        // Other tests may panic meanwhile, but not there.
        assert_eq!((count(PanicSite::Other), count(PanicSite::Control)), (before.0 + 1, before.1 + 1));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn work_that_panics_begins_anew_later_each_time() {
        let mut times = vec![];
        let work = keep_after(Duration::from_millis(10), PanicSite::Control, "a test", || {
            times.push(Instant::now());
            let count = times.len();
            async move {
                assert!(count == 4, "a mistake");
                count
            }
        });
        assert_eq!(work.await, 4);
        for (times, least) in times.windows(2).zip([10, 20, 40]) {
            assert!(times[1] - times[0] >= Duration::from_millis(least), "{times:?}");
        }
    }

    /// Runs in a process of its own (see the next test): the hook is the process's.
    #[test]
    #[ignore = "run by what_panics_is_a_line_of_the_log_and_no_other_text"]
    fn child_that_panics() {
        let sink = LogSink::stderr().unwrap();
        let options = Options { filter: "info".into(), format: Format::Json, ansi: false };
        logging::init(&options, sink.clone()).unwrap();
        install(sink.clone());
        let worker = std::thread::Builder::new().name("worker-3".into()).spawn(|| panic!("alone\nand lost"));
        assert!(worker.unwrap().join().is_err());
        let told = catch(PanicSite::Session, || panic!("within"));
        tracing::info!(told = %told.unwrap_err(), "caught");
        let registry = Registry::new();
        register(&registry).unwrap();
        let count =
            |place| encode(&registry).unwrap().contains(&format!("wsluice_panics_total{{where=\"{place}\"}} 1"));
        tracing::info!(worker = count("worker"), session = count("session"), other = count("other"), "counted");
        assert!(sink.flush(Duration::from_secs(20)));
    }

    #[test]
    fn what_panics_is_a_line_of_the_log_and_no_other_text() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "telemetry::panics::tests::child_that_panics"])
            .env_remove("RUST_BACKTRACE")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3, "{text}");
        let words = |key: &str| lines[0][key].as_str().unwrap_or("").to_owned();
        assert_eq!((words("level"), words("message")), ("error".into(), "panic: alone\nand lost".into()));
        assert_eq!((words("where"), words("thread")), ("worker".into(), "worker-3".into()));
        assert!(
            words("location").contains("src/telemetry/panics.rs:") && lines[0].get("backtrace").is_none(),
            "{text}"
        );
        assert!(lines[1]["told"].as_str().unwrap().starts_with("within (at src/telemetry/panics.rs:"), "{text}");
        let counted = ["worker", "session", "other"].map(|place| lines[2][place].as_bool().unwrap());
        assert_eq!(counted, [true, true, false], "{text}");
    }

    #[test]
    fn every_place_has_its_series_from_the_start() {
        let registry = Registry::new();
        register(&registry).unwrap();
        let text = encode(&registry).unwrap();
        for place in PanicSite::ALL {
            assert!(text.contains(&format!("wsluice_panics_total{{where=\"{}\"}} ", place.label())), "{text}");
        }
        for (thread, place) in [("worker-3", "worker"), ("control", "control"), ("admin", "admin"), ("main", "other")] {
            assert_eq!(PanicSite::of_thread(Some(thread)).label(), place);
        }
    }
}
