//! The associations of one node with its peers.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use overlay_core::{Seed, aead::AeadProvider};

use super::{
    Config, Inbound, KeysError, OpenError, Opened, Outbound, PeerKeys, SealError, Stats,
    cipher::Fingerprint,
    inbound,
    retired::{Direction, Retired},
};
use crate::{frame::Frame, hash::HashKey, outer::Outer, wire::esp::Spi};

/// The associations of one node: one to send with for each peer, and those that may come from it.
///
/// See the [module](super) for what it promises and what is left to its owner.
pub struct Associations {
    config: Config,
    provider: Arc<dyn AeadProvider>,
    peers: HashMap<Address, Peer, HashKey>,
    /// Those of all peers. A key has one use.
    keys: BTreeSet<Fingerprint>,
    retired: Retired,
    stats: Stats,
}

/// An address that is hashed as a word or two.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Address(IpAddr);

struct Peer {
    outbound: Outbound,
    inbound: Vec<Inbound>,
}

impl Associations {
    /// Makes a node without peers. `seed` keys its hash table.
    #[must_use]
    pub fn new(config: Config, provider: Arc<dyn AeadProvider>, seed: &Seed) -> Self {
        Self {
            provider,
            peers: HashMap::with_hasher(HashKey::new(&seed.derive("associations"))),
            keys: BTreeSet::new(),
            retired: Retired::new(config.retired_max),
            stats: Stats::default(),
            config,
        }
    }

    /// Makes these the associations with a peer.
    ///
    /// One whose key and salt were there before goes on, be it under another SPI: its sequence numbers and its window stay.
    /// So does one that was taken away not too long ago ([`Config::retired_max`]). To replace keys without losing a packet:
    /// first every node gets the new inbound ones beside the old, then the new outbound one, and when nothing of the old
    /// can be on its way any more, the old inbound ones are left out.
    ///
    /// # Errors
    ///
    /// [`KeysError`]; nothing changes.
    pub fn set_peer(&mut self, vtep: IpAddr, keys: &PeerKeys) -> Result<(), KeysError> {
        let vtep = Address::of(vtep);
        let mut next = self.make(vtep, keys)?;
        // First what comes back: what goes may drive it out.
        if let Some(sequence) = self.retired.take(next.outbound.fingerprint()) {
            next.outbound.go_on_after(sequence);
        }
        for inbound in &mut next.inbound {
            if let Some(sequence) = self.retired.take(inbound.fingerprint()) {
                inbound.go_on_after(sequence);
            }
        }
        if let Some(before) = self.peers.remove(&vtep) {
            self.replace(before, &mut next);
        }
        self.keys.extend(next.fingerprints());
        self.peers.insert(vtep, next);
        Ok(())
    }

    /// Removes the associations with a peer; returns whether there were any.
    pub fn remove_peer(&mut self, vtep: IpAddr) -> bool {
        let removed = self.peers.remove(&Address::of(vtep));
        let known = removed.is_some();
        if let Some(peer) = removed {
            self.retire(peer);
        }
        known
    }

    /// Makes a VXLAN header and an inner frame the payload of a datagram to UDP port 4500 of a VTEP, in place; see
    /// [`Outbound::seal`].
    ///
    /// # Errors
    ///
    /// [`SealError`], counted; the frame is as it was, and must not be sent.
    pub fn seal(&mut self, vtep: IpAddr, outer: Outer, frame: &mut Frame) -> Result<(), SealError> {
        let octets = frame.len();
        let sealed = match self.peers.get_mut(&Address::of(vtep)) {
            Some(peer) => peer
                .outbound
                .seal(outer.source_port, self.config.data_port, frame),
            None => Err(SealError::NoAssociation),
        };
        self.stats.count_sealed(sealed, octets);
        sealed
    }

    /// Checks and decrypts the payload of a datagram of UDP port 4500, in place: VXLAN header and inner frame are left, for
    /// [`Switch::handle_remote`](crate::Switch::handle_remote) with [`Received::sealed`](crate::Received::sealed); see
    /// [`Inbound::open`]. What has an unknown SPI, or a known one from an address that it is not for, meets no cipher.
    ///
    /// # Errors
    ///
    /// [`OpenError`], counted; what the frame holds is unspecified.
    pub fn open(&mut self, from: IpAddr, frame: &mut Frame) -> Result<Opened, OpenError> {
        let opened = self.open_from(Address::of(from), frame);
        self.stats.received.count(&opened, frame);
        opened
    }

    /// Returns what was counted.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns the association that frames to a VTEP are sent with.
    #[must_use]
    pub fn outbound(&self, vtep: IpAddr) -> Option<&Outbound> {
        Some(&self.peers.get(&Address::of(vtep))?.outbound)
    }

