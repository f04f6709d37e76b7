//! Who holds which address.

mod order;

use self::order::Order;
use crate::{
    OwnerId,
    digest::{Digest, halves},
};

/// One lease, by the place of its address in the subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) owner: OwnerId,
    pub(super) at: u128,
    pub(super) generation: u64,
}

/// All leases, found by place and by owner: 40 octets each, and four for each of the two orders.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    records: Vec<Packed>,
    places: Order,
    owners: Order,
    /// Sum of the hashes of all records.
    sum: u64,
}

/// A record without padding.
#[derive(Clone, Copy, Debug)]
struct Packed {
    owner: OwnerId,
    at: [u64; 2],
    generation: u64,
}

impl Ledger {
    /// Adds a record whose owner and place are in no other.
    pub(super) fn insert(&mut self, record: Record) {
        self.sum = self.sum.wrapping_add(hash(&record));
        let slot = u32::try_from(self.records.len()).expect("memory ends before 2^32 leases");
        if self.records.len() == self.records.capacity() {
            // By an eighth: doubling would double the octets of a lease.
            self.records.reserve_exact(self.records.len() / 8 + 4);
        }
        let records = &self.records;
        self.places
            .insert(slot, |other| records[index(other)].place().cmp(&record.at));
        self.owners
            .insert(slot, |other| records[index(other)].owner.cmp(&record.owner));
        self.records.push(Packed::new(&record));
    }

    pub(super) fn remove(&mut self, at: u128) -> Option<Record> {
        let records = &self.records;
        let slot = self
            .places
            .remove(|other| records[index(other)].place().cmp(&at))?;
        let record = records[index(slot)].unpack();
        self.owners
            .remove(|other| records[index(other)].owner.cmp(&record.owner));
        self.sum = self.sum.wrapping_sub(hash(&record));
        // The last record fills the gap.
        let last = u32::try_from(records.len() - 1).expect("memory ends before 2^32 leases");
        if slot != last {
            let moved = records[index(last)];
            self.places.replace(slot, |other| {
                records[index(other)].place().cmp(&moved.place())
            });
            self.owners
                .replace(slot, |other| records[index(other)].owner.cmp(&moved.owner));
        }
        self.records.swap_remove(index(slot));
        Some(record)
    }

    pub(super) fn at(&self, at: u128) -> Option<Record> {
        let slot = self
            .places
            .find(|slot| self.record(slot).place().cmp(&at))?;
        Some(self.record(slot).unpack())
    }

    pub(super) fn of(&self, owner: OwnerId) -> Option<Record> {
        let slot = self
            .owners
            .find(|slot| self.record(slot).owner.cmp(&owner))?;
        Some(self.record(slot).unpack())
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) const fn sum(&self) -> u64 {
        self.sum
    }

    /// In the order of the places.
    pub(super) fn iter(&self) -> impl Iterator<Item = Record> + '_ {
        self.places.iter().map(|slot| self.record(slot).unpack())
    }

    fn record(&self, slot: u32) -> &Packed {
        &self.records[index(slot)]
    }
}

impl Packed {
    fn new(record: &Record) -> Self {
        Self {
            owner: record.owner,
            at: halves(record.at),
            generation: record.generation,
        }
    }

    fn unpack(&self) -> Record {
        Record {
            owner: self.owner,
            at: self.place(),
            generation: self.generation,
        }
    }

    fn place(&self) -> u128 {
        let [high, low] = self.at.map(u128::from);
        high << 64 | low
    }
}

fn index(slot: u32) -> usize {
    slot as usize
}

fn hash(record: &Record) -> u64 {
    let digest = Digest::new(LABEL).wide(record.owner.number());
    digest.wide(record.at).word(record.generation).finish()
}

const LABEL: u64 = 0x006c_6561_7365;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use overlay_core::Seed;

    use super::*;

    #[test]
    fn it_is_two_ordered_maps_at_every_size() {
        let mut rng = Seed::from_u64(1).rng();
        let (mut ledger, mut model) = (Ledger::default(), BTreeMap::new());
        // Grows to thousands of leases and shrinks to none, twice.
        for (removals, steps) in [
            (100_000, 6_000),
            (900_000, 6_000),
            (400_000, 6_000),
            (950_000, 6_000),
        ] {
            for generation in 0..steps {
                let at = u128::from(rng.below(3_000)) << (rng.below(2) * 64);
                let owner = OwnerId::from_bytes((at ^ 0x5555_5555).reverse_bits().to_be_bytes());
                let record = Record {
                    owner,
                    at,
                    generation,
                };
                if rng.chance(removals) {
                    assert_eq!(ledger.remove(at), model.remove(&at));
                } else if model.insert(at, record).is_none() {
                    ledger.insert(record);
                } else {
                    ledger.remove(at);
                    ledger.insert(record);
                }
                assert_eq!(
                    (ledger.at(at), ledger.of(owner)),
                    (model.get(&at).copied(), model.get(&at).copied())
                );
                assert_eq!(ledger.len(), model.len());
            }
            assert!(ledger.iter().eq(model.values().copied()));
            let sum = model.values().map(hash).fold(0, u64::wrapping_add);
            assert_eq!(ledger.sum(), sum);
            ledger.places.check();
            ledger.owners.check();
        }
    }

    #[test]
    fn a_lease_takes_64_octets_at_most() {
        let mut ledger = Ledger::default();
        let mut rng = Seed::from_u64(2).rng();
        for at in 0..20_000 {
            let owner = OwnerId::from_bytes(rng.bytes());
            ledger.insert(Record {
                owner,
                at,
                generation: 1,
            });
            let records = ledger.records.capacity() * size_of::<Packed>();
            let octets = records + ledger.places.heap_bytes() + ledger.owners.heap_bytes();
            assert!(at < 100 || octets <= ledger.len() * 64, "{at}: {octets}");
        }
    }
}
