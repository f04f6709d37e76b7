//! The hash by which replicas compare their states.
//!
//! Not cryptographic: it finds replicas that disagree, it does not stop somebody who wants a collision. Its numbers are
//! part of what replicas of different releases compare, so they never change.

/// A running hash over words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digest(u64);

impl Digest {
    /// Starts a hash; `label` keeps hashes of different things apart.
    pub(crate) const fn new(label: u64) -> Self {
        Self(mix(label ^ INCREMENT))
    }

    #[must_use]
    pub(crate) const fn word(self, word: u64) -> Self {
        Self(mix(
            self.0.rotate_left(5) ^ mix(word.wrapping_add(INCREMENT))
        ))
    }

    #[must_use]
    pub(crate) const fn wide(self, number: u128) -> Self {
        let [high, low] = halves(number);
        self.word(high).word(low)
    }

    pub(crate) const fn finish(self) -> u64 {
        self.0
    }
}

/// Splits a number into its upper and its lower half.
pub(crate) const fn halves(number: u128) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = number.to_be_bytes();
    [
        u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        u64::from_be_bytes([i, j, k, l, m, n, o, p]),
    ]
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014, figure 17): a bijection of 64 bits.
pub(crate) const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_never_change() {
        assert_eq!(mix(INCREMENT), 0xe220_a839_7b1d_cdaf); // first output of SplitMix64 with seed 0
        let digest = Digest::new(1).word(2).wide(3 << 64 | 4).finish();
        assert_eq!(digest, GOLDEN);
    }

    #[test]
    fn order_matters() {
        let forth = Digest::new(0).word(1).word(2).finish();
        assert_ne!(forth, Digest::new(0).word(2).word(1).finish());
    }

    const GOLDEN: u64 = 7_415_118_174_102_922_206;
}
