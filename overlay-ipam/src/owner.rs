//! Who holds an address.

use std::fmt;

use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId, TaskId};
use serde::{Deserialize, Serialize};

/// The key under which an address is held: 16 octets that the embedder chooses.
///
/// One owner holds at most one address of a subnet, and of a network one of each family, so that a repeated request is answered with the same address.
/// Whoever needs several (a service with a virtual IP and its tasks) uses an owner each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OwnerId([u8; 16]);

impl OwnerId {
    /// Makes an owner from its 16 octets.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 octets.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub(crate) const fn number(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The same text as that of the identity behind it.
        fmt::Display::fmt(&EndpointId::from_bytes(self.0), f)
    }
}

impl fmt::Debug for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerId({})", EndpointId::from_bytes(self.0).short())
    }
}

macro_rules! from_identity {
    ($($name:ident),*) => {$(
        impl From<$name> for OwnerId {
            fn from(id: $name) -> Self {
                Self(*id.as_bytes())
            }
        }
    )*};
}

from_identity!(EndpointId, NetworkId, NodeId, ServiceId, TaskId);
