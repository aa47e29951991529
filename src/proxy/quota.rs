//! The quota of a route: how many sessions and plain requests are on it, and whether it takes more.
//!
//! A quota belongs to the route by name and not to a configuration: after a reload the running ones still count.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use http::HeaderName;

use super::recheck::Recheck;
use super::shared_limits::SharedLimits;
use crate::policy::bucket::AdmissionRate;
use crate::policy::clients::{ClientCounts, ClientPlace, ClientRates, HeaderDigest};
use crate::shared::holdings::SharedPlace;

/// The sessions and plain requests of one route.
#[derive(Debug, Default)]
pub struct RouteQuota {
    used: AtomicUsize,
    closed: AtomicBool,
    /// Its clients, once a configuration limits them.
    clients: OnceLock<Arc<RouteClients>>,
    /// What is held beside a permit of its own: see [`RoutePermit::with`].
    held: Option<Box<Held>>,
}

/// What is held beside a permit.
#[derive(Debug)]
struct Held {
    permit: RoutePermit,
    beside: Beside,
}

/// What a session on some routes holds beside its permit.
#[derive(Debug)]
pub enum Beside {
    /// Its place among those of its client.
    Client(ClientPermit),
    /// What a service is asked about it.
    Recheck(Recheck),
}

/// The clients of a route.
#[derive(Debug, Default)]
pub struct RouteClients {
    /// How many sessions each has.
    pub sessions: Arc<ClientCounts>,
    /// How fast each opens them.
    pub rates: ClientRates,
    /// What clients are hashed by: random, so that nobody can choose his place in a table.
    pub key: RandomState,
}

/// What tells one client from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientBy {
    /// Its address.
    Address,
    /// The subject of its token.
    Subject,
    /// The value of a header of a trusted proxy.
    Header(HeaderName),
}

/// How much each client of a route may use.
#[derive(Debug)]
pub struct ClientLimits {
    /// The most sessions at once.
    pub sessions: Option<u32>,
    /// How fast it may open them.
    pub handshakes: Option<AdmissionRate>,
    /// What a client is.
    pub by: ClientBy,
    /// The clients there are.
    pub clients: Arc<RouteClients>,
    /// Where they are counted for all instances together, if they are.
    pub shared: Option<SharedLimits>,
}

/// The place of a session among those of its client.
#[derive(Debug)]
pub struct ClientPermit {
    /// Returned with the permit.
    pub place: ClientPlace,
    /// The header that has told its client, for the next process.
    pub header: Option<HeaderDigest>,
    /// The same among those of all instances, where these are counted.
    pub shared: Option<SharedPlace>,
}

/// A client that may open a session.
#[derive(Debug)]
pub struct SharedPass {
    /// Its places, where sessions are limited.
    pub permit: Option<ClientPermit>,
}

impl RouteQuota {
    /// Takes a permit if fewer than `limit` are taken. Dropping it returns it.
    pub fn enter(self: &Arc<RouteQuota>, limit: usize) -> Option<RoutePermit> {
        let more = |used: usize| (used < limit).then_some(used + 1);
        let entered = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        entered.ok().map(|_| RoutePermit(Arc::clone(self)))
    }

    /// Returns its clients: the same ones as long as the quota is.
    pub fn clients(&self) -> Arc<RouteClients> {
        Arc::clone(self.clients.get_or_init(Arc::default))
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

impl RoutePermit {
    /// Joins something to it. Both are held by a quota of this session alone, so that sessions on all other routes
    /// need no room for it: one more word would make each of their tasks 128 bytes larger.
    pub fn with(self, beside: Beside) -> RoutePermit {
        let held = Some(Box::new(Held { permit: self, beside }));
        RoutePermit(Arc::new(RouteQuota { used: AtomicUsize::new(1), held, ..RouteQuota::default() }))
    }

    /// Returns the place of the client, if there is one.
    pub fn client(&self) -> Option<&ClientPermit> {
        self.find(|beside| match beside {
            Beside::Client(client) => Some(client),
            Beside::Recheck(_) => None,
        })
    }

    /// Returns what a service is asked about the session, if it is.
    pub fn recheck(&self) -> Option<&Recheck> {
        self.find(|beside| match beside {
            Beside::Recheck(recheck) => Some(recheck),
            Beside::Client(_) => None,
        })
    }

    fn find<T>(&self, is: impl Fn(&Beside) -> Option<&T>) -> Option<&T> {
        let mut permit = self;
        while let Some(held) = &permit.0.held {
            if let Some(found) = is(&held.beside) {
                return Some(found);
            }
            permit = &held.permit;
        }
        None
    }
}

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
    use crate::policy::clients::ClientKey;

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
    fn a_permit_with_the_place_of_a_client_returns_both_once() {
        let quota = Arc::<RouteQuota>::default();
        let (clients, address) = (quota.clients(), ClientKey::Address(None));
        let client = address.hash(&clients.key);
        let place = clients.sessions.enter(client, 1).unwrap();
        let permit = quota.enter(1).unwrap().with(Beside::Client(ClientPermit { place, header: None, shared: None }));
        assert!(permit.client().is_some() && quota.enter(1).is_none() && clients.sessions.enter(client, 1).is_none());
        drop(permit);
        assert_eq!((quota.used.load(Ordering::Relaxed), clients.sessions.clients()), (0, 0));
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
