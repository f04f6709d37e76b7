//! The one way in which replicated objects are kept.

#[cfg(debug_assertions)]
use std::collections::btree_map::Entry;
use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, de::DeserializeOwned};

use super::{
    digest::Hasher,
    watch::{Changed, Journal},
};

/// An object of the replicated state.
pub(super) trait Record: Clone + Serialize + DeserializeOwned {
    /// Its identity.
    type Key: Copy + Ord + Serialize + DeserializeOwned;
    /// What else it is found by.
    type Index: Index<Self>;
    /// Keeps the hashes of different tables apart. Numbers are never used again.
    const TABLE: u8;
    /// Whether it is so large that its hash is looked up rather than computed once more.
    const LARGE: bool = false;
    /// Whether nothing of it may stay behind in memory.
    const SECRET: bool = false;

    /// Returns whether it may stand under `key`.
    fn fits(&self, key: Self::Key) -> bool;

    /// Returns what is hashed of it: all that is stored, its key among it, or something that stands for it.
    fn form(&self, _: Self::Key) -> impl Serialize {
        self
    }

    /// Returns a part that changes by itself, and is not in the form: [`Table::modify_part`] hashes nothing else anew.
    fn part(&self) -> Option<impl Serialize> {
        None::<()>
    }

    /// Returns pieces that come and go but never change, with ascending numbers, and are not in the form: each one is
    /// hashed when it comes.
    fn pieces(&self) -> impl Iterator<Item = (u64, impl Serialize)> {
        std::iter::empty::<(u64, ())>()
    }

    /// Tells of a change, if anybody is told of such.
    fn changed(previous: Option<Self>, new: Option<Self>) -> Option<Changed>;
}

/// What else than by their identity records are found by. Made from the records alone, never stored.
pub(super) trait Index<V: Record>: Clone + Default + PartialEq + fmt::Debug {
    /// What of a record it depends on.
    type Entry: PartialEq;

    fn entry(record: &V) -> Self::Entry;
    fn add(&mut self, key: V::Key, entry: Self::Entry);
    fn remove(&mut self, key: V::Key, entry: &Self::Entry);
}

/// For records that are found by their identity alone.
impl<V: Record> Index<V> for () {
    type Entry = ();

    fn entry(_: &V) -> Self::Entry {}
    fn add(&mut self, _: V::Key, (): Self::Entry) {}
    fn remove(&mut self, _: V::Key, (): &Self::Entry) {}
}

/// All records of one kind, with a hash of them and their index, which no write can pass by.
///
/// The hash is the sum of the hashes of all records: what was written in which order does not matter, and a write costs
/// what its record costs.
#[derive(Clone)]
pub(super) struct Table<V: Record> {
    rows: BTreeMap<V::Key, V>,
    index: V::Index,
    sum: u128,
    /// Of the records as they are, their parts apart; if they are large.
    hashes: BTreeMap<V::Key, u128>,
    /// Of the pieces of each record.
    pieces: BTreeMap<(V::Key, u64), u128>,
    hasher: Hasher,
}

impl<V: Record> Table<V> {
    /// Puts a record in the place of the one under its key, if there is one.
    pub(super) fn insert(&mut self, journal: &mut Journal, key: V::Key, record: V) {
        let before = self.sum;
        let previous = self.rows.remove(&key);
        if let Some(previous) = &previous {
            self.forget(key, previous);
        }
        self.count(key, &record);
        if journal.is_on() && self.sum != before {
            journal.note(V::changed(previous, Some(record.clone())));
        }
        self.rows.insert(key, record);
    }

    pub(super) fn remove(&mut self, journal: &mut Journal, key: V::Key) -> Option<V> {
        let previous = self.rows.remove(&key)?;
        self.forget(key, &previous);
        if journal.is_on() {
            journal.note(V::changed(Some(previous.clone()), None));
        }
        Some(previous)
    }

