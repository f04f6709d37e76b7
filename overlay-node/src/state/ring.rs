//! The last so many of something, oldest first.

use std::collections::VecDeque;

use serde::{Serialize, Serializer};

/// The last `MAX` elements, with a hash that knows their order: a polynomial of their hashes over the numbers modulo 2^128.
///
/// An element is hashed once, when it comes; that hash goes with it.
#[derive(Clone, Debug)]
pub(super) struct Ring<T, const MAX: usize> {
    elements: VecDeque<(T, u128)>,
    sum: u128,
}

impl<T, const MAX: usize> Ring<T, MAX> {
    /// What the oldest element of one too many is multiplied with.
    const OLDEST: u128 = power(MAX);

    /// Adds an element; returns the oldest one if there is no room for it any more.
    pub(super) fn push(&mut self, element: T, hash: u128) -> Option<T> {
        self.sum = self.sum.wrapping_mul(BASE).wrapping_add(hash);
        self.elements.push_back((element, hash));
        if self.elements.len() <= MAX {
            return None;
        }
        let (oldest, hash) = self.elements.pop_front()?;
        self.sum = self.sum.wrapping_sub(hash.wrapping_mul(Self::OLDEST));
        Some(oldest)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.elements.iter().map(|(element, _)| element)
    }

    /// Returns the element at a place, counted from the oldest.
    pub(super) fn get(&self, place: usize) -> Option<&T> {
        self.elements.get(place).map(|(element, _)| element)
    }

    pub(super) const fn sum(&self) -> u128 {
        self.sum
    }
}

impl<T, const MAX: usize> Default for Ring<T, MAX> {
    fn default() -> Self {
        Self {
            elements: VecDeque::new(),
            sum: 0,
        }
    }
}

impl<T: Serialize, const MAX: usize> Serialize for Ring<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

const fn power(exponent: usize) -> u128 {
    let (mut power, mut left): (u128, usize) = (1, exponent);
    while left > 0 {
        power = power.wrapping_mul(BASE);
        left -= 1;
    }
    power
}

/// Odd, so that no bit of an old element is multiplied away: the multiplier of PCG's 128-bit generator (O'Neill 2014).
const BASE: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(elements: &[u128]) -> Ring<u128, 3> {
        let mut ring = Ring::default();
        for element in elements {
            ring.push(*element, *element);
        }
        ring
    }

    #[test]
    fn it_keeps_the_last_ones_and_hashes_them_alone() {
        let mut all = ring(&[7, 1, 2, 3]);
        assert!(all.iter().eq([&1, &2, &3]));
        assert_eq!(all.sum(), ring(&[1, 2, 3]).sum());
        assert_eq!(all.push(4, 4), Some(1));
        assert_eq!(all.sum(), ring(&[2, 3, 4]).sum());
    }

    #[test]
    fn order_matters() {
        assert_ne!(ring(&[1, 2]).sum(), ring(&[2, 1]).sum());
        assert_ne!(ring(&[1, 2]).sum(), ring(&[1, 2, 0]).sum());
    }
}
