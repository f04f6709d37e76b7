//! The addresses that something gets on a network: one of each family that the network has.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::{EndpointId, MacAddr};
use overlay_ipam::AllocateError;

use super::{CommandError, NetworkRecord, node::owner};

/// Addresses that can be had, not yet taken: the place of each one's subnet, and which address if that was asked for.
#[derive(Debug)]
pub(super) struct Choice(Vec<(usize, Option<IpAddr>)>);

impl NetworkRecord {
    /// Finds addresses for an owner: those that are `asked` for, and any of the families that are not. What the owner has in
    /// a subnet it gets again.
    pub(super) fn choose(&self, id: &[u8; 16], asked: &[IpAddr]) -> Result<Choice, CommandError> {
        let mut chosen = Vec::new();
        for address in asked {
            let (at, subnet) = self.subnet_of(*address)?;
            let same = |other: &IpAddr| other.is_ipv4() == address.is_ipv4();
            if asked.iter().filter(|other| same(other)).count() > 1 {
                let text = "another one of its family is asked for, too".to_owned();
                return Err(self.unusable(*address, text));
            }
            match subnet.owner(*address) {
                Some(other) if other != owner(id) => {
                    return Err(CommandError::AddressInUse {
                        address: *address,
                        network: self.name.clone(),
                    });
                }
                _ => {}
            }
            if let Some(reserved) = subnet.reserved(*address) {
                let address = *address;
                let error = AllocateError::Reserved { address, reserved };
                return Err(self.unusable(address, error.to_string()));
            }
            if let Some(held) = subnet.lease_of(owner(id))
                && held.address != *address
            {
                let (owner, held) = (owner(id), held.address);
                let error = AllocateError::OwnerHolds {
                    owner,
                    address: held,
                };
                return Err(self.unusable(*address, error.to_string()));
            }
            chosen.push((at, Some(*address)));
        }
        for v4 in [true, false] {
            let family = |at: &usize| self.subnets[*at].prefix.addr().is_ipv4() == v4;
            let mut all = (0..self.subnets.len()).filter(family);
            if all.clone().next().is_none() || chosen.iter().any(|(at, _)| family(at)) {
                continue;
            }
            let held = all.clone().find(|at| {
                let addresses = &self.subnets[*at].addresses;
                addresses.lease_of(owner(id)).is_some()
            });
            let at = held.or_else(|| all.find(|at| self.subnets[*at].addresses.available() > 0));
            chosen.push((at.ok_or_else(|| self.full(v4))?, None));
        }
        chosen.sort_by_key(|(at, _)| !self.subnets[*at].prefix.addr().is_ipv4());
        Ok(Choice(chosen))
    }

    /// Takes addresses that [`choose`](Self::choose) found for the same owner, IPv4 first.
    pub(super) fn take(&mut self, id: &[u8; 16], choice: &Choice, index: u64) -> Vec<IpNet> {
        let Choice(chosen) = choice;
        let take = |(at, address): &(usize, Option<IpAddr>)| {
            let subnet = &mut self.subnets[*at];
            let lease = match address {
                Some(address) => subnet.addresses.reserve(owner(id), *address, index),
                None => subnet.addresses.allocate(owner(id), index),
            };
            let address = lease.expect("it was there to be had").address;
            IpNet::new(address, subnet.prefix.prefix_len())
                .expect("an address of the subnet has its family")
        };
        chosen.iter().map(take).collect()
    }

    /// Refuses an identity under which something else has an address: the two would share it.
    pub(super) fn check_owner(&self, id: &[u8; 16]) -> Result<(), CommandError> {
        let mut subnets = self.subnets.iter();
        match subnets.find_map(|subnet| subnet.addresses.lease_of(owner(id))) {
            Some(lease) => Err(CommandError::AddressInUse {
                address: lease.address,
                network: self.name.clone(),
            }),
            None => Ok(()),
        }
    }

    fn subnet_of(&self, address: IpAddr) -> Result<(usize, &overlay_ipam::Subnet), CommandError> {
        let mut subnets = self.subnets.iter().enumerate();
        let found = subnets.find(|(_, subnet)| subnet.prefix.contains(&address));
        let (at, subnet) = found.ok_or_else(|| {
            let text = "it is in none of the network's subnets".to_owned();
            self.unusable(address, text)
        })?;
        Ok((at, &subnet.addresses))
    }

    fn unusable(&self, address: IpAddr, reason: String) -> CommandError {
        CommandError::AddressUnusable {
            address,
            network: self.name.clone(),
            reason,
        }
    }

    fn full(&self, v4: bool) -> CommandError {
        let used = self.subnets.iter();
        let used = used.filter(|subnet| subnet.prefix.addr().is_ipv4() == v4);
        CommandError::SubnetFull {
            network: self.name.clone(),
            used: used.map(|subnet| subnet.addresses.used() as u64).sum(),
        }
    }
}

/// Derives a locally administered MAC address: from the IPv4 address, or from the identity where there is none.
pub(super) fn mac_of(endpoint: EndpointId, addresses: &[IpNet]) -> MacAddr {
    let v4 = addresses.iter().find_map(|address| match address {
        IpNet::V4(address) => Some(address.addr()),
        IpNet::V6(_) => None,
    });
    match v4 {
        Some(address) => MacAddr::from_ipv4(address),
        None => {
            let [a, b, c, d, ..] = *endpoint.as_bytes();
            MacAddr::new([0x02, 0x42, a, b, c, d])
        }
    }
}
