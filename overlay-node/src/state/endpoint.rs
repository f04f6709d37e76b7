//! Commands about endpoints.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::{EndpointId, MacAddr, NetworkId, NodeId};
use overlay_ipam::AllocateError;

use super::{
    AttachEndpoint, ClusterState, CommandError, EndpointRecord, NetworkRecord, Outcome,
    node::{is_name, owner},
};

impl ClusterState {
    pub(super) fn attach_endpoint(
        &mut self,
        index: u64,
        attach: AttachEndpoint,
    ) -> Result<Outcome, CommandError> {
        self.check_attach(&attach)?;
        let (network, generation) = (attach.network, self.generation(index));
        let take = |record: &mut NetworkRecord| {
            allocate(record, attach.id.as_bytes(), attach.address, index)
        };
        let address = self
            .networks
            .modify_part(network, take)
            .ok_or(CommandError::UnknownNetwork { network })??;
        let mac = mac_of(attach.id, address.addr());
        let endpoint = EndpointRecord {
            id: attach.id,
            node: attach.node,
            network,
            name: attach.name,
            aliases: attach.aliases,
            addresses: vec![address],
            mac,
            generation,
            task: None,
        };
        self.endpoints
            .insert(&mut self.journal, attach.id, endpoint);
        Ok(Outcome::Endpoint(attach.id))
    }

    pub(super) fn detach_endpoint(
        &mut self,
        index: u64,
        endpoint: EndpointId,
        node: Option<NodeId>,
    ) -> Result<Outcome, CommandError> {
        let record = self
            .endpoints
            .get(endpoint)
            .ok_or(CommandError::UnknownEndpoint { endpoint })?;
        if let Some(node) = node.filter(|node| *node != record.node) {
            debug_assert_ne!(node, record.node);
            return Err(CommandError::NotOwner {
                endpoint,
                node: record.node,
            });
        }
        if record.task.is_some() && node.is_some() {
            return Err(CommandError::OfTask { endpoint });
        }
        if let Some(record) = self.remove_endpoint(index, endpoint) {
            self.audit
                .note("endpoint", "remove", endpoint.as_bytes(), record.name);
        }
        Ok(Outcome::Done)
    }

    /// Removes an endpoint, if it is there, and gives its address back.
    pub(super) fn remove_endpoint(
        &mut self,
        index: u64,
        endpoint: EndpointId,
    ) -> Option<EndpointRecord> {
        let record = self.endpoints.remove(&mut self.journal, endpoint)?;
        self.release(record.network, endpoint.as_bytes(), index);
        Some(record)
    }

    /// Gives back the address that something has on a network.
    pub(super) fn release(&mut self, network: NetworkId, id: &[u8; 16], index: u64) {
        self.networks.modify_part(network, |record| {
            for subnet in &mut record.subnets {
                subnet.addresses.release_owner(owner(id), index);
            }
        });
    }

    fn check_attach(&self, attach: &AttachEndpoint) -> Result<(), CommandError> {
        for name in std::iter::once(&attach.name).chain(&attach.aliases) {
            if !is_name(name) {
                return Err(CommandError::InvalidName {
                    name: name.chars().take(80).collect(),
                });
            }
        }
        if attach.aliases.len() > ALIASES_MAX {
            let what = "aliases an endpoint".to_owned();
            return Err(CommandError::Limit {
                what,
                limit: ALIASES_MAX as u64,
            });
        }
        if !self.nodes.contains(attach.node) {
            return Err(CommandError::UnknownNode { node: attach.node });
        }
        let network = attach.network;
        let record = self
            .networks
            .get(network)
            .ok_or(CommandError::UnknownNetwork { network })?;
        if let Some(node) = record.node.filter(|node| *node != attach.node) {
            return Err(CommandError::LocalNetwork {
                name: record.name.clone(),
                node,
            });
        }
        if !record.attachable {
            return Err(CommandError::NotAttachable {
                name: record.name.clone(),
            });
        }
        let same = self.endpoints.contains(attach.id).then_some(attach.id);
        let named = self.endpoints.index().named(network, &attach.name);
        let named = named.filter(|other| {
            let other = self.endpoints.get(*other);
            other.is_some_and(|other| other.name.eq_ignore_ascii_case(&attach.name))
        });
        if let Some(endpoint) = same.into_iter().chain(named).min() {
            return Err(CommandError::NameInUse {
                name: attach.name.clone(),
                network: record.name.clone(),
                endpoint,
            });
        }
        check_owner(record, attach.id.as_bytes())
    }
}

