//! The form in which a set is stored: each leaf in its shortest form, neighbours of one form together.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, SeqAccess, Visitor},
};

use super::{
    AddressSet, Shape,
    leaf::{LEAF_ADDRESSES, Leaf},
};

/// Versions are appended, never changed.
#[derive(Serialize, Deserialize)]
enum Snapshot {
    V1 { last: u128, runs: Vec<Run> },
}

/// A run of leaves of one form.
#[derive(Serialize, Deserialize)]
struct Run {
    /// Empty leaves since the run before.
    skip: u128,
    form: Form,
}

#[derive(Serialize, Deserialize)]
enum Form {
    /// So many full leaves.
    Full(u128),
    /// One leaf: each number that is in, less the one before.
    In(Vec<u16>),
    /// One leaf: each number that is not in, less the one before.
    Out(Vec<u16>),
    /// Leaves of 512 octets.
    Raw(Octets),
}

impl AddressSet {
    fn runs(&self) -> Vec<Run> {
        let mut runs = Runs::default();
        match &self.shape {
            Shape::Dense(dense) => dense
                .leaves()
                .for_each(|(block, leaf)| runs.push(block, leaf)),
            Shape::Sparse(sparse) => {
                let mut full = sparse.runs().peekable();
                for (block, leaf) in sparse.leaves() {
                    while let Some((start, end)) = full.next_if(|run| run.0 < block) {
                        runs.push_full(start, end - start + 1);
                    }
                    runs.push(block, leaf);
                }
                full.for_each(|(start, end)| runs.push_full(start, end - start + 1));
            }
        }
        runs.done
    }

    fn restore(last: u128, runs: Vec<Run>) -> Option<Self> {
        let mut set = Self::new(last);
        let mut block: u128 = 0;
        for Run { skip, form } in runs {
            block = block.checked_add(skip)?;
            match form {
                Form::Full(count) => set.restore_full(&mut block, count)?,
                Form::In(gaps) => set.restore_leaf(&mut block, words(&gaps)?)?,
                Form::Out(gaps) => set.restore_leaf(&mut block, words(&gaps)?.map(|word| !word))?,
                Form::Raw(Octets(octets)) => {
                    let (leaves, rest) = octets.as_chunks::<LEAF_BYTES>();
                    if leaves.is_empty() || !rest.is_empty() {
                        return None;
                    }
                    for leaf in leaves {
                        let (octets, _) = leaf.as_chunks::<8>();
                        let mut words = [0; 64];
                        for (word, octets) in words.iter_mut().zip(octets) {
                            *word = u64::from_le_bytes(*octets);
                        }
                        set.restore_leaf(&mut block, words)?;
                    }
                }
            }
        }
        Some(set)
    }

    fn restore_full(&mut self, block: &mut u128, count: u128) -> Option<()> {
        let end = block.checked_add(count.checked_sub(1)?)?;
        // The last number of the last block must be one that the set can hold.
        if end > self.last >> 12 || end << 12 | 0xfff > self.last {
            return None;
        }
        // The blocks ascend, so all leaves together have 2^128 numbers at most.
        let numbers = count.wrapping_mul(LEAF_ADDRESSES.into());
        self.len = self.len.wrapping_add(numbers);
        match &mut self.shape {
            Shape::Dense(dense) => (*block..=end).for_each(|block| dense.put(block, Leaf::Full)),
            Shape::Sparse(sparse) => sparse.fill(*block, end),
        }
        *block = end + 1;
        Some(())
    }

    fn restore_leaf(&mut self, block: &mut u128, words: [u64; 64]) -> Option<()> {
        let leaf = Leaf::from_words(words);
        if leaf.is_empty() || *block > self.last >> 12 {
            return None;
        }
        if *block == self.last >> 12 {
            let beyond = u16::try_from(self.last & 0xfff).ok()? + 1;
            if beyond < LEAF_ADDRESSES && leaf.first_set(beyond).is_some() {
                return None;
            }
        }
        self.len = self.len.wrapping_add(leaf.len().into());
        match &mut self.shape {
            Shape::Dense(dense) => dense.put(*block, leaf),
            Shape::Sparse(sparse) => sparse.put(*block, leaf),
        }
        *block += 1;
        Some(())
    }
}

