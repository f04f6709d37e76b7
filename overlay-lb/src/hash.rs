//! A keyed hash of a few words.

/// Two words that nobody who sends packets knows, or that all nodes share.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    start: u64,
    step: u64,
}

impl Key {
    pub(crate) const fn new(start: u64, step: u64) -> Self {
        Self { start, step }
    }

    pub(crate) fn hash<const N: usize>(self, words: [u64; N]) -> u64 {
        let fold = |hash: u64, word: u64| mix((hash ^ word).wrapping_add(self.step));
        words.into_iter().fold(self.start, fold)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Maps a hash onto `0..bound` (multiply-shift, Lemire 2019); all nodes must do it alike.
pub(crate) fn reduce(hash: u64, bound: u32) -> u32 {
    let wide = u128::from(hash) * u128::from(bound);
    u32::try_from(wide >> 64).expect("the upper half of the product is below the bound")
}

pub(crate) const fn halves(number: u128) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = number.to_be_bytes();
    [
        u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        u64::from_be_bytes([i, j, k, l, m, n, o, p]),
    ]
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014, figure 17): a bijection of 64 bits.
const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
