//! One subnet: its addresses and who holds them.

mod config;
mod error;
mod layout;
mod ledger;
mod rest;
mod snapshot;

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::{
    config::{Order, Quarantine, Reserved, SubnetConfig, SubnetError},
    error::{AllocateError, ReleaseError},
};
use self::{
    layout::Layout,
    ledger::{Ledger, Record},
    rest::Rest,
};
use crate::{AddressSet, OwnerId, digest::Digest};

/// The addresses of one subnet and who holds them.
///
/// Replicas that apply the same requests in the same order hold the same state, to the bit. Each request carries the
/// index of the command that it is part of; one that is lower than that of an earlier request counts as that. What is
/// refused leaves no trace: neither does its index count, nor ends a quarantine by it. The next request that is not
/// refused ends all that are over by then.
#[derive(Clone, Debug)]
pub struct Subnet {
    config: SubnetConfig,
    layout: Layout,
    /// Held and resting addresses.
    taken: AddressSet,
    ledger: Ledger,
    rest: Rest,
    /// How many of the held addresses lie where addresses are chosen from.
    chosen: u128,
    /// Where next-fit goes on.
    cursor: u128,
    /// Generation of the lease given out last.
    generation: u64,
    /// The highest index of a request that was not refused.
    index: u64,
    /// Hash of the configuration.
    origin: u64,
}

impl Subnet {
    /// Makes a subnet of which nobody holds an address.
    ///
    /// # Errors
    ///
    /// See [`SubnetError`].
    pub fn new(config: SubnetConfig) -> Result<Self, SubnetError> {
        let layout = Layout::new(&config)?;
        Ok(Self {
            taken: AddressSet::new(layout.block.span()),
            layout,
            origin: config.digest(),
            config,
            ledger: Ledger::default(),
            rest: Rest::default(),
            chosen: 0,
            cursor: 0,
            generation: 0,
            index: 0,
        })
    }

    /// Gives `owner` an address, or the one that it holds already.
    ///
    /// # Errors
    ///
    /// [`AllocateError::Exhausted`]; nothing changes.
    pub fn allocate(&mut self, owner: OwnerId, index: u64) -> Result<Lease, AllocateError> {
        let held = self.ledger.of(owner);
        if held.is_none() {
            self.check_room()?;
        }
        self.pass(index);
        if let Some(record) = held {
            return Ok(self.lease(record));
        }
        let at = self.choose();
        Ok(self.give(owner, at))
    }

    /// Gives `owner` the address that it asks for; one that rests is given, too.
    ///
    /// # Errors
    ///
    /// See [`AllocateError`]; nothing changes.
    pub fn reserve(
        &mut self,
        owner: OwnerId,
        address: IpAddr,
        index: u64,
    ) -> Result<Lease, AllocateError> {
        let at = self.asked(owner, address)?;
        self.pass(index);
        if let Some(record) = self.ledger.of(owner) {
            return Ok(self.lease(record));
        }
        self.rest.remove(at);
        Ok(self.give(owner, at))
    }

    /// Returns why [`reserve`](Self::reserve) would be refused, if so.
    ///
    /// # Errors
    ///
    /// See [`AllocateError`].
    pub fn check_reserve(&self, owner: OwnerId, address: IpAddr) -> Result<(), AllocateError> {
        self.asked(owner, address).map(|_| ())
    }

    /// Takes back what `owner` holds; `None` if that is nothing, and then nothing changes.
    pub fn release_owner(&mut self, owner: OwnerId, index: u64) -> Option<Lease> {
        let record = self.ledger.of(owner)?;
        self.pass(index);
        Some(self.take_back(record))
    }

