//! Which addresses are virtual: what each frame is asked first.

use std::net::IpAddr;

use overlay_core::Seed;

use crate::{
    flows::Packed,
    hash::TableKey,
    index::{Index, NONE},
};

/// A set of addresses that counts how often each is in.
#[derive(Debug)]
pub(crate) struct Addresses {
    slots: Vec<(IpAddr, u32)>,
    free: Vec<u32>,
    index: Index,
    key: TableKey,
}

impl Addresses {
    pub(crate) fn new(seed: &Seed) -> Self {
        let mut rng = seed.rng();
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            index: Index::default(),
            key: TableKey::new([(); 5].map(|()| rng.next_u64())),
        }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.find(address) != NONE
    }

    pub(crate) fn add(&mut self, address: IpAddr) {
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
    }

    /// Removes an address once.
    pub(crate) fn remove(&mut self, address: IpAddr) {
        let at = self.find(address);
        if at == NONE {
            return;
        }
        let count = &mut self.slots[at as usize].1;
        *count -= 1;
        if *count == 0 {
            self.index.remove(self.hash(address), at);
            self.free.push(at);
        }
    }

    fn find(&self, address: IpAddr) -> u32 {
        let is_it = |at: u32| self.slots[at as usize].0 == address;
        self.index.find(self.hash(address), is_it).unwrap_or(NONE)
    }

    fn hash(&self, address: IpAddr) -> u32 {
        self.key
            .hash(Packed::of_packet(address, address, 0, 0).words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_until_it_was_removed_as_often_as_added() {
        let mut set = Addresses::new(&Seed::from_u64(1));
        let address = |last: u8| IpAddr::from([10, 0, 1, last]);
        for last in 0..200 {
            set.add(address(last));
            set.add(address(last / 2));
        }
        for last in 0..200 {
            set.remove(address(last));
            assert_eq!(set.contains(address(last)), last < 100);
        }
        set.remove(address(150));
        assert!(!set.contains("::ffff:10.0.1.1".parse().unwrap()));
        (0..100)
            .flat_map(|last| [last, last])
            .for_each(|last| set.remove(address(last)));
        assert_eq!((set.index.len(), set.free.len()), (0, 200));
    }
}
