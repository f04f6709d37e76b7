//! Several subnets of one network and address family.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::{
    AllocateError, Audit, Lease, OwnerId, ReleaseError, Subnet, SubnetConfig, SubnetError, Usage,
    digest::Digest, prefix::Block,
};

/// The subnets of one network and of one address family, as one: it grows by adding one.
///
/// An owner holds at most one address in all of them. Addresses come from the first subnet, in the order in which they
/// were added, that has one which is neither held nor rests; then from the first that has one which rests. What
/// [`Subnet`] promises of replicas, indexes and refusals holds here, too. A network of both families has two of these: see
/// [`NetworkAddresses`](crate::NetworkAddresses).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subnets {
    subnets: Vec<Subnet>,
}

impl Subnets {
    /// Makes a network without subnets.
    pub const fn new() -> Self {
        Self {
            subnets: Vec::new(),
        }
    }

    /// Adds a subnet.
    ///
    /// # Errors
    ///
    /// See [`SubnetsError`]; nothing changes.
    pub fn add(&mut self, config: SubnetConfig) -> Result<&Subnet, SubnetsError> {
        let prefix = config.prefix;
        let subnet = Subnet::new(config)?;
        self.push(subnet)?;
        let added = self.subnets.last();
        added.ok_or(SubnetsError::Unknown { prefix })
    }

    /// Removes a subnet of which nobody holds an address. If it is added again, its generations begin anew: a release from
    /// before then is no longer told from one of now.
    ///
    /// # Errors
    ///
    /// [`SubnetsError::Unknown`], [`SubnetsError::InUse`]; nothing changes.
    pub fn remove(&mut self, prefix: IpNet) -> Result<(), SubnetsError> {
        let at = self
            .subnets
            .iter()
            .position(|subnet| subnet.prefix() == prefix);
        let at = at.ok_or(SubnetsError::Unknown { prefix })?;
        let subnet = &self.subnets[at];
        if let Some(first) = subnet.leases().next() {
            return Err(SubnetsError::InUse {
                prefix,
                leases: subnet.used(),
                first,
            });
        }
        self.subnets.remove(at);
        Ok(())
    }

    /// Gives `owner` an address, or the one that it holds already; see [`Subnet::allocate`].
    ///
    /// # Errors
    ///
    /// [`AllocateError::NoSubnet`]; [`AllocateError::Exhausted`] of the subnet added last, with the counts of all. Nothing
    /// changes.
    pub fn allocate(&mut self, owner: OwnerId, index: u64) -> Result<Lease, AllocateError> {
        let at = self.source(owner)?;
        self.subnets[at].allocate(owner, index)
    }

    /// Returns why [`allocate`](Self::allocate) would be refused, if so.
    ///
    /// # Errors
    ///
    /// See [`allocate`](Self::allocate).
    pub fn check_allocate(&self, owner: OwnerId) -> Result<(), AllocateError> {
        self.source(owner).map(|_| ())
    }

    /// Gives `owner` the address that it asks for; see [`Subnet::reserve`].
    ///
    /// # Errors
    ///
    /// See [`AllocateError`]; [`AllocateError::Outside`] names the subnet added last. Nothing changes.
    pub fn reserve(
        &mut self,
        owner: OwnerId,
        address: IpAddr,
        index: u64,
    ) -> Result<Lease, AllocateError> {
        let at = self.asked(owner, address)?;
        self.subnets[at].reserve(owner, address, index)
    }

    /// Returns why [`reserve`](Self::reserve) would be refused, if so.
    ///
    /// # Errors
    ///
    /// See [`reserve`](Self::reserve).
    pub fn check_reserve(&self, owner: OwnerId, address: IpAddr) -> Result<(), AllocateError> {
        self.asked(owner, address).map(|_| ())
    }

    /// Takes back what `owner` holds; `None` if that is nothing, and then nothing changes.
    pub fn release_owner(&mut self, owner: OwnerId, index: u64) -> Option<Lease> {
        let at = self.holder(owner)?;
        self.subnets[at].release_owner(owner, index)
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
        let at = self.of(address).ok_or(ReleaseError::Free { address })?;
        self.subnets[at].release(address, generation, index)
    }

    /// Compares the leases with the owners that really live.
    pub fn audit(&self, live: &BTreeSet<OwnerId>) -> Audit {
        Audit::new(self.leases(), live, |owner| self.holder(owner).is_some())
    }

    /// Returns the subnets, in the order in which they were added.
    pub fn subnets(&self) -> impl ExactSizeIterator<Item = &Subnet> {
        self.subnets.iter()
    }

