//! What a node says of itself in gossip, signed: nobody else can say where it is, whatever keys of the cluster they have.
//!
//! A node has an Ed25519 key of its own. When it is let in, a manager signs that the key is the node's (a [`Pass`]); with it,
//! and with the key that checks leases, whoever hears of the node believes what the node signed.

use std::{fmt, net::SocketAddr};

use bytes::Bytes;
use overlay_core::NodeId;
use overlay_gossip::{MemberClaim, MemberVerifier};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};

use super::LeaseKey;
use crate::secret::Secret;

/// The key by which a node signs what it says of itself. Made on the node, and never sent.
pub struct NodeKey(Ed25519KeyPair);

impl NodeKey {
    /// Makes one of 32 octets; `None` if they are no key.
    pub fn new(seed: &Secret<32>) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed.expose())
            .ok()
            .map(Self)
    }

    /// Returns the public half.
    pub fn public(&self) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        key
    }

    fn sign(&self, text: &[u8]) -> Signature {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(self.0.sign(text).as_ref());
        signature
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

/// A manager's word that a key is a node's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// The index of the log at which the node was let in: one that was let in again has a higher one.
    pub number: u64,
    /// The public half of the node's key.
    pub key: [u8; 32],
    /// The signature of a manager.
    pub signature: Bytes,
}

impl Pass {
    /// Returns what a manager signs.
    pub(super) fn text(cluster: NodeId, node: NodeId, number: u64, key: &[u8; 32]) -> Vec<u8> {
        let mut text = b"overlay-pass\0\x01".to_vec();
        text.extend(cluster.as_bytes());
        text.extend(node.as_bytes());
        text.extend(number.to_be_bytes());
        text.extend(key);
        text
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// Where it takes management sessions, if it is a manager. Whoever dials it checks its certificate.
    pub(crate) management_port: Option<u16>,
    /// How often the cluster was rebuilt from a survivor.
    pub(crate) epoch: u64,
    /// Its public key for [key agreement](super::pair) in this life.
    pub(crate) exchange: [u8; 32],
    /// The zone that it is in, empty for none.
    pub(crate) zone: String,
}

/// Counts what a node said of itself: the life it is in, and the number in that life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) life: u64,
    pub(crate) number: u32,
}

impl Said {
    /// Writes what a node says of itself, with its signature.
    pub(crate) fn sign(
        &self,
        signer: &Signer<'_>,
        address: SocketAddr,
        generation: Generation,
    ) -> Vec<u8> {
        let mut meta = vec![VERSION];
        meta.extend(self.management_port.unwrap_or_default().to_be_bytes());
        meta.extend(self.epoch.to_be_bytes());
        meta.extend(self.exchange);
        meta.extend(generation.life.to_be_bytes());
        meta.extend(generation.number.to_be_bytes());
        meta.extend(signer.pass.number.to_be_bytes());
        meta.extend(signer.pass.key);
        meta.extend(&signer.pass.signature);
        meta.extend(self.zone.bytes());
        let name = signer.node.to_string();
        let signature = signer
            .key
            .sign(&text(signer.cluster, &name, address, &meta));
        meta.extend(signature);
        meta
    }

    /// Reads what a node says of itself: nothing if it is of another version. Whether it is true, [`Claims`] has said before.
    pub(crate) fn read(meta: &[u8]) -> Self {
        Parts::read(meta).map_or_else(Self::default, |parts| parts.said())
    }
}

/// Who signs.
pub(crate) struct Signer<'a> {
    pub(crate) cluster: NodeId,
    pub(crate) node: NodeId,
    pub(crate) key: &'a NodeKey,
    pub(crate) pass: &'a Pass,
}

/// Believes of members what they have signed themselves, with a key that a manager says is theirs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claims {
    pub(crate) cluster: NodeId,
    pub(crate) managers: LeaseKey,
}

