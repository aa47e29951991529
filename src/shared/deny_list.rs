//! Who is denied, as this process knows it: read at each handshake, changed by operators and by the store.
//!
//! Without a store the list is this process's own. With one it is the store's: a change goes there first, and what is here is
//! what was last read, also while the store is away. A store that has lost its data (its version is lower than what was read
//! before) gets back what is known here: to forget a denial is worse than to keep one that was just taken back.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use prometheus::IntGauge;
use tokio::sync::{mpsc, oneshot, watch};

use super::answer::Away;
use crate::base::clock;
use crate::policy::denied::{Denied, DeniedEntry, DeniedFull};

/// Why the list is not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DenyError {
    /// There are too many.
    #[error("{0}")]
    Full(#[from] DeniedFull),
    /// The store cannot be asked.
    #[error("the shared store is away ({}): nothing is changed", .0.label())]
    Away(Away),
}

/// A change for the store.
#[derive(Debug)]
#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only a build with Redis reads it"))]
pub(super) struct Order {
    pub(super) subject: Box<str>,
    /// `None`: it is allowed again.
    pub(super) entry: Option<DeniedEntry>,
    pub(super) done: oneshot::Sender<Result<Ordered, DenyError>>,
}

/// What came of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ordered {
    /// Whether anything was changed.
    pub(super) has_changed: bool,
    /// The version of the list then.
    pub(super) version: u64,
}

/// Versions of the store's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Versions {
    /// That was read last.
    read: u64,
    /// That is known to have been there.
    newest: u64,
}

/// The list of this process.
pub struct DenyList {
    list: ArcSwap<Denied>,
    /// Of the store that the list is of; `None`: of none. Held while the list is changed.
    versions: Mutex<Option<Versions>>,
    changes: watch::Sender<u64>,
    /// How many milliseconds the store's clock is ahead of ours.
    ahead: AtomicI64,
    store: ArcSwapOption<mpsc::Sender<Order>>,
    count: IntGauge,
}

impl fmt::Debug for DenyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DenyList").field("len", &self.list.load().len()).finish_non_exhaustive()
    }
}

impl DenyList {
    /// Creates an empty list, which is counted on this gauge.
    pub fn new(count: IntGauge) -> DenyList {
        DenyList {
            list: ArcSwap::default(),
            versions: Mutex::new(None),
            changes: watch::Sender::new(0),
            ahead: AtomicI64::new(0),
            store: ArcSwapOption::empty(),
            count,
        }
    }

    /// Returns true if this subject may not come in now.
    pub fn denies(&self, subject: &str) -> bool {
        let list = self.list.load();
        !list.is_empty() && list.of(subject, self.now()).is_some()
    }

    /// Returns true if nobody is denied.
    pub fn is_empty(&self) -> bool {
        self.list.load().is_empty()
    }

    /// Returns the entry of a subject that is denied now.
    pub fn entry(&self, subject: &str) -> Option<DeniedEntry> {
        self.list.load().of(subject, self.now()).cloned()
    }

