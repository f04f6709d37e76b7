//! Only the leaves in which addresses differ, and runs of full ones.

use std::collections::BTreeMap;

use super::leaf::Leaf;

#[derive(Clone, Debug, Default)]
pub(super) struct Sparse {
    /// Neither empty nor full leaves, by block: the number less its lower 12 bits.
    leaves: BTreeMap<u128, Leaf>,
    /// First to last block of each run of full ones. Runs do not touch.
    full: BTreeMap<u128, u128>,
}

impl Sparse {
    pub(super) fn insert(&mut self, number: u128) -> bool {
        let block = number >> 12;
        if self.run(block).is_some() {
            return false;
        }
        let leaf = self.leaves.entry(block).or_default();
        let new = leaf.insert(within(number));
        if leaf.is_full() {
            self.leaves.remove(&block);
            self.fill(block, block);
        }
        new
    }

    pub(super) fn remove(&mut self, number: u128) -> bool {
        let block = number >> 12;
        if let Some((start, end)) = self.run(block) {
            self.full.remove(&start);
            if start < block {
                self.full.insert(start, block - 1);
            }
            if block < end {
                self.full.insert(block + 1, end);
            }
            let mut leaf = Leaf::Full;
            leaf.remove(within(number));
            self.leaves.insert(block, leaf);
            return true;
        }
        let Some(leaf) = self.leaves.get_mut(&block) else {
            return false;
        };
        let old = leaf.remove(within(number));
        if leaf.is_empty() {
            self.leaves.remove(&block);
        }
        old
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        let block = number >> 12;
        let part = self.leaves.get(&block);
        part.is_some_and(|leaf| leaf.contains(within(number))) || self.run(block).is_some()
    }

    pub(super) fn first_clear(&self, from: u128) -> Option<u128> {
        let (mut block, mut start) = (from >> 12, within(from));
        // A leaf with nothing free behind `from`, a run, and a leaf with something free: three rounds at most.
        loop {
            if let Some((_, end)) = self.run(block) {
                (block, start) = (end + 1, 0);
            } else {
                let Some(leaf) = self.leaves.get(&block) else {
                    return join(block, start);
                };
                if let Some(found) = leaf.first_clear(start) {
                    return join(block, found);
                }
                (block, start) = (block + 1, 0);
            }
        }
    }

    pub(super) fn first_set(&self, from: u128) -> Option<u128> {
        let block = from >> 12;
        if self.run(block).is_some() {
            return Some(from);
        }
        let here = self
            .leaves
            .get(&block)
            .and_then(|leaf| leaf.first_set(within(from)));
        if let Some(found) = here {
            return join(block, found);
        }
        let run = self.full.range(block..).next().map(|(start, _)| *start);
        let leaf = self.leaves.range(block + 1..).next();
        match (run, leaf) {
            (Some(run), Some((block, _))) if run < *block => join(run, 0),
            (_, Some((block, leaf))) => join(*block, leaf.first_set(0)?),
            (run, None) => join(run?, 0),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.leaves.is_empty() && self.full.is_empty()
    }

    pub(super) fn leaves(&self) -> impl Iterator<Item = (u128, &Leaf)> {
        self.leaves.iter().map(|(block, leaf)| (*block, leaf))
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = (u128, u128)> + '_ {
        self.full.iter().map(|(start, end)| (*start, *end))
    }

    pub(super) fn put(&mut self, block: u128, leaf: Leaf) {
        if leaf.is_full() {
            self.fill(block, block);
        } else if !leaf.is_empty() {
            self.leaves.insert(block, leaf);
        }
    }

    /// Marks empty blocks as full, and joins the run with its neighbours.
    pub(super) fn fill(&mut self, start: u128, end: u128) {
        let before = start.checked_sub(1).and_then(|block| self.run(block));
        let start = before.map_or(start, |(start, _)| start);
        let end = self.full.remove(&(end + 1)).unwrap_or(end);
        self.full.insert(start, end);
    }

    /// Returns the run of full blocks that `block` is in.
    fn run(&self, block: u128) -> Option<(u128, u128)> {
        let (start, end) = self.full.range(..=block).next_back()?;
        (block <= *end).then_some((*start, *end))
    }
}

fn within(number: u128) -> u16 {
    u16::try_from(number & 0xfff).expect("12 bits")
}

/// `None` above the largest number, behind a run that reaches it.
fn join(block: u128, within: u16) -> Option<u128> {
    (block < 1 << 116).then(|| block << 12 | u128::from(within))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_full_leaves_are_joined_and_split() {
        let mut sparse = Sparse::default();
        for block in [3, 1, 2, 5] {
            (0..4_096).for_each(|within| {
                sparse.insert(block << 12 | within);
            });
        }
        assert!(sparse.runs().eq([(1, 3), (5, 5)]));
        assert_eq!(sparse.leaves().count(), 0);
        assert!(sparse.remove(2 << 12));
        assert!(sparse.runs().eq([(1, 1), (3, 3), (5, 5)]));
        assert!(sparse.leaves().map(|(block, _)| block).eq([2]));
    }
}
