//! Maglev's consistent hash (Eisenbud et al., NSDI'16 §3.4).

use crate::{
    BackendId, ConfigError,
    config::is_prime,
    hash::{Key, halves, reduce},
};

/// A look-up table that gives each backend its share of the hashes, and moves few of them when backends change.
///
/// Each backend has its own permutation of the table's entries; they take turns, and at each turn a backend takes the
/// next entry of its permutation that is still free. A backend of lower weight takes fewer turns. The table depends on
/// the set of backends alone, not on their order or history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maglev {
    /// Place of the backend in the list that the table was made from.
    entries: Vec<u16>,
}

impl Maglev {
    /// Makes a table of `entries`, which is to be a prime above the number of backends; a hundred times as many make all
    /// shares right to one percent.
    ///
    /// Nodes that shall choose alike pass the same `seed`. Backends of weight zero get nothing; if there is no other,
    /// or if there are more than 65,535, the table is empty. No backend may be in twice.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NotPrime`].
    pub fn new(
        entries: u32,
        seed: u64,
        backends: &[(BackendId, u16)],
    ) -> Result<Self, ConfigError> {
        if is_prime(entries) {
            Ok(Self::fill(entries, seed, backends))
        } else {
            Err(ConfigError::NotPrime { found: entries })
        }
    }

    /// Makes a table of a prime number of entries; with another, a permutation may never meet a free entry.
    pub(crate) fn fill(entries: u32, seed: u64, backends: &[(BackendId, u16)]) -> Self {
        let heaviest = backends.iter().map(|backend| backend.1).max().unwrap_or(0);
        let (Ok(_), true) = (u16::try_from(backends.len()), heaviest > 0) else {
            return Self {
                entries: Vec::new(),
            };
        };
        // Places in the caller's list, in the order of the identities.
        let mut order: Vec<u16> = (0..).take(backends.len()).collect();
        order.sort_unstable_by_key(|place| backends[usize::from(*place)].0);
        let turn = |place| Turn::new(place, backends[usize::from(place)], entries, seed);
        let mut turns: Vec<Turn> = order.into_iter().map(turn).collect();
        let mut table = vec![FREE; entries as usize];
        let mut left = entries;
        while left > 0 {
            for turn in &mut turns {
                turn.credit += u32::from(turn.weight);
                if turn.credit < u32::from(heaviest) {
                    continue;
                }
                turn.credit -= u32::from(heaviest);
                while table[turn.next as usize] != FREE {
                    turn.step(entries);
                }
                table[turn.next as usize] = turn.place;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        Self { entries: table }
    }

    /// Returns the place of the backend for a hash, in the list that the table was made from; `None` if there is none.
    pub fn lookup(&self, hash: u64) -> Option<usize> {
        let entries = u32::try_from(self.entries.len()).ok()?;
        let entry = self.entries.get(reduce(hash, entries) as usize)?;
        Some(usize::from(*entry))
    }

    /// Returns the place of the backend of each entry.
    pub fn entries(&self) -> &[u16] {
        &self.entries
    }
}

/// A backend while the table is filled.
struct Turn {
    place: u16,
    weight: u16,
    credit: u32,
    /// The next entry of its permutation, and the distance to the one after.
    next: u32,
    skip: u32,
}

impl Turn {
    fn new(place: u16, (id, weight): (BackendId, u16), entries: u32, seed: u64) -> Self {
        let [high, low] = halves(u128::from_be_bytes(*id.as_bytes()));
        let hash = |which| Key::new(seed, which).hash([high, low]);
        Self {
            place,
            weight,
            credit: 0,
            next: reduce(hash(OFFSET), entries),
            skip: reduce(hash(SKIP), entries.max(2) - 1) + 1,
        }
    }

    fn step(&mut self, entries: u32) {
        // Neither sum overflows: both are below 2^31 for every table that memory holds.
        let next = u64::from(self.next) + u64::from(self.skip);
        let next = if next >= u64::from(entries) {
            next - u64::from(entries)
        } else {
            next
        };
        self.next = u32::try_from(next).expect("below the number of entries");
    }
}

const FREE: u16 = u16::MAX;
const OFFSET: u64 = 0x6f66_6673;
const SKIP: u64 = 0x736b_6970;