/// Refuses an identity under which something else has an address: the two would share it.
fn check_owner(network: &NetworkRecord, id: &[u8; 16]) -> Result<(), CommandError> {
    let mut subnets = network.subnets.iter();
    match subnets.find_map(|subnet| subnet.addresses.lease_of(owner(id))) {
        Some(lease) => Err(CommandError::AddressInUse {
            address: lease.address,
            network: network.name.clone(),
        }),
        None => Ok(()),
    }
}

/// Returns why an owner gets no address of the network, if so. One that has an address there gets that.
pub(super) fn check_room(network: &NetworkRecord, id: &[u8; 16]) -> Result<(), CommandError> {
    let mut subnets = network.subnets.iter().map(|subnet| &subnet.addresses);
    if subnets.any(|subnet| subnet.available() > 0 || subnet.lease_of(owner(id)).is_some()) {
        return Ok(());
    }
    let used = network.subnets.iter();
    Err(CommandError::SubnetFull {
        network: network.name.clone(),
        used: used.map(|subnet| subnet.addresses.used() as u64).sum(),
    })
}

/// Takes an address out of the first subnet that has one.
pub(super) fn allocate(
    network: &mut NetworkRecord,
    id: &[u8; 16],
    address: Option<IpAddr>,
    index: u64,
) -> Result<IpNet, CommandError> {
    let owner = owner(id);
    let NetworkRecord { name, subnets, .. } = network;
    let Some(address) = address else {
        let mut used = 0;
        for subnet in subnets {
            match subnet.addresses.allocate(owner, index) {
                Ok(lease) => return Ok(with_prefix(lease.address, subnet.prefix)),
                Err(_) => used += subnet.addresses.used() as u64,
            }
        }
        return Err(CommandError::SubnetFull {
            network: name.clone(),
            used,
        });
    };
    let unusable = |reason: String| CommandError::AddressUnusable {
        address,
        network: name.clone(),
        reason,
    };
    let subnet = subnets
        .iter_mut()
        .find(|subnet| subnet.prefix.contains(&address))
        .ok_or_else(|| unusable("it is in none of the network's subnets".to_owned()))?;
    match subnet.addresses.reserve(owner, address, index) {
        Ok(lease) => Ok(with_prefix(lease.address, subnet.prefix)),
        Err(AllocateError::Taken { .. }) => Err(CommandError::AddressInUse {
            address,
            network: name.clone(),
        }),
        Err(other) => Err(unusable(other.to_string())),
    }
}

fn with_prefix(address: IpAddr, prefix: IpNet) -> IpNet {
    IpNet::new(address, prefix.prefix_len()).expect("an address of the subnet has its family")
}

/// Derives a locally administered MAC address: from the IPv4 address, or from the identity where there is none.
pub(super) fn mac_of(endpoint: EndpointId, address: IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(address) => MacAddr::from_ipv4(address),
        IpAddr::V6(_) => {
            let [a, b, c, d, ..] = *endpoint.as_bytes();
            MacAddr::new([0x02, 0x42, a, b, c, d])
        }
    }
}

impl ClusterState {
    /// Returns the endpoints of a network.
    pub fn endpoints_of(&self, network: NetworkId) -> impl Iterator<Item = &EndpointRecord> {
        let endpoints = self.endpoints.index().of_network.of(&network);
        endpoints.filter_map(|endpoint| self.endpoints.get(endpoint))
    }

    /// Returns the endpoints that a node runs.
    pub fn endpoints_on(&self, node: NodeId) -> impl Iterator<Item = &EndpointRecord> {
        let endpoints = self.endpoints.index().on_node.of(&node);
        endpoints.filter_map(|endpoint| self.endpoints.get(endpoint))
    }
}

/// How many aliases an endpoint has at the most.
const ALIASES_MAX: usize = 16;
