//! Telling the service manager that we live, which is that all go round who are needed.
//!
//! The thread that says so is the one of `control`; should it hang, nothing is said. Of each worker it looks when it was
//! last seen. One that hangs has sessions that get nothing, and connections are dealt to it all the same: to be started
//! anew is the better part.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::systemd::Notifier;
use crate::worker::Pulse;

/// A worker that was not seen for so long may be busy; tests of health are no reason to make a bad moment worse.
const PATIENCE_MIN: Duration = Duration::from_secs(2);

/// Says so twice in each `span`, until it is dropped. A worker that has not been seen for half of it hangs.
pub async fn run(notifier: Arc<Notifier>, span: Duration, pulse: Pulse) {
    let patience = (span / 2).max(PATIENCE_MIN);
    let mut is_told = false;
    let is_well = || {
        let (worker, silence) = pulse.weakest(clock::now());
        let is_well = silence <= patience;
        if !is_well && !is_told {
            tracing::error!(worker, ?silence, "a worker hangs: the service manager is not told any more that we live");
        }
        is_told = !is_well;
        is_well
    };
    notifier.keep_alive(span, is_well).await;
}
