//! The quota of a route: how many sessions and plain requests are on it, and whether it takes more.
//!
//! A quota belongs to the route by name and not to a configuration: after a reload the running ones still count.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The sessions and plain requests of one route.
#[derive(Debug, Default)]
pub struct RouteQuota {
    used: AtomicUsize,
    closed: AtomicBool,
}

impl RouteQuota {
    /// Takes a permit if fewer than `limit` are taken. Dropping it returns it.
    pub fn enter(self: &Arc<RouteQuota>, limit: usize) -> Option<RoutePermit> {
        let more = |used: usize| (used < limit).then_some(used + 1);
        let entered = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        entered.ok().map(|_| RoutePermit(Arc::clone(self)))
    }

    /// Returns true if it takes requests: not while the route is drained.
    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    /// Opens or closes it for requests.
    pub fn set_open(&self, open: bool) {
        self.closed.store(!open, Ordering::Relaxed);
    }
}

/// A permit of a `RouteQuota`.
#[derive(Debug)]
pub struct RoutePermit(Arc<RouteQuota>);

impl Drop for RoutePermit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The quotas of all routes, by name.
#[derive(Clone, Debug, Default)]
pub struct RouteQuotas(Arc<Mutex<HashMap<String, Weak<RouteQuota>>>>);

impl RouteQuotas {
    /// Returns the quota of this route: the same one as long as a configuration or a session holds it.
    pub fn of(&self, route: &str) -> Arc<RouteQuota> {
        // Nothing inside can be left half done by a panic.
        let mut quotas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = quotas.get(route).and_then(Weak::upgrade) {
            return quota;
        }
        quotas.retain(|_, quota| quota.strong_count() > 0);
        let quota = Arc::<RouteQuota>::default();
        quotas.insert(route.to_owned(), Arc::downgrade(&quota));
        quota
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_bounded_and_permits_come_back() {
        let quota = Arc::<RouteQuota>::default();
        let permit = quota.enter(1).unwrap();
        assert!(quota.enter(1).is_none());
        let more = quota.enter(2).unwrap();
        drop((permit, more));
        assert!(quota.enter(1).is_some());
    }

    #[test]
    fn a_quota_stays_the_same_while_a_permit_is_held() {
        let quotas = RouteQuotas::default();
        let permit = quotas.of("chat").enter(1).unwrap();
        assert!(quotas.of("chat").enter(1).is_none());
        assert!(quotas.of("other").enter(1).is_some());
        drop(permit);
        quotas.of("third");
        assert_eq!(quotas.0.lock().unwrap().len(), 1, "who is gone is forgotten");
    }
}
