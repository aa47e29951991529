//! Asks a service again about an open session, with the question of its handshake. A session that it does not let in any more
//! ends as one whose token has expired: in its next pause, with the code of the route.
//!
//! Only a clear no ends it. While the service is away, overloaded or broken, sessions stay, and are asked about again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::task::AbortHandle;

use crate::auth::service::{AuthService, Verdict};
use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::policy::recheck::{KeptQuestion, PendingRecheck, next};
use crate::session::registry::{Guard, SessionId};
use crate::session::{SessionEntry, Sessions};

/// What is to be asked about a session that is about to begin.
#[derive(Clone, Debug)]
pub struct PlannedRecheck {
    /// Who is asked.
    pub service: Arc<AuthService>,
    /// What, and when.
    pub pending: PendingRecheck,
}

impl PlannedRecheck {
    /// Begins to ask about the session of this guard, if its service is to be asked again.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn start(self, guard: &Guard<SessionEntry>) -> Option<Recheck> {
        let PlannedRecheck { service, pending: PendingRecheck { question, due } } = self;
        let every = service.settings().recheck?;
        let asked = Arc::new(Asked { question, due: AtomicU64::new(due.as_micros()) });
        let (sessions, id) = (Arc::clone(guard.registry()), guard.id());
        let task = tokio::spawn(ask(Arc::clone(&asked), service, every, sessions, id)).abort_handle();
        Some(Recheck { asked, task })
    }
}

/// The questions about one session. Dropping it ends them.
#[derive(Debug)]
pub struct Recheck {
    asked: Arc<Asked>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Asked {
    question: KeptQuestion,
    /// Microseconds of the monotonic clock.
    due: AtomicU64,
}

impl Asked {
    fn due(&self) -> MonotonicTime {
        MonotonicTime::from_micros(self.due.load(Ordering::Relaxed))
    }
}

impl Recheck {
    /// Returns what is asked and when, for another process to go on with.
    pub fn pending(&self) -> PendingRecheck {
        PendingRecheck { question: self.asked.question.clone(), due: self.asked.due() }
    }
}

impl Drop for Recheck {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask(asked: Arc<Asked>, service: Arc<AuthService>, every: Duration, sessions: Arc<Sessions>, id: SessionId) {
    loop {
        tokio::time::sleep(asked.due().since(clock::now())).await;
        if let Ok(Verdict::Denied(answer)) = service.ask_again(&asked.question).await
            && is_final(answer.status())
        {
            tracing::debug!(session = %id, status = answer.status().as_u16(), "the auth service lets it in no more");
            sessions.set_expiry(id, Some(clock::now()));
            return;
        }
        asked.due.store(next(clock::now(), every, fastrand::f64()).as_micros(), Ordering::Relaxed);
    }
}

/// Whether an answer says that a session must end, and not that the service cannot say it now.
fn is_final(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::REQUEST_TIMEOUT && status != StatusCode::TOO_MANY_REQUESTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_no_ends_a_session() {
        for (status, ends) in
            [(302, true), (401, true), (403, true), (404, true), (408, false), (429, false), (500, false), (503, false)]
        {
            assert_eq!(StatusCode::from_u16(status).map(is_final).ok(), Some(ends), "{status}");
        }
    }
}
