//! Randomness that a machine draws from the seed it was given, and from nowhere else.

use std::{fmt, ops::Range, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::ChaCha12Rng};

/// The only source of randomness of a machine.
///
/// A daemon fills it from the operating system's entropy; a test writes it down. A parent gives each child
/// [`derive`](Self::derive)d seeds. `Debug` does not show the octets, because keys may come from them.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed([u8; 32]);

impl Seed {
    /// Makes a seed from 32 octets.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Makes a seed from a small number, for tests and simulations.
    pub const fn from_u64(number: u64) -> Self {
        let (mut bytes, octets) = ([0; 32], number.to_le_bytes());
        let mut at = 0;
        while at < octets.len() {
            bytes[at] = octets[at];
            at += 1;
        }
        Self(bytes)
    }

    /// Derives the seed of a part, named by `label`. The same label gives the same seed.
    #[must_use]
    pub fn derive(&self, label: &str) -> Self {
        // Absorbs the label octet by octet into a ChaCha stream; a label is a name written in code, never remote input.
        let mut key = self.0;
        for octet in label.bytes().chain([0xff]) {
            key[0] ^= octet;
            key[31] ^= 0x5a;
            ChaCha12Rng::from_seed(key).fill_bytes(&mut key);
        }
        Self(key)
    }

    /// Starts a generator.
    pub fn rng(&self) -> Rng {
        Rng(ChaCha12Rng::from_seed(self.0))
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// A deterministic generator (ChaCha12), started by [`Seed::rng`].
pub struct Rng(ChaCha12Rng);

impl Rng {
    /// Draws 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Draws 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    /// Draws an array of octets.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// Draws a number below `bound`; zero if `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        // Multiply-shift (Lemire 2019) without the rejection step: the bias is at most bound / 2^64.
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        (wide >> 64) as u64
    }

    /// Draws an index into something of `len` elements; `None` if it is empty.
    pub fn index(&mut self, len: usize) -> Option<usize> {
        if len == 0 {
            return None;
        }
        usize::try_from(self.below(len as u64)).ok()
    }

    /// Draws a duration from a half-open range; its start if it is empty.
    pub fn duration(&mut self, range: Range<Duration>) -> Duration {
        let width =
            u64::try_from(range.end.saturating_sub(range.start).as_nanos()).unwrap_or(u64::MAX);
        range.start + Duration::from_nanos(self.below(width))
    }

    /// Returns true with the given probability, in parts of a million.
    pub fn chance(&mut self, parts_per_million: u32) -> bool {
        self.below(1_000_000) < u64::from(parts_per_million)
    }

    /// Puts `items` into random order (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = self.index(at + 1).unwrap_or(at);
            items.swap(at, other);
        }
    }
}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rng(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        // Replays of recorded seeds depend on these very numbers.
        let mut rng = Seed::from_u64(1).derive("test").rng();
        assert_eq!([rng.next_u64(), rng.next_u64()], [GOLDEN_1, GOLDEN_2]);
    }

    #[test]
    fn labels_separate_streams() {
        let seed = Seed::from_u64(7);
        let mut draws: Vec<u64> = ["", "a", "b", "ab", "ba", "aa"]
            .iter()
            .map(|label| seed.derive(label).rng().next_u64())
            .collect();
        draws.push(seed.rng().next_u64());
        draws.sort_unstable();
        draws.dedup();
        assert_eq!(draws.len(), 7);
    }

    #[test]
    fn draws_stay_below_the_bound_and_reach_every_value() {
        let mut rng = Seed::from_u64(3).rng();
        let mut seen = [0_u32; 5];
        for _ in 0..1_000 {
            seen[rng.index(5).unwrap()] += 1;
        }
        assert!(
            seen.iter().all(|count| (100..300).contains(count)),
            "{seen:?}"
        );
        assert_eq!(rng.index(0), None);
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<u32> = (0..100).collect();
        Seed::from_u64(5).rng().shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }

    const GOLDEN_1: u64 = 2_982_575_910_931_738_114;
    const GOLDEN_2: u64 = 8_482_124_772_559_802_397;
}
