//! Where log lines go: a bounded queue in memory, emptied by one thread that alone touches the output.
//!
//! A terminal that scrolls slowly, a full pipe or a stalled disk must never hold up a worker, so nobody writes to the
//! output directly and nobody waits for it: a line is copied behind a short lock, and a line that does not fit is
//! dropped whole and counted (`wsluice_log_lines_dropped_total`). A reader that went away (EPIPE) or a full disk (ENOSPC)
//! costs lines, not the process; how many it were is said once the output takes some again. tracing-appender would do nearly the same; it is left out because it queues one allocation a line.
//!
//! What always holds: lines come out in the order in which they were accepted, and never mixed; whole, but for one that the
//! output itself has cut, after which the next begins on a line of its own.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How much may wait for the output. At 500 bytes an access line, 2,000 sessions ending within one stall.
const PENDING_BYTES_MAX: usize = 1 << 20;

/// A buffer that a burst has grown past this is given back once it is written.
const KEEP_BYTES: usize = 64 << 10;

/// How long the writer waits before it tries again, when someone has made the output non-blocking and it is full.
const RETRY: Duration = Duration::from_millis(5);

/// The shortest time between two reports of dropped lines: an output may fail and work by turns.
const SAY: Duration = Duration::from_secs(1);

/// The buffer in which lines are put together is given back when one line needed more than this.
const LINE_BYTES: usize = 16 << 10;

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The queue in front of one output. Clones are the same queue; the thread ends, when all is written, after the last.
#[derive(Clone, Debug)]
pub struct LogSink {
    handle: Arc<SinkHandle>,
}