#[derive(Default)]
struct Runs {
    done: Vec<Run>,
    /// The block behind the last run.
    next: u128,
}

impl Runs {
    fn push_full(&mut self, start: u128, count: u128) {
        match self.done.last_mut() {
            Some(Run {
                form: Form::Full(before),
                ..
            }) if start == self.next => *before += count,
            _ => self.done.push(Run {
                skip: start - self.next,
                form: Form::Full(count),
            }),
        }
        self.next = start + count;
    }

    fn push(&mut self, block: u128, leaf: &Leaf) {
        let Some(words) = leaf.words() else {
            if leaf.is_full() {
                self.push_full(block, 1);
            }
            return;
        };
        let skip = block - self.next;
        self.next = block + 1;
        let form = if leaf.len() <= LISTED_MAX {
            Form::In(gaps(words))
        } else if leaf.len() >= LEAF_ADDRESSES - LISTED_MAX {
            Form::Out(gaps(&words.map(|word| !word)))
        } else {
            let octets = words.iter().flat_map(|word| word.to_le_bytes());
            if let (
                0,
                Some(Run {
                    form: Form::Raw(Octets(before)),
                    ..
                }),
            ) = (skip, self.done.last_mut())
            {
                before.extend(octets);
                return;
            }
            Form::Raw(Octets(octets.collect()))
        };
        self.done.push(Run { skip, form });
    }
}

/// Lists the bits that are set, each less the one before.
fn gaps(words: &[u64; 64]) -> Vec<u16> {
    let (mut gaps, mut before) = (Vec::new(), 0);
    for (base, word) in (0..).step_by(64).zip(words) {
        let mut rest = *word;
        while rest != 0 {
            let at = base + u16::try_from(rest.trailing_zeros()).unwrap_or_default();
            gaps.push(at - before);
            before = at;
            rest &= rest - 1;
        }
    }
    gaps
}

/// The reverse of [`gaps`]; `None` if the numbers do not ascend, or leave the leaf.
fn words(gaps: &[u16]) -> Option<[u64; 64]> {
    let (mut words, mut at) = ([0_u64; 64], 0_u16);
    for (nth, gap) in gaps.iter().enumerate() {
        if nth > 0 && *gap == 0 {
            return None;
        }
        at = at.checked_add(*gap)?;
        *words.get_mut(usize::from(at >> 6))? |= 1 << (at & 63);
    }
    Some(words)
}

impl Serialize for AddressSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (last, runs) = (self.last, self.runs());
        Snapshot::V1 { last, runs }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AddressSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Snapshot::V1 { last, runs } = Snapshot::deserialize(deserializer)?;
        Self::restore(last, runs).ok_or_else(|| de::Error::custom("malformed set of addresses"))
    }
}

/// Octets that are copied as a whole; a list of numbers where the format has no octets.
struct Octets(Vec<u8>);

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(OctetsVisitor)
    }
}

struct OctetsVisitor;

impl<'de> Visitor<'de> for OctetsVisitor {
    type Value = Octets;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("octets")
    }

    fn visit_bytes<E: de::Error>(self, octets: &[u8]) -> Result<Octets, E> {
        Ok(Octets(octets.to_vec()))
    }

    fn visit_byte_buf<E: de::Error>(self, octets: Vec<u8>) -> Result<Octets, E> {
        Ok(Octets(octets))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Octets, A::Error> {
        // Grows with what really comes, not with the length that is claimed.
        let mut octets = Vec::new();
        while let Some(octet) = seq.next_element()? {
            octets.push(octet);
        }
        Ok(Octets(octets))
    }
}

const LEAF_BYTES: usize = 512;
/// Up to so many a list is shorter than 512 octets.
const LISTED_MAX: u16 = 240;
