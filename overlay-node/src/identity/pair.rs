//! The keys that two nodes have with each other and with nobody else.
//!
//! Each node makes an X25519 key (RFC 7748) in every life and tells the public half in gossip, signed. Both sides derive the
//! same secrets from it by HKDF with SHA-256 (RFC 5869): one for each direction and each generation of the shared keys. So a
//! third node cannot read what they say to each other, a key is used in one life of both only, and new generations give new
//! keys without a word.

use std::{collections::BTreeMap, fmt};

use overlay_core::{
    NodeId, Seed,
    plane::{PeerKeys, SaKeys},
};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::state::SharedKeys;

/// A node's key in this life, and what was derived with the keys of others.
pub(crate) struct Pairs {
    secret: StaticSecret,
    public: [u8; 32],
    made: BTreeMap<NodeId, Made>,
}

/// What was derived for one peer.
struct Made {
    public: [u8; 32],
    generation: u64,
    keys: PeerKeys,
}

impl Pairs {
    /// Makes the key of this life.
    pub(crate) fn new(seed: &Seed) -> Self {
        let secret = StaticSecret::from(seed.rng().bytes::<32>());
        let public = PublicKey::from(&secret).to_bytes();
        Self {
            secret,
            public,
            made: BTreeMap::new(),
        }
    }

    /// Returns the half that others are told.
    pub(crate) fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Returns the keys of `own` with a peer, whose public half this is; `None` if that is no key of a kind that makes secrets.
    pub(crate) fn keys(
        &mut self,
        cluster: NodeId,
        own: NodeId,
        (peer, public): (NodeId, [u8; 32]),
        shared: &SharedKeys,
    ) -> Option<PeerKeys> {
        let generation = shared.generation;
        let made = self.made.get(&peer);
        let made = made.filter(|made| (made.public, made.generation) == (public, generation));
        if let Some(made) = made {
            return Some(made.keys.clone());
        }
        let agreed = self.secret.diffie_hellman(&PublicKey::from(public));
        // RFC 7748 §6.1: the other's key is of small order.
        if !agreed.was_contributory() {
            return None;
        }
        let salt = Salt::new(HKDF_SHA256, b"overlay-esp\0\x01");
        let secret = salt.extract(agreed.as_bytes());
        let derive = |from: (NodeId, [u8; 32]), to: (NodeId, [u8; 32]), generation: u64| {
            let generation = generation.to_be_bytes();
            let info: [&[u8]; 6] = [
                cluster.as_bytes(),
                from.0.as_bytes(),
                &from.1,
                to.0.as_bytes(),
                &to.1,
                &generation,
            ];
            let mut octets = [0; OCTETS];
            secret.expand(&info, Length).ok()?.fill(&mut octets).ok()?;
            let (key, rest) = octets.split_first_chunk::<16>()?;
            let (salt, rest) = rest.split_first_chunk::<4>()?;
            // The lowest 256 have meanings of their own (RFC 4303 §2.1).
            let spi = u32::from_be_bytes(*rest.first_chunk()?) | SPI_MIN;
            Some(SaKeys::new(spi, *key, *salt))
        };
        let (own, other) = ((own, self.public), (peer, public));
        let (sealing, _) = shared.sealing()?;
        let inbound = shared.generations();
        let keys = PeerKeys {
            outbound: derive(own, other, sealing)?,
            inbound: inbound
                .map(|generation| derive(other, own, generation))
                .collect::<Option<_>>()?,
        };
        let made = Made {
            public,
            generation,
            keys: keys.clone(),
        };
        self.made.insert(peer, made);
        Some(keys)
    }

    /// Forgets what was derived for all others.
    pub(crate) fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.made.retain(|node, _| keep(*node));
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pairs(..)")
    }
}

/// Octets of key, salt and SPI.
const OCTETS: usize = 16 + 4 + 4;
const SPI_MIN: u32 = 0x100;

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        OCTETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn shared(generation: u64) -> SharedKeys {
        let key = Secret::new(vec![0; 16]).unwrap();
        SharedKeys {
            generation,
            gossip: vec![key.clone(), key.clone(), key],
            rotated_unix_ms: 0,
            rotated_at: 0,
            due: 0,
        }
    }

    #[test]
    fn two_nodes_derive_the_same_and_a_third_one_does_not() {
        let cluster = NodeId::from_bytes([9; 16]);
        let nodes = [1, 2, 3].map(|byte| NodeId::from_bytes([byte; 16]));
        let mut pairs = [1, 2, 3].map(|seed| Pairs::new(&Seed::from_u64(seed)));
        let publics = pairs.each_ref().map(Pairs::public);
        let mut keys = |of: usize, with: usize, generation| {
            let peer = (nodes[with], publics[with]);
            let made = pairs[of].keys(cluster, nodes[of], peer, &shared(generation));
            made.unwrap()
        };
        let (one, two) = (keys(0, 1, 3), keys(1, 0, 3));
        assert_eq!(one.inbound.len(), 3);
        assert_eq!(one.outbound, two.inbound[1]);
        assert_eq!(two.outbound, one.inbound[1]);
        assert_ne!(one.outbound, two.outbound);
        // One that missed a change understands, and is understood.
        let late = keys(0, 1, 4);
        assert_eq!(late.inbound[..2], one.inbound[1..]);
        assert!(two.inbound.contains(&late.outbound));
        assert!(late.inbound.contains(&two.outbound));
        let third = keys(2, 1, 3);
        let all = |keys: &PeerKeys| {
            let mut all = keys.inbound.clone();
            all.push(keys.outbound.clone());
            all
        };
        assert!(all(&third).iter().all(|key| !all(&two).contains(key)));
        assert!(all(&one).iter().all(|key| key.spi >= SPI_MIN));
        // Another life of one of them.
        let mut again = Pairs::new(&Seed::from_u64(11));
        let peer = (nodes[1], publics[1]);
        let made = again.keys(cluster, nodes[0], peer, &shared(3)).unwrap();
        assert!(all(&made).iter().all(|key| !all(&one).contains(key)));
    }

    #[test]
    fn a_key_of_small_order_makes_no_secret() {
        let mut pairs = Pairs::new(&Seed::from_u64(1));
        let node = NodeId::from_bytes([1; 16]);
        let keys = pairs.keys(node, node, (node, [0; 32]), &shared(3));
        assert_eq!(keys, None);
    }
}
