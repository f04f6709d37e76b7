//! Slots that are found by hash: each lies near the place that its hash says, so that finding it touches one line of memory.

use super::{Slot, key::Packed};
use crate::index::Index;

/// Open addressing without chains: a slot is in one of a few places after its own, or in the overflow behind them all.
///
/// The number of a slot stays while it is in, until the table grows.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The places, a power of two or none; then the overflow.
    slots: Vec<Slot>,
    places: usize,
    len: usize,
    /// Free slots of the overflow.
    free: Vec<u32>,
    overflow: Index,
}

impl Table {
    #[inline(always)]
    pub(super) fn find(&self, hash: u32, key: &Packed) -> Option<u32> {
        for at in self.near(hash) {
            if self.slots[at].key == *key {
                return Some(number(at));
            }
        }
        if self.overflow.len() == 0 {
            return None;
        }
        self.overflow
            .find(hash, |at| self.slots[at as usize].key == *key)
    }

    #[inline(always)]
    pub(super) fn glance(&self, hash: u32) -> u64 {
        let near = self.near(hash).take(2);
        near.fold(0, |all, at| all ^ self.slots[at].key.0[4])
    }

    /// Adds a slot whose key is not in; there is room.
    pub(super) fn insert(&mut self, hash: u32, slot: Slot) -> u32 {
        self.len += 1;
        if let Some(at) = self
            .near(hash)
            .find(|at| self.slots[*at].key == Packed::NONE)
        {
            self.slots[at] = slot;
            return number(at);
        }
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                number(self.slots.len() - 1)
            }
        };
        self.overflow.insert(hash, at);
        at
    }

    pub(super) fn remove(&mut self, hash: u32, at: u32) {
        self.len -= 1;
        self.slots[at as usize].key = Packed::NONE;
        if at as usize >= self.places {
            self.overflow.remove(hash, at);
            self.free.push(at);
        }
    }

    /// Makes room for one more. If that moves the slots, returns the new number of each old one.
    pub(super) fn make_room(&mut self, hash: impl Fn(&Packed) -> u32) -> Option<Vec<u32>> {
        if (self.len + 1) * 4 <= self.places * 3 {
            return None;
        }
        let places = (self.places * 2).max(8);
        let larger = Self {
            slots: vec![Slot::EMPTY; places],
            places,
            ..Self::default()
        };
        let before = std::mem::replace(self, larger);
        let moved = before.slots.into_iter().map(|slot| {
            if slot.key == Packed::NONE {
                return u32::MAX;
            }
            self.insert(hash(&slot.key), slot)
        });
        Some(moved.collect())
    }

    /// How many slots there may be numbers for.
    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    pub(super) fn get(&self, at: u32) -> &Slot {
        &self.slots[at as usize]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.slots[at as usize]
    }

    /// The places where a slot of this hash may be.
    #[inline(always)]
    fn near(&self, hash: u32) -> impl Iterator<Item = usize> + use<> {
        let (mask, count) = match self.places.checked_sub(1) {
            Some(mask) => (mask, NEAR),
            None => (0, 0),
        };
        (0..count).map(move |nth| (hash as usize + nth) & mask)
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("the configuration bounds the flows")
}

/// Eight lines of a cache: what a processor fetches by itself after the first.
const NEAR: usize = 8;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_finds_what_is_in_and_nothing_else() {
        let mut rng = overlay_core::Seed::from_u64(1).rng();
        let (mut table, mut model) = (Table::default(), BTreeMap::new());
        let key = |nth: u64| Packed([nth, 0, 0, 0, 1 << 35]);
        // Few hashes, so that many slots lie in the overflow, around the wrap, too.
        let hash = |key: &Packed| u32::try_from(key.0[0] / 20).unwrap().wrapping_sub(3);
        let mut overflowed = 0;
        for _ in 0..50_000 {
            let nth = rng.below(200);
            let known: Option<u32> = model.remove(&nth);
            if let Some(at) = known {
                table.remove(hash(&key(nth)), at);
            } else if rng.chance(700_000) {
                if let Some(moved) = table.make_room(hash) {
                    model.values_mut().for_each(|at| *at = moved[*at as usize]);
                }
                let slot = Slot {
                    key: key(nth),
                    ..Slot::EMPTY
                };
                model.insert(nth, table.insert(hash(&key(nth)), slot));
            }
            let probe = rng.below(200);
            let found = table.find(hash(&key(probe)), &key(probe));
            assert_eq!(found, model.get(&probe).copied());
            assert_eq!(table.len(), model.len());
            overflowed = overflowed.max(table.overflow.len());
        }
        assert!(overflowed > 20 && table.capacity() < 600, "{overflowed}");
        for (nth, at) in model {
            table.remove(hash(&key(nth)), at);
        }
        assert_eq!((table.len(), table.overflow.len()), (0, 0));
    }
}
