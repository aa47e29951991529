//! The entry of one connection or session in the registry, held by its task.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::{Entry, MoveOrder, SessionId, SessionRegistry, SessionReport, WorkerEntries, lock};
use crate::base::time::MonotonicTime;
use crate::session::stop::{StopNotice, StopReason};

/// What is asked of a connection or session.
#[derive(Debug, Default)]
pub struct Notice {
    /// The stop in force.
    pub stop: Option<StopNotice>,
    /// When its credential expires.
    pub expires: Option<MonotonicTime>,
    /// It is to go to another process: see [`Guard::take_order`].
    pub is_leaving: bool,
}

/// One registered connection or session. Dropping it removes the entry.
#[derive(Debug)]
pub struct Guard<M> {
    pub(super) registry: Arc<SessionRegistry<M>>,
    pub(super) slab: u32,
    pub(super) key: u32,
}

impl<M> Guard<M> {
    /// Makes it a session: from now on it is stopped at its own time and found by its description.
    pub fn join(&self, member: M, now: MonotonicTime) {
        let Some(worker) = self.registry.workers.at(self.slab as usize) else { return };
        let mut worker = lock(worker);
        let Some(entry) = worker.entries.get_mut(self.key as usize) else { return };
        entry.report.data_at = Some(now);
        let last = entry.member.replace(member);
        worker.sessions += usize::from(last.is_none());
    }

    /// Changes whenever something is posted to any guard; never 0. Tasks are woken after it has changed.
    #[inline]
    pub fn signals(&self) -> u64 {
        self.registry.signals.load(Ordering::Relaxed)
    }

    /// Stores the report and returns the stop in force; `None` if there is none or it was cancelled. Wakes the last
    /// caller's task when either is needed again; until [`Guard::signals`] changes it need not call.
    pub fn poll_stop(&self, cx: &Context<'_>, report: SessionReport) -> Option<StopNotice> {
        self.poll_notice(cx, report).stop
    }

    /// Does the same, and also returns whether it is to go to another process.
    pub fn poll_notice(&self, cx: &Context<'_>, report: SessionReport) -> Notice {
        let mut last = None;
        let notice = self.entry(|entry| {
            entry.report = report;
            if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                last = entry.waker.replace(cx.waker().clone());
            }
            let Entry { stops, order, .. } = entry;
            Notice { stop: stops.in_force(), expires: stops.expires(), is_leaving: order.is_some() }
        });
        // Dropped without the lock.
        drop(last);
        notice.unwrap_or_default()
    }

    /// Returns when its credential expires.
    pub fn expires(&self) -> Option<MonotonicTime> {
        self.entry(|entry| entry.stops.expires()).flatten()
    }

    /// Sets when its credential expires, before its task looks for the first time.
    pub fn set_expiry(&self, expires: Option<MonotonicTime>) {
        self.entry(|entry| entry.stops.set_expiry(expires));
    }

    /// Asks it to stop at these times too.
    pub fn add_stops(&self, stops: Vec<StopNotice>) {
        let Some(worker) = self.registry.workers.at(self.slab as usize) else { return };
        let WorkerEntries { entries, stopping, .. } = &mut *lock(worker);
        let Some(entry) = entries.get_mut(self.key as usize) else { return };
        let was_stopping = !entry.stops.is_empty();
        for stop in stops {
            entry.stops.add(stop);
        }
        *stopping += usize::from(!was_stopping && !entry.stops.is_empty());
    }

    /// Returns the description of the session, if it is one.
    pub fn member(&self) -> Option<M>
    where
        M: Clone,
    {
        self.entry(|entry| entry.member.clone())?
    }

    /// Returns the order to go to another process, once.
    pub fn take_order(&self) -> Option<MoveOrder> {
        self.entry(|entry| entry.order.take())?
    }

    /// Returns where its entry is.
    pub fn registry(&self) -> &Arc<SessionRegistry<M>> {
        &self.registry
    }

    /// Returns the id of its entry.
    pub fn id(&self) -> SessionId {
        let generation = self.entry(|entry| entry.generation).unwrap_or_default();
        SessionId { slab: self.slab, key: self.key, generation }
    }

    /// Returns all stops that were asked of it.
    pub fn stops(&self) -> Vec<StopNotice> {
        self.entry(|entry| entry.stops.list()).unwrap_or_default()
    }

    /// Polls for the time to stop.
    pub fn poll_stop_time(&self, cx: &Context<'_>) -> Poll<MonotonicTime> {
        self.poll_stop(cx, SessionReport::default()).map_or(Poll::Pending, |stop| Poll::Ready(stop.at))
    }

    /// Ready when the current request, or the next one, is the last.
    pub fn poll_last_request(&self, cx: &Context<'_>) -> Poll<()> {
        let is_told = self.poll_stop_time(cx).is_ready();
        let is_last = is_told || self.entry(|entry| entry.last) == Some(true);
        if is_last { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Returns when to stop, if it was asked to.
    pub fn stop_at(&self) -> Option<MonotonicTime> {
        self.entry(|entry| entry.stops.first().map(|stop| stop.at)).flatten()
    }

    /// Returns why it is to stop, if it was asked to. Once that time has come the reason stays: it can no longer be
    /// cancelled, and whatever is asked later is for later.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.entry(|entry| entry.stops.first().map(|stop| stop.why.clone())).flatten()
    }

    /// Waits until it is asked to stop, and returns the time. Cancel-safe.
    pub async fn wait_for_stop(&self) -> MonotonicTime {
        poll_fn(|cx| self.poll_stop_time(cx)).await
    }

    pub(super) fn entry<T>(&self, look: impl FnOnce(&mut Entry<M>) -> T) -> Option<T> {
        let worker = self.registry.workers.at(self.slab as usize)?;
        lock(worker).entries.get_mut(self.key as usize).map(look)
    }
}

impl<M> Drop for Guard<M> {
    fn drop(&mut self) {
        // A guard may be dropped on another worker than it was taken on.
        let worker = self.registry.workers.at(self.slab as usize);
        let entry = worker.and_then(|worker| {
            let mut worker = lock(worker);
            let entry = worker.entries.try_remove(self.key as usize)?;
            worker.sessions -= usize::from(entry.member.is_some());
            worker.stopping -= usize::from(!entry.stops.is_empty());
            Some(entry)
        });
        // The waker and the description are dropped without the lock.
        drop(entry);
        if self.registry.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.registry.idle.notify_waiters();
        }
    }
}
