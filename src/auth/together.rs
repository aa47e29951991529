//! Work that several wait for, done once for all who ask for the same while it is under way.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};

/// A piece of work, polled by all who wait for it, and dropped with the last of them. Cancel-safe.
pub(super) type Work<T> = Shared<BoxFuture<'static, T>>;

/// The work that is under way, by what tells it from other work.
pub(super) struct Together<K, T>(Mutex<UnderWay<K, T>>);

struct UnderWay<K, T> {
    /// Each has a number of its own.
    all: HashMap<K, (u64, WeakShared<BoxFuture<'static, T>>)>,
    next: u64,
}

impl<K, T> Default for Together<K, T> {
    fn default() -> Together<K, T> {
        Together(Mutex::new(UnderWay { all: HashMap::new(), next: 0 }))
    }
}

impl<K, T> Together<K, T> {
    /// Returns how many are under way.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().all.len()
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay<K, T>> {
        // A panic cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, T> Together<K, T>
where
    K: Copy + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the work under way for `key`, or that which `begin` makes; it gets the number of those that are under way. Also
    /// returns whether it was begun here. Nothing ends unnoticed in between: what work leaves behind before it ends is there
    /// for `begin` to see.
    ///
    /// # Errors
    /// What `begin` returns instead.
    pub(super) fn join<E, F>(
        self: &Arc<Together<K, T>>,
        key: K,
        begin: impl FnOnce(usize) -> Result<F, E>,
    ) -> Result<(Work<T>, bool), E>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut under_way = self.lock();
        if let Some(work) = under_way.all.get(&key).and_then(|(_, work)| work.upgrade()) {
            return Ok((work, false));
        }
        let work = begin(under_way.all.len())?;
        let number = under_way.next;
        under_way.next += 1;
        let place = Place { together: Arc::clone(self), key, number };
        let work = async move {
            let _place = place;
            work.await
        };
        let work = work.boxed().shared();
        // It has not ended, as it has not begun.
        if let Some(weak) = work.downgrade() {
            under_way.all.insert(key, (number, weak));
        }
        Ok((work, true))
    }
}

/// A place among those under way. Dropping it gives it back.
struct Place<K: Copy + Eq + Hash, T> {
    together: Arc<Together<K, T>>,
    key: K,
    number: u64,
}

impl<K: Copy + Eq + Hash, T> Drop for Place<K, T> {
    fn drop(&mut self) {
        // Another may have the same key, and a place of its own since nobody waited here any more.
        if let Entry::Occupied(entry) = self.together.lock().all.entry(self.key)
            && entry.get().0 == self.number
        {
            entry.remove();
        }
    }
}
