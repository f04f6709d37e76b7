//! Who holds which address.

use std::collections::BTreeMap;

use crate::{OwnerId, digest::Digest};

/// One lease, by the place of its address in the subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) owner: OwnerId,
    pub(super) at: u128,
    pub(super) generation: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    places: BTreeMap<u128, Record>,
    owners: BTreeMap<OwnerId, u128>,
    /// Sum of the hashes of all records.
    sum: u64,
}

impl Ledger {
    /// Adds a record whose owner and place are in no other.
    pub(super) fn insert(&mut self, record: Record) {
        self.sum = self.sum.wrapping_add(hash(&record));
        self.owners.insert(record.owner, record.at);
        self.places.insert(record.at, record);
    }

    pub(super) fn remove(&mut self, at: u128) -> Option<Record> {
        let record = self.places.remove(&at)?;
        self.owners.remove(&record.owner);
        self.sum = self.sum.wrapping_sub(hash(&record));
        Some(record)
    }

    pub(super) fn at(&self, at: u128) -> Option<Record> {
        self.places.get(&at).copied()
    }

    pub(super) fn of(&self, owner: OwnerId) -> Option<Record> {
        self.at(*self.owners.get(&owner)?)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) const fn sum(&self) -> u64 {
        self.sum
    }

    /// In the order of the places.
    pub(super) fn iter(&self) -> impl Iterator<Item = Record> + '_ {
        self.places.values().copied()
    }
}

fn hash(record: &Record) -> u64 {
    let digest = Digest::new(LABEL).wide(record.owner.number());
    digest.wide(record.at).word(record.generation).finish()
}

const LABEL: u64 = 0x006c_6561_7365;
