//! The subnets of one network, of both address families.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    AllocateError, Audit, Lease, OwnerId, ReleaseError, Subnet, SubnetConfig, Subnets,
    SubnetsError, digest::Digest,
};

/// The addresses of one network: [`Subnets`] of IPv4 and of IPv6, of which an owner gets one address each.
///
/// A network that has subnets of one family only gives addresses of that one. It grows by [`add`](Self::add), by a subnet
/// of a family that it has or of the other one: owners of before get their address of that with the next request. What
/// [`Subnet`] promises of replicas, indexes and refusals holds here, too: a request that one family refuses leaves no
/// trace in the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkAddresses {
    v4: Subnets,
    v6: Subnets,
}

/// What an owner holds in a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    /// Its IPv4 address.
    pub v4: Option<Lease>,
    /// Its IPv6 address.
    pub v6: Option<Lease>,
}

impl NetworkAddresses {
    /// Makes a network without subnets.
    pub const fn new() -> Self {
        Self {
            v4: Subnets::new(),
            v6: Subnets::new(),
        }
    }

    /// Adds a subnet, behind the others of its family.
    ///
    /// # Errors
    ///
    /// See [`SubnetsError`]; nothing changes.
    pub fn add(&mut self, config: SubnetConfig) -> Result<&Subnet, SubnetsError> {
        self.family_mut(config.prefix.addr()).add(config)
    }

    /// Removes a subnet of which nobody holds an address.
    ///
    /// # Errors
    ///
    /// [`SubnetsError::Unknown`], [`SubnetsError::InUse`]; nothing changes.
    pub fn remove(&mut self, prefix: IpNet) -> Result<(), SubnetsError> {
        self.family_mut(prefix.addr()).remove(prefix)
    }

    /// Gives `owner` one address of each family that the network has: those `asked` for, and chosen ones of the other
    /// families. What it holds already it keeps.
    ///
    /// # Errors
    ///
    /// See [`AllocateError`]: of the first of the asked that is refused, then of a family that has none left. Nothing
    /// changes.
    pub fn allocate(
        &mut self,
        owner: OwnerId,
        asked: &[IpAddr],
        index: u64,
    ) -> Result<Leases, AllocateError> {
        self.check(owner, asked)?;
        let give = |subnets: &mut Subnets, is_v4| {
            let address = asked.iter().find(|address| address.is_ipv4() == is_v4);
            match address {
                Some(address) => subnets.reserve(owner, *address, index).map(Some),
                None if subnets.subnets().len() == 0 => Ok(None),
                None => subnets.allocate(owner, index).map(Some),
            }
        };
        Ok(Leases {
            v4: give(&mut self.v4, true)?,
            v6: give(&mut self.v6, false)?,
        })
    }

    /// Returns why [`allocate`](Self::allocate) would be refused, if so.
    ///
    /// # Errors
    ///
    /// See [`allocate`](Self::allocate).
    pub fn check(&self, owner: OwnerId, asked: &[IpAddr]) -> Result<(), AllocateError> {
        for (at, address) in asked.iter().enumerate() {
            let same = |other: &&IpAddr| other.is_ipv4() == address.is_ipv4();
            if let Some(other) = asked[..at].iter().find(same) {
                return Err(AllocateError::TwoOfAFamily {
                    address: *address,
                    other: *other,
                });
            }
            self.family(*address).check_reserve(owner, *address)?;
        }
        if self.subnets().next().is_none() {
            return Err(AllocateError::NoSubnet);
        }
        for (subnets, is_v4) in [(&self.v4, true), (&self.v6, false)] {
            let is_asked = asked.iter().any(|address| address.is_ipv4() == is_v4);
            if !is_asked && subnets.subnets().len() > 0 {
                subnets.check_allocate(owner)?;
            }
        }
        Ok(())
    }

    /// Takes back all that `owner` holds. If that is nothing, nothing changes.
    pub fn release_owner(&mut self, owner: OwnerId, index: u64) -> Leases {
        Leases {
            v4: self.v4.release_owner(owner, index),
            v6: self.v6.release_owner(owner, index),
        }
    }

    /// Takes back one lease; see [`Subnet::release`].
    ///
    /// # Errors
    ///
    /// See [`ReleaseError`]; nothing changes.
    pub fn release(
        &mut self,
        address: IpAddr,
        generation: u64,
        index: u64,
    ) -> Result<Lease, ReleaseError> {
        self.family_mut(address).release(address, generation, index)
    }

    /// Compares the leases with the owners that really live. An owner is missing if it lacks an address of a family that the
    /// network has, so that [`allocate`](Self::allocate) would give it one.
    pub fn audit(&self, live: &BTreeSet<OwnerId>) -> Audit {
        let families = [&self.v4, &self.v6];
        Audit::new(self.leases(), live, |owner| {
            let lacks = |subnets: &&Subnets| {
                subnets.subnets().len() > 0 && subnets.lease_of(owner).is_none()
            };
            !families.iter().any(lacks)
        })
    }

    /// Returns the subnets of IPv4.
    pub const fn v4(&self) -> &Subnets {
        &self.v4
    }

    /// Returns the subnets of IPv6.
    pub const fn v6(&self) -> &Subnets {
        &self.v6
    }

    /// Returns all subnets, those of IPv4 first.
    pub fn subnets(&self) -> impl Iterator<Item = &Subnet> {
        self.v4.subnets().chain(self.v6.subnets())
    }

    /// Returns all leases, subnet by subnet.
    pub fn leases(&self) -> impl Iterator<Item = Lease> + '_ {
        self.v4.leases().chain(self.v6.leases())
    }

    /// Returns what `owner` holds.
    pub fn leases_of(&self, owner: OwnerId) -> Leases {
        Leases {
            v4: self.v4.lease_of(owner),
            v6: self.v6.lease_of(owner),
        }
    }

    /// Returns who holds `address`.
    pub fn owner(&self, address: IpAddr) -> Option<OwnerId> {
        self.family(address).owner(address)
    }

    /// Returns a hash of the whole state; see [`Subnet::state_hash`].
    pub fn state_hash(&self) -> u64 {
        let digest = Digest::new(LABEL).word(self.v4.state_hash());
        digest.word(self.v6.state_hash()).finish()
    }

    fn family(&self, address: IpAddr) -> &Subnets {
        if address.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        }
    }

    fn family_mut(&mut self, address: IpAddr) -> &mut Subnets {
        if address.is_ipv4() {
            &mut self.v4
        } else {
            &mut self.v6
        }
    }
}

impl Leases {
    /// Returns the leases, that of IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = Lease> + use<> {
        self.v4.into_iter().chain(self.v6)
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}

/// Versions are appended, never changed.
#[derive(Serialize, Deserialize)]
enum Snapshot<S> {
    V1 { v4: S, v6: S },
}

impl Serialize for NetworkAddresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { v4, v6 } = self;
        Snapshot::V1 { v4, v6 }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NetworkAddresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Snapshot::V1 { v4, v6 } = Snapshot::<Subnets>::deserialize(deserializer)?;
        let restored = Self { v4, v6 };
        for (subnets, is_v4) in [(&restored.v4, true), (&restored.v6, false)] {
            let mut subnets = subnets.subnets();
            if subnets.any(|subnet| subnet.prefix().addr().is_ipv4() != is_v4) {
                return Err(de::Error::custom(
                    "a subnet is among those of the other family",
                ));
            }
        }
        Ok(restored)
    }
}

const LABEL: u64 = 0x6e65_7477_6f72_6b00;
