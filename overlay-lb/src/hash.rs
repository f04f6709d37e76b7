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

/// A keyed hash of five words for the flow table: faster than [`Key`], and free to change, for only this balancer sees it.
///
/// Each pair of words is masked by secrets and folded by a wide multiplication.
#[derive(Clone, Copy)]
pub(crate) struct TableKey([u64; 5]);

impl TableKey {
    pub(crate) const fn new(secrets: [u64; 5]) -> Self {
        Self(secrets)
    }

    #[inline(always)]
    pub(crate) fn hash(self, [a, b, c, d, e]: [u64; 5]) -> u32 {
        let Self([k0, k1, k2, k3, k4]) = self;
        let first = fold(a ^ k0, b ^ k1);
        let second = fold(c ^ k2, d ^ k3);
        let all = fold(first ^ e, second ^ k4);
        u32::try_from(all >> 32).expect("the upper half")
    }
}

impl std::fmt::Debug for TableKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TableKey(..)")
    }
}

const fn fold(one: u64, other: u64) -> u64 {
    let [high, low] = halves(one as u128 * other as u128);
    high ^ low
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
