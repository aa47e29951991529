//! Sends keep-alives to the service manager while all threads that matter make progress.
//!
//! They are sent by the control thread, so nothing is sent if that hangs. It also checks the last heartbeat of each worker:
//! one that hangs leaves its sessions without service and still gets connections, so a restart is the better choice.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock;
use crate::base::worker::WorkerHeartbeat;
use crate::handover::systemd::Notifier;

/// The least silence that counts as hanging: a shorter one may be a busy worker, and a restart would make that worse.
const PATIENCE_MIN: Duration = Duration::from_secs(2);

/// Sends a keep-alive twice in each `span`, until it is dropped. A worker without a heartbeat for half of it hangs.
pub async fn run(notifier: Arc<Notifier>, span: Duration, pulse: WorkerHeartbeat) {
    let patience = (span / 2).max(PATIENCE_MIN);
    let mut is_reported = false;
    let is_healthy = || {
        let (worker, silence) = pulse.stalest(clock::now());
        let is_healthy = silence <= patience;
        if !is_healthy && !is_reported {
            tracing::error!(worker, ?silence, "a worker hangs: keep-alives to the service manager have stopped");
        }
        is_reported = !is_healthy;
        is_healthy
    };
    notifier.keep_alive(span, is_healthy).await;
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
