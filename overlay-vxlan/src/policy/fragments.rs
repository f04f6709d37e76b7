//! Packets whose first fragment passed: only that has the ports.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use overlay_core::{Instant, Seed};

use super::packet::Packet;
use crate::hash::HashKey;

/// For how long a packet may be in fragments (RFC 8200 §4.5).
pub(super) const LIFE: Duration = Duration::from_secs(60);

/// What tells packets in fragments apart: IPv6 leaves the protocol out, because later fragments may name an extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    identification: u32,
}

/// A ring of packets: the oldest makes room.
#[derive(Debug)]
pub(super) struct Fragments {
    ring: Vec<Entry>,
    /// Where the next one goes once the ring is full.
    next: usize,
    max: usize,
    places: HashMap<Key, usize, HashKey>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Key,
    since: Instant,
}

impl Fragments {
    pub(super) fn new(seed: &Seed, max: u32) -> Self {
        Self {
            ring: Vec::new(),
            next: 0,
            max: usize::try_from(max).unwrap_or(usize::MAX),
            places: HashMap::with_hasher(HashKey::new(seed)),
        }
    }

    /// Notes that a first fragment passed.
    pub(super) fn note(&mut self, now: Instant, packet: &Packet) {
        let Some(key) = Key::of(packet) else {
            return;
        };
        let entry = Entry { key, since: now };
        if let Some(known) = self.places.get(&key) {
            self.ring[*known] = entry;
            return;
        }
        if self.max == 0 {
            return;
        }
        let at = self.next;
        match self.ring.get_mut(at) {
            Some(oldest) => {
                self.places.remove(&oldest.key);
                *oldest = entry;
            }
            None => self.ring.push(entry),
        }
        self.places.insert(key, at);
        self.next = (at + 1) % self.max;
    }

    /// Returns whether the first fragment of the packet passed.
    pub(super) fn has(&self, now: Instant, packet: &Packet) -> bool {
        let Some(at) = Key::of(packet).and_then(|key| self.places.get(&key)) else {
            return false;
        };
        now < self.ring[*at].since + LIFE
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.ring.clear();
        self.places.clear();
        self.next = 0;
    }
}

impl Key {
    fn of(packet: &Packet) -> Option<Self> {
        Some(Self {
            from: packet.from,
            to: packet.to,
            protocol: if packet.from.is_ipv4() {
                packet.protocol.0
            } else {
                0
            },
            identification: packet.identification?,
        })
    }
}
