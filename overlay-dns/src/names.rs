//! The names of one network: each is kept once, with those who contribute to it.

use std::{
    fmt,
    hash::{BuildHasher, Hasher},
};

use foldhash::quality::FixedState;
use hashbrown::HashTable;

use crate::sorted::Sorted;

/// Hashes with a key from the seed: an owner of names cannot aim at collisions, and nothing iterates in hash order.
#[derive(Clone)]
pub(crate) struct Keyed(FixedState);

impl Keyed {
    pub(crate) fn new(key: u64) -> Self {
        Self(FixedState::with_seed(key))
    }

    /// Hashes a name. All networks hash alike, so that one hash serves to look it up in each of them.
    #[inline]
    pub(crate) fn hash(&self, wire: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(wire);
        hasher.finish()
    }
}

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyed(..)")
    }
}

/// Names a name of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameId(pub(crate) u32);

/// What somebody is to a name. Sources are sorted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// It is a service of this name, and has virtual addresses or none.
    Virtual,
    /// It is an endpoint of this name.
    Endpoint,
    /// It is an endpoint of this name and a task of the service of this name.
    EndpointAndTask,
    /// It is a task of the service of this name.
    Task,
}

/// Somebody who contributes to a name: its part in the upper two bits, below them the number of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source(u32);

impl Source {
    /// Numbers of records are below this.
    pub(crate) const SLOTS_MAX: u32 = 1 << 30;

    pub(crate) fn new(part: Part, slot: u32) -> Self {
        let part = match part {
            Part::Virtual => 0,
            Part::Endpoint => 1,
            Part::EndpointAndTask => 2,
            Part::Task => 3,
        };
        Self(part << 30 | slot & (Self::SLOTS_MAX - 1))
    }

    #[inline]
    pub(crate) fn part(self) -> Part {
        match self.0 >> 30 {
            0 => Part::Virtual,
            1 => Part::Endpoint,
            2 => Part::EndpointAndTask,
            _ => Part::Task,
        }
    }

    #[inline]
    pub(crate) fn slot(self) -> u32 {
        self.0 & (Self::SLOTS_MAX - 1)
    }
}

/// One name, in twelve octets.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where its text begins.
    at: u32,
    /// The source, if there is one, or the number of the list.
    link: Source,
    /// How long its text is; zero in a free place.
    len: u8,
    count: Count,
}

/// How many contribute to a name.
#[derive(Clone, Copy, Debug)]
enum Count {
    Nobody,
    One,
    Many,
}

/// The names of one network.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    hash: Keyed,
    index: HashTable<u32>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Lists of more than one source, sorted.
    lists: Vec<Vec<Source>>,
    free_lists: Vec<u32>,
    /// The texts one after the other: small letters, in wire form without the root's octet.
    texts: Vec<u8>,
    /// How many octets of the texts belong to no name any more.
    dead: usize,
    /// Names of more than one label, sorted from their ends: what is below a name follows it.
    endings: Sorted,
}

impl Names {
    pub(crate) fn new(hash: &Keyed) -> Self {
        Self {
            hash: hash.clone(),
            index: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            lists: Vec::new(),
            free_lists: Vec::new(),
            texts: Vec::new(),
            dead: 0,
            endings: Sorted::default(),
        }
    }

    /// Adds a source to a name, which is made if it is new. None if there is no room for more texts.
    pub(crate) fn insert(&mut self, wire: &[u8], source: Source) -> Option<NameId> {
        let name = match self.find(self.hash.hash(wire), wire) {
            Some(name) => name,
            None => self.make(wire)?,
        };
        let entry = self.entries.get_mut(name.0 as usize)?;
        match entry.count {
            Count::Nobody => (entry.count, entry.link) = (Count::One, source),
            Count::One if entry.link == source => {}
            Count::One => {
                let mut both = vec![entry.link, source];
                both.sort_unstable();
                let list = place(&mut self.lists, &mut self.free_lists, both);
                (entry.count, entry.link) = (Count::Many, Source(list));
            }
            Count::Many => {
                let list = self.lists.get_mut(entry.link.0 as usize)?;
                if let Err(at) = list.binary_search(&source) {
                    grow(list);
                    list.insert(at, source);
                }
            }
        }
        Some(name)
    }

    /// Takes a source away from a name; a name without sources is gone.
    pub(crate) fn remove(&mut self, name: NameId, slot: u32) {
        let Some(entry) = self.entries.get_mut(name.0 as usize) else {
            return;
        };
        match entry.count {
            Count::Many => {
                let number = entry.link.0;
                let Some(list) = self.lists.get_mut(number as usize) else {
                    return;
                };
                list.retain(|source| source.slot() != slot);
                if let [last] = list[..] {
                    (entry.count, entry.link) = (Count::One, last);
                    *list = Vec::new();
                    self.free_lists.push(number);
                }
            }
            Count::One if entry.link.slot() == slot => self.unmake(name),
            Count::One | Count::Nobody => {}
        }
    }

