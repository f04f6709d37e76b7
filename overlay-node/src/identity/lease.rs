//! Signatures on address leases: made by the leader once, checked by whoever hears of the endpoint.

use std::fmt;

use overlay_core::NodeId;
use overlay_gossip::{Lease, LeaseVerifier};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::Pass;
use crate::secret::Secret;

/// Signs leases with the cluster's Ed25519 key. Signatures are deterministic: any leader makes the same one.
pub struct LeaseSigner(Ed25519KeyPair);

impl LeaseSigner {
    /// Makes a signer from the 32 octets in the cluster state; `None` if they are no key.
    pub fn new(seed: &Secret<32>) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed.expose())
            .ok()
            .map(Self)
    }

    /// Signs `lease`, replacing whatever signature it has.
    pub fn sign(&self, lease: &mut Lease) {
        lease.signature = self.0.sign(&lease.signed_bytes()).as_ref().to_vec().into();
    }

    /// Says that a key is a node's, who was let in at this index of the log.
    pub fn pass(&self, cluster: NodeId, node: NodeId, number: u64, key: [u8; 32]) -> Pass {
        let signature = self.0.sign(&Pass::text(cluster, node, number, &key));
        Pass {
            number,
            key,
            signature: signature.as_ref().to_vec().into(),
        }
    }

    /// Returns the key that checks the signatures.
    pub fn public_key(&self) -> LeaseKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        LeaseKey(key)
    }
}

impl fmt::Debug for LeaseSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseSigner(..)")
    }
}

/// Checks signatures on leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LeaseKey([u8; 32]);

impl LeaseKey {
    pub(super) const fn of(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Returns whether the signature of a text is one of this key.
    pub(super) fn checks(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(text, signature)
            .is_ok()
    }
}

impl LeaseVerifier for LeaseKey {
    fn verify(&self, signed: &[u8], signature: &[u8]) -> bool {
        self.checks(signed, signature)
    }
}

#[cfg(test)]
mod tests {
    use overlay_core::{EndpointId, MacAddr, NetworkId, NodeId};

    use super::*;

    #[test]
    fn a_lease_is_taken_with_its_own_signature_only() {
        let signer = |byte| LeaseSigner::new(&Secret::new(vec![byte; 32]).unwrap()).unwrap();
        let key = signer(5).public_key();
        let verifies = |lease: &Lease| key.verify(&lease.signed_bytes(), &lease.signature);
        let mut lease = lease();
        assert!(!verifies(&lease), "unsigned");
        signer(6).sign(&mut lease);
        assert!(!verifies(&lease), "of another cluster");
        signer(5).sign(&mut lease);
        assert!(verifies(&lease));
        let changes: [fn(&mut Lease); 7] = [
            |lease| lease.network = NetworkId::from_bytes([9; 16]),
            |lease| lease.endpoint = EndpointId::from_bytes([9; 16]),
            |lease| lease.node = NodeId::from_bytes([9; 16]),
            |lease| lease.addresses[0] = [10, 0, 1, 9].into(),
            |lease| lease.mac = MacAddr::new([2, 0, 0, 0, 0, 9]),
            |lease| lease.generation += 1,
            |lease| lease.signature = lease.signature[..63].to_vec().into(),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut changed = lease.clone();
            change(&mut changed);
            assert!(!verifies(&changed), "change {at}");
        }
    }

    fn lease() -> Lease {
        Lease {
            network: NetworkId::from_bytes([1; 16]),
            endpoint: EndpointId::from_bytes([2; 16]),
            node: NodeId::from_bytes([3; 16]),
            addresses: vec![[10, 0, 1, 2].into()],
            mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
            generation: 4,
            signature: Vec::new().into(),
        }
    }
}
