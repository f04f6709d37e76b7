//! A verifier of members for the tests: a keyed hash of name, address, generation and versions in the place of a signature.

use std::{
    collections::{BTreeSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use overlay_gossip::{MemberClaim, MemberVerifier, wire::Versions};

/// Believes what was signed, the newer over the older, but for names that were revoked.
#[derive(Debug, Default)]
pub(crate) struct Signer(Mutex<Asked>);

#[derive(Debug, Default)]
struct Asked {
    times: usize,
    revoked: BTreeSet<String>,
    /// What was answered with yes.
    believed: BTreeSet<(String, SocketAddr)>,
}

/// Returns the meta data that proves a claim: generation, then hash.
pub(crate) fn signed(name: &str, address: SocketAddr, generation: u8) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    (
        "nobody else knows this",
        name,
        address,
        generation,
        SPOKEN.0,
    )
        .hash(&mut hasher);
    let mut meta = vec![generation];
    meta.extend_from_slice(&hasher.finish().to_be_bytes());
    meta
}

#[allow(dead_code, reason = "each test uses a part")]
impl Signer {
    /// Returns how often it was asked so far.
    pub(crate) fn asked(&self) -> usize {
        self.with(|asked| asked.times)
    }

    pub(crate) fn revoke(&self, name: &str) {
        self.with(|asked| asked.revoked.insert(name.to_owned()));
    }

    /// Returns whether it ever believed that the member is there.
    pub(crate) fn believed(&self, name: &str, address: SocketAddr) -> bool {
        self.with(|asked| asked.believed.contains(&(name.to_owned(), address)))
    }

    fn with<R>(&self, what: impl FnOnce(&mut Asked) -> R) -> R {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl MemberVerifier for Signer {
    fn verify(&self, claim: &MemberClaim<'_>, known: Option<&MemberClaim<'_>>) -> bool {
        let generation = |meta: &[u8]| meta.first().copied().unwrap_or(0);
        let new = generation(claim.meta);
        let good = claim.meta == signed(claim.name, claim.address, new)
            && claim.versions == SPOKEN
            && known.is_none_or(|known| generation(known.meta) <= new);
        self.with(|asked| {
            asked.times += 1;
            let good = good && !asked.revoked.contains(claim.name);
            if good {
                let believed = (claim.name.to_owned(), claim.address);
                asked.believed.insert(believed);
            }
            good
        })
    }
}

/// What the members of the tests speak.
pub(crate) const SPOKEN: Versions = Versions([1, 5, 2, 0, 0, 0]);
