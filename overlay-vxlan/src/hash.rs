//! Seeded hashing: endpoints choose their MAC addresses, so they must not know where a row lands.

use std::{
    fmt,
    hash::{BuildHasher, Hasher},
};

use overlay_core::Seed;

/// The key of a hash function; two switches have two. `Debug` does not show it.
#[derive(Clone)]
pub(crate) struct HashKey {
    start: u64,
    factor: u64,
}

impl HashKey {
    pub(crate) fn new(seed: &Seed) -> Self {
        let mut rng = seed.rng();
        Self {
            start: rng.next_u64(),
            // An even factor would lose bits.
            factor: rng.next_u64() | 1,
        }
    }

    /// Hashes one word.
    #[inline]
    pub(crate) const fn word(&self, word: u64) -> u64 {
        fold(self.start ^ word, self.factor)
    }

    /// Hashes some words: a round each, where [`KeyedHasher`] has one more at the end.
    pub(crate) fn words(&self, words: impl IntoIterator<Item = u64>) -> u64 {
        let words = words.into_iter();
        words.fold(self.start, |state, word| fold(state ^ word, self.factor))
    }

    /// Hashes two words by one multiplication, as long as nobody knows the key.
    #[inline]
    pub(crate) const fn pair(&self, first: u64, second: u64) -> u64 {
        fold(self.start ^ first, self.factor ^ second)
    }

    pub(crate) const fn hasher(&self) -> KeyedHasher {
        KeyedHasher {
            state: self.start,
            factor: self.factor,
        }
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

impl BuildHasher for HashKey {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        self.hasher()
    }
}

/// Hashes a sequence of words.
#[derive(Clone)]
pub(crate) struct KeyedHasher {
    state: u64,
    factor: u64,
}

impl Hasher for KeyedHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(last));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.state = fold(self.state ^ number, self.factor);
    }

    fn finish(&self) -> u64 {
        fold(self.state, self.factor)
    }
}

/// Multiplies to 128 bits and folds the halves: every bit of both factors reaches every bit of the result.
#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    (product >> 64) as u64 ^ a.wrapping_mul(b)
}