impl LogSink {
    /// Starts the thread that writes to standard output.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn stdout() -> io::Result<LogSink> {
        LogSink::new(io::stdout())
    }

    /// Starts the thread that writes to standard error.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn stderr() -> io::Result<LogSink> {
        LogSink::new(io::stderr())
    }

    /// Starts the thread that writes to `output`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn new(output: impl Write + Send + 'static) -> io::Result<LogSink> {
        let shared = Arc::new(SinkShared::default());
        let writer = Arc::clone(&shared);
        thread::Builder::new().name("log".into()).spawn(move || writer.run(output))?;
        Ok(LogSink { handle: Arc::new(SinkHandle { shared }) })
    }

    /// Queues one line; the line end is added. Never waits for the output. `line` must not contain a line end itself.
    pub fn write_line(&self, line: &[u8]) {
        debug_assert!(!line.contains(&b'\n'), "a line is one line");
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        if state.pending.len() + line.len() + 1 > PENDING_BYTES_MAX {
            drop(state);
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.pending.extend_from_slice(line);
        state.pending.push(b'\n');
        let wake = !state.writing;
        drop(state);
        if wake {
            shared.wake.notify_one();
        }
    }

    /// Queues the line that `fill` writes into the given empty buffer, which the thread keeps for reuse.
    pub fn write_with(&self, fill: impl Fn(&mut Vec<u8>)) {
        let write = |line: &mut Vec<u8>| {
            line.clear();
            fill(line);
            self.write_line(line);
            line.shrink_to(LINE_BYTES);
        };
        // Not available when the thread is about to end, or when `fill` itself logs.
        let written = LINE.try_with(|line| line.try_borrow_mut().map(|mut line| write(&mut line)));
        if !matches!(written, Ok(Ok(()))) {
            write(&mut Vec::new());
        }
    }

    /// Waits, at most `limit`, until everything queued before is written. Returns whether it is.
    pub fn flush(&self, limit: Duration) -> bool {
        let shared = &self.handle.shared;
        let deadline = Instant::now() + limit;
        let mut state = shared.lock();
        while state.writing || !state.pending.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = shared.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Returns the number of lines that did not fit or could not be written, since the start.
    pub fn dropped(&self) -> u64 {
        self.handle.shared.dropped.load(Ordering::Relaxed)
    }
}

/// Shared by the clones of a sink; the last one to go closes the queue.
#[derive(Debug)]
struct SinkHandle {
    shared: Arc<SinkShared>,
}

impl Drop for SinkHandle {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

#[derive(Debug, Default)]
struct SinkShared {
    state: Mutex<SinkState>,
    /// To the writer: there are lines, or there will be no more.
    wake: Condvar,
    /// To waiting `flush` calls: the writer has caught up.
    done: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct SinkState {
    pending: Vec<u8>,
    writing: bool,
    closed: bool,
}

impl SinkShared {
    /// Locks the state. It stays whole whatever happens to a holder: every change to it is a single push or swap.
    fn lock(&self) -> MutexGuard<'_, SinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut output: impl Write) {
        let mut batch = Vec::new();
        let mut losses = Losses::default();
        // The output has taken a line without its end.
        let mut is_torn = false;
        loop {
            losses.report(&self.dropped);
            let mut state = self.lock();
            state.writing = false;
            while state.pending.is_empty() {
                self.done.notify_all();
                if state.closed {
                    return;
                }
                state = match losses.report_due(&self.dropped) {
                    None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                    Some(wait) if wait.is_zero() => break,
                    Some(wait) => self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                };
            }
            if state.pending.is_empty() {
                continue;
            }
            std::mem::swap(&mut state.pending, &mut batch);
            state.writing = true;
            drop(state);

            if is_torn && write_out(&mut output, b"\n") == 1 {
                is_torn = false;
            }
            let written = if is_torn { 0 } else { write_out(&mut output, &batch) };
            if written > 0 {
                is_torn = batch[written - 1] != b'\n';
            }
            let lost = batch[written..].iter().filter(|&&byte| byte == b'\n').count();
            self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
            losses.works = written == batch.len();
            batch.clear();
            batch.shrink_to(KEEP_BYTES);
        }
    }
}

/// What the writer knows of dropped lines.
#[derive(Debug, Default)]
struct Losses {
    /// The output took all of the last batch.
    works: bool,
    /// How many have been reported, and when.
    said: u64,
    said_at: Option<Instant>,
}

impl Losses {
    /// Returns when to report more losses, if there are some and the output works.
    fn report_due(&self, dropped: &AtomicU64) -> Option<Duration> {
        let more = self.works && dropped.load(Ordering::Relaxed) > self.said;
        more.then(|| self.said_at.map_or(Duration::ZERO, |at| SAY.saturating_sub(at.elapsed())))
    }

    /// Reports losses when due: by a line like any other, which may itself be dropped and is then reported again.
    fn report(&mut self, dropped: &AtomicU64) {
        if self.report_due(dropped).is_none_or(|wait| !wait.is_zero()) {
            return;
        }
        let lines = dropped.load(Ordering::Relaxed);
        self.said_at = Some(Instant::now());
        tracing::warn!(lines = lines - self.said, "log lines were dropped: the output was too slow, full or gone");
        self.said = lines;
    }
}

/// Writes as much of `batch` as the output takes before it fails for good, and returns how much that was.
fn write_out(output: &mut impl Write, batch: &[u8]) -> usize {
    let mut written = 0;
    while written < batch.len() {
        match output.write(&batch[written..]) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(_) => break,
        }
    }
    // Standard output is line-buffered by the library; what it still holds is the tail of a batch, lost with its reader.
    let _ = output.flush();
    written
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// An output that gives every write to the test.
    struct Tap(mpsc::Sender<Vec<u8>>);

    impl Write for Tap {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn all(tap: mpsc::Receiver<Vec<u8>>) -> String {
        String::from_utf8(tap.into_iter().flatten().collect()).unwrap()
    }

    #[test]
    fn lines_of_many_threads_come_out_whole_and_in_the_order_of_each() {
        let (sender, tap) = mpsc::channel();
        let sink = LogSink::new(Tap(sender)).unwrap();
        thread::scope(|scope| {
            for writer in 0..4 {
                let sink = &sink;
                scope.spawn(move || (0..500).for_each(|i| sink.write_line(format!("{writer} {i}").as_bytes())));
            }
        });
        assert!(sink.flush(LONG));
        assert_eq!(sink.dropped(), 0);
        drop(sink);
        let mut next = [0; 4];
        for line in all(tap).lines() {
            let (writer, i) = line.split_once(' ').unwrap();
            let next = &mut next[writer.parse::<usize>().unwrap()];
            assert_eq!(i.parse::<usize>().unwrap(), *next);
            *next += 1;
        }
        assert_eq!(next, [500; 4]);
    }

    /// An output that blocks until the test lets go.
    struct Stalled {
        started: mpsc::Sender<()>,
        go: mpsc::Receiver<()>,
        tap: Tap,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.started.send(());
            let _ = self.go.recv();
            self.tap.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stalled_output_costs_whole_lines_and_never_the_writers_time() {
        let (sender, tap) = mpsc::channel();
        let (started, has_started) = mpsc::channel();
        let (let_go, go) = mpsc::channel();
        let sink = LogSink::new(Stalled { started, go, tap: Tap(sender) }).unwrap();
        sink.write_line(b"first");
        has_started.recv().unwrap();

        let line = vec![b'x'; 1023];
        (0..1024 + 7).for_each(|_| sink.write_line(&line));
        assert_eq!(sink.dropped(), 7, "1 MiB waits, the rest is dropped");
        assert!(!sink.flush(Duration::ZERO), "nothing has been written yet");

        drop(let_go);
        assert!(sink.flush(LONG));
        sink.write_line(b"last");
        drop(sink);
        let text = all(tap);
        assert_eq!(text.lines().count(), 1 + 1024 + 1);
        assert!(text.lines().all(|line| line == "first" || line == "last" || line.len() == 1023));
    }

    #[test]
    fn a_line_may_be_logged_while_another_is_put_together() {
        let (sender, tap) = mpsc::channel();
        let sink = LogSink::new(Tap(sender)).unwrap();
        sink.write_with(|line| {
            line.extend_from_slice(b"outer");
            sink.write_with(|line| line.extend_from_slice(b"inner"));
        });
        assert!(sink.flush(LONG));
        drop(sink);
        assert_eq!(all(tap), "inner\nouter\n");
    }

    #[test]
    fn a_reader_that_went_away_costs_lines_and_nothing_else() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let sink = LogSink::new(writer).unwrap();
        sink.write_line(b"nobody reads this");
        assert!(sink.flush(LONG));
        sink.write_line(b"nor this");
        assert!(sink.flush(LONG));
        assert_eq!(sink.dropped(), 2);
    }

    #[test]
    fn a_line_that_the_output_has_cut_stays_on_its_own() {
        /// Has room for so many bytes, then is full until it is emptied.
        struct Disk(Arc<Mutex<(usize, Vec<u8>)>>);
        impl Write for Disk {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let (room, written) = &mut *self.0.lock().unwrap();
                let taken = bytes.len().min(*room);
                *room -= taken;
                written.extend_from_slice(&bytes[..taken]);
                if taken == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(taken) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let disk = Arc::new(Mutex::new((10, vec![])));
        let sink = LogSink::new(Disk(Arc::clone(&disk))).unwrap();
        for line in [&b"whole"[..], b"is cut", b"is lost"] {
            sink.write_line(line);
            assert!(sink.flush(LONG));
        }
        assert_eq!(sink.dropped(), 2);
        disk.lock().unwrap().0 = 100;
        sink.write_line(b"whole again");
        assert!(sink.flush(LONG));
        assert_eq!((sink.dropped(), &*disk.lock().unwrap().1), (2, &b"whole\nis c\nwhole again\n"[..]));
    }

    #[test]
    fn what_was_dropped_is_told_when_the_output_works_and_not_too_often() {
        let (dropped, mut losses) = (AtomicU64::new(0), Losses::default());
        assert_eq!(losses.report_due(&dropped), None);
        dropped.store(5, Ordering::Relaxed);
        assert_eq!(losses.report_due(&dropped), None, "it does not work");
        losses.works = true;
        assert_eq!(losses.report_due(&dropped), Some(Duration::ZERO));
        losses.report(&dropped);
        assert_eq!((losses.said, losses.report_due(&dropped)), (5, None));
        dropped.store(6, Ordering::Relaxed);
        assert!(losses.report_due(&dropped).is_some_and(|wait| wait > SAY / 2));
        losses.report(&dropped);
        assert_eq!(losses.said, 5);
    }

    #[test]
    fn an_output_that_would_block_is_tried_again() {
        struct Hesitant(u32, Tap);
        impl Write for Hesitant {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 % 2 == 1 { Err(ErrorKind::WouldBlock.into()) } else { self.1.write(&bytes[..1]) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (sender, tap) = mpsc::channel();
        let sink = LogSink::new(Hesitant(0, Tap(sender))).unwrap();
        sink.write_line(b"whole");
        assert!(sink.flush(LONG));
        drop(sink);
        assert_eq!(all(tap), "whole\n");
    }
}
