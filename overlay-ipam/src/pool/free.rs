//! What a pool has left: its largest aligned free blocks (a buddy allocator's index).

use std::collections::BTreeSet;

use crate::prefix::Block;

#[derive(Clone, Debug)]
pub(super) struct Free {
    pool: Block,
    /// (length, base) of each free block. Two halves of one block are never both in.
    blocks: BTreeSet<(u8, u128)>,
}

impl Free {
    pub(super) fn new(pool: Block) -> Self {
        Self {
            pool,
            blocks: BTreeSet::from([(pool.length, pool.base)]),
        }
    }

    /// Returns the lowest free block of `length` that touches none of the `foreign` ranges (ascending, disjoint).
    pub(super) fn lowest(&self, length: u8, foreign: &[(u128, u128)]) -> Option<Block> {
        let mut from = self.pool.base;
        loop {
            let base = self.lowest_from(length, from)?;
            let block = self.block(length, base);
            let next = foreign.partition_point(|range| range.1 < block.base);
            match foreign.get(next) {
                Some((start, end)) if *start <= block.last() => from = end.checked_add(1)?,
                _ => return Some(block),
            }
        }
    }

    /// Takes a block that lies in the pool and is free, or the whole pool if the block covers it.
    pub(super) fn take(&mut self, block: Block) {
        if block.covers(self.pool) {
            self.blocks.clear();
            return;
        }
        let mut holder = block;
        while !self.blocks.remove(&(holder.length, holder.base)) {
            debug_assert!(holder.length > self.pool.length, "{block:?} is not free");
            if holder.length == self.pool.length {
                return;
            }
            holder = self.parent(holder);
        }
        while holder.length < block.length {
            let low = self.block(holder.length + 1, holder.base);
            let high = self.block(holder.length + 1, low.last() + 1);
            let (next, spare) = if low.covers(block) {
                (low, high)
            } else {
                (high, low)
            };
            self.blocks.insert((spare.length, spare.base));
            holder = next;
        }
    }

    /// Gives back a block that was taken.
    pub(super) fn put(&mut self, block: Block) {
        let mut block = if block.covers(self.pool) {
            self.pool
        } else {
            block
        };
        while block.length > self.pool.length {
            let parent = self.parent(block);
            // The other half starts where this one does, or right behind it.
            let buddy = if parent.base == block.base {
                block.last() + 1
            } else {
                parent.base
            };
            if !self.blocks.remove(&(block.length, buddy)) {
                break;
            }
            block = parent;
        }
        self.blocks.insert((block.length, block.base));
    }

    /// Returns the lowest base at or after `from` of a free, aligned block of `length`.
    fn lowest_from(&self, length: u8, from: u128) -> Option<u128> {
        let span = self.block(length, 0).span();
        let from = from.checked_add(span)? & !span;
        let fits = |length: u8| -> Option<u128> {
            let before = self.blocks.range(..=(length, from)).next_back();
            let inside = before.is_some_and(|(found, base)| {
                *found == length && self.block(length, *base).last() >= from
            });
            if inside {
                return Some(from);
            }
            let (found, base) = self.blocks.range((length, from)..).next()?;
            (*found == length).then_some(*base)
        };
        (self.pool.length..=length).filter_map(fits).min()
    }

    fn parent(&self, block: Block) -> Block {
        let span = self.block(block.length - 1, 0).span();
        self.block(block.length - 1, block.base & !span)
    }

    fn block(&self, length: u8, base: u128) -> Block {
        Block {
            family: self.pool.family,
            base,
            length,
        }
    }
}