    /// Returns all leases, subnet by subnet.
    pub fn leases(&self) -> impl Iterator<Item = Lease> + '_ {
        self.subnets.iter().flat_map(Subnet::leases)
    }

    /// Returns the lease of `owner`.
    pub fn lease_of(&self, owner: OwnerId) -> Option<Lease> {
        self.subnets
            .iter()
            .find_map(|subnet| subnet.lease_of(owner))
    }

    /// Returns who holds `address`.
    pub fn owner(&self, address: IpAddr) -> Option<OwnerId> {
        self.subnets[self.of(address)?].owner(address)
    }

    /// Returns the counts of all subnets together.
    pub fn usage(&self) -> Usage {
        let usages = self.subnets.iter().map(Subnet::usage);
        usages.fold(Usage::default(), |all, one| Usage {
            capacity: all.capacity.saturating_add(one.capacity),
            chosen: all.chosen.saturating_add(one.chosen),
            explicit: all.explicit.saturating_add(one.explicit),
            resting: all.resting.saturating_add(one.resting),
        })
    }

    /// Returns a hash of the whole state; see [`Subnet::state_hash`].
    pub fn state_hash(&self) -> u64 {
        let hashes = self.subnets.iter().map(Subnet::state_hash);
        hashes.fold(Digest::new(LABEL), Digest::word).finish()
    }

    fn push(&mut self, subnet: Subnet) -> Result<(), SubnetsError> {
        let (prefix, block) = (subnet.prefix(), Block::new(subnet.prefix()));
        if let Some(first) = self.subnets.first()
            && Block::new(first.prefix()).family != block.family
        {
            return Err(SubnetsError::Family { prefix });
        }
        let overlaps = |other: &&Subnet| Block::new(other.prefix()).overlaps(block);
        if let Some(other) = self.subnets.iter().find(overlaps) {
            let with = other.prefix();
            return Err(SubnetsError::Overlap { prefix, with });
        }
        self.subnets.push(subnet);
        Ok(())
    }

    /// Returns the subnet from which `owner` gets an address, or has one.
    fn source(&self, owner: OwnerId) -> Result<usize, AllocateError> {
        let first = |gives: fn(&Subnet) -> bool| self.subnets.iter().position(gives);
        let fresh = || first(|subnet| subnet.available() > subnet.usage().resting);
        let any = || first(|subnet| subnet.available() > 0);
        if let Some(at) = self.holder(owner).or_else(fresh).or_else(any) {
            return Ok(at);
        }
        let last = self.subnets.last().ok_or(AllocateError::NoSubnet)?;
        Err(AllocateError::Exhausted {
            prefix: last.prefix(),
            usage: self.usage(),
        })
    }

    /// Returns the subnet of an address that `owner` asks for and may have, or has.
    fn asked(&self, owner: OwnerId, address: IpAddr) -> Result<usize, AllocateError> {
        let Some(at) = self.of(address) else {
            let last = self.subnets.last().ok_or(AllocateError::NoSubnet)?;
            let prefix = last.prefix();
            return Err(AllocateError::Outside { address, prefix });
        };
        self.subnets[at].check_reserve(owner, address)?;
        match self.lease_of(owner) {
            Some(lease) if lease.address != address => Err(AllocateError::OwnerHolds {
                owner,
                address: lease.address,
            }),
            _ => Ok(at),
        }
    }

    fn holder(&self, owner: OwnerId) -> Option<usize> {
        let holds = |subnet: &Subnet| subnet.lease_of(owner).is_some();
        self.subnets.iter().position(holds)
    }

    fn of(&self, address: IpAddr) -> Option<usize> {
        let covers = |subnet: &Subnet| subnet.prefix().contains(&address);
        self.subnets.iter().position(covers)
    }
}

/// Versions are appended, never changed.
#[derive(Serialize, Deserialize)]
enum Snapshot<S> {
    V1 { subnets: S },
}

impl Serialize for Subnets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let subnets = &self.subnets;
        Snapshot::V1 { subnets }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Subnets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Snapshot::V1 { subnets } = Snapshot::<Vec<Subnet>>::deserialize(deserializer)?;
        let mut restored = Self::new();
        for subnet in subnets {
            let twice = subnet
                .leases()
                .find(|lease| restored.holder(lease.owner).is_some());
            if let Some(lease) = twice {
                let text = format!("{} holds addresses of two subnets", lease.owner);
                return Err(de::Error::custom(text));
            }
            restored.push(subnet).map_err(de::Error::custom)?;
        }
        Ok(restored)
    }
}

/// A subnet could not be added or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubnetsError {
    /// The subnet itself makes no sense.
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    /// The network's other subnets are of the other address family.
    #[error("subnet {prefix} is not of the family of the network's other subnets")]
    Family {
        /// The subnet.
        prefix: IpNet,
    },
    /// The subnet shares addresses with another one of the network.
    #[error("subnet {prefix} overlaps subnet {with}")]
    Overlap {
        /// The subnet.
        prefix: IpNet,
        /// The one that the network has.
        with: IpNet,
    },
    /// The network has no such subnet.
    #[error("the network has no subnet {prefix}")]
    Unknown {
        /// The subnet.
        prefix: IpNet,
    },
    /// Addresses of the subnet are held.
    #[error("{leases} addresses of subnet {prefix} are in use, {} by {} first", first.address, first.owner)]
    InUse {
        /// The subnet.
        prefix: IpNet,
        /// How many are held.
        leases: usize,
        /// The one with the lowest address.
        first: Lease,
    },
}

const LABEL: u64 = 0x0073_7562_6e65_7473;
