//! Commands about endpoints.

use overlay_core::{EndpointId, NetworkId, NodeId};

use super::{
    AttachEndpoint, ClusterState, CommandError, EndpointRecord, NetworkRecord, Outcome,
    addresses::mac_of,
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
            record.take(attach.id.as_bytes(), &attach.addresses, index)
        };
        let taken = self.networks.modify_part(network, take);
        let addresses = taken.ok_or(CommandError::UnknownNetwork { network })?;
        let endpoint = EndpointRecord {
            id: attach.id,
            node: attach.node,
            network,
            name: attach.name,
            aliases: attach.aliases,
            mac: mac_of(attach.id, &addresses),
            addresses,
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

    /// Gives back the addresses that something has on a network.
    pub(super) fn release(&mut self, network: NetworkId, id: &[u8; 16], index: u64) {
        self.networks.modify_part(network, |record| {
            record.addresses.release_owner(owner(id), index);
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
        let octets: usize = attach.aliases.iter().map(|alias| alias.len() + 1).sum();
        if octets > ALIAS_BYTES_MAX {
            return Err(CommandError::Limit {
                what: "octets of aliases an endpoint".to_owned(),
                limit: ALIAS_BYTES_MAX as u64,
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
        record.check_owner(attach.id.as_bytes())?;
        record.check(attach.id.as_bytes(), &attach.addresses)
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

/// How long the aliases of an endpoint are at the most, in octets: they are in its row.
const ALIAS_BYTES_MAX: usize = 512;
/// How many aliases an endpoint has at the most.
const ALIASES_MAX: usize = 16;
