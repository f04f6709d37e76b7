//! The addresses that something gets on a network: one of each family that the network has.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::{EndpointId, MacAddr};
use overlay_ipam::{AllocateError, Lease};

use super::{CommandError, NetworkRecord, node::owner};

impl NetworkRecord {
    /// Returns why an owner does not get addresses, if so: those that are `asked` for, and any of the families that are not.
    pub(super) fn check(&self, id: &[u8; 16], asked: &[IpAddr]) -> Result<(), CommandError> {
        // Here, because the network knows better than any one of its subnets.
        let inside = |address: &&IpAddr| {
            let mut subnets = self.subnets.iter();
            !subnets.any(|subnet| subnet.prefix.contains(*address))
        };
        if let Some(outside) = asked.iter().find(inside) {
            let text = "it is in none of the network's subnets".to_owned();
            return Err(self.unusable(*outside, text));
        }
        let checked = self.addresses.check(owner(id), asked);
        checked.map_err(|error| self.refusal(&error, asked))
    }

    /// Takes addresses that [`check`](Self::check) found to be there for the same owner, IPv4 first.
    pub(super) fn take(&mut self, id: &[u8; 16], asked: &[IpAddr], index: u64) -> Vec<IpNet> {
        let leases = self.addresses.allocate(owner(id), asked, index);
        let leases = leases.expect("they were there to be had");
        let with_prefix = |lease: Lease| {
            let mut subnets = self.subnets.iter();
            let subnet = subnets.find(|subnet| subnet.prefix.contains(&lease.address));
            let length = subnet.expect("a lease is of a subnet").prefix.prefix_len();
            IpNet::new(lease.address, length).expect("an address of the subnet has its family")
        };
        leases.iter().map(with_prefix).collect()
    }

    /// Refuses an identity under which something else has an address: the two would share it.
    pub(super) fn check_owner(&self, id: &[u8; 16]) -> Result<(), CommandError> {
        match self.addresses.leases_of(owner(id)).iter().next() {
            Some(lease) => Err(CommandError::AddressInUse {
                address: lease.address,
                network: self.name.clone(),
            }),
            None => Ok(()),
        }
    }

    fn refusal(&self, error: &AllocateError, asked: &[IpAddr]) -> CommandError {
        let network = self.name.clone();
        match error {
            AllocateError::Exhausted { usage, .. } => CommandError::SubnetFull {
                network,
                used: u64::try_from(usage.chosen).unwrap_or(u64::MAX),
            },
            AllocateError::Taken { address, .. } => CommandError::AddressInUse {
                address: *address,
                network,
            },
            AllocateError::Reserved { address, .. }
            | AllocateError::TwoOfAFamily { address, .. } => {
                self.unusable(*address, error.to_string())
            }
            AllocateError::OwnerHolds { address: held, .. } => {
                let same = |address: &&IpAddr| address.is_ipv4() == held.is_ipv4();
                let address = asked.iter().find(same).unwrap_or(held);
                self.unusable(*address, error.to_string())
            }
            other => {
                let any = asked.first().copied();
                let any = any.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
                self.unusable(any, other.to_string())
            }
        }
    }

    fn unusable(&self, address: IpAddr, reason: String) -> CommandError {
        CommandError::AddressUnusable {
            address,
            network: self.name.clone(),
            reason,
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
