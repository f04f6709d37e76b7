//! Which addresses are virtual: what each frame is asked first.

use std::net::IpAddr;

use overlay_core::Seed;

use crate::{
    flows::{Packed, words_of},
    hash::TableKey,
    index::{Index, NONE},
};

/// A set of addresses that counts how often each is in.
#[derive(Debug)]
pub(crate) struct Addresses {
    slots: Vec<(Key, u32)>,
    free: Vec<u32>,
    index: Index,
    key: TableKey,
    /// How many there are of each of a few kinds: most frames are told apart by it alone.
    kinds: Box<[u16; KINDS]>,
}

/// An address in words, and whether it is IPv6.
type Key = ([u64; 2], bool);

impl Addresses {
    pub(crate) fn new(seed: &Seed) -> Self {
        let mut rng = seed.rng();
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            index: Index::default(),
            key: TableKey::new([(); 5].map(|()| rng.next_u64())),
            kinds: Box::new([0; KINDS]),
        }
    }

    /// Whether an address may be in; quick, and now and then wrong.
    #[inline]
    pub(crate) fn may_contain(&self, words: [u64; 2]) -> bool {
        self.kinds[kind(words)] > 0
    }

    #[inline]
    pub(crate) fn contains(&self, words: [u64; 2], v6: bool) -> bool {
        self.may_contain(words) && self.find((words, v6)) != NONE
    }

    pub(crate) fn add(&mut self, address: IpAddr) {
        let address = (words_of(address), address.is_ipv6());
        let at = self.find(address);
        if at != NONE {
            self.slots[at as usize].1 += 1;
            return;
        }
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = (address, 1);
                at
            }
            None => {
                self.slots.push((address, 1));
                u32::try_from(self.slots.len() - 1).expect("the configuration bounds the addresses")
            }
        };
        self.index.insert(self.hash(address), at);
        let count = &mut self.kinds[kind(address.0)];
        *count = count.saturating_add(1);
    }

    /// Removes an address once.
    pub(crate) fn remove(&mut self, address: IpAddr) {
        let address = (words_of(address), address.is_ipv6());
        let at = self.find(address);
        if at == NONE {
            return;
        }
        let count = &mut self.slots[at as usize].1;
        *count -= 1;
        if *count == 0 {
            self.index.remove(self.hash(address), at);
            self.free.push(at);
            // One that was ever full stays: which is safe.
            let count = &mut self.kinds[kind(address.0)];
            *count -= u16::from(*count < u16::MAX);
        }
    }

    fn find(&self, address: Key) -> u32 {
        let is_it = |at: u32| self.slots[at as usize].0 == address;
        self.index.find(self.hash(address), is_it).unwrap_or(NONE)
    }

    fn hash(&self, (words, v6): Key) -> u32 {
        let key = Packed::of_packet(v6, [words; 2], 0, 0);
        self.key.hash(key.words())
    }
}

/// Fibonacci hashing (Knuth, TAOCP 3 §6.4) of both words.
#[inline]
fn kind([high, low]: [u64; 2]) -> usize {
    let product = (high ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(product >> 54).unwrap_or_default() % KINDS
}

const KINDS: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_until_it_was_removed_as_often_as_added() {
        let mut set = Addresses::new(&Seed::from_u64(1));
        let address = |last: u8| IpAddr::from([10, 0, 1, last]);
        let contains =
            |set: &Addresses, address| set.contains(words_of(address), address.is_ipv6());
        for last in 0..200 {
            set.add(address(last));
            set.add(address(last / 2));
        }
        for last in 0..200 {
            set.remove(address(last));
            assert_eq!(contains(&set, address(last)), last < 100);
        }
        set.remove(address(150));
        let other = "::10.0.1.1".parse().unwrap();
        assert!(!contains(&set, other));
        assert!(set.may_contain(words_of(other)));
        (0..100)
            .flat_map(|last| [last, last])
            .for_each(|last| set.remove(address(last)));
        assert_eq!((set.index.len(), set.free.len()), (0, 200));
        assert!(set.kinds.iter().all(|count| *count == 0));
    }
}
