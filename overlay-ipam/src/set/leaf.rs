//! 4,096 addresses.

/// Addresses of a leaf.
pub(super) const LEAF_ADDRESSES: u16 = 4096;

/// The addresses of one aligned block of 4,096: a bit each, but none where all are alike.
#[derive(Clone, Debug, Default)]
pub(super) enum Leaf {
    #[default]
    Empty,
    Full,
    Part {
        count: u16,
        bits: Box<Bits>,
    },
}

/// The bits of a leaf, with one summary bit for each full word.
#[derive(Clone, Debug)]
pub(super) struct Bits {
    words: [u64; 64],
    full: u64,
}

impl Leaf {
    /// Makes a leaf from raw words.
    pub(super) fn from_words(words: [u64; 64]) -> Self {
        let mut bits = Bits { words, full: 0 };
        let mut count: u32 = 0;
        for (at, word) in words.iter().enumerate() {
            count += word.count_ones();
            bits.full |= u64::from(*word == u64::MAX) << at;
        }
        match u16::try_from(count) {
            Ok(0) => Self::Empty,
            Ok(LEAF_ADDRESSES) => Self::Full,
            Ok(count) => Self::Part {
                count,
                bits: Box::new(bits),
            },
            Err(_) => unreachable!("64 words have 4,096 bits"),
        }
    }

    /// Returns the raw words of a leaf in which the addresses differ.
    pub(super) fn words(&self) -> Option<&[u64; 64]> {
        match self {
            Self::Empty | Self::Full => None,
            Self::Part { bits, .. } => Some(&bits.words),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Full)
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    pub(super) fn len(&self) -> u16 {
        match self {
            Self::Empty => 0,
            Self::Full => LEAF_ADDRESSES,
            Self::Part { count, .. } => *count,
        }
    }

    pub(super) fn contains(&self, at: u16) -> bool {
        match self {
            Self::Empty => false,
            Self::Full => true,
            Self::Part { bits, .. } => bits.words[word(at)] & bit(at) != 0,
        }
    }

    /// Returns false if it was in already.
    pub(super) fn insert(&mut self, at: u16) -> bool {
        match self {
            Self::Full => return false,
            Self::Empty => {
                let mut bits = Box::new(Bits {
                    words: [0; 64],
                    full: 0,
                });
                bits.words[word(at)] = bit(at);
                *self = Self::Part { count: 1, bits };
            }
            Self::Part { count, bits } => {
                let word = word(at);
                if bits.words[word] & bit(at) != 0 {
                    return false;
                }
                bits.words[word] |= bit(at);
                bits.full |= u64::from(bits.words[word] == u64::MAX) << word;
                *count += 1;
                if *count == LEAF_ADDRESSES {
                    *self = Self::Full;
                }
            }
        }
        true
    }

    /// Returns false if it was not in.
    pub(super) fn remove(&mut self, at: u16) -> bool {
        match self {
            Self::Empty => return false,
            Self::Full => {
                let mut bits = Box::new(Bits {
                    words: [u64::MAX; 64],
                    full: u64::MAX,
                });
                bits.clear(at);
                *self = Self::Part {
                    count: LEAF_ADDRESSES - 1,
                    bits,
                };
            }
            Self::Part { count, bits } => {
                if bits.words[word(at)] & bit(at) == 0 {
                    return false;
                }
                bits.clear(at);
                *count -= 1;
                if *count == 0 {
                    *self = Self::Empty;
                }
            }
        }
        true
    }

    /// Returns the first address at or after `from` that is not in.
    pub(super) fn first_clear(&self, from: u16) -> Option<u16> {
        match self {
            Self::Empty => Some(from),
            Self::Full => None,
            Self::Part { bits, .. } => {
                let at = word(from);
                let here = !bits.words[at] & (u64::MAX << (from & 63));
                if here != 0 {
                    return Some(join(at, here));
                }
                let rest = !bits.full & after(at);
                if rest == 0 {
                    return None;
                }
                let at = first(rest);
                Some(join(at, !bits.words[at]))
            }
        }
    }

    /// Returns the first address at or after `from` that is in.
    pub(super) fn first_set(&self, from: u16) -> Option<u16> {
        match self {
            Self::Empty => None,
            Self::Full => Some(from),
            Self::Part { bits, .. } => {
                let at = word(from);
                let here = bits.words[at] & (u64::MAX << (from & 63));
                if here != 0 {
                    return Some(join(at, here));
                }
                let (at, word) = (at + 1..64)
                    .map(|at| (at, bits.words[at]))
                    .find(|w| w.1 != 0)?;
                Some(join(at, word))
            }
        }
    }
}

impl Bits {
    fn clear(&mut self, at: u16) {
        let word = word(at);
        self.words[word] &= !bit(at);
        self.full &= !(1 << word);
    }
}

fn word(at: u16) -> usize {
    usize::from(at >> 6)
}

fn bit(at: u16) -> u64 {
    1 << (at & 63)
}

/// A mask of the bits above `at`.
fn after(at: usize) -> u64 {
    if at == 63 { 0 } else { u64::MAX << (at + 1) }
}

fn first(word: u64) -> usize {
    word.trailing_zeros() as usize
}

/// The address of the first bit of `word`, the `at`-th of its leaf.
fn join(at: usize, word: u64) -> u16 {
    u16::try_from(at * 64 + first(word)).expect("a leaf has 64 words of 64 bits")
}