    /// Returns all that are denied now, by their names.
    pub fn entries(&self) -> Vec<(String, DeniedEntry)> {
        let list = self.list.load();
        let mut all: Vec<_> =
            list.holding(self.now()).map(|(subject, entry)| (subject.to_owned(), entry.clone())).collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    /// Returns true if all instances have the same list.
    pub fn is_shared(&self) -> bool {
        self.store.load().is_some()
    }

    /// Returns the time, in Unix milliseconds, by the store's clock.
    pub fn now(&self) -> u64 {
        let ours = u64::try_from(clock::since_epoch().as_millis()).unwrap_or(u64::MAX);
        ours.saturating_add_signed(self.ahead.load(Ordering::Relaxed))
    }

    /// Changes whenever the list does.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Denies a subject. When it returns, it is in force here, and on its way to all other instances.
    ///
    /// # Errors
    /// If it is not: nothing has changed then.
    pub async fn deny(&self, subject: &str, until: Option<u64>, reason: &str) -> Result<DeniedEntry, DenyError> {
        let entry = DeniedEntry { until, since: self.now(), reason: reason.into() };
        let ordered = self.order(subject, Some(&entry)).await?;
        self.change(ordered, |list, now| list.put(subject, entry.clone(), now))?;
        Ok(entry)
    }

    /// Allows a subject again. Returns false if it was not denied.
    ///
    /// # Errors
    /// If the store cannot be asked: nothing has changed then.
    pub async fn allow(&self, subject: &str) -> Result<bool, DenyError> {
        let ordered = self.order(subject, None).await?;
        Ok(self.change(ordered, |list, now| list.remove(subject, now)) || ordered.has_changed)
    }

    /// Sends a change to the store, if there is one.
    async fn order(&self, subject: &str, entry: Option<&DeniedEntry>) -> Result<Ordered, DenyError> {
        let Some(store) = self.store.load_full() else { return Ok(Ordered::default()) };
        let (done, answer) = oneshot::channel();
        let order = Order { subject: subject.into(), entry: entry.cloned(), done };
        store.try_send(order).map_err(|_| DenyError::Away(Away::Busy))?;
        answer.await.unwrap_or(Err(DenyError::Away(Away::Unreachable)))
    }

    /// Takes out what has expired, for those who look at the number.
    pub fn tidy(&self) {
        let now = self.now();
        let list = self.list.load();
        let holding = list.holding(now).count();
        self.count.set(i64::try_from(holding).unwrap_or(i64::MAX));
        if holding < list.len() && !self.is_shared() {
            drop(list);
            let mut versions = self.lock();
            let holding = self.entries().into_iter().map(|(subject, entry)| (subject.into(), entry));
            self.set(Denied::new(holding), &mut versions, None);
        }
    }

    /// Returns the list and the version of the store that it is of, for the next process.
    pub fn known(&self) -> (Option<u64>, Vec<(String, DeniedEntry)>) {
        (self.newest(), self.entries())
    }

    /// Goes on with the list of the process before.
    pub fn adopt(&self, of: Option<u64>, entries: impl IntoIterator<Item = (Box<str>, DeniedEntry)>) {
        let mut versions = self.lock();
        // Whoever has read the store already knows better.
        if versions.is_none() {
            let of = of.map(|of| Versions { read: of, newest: of });
            self.set(Denied::new(entries), &mut versions, of);
        }
    }

    /// Sends changes to this store from now on; `None`: the list is of this process alone.
    pub(super) fn follow(&self, store: Option<mpsc::Sender<Order>>) {
        self.store.store(store.map(Arc::new));
    }

    /// There is no store any more.
    pub fn leave(&self) {
        *self.lock() = None;
        self.follow(None);
    }

    /// Returns the version of the store that was read last.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only a build with Redis reads a store"))]
    pub(super) fn version(&self) -> Option<u64> {
        self.lock().map(|versions| versions.read)
    }

    /// Returns the newest version of the store that is known to have been there.
    pub(super) fn newest(&self) -> Option<u64> {
        self.lock().map(|versions| versions.newest)
    }

    /// Takes in the store's list of this version.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only a build with Redis reads a store"))]
    pub(super) fn replace(&self, list: Denied, of: u64) {
        self.set(list, &mut self.lock(), Some(Versions { read: of, newest: of }));
    }

    /// Takes in the store's time.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only a build with Redis reads a store"))]
    pub(super) fn set_clock(&self, store_millis: u64) {
        let ours = u64::try_from(clock::since_epoch().as_millis()).unwrap_or(u64::MAX);
        let ahead = i64::try_from(i128::from(store_millis) - i128::from(ours)).unwrap_or(0);
        self.ahead.store(ahead, Ordering::Relaxed);
    }

    fn change<T>(&self, ordered: Ordered, change: impl FnOnce(&mut Denied, u64) -> T) -> T {
        let mut versions = self.lock();
        let mut list = Denied::clone(&self.list.load());
        let changed = change(&mut list, self.now());
        let newest = |versions: Versions| Versions { newest: versions.newest.max(ordered.version), ..versions };
        let of = versions.map(newest);
        self.set(list, &mut versions, of);
        changed
    }

    fn set(&self, list: Denied, versions: &mut Option<Versions>, of: Option<Versions>) {
        *versions = of;
        self.count.set(i64::try_from(list.holding(self.now()).count()).unwrap_or(i64::MAX));
        if **self.list.load() != list {
            self.list.store(Arc::new(list));
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// A panic cannot leave it half changed.
    fn lock(&self) -> MutexGuard<'_, Option<Versions>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    fn list() -> DenyList {
        DenyList::new(IntGauge::new("denied", "Denied.").unwrap())
    }

    #[tokio::test]
    async fn without_a_store_the_list_is_of_this_process_and_who_watches_learns_of_changes() {
        let list = list();
        let mut changes = list.watch();
        let entry = list.deny("ann", None, "spam").await.unwrap();
        assert!(changes.has_changed().unwrap() && list.denies("ann") && !list.denies("bob"));
        changes.borrow_and_update();
        assert_eq!((list.entry("ann"), list.entries().len(), list.count.get()), (Some(entry), 1, 1));
        list.deny("bob", Some(list.now() - 1), "").await.unwrap();
        assert!(!list.denies("bob"), "that is over already");
        list.tidy();
        assert_eq!((list.list.load().len(), list.count.get()), (1, 1));
        assert!(list.allow("ann").await.unwrap() && !list.allow("ann").await.unwrap());
        assert!(list.is_empty() && changes.has_changed().unwrap());
    }

    #[tokio::test]
    async fn what_the_store_has_not_taken_is_not_in_force() {
        let list = list();
        let (sender, mut orders) = mpsc::channel(1);
        list.follow(Some(sender));
        let serve = async {
            let order = orders.recv().await.unwrap();
            order.done.send(Err(DenyError::Away(Away::Full))).unwrap();
            drop(orders.recv().await.unwrap().done);
        };
        let ask = async {
            assert_eq!(list.deny("ann", None, "").await, Err(DenyError::Away(Away::Full)));
            assert_eq!(list.allow("ann").await, Err(DenyError::Away(Away::Unreachable)));
        };
        tokio::join!(serve, ask);
        assert!(list.is_empty());
    }

    #[test]
    fn the_list_of_the_process_before_is_taken_unless_the_store_was_read() {
        let entry = |since| DeniedEntry { since, ..DeniedEntry::default() };
        let list = list();
        list.adopt(Some(7), [("ann".into(), entry(1))]);
        assert_eq!((list.version(), list.denies("ann")), (Some(7), true));
        list.adopt(Some(3), [("bob".into(), entry(1))]);
        assert!(list.denies("ann") && !list.denies("bob"));
        list.set_clock(list.now() + 60_000);
        assert!(list.now() > u64::try_from(clock::since_epoch().as_millis()).unwrap() + 50_000);
    }
}
