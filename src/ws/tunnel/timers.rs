//! What is due when: the requested stop, the lifetime, the idle timeout, the Pings, and the end of a wait.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::liveness::STALL;
use super::{End, Tunnel};
use crate::base::time::MonotonicTime;
use crate::ws::Side;

/// How long no data has passed when a session that is to stop is quiet: longer than a question takes to its answer on
/// nearly all paths (a round trip between continents and the server's own time), so that an exchange is not cut in two.
pub const QUIET: Duration = Duration::from_millis(200);
/// How long a session that is to stop is waited for to be quiet. One that streams never is, and whoever waits for the last
/// of them has no more than some seconds to spare.
pub const QUIET_WAIT: Duration = Duration::from_secs(3);

/// That a session is to end although it is well. Boxed as `ClosingHandshake` is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingStop {
    /// From when on, where it is quiet then.
    pub(super) at: MonotonicTime,
    /// When it ends whether quiet or not.
    pub(super) latest: MonotonicTime,
}

impl Tunnel {
    /// From `at` on the session ends as `End::Stopped`, in its first pause: when no message is under way in either
    /// direction and no data has passed for [`QUIET`]. With no pause by `at` + [`QUIET_WAIT`], or by `by` if that is earlier,
    /// it ends then. Whoever says it again can only make it end earlier.
    pub fn stop(&mut self, at: MonotonicTime, by: Option<MonotonicTime>) {
        let by = by.unwrap_or(at + QUIET_WAIT);
        let mut stop = PendingStop { at: at.min(by), latest: by.min(at + QUIET_WAIT) };
        self.timer_moved = true;
        if let Some(before) = &mut self.stop {
            stop.latest = stop.latest.min(before.latest);
            if before.at <= stop.at {
                before.latest = stop.latest;
                return;
            }
        }
        self.stop = Some(Box::new(stop));
    }

    /// Takes back what was said to `stop`, unless its moment has come.
    pub fn go_on(&mut self) {
        self.stop = None;
    }

    /// The time of `poll_timeout` has come.
    pub fn handle_timeout(&mut self, now: MonotonicTime) {
        self.timer_moved = true;
        match &self.closing {
            Some(closing) if !closing.gave_up && closing.give_up <= now => self.give_up(now),
            Some(_) if !self.is_half_closed() => {}
            _ => {
                if let Some(stop) = &self.stop
                    && self.stop_due(stop) <= now
                {
                    self.begin(now, End::Stopped);
                } else if self.lifetime_due().is_some_and(|at| at <= now) {
                    self.begin(now, End::Lifetime);
                } else if let Some(due) = self.idle_due().filter(|due| *due <= now) {
                    // As with Pongs: data may wait in the sockets since before we stood still.
                    if now.since(due) >= STALL {
                        self.data_at = now;
                    } else {
                        self.begin(now, End::Idle);
                    }
                } else {
                    for side in Side::BOTH {
                        self.check_liveness(now, side);
                    }
                }
            }
        }
    }

    /// Tells once that `poll_timeout` should be asked again, because a deadline may have come nearer.
    pub fn timer_moved(&mut self) -> bool {
        std::mem::take(&mut self.timer_moved)
    }

    /// When `handle_timeout` is next due. It may be late in coming: deadlines that move away are not reported.
    pub fn poll_timeout(&self) -> Option<MonotonicTime> {
        let give_up = self.closing.as_ref().filter(|closing| !closing.gave_up).map(|closing| closing.give_up);
        if self.is_closing() && !self.is_half_closed() {
            return give_up;
        }
        let liveness = Side::BOTH.map(|side| self.liveness_due(side));
        let stop = self.stop.as_ref().map(|stop| self.stop_due(stop));
        let all = [give_up, stop, self.lifetime_due(), self.idle_due(), liveness[0], liveness[1]];
        all.into_iter().flatten().min()
    }

    /// When it ends, as things are: later if more data passes, earlier if the message under way ends.
    fn stop_due(&self, stop: &PendingStop) -> MonotonicTime {
        match self.peers.iter().any(|peer| peer.scanner.in_message()) {
            true => stop.latest,
            false => stop.at.max(self.data_at + QUIET).min(stop.latest),
        }
    }

    fn lifetime_due(&self) -> Option<MonotonicTime> {
        self.settings.lifetime.map(|lifetime| self.opened + lifetime)
    }

    fn idle_due(&self) -> Option<MonotonicTime> {
        self.settings.idle.map(|idle| self.data_at + idle)
    }
}
