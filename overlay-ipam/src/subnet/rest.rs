//! Released addresses that rest.

use std::collections::BTreeMap;

use super::Quarantine;
use crate::digest::Digest;

/// Places in the order of their release.
#[derive(Clone, Debug, Default)]
pub(super) struct Rest {
    /// By a number that ascends with each release: the place, and the index of its release.
    order: BTreeMap<u64, (u128, u64)>,
    numbers: BTreeMap<u128, u64>,
    next: u64,
    /// Sum of the hashes of all entries. The number of a release is not part of it, the order of indexes is.
    sum: u64,
}

impl Rest {
    /// Adds a place that does not rest yet. `index` is not below that of any other.
    pub(super) fn push(&mut self, at: u128, index: u64) {
        self.order.insert(self.next, (at, index));
        self.numbers.insert(at, self.next);
        self.sum = self.sum.wrapping_add(hash(at, index));
        self.next += 1;
    }

    pub(super) fn remove(&mut self, at: u128) -> bool {
        let Some(number) = self.numbers.remove(&at) else {
            return false;
        };
        if let Some((_, index)) = self.order.remove(&number) {
            self.sum = self.sum.wrapping_sub(hash(at, index));
        }
        true
    }

    /// Removes and returns the place that was released first.
    pub(super) fn pop(&mut self) -> Option<u128> {
        let (at, _) = *self.order.first_key_value()?.1;
        self.remove(at);
        Some(at)
    }

    /// Removes and returns a place that has rested for long enough at `index`.
    pub(super) fn pop_due(&mut self, limits: Quarantine, index: u64) -> Option<u128> {
        let (_, (_, released)) = self.order.first_key_value()?;
        let over = self.order.len() > usize::try_from(limits.addresses_max).unwrap_or(usize::MAX);
        if over || index - released >= limits.indexes {
            self.pop()
        } else {
            None
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) const fn sum(&self) -> u64 {
        self.sum
    }

    /// Place and index, in the order of release.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, u64)> + '_ {
        self.order.values().copied()
    }
}

fn hash(at: u128, index: u64) -> u64 {
    Digest::new(LABEL).wide(at).word(index).finish()
}

const LABEL: u64 = 0x7265_7374;