    /// Returns the associations that frames of a VTEP may come with; none if it is unknown.
    #[must_use]
    pub fn inbound(&self, vtep: IpAddr) -> &[Inbound] {
        let peer = self.peers.get(&Address::of(vtep));
        peer.map(|peer| &*peer.inbound).unwrap_or_default()
    }

    /// Returns how many peers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Returns whether there is no peer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    fn open_from(&mut self, from: Address, frame: &mut Frame) -> Result<Opened, OpenError> {
        let header = inbound::header(frame)?;
        let spi = header.spi;
        let peer = self.peers.get_mut(&from);
        let inbound = peer.and_then(|peer| {
            let mut inbound = peer.inbound.iter_mut();
            inbound.find(|inbound| inbound.spi() == spi)
        });
        inbound.ok_or(OpenError::UnknownSpi { spi })?.open_behind(
            &header,
            self.config.data_port,
            frame,
        )
    }

    /// Makes associations of keys that may be a peer's.
    fn make(&self, vtep: Address, keys: &PeerKeys) -> Result<Peer, KeysError> {
        let before = self.peers.get(&vtep);
        let (max, found) = (self.config.inbound_max, keys.inbound.len());
        if before.is_none() && self.peers.len() >= self.config.peers_max {
            let max = self.config.peers_max;
            return Err(KeysError::Peers { max });
        }
        if found > max {
            return Err(KeysError::Inbound { max, found });
        }
        let provider = &*self.provider;
        let peer = Peer {
            outbound: Outbound::new(&keys.outbound, provider)?,
            inbound: keys
                .inbound
                .iter()
                .map(|keys| Inbound::new(keys, provider))
                .collect::<Result<_, _>>()?,
        };
        let mut named = BTreeSet::new();
        let twice = peer.inbound.iter().find(|sa| !named.insert(sa.spi()));
        if let Some(spi) = twice.map(Inbound::spi) {
            return Err(KeysError::SpiTwice { spi });
        }
        let mut used = BTreeSet::new();
        for (direction, spi, key) in peer.all() {
            let is_kept = before.is_some_and(|before| before.has(direction, key));
            let is_taken = self.keys.contains(&key) && !is_kept;
            if is_taken || self.retired.has_other(direction, key) || !used.insert(key) {
                return Err(KeysError::KeyInUse { spi });
            }
        }
        Ok(peer)
    }

    /// Moves what stays from the associations before to the next ones; the others are retired.
    fn replace(&mut self, mut before: Peer, next: &mut Peer) {
        if before.outbound.fingerprint() == next.outbound.fingerprint() {
            before.outbound.rename(next.outbound.spi());
            std::mem::swap(&mut before.outbound, &mut next.outbound);
        }
        for next in &mut next.inbound {
            let key = next.fingerprint();
            let kept = before.inbound.iter_mut().find(|sa| sa.fingerprint() == key);
            if let Some(kept) = kept {
                kept.rename(next.spi());
                std::mem::swap(kept, next);
            }
        }
        // What was swapped for something that stays has sent and seen nothing.
        self.retire(before);
    }

    fn retire(&mut self, peer: Peer) {
        for key in peer.fingerprints() {
            self.keys.remove(&key);
        }
        let Peer { outbound, inbound } = peer;
        self.retired.put(
            outbound.fingerprint(),
            Direction::Outbound,
            outbound.sequence(),
        );
        for inbound in inbound {
            self.retired.put(
                inbound.fingerprint(),
                Direction::Inbound,
                inbound.sequence(),
            );
        }
    }
}

impl Address {
    const fn of(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }
}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            IpAddr::V4(address) => state.write_u32(address.to_bits()),
            IpAddr::V6(address) => {
                let [high, low] = [64, 0].map(|shift| address.to_bits() >> shift);
                let mask = u128::from(u64::MAX);
                let words = [high, low].map(|word| u64::try_from(word & mask));
                words
                    .into_iter()
                    .flatten()
                    .for_each(|word| state.write_u64(word));
            }
        }
    }
}

impl Peer {
    fn all(&self) -> impl Iterator<Item = (Direction, Spi, Fingerprint)> {
        let outbound = &self.outbound;
        let outbound = (Direction::Outbound, outbound.spi(), outbound.fingerprint());
        let inbound = self.inbound.iter();
        let inbound = inbound.map(|sa| (Direction::Inbound, sa.spi(), sa.fingerprint()));
        std::iter::once(outbound).chain(inbound)
    }

    fn fingerprints(&self) -> impl Iterator<Item = Fingerprint> {
        self.all().map(|(.., key)| key)
    }

    fn has(&self, direction: Direction, key: Fingerprint) -> bool {
        self.all()
            .any(|(known, _, found)| (known, found) == (direction, key))
    }
}

impl fmt::Debug for Associations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Associations")
            .field("config", &self.config)
            .field("peers", &self.peers.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
