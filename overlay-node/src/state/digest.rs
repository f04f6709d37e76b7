//! Hashes of what the state holds: 128 bits of each element, summed up.
//!
//! Not cryptographic: it finds managers that disagree, it does not stop somebody who wants a collision. What is hashed is
//! what a snapshot would hold, or a form of it that names each field, so that none can be forgotten.

use std::fmt;

use postcard::ser_flavors::Flavor;
use serde::{Serialize, Serializer};
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
        postcard::serialize_with_flavor(value, Scratch(&mut self.scratch))
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

/// Octets that are written at once, not one by one as serde has it for arrays.
pub(super) struct Octets<'a>(pub(super) &'a [u8]);

impl Serialize for Octets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Where postcard writes.
struct Scratch<'a>(&'a mut Vec<u8>);

impl Flavor for Scratch<'_> {
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

    const GOLDEN: u128 = 0x17ea_71f3_d86e_14d4_dbad_2a84_8e16_ed2b;
}
