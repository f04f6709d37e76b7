//! VXLAN network identifiers.

use overlay_core::Vni;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::{AddressSet, digest::Digest};

/// Hands out VXLAN network identifiers: from [`FIRST`](Self::FIRST) on, one after the other, from the start again at the end.
///
/// A released identifier comes back only after the lap, so that late frames of the former network meet nobody. Smaller
/// ones lie in the range of VLAN ids, which some kernels cannot use; they are given on explicit request only.
#[derive(Clone, Debug)]
pub struct VniAllocator {
    used: AddressSet,
    /// Where the search goes on.
    cursor: u32,
    /// Sum of the hashes of all identifiers in use.
    sum: u64,
}

impl VniAllocator {
    /// The first identifier that is chosen: 4096.
    pub const FIRST: Vni = match Vni::new(4096) {
        Some(vni) => vni,
        None => Vni::MAX,
    };

    /// Makes an allocator that has given out nothing.
    pub fn new() -> Self {
        Self {
            used: AddressSet::new(Vni::MAX.get().into()),
            cursor: Self::FIRST.get(),
            sum: 0,
        }
    }

    /// Gives out the next free identifier.
    ///
    /// # Errors
    ///
    /// [`VniError::Exhausted`]; nothing changes.
    pub fn allocate(&mut self) -> Result<Vni, VniError> {
        let range = Self::FIRST.get().into()..=Vni::MAX.get().into();
        let found = self.used.take_from(range, self.cursor.into());
        let vni = found.and_then(|number| Vni::new(u32::try_from(number).ok()?));
        let vni = vni.ok_or(VniError::Exhausted { used: self.len() })?;
        self.cursor = if vni == Vni::MAX {
            Self::FIRST.get()
        } else {
            vni.get() + 1
        };
        self.sum = self.sum.wrapping_add(hash(vni));
        Ok(vni)
    }

    /// Gives out the identifier that is asked for; any of 24 bits.
    ///
    /// # Errors
    ///
    /// [`VniError::Taken`]; nothing changes.
    pub fn reserve(&mut self, vni: Vni) -> Result<(), VniError> {
        if !self.used.insert(vni.get().into()) {
            return Err(VniError::Taken { vni });
        }
        self.sum = self.sum.wrapping_add(hash(vni));
        Ok(())
    }

    /// Takes an identifier back; returns false if it was not given out.
    pub fn release(&mut self, vni: Vni) -> bool {
        let old = self.used.remove(vni.get().into());
        if old {
            self.sum = self.sum.wrapping_sub(hash(vni));
        }
        old
    }

    /// Returns where the search for the next free identifier starts.
    pub const fn next(&self) -> Vni {
        match Vni::new(self.cursor) {
            Some(vni) => vni,
            None => Self::FIRST,
        }
    }

    /// Lets the search start at `next` again: with it, whoever takes back what it was just given leaves no trace. Identifiers
    /// that are not searched count as the first one that is.
    pub fn resume_at(&mut self, next: Vni) {
        self.cursor = next.max(Self::FIRST).get();
    }

    /// Returns true if the identifier is given out.
    pub fn contains(&self, vni: Vni) -> bool {
        self.used.contains(vni.get().into())
    }

    /// Returns the identifiers that are given out, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Vni> + '_ {
        self.used
            .iter()
            .filter_map(|number| Vni::new(u32::try_from(number).ok()?))
    }

    /// Returns how many identifiers are given out.
    pub fn len(&self) -> u32 {
        u32::try_from(self.used.len()).unwrap_or(u32::MAX)
    }

    /// Returns true if no identifier is given out.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// Returns a hash of the whole state: equal on all replicas that applied the same requests.
    pub fn state_hash(&self) -> u64 {
        Digest::new(LABEL)
            .word(self.cursor.into())
            .word(self.sum)
            .finish()
    }
}

impl Default for VniAllocator {
    fn default() -> Self {
        Self::new()
    }
}

/// Compares the identifiers in use and where the search goes on.
impl PartialEq for VniAllocator {
    fn eq(&self, other: &Self) -> bool {
        self.cursor == other.cursor && self.used == other.used
    }
}

impl Eq for VniAllocator {}

/// An identifier could not be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum VniError {
    /// The identifier is in use.
    #[error("VXLAN network identifier {vni} is in use")]
    Taken {
        /// The identifier.
        vni: Vni,
    },
    /// All identifiers are in use.
    #[error("no VXLAN network identifier is free, {used} are in use")]
    Exhausted {
        /// How many are in use.
        used: u32,
    },
}

/// Versions are appended, never changed.
#[derive(Serialize, Deserialize)]
enum Snapshot<S> {
    V1 { used: S, cursor: Vni },
}

impl Serialize for VniAllocator {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (used, cursor) = (&self.used, self.next());
        Snapshot::V1 { used, cursor }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for VniAllocator {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Snapshot::V1 { used, cursor } = Snapshot::<AddressSet>::deserialize(deserializer)?;
        if used.last() != Vni::MAX.get().into() || cursor < Self::FIRST {
            return Err(de::Error::custom("malformed set of network identifiers"));
        }
        let mut allocator = Self {
            used,
            cursor: cursor.get(),
            sum: 0,
        };
        allocator.sum = allocator.iter().map(hash).fold(0, u64::wrapping_add);
        Ok(allocator)
    }
}

fn hash(vni: Vni) -> u64 {
    Digest::new(LABEL).word(vni.get().into()).finish()
}

const LABEL: u64 = 0x766e_6900;
