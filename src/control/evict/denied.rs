//! Closes the sessions of subjects that were denied.
//!
//! A subject is refused from the moment on when it stands in the list, and then its sessions are looked for. Handshakes that were
//! under way may still open some, so they are looked for again, for as long as a handshake may take.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::sweep::INTERVAL;
use crate::base::clock;
use crate::session::Sessions;
use crate::session::stop::{StopNotice, StopReason};
use crate::shared::deny_list::DenyList;
use crate::ws::close::{Close, CloseCode};

/// How long a handshake may open a session after it was let in.
const LATE: Duration = Duration::from_secs(60);

/// What their clients get.
fn why() -> StopReason {
    StopReason::Operator(Arc::new(Close::new(CloseCode::POLICY_VIOLATION, "denied by operator")))
}

/// Returns the stop of a session whose subject is denied.
pub fn stop_now() -> StopNotice {
    StopNotice { at: clock::now(), by: None, why: why() }
}

/// Closes sessions whenever the list changes.
pub async fn run(denied: &DenyList, sessions: &Arc<Sessions>) {
    let (mut changes, why) = (denied.watch(), why());
    let mut late_until = Instant::now() + LATE;
    loop {
        tokio::select! {
            changed = changes.changed() => match changed {
                Ok(()) => late_until = Instant::now() + LATE,
                Err(_) => return,
            },
            () = sleep(INTERVAL), if !denied.is_empty() => denied.tidy(),
        }
        if denied.is_empty() || Instant::now() > late_until {
            continue;
        }
        let is_denied = |subject: &str| denied.denies(subject);
        let closing = sessions.spread(
            |_, session| session.client.subject().is_some_and(is_denied),
            clock::now(),
            Duration::ZERO,
            fastrand::f64,
            &why,
        );
        if closing > 0 {
            tracing::info!(closing, "sessions of denied subjects are closed");
        }
    }
}
