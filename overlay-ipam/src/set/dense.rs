//! Leaves side by side, for up to 2^24 addresses.

use super::leaf::Leaf;

#[derive(Clone, Debug)]
pub(super) struct Dense {
    leaves: Vec<Leaf>,
    /// One bit for each full leaf.
    full: Vec<u64>,
}

impl Dense {
    pub(super) fn new(last: u32) -> Self {
        let leaves = block(last) + 1;
        Self {
            leaves: vec![Leaf::Empty; leaves],
            full: vec![0; leaves.div_ceil(64)],
        }
    }

    pub(super) fn insert(&mut self, number: u32) -> bool {
        let block = block(number);
        let leaf = &mut self.leaves[block];
        let new = leaf.insert(within(number));
        if leaf.is_full() {
            self.full[block >> 6] |= 1 << (block & 63);
        }
        new
    }

    pub(super) fn remove(&mut self, number: u32) -> bool {
        let block = block(number);
        let old = self.leaves[block].remove(within(number));
        if old {
            self.full[block >> 6] &= !(1 << (block & 63));
        }
        old
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.leaves[block(number)].contains(within(number))
    }

    /// May return a number above the last one, in the last leaf.
    pub(super) fn first_clear(&self, from: u32) -> Option<u32> {
        let at = block(from);
        if let Some(within) = self.leaves[at].first_clear(within(from)) {
            return Some(join(at, within));
        }
        let at = self.first_part(at + 1)?;
        let within = self.leaves[at].first_clear(0)?;
        Some(join(at, within))
    }

    pub(super) fn first_set(&self, from: u32) -> Option<u32> {
        let at = block(from);
        if let Some(within) = self.leaves[at].first_set(within(from)) {
            return Some(join(at, within));
        }
        let rest = self.leaves.get(at + 1..)?;
        let skipped = rest.iter().position(|leaf| !leaf.is_empty())?;
        let at = at + 1 + skipped;
        Some(join(at, self.leaves[at].first_set(0)?))
    }

    pub(super) fn leaves(&self) -> impl Iterator<Item = (u128, &Leaf)> {
        (0..).zip(&self.leaves)
    }

    pub(super) fn put(&mut self, block: u128, leaf: Leaf) {
        let block = usize::try_from(block).unwrap_or(usize::MAX);
        if let Some(place) = self.leaves.get_mut(block) {
            if leaf.is_full() {
                self.full[block >> 6] |= 1 << (block & 63);
            }
            *place = leaf;
        }
    }

    /// Returns the first leaf at or after `from` that is not full.
    fn first_part(&self, from: usize) -> Option<usize> {
        let mut at = from >> 6;
        let mut mask = u64::MAX << (from & 63);
        loop {
            let rest = !self.full.get(at)? & mask;
            if rest != 0 {
                let found = at * 64 + rest.trailing_zeros() as usize;
                return Some(found).filter(|found| *found < self.leaves.len());
            }
            (at, mask) = (at + 1, u64::MAX);
        }
    }
}

fn block(number: u32) -> usize {
    usize::try_from(number >> 12).expect("24 bits at most")
}

fn within(number: u32) -> u16 {
    u16::try_from(number & 0xfff).expect("12 bits")
}

fn join(block: usize, within: u16) -> u32 {
    u32::try_from(block << 12).expect("24 bits at most") | u32::from(within)
}
