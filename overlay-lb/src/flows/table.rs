//! Slots that are found by hash: each lies near the place that its hash says, so that finding it touches one line of memory.

use super::{
    key::{Packed, Short},
    slot::Slot,
};
use crate::index::{Index, NONE};

/// Open addressing without chains: a slot is in one of a few places after its own, or in the overflow behind them all.
///
/// Which of them it is, is told by an octet of its hash: these octets lie close together, so that of the slots, which fill
/// far more memory than a processor's caches, one is read. The number of a slot stays while it is in, until the table
/// grows.
#[derive(Debug)]
pub(super) struct Table {
    /// The places, then the overflow. Those that are free have no group.
    slots: Vec<Slot>,
    /// The addresses of the slots of IPv6; empty while there was none.
    wide: Vec<[u64; 4]>,
    places: usize,
    places_max: usize,
    /// An octet for each place, [`FREE`] if nothing is there; those of the first places once more behind the last.
    tags: Vec<u8>,
    len: usize,
    /// Free slots of the overflow.
    free: Vec<u32>,
    overflow: Index,
}

impl Table {
    /// Makes a table for up to `len_max` slots.
    pub(super) fn new(len_max: u32) -> Self {
        let len_max = usize::try_from(len_max).unwrap_or(usize::MAX);
        Self {
            slots: Vec::new(),
            wide: Vec::new(),
            places: 0,
            places_max: (len_max.saturating_mul(5) / 4 + 1).max(NEAR),
            tags: Vec::new(),
            len: 0,
            free: Vec::new(),
            overflow: Index::default(),
        }
    }

    #[inline(always)]
    pub(super) fn find(&self, hash: u32, key: &Packed) -> Option<u32> {
        let (home, short) = (self.home(hash), Short::of(key));
        for part in (0..NEAR).step_by(WORD) {
            let mut equal = self.equal(home + part, tag(hash));
            while equal != 0 {
                let at = self.nth(home + part, equal);
                if self.is_it(at, key, short) {
                    return Some(number(at));
                }
                equal &= equal - 1;
            }
        }
        if self.overflow.len() == 0 {
            return None;
        }
        self.overflow
            .find(hash, |at| self.is_it(at as usize, key, short))
    }

    #[inline(always)]
    pub(super) fn glance(&self, hash: u32) -> u32 {
        let home = self.home(hash);
        match self.equal(home, tag(hash)) {
            0 => 0,
            equal => self.slots[self.nth(home, equal)].flow.group,
        }
    }

    /// Adds a slot whose key is not in; there is room.
    pub(super) fn insert(&mut self, hash: u32, slot: Slot, key: &Packed) -> u32 {
        self.len += 1;
        let home = self.home(hash);
        let near = (0..NEAR).step_by(WORD).find_map(|part| {
            let free = self.equal(home + part, FREE);
            (free != 0).then(|| self.nth(home + part, free))
        });
        let at = match near {
            Some(at) => {
                self.set_tag(at, tag(hash));
                self.slots[at] = slot;
                at
            }
            None => self.overflow(hash, slot),
        };
        if slot.short().is_wide() {
            let room = self.room().saturating_sub(self.wide.len());
            self.wide.reserve_exact(room);
            self.wide.resize(self.slots.len(), [0; 4]);
            self.wide[at] = key.addresses();
        }
        number(at)
    }

    pub(super) fn remove(&mut self, hash: u32, at: u32) {
        self.len -= 1;
        self.slots[at as usize] = Slot::EMPTY;
        if at as usize >= self.places {
            self.overflow.remove(hash, at);
            self.free.push(at);
        } else {
            self.set_tag(at as usize, FREE);
        }
    }

    /// Makes room for one more. If that moves the slots, returns the new number of each old one.
    pub(super) fn make_room(&mut self, hash: impl Fn(&Packed) -> u32) -> Option<Vec<u32>> {
        if (self.len + 1) * 5 <= self.places * 4 {
            return None;
        }
        let places = (self.places * 2).clamp(NEAR, self.places_max);
        let mut larger = Self {
            slots: Vec::with_capacity(places + overflow_of(places)),
            wide: Vec::new(),
            places,
            places_max: self.places_max,
            tags: vec![FREE; places + NEAR],
            len: 0,
            free: Vec::with_capacity(overflow_of(places)),
            overflow: Index::with_room(overflow_of(places)),
        };
        larger.slots.resize(places, Slot::EMPTY);
        let before = std::mem::replace(self, larger);
        let moved = (0..before.slots.len()).map(|at| {
            let slot = before.slots[at];
            if slot.flow.group == NONE {
                return NONE;
            }
            let key = before.key(number(at));
            self.insert(hash(&key), slot, &key)
        });
        Some(moved.collect())
    }