    /// Returns the sources of a name: lower-cased wire form, and its hash.
    #[inline]
    pub(crate) fn sources(&self, hash: u64, wire: &[u8]) -> Option<&[Source]> {
        let name = self.find(hash, wire)?;
        let entry = self.entries.get(name.0 as usize)?;
        match entry.count {
            Count::Nobody => None,
            Count::One => Some(std::slice::from_ref(&entry.link)),
            Count::Many => self.lists.get(entry.link.0 as usize).map(Vec::as_slice),
        }
    }

    /// Returns the wire form of a name.
    pub(crate) fn text(&self, name: NameId) -> &[u8] {
        text(&self.entries, &self.texts, name.0)
    }

    /// Returns true if a name is below this one (RFC 4592 §2.2.2).
    pub(crate) fn is_above(&self, wire: &[u8]) -> bool {
        if wire.is_empty() {
            return false;
        }
        let after = |name: u32| reversed(self.text(NameId(name)), wire);
        self.endings
            .from(after)
            .map(|name| self.text(NameId(name)))
            .take_while(|text| text.ends_with(wire))
            .any(|text| text.len() > wire.len() && has_label_at(text, text.len() - wire.len()))
    }

    /// Returns how many names there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    #[inline]
    fn find(&self, hash: u64, wire: &[u8]) -> Option<NameId> {
        let (entries, texts) = (&self.entries, &self.texts);
        let same = |name: &u32| text(entries, texts, *name) == wire;
        self.index.find(hash, same).copied().map(NameId)
    }

    fn make(&mut self, wire: &[u8]) -> Option<NameId> {
        let len = u8::try_from(wire.len()).ok()?;
        let at = u32::try_from(self.texts.len()).ok()?;
        grow_by(&mut self.texts, wire.len());
        self.texts.extend_from_slice(wire);
        let entry = Entry {
            at,
            link: Source(0),
            len,
            count: Count::Nobody,
        };
        let name = place(&mut self.entries, &mut self.free, entry);
        let (entries, texts, hash) = (&self.entries, &self.texts, &self.hash);
        let rehash = |name: &u32| hash.hash(text(entries, texts, *name));
        self.index.insert_unique(hash.hash(wire), name, rehash);
        if has_many_labels(wire) {
            let compare = |other: u32| reversed(text(entries, texts, other), wire);
            self.endings.insert(name, compare);
        }
        Some(NameId(name))
    }

    fn unmake(&mut self, name: NameId) {
        let (entries, texts) = (&self.entries, &self.texts);
        let wire = text(entries, texts, name.0);
        if has_many_labels(wire) {
            let compare = |other: u32| reversed(text(entries, texts, other), wire);
            self.endings.remove(compare);
        }
        let found = self
            .index
            .find_entry(self.hash.hash(wire), |other| *other == name.0);
        if let Ok(found) = found {
            found.remove();
        }
        self.dead += wire.len();
        if let Some(entry) = self.entries.get_mut(name.0 as usize) {
            (entry.len, entry.count) = (0, Count::Nobody);
        }
        self.free.push(name.0);
        if self.dead > DEAD_MAX && self.dead > self.texts.len() / 4 {
            self.compact();
        }
    }

    /// Writes the texts again without what belongs to no name.
    fn compact(&mut self) {
        let mut texts = Vec::with_capacity(self.texts.len() - self.dead);
        for entry in &mut self.entries {
            let (at, len) = (entry.at as usize, usize::from(entry.len));
            let text = self.texts.get(at..at + len).unwrap_or_default();
            entry.at = u32::try_from(texts.len()).unwrap_or(entry.at); // no more than before
            texts.extend_from_slice(text);
        }
        (self.texts, self.dead) = (texts, 0);
    }
}

fn text<'a>(entries: &[Entry], texts: &'a [u8], name: u32) -> &'a [u8] {
    let Some(entry) = entries.get(name as usize) else {
        return &[];
    };
    let at = entry.at as usize;
    texts
        .get(at..at + usize::from(entry.len))
        .unwrap_or_default()
}

/// Compares from the ends, so that all that ends alike stands together.
fn reversed(one: &[u8], other: &[u8]) -> std::cmp::Ordering {
    one.iter().rev().cmp(other.iter().rev())
}

fn has_many_labels(wire: &[u8]) -> bool {
    let first = wire.first().map_or(0, |length| usize::from(*length));
    wire.len() > first + 1
}

/// Returns true if a label begins there.
fn has_label_at(wire: &[u8], sought: usize) -> bool {
    let mut at = 0;
    while at < sought {
        at += 1 + wire.get(at).map_or(0, |length| usize::from(*length));
    }
    at == sought
}

