//! Closes all sessions that match a condition: the existing ones at once, and those that open a little later.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::session::registry::SessionId;
use crate::session::stop::StopReason;
use crate::session::{SessionEntry, Sessions};

/// How often to look for late sessions: a handshake under way at the start may open one afterwards.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// The closing of all matching sessions.
pub struct Sweep<S> {
    sessions: Arc<Sessions>,
    select: S,
    begun: MonotonicTime,
    span: Duration,
    why: StopReason,
}

/// Tells all sessions that `select` matches to stop, spread over `span`. Returns how many.
pub fn begin<S>(sessions: &Arc<Sessions>, select: S, span: Duration, why: StopReason) -> (Sweep<S>, usize)
where
    S: Fn(SessionId, &SessionEntry) -> bool,
{
    let sweep = Sweep { sessions: Arc::clone(sessions), select, begun: clock::now(), span, why };
    let count = sweep.stop_matching(sweep.begun);
    (sweep, count)
}

impl<S: Fn(SessionId, &SessionEntry) -> bool> Sweep<S> {
    fn stop_matching(&self, now: MonotonicTime) -> usize {
        let left = self.span.saturating_sub(now.since(self.begun));
        self.sessions.spread(&self.select, now, left, fastrand::f64, &self.why)
    }

    /// Stops matching sessions that open late, over the rest of the span, until it is dropped.
    pub async fn sweep_late(self) {
        loop {
            sleep(INTERVAL).await;
            self.stop_matching(clock::now());
        }
    }
}