    /// How many slots there may be numbers for.
    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// How many there may be without asking for memory.
    pub(super) fn room(&self) -> usize {
        self.slots.capacity()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    pub(super) fn get(&self, at: u32) -> &Slot {
        &self.slots[at as usize]
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.slots[at as usize]
    }

    #[inline(always)]
    pub(super) fn key(&self, at: u32) -> Packed {
        let short = self.get(at).short();
        if short.is_wide() {
            Packed::of_wide(short, self.wide[at as usize])
        } else {
            Packed::of_short(short)
        }
    }

    /// Adds a slot behind the places.
    fn overflow(&mut self, hash: u32, slot: Slot) -> usize {
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at as usize
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.overflow.insert(hash, number(at));
        at
    }

    #[inline(always)]
    fn is_it(&self, at: usize, key: &Packed, short: Short) -> bool {
        self.slots[at].short() == short && (!short.is_wide() || self.wide[at] == key.addresses())
    }

    fn set_tag(&mut self, at: usize, tag: u8) {
        self.tags[at] = tag;
        if at < NEAR {
            self.tags[self.places + at] = tag;
        }
    }

    /// Where the places of a hash begin (multiply-shift, Lemire 2019).
    #[inline(always)]
    fn home(&self, hash: u32) -> usize {
        (hash as usize * self.places) >> 32
    }

    /// Which of the eight places from `at` on have this octet: the highest bit of each octet that is zero after the
    /// subtraction; now and then one bit too many, behind the others.
    #[inline(always)]
    fn equal(&self, at: usize, tag: u8) -> u64 {
        let Some(tags) = self.tags.get(at..).and_then(<[u8]>::first_chunk) else {
            return 0; // there are no places
        };
        let differing = u64::from_le_bytes(*tags) ^ (LOWEST * u64::from(tag));
        differing.wrapping_sub(LOWEST) & !differing & (LOWEST << 7)
    }

    /// The place of the first of those that [`equal`](Self::equal) found from `at` on.
    #[inline(always)]
    fn nth(&self, at: usize, equal: u64) -> usize {
        let at = at + equal.trailing_zeros() as usize / 8;
        if at < self.places {
            at
        } else {
            at - self.places
        }
    }
}

/// What tells slots of a few places apart: bits of the hash that say little about where the place is.
#[inline(always)]
fn tag(hash: u32) -> u8 {
    let [.., last] = hash.to_be_bytes();
    last.max(1)
}

/// For how many slots of the overflow there is room from the start: of a table that was as full as it may be for long, a
/// fortieth lies there.
fn overflow_of(places: usize) -> usize {
    places / 16 + NEAR
}

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("the configuration bounds the flows")
}

/// In how many places a slot may be.
const NEAR: usize = 4 * WORD;
/// So many octets are compared at once.
const WORD: usize = 8;
/// No slot is here.
const FREE: u8 = 0;
/// The lowest bit of each octet.
const LOWEST: u64 = 0x0101_0101_0101_0101;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use overlay_core::Instant;

    use super::*;
    use crate::{Protocol, flows::Flow};

    #[test]
    fn it_finds_what_is_in_and_nothing_else() {
        let mut rng = overlay_core::Seed::from_u64(1).rng();
        let (mut table, mut model) = (Table::new(200), BTreeMap::new());
        // Every other one is IPv6; these differ in what only the table of the addresses holds.
        let key = |nth: u64| match nth % 2 {
            0 => Packed([0, nth, 0, 0, 1 << 35]),
            _ => Packed([nth, 0, 0, 0, 0b111 << 33]),
        };
        // Few hashes, so that many slots lie in the overflow, around the wrap, too.
        let hash = |key: &Packed| {
            let nth = u32::try_from(key.0[0] + key.0[1]).unwrap();
            (nth / 100).wrapping_sub(1).wrapping_mul(1 << 26) + nth % 3
        };
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
                let key = key(nth);
                let slot = Slot::new(&key, Flow::new(0, Protocol::Tcp), Instant::EPOCH);
                model.insert(nth, table.insert(hash(&key), slot, &key));
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