    /// Takes back one lease: that of `address` with this generation, so that a late or repeated release cannot take the
    /// address from a later owner.
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
        let record = self.record(address).ok_or(ReleaseError::Free { address })?;
        if record.generation != generation {
            let current = record.generation;
            return Err(ReleaseError::Stale {
                address,
                generation,
                current,
            });
        }
        self.pass(index);
        Ok(self.take_back(record))
    }

    /// Compares the leases with the owners that really live.
    pub fn audit(&self, live: &BTreeSet<OwnerId>) -> Audit {
        Audit::new(self.leases(), live, |owner| self.ledger.of(owner).is_some())
    }

    /// Returns what the subnet was made from.
    pub const fn config(&self) -> &SubnetConfig {
        &self.config
    }

    /// Returns the subnet.
    pub const fn prefix(&self) -> IpNet {
        self.config.prefix
    }

    /// Returns the gateway's address.
    pub fn gateway(&self) -> Option<IpAddr> {
        self.layout.gateway()
    }

    /// Returns all leases, in the order of their addresses.
    pub fn leases(&self) -> impl Iterator<Item = Lease> + '_ {
        self.ledger.iter().map(|record| self.lease(record))
    }

    /// Returns the lease of `owner`.
    pub fn lease_of(&self, owner: OwnerId) -> Option<Lease> {
        self.ledger.of(owner).map(|record| self.lease(record))
    }

    /// Returns who holds `address`.
    pub fn owner(&self, address: IpAddr) -> Option<OwnerId> {
        self.record(address).map(|record| record.owner)
    }

    /// Returns why nobody gets `address`, if so.
    pub fn reserved(&self, address: IpAddr) -> Option<Reserved> {
        self.layout.reserved(self.layout.place(address)?)
    }

    /// Returns how many addresses can still be chosen, those that rest among them.
    pub fn available(&self) -> u128 {
        self.layout.capacity() - self.chosen
    }

    /// Returns how many addresses are held, those asked for outside the range among them.
    pub fn used(&self) -> usize {
        self.ledger.len()
    }

    /// Returns the counts.
    pub fn usage(&self) -> Usage {
        Usage {
            capacity: self.layout.capacity(),
            chosen: self.chosen,
            explicit: self.ledger.len() as u128 - self.chosen,
            resting: self.rest.len() as u128,
        }
    }

    /// Returns a hash of the whole state: equal on all replicas that applied the same requests, and after a snapshot was
    /// restored. Kept along with each change, so asking costs nothing.
    pub fn state_hash(&self) -> u64 {
        let digest = Digest::new(self.origin)
            .wide(self.cursor)
            .word(self.generation);
        let digest = digest.word(self.index).word(self.ledger.sum());
        digest.word(self.rest.sum()).finish()
    }

    /// Returns the place of an address that `owner` asks for and may have, or has.
    fn asked(&self, owner: OwnerId, address: IpAddr) -> Result<u128, AllocateError> {
        let prefix = self.config.prefix;
        let at = self.layout.place(address);
        let at = at.ok_or(AllocateError::Outside { address, prefix })?;
        if let Some(reserved) = self.layout.reserved(at) {
            return Err(AllocateError::Reserved { address, reserved });
        }
        match (self.ledger.at(at), self.ledger.of(owner)) {
            (Some(record), _) if record.owner == owner => Ok(at),
            (Some(Record { owner, .. }), _) => Err(AllocateError::Taken { address, owner }),
            (None, Some(record)) => {
                let address = self.layout.address(record.at);
                Err(AllocateError::OwnerHolds { owner, address })
            }
            (None, None) => Ok(at),
        }
    }

    fn check_room(&self) -> Result<(), AllocateError> {
        match self.available() {
            0 => Err(AllocateError::Exhausted {
                prefix: self.config.prefix,
                usage: self.usage(),
            }),
            _ => Ok(()),
        }
    }

    /// Notes the index, and frees what has rested for long enough.
    fn pass(&mut self, index: u64) {
        self.index = self.index.max(index);
        while let Some(at) = self.rest.pop_due(self.config.quarantine, self.index) {
            self.taken.remove(at);
        }
    }

    /// Chooses one of the available addresses, of which there must be one.
    fn choose(&mut self) -> u128 {
        let from = match self.config.order {
            Order::NextFit => self.cursor,
            Order::FirstFit => 0,
        };
        let free = self.free_from(from).or_else(|| self.free_from(0));
        let at = free
            .or_else(|| self.rest.pop())
            .expect("an available address is free or rests");
        let last = self.layout.block.span();
        self.cursor = if at == last { 0 } else { at + 1 };
        at
    }

    /// Returns the first address at or after `from` that may be chosen and is neither held nor resting.
    fn free_from(&self, mut from: u128) -> Option<u128> {
        loop {
            let (start, end) = self.layout.dynamic_from(from)?;
            from = self.taken.first_clear(start)?;
            if from <= end {
                return Some(from);
            }
        }
    }

    fn give(&mut self, owner: OwnerId, at: u128) -> Lease {
        self.generation = (self.generation + 1).min(GENERATION_MAX);
        let generation = self.generation;
        let record = Record {
            owner,
            at,
            generation,
        };
        self.hold(record);
        self.lease(record)
    }

    fn hold(&mut self, record: Record) {
        self.taken.insert(record.at);
        self.chosen += u128::from(self.layout.is_dynamic(record.at));
        self.ledger.insert(record);
    }

    fn take_back(&mut self, record: Record) -> Lease {
        self.ledger.remove(record.at);
        let dynamic = self.layout.is_dynamic(record.at);
        self.chosen -= u128::from(dynamic);
        if dynamic {
            self.rest.push(record.at, self.index);
            self.pass(self.index);
        } else {
            // Nobody gets it unasked.
            self.taken.remove(record.at);
        }
        self.lease(record)
    }

    fn record(&self, address: IpAddr) -> Option<Record> {
        self.ledger.at(self.layout.place(address)?)
    }

    fn lease(&self, record: Record) -> Lease {
        Lease {
            address: self.layout.address(record.at),
            owner: record.owner,
            generation: record.generation,
        }
    }
}

