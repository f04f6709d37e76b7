//! Numbers kept in an order that their owner knows: what they stand for is compared, not they themselves.

use std::cmp::Ordering;

/// Most numbers of a block.
const BLOCK_MAX: usize = 256;
/// How many places a block grows by.
const GROWTH: usize = 16;

/// A sorted list in blocks: four octets a number, and a change moves no more than a block.
///
/// Every method takes a function that says how the sought place compares with a number of the list, which is less, equal
/// or greater *than what is sought*.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sorted {
    /// None of them is empty.
    blocks: Vec<Vec<u32>>,
}

impl Sorted {
    /// Puts a number into its place; one that compares equal has to be absent.
    pub(crate) fn insert(&mut self, number: u32, compare: impl Fn(u32) -> Ordering) {
        let (block, place) = self.find(compare);
        let (Ok(at) | Err(at)) = place;
        let last = block + 1 >= self.blocks.len();
        let Some(numbers) = self.blocks.get_mut(block) else {
            self.blocks.push(vec![number]);
            return;
        };
        if numbers.len() < BLOCK_MAX {
            insert(numbers, at, number);
        } else if at == numbers.len() && last {
            self.blocks.push(vec![number]); // what comes in order leaves full blocks
        } else {
            let mut upper = numbers.split_off(BLOCK_MAX / 2);
            numbers.shrink_to(BLOCK_MAX / 2 + GROWTH);
            match at.checked_sub(numbers.len()) {
                Some(at) => insert(&mut upper, at, number),
                None => insert(numbers, at, number),
            }
            self.blocks.insert(block + 1, upper);
        }
    }

    /// Takes out the number that compares equal.
    pub(crate) fn remove(&mut self, compare: impl Fn(u32) -> Ordering) {
        let (block, Ok(at)) = self.find(compare) else {
            return;
        };
        let Some(numbers) = self.blocks.get_mut(block) else {
            return;
        };
        numbers.remove(at);
        if numbers.is_empty() {
            self.blocks.remove(block);
            return;
        }
        self.join(block);
        if let Some(before) = block.checked_sub(1) {
            self.join(before);
        }
    }

    /// Returns the number that compares equal.
    pub(crate) fn get(&self, compare: impl Fn(u32) -> Ordering) -> Option<u32> {
        let (block, place) = self.find(compare);
        self.blocks.get(block)?.get(place.ok()?).copied()
    }

    /// Returns the numbers from the first that is not less.
    pub(crate) fn from(&self, compare: impl Fn(u32) -> Ordering) -> impl Iterator<Item = u32> {
        let (block, place) = self.find(compare);
        let (Ok(at) | Err(at)) = place;
        let rest = self.blocks.get(block).and_then(|block| block.get(at..));
        let more = self.blocks.iter().skip(block + 1).flatten();
        rest.into_iter().flatten().chain(more).copied()
    }

    /// Puts a block and the one behind it together if they are small.
    fn join(&mut self, block: usize) {
        let Some([first, second, ..]) = self.blocks.get_mut(block..) else {
            return;
        };
        if first.len() + second.len() <= BLOCK_MAX / 2 {
            first.append(second);
            self.blocks.remove(block + 1);
        }
    }

    /// Finds the block and the place in it; the first block if there is none.
    fn find(&self, compare: impl Fn(u32) -> Ordering) -> (usize, Result<usize, usize>) {
        let begins_before = |block: &Vec<u32>| {
            let first = block.first();
            first.is_some_and(|first| compare(*first) != Ordering::Greater)
        };
        let block = self.blocks.partition_point(begins_before).saturating_sub(1);
        let place = self.blocks.get(block).map_or(Err(0), |numbers| {
            numbers.binary_search_by(|number| compare(*number))
        });
        (block, place)
    }
}

fn insert(numbers: &mut Vec<u32>, at: usize, number: u32) {
    if numbers.len() == numbers.capacity() {
        numbers.reserve_exact(GROWTH);
    }
    numbers.insert(at, number);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use overlay_core::Seed;

    use super::*;

    #[test]
    fn it_does_what_an_ordered_set_does() {
        let (mut sorted, mut model) = (Sorted::default(), BTreeSet::new());
        let mut rng = Seed::from_u64(1).rng();
        for step in 0..20_000_u32 {
            // Grows, shrinks to almost nothing, grows again.
            let inserts = if step / 5_000 % 2 == 0 {
                700_000
            } else {
                250_000
            };
            let number = rng.next_u32() % 3_000;
            let compare = |other: u32| other.cmp(&number);
            if rng.chance(inserts) {
                if model.insert(number) {
                    sorted.insert(number, compare);
                }
            } else {
                let sought = model.range(number..).next().copied().unwrap_or(number);
                sorted.remove(|other| other.cmp(&sought));
                model.remove(&sought);
            }
            assert_eq!(sorted.get(compare), model.get(&number).copied());
            if step % 50 == 0 {
                assert!(sorted.from(compare).eq(model.range(number..).copied()));
                assert!(sorted.from(|_| Ordering::Greater).eq(model.iter().copied()));
                let blocks = &sorted.blocks;
                assert!(
                    blocks
                        .iter()
                        .all(|block| (1..=BLOCK_MAX).contains(&block.len()))
                );
            }
        }
    }

    #[test]
    fn what_comes_in_order_leaves_full_blocks_and_what_goes_leaves_none() {
        let mut sorted = Sorted::default();
        for number in 0..2_000 {
            sorted.insert(number, |other| other.cmp(&number));
        }
        assert_eq!(sorted.blocks.len(), 2_000_usize.div_ceil(BLOCK_MAX));
        for number in 0..2_000_u32 {
            if number % 20 != 0 {
                sorted.remove(|other| other.cmp(&number));
            }
        }
        assert!(sorted.blocks.len() <= 4, "neighbours join");
        for number in (0..2_000).step_by(20) {
            sorted.remove(|other| other.cmp(&number));
        }
        assert!(sorted.blocks.is_empty());
    }
}
