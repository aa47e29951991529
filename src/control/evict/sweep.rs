//! Sending away all sessions of one kind: at once those that are there, and those that come late.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::session::registry::SessionId;
use crate::session::stop::StopReason;
use crate::session::{Member, Sessions};

/// How often late comers are looked for: a handshake that was under way when it began may open a session after it.
pub const LOOK: Duration = Duration::from_secs(1);

/// Sessions on their way out.
pub struct Sweep<S> {
    sessions: Arc<Sessions>,
    select: S,
    begun: MonotonicTime,
    span: Duration,
    why: StopReason,
}

/// Tells all that `select` means to stop, spread over `span`. Returns how many.
pub fn begin<S>(sessions: &Arc<Sessions>, select: S, span: Duration, why: StopReason) -> (Sweep<S>, usize)
where
    S: Fn(SessionId, &Member) -> bool,
{
    let sweep = Sweep { sessions: Arc::clone(sessions), select, begun: clock::now(), span, why };
    let count = sweep.tell(sweep.begun);
    (sweep, count)
}

impl<S: Fn(SessionId, &Member) -> bool> Sweep<S> {
    fn tell(&self, now: MonotonicTime) -> usize {
        let left = self.span.saturating_sub(now.since(self.begun));
        self.sessions.spread(&self.select, now, left, fastrand::f64, &self.why)
    }

    /// Tells those that come late, over what is left of the span, until it is dropped.
    pub async fn go_on(self) {
        loop {
            sleep(LOOK).await;
            self.tell(clock::now());
        }
    }
}
