//! The events to come, in the order of their time.

use std::{cmp::Ordering, collections::BinaryHeap};

use overlay_core::Instant;

/// A queue of events; those of one instant come out in the order in which they were put in.
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Entry<E>>,
    pushed: u64,
}

struct Entry<E> {
    at: Instant,
    number: u64,
    event: E,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            pushed: 0,
        }
    }

    pub(crate) fn push(&mut self, at: Instant, event: E) {
        self.pushed += 1;
        self.heap.push(Entry {
            at,
            number: self.pushed,
            event,
        });
    }

    /// Takes out the next event if it is not later than `limit`.
    pub(crate) fn pop(&mut self, limit: Instant) -> Option<(Instant, E)> {
        if self.heap.peek()?.at > limit {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first; the earliest is wanted.
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}
