//! Which way the first fragment of a packet went: only it has the ports.

use std::{net::SocketAddr, time::Duration};

use overlay_core::{Instant, MacAddr, Seed};

use crate::{
    BackendId,
    flows::Packed,
    hash::TableKey,
    index::{Index, NONE},
};

/// A ring of packets: the oldest makes room.
#[derive(Debug)]
pub(crate) struct Fragments {
    ring: Vec<Entry>,
    /// Where the next one goes, once the ring is full.
    next: usize,
    max: usize,
    index: Index,
    key: TableKey,
}

/// What becomes of the later fragments of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Addresses in words.
    pub(crate) source: [u64; 2],
    pub(crate) destination: [u64; 2],
    pub(crate) to: Hop,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// On, to a backend.
    Backend {
        id: BackendId,
        address: SocketAddr,
        mac: Option<MacAddr>,
    },
    /// On, to the client.
    Client,
    /// Back to the port that it came from.
    Hairpin,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Packed,
    since: Instant,
    way: Way,
}

impl Fragments {
    pub(crate) fn new(seed: &Seed, max: u32) -> Self {
        let mut rng = seed.rng();
        Self {
            ring: Vec::new(),
            next: 0,
            max: max as usize,
            index: Index::default(),
            key: TableKey::new([(); 5].map(|()| rng.next_u64())),
        }
    }

    /// Notes the way of a first fragment, in the place of what was known about such a packet.
    pub(crate) fn set(&mut self, key: Packed, way: Way, now: Instant) {
        let entry = Entry {
            key,
            since: now,
            way,
        };
        let known = self.find(&key);
        if known != NONE {
            self.ring[known as usize] = entry;
        } else if self.ring.len() < self.max {
            self.ring.push(entry);
            self.enter(self.ring.len() - 1);
        } else if self.max > 0 {
            let before = self.hash(&self.ring[self.next].key);
            self.index.remove(before, number(self.next));
            self.ring[self.next] = entry;
            self.enter(self.next);
            self.next = (self.next + 1) % self.max;
        }
    }

    /// Returns the way of the packet that a later fragment belongs to.
    pub(crate) fn get(&self, key: &Packed, now: Instant) -> Option<Way> {
        let entry = self.ring.get(self.find(key) as usize)?;
        (now < entry.since + LIFE).then_some(entry.way)
    }

    fn enter(&mut self, at: usize) {
        self.index.insert(self.hash(&self.ring[at].key), number(at));
    }

    fn find(&self, key: &Packed) -> u32 {
        let is_it = |at: u32| self.ring[at as usize].key == *key;
        self.index.find(self.hash(key), is_it).unwrap_or(NONE)
    }

    fn hash(&self, key: &Packed) -> u32 {
        self.key.hash(key.words())
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("the configuration bounds the ring")
}

/// How long a receiver waits for the rest of a packet (RFC 8200 §4.5).
const LIFE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::flows::words_of;

    #[test]
    fn the_oldest_makes_room_and_a_minute_ends_all() {
        let mut fragments = Fragments::new(&Seed::from_u64(1), 3);
        let address = |last: u8| IpAddr::from([10, 0, 1, last]);
        let key = |id| Packed::of_packet(false, [address(1), address(2)].map(words_of), 17, id);
        let way = |last| Way {
            source: words_of(address(1)),
            destination: words_of(address(last)),
            to: Hop::Client,
        };
        let now = Instant::EPOCH;
        for (id, last) in [(1, 1), (2, 2), (2, 3), (3, 4), (4, 5)] {
            fragments.set(key(id), way(last), now);
        }
        let found = [1, 2, 3, 4].map(|id| fragments.get(&key(id), now));
        assert_eq!(found, [None, Some(way(3)), Some(way(4)), Some(way(5))]);
        for id in 5..50 {
            fragments.set(key(id), way(9), now);
        }
        assert_eq!((fragments.ring.len(), fragments.index.len()), (3, 3));
        let late = now + LIFE;
        assert_eq!(fragments.get(&key(49), late), None);
        let before = Instant::from_nanos(late.as_nanos() - 1);
        assert_eq!(fragments.get(&key(49), before), Some(way(9)));
    }

    #[test]
    fn no_room_is_no_memory() {
        let mut fragments = Fragments::new(&Seed::from_u64(1), 0);
        let address = IpAddr::from([10, 0, 1, 1]);
        let key = Packed::of_packet(false, [address; 2].map(words_of), 17, 1);
        let way = Way {
            source: words_of(address),
            destination: words_of(address),
            to: Hop::Client,
        };
        fragments.set(key, way, Instant::EPOCH);
        assert_eq!(fragments.get(&key, Instant::EPOCH), None);
    }
}
