//! Broadcasts that wait to be piggybacked: fewest sent first, then longest, then newest.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map},
};

use bytes::Bytes;

/// A bounded queue of broadcasts, at most one for each key.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    items: BTreeMap<Rank, Item<K>>,
    ranks: BTreeMap<K, Rank>,
    next_id: u64,
    items_max: usize,
    dropped: u64,
}

#[derive(Debug)]
struct Item<K> {
    key: K,
    bytes: Bytes,
}

/// Times sent, then length, then age. Urgent ones (leaving, refuting, own rows) count as sent less than never.
type Rank = (Sent, Reverse<usize>, Reverse<u64>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sent {
    relayed: bool,
    times: u32,
}

impl<K: Ord + Clone> Queue<K> {
    pub(crate) fn new(items_max: usize) -> Self {
        Self {
            items: BTreeMap::new(),
            ranks: BTreeMap::new(),
            next_id: 0,
            items_max,
            dropped: 0,
        }
    }

    /// Queues `bytes`, in place of what was queued for `key`. `own` ones go before those that are relayed.
    pub(crate) fn push(&mut self, key: K, bytes: Bytes, own: bool) {
        self.remove(&key);
        while self.items.len() >= self.items_max.max(1) {
            let Some((_, last)) = self.items.pop_last() else {
                break;
            };
            self.ranks.remove(&last.key);
            self.dropped += 1;
        }
        self.next_id += 1;
        let sent = Sent {
            relayed: !own,
            times: 0,
        };
        let rank = (sent, Reverse(bytes.len()), Reverse(self.next_id));
        self.insert(rank, Item { key, bytes });
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(rank) = self.ranks.remove(key) {
            self.items.remove(&rank);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.ranks.contains_key(key)
    }

    /// Returns how many broadcasts were dropped because the queue was full.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes broadcasts that together need at most `budget` octets, each with `overhead` more, and at most
    /// `parts_max` of them. Each leaves the queue once it was taken `times_max` times.
    pub(crate) fn take(
        &mut self,
        budget: usize,
        overhead: usize,
        parts_max: usize,
        times_max: u32,
    ) -> Vec<Bytes> {
        let (mut taken, mut ranks, mut left) = (Vec::new(), Vec::new(), budget);
        for (rank, item) in &self.items {
            if taken.len() >= parts_max || left <= overhead {
                break;
            }
            let need = item.bytes.len().saturating_add(overhead);
            if let Some(rest) = left.checked_sub(need) {
                left = rest;
                taken.push(item.bytes.clone());
                ranks.push(*rank);
            }
        }
        for rank in ranks {
            self.count(rank, times_max);
        }
        taken
    }

    fn count(&mut self, rank: Rank, times_max: u32) {
        let Some(item) = self.items.remove(&rank) else {
            return;
        };
        self.ranks.remove(&item.key);
        let (mut sent, length, id) = rank;
        sent.times += 1;
        if sent.times < times_max {
            self.insert((sent, length, id), item);
        }
    }

    fn insert(&mut self, rank: Rank, item: Item<K>) {
        if let btree_map::Entry::Vacant(vacant) = self.ranks.entry(item.key.clone()) {
            vacant.insert(rank);
            self.items.insert(rank, item);
        }
    }
}

/// Returns how often a broadcast is sent among `members`: `mult` times ceil(log10(members + 1)) (memberlist), but at
/// least twice for each member up to eight.
///
/// The floor deviates from memberlist: with its four transmissions, a member of a small cluster misses one broadcast in
/// 55 (e^-4) until the next push/pull.
pub(crate) fn retransmits(mult: u32, members: usize) -> u32 {
    let (mut digits, mut power) = (0_u32, 1_usize);
    while power < members.saturating_add(1) {
        power = power.saturating_mul(10);
        digits += 1;
    }
    let floor = u32::try_from(members.min(FLOOR_MEMBERS)).unwrap_or(0) * 2;
    mult.saturating_mul(digits.max(1)).max(floor)
}

const FLOOR_MEMBERS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(items: &[(u32, &'static [u8], bool)]) -> Queue<u32> {
        let mut queue = Queue::new(3);
        for (key, bytes, own) in items {
            queue.push(*key, Bytes::from_static(bytes), *own);
        }
        queue
    }

    #[test]
    fn own_then_fewest_sent_then_longest_then_newest_go_first() {
        let mut queue = queue(&[(1, b"aa", false), (2, b"bb", false), (3, b"c", true)]);
        assert_eq!(queue.take(100, 0, 9, 9), ["c", "bb", "aa"]);
        queue.push(2, Bytes::from_static(b"x"), false);
        assert_eq!(queue.take(3, 0, 9, 9), ["c", "x"]);
        assert_eq!(queue.take(2, 0, 1, 9), ["c"]);
    }

    #[test]
    fn a_broadcast_leaves_after_its_last_transmission() {
        let mut queue = queue(&[(1, b"aa", false)]);
        assert_eq!(queue.take(2, 0, 9, 2).len(), 1);
        assert!(queue.take(2, 1, 9, 2).is_empty(), "overhead counts");
        assert_eq!(queue.take(3, 1, 9, 2).len(), 1);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_full_queue_drops_what_was_sent_most() {
        let mut queue = queue(&[(1, b"a", false), (2, b"b", false), (3, b"c", false)]);
        assert_eq!(queue.take(1, 0, 1, 9), ["c"]);
        queue.push(4, Bytes::from_static(b"d"), false);
        assert_eq!((queue.len(), queue.dropped()), (3, 1));
        assert!(!queue.contains(&3));
    }

    #[test]
    fn retransmissions_grow_with_the_logarithm() {
        let counts = [0, 1, 9, 10, 99, 100, 1_000].map(|members| retransmits(4, members));
        assert_eq!(counts, [4, 4, 16, 16, 16, 16, 16]);
        assert_eq!(retransmits(4, 10_000), 20);
    }
}
