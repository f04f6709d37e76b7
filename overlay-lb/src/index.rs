//! An index of slots by hash: open addressing, linear probing, no tombstones.

/// Finds the slot of a key by the key's hash; the keys themselves lie in the slots.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    /// A power of two, at least a quarter of them free.
    places: Vec<Place>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u32,
    slot: u32,
}

impl Index {
    /// Makes an index that takes so many slots without asking for memory.
    pub(crate) fn with_room(slots: usize) -> Self {
        let empty = Place {
            hash: 0,
            slot: NONE,
        };
        Self {
            places: vec![empty; (slots * 4 / 3 + 1).next_power_of_two()],
            len: 0,
        }
    }

    /// Returns the slot with this hash that `is_it` confirms.
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash)?;
        loop {
            let place = self.places[at];
            if place.slot == NONE {
                return None;
            }
            if place.hash == hash && is_it(place.slot) {
                return Some(place.slot);
            }
            at = self.after(at);
        }
    }

    /// Adds a slot that is not in.
    pub(crate) fn insert(&mut self, hash: u32, slot: u32) {
        if (self.len + 1) * 4 > self.places.len() * 3 {
            self.grow();
        }
        self.len += 1;
        self.put(Place { hash, slot });
    }

    /// Removes a slot that is in.
    pub(crate) fn remove(&mut self, hash: u32, slot: u32) {
        let Some(mut hole) = self.home(hash) else {
            return;
        };
        while self.places[hole].slot != slot {
            if self.places[hole].slot == NONE {
                return;
            }
            hole = self.after(hole);
        }
        self.len -= 1;
        // Moves up every later place of the run that may lie in the hole: whose home is not behind it.
        let mut at = self.after(hole);
        while self.places[at].slot != NONE {
            let home = self.home(self.places[at].hash).unwrap_or(at);
            let mask = self.places.len() - 1;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.places[hole] = self.places[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.places[hole].slot = NONE;
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn put(&mut self, place: Place) {
        let Some(mut at) = self.home(place.hash) else {
            return;
        };
        while self.places[at].slot != NONE {
            at = self.after(at);
        }
        self.places[at] = place;
    }

    fn grow(&mut self) {
        let empty = Place {
            hash: 0,
            slot: NONE,
        };
        let larger = vec![empty; (self.places.len() * 2).max(8)];
        for place in std::mem::replace(&mut self.places, larger) {
            if place.slot != NONE {
                self.put(place);
            }
        }
    }

    fn home(&self, hash: u32) -> Option<usize> {
        let mask = self.places.len().checked_sub(1)?;
        Some(hash as usize & mask)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }
}

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_finds_what_is_in_and_nothing_else() {
        let mut rng = overlay_core::Seed::from_u64(1).rng();
        let (mut index, mut model) = (Index::default(), BTreeMap::new());
        for _ in 0..20_000 {
            // Few hashes, many of them neighbours or equal, around the wrap.
            let slot = u32::try_from(rng.below(300)).unwrap();
            let hash = (slot / 3).wrapping_sub(50);
            if model.remove(&slot).is_some() {
                index.remove(hash, slot);
            } else if rng.chance(600_000) {
                index.insert(hash, slot);
                model.insert(slot, hash);
            }
            let probe = u32::try_from(rng.below(300)).unwrap();
            let found = index.find((probe / 3).wrapping_sub(50), |slot| slot == probe);
            assert_eq!(found, model.get(&probe).map(|_| probe));
            assert_eq!(index.len, model.len());
        }
    }
}