impl MemberVerifier for Claims {
    fn verify(&self, claim: &MemberClaim<'_>, known: Option<&MemberClaim<'_>>) -> bool {
        let (Some(parts), Ok(node)) = (Parts::read(claim.meta), claim.name.parse()) else {
            return false;
        };
        let before = known.and_then(|known| Parts::read(known.meta));
        if before
            .as_ref()
            .is_some_and(|before| parts.age() < before.age())
        {
            return false;
        }
        let pass = |parts: &Parts<'_>| (*parts.admitted, *parts.key, *parts.pass);
        let is_known = before.is_some_and(|before| pass(&before) == pass(&parts));
        let allowed = || {
            let number = u64::from_be_bytes(*parts.admitted);
            let text = Pass::text(self.cluster, node, number, parts.key);
            self.managers.checks(&text, parts.pass)
        };
        let text = text(self.cluster, claim.name, claim.address, parts.signed);
        (is_known || allowed()) && LeaseKey::of(*parts.key).checks(&text, parts.signature)
    }
}

/// The parts of what a node says of itself.
struct Parts<'a> {
    port: &'a [u8; 2],
    epoch: &'a [u8; 8],
    exchange: &'a [u8; 32],
    life: &'a [u8; 8],
    number: &'a [u8; 4],
    admitted: &'a [u8; 8],
    key: &'a [u8; 32],
    pass: &'a Signature,
    zone: &'a [u8],
    /// Everything in front of the signature.
    signed: &'a [u8],
    signature: &'a Signature,
}

impl<'a> Parts<'a> {
    fn read(meta: &'a [u8]) -> Option<Self> {
        let (signed, signature) = meta.split_last_chunk()?;
        let (&[VERSION], rest) = signed.split_first_chunk()? else {
            return None;
        };
        let (port, rest) = rest.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (exchange, rest) = rest.split_first_chunk()?;
        let (life, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (admitted, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (pass, zone) = rest.split_first_chunk()?;
        Some(Self {
            port,
            epoch,
            exchange,
            life,
            number,
            admitted,
            key,
            pass,
            zone,
            signed,
            signature,
        })
    }

    /// Orders what a node said: by when it was let in, its lives since then, and what it said in each.
    fn age(&self) -> ([u8; 8], [u8; 8], [u8; 4]) {
        (*self.admitted, *self.life, *self.number)
    }

    fn said(&self) -> Said {
        let port = u16::from_be_bytes(*self.port);
        Said {
            management_port: (port != 0).then_some(port),
            epoch: u64::from_be_bytes(*self.epoch),
            exchange: *self.exchange,
            zone: String::from_utf8_lossy(self.zone).into_owned(),
        }
    }
}

/// Returns what a node signs: its name and address, and all that it says besides.
fn text(cluster: NodeId, name: &str, address: SocketAddr, said: &[u8]) -> Vec<u8> {
    let mut text = b"overlay-claim\0\x01".to_vec();
    text.extend(cluster.as_bytes());
    // Of fixed lengths, but for the name, which begins with its own, and what comes last.
    text.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    text.extend(name.bytes());
    let ip = match address.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        std::net::IpAddr::V6(ip) => ip,
    };
    text.extend(ip.octets());
    text.extend(address.port().to_be_bytes());
    text.extend(said);
    text
}

type Signature = [u8; SIGNATURE_BYTES];

const SIGNATURE_BYTES: usize = 64;
/// Of what a node says of itself in gossip.
const VERSION: u8 = 3;

#[cfg(test)]
mod tests {
    use overlay_gossip::Incarnation;

    use super::*;
    use crate::identity::LeaseSigner;

    const CLUSTER: NodeId = NodeId::from_bytes([9; 16]);
    const NODE: NodeId = NodeId::from_bytes([1; 16]);

    struct Lab {
        managers: LeaseSigner,
        key: NodeKey,
        pass: Pass,
    }

    impl Lab {
        fn new() -> Self {
            let secret = |byte| Secret::new(vec![byte; 32]).unwrap();
            let managers = LeaseSigner::new(&secret(5)).unwrap();
            let key = NodeKey::new(&secret(1)).unwrap();
            let pass = managers.pass(CLUSTER, NODE, 7, key.public());
            Self {
                managers,
                key,
                pass,
            }
        }

        fn meta(&self, at: SocketAddr, life: u64, number: u32) -> Vec<u8> {
            let signer = Signer {
                cluster: CLUSTER,
                node: NODE,
                key: &self.key,
                pass: &self.pass,
            };
            said().sign(&signer, at, Generation { life, number })
        }