/// Compares the states, as [`state_hash`](Subnet::state_hash) does, but every octet of them.
impl PartialEq for Subnet {
    fn eq(&self, other: &Self) -> bool {
        let numbers = |subnet: &Self| (subnet.cursor, subnet.generation, subnet.index);
        numbers(self) == numbers(other)
            && self.config == other.config
            && self.ledger.iter().eq(other.ledger.iter())
            && self.rest.iter().eq(other.rest.iter())
    }
}

impl Eq for Subnet {}

/// Where counting ends. No count of real leases comes near it, only a state that was made up.
const GENERATION_MAX: u64 = u64::MAX >> 1;

/// An address and who holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    /// Who holds it.
    pub owner: OwnerId,
    /// Which of the subnet's leases this is: 1 for the first, higher for each later one.
    pub generation: u64,
}

/// How many addresses of a subnet are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Addresses that may be chosen: the range less what is reserved.
    pub capacity: u128,
    /// Those of them that are held.
    pub chosen: u128,
    /// Held addresses outside of the range, which were asked for.
    pub explicit: u128,
    /// Released addresses that rest. They can be chosen, after all others.
    pub resting: u128,
}

impl Usage {
    /// Returns how many addresses can still be chosen, those that rest among them.
    pub const fn available(&self) -> u128 {
        self.capacity.saturating_sub(self.chosen)
    }

    /// Forecasts after how many more units (indexes, seconds) no address will be available, if they go on being used up
    /// as in the last `elapsed` of them, since the counts were `earlier`. `None` if they do not become fewer.
    ///
    /// Zero says that there is none now. Capacity that was added meanwhile is not taken for addresses given back.
    pub fn exhausted_in(&self, earlier: &Self, elapsed: u64) -> Option<u64> {
        let left = self.available();
        if left == 0 {
            return Some(0);
        }
        let used = self
            .chosen
            .checked_sub(earlier.chosen)
            .filter(|used| *used > 0)?;
        // Of wide numbers the lower halves are left out, which is at most a unit.
        let (elapsed, rest) = (u128::from(elapsed), left % used);
        let part = match rest.checked_mul(elapsed) {
            Some(product) => product / used,
            None => (rest >> 64) * elapsed / (used >> 64),
        };
        let units = (left / used).saturating_mul(elapsed).saturating_add(part);
        // At least one: while some are left, it is not now.
        Some(u64::try_from(units).unwrap_or(u64::MAX).max(1))
    }
}

/// How the leases differ from the owners that really live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Leases whose owner does not live: leaked addresses.
    pub orphaned: Vec<Lease>,
    /// Owners that live and hold no address.
    pub missing: Vec<OwnerId>,
}

impl Audit {
    pub(crate) fn new(
        leases: impl Iterator<Item = Lease>,
        live: &BTreeSet<OwnerId>,
        holds: impl Fn(OwnerId) -> bool,
    ) -> Self {
        let missing = live.iter().copied().filter(|owner| !holds(*owner));
        Self {
            orphaned: leases
                .filter(|lease| !live.contains(&lease.owner))
                .collect(),
            missing: missing.collect(),
        }
    }
}
