//! Members as this node sees them.

use std::{fmt, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::wire::Versions;

/// The name of a member, shared and cheap to clone.
pub type Name = Arc<str>;

/// How often a member renewed its word that it is there. Only the member itself raises it (SWIM §4.2).
///
/// Incarnations are compared as serial numbers (RFC 1982 §3.2): after the last one comes 0. So there is none that cannot
/// be refuted, whatever somebody makes up; memberlist, which compares them as plain numbers, sees no difference before
/// the 2<sup>31</sup>th. `Ord` is that of plain numbers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Incarnation(pub u32);

impl Incarnation {
    /// Returns the next incarnation.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Returns whether this incarnation comes after `other`: by 1 to 2<sup>31</sup> - 1.
    pub const fn is_after(self, other: Self) -> bool {
        let ahead = self.0.wrapping_sub(other.0);
        ahead != 0 && ahead < 1 << 31
    }

    /// Returns the later of two incarnations, `other` if neither is.
    pub(crate) const fn latest(self, other: Self) -> Self {
        if self.is_after(other) { self } else { other }
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is known of a member's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer somebody; it may still refute.
    Suspect,
    /// It did not refute in time. Remembered and retried.
    Down,
    /// It said that it leaves.
    Left,
}

impl MemberState {
    /// Returns whether the member counts as being there: alive or suspect.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }

    /// Returns memberlist's number of the state in push/pull.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Alive => 0,
            Self::Suspect => 1,
            Self::Down => 2,
            Self::Left => 3,
        }
    }

    /// Returns the state of memberlist's number.
    pub(crate) const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Alive),
            1 => Some(Self::Suspect),
            2 => Some(Self::Down),
            3 => Some(Self::Left),
            _ => None,
        }
    }
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, unique in the cluster.
    pub name: Name,
    /// Where it listens, datagrams and streams alike.
    pub address: SocketAddr,
    /// What it says of itself, at most 512 octets.
    pub meta: Bytes,
    /// What is known of its life.
    pub state: MemberState,
    /// Its last known incarnation.
    pub incarnation: Incarnation,
    /// Protocol and delegate versions that it speaks.
    pub versions: Versions,
}