        fn believes(&self, name: &str, at: SocketAddr, meta: &[u8], known: Option<&[u8]>) -> bool {
            let claim = |meta| MemberClaim {
                name,
                address: at,
                incarnation: Incarnation(1),
                meta,
                versions: Default::default(),
            };
            let claims = Claims {
                cluster: CLUSTER,
                managers: self.managers.public_key(),
            };
            let known = known.map(claim);
            claims.verify(&claim(meta), known.as_ref())
        }
    }

    fn said() -> Said {
        Said {
            management_port: Some(2_377),
            epoch: 3,
            exchange: [7; 32],
            zone: "süd".to_owned(),
        }
    }

    #[test]
    fn what_a_node_signed_is_read_back_and_believed() {
        let lab = Lab::new();
        let at = "192.0.2.1:7946".parse().unwrap();
        let meta = lab.meta(at, 2, 1);
        assert!(meta.len() <= 512, "{} octets", meta.len());
        assert_eq!(Said::read(&meta), said());
        assert!(lab.believes(&NODE.to_string(), at, &meta, None));
        for at in 0..meta.len() {
            let mut changed = meta.clone();
            changed[at] ^= 1;
            let address = "192.0.2.1:7946".parse().unwrap();
            assert!(
                !lab.believes(&NODE.to_string(), address, &changed, None),
                "octet {at}"
            );
        }
        for length in 0..meta.len() {
            assert!(!lab.believes(&NODE.to_string(), at, &meta[..length], None));
            assert!(!lab.believes(&NODE.to_string(), at, &meta[..length], Some(&meta)));
        }
    }

    #[test]
    fn nobody_takes_its_name_or_address() {
        let lab = Lab::new();
        let at = "192.0.2.1:7946".parse().unwrap();
        let meta = lab.meta(at, 2, 1);
        let name = NODE.to_string();
        for other in ["192.0.2.2:7946", "192.0.2.1:7947", "[2001:db8::1]:7946"] {
            assert!(
                !lab.believes(&name, other.parse().unwrap(), &meta, None),
                "{other}"
            );
        }
        let mapped = "[::ffff:192.0.2.1]:7946".parse().unwrap();
        assert!(lab.believes(&name, mapped, &meta, None));
        let other = NodeId::from_bytes([2; 16]).to_string();
        assert!(!lab.believes(&other, at, &meta, None));
        // With a key of its own, and the pass of another one, or none of a manager's.
        let thief = NodeKey::new(&Secret::new(vec![66; 32]).unwrap()).unwrap();
        let signer = |pass| Signer {
            cluster: CLUSTER,
            node: NODE,
            key: &thief,
            pass,
        };
        let generation = Generation { life: 9, number: 9 };
        let stolen = said().sign(&signer(&lab.pass), at, generation);
        assert!(!lab.believes(&name, at, &stolen, Some(&meta)));
        let mut own = lab.pass.clone();
        own.key = thief.public();
        let forged = said().sign(&signer(&own), at, generation);
        assert!(!lab.believes(&name, at, &forged, Some(&meta)));
        // One that a manager signed, but for another node.
        let other = NodeId::from_bytes([2; 16]);
        let pass = lab.managers.pass(CLUSTER, other, 9, thief.public());
        let forged = said().sign(&signer(&pass), at, generation);
        assert!(!lab.believes(&name, at, &forged, None));
    }

    #[test]
    fn what_was_said_earlier_is_not_believed_again() {
        let lab = Lab::new();
        let at = "192.0.2.1:7946".parse().unwrap();
        let name = NODE.to_string();
        let (early, late, next) = (lab.meta(at, 2, 7), lab.meta(at, 2, 8), lab.meta(at, 3, 0));
        let key = NodeKey::new(&Secret::new(vec![2; 32]).unwrap()).unwrap();
        let again = Lab {
            pass: lab.managers.pass(CLUSTER, NODE, 8, key.public()),
            key,
            ..Lab::new()
        };
        let again = again.meta(at, 0, 0);
        for (claim, known, believed) in [
            (&late, &early, true),
            (&early, &late, false),
            (&next, &late, true),
            (&late, &next, false),
            (&again, &next, true),
            (&next, &again, false),
            (&late, &late, true),
        ] {
            assert_eq!(lab.believes(&name, at, claim, Some(known)), believed);
        }
    }
}
