//! The sessions that clients have open in this process, as they are told to a store.
//!
//! Counts are changed where sessions open and end, and read at the moment when they are sent, so that what is told is true then.
//! What has changed since stands in a list, once each. A count that has become 0 stays until that is told; while nothing can be
//! told it is forgotten at once, since the next connection tells under another name. So the table is as large as what it counts,
//! and for a moment what it has counted.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::policy::clients::ClientDigest;

/// All counts.
#[derive(Debug, Default)]
pub struct Holdings(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    counts: HashMap<ClientDigest, Held>,
    /// Those whose count is to be told.
    changed: VecDeque<ClientDigest>,
    /// Who tells them, if there is somebody.
    teller: Option<u64>,
    /// How many have.
    tellers: u64,
}

/// Tells the counts until it is dropped. When another has begun, an earlier one has nothing to tell any more.
#[derive(Debug)]
pub struct Telling {
    holdings: Arc<Holdings>,
    number: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    count: u32,
    /// It stands in the list.
    is_changed: bool,
}

/// A place of a client, in the counts that are told. Dropping it gives it back.
#[derive(Debug)]
pub struct SharedPlace {
    holdings: Arc<Holdings>,
    client: ClientDigest,
}

impl Holdings {
    /// Takes a place that will be asked about: the question tells it.
    pub fn enter(self: &Arc<Holdings>, client: ClientDigest) -> SharedPlace {
        self.lock().counts.entry(client).or_default().count += 1;
        SharedPlace { holdings: Arc::clone(self), client }
    }

    /// Takes a place that nobody asks about, and tells it.
    pub fn enter_untold(self: &Arc<Holdings>, client: ClientDigest) -> SharedPlace {
        let place = self.enter(client);
        self.lock().change(client);
        place
    }

    /// Returns how many places a client has now.
    pub fn count(&self, client: ClientDigest) -> u32 {
        self.lock().counts.get(&client).map_or(0, |held| held.count)
    }

    /// Returns how many clients there are, those included whose end is still to be told.
    pub fn clients(&self) -> usize {
        self.lock().counts.len()
    }

    /// From now on they are told: all of them anew.
    pub fn begin_telling(self: &Arc<Holdings>) -> Telling {
        let mut table = self.lock();
        table.tellers += 1;
        let number = table.tellers;
        table.teller = Some(number);
        table.change_all();
        Telling { holdings: Arc::clone(self), number }
    }

    /// Returns true if something is to be told.
    pub fn has_changed(&self) -> bool {
        !self.lock().changed.is_empty()
    }

    fn release(&self, client: ClientDigest) {
        let mut table = self.lock();
        let Some(held) = table.counts.get_mut(&client) else { return };
        held.count = held.count.saturating_sub(1);
        let is_over = held.count == 0;
        if table.teller.is_some() {
            table.change(client);
        } else if is_over {
            table.counts.remove(&client);
            table.shrink();
        }
    }

    /// Nothing inside can be left half done by a panic.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn change_all(&mut self) {
        let Table { counts, changed, .. } = self;
        changed.clear();
        changed.extend(counts.iter_mut().map(|(client, held)| {
            held.is_changed = true;
            *client
        }));
    }

    fn change(&mut self, client: ClientDigest) {
        if self.teller.is_none() {
            return;
        }
        if let Some(held) = self.counts.get_mut(&client).filter(|held| !held.is_changed) {
            held.is_changed = true;
            self.changed.push_back(client);
        }
    }

    /// What a crowd has left behind is given back.
    fn shrink(&mut self) {
        if self.counts.capacity() > 64 && self.counts.len() < self.counts.capacity() / 8 {
            self.counts.shrink_to_fit();
        }
        if self.changed.capacity() > 64 && self.changed.len() < self.changed.capacity() / 8 {
            self.changed.shrink_to_fit();
        }
    }
}

impl Telling {
    /// All counts are to be told anew.
    pub fn tell_all(&self) {
        if let Some(mut table) = self.table() {
            table.change_all();
        }
    }

