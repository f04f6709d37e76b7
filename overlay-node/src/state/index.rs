//! What records are found by beside their identity.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId, TaskId};
use overlay_ipam::AddressSet;
use overlay_raft::RaftId;
use twox_hash::XxHash3_128;

use super::{EndpointRecord, NetworkRecord, NodeRecord, ServiceRecord, TaskRecord, table::Index};
use crate::api::Protocol;

/// Which records belong to something.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Groups<A, B>(BTreeMap<A, BTreeSet<B>>);

impl<A: Ord, B: Ord + Copy> Groups<A, B> {
    pub(super) fn of(&self, group: &A) -> impl Iterator<Item = B> + use<'_, A, B> {
        self.0.get(group).into_iter().flatten().copied()
    }

    pub(super) fn len(&self, group: &A) -> usize {
        self.0.get(group).map_or(0, BTreeSet::len)
    }

    fn add(&mut self, group: A, member: B) {
        self.0.entry(group).or_default().insert(member);
    }

    fn remove(&mut self, group: &A, member: &B) {
        if let Some(members) = self.0.get_mut(group) {
            members.remove(member);
            if members.is_empty() {
                self.0.remove(group);
            }
        }
    }
}

impl<A, B> Default for Groups<A, B> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// The managers among the nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NodeIndex {
    pub(super) managers: BTreeSet<NodeId>,
}

impl Index<NodeRecord> for NodeIndex {
    type Entry = Option<RaftId>;

    fn entry(record: &NodeRecord) -> Self::Entry {
        record.raft
    }

    fn add(&mut self, key: NodeId, entry: Self::Entry) {
        if entry.is_some() {
            self.managers.insert(key);
        }
    }

    fn remove(&mut self, key: NodeId, _: &Self::Entry) {
        self.managers.remove(&key);
    }
}

/// Networks by name and by subnet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NetworkIndex {
    names: Groups<String, NetworkId>,
    prefixes: Groups<IpNet, NetworkId>,
    /// That of published ports; there is one at the most.
    ingress: BTreeSet<NetworkId>,
}

impl NetworkIndex {
    pub(super) fn named(&self, name: &str) -> Option<NetworkId> {
        self.names.0.get(name)?.first().copied()
    }

    pub(super) fn ingress(&self) -> Option<NetworkId> {
        self.ingress.first().copied()
    }

    pub(super) fn with_subnet(&self, prefix: IpNet) -> Option<NetworkId> {
        self.prefixes.of(&prefix).next()
    }
}

impl Index<NetworkRecord> for NetworkIndex {
    type Entry = (String, Vec<IpNet>, bool);

    fn entry(record: &NetworkRecord) -> Self::Entry {
        let prefixes = record.subnets.iter().map(|subnet| subnet.prefix);
        (record.name.clone(), prefixes.collect(), record.ingress)
    }

    fn add(&mut self, key: NetworkId, (name, prefixes, ingress): Self::Entry) {
        self.names.add(name, key);
        if ingress {
            self.ingress.insert(key);
        }
        for prefix in prefixes {
            self.prefixes.add(prefix, key);
        }
    }

    fn remove(&mut self, key: NetworkId, (name, prefixes, _): &Self::Entry) {
        self.names.remove(name, &key);
        self.ingress.remove(&key);
        for prefix in prefixes {
            self.prefixes.remove(prefix, &key);
        }
    }
}

/// Endpoints by node, by network, and by their name on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct EndpointIndex {
    pub(super) on_node: Groups<NodeId, EndpointId>,
    pub(super) of_network: Groups<NetworkId, EndpointId>,
    /// By the hash of their name in small letters. A task's endpoint may have a name that another one has already.
    names: Groups<NetworkId, (u128, EndpointId)>,
}

impl EndpointIndex {
    /// Returns the endpoints on the network whose names have the same hash, whatever their case.
    pub(super) fn named(
        &self,
        network: NetworkId,
        name: &str,
    ) -> impl Iterator<Item = EndpointId> + use<'_> {
        let hash = name_hash(name);
        let first = (hash, EndpointId::from_bytes([0; 16]));
        let members = self.names.0.get(&network);
        let members = members.into_iter().flat_map(move |all| all.range(first..));
        members
            .take_while(move |(other, _)| *other == hash)
            .map(|(_, endpoint)| *endpoint)
    }
}

impl Index<EndpointRecord> for EndpointIndex {
    type Entry = (NodeId, NetworkId, u128);

    fn entry(record: &EndpointRecord) -> Self::Entry {
        (record.node, record.network, name_hash(&record.name))
    }

    fn add(&mut self, key: EndpointId, (node, network, name): Self::Entry) {
        self.on_node.add(node, key);
        self.of_network.add(network, key);
        self.names.add(network, (name, key));
    }

    fn remove(&mut self, key: EndpointId, (node, network, name): &Self::Entry) {
        self.on_node.remove(node, &key);
        self.of_network.remove(network, &key);
        self.names.remove(network, &(*name, key));
    }
}

