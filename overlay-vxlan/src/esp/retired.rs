//! How far associations were used that are gone: a key that comes back goes on from there.

use std::collections::{BTreeMap, VecDeque};

use super::cipher::Fingerprint;

/// Which way packets of an association go, seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Outbound,
    Inbound,
}

/// The last sequence numbers of keys that are used no more.
#[derive(Debug)]
pub(super) struct Retired {
    max: usize,
    sequences: BTreeMap<Fingerprint, (Direction, u64)>,
    /// The same keys, oldest first.
    order: VecDeque<Fingerprint>,
}

impl Retired {
    pub(super) const fn new(max: usize) -> Self {
        Self {
            max,
            sequences: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Remembers a key that was used; the oldest ones are forgotten.
    pub(super) fn put(&mut self, key: Fingerprint, direction: Direction, sequence: u64) {
        if sequence == 0 || self.max == 0 {
            return;
        }
        while self.order.len() >= self.max {
            if let Some(oldest) = self.order.pop_front() {
                self.sequences.remove(&oldest);
            }
        }
        if self.sequences.insert(key, (direction, sequence)).is_none() {
            self.order.push_back(key);
        }
    }

    /// Forgets a key that is used again; returns how far it was used.
    pub(super) fn take(&mut self, key: Fingerprint) -> Option<u64> {
        let (_, sequence) = self.sequences.remove(&key)?;
        self.order.retain(|known| *known != key);
        Some(sequence)
    }

    /// Returns whether the key was used the other way.
    pub(super) fn has_other(&self, direction: Direction, key: Fingerprint) -> bool {
        let known = self.sequences.get(&key);
        known.is_some_and(|(known, _)| *known != direction)
    }
}
