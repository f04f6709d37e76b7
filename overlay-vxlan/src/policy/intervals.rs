//! Which rules match a number: the line of numbers in intervals, each with a set of rules.

use std::collections::BTreeMap;

/// Sets of rules as bits, each kept once. The first bit of the first word is the first rule.
#[derive(Clone, Debug)]
pub(super) struct Sets {
    /// Of each set.
    width: usize,
    words: Vec<u64>,
}

impl Sets {
    pub(super) fn get(&self, set: u32) -> &[u64] {
        let at = set as usize * self.width;
        &self.words[at..at + self.width]
    }
}

/// Makes sets.
#[derive(Debug)]
pub(super) struct SetsBuilder {
    sets: Sets,
    known: BTreeMap<Box<[u64]>, u32>,
}

impl SetsBuilder {
    pub(super) const fn new(width: usize) -> Self {
        let words = Vec::new();
        Self {
            sets: Sets { width, words },
            known: BTreeMap::new(),
        }
    }

    /// Returns the number of a set.
    fn add(&mut self, set: &[u64]) -> u32 {
        if let Some(known) = self.known.get(set) {
            return *known;
        }
        let number = u32::try_from(self.known.len()).expect("there are fewer intervals");
        self.sets.words.extend_from_slice(set);
        self.known.insert(set.into(), number);
        number
    }

    pub(super) fn done(self) -> Sets {
        self.sets
    }
}

/// A number of which there are not too many.
pub(super) trait Number: Copy + Ord {
    const MIN: Self;

    /// Returns the next one, if this one is not the last.
    fn next(self) -> Option<Self>;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Number for $number {
            const MIN: Self = 0;

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    )*};
}

numbers!(u8, u16, u32, u128);

/// From the first of the numbers to the last, and the rule that they match.
pub(super) type Range<T> = (T, T, usize);

/// All numbers, cut where the set of matching rules changes.
#[derive(Clone, Debug)]
pub(super) struct Intervals<T> {
    /// Where each begins; the first one does with the least number.
    starts: Vec<T>,
    sets: Vec<u32>,
}

impl<T: Number> Intervals<T> {
    /// Makes the intervals from ranges, which may overlap.
    pub(super) fn new(ranges: &[Range<T>], sets: &mut SetsBuilder) -> Self {
        let mut changes = Vec::with_capacity(ranges.len() * 2);
        for (first, last, rule) in ranges.iter().filter(|(first, last, _)| first <= last) {
            changes.push((*first, *rule, true));
            changes.extend(last.next().map(|end| (end, *rule, false)));
        }
        changes.sort_unstable();
        let rules = sets.sets.width * 64;
        // In how many of a rule's ranges we are.
        let (mut within, mut set) = (vec![0u32; rules], vec![0u64; sets.sets.width]);
        let mut made = Self {
            starts: vec![T::MIN],
            sets: Vec::new(),
        };
        for (at, rule, begins) in changes {
            if made.starts.last().is_some_and(|start| *start < at) {
                made.close(sets.add(&set));
                made.starts.push(at);
            }
            let (count, bit) = (&mut within[rule], 1 << (rule % 64));
            if begins {
                *count += 1;
                set[rule / 64] |= bit;
            } else {
                *count -= 1;
                if *count == 0 {
                    set[rule / 64] &= !bit;
                }
            }
        }
        made.close(sets.add(&set));
        made
    }

    /// Returns the set of a number.
    pub(super) fn get(&self, number: T) -> u32 {
        let behind = self.starts.partition_point(|start| *start <= number);
        self.sets[behind - 1]
    }

    /// Gives the last interval its set, or makes it one with that before if they have the same.
    fn close(&mut self, set: u32) {
        if self.sets.last() == Some(&set) {
            self.starts.pop();
        } else {
            self.sets.push(set);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_the_rules_whose_ranges_it_is_in() {
        let mut rng = overlay_core::Seed::from_u64(1).rng();
        for _ in 0..500 {
            let count = rng.below(12);
            let byte = |number: u64| u8::try_from(number).unwrap();
            let ranges: Vec<Range<u8>> = (0..count)
                .map(|_| {
                    let ends = [rng.below(256), rng.below(256)].map(byte);
                    // Now and then from the least to the greatest, and now and then nothing.
                    let [first, last] = if rng.chance(100_000) { [0, 255] } else { ends };
                    (first, last, usize::from(byte(rng.below(70))))
                })
                .collect();
            let mut sets = SetsBuilder::new(2);
            let intervals = Intervals::new(&ranges, &mut sets);
            let sets = sets.done();
            for number in 0..=255 {
                let mut expected = [0; 2];
                for (first, last, rule) in &ranges {
                    if (*first..=*last).contains(&number) {
                        expected[rule / 64] |= 1u64 << (rule % 64);
                    }
                }
                let found = sets.get(intervals.get(number));
                assert_eq!(found, expected, "{number} in {ranges:?}");
            }
        }
    }

    #[test]
    fn neighbours_with_the_same_rules_are_one() {
        let mut sets = SetsBuilder::new(1);
        let halves: [Range<u32>; 2] = [(0, 9, 0), (10, u32::MAX, 0)];
        let intervals = Intervals::new(&halves, &mut sets);
        assert_eq!(intervals.starts, [0]);
        assert_eq!(sets.done().words.len(), 1);
    }
}
