//! A set of addresses that finds the next one that is not in.

mod dense;
mod leaf;
mod snapshot;
mod sparse;

use std::ops::RangeInclusive;

use self::{dense::Dense, sparse::Sparse};

/// A set of the numbers `0..=last`: which addresses of a subnet are taken.
///
/// Leaves of 4,096 addresses hold a bit each and nothing where all are alike. Up to 2^24 addresses (an IPv4 /8) the
/// leaves lie side by side under a bitmap of the full ones; wider sets keep only the leaves in which addresses differ,
/// and runs of full ones. Memory follows what is in, and the next free address is found in O(log n) steps.
///
/// It serializes with each leaf in its shortest form; what is read back is checked.
#[derive(Clone, Debug)]
pub struct AddressSet {
    last: u128,
    /// How many numbers are in; 0 also if that is all 2^128.
    len: u128,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Dense(Dense),
    Sparse(Sparse),
}

impl AddressSet {
    /// Makes an empty set of the numbers `0..=last`.
    pub fn new(last: u128) -> Self {
        let shape = match u32::try_from(last) {
            Ok(last) if last < DENSE_ADDRESSES_MAX => Shape::Dense(Dense::new(last)),
            _ => Shape::Sparse(Sparse::default()),
        };
        Self {
            last,
            len: 0,
            shape,
        }
    }

    /// Adds a number; returns false if it was in already or is larger than [`last`](Self::last).
    pub fn insert(&mut self, number: u128) -> bool {
        let new = number <= self.last
            && match &mut self.shape {
                Shape::Dense(dense) => dense.insert(narrow(number)),
                Shape::Sparse(sparse) => sparse.insert(number),
            };
        self.len = self.len.wrapping_add(new.into());
        new
    }

    /// Removes a number; returns false if it was not in.
    pub fn remove(&mut self, number: u128) -> bool {
        let old = number <= self.last
            && match &mut self.shape {
                Shape::Dense(dense) => dense.remove(narrow(number)),
                Shape::Sparse(sparse) => sparse.remove(number),
            };
        self.len = self.len.wrapping_sub(old.into());
        old
    }

    /// Adds and returns the first number of `range` that is not in, searching from `from` to its end and then from its
    /// start. `from` outside the range means its start.
    ///
    /// First-fit passes the start of the range; next-fit passes what follows the number taken last.
    pub fn take_from(&mut self, range: RangeInclusive<u128>, from: u128) -> Option<u128> {
        let (start, end) = range.into_inner();
        let from = if (start..=end).contains(&from) {
            from
        } else {
            start
        };
        let fits = |number: &u128| *number <= end;
        let number = self.first_clear(from).filter(fits);
        let number = number.or_else(|| self.first_clear(start).filter(fits))?;
        self.insert(number);
        Some(number)
    }

    /// Returns true if the number is in.
    pub fn contains(&self, number: u128) -> bool {
        number <= self.last
            && match &self.shape {
                Shape::Dense(dense) => dense.contains(narrow(number)),
                Shape::Sparse(sparse) => sparse.contains(number),
            }
    }

    /// Returns the first number at or after `from` that is not in.
    pub fn first_clear(&self, from: u128) -> Option<u128> {
        if from > self.last {
            return None;
        }
        let found = match &self.shape {
            Shape::Dense(dense) => dense.first_clear(narrow(from)).map(u128::from),
            Shape::Sparse(sparse) => sparse.first_clear(from),
        };
        found.filter(|number| *number <= self.last)
    }

    /// Returns the first number at or after `from` that is in.
    pub fn first_set(&self, from: u128) -> Option<u128> {
        if from > self.last {
            return None;
        }
        match &self.shape {
            Shape::Dense(dense) => dense.first_set(narrow(from)).map(u128::from),
            Shape::Sparse(sparse) => sparse.first_set(from),
        }
    }

    /// Returns the numbers that are in, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u128> + '_ {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let found = self.first_set(next?)?;
            next = found.checked_add(1);
            Some(found)
        })
    }

    /// Returns the largest number that the set can hold.
    pub const fn last(&self) -> u128 {
        self.last
    }

    /// Returns how many numbers are in; `u128::MAX` also for all 2^128.
    pub fn len(&self) -> u128 {
        if self.len == 0 && !self.is_empty() {
            u128::MAX
        } else {
            self.len
        }
    }

    /// Returns true if no number is in.
    pub fn is_empty(&self) -> bool {
        match &self.shape {
            Shape::Dense(_) => self.len == 0,
            Shape::Sparse(sparse) => sparse.is_empty(),
        }
    }
}

/// Compares the numbers that can be and that are in.
impl PartialEq for AddressSet {
    fn eq(&self, other: &Self) -> bool {
        (self.last, self.len) == (other.last, other.len) && self.iter().eq(other.iter())
    }
}

impl Eq for AddressSet {}

fn narrow(number: u128) -> u32 {
    u32::try_from(number).expect("a dense set is asked for numbers up to its last one only")
}

/// An IPv4 /8. Above, the leaves' array alone would cost more than it saves.
const DENSE_ADDRESSES_MAX: u32 = 1 << 24;
