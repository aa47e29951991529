//! Telling the service manager that we live, which is that all go round who are needed.
//!
//! The thread that says so is the one of `control`; should it hang, nothing is said. Of each worker it looks when it was
//! last seen. One that hangs has sessions that get nothing, and connections are dealt to it all the same: to be started
//! anew is the better part.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock;
use crate::base::worker::WorkerHeartbeat;
use crate::handover::systemd::Notifier;

/// A worker that was not seen for so long may be busy; tests of health are no reason to make a bad moment worse.
const PATIENCE_MIN: Duration = Duration::from_secs(2);

/// Says so twice in each `span`, until it is dropped. A worker that has not been seen for half of it hangs.
pub async fn run(notifier: Arc<Notifier>, span: Duration, pulse: WorkerHeartbeat) {
    let patience = (span / 2).max(PATIENCE_MIN);
    let mut is_told = false;
    let is_well = || {
        let (worker, silence) = pulse.stalest(clock::now());
        let is_well = silence <= patience;
        if !is_well && !is_told {
            tracing::error!(worker, ?silence, "a worker hangs: the service manager is not told any more that we live");
        }
        is_told = !is_well;
        is_well
    };
    notifier.keep_alive(span, is_well).await;
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::base::time::MonotonicTime;

    #[tokio::test(flavor = "current_thread")]
    async fn nothing_is_said_while_a_worker_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let notifier = Arc::new(Notifier::to(path.to_str().unwrap()).unwrap());
        // Not seen since the machine was started.
        let pulse = WorkerHeartbeat::new(1, MonotonicTime::from_micros(1));
        let alive = tokio::spawn(run(notifier, Duration::from_millis(20), pulse.clone()));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(manager.recv(&mut [0; 100]).is_err());
        pulse.beat(clock::now());
        let mut word = [0; 100];
        let said = async {
            loop {
                match manager.recv(&mut word) {
                    Ok(length) => return length,
                    Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        };
        let length = tokio::time::timeout(Duration::from_secs(10), said).await.unwrap();
        assert_eq!(word[..length], *b"WATCHDOG=1");
        alive.abort();
    }
}
