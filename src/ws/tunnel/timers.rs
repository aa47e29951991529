//! Timers: the requested stop, the end of the credential, the lifetime, the idle timeout, liveness, and the deadline of the
//! closing handshake.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::liveness::STALL;
use super::{End, Tunnel};
use crate::base::time::MonotonicTime;
use crate::ws::Side;

/// How long a session that should stop must be without data to count as quiet: longer than nearly any request takes to
/// its answer (a round trip between continents and the server's own time), so that an exchange is not cut in two.
pub const QUIET: Duration = Duration::from_millis(200);
/// How long a stop waits for the session to be quiet. A streaming session never is, and a drain has only seconds left
/// for its last session.
pub const QUIET_WAIT: Duration = Duration::from_secs(3);

/// A requested stop of a session that is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingStop {
    /// When it ends if it is quiet then.
    pub(super) at: MonotonicTime,
    /// When it ends even if it is not quiet.
    pub(super) latest: MonotonicTime,
}

impl Tunnel {
    /// Ends the session as `End::Stopped` in its first pause from `at` on: when no message is in progress in either
    /// direction and no data has passed for [`QUIET`]. Without a pause it ends at `at` + [`QUIET_WAIT`], or at `by` if
    /// that is earlier. A second call can only make it end earlier.
    pub fn stop(&mut self, at: MonotonicTime, by: Option<MonotonicTime>) {
        let by = by.unwrap_or(at + QUIET_WAIT);
        let mut stop = PendingStop { at: at.min(by), latest: by.min(at + QUIET_WAIT) };
        self.timer_moved = true;
        let pending = &mut self.rare.get_or_insert_default().stop;
        if let Some(before) = pending {
            stop.latest = stop.latest.min(before.latest);
            if before.at <= stop.at {
                before.latest = stop.latest;
                return;
            }
        }
        *pending = Some(stop);
    }

    /// Cancels `stop`, unless the end has begun.
    pub fn cancel_stop(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.stop = None;
            if rare.is_empty() {
                self.rare = None;
            }
        }
    }

    /// Ends the session as `End::Expired` in its first pause from `at` on, at most [`QUIET_WAIT`] later, like a stop;
    /// `None`: never. A later call replaces the time.
    pub fn expire(&mut self, at: Option<MonotonicTime>) {
        if at == self.rare.as_ref().and_then(|rare| rare.expires) {
            return;
        }
        self.timer_moved = true;
        let rare = self.rare.get_or_insert_default();
        (rare.expires, rare.is_expiring) = (at, false);
        if rare.is_empty() {
            self.rare = None;
        }
    }

    /// Returns when to look at the end of the credential. Until it has come, traffic does not move the timer.
    fn expiry_due(&self) -> Option<MonotonicTime> {
        let rare = self.rare.as_ref()?;
        let at = rare.expires?;
        Some(if rare.is_expiring { self.stop_due(&PendingStop { at, latest: at + QUIET_WAIT }) } else { at })
    }

    fn is_expired(&mut self, now: MonotonicTime) -> bool {
        if let Some(rare) = &mut self.rare {
            rare.is_expiring = rare.expires.is_some_and(|at| at <= now);
        }
        self.expiry_due().is_some_and(|at| at <= now)
    }

    /// Returns true if a pause would end the session.
    pub(super) fn awaits_pause(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.stop.is_some() || rare.is_expiring)
    }

    pub(super) fn pending_stop(&self) -> Option<&PendingStop> {
        self.rare.as_ref()?.stop.as_ref()
    }

    /// Handles the time that `poll_timeout` returned.
    pub fn handle_timeout(&mut self, now: MonotonicTime) {
        self.timer_moved = true;
        // The driver first reads what has waited, and then asks again.
        let is_due = |side: &Side| self.resumes_at(*side).is_some_and(|at| at <= now);
        let due = Side::BOTH.map(|side| is_due(&side));
        if due != [false; 2] {
            Side::BOTH.into_iter().filter(|side| due[*side as usize]).for_each(|side| self.resume(now, side));
            return;
        }
        match &self.closing {
            Some(closing) if !closing.gave_up && closing.give_up_at <= now => self.give_up(now),
            Some(_) if !self.is_half_closed() => {}
            _ => {
                if let Some(stop) = self.pending_stop()
                    && self.stop_due(stop) <= now
                {
                    self.begin(now, End::Stopped);
                } else if self.is_expired(now) {
                    self.begin(now, End::Expired);
                } else if self.lifetime_due().is_some_and(|at| at <= now) {
                    self.begin(now, End::Lifetime);
                } else if let Some(due) = self.idle_due().filter(|due| *due <= now) {
                    // As with Pongs: data may have waited in the sockets while we stood still.
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

    /// Returns true once if `poll_timeout` should be called again because a deadline may have come nearer.
    pub fn timer_moved(&mut self) -> bool {
        std::mem::take(&mut self.timer_moved)
    }

    /// Returns when `handle_timeout` is next due. It may be called late: deadlines that move away are not reported.
    pub fn poll_timeout(&self) -> Option<MonotonicTime> {
        let give_up = self.closing.as_ref().filter(|closing| !closing.gave_up).map(|closing| closing.give_up_at);
        let resumes = Side::BOTH.map(|side| self.resumes_at(side));
        if self.is_closing() && !self.is_half_closed() {
            return [give_up, resumes[0], resumes[1]].into_iter().flatten().min();
        }
        let liveness = Side::BOTH.map(|side| self.liveness_due(side));
        let stop = self.pending_stop().map(|stop| self.stop_due(stop));
        let all = [give_up, stop, self.expiry_due(), self.lifetime_due(), self.idle_due()];
        all.into_iter().chain(liveness).chain(resumes).flatten().min()
    }

    /// Returns when the stop takes effect as things are: later if more data passes, earlier if the message in progress
    /// ends. A delayed peer has more to send.
    fn stop_due(&self, stop: &PendingStop) -> MonotonicTime {
        let is_delayed = || Side::BOTH.iter().any(|side| self.resumes_at(*side).is_some());
        match self.peers.iter().any(|peer| peer.scanner.in_message()) || is_delayed() {
            true => stop.latest,
            false => stop.at.max(self.data_at + QUIET).min(stop.latest),
        }
    }

    fn lifetime_due(&self) -> Option<MonotonicTime> {
        self.settings.lifetime.map(|lifetime| self.opened + lifetime)
    }

    /// Data of a delayed peer waits for us: that session is not idle.
    fn idle_due(&self) -> Option<MonotonicTime> {
        if Side::BOTH.iter().any(|side| self.resumes_at(*side).is_some()) {
            return None;
        }
        self.settings.idle.map(|idle| self.data_at + idle)
    }
}