    /// Changes a record; `None` if there is none.
    pub(super) fn modify<R>(
        &mut self,
        journal: &mut Journal,
        key: V::Key,
        change: impl FnOnce(&mut V) -> R,
    ) -> Option<R> {
        let before = self.sum;
        let row = self.rows.get_mut(&key)?;
        let previous = journal.is_on().then(|| row.clone());
        let old_entry = V::Index::entry(row);
        let old = if V::LARGE {
            None
        } else {
            Some(hash(&mut self.hasher, key, row))
        };
        let old_part = hash_part(&mut self.hasher, key, row);
        let result = change(row);
        let new_part = hash_part(&mut self.hasher, key, row);
        self.sum = self.sum.wrapping_sub(old_part).wrapping_add(new_part);
        let new = hash(&mut self.hasher, key, row);
        let kept = if V::LARGE {
            self.hashes.insert(key, new)
        } else {
            None
        };
        let old = old.or(kept).unwrap_or_default();
        self.sum = self.sum.wrapping_sub(old).wrapping_add(new);
        let delta = count_pieces(&mut self.hasher, &mut self.pieces, key, Some(row));
        self.sum = self.sum.wrapping_add(delta);
        let new_entry = V::Index::entry(row);
        if old_entry != new_entry {
            self.index.remove(key, &old_entry);
            self.index.add(key, new_entry);
        }
        if journal.is_on() && self.sum != before {
            journal.note(V::changed(previous, Some(row.clone())));
        }
        Some(result)
    }

    /// Changes the [`part`](Record::part) of a record that is in no index, and of which watchers hear otherwise.
    pub(super) fn modify_part<R>(
        &mut self,
        key: V::Key,
        change: impl FnOnce(&mut V) -> R,
    ) -> Option<R> {
        let row = self.rows.get_mut(&key)?;
        let old = hash_part(&mut self.hasher, key, row);
        #[cfg(debug_assertions)]
        let rest = hash(&mut self.hasher, key, row);
        let result = change(row);
        #[cfg(debug_assertions)]
        debug_assert_eq!(
            rest,
            hash(&mut self.hasher, key, row),
            "nothing else changes"
        );
        let new = hash_part(&mut self.hasher, key, row);
        self.sum = self.sum.wrapping_sub(old).wrapping_add(new);
        Some(result)
    }

    pub(super) const fn rows(&self) -> &BTreeMap<V::Key, V> {
        &self.rows
    }

    pub(super) fn get(&self, key: V::Key) -> Option<&V> {
        self.rows.get(&key)
    }

    pub(super) fn contains(&self, key: V::Key) -> bool {
        self.rows.contains_key(&key)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) const fn index(&self) -> &V::Index {
        &self.index
    }

    /// Returns the hash of all records.
    pub(super) const fn sum(&self) -> u128 {
        self.sum
    }

    /// Returns whether hashes and index are what the records alone make them.
    pub(super) fn is_consistent(&self) -> bool {
        let mut anew = Self::default();
        let fits = |(key, row): (&V::Key, &V)| {
            anew.count(*key, row);
            row.fits(*key)
        };
        let all = self.rows.iter().all(fits);
        let kept = (&self.hashes, &self.pieces, &self.index);
        all && anew.sum == self.sum && (&anew.hashes, &anew.pieces, &anew.index) == kept
    }

    /// Counts a record that is in, or will be.
    fn count(&mut self, key: V::Key, row: &V) {
        let hash = hash(&mut self.hasher, key, row);
        let part = hash_part(&mut self.hasher, key, row);
        let pieces = count_pieces(&mut self.hasher, &mut self.pieces, key, Some(row));
        self.sum = self
            .sum
            .wrapping_add(hash)
            .wrapping_add(part)
            .wrapping_add(pieces);
        if V::LARGE {
            self.hashes.insert(key, hash);
        }
        self.index.add(key, V::Index::entry(row));
    }

