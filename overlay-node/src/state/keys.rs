//! The keys that all nodes share, and when they are replaced.

use serde::{Deserialize, Serialize};

use super::{ClusterState, CommandError, Outcome, Secret};

/// The keys that all nodes share: three generations, so that a node may miss one change and still understand the others.
///
/// Each change adds a key and drops the oldest one. What is sent is sealed with the middle one, which every node got a whole
/// generation before, and all of them open what comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedKeys {
    /// The number of the newest key; each change adds one.
    pub generation: u64,
    /// Gossip keys, oldest first.
    pub gossip: Vec<Secret<16>>,
    /// When the newest one was added, in milliseconds since 1970 by the leader's clock.
    pub rotated_unix_ms: u64,
    /// The index of the log at which it was added.
    pub rotated_at: u64,
    /// How many changes are due without waiting for their time: after a node was removed, until none of the keys is one that it
    /// had.
    pub due: u8,
}

impl SharedKeys {
    /// Makes the first ones.
    pub(super) fn new(gossip: Vec<Secret<16>>, at_unix_ms: u64) -> Self {
        Self {
            generation: gossip.len() as u64,
            gossip,
            rotated_unix_ms: at_unix_ms,
            rotated_at: 0,
            due: 0,
        }
    }

    /// Returns the key that seals, and its generation.
    pub fn sealing(&self) -> Option<(u64, &Secret<16>)> {
        let place = self.gossip.len() / 2;
        let key = self.gossip.get(place)?;
        let newer = self.gossip.len().saturating_sub(place + 1) as u64;
        Some((self.generation.saturating_sub(newer), key))
    }

    /// Returns the generations that are understood, oldest first.
    pub fn generations(&self) -> impl Iterator<Item = u64> + use<> {
        let count = self.gossip.len() as u64;
        self.generation.saturating_sub(count.saturating_sub(1))..=self.generation
    }
}

impl ClusterState {
    pub(super) fn rotate_keys(
        &mut self,
        index: u64,
        at_unix_ms: u64,
        generation: u64,
        gossip: Secret<16>,
    ) -> Result<Outcome, CommandError> {
        let present = self.cluster().ok_or(CommandError::NotInitialized)?;
        if present.keys.generation != generation {
            // Two leaders wanted the same change.
            return Ok(Outcome::Done);
        }
        self.cluster.modify(&mut self.journal, (), |cluster| {
            let keys = &mut cluster.keys;
            keys.generation += 1;
            keys.gossip.push(gossip);
            let surplus = keys.gossip.len().saturating_sub(GENERATIONS);
            keys.gossip.drain(..surplus);
            keys.rotated_unix_ms = at_unix_ms;
            keys.rotated_at = index;
            keys.due = keys.due.saturating_sub(1);
        });
        Ok(Outcome::Done)
    }

    /// Has all keys replaced, because somebody has them who shall not.
    pub(super) fn outdate_keys(&mut self) {
        self.cluster.modify(&mut self.journal, (), |cluster| {
            cluster.keys.due = DUE;
        });
    }
}

/// How many generations of keys are kept.
const GENERATIONS: usize = 3;
/// How many changes there are until none of them is left.
const DUE: u8 = 3;
const _: () = assert!(DUE as usize == GENERATIONS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_one_seals() {
        let key = |byte| Secret::new(vec![byte; 16]).unwrap();
        let mut keys = SharedKeys::new(vec![key(1), key(2), key(3)], 5);
        assert_eq!(keys.sealing(), Some((2, &key(2))));
        assert!(keys.generations().eq(1..=3));
        keys.generation = 9;
        assert_eq!(keys.sealing(), Some((8, &key(2))));
        assert!(keys.generations().eq(7..=9));
        keys.gossip.truncate(1);
        assert_eq!(keys.sealing(), Some((9, &key(1))));
        keys.gossip.clear();
        assert_eq!(keys.sealing(), None);
    }
}