    /// Takes at most `max` of what is to be told; whose count is 0 is forgotten.
    pub fn take_changed(&self, max: usize) -> Vec<(ClientDigest, u32)> {
        let Some(mut table) = self.table() else { return vec![] };
        let mut taken = Vec::with_capacity(max.min(table.changed.len()));
        while taken.len() < max
            && let Some(client) = table.changed.pop_front()
        {
            let Some(held) = table.counts.get_mut(&client) else { continue };
            held.is_changed = false;
            let count = held.count;
            if count == 0 {
                table.counts.remove(&client);
            }
            taken.push((client, count));
        }
        table.shrink();
        taken
    }

    /// The table, unless another tells it now.
    fn table(&self) -> Option<MutexGuard<'_, Table>> {
        Some(self.holdings.lock()).filter(|table| table.teller == Some(self.number))
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let Some(mut table) = self.table() else { return };
        table.teller = None;
        table.changed = VecDeque::new();
        table.counts.retain(|_, held| {
            held.is_changed = false;
            held.count > 0
        });
        table.shrink();
    }
}

impl SharedPlace {
    /// Tells of it, since the question about it was not answered.
    pub fn tell(&self) {
        self.holdings.lock().change(self.client);
    }
}

impl Drop for SharedPlace {
    fn drop(&mut self) {
        self.holdings.release(self.client);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::clients::ClientKey;

    fn client(number: usize) -> ClientDigest {
        ClientKey::Subject(&number.to_string()).digest("chat")
    }

    #[test]
    fn while_nobody_is_told_nothing_is_kept_of_who_has_gone() {
        let holdings = Arc::<Holdings>::default();
        let stays = holdings.enter_untold(client(0));
        for number in 1..10_000 {
            drop(holdings.enter_untold(client(number)));
        }
        assert_eq!((holdings.clients(), holdings.has_changed()), (1, false));
        let earlier = holdings.begin_telling();
        let teller = holdings.begin_telling();
        assert_eq!((earlier.take_changed(9), holdings.has_changed()), (vec![], true));
        assert_eq!(teller.take_changed(9), [(client(0), 1)]);
        let crowd: Vec<SharedPlace> = (1..10_000).map(|number| holdings.enter(client(number))).collect();
        drop(crowd);
        drop(earlier);
        assert_eq!(holdings.clients(), 10_000, "their end is to be told");
        drop(teller);
        assert_eq!((holdings.clients(), holdings.has_changed()), (1, false));
        drop(stays);
        assert_eq!(holdings.clients(), 0);
    }

    proptest! {
        /// What was told last is what is true, once all that has changed is told.
        #[test]
        fn what_is_told_in_the_end_is_what_is_held(steps in prop::collection::vec((0_usize..4, 0_u8..5), 1..200)) {
            let holdings = Arc::<Holdings>::default();
            let mut held: Vec<Vec<SharedPlace>> = (0..4).map(|_| vec![]).collect();
            let mut told = HashMap::new();
            let mut teller = None;
            for (number, step) in steps {
                match step {
                    // A question tells of the place that it asks about.
                    0 => {
                        held[number].push(holdings.enter(client(number)));
                        if teller.is_some() {
                            told.insert(client(number), holdings.count(client(number)));
                        }
                    }
                    1 => held[number].push(holdings.enter_untold(client(number))),
                    2 => drop(held[number].pop()),
                    3 => told.extend(teller.as_ref().map_or_else(Vec::new, |teller: &Telling| teller.take_changed(number))),
                    _ => match teller.take() {
                        Some(_) => told.clear(),
                        None => teller = Some(holdings.begin_telling()),
                    },
                }
                prop_assert_eq!(holdings.count(client(number)) as usize, held[number].len());
            }
            let teller = teller.unwrap_or_else(|| holdings.begin_telling());
            while holdings.has_changed() {
                told.extend(teller.take_changed(2));
            }
            for (number, held) in held.iter().enumerate() {
                prop_assert_eq!(told.get(&client(number)).copied().unwrap_or(0) as usize, held.len());
            }
            drop(held);
            drop(teller);
            prop_assert_eq!(holdings.clients(), 0);
        }
    }
}