    /// Counts a record no more.
    fn forget(&mut self, key: V::Key, row: &V) {
        let kept = if V::LARGE {
            self.hashes.remove(&key)
        } else {
            None
        };
        let hash = kept.unwrap_or_else(|| hash(&mut self.hasher, key, row));
        let part = hash_part(&mut self.hasher, key, row);
        let pieces = count_pieces::<V>(&mut self.hasher, &mut self.pieces, key, None);
        self.sum = self
            .sum
            .wrapping_sub(hash)
            .wrapping_sub(part)
            .wrapping_add(pieces);
        self.index.remove(key, &V::Index::entry(row));
    }
}

/// Hashes a record without its part.
fn hash<V: Record>(hasher: &mut Hasher, key: V::Key, row: &V) -> u128 {
    let hash = hasher.hash(&(V::TABLE, row.form(key)));
    if V::SECRET {
        hasher.wipe();
    }
    hash
}

fn hash_part<V: Record>(hasher: &mut Hasher, key: V::Key, row: &V) -> u128 {
    let part = row.part();
    part.map_or(0, |part| hasher.hash(&(V::TABLE, PART, key, part)))
}

/// Brings the hashes of a record's pieces in line with it; returns by how much their sum changed.
fn count_pieces<V: Record>(
    hasher: &mut Hasher,
    pieces: &mut BTreeMap<(V::Key, u64), u128>,
    key: V::Key,
    row: Option<&V>,
) -> u128 {
    let mut delta: u128 = 0;
    let mut numbers = Vec::new();
    for (number, piece) in row.into_iter().flat_map(V::pieces) {
        numbers.push(number);
        let mut hash = || hasher.hash(&(V::TABLE, PIECE, key, number, &piece));
        let entry = pieces.entry((key, number));
        #[cfg(debug_assertions)]
        if let Entry::Occupied(known) = &entry {
            debug_assert_eq!(*known.get(), hash(), "a piece never changes");
        }
        entry.or_insert_with(|| {
            let hash = hash();
            delta = delta.wrapping_add(hash);
            hash
        });
    }
    let known = pieces.range((key, 0)..=(key, u64::MAX));
    let gone: Vec<_> = known
        .map(|(place, _)| *place)
        .filter(|(_, number)| numbers.binary_search(number).is_err())
        .collect();
    for place in gone {
        let hash = pieces.remove(&place).unwrap_or_default();
        delta = delta.wrapping_sub(hash);
    }
    delta
}

/// Keep the hashes of parts and pieces apart from those of records.
const PART: u8 = u8::MAX;
const PIECE: u8 = u8::MAX - 1;

impl<V: Record> Default for Table<V> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            index: V::Index::default(),
            sum: 0,
            hashes: BTreeMap::new(),
            pieces: BTreeMap::new(),
            hasher: Hasher::default(),
        }
    }
}

impl<V: Record + fmt::Debug> fmt::Debug for Table<V>
where
    V::Key: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows.fmt(f)
    }
}

/// Stored as the records alone.
impl<V: Record> Serialize for Table<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.rows.serialize(serializer)
    }
}

impl<'de, V: Record> Deserialize<'de> for Table<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rows = BTreeMap::<V::Key, V>::deserialize(deserializer)?;
        let mut table = Self::default();
        for (key, row) in &rows {
            if !row.fits(*key) {
                return Err(de::Error::custom("a record under the key of another"));
            }
            table.count(*key, row);
        }
        table.rows = rows;
        Ok(table)
    }
}

/// A table of at most one record, stored as an option.
pub(super) mod single {
    use super::*;

    pub(in super::super) fn serialize<V: Record<Key = ()>, S: Serializer>(
        table: &Table<V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        table.get(()).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, V: Record<Key = ()>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Table<V>, D::Error> {
        let record = Option::<V>::deserialize(deserializer)?;
        let mut table = Table::default();
        if let Some(record) = record {
            table.count((), &record);
            table.rows.insert((), record);
        }
        Ok(table)
    }
}