fn name_hash(name: &str) -> u128 {
    let mut small = [0; NAME_BYTES_MAX];
    match small.get_mut(..name.len()) {
        Some(small) => {
            small.copy_from_slice(name.as_bytes());
            small.make_ascii_lowercase();
            XxHash3_128::oneshot(small)
        }
        None => XxHash3_128::oneshot(name.to_ascii_lowercase().as_bytes()),
    }
}

/// Names of this length are hashed without an allocation.
const NAME_BYTES_MAX: usize = 96;

/// Services by name and by network, and who has which published port.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ServiceIndex {
    /// Of those that are not being removed.
    names: Groups<String, ServiceId>,
    pub(super) on_network: Groups<NetworkId, ServiceId>,
    ports: BTreeMap<Protocol, Ports>,
}

/// The published ports of one protocol.
#[derive(Clone, Debug, PartialEq)]
struct Ports {
    owners: Groups<u16, ServiceId>,
    taken: AddressSet,
}

impl ServiceIndex {
    /// Returns the service of that name which is not being removed.
    pub(super) fn named(&self, name: &str) -> Option<ServiceId> {
        self.names.0.get(name)?.first().copied()
    }

    /// Returns a service other than `service` that publishes the port.
    pub(super) fn other_with_port(
        &self,
        service: ServiceId,
        protocol: Protocol,
        port: u16,
    ) -> Option<ServiceId> {
        let owners = &self.ports.get(&protocol)?.owners;
        owners.of(&port).find(|owner| *owner != service)
    }

    /// Returns the first port at or after `from` that no service publishes.
    pub(super) fn free_port(&self, protocol: Protocol, from: u16) -> Option<u16> {
        let Some(ports) = self.ports.get(&protocol) else {
            return Some(from);
        };
        u16::try_from(ports.taken.first_clear(from.into())?).ok()
    }
}

impl Index<ServiceRecord> for ServiceIndex {
    type Entry = (Option<String>, Vec<NetworkId>, Vec<(Protocol, u16)>);

    fn entry(record: &ServiceRecord) -> Self::Entry {
        let spec = record.specs.get(&record.spec_version);
        let name = spec.filter(|_| !record.removing);
        let ports = record.ports.iter();
        (
            name.map(|spec| spec.name.clone()),
            record.networks.clone(),
            ports.map(|port| (port.protocol, port.published)).collect(),
        )
    }

    fn add(&mut self, key: ServiceId, (name, networks, ports): Self::Entry) {
        if let Some(name) = name {
            self.names.add(name, key);
        }
        for network in networks {
            self.on_network.add(network, key);
        }
        for (protocol, port) in ports {
            let ports = self.ports.entry(protocol).or_insert_with(|| Ports {
                owners: Groups::default(),
                taken: AddressSet::new(u16::MAX.into()),
            });
            ports.owners.add(port, key);
            ports.taken.insert(port.into());
        }
    }

    fn remove(&mut self, key: ServiceId, (name, networks, freed): &Self::Entry) {
        if let Some(name) = name {
            self.names.remove(name, &key);
        }
        for network in networks {
            self.on_network.remove(network, &key);
        }
        for (protocol, port) in freed {
            let Some(ports) = self.ports.get_mut(protocol) else {
                continue;
            };
            ports.owners.remove(port, &key);
            if ports.owners.len(port) == 0 {
                ports.taken.remove((*port).into());
            }
            if ports.taken.is_empty() {
                self.ports.remove(protocol);
            }
        }
    }
}

/// Tasks by service and by node, and how many stand for each version of a service's spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TaskIndex {
    pub(super) of_service: Groups<ServiceId, TaskId>,
    pub(super) on_node: Groups<NodeId, TaskId>,
    versions: BTreeMap<(ServiceId, u64), usize>,
}

impl TaskIndex {
    /// Returns whether a task stands for this version of a service's spec.
    pub(super) fn stands_for(&self, service: ServiceId, version: u64) -> bool {
        self.versions.contains_key(&(service, version))
    }
}

impl Index<TaskRecord> for TaskIndex {
    type Entry = (ServiceId, u64, Option<NodeId>);

    fn entry(record: &TaskRecord) -> Self::Entry {
        (record.service, record.spec_version, record.node)
    }

    fn add(&mut self, key: TaskId, (service, version, node): Self::Entry) {
        self.of_service.add(service, key);
        if let Some(node) = node {
            self.on_node.add(node, key);
        }
        *self.versions.entry((service, version)).or_default() += 1;
    }

    fn remove(&mut self, key: TaskId, (service, version, node): &Self::Entry) {
        self.of_service.remove(service, &key);
        if let Some(node) = node {
            self.on_node.remove(node, &key);
        }
        if let Some(count) = self.versions.get_mut(&(*service, *version)) {
            *count -= 1;
            if *count == 0 {
                self.versions.remove(&(*service, *version));
            }
        }
    }
}
