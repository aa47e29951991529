//! One connection's or session's entry in the registry, held by its task.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::{Entry, SessionRegistry, SessionReport, lock};
use crate::base::time::MonotonicTime;
use crate::session::stop::StopNotice;

/// Somebody at work. Dropping it is the end of the work.
#[derive(Debug)]
pub struct Guard<M> {
    pub(super) drain: Arc<SessionRegistry<M>>,
    pub(super) slab: u32,
    pub(super) key: u32,
}

impl<M> Guard<M> {
    /// Makes it a session: from now on it is told to stop at its own moment, and is found by what it is.
    pub fn join(&self, member: M, now: MonotonicTime) {
        let Some(working) = self.drain.working.at(self.slab as usize) else { return };
        let mut working = lock(working);
        let Some(notice) = working.notices.get_mut(self.key as usize) else { return };
        notice.told.data_at = Some(now);
        let last = notice.member.replace(member);
        working.sessions += usize::from(last.is_none());
    }

    /// Changes whenever something is said to anybody; never 0. Who is told is woken after it has changed.
    #[inline]
    pub fn said(&self) -> u64 {
        self.drain.said.load(Ordering::Relaxed)
    }

    /// When to stop, and why; `None` while nothing is said, or when it was taken back. The last caller's waker is woken
    /// once something else is said, or when it is asked to tell of itself: a task that has called this need not call again
    /// before [`Guard::said`] changes.
    pub fn look(&self, cx: &Context<'_>, told: SessionReport) -> Option<StopNotice> {
        let mut last = None;
        let stop = self.notice(|notice| {
            notice.told = told;
            if !notice.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                last = notice.waker.replace(cx.waker().clone());
            }
            notice.stops.in_force()
        });
        // Dropped without the lock.
        drop(last);
        stop.flatten()
    }

    /// When to stop, as a poll.
    pub fn poll_notice(&self, cx: &Context<'_>) -> Poll<MonotonicTime> {
        self.look(cx, SessionReport::default()).map_or(Poll::Pending, |stop| Poll::Ready(stop.at))
    }

    /// Whether the request that is under way, or comes next, is the last: ready when it is.
    pub fn poll_last_request(&self, cx: &Context<'_>) -> Poll<()> {
        let is_told = self.poll_notice(cx).is_ready();
        let is_last = is_told || self.notice(|notice| notice.last) == Some(true);
        if is_last { Poll::Ready(()) } else { Poll::Pending }
    }

    /// When to stop, if that has been said.
    pub fn noticed(&self) -> Option<MonotonicTime> {
        self.notice(|notice| notice.stops.first().map(|stop| stop.at)).flatten()
    }

    /// Waits for the notice. Cancel-safe.
    pub async fn notice_of_end(&self) -> MonotonicTime {
        poll_fn(|cx| self.poll_notice(cx)).await
    }

    pub(super) fn notice<T>(&self, look: impl FnOnce(&mut Entry<M>) -> T) -> Option<T> {
        let working = self.drain.working.at(self.slab as usize)?;
        lock(working).notices.get_mut(self.key as usize).map(look)
    }
}

impl<M> Drop for Guard<M> {
    fn drop(&mut self) {
        // A guard may be dropped elsewhere than where it was taken.
        let working = self.drain.working.at(self.slab as usize);
        let notice = working.and_then(|working| {
            let mut working = lock(working);
            let notice = working.notices.try_remove(self.key as usize)?;
            working.sessions -= usize::from(notice.member.is_some());
            working.told -= usize::from(!notice.stops.is_empty());
            Some(notice)
        });
        // Its waker and what it was a member of are dropped without the lock.
        drop(notice);
        if self.drain.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.drain.idle.notify_waiters();
        }
    }
}