/// Puts a value into a free place or behind the last; returns the place.
pub(crate) fn place<T>(places: &mut Vec<T>, free: &mut Vec<u32>, value: T) -> u32 {
    if let Some(number) = free.pop()
        && let Some(place) = places.get_mut(number as usize)
    {
        *place = value;
        return number;
    }
    grow(places);
    places.push(value);
    u32::try_from(places.len() - 1)
        .expect("texts of four octets or records fill 2^32 octets before")
}

/// Makes room for one more: a sixteenth at a time, since large zones are as good as never twice as large a moment later.
pub(crate) fn grow<T>(places: &mut Vec<T>) {
    grow_by(places, 1);
}

fn grow_by<T>(places: &mut Vec<T>, count: usize) {
    if places.capacity() - places.len() < count {
        places.reserve_exact(count.max(places.len() / 16 + 2));
    }
}

/// So few dead octets of texts are left alone.
const DEAD_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use overlay_core::{Rng, Seed};

    use super::*;

    /// Names of one to three labels, many of which are below others, and some that end alike without being so.
    fn draw(rng: &mut Rng) -> Vec<u8> {
        let mut wire = Vec::new();
        for _ in 0..=rng.below(3) {
            let number = rng.below(9);
            let label = match rng.below(8) {
                0 => format!("x\u{6}label{number}"), // ends like a label of its own, and is none
                _ => format!("label{number}"),
            };
            wire.push(u8::try_from(label.len()).unwrap());
            wire.extend(label.into_bytes());
        }
        wire
    }

    fn is_below(name: &[u8], above: &[u8]) -> bool {
        let mut rest = name;
        while let Some((length, tail)) = rest.split_first() {
            rest = &tail[usize::from(*length)..];
            if rest == above && !above.is_empty() {
                return true;
            }
        }
        false
    }

    #[test]
    fn they_do_what_a_map_of_sets_does() {
        let hash = Keyed::new(7);
        let (mut names, mut rng) = (Names::new(&hash), Seed::from_u64(1).rng());
        let mut model: BTreeMap<Vec<u8>, BTreeSet<Source>> = BTreeMap::new();
        let (mut compacted, mut dead) = (0, 0);
        for step in 0..60_000_u32 {
            let wire = draw(&mut rng);
            let slot = u32::try_from(rng.below(4)).unwrap();
            if rng.chance(if step / 5_000 % 2 == 0 {
                700_000
            } else {
                300_000
            }) {
                let taken = model
                    .get(&wire)
                    .is_some_and(|sources| sources.iter().any(|source| source.slot() == slot));
                let source = Source::new(if slot == 0 { Part::Virtual } else { Part::Task }, slot);
                if !taken {
                    let name = names.insert(&wire, source).unwrap();
                    assert_eq!(names.text(name), wire);
                    model.entry(wire.clone()).or_default().insert(source);
                }
            } else if let Some(name) = names.find(hash.hash(&wire), &wire) {
                names.remove(name, slot);
                let sources = model.get_mut(&wire).unwrap();
                sources.retain(|source| source.slot() != slot);
                if sources.is_empty() {
                    model.remove(&wire);
                }
            }
            compacted += u32::from(names.dead < dead);
            dead = names.dead;
            let found = names.sources(hash.hash(&wire), &wire);
            let expected = model
                .get(&wire)
                .map(|sources| sources.iter().copied().collect());
            assert_eq!(found.map(<[Source]>::to_vec), expected);
            assert_eq!(names.len(), model.len());
            if step % 100 == 0 {
                let below = model.keys().any(|name| is_below(name, &wire));
                assert_eq!(names.is_above(&wire), below, "{wire:?}");
            }
        }
        assert!(compacted > 0, "{compacted}");
        let held: usize = model.keys().map(Vec::len).sum();
        assert!(names.texts.len() <= held * 4 / 3 + 2 * DEAD_MAX);
    }

    #[test]
    fn a_name_takes_twelve_octets_and_sources_are_sorted_by_their_parts() {
        assert_eq!(size_of::<Entry>(), 12);
        let parts = [
            Part::Virtual,
            Part::Endpoint,
            Part::EndpointAndTask,
            Part::Task,
        ];
        let last = Source::SLOTS_MAX - 1;
        let sources: Vec<Source> = parts
            .iter()
            .flat_map(|part| [Source::new(*part, 0), Source::new(*part, last)])
            .collect();
        assert!(sources.is_sorted());
        for (source, part) in sources.chunks(2).zip(parts) {
            assert_eq!(source[0].part(), part);
            assert_eq!((source[0].slot(), source[1].slot()), (0, last));
        }
    }
}
