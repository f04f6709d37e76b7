//! Hashes of what the state holds: 128 bits of each element, summed up.
//!
//! Not cryptographic: it finds managers that disagree, it does not stop somebody who wants a collision. What is hashed is
//! what a snapshot would hold, so that a field which is stored cannot be forgotten here.

use std::fmt;

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use twox_hash::XxHash3_128;

/// Hashes values by the octets that they are stored as.
#[derive(Default)]
pub(super) struct Hasher {
    /// Kept from one value to the next, so that hashing allocates nothing.
    scratch: Vec<u8>,
}

impl Hasher {
    pub(super) fn hash(&mut self, value: &impl Serialize) -> u128 {
        self.scratch.clear();
        postcard::serialize_with_flavor(value, Octets(&mut self.scratch))
            .expect("every part of the state serializes");
        XxHash3_128::oneshot(&self.scratch)
    }

    /// Overwrites what the last value left behind.
    pub(super) fn wipe(&mut self) {
        self.scratch.fill(0);
        // Keeps the writes above from being left out as dead.
        std::hint::black_box(&self.scratch);
    }
}

/// A copy starts with nothing: what was hashed is of no use to it.
impl Clone for Hasher {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher(..)")
    }
}

/// Where postcard writes.
struct Octets<'a>(&'a mut Vec<u8>);

impl Flavor for Octets<'_> {
    type Output = ();

    fn try_extend(&mut self, octets: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(octets);
        Ok(())
    }

    fn try_push(&mut self, octet: u8) -> postcard::Result<()> {
        self.0.push(octet);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_never_change() {
        let mut hasher = Hasher::default();
        // XXH3_128bits of nothing, of the reference implementation with seed 0.
        assert_eq!(hasher.hash(&()), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f);
        assert_eq!(hasher.hash(&(1_u8, "a")), GOLDEN);
    }

    #[test]
    fn what_was_hashed_is_not_printed_and_can_be_wiped() {
        let mut hasher = Hasher::default();
        hasher.hash(&"secret");
        assert_eq!(format!("{hasher:?}"), "Hasher(..)");
        hasher.wipe();
        assert!(hasher.scratch.iter().all(|octet| *octet == 0));
    }

    const GOLDEN: u128 = 0;
}
