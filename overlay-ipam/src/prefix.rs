//! Prefixes and addresses as numbers, one arithmetic for both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::digest::Digest;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// Length of an address, in bits.
    pub(crate) const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    pub(crate) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub(crate) fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(
                u32::try_from(number).expect("numbers of this family come from 32-bit prefixes"),
            )
            .into(),
            Self::V6 => Ipv6Addr::from(number).into(),
        }
    }
}

pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// An aligned range of addresses: a prefix without host bits.
///
/// Ordered by family, then by first address, then the longer range first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Block {
    pub(crate) family: Family,
    pub(crate) base: u128,
    pub(crate) length: u8,
}

impl Block {
    /// Takes the network of `prefix`; host bits are dropped.
    pub(crate) fn new(prefix: IpNet) -> Self {
        Self {
            family: Family::of(prefix.addr()),
            base: number(prefix.network()),
            length: prefix.prefix_len(),
        }
    }

    /// Number of addresses less one, which fits even for `::/0`.
    pub(crate) const fn span(self) -> u128 {
        span(self.family, self.length)
    }

    pub(crate) const fn last(self) -> u128 {
        self.base | self.span()
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        Family::of(address) == self.family && (self.base..=self.last()).contains(&number(address))
    }

    pub(crate) fn covers(self, other: Self) -> bool {
        self.family == other.family && self.base <= other.base && other.last() <= self.last()
    }

    /// Prefixes nest or are disjoint: they overlap if one covers the other.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    pub(crate) fn prefix(self) -> IpNet {
        let wide = "a block's length is at most that of its family";
        match self.family.address(self.base) {
            IpAddr::V4(base) => Ipv4Net::new(base, self.length).expect(wide).into(),
            IpAddr::V6(base) => Ipv6Net::new(base, self.length).expect(wide).into(),
        }
    }

    pub(crate) const fn digest(self, digest: Digest) -> Digest {
        digest
            .word(self.family.bits() as u64)
            .word(self.length as u64)
            .wide(self.base)
    }
}

/// Number of addresses less one of a prefix of `length`.
pub(crate) const fn span(family: Family, length: u8) -> u128 {
    let all = match family {
        Family::V4 => u32::MAX as u128,
        Family::V6 => u128::MAX,
    };
    match all.checked_shr(length as u32) {
        Some(span) => span,
        None => 0,
    }
}
