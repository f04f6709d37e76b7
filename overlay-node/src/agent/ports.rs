//! The ports of a node's endpoints, and the namespaces that endpoints share.
//!
//! A namespace is named after an endpoint. It has one resolver, which sees the networks of all endpoints in there, and one
//! way out, if any of these networks has one.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    time::Duration,
};

use ipnet::IpNet;
use overlay_core::{
    EndpointId, Instant, NetworkId,
    plane::{Namespace, PlatformError, PortSpec},
};
use overlay_dns::View;

use super::{Agent, AssignedEndpoint, Assignment, Wish};

/// An endpoint that runs here.
#[derive(Debug)]
pub(super) struct LocalEndpoint {
    pub(super) assigned: AssignedEndpoint,
    pub(super) port: PortState,
    /// Whether it was never made: nobody relies on it yet.
    pub(super) fresh: bool,
    pub(super) retry_at: Instant,
}

/// How far the port of an endpoint is.
#[derive(Clone, Debug)]
pub(super) enum PortState {
    Creating,
    /// It is there, and its network is told of it. Its way is not whole yet: not before the system carries the data plane
    /// that was ordered as this one, once that is known.
    Made {
        ordered: Option<u64>,
    },
    Ready,
    Failed(PlatformError),
}

/// A namespace with endpoints in it.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Its endpoints by their interfaces; a network of an earlier one is searched for a name first.
    members: BTreeSet<(u8, EndpointId)>,
    /// Whether the network of any of them has a way out.
    leads_out: bool,
}

impl Agent {
    pub(crate) fn handle_port(
        &mut self,
        now: Instant,
        endpoint: EndpointId,
        result: Result<(), PlatformError>,
    ) {
        let Some(local) = self.endpoints.get_mut(&endpoint) else {
            return;
        };
        match result {
            Ok(()) => {
                local.port = PortState::Made { ordered: None };
                local.fresh = false;
                self.put_row(endpoint);
            }
            Err(error) => {
                local.port = PortState::Failed(error);
                local.retry_at = now + RETRY;
                if local.fresh {
                    let network = local.assigned.record.network;
                    self.wishes.push_back(Wish::DeleteRow(network, endpoint));
                }
            }
        }
        self.settle_tasks();
    }

    /// Returns the endpoint that has an interface in a namespace, here or soon.
    pub(crate) fn holder_of(&self, name: EndpointId, interface: u8) -> Option<EndpointId> {
        let mut all = self.memory.namespaces.iter();
        all.find(|(endpoint, namespace)| {
            namespace.name(**endpoint) == name && namespace.interface() == interface
        })
        .map(|(endpoint, _)| *endpoint)
    }

    /// Forgets the endpoints that a former life asked for and was not assigned yet: whoever asked has gone with it. Those
    /// that come nevertheless are orphans.
    pub(super) fn forget_unassigned(&mut self, assignment: Option<&Assignment>) {
        let assigned = assignment.into_iter().flat_map(|all| &all.endpoints);
        let assigned: BTreeSet<_> = assigned.map(|endpoint| endpoint.record.id).collect();
        let namespaces = &mut self.memory.namespaces;
        let before = namespaces.len();
        namespaces.retain(|endpoint, _| assigned.contains(endpoint));
        self.memory_changed |= namespaces.len() != before;
    }

    pub(super) fn settle_endpoints(&mut self, now: Instant) {
        let Some(assignment) = &self.memory.assignment else {
            return;
        };
        let wanted: BTreeMap<_, _> = assignment
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.record.id, endpoint.clone()))
            .collect();
        let gone = self.endpoints.keys().filter(|id| !wanted.contains_key(id));
        let gone: Vec<_> = gone.copied().collect();
        let mut changed = BTreeMap::<EndpointId, BTreeSet<(u8, EndpointId)>>::new();
        for endpoint in gone {
            if let Some(name) = self.remove_port(endpoint) {
                changed.entry(name).or_default();
            }
        }
        self.orphans
            .retain(|endpoint, _| wanted.contains_key(endpoint));
        self.place_tasks();
        for (endpoint, assigned) in wanted {
            let Some(namespace) = self.memory.namespaces.get(&endpoint) else {
                self.orphans
                    .entry(endpoint)
                    .or_insert(now + self.config.timers.orphan_grace);
                continue;
            };
            if let Entry::Vacant(vacant) = self.endpoints.entry(endpoint) {
                let (port, retry_at) = (PortState::Creating, now);
                vacant.insert(LocalEndpoint {
                    assigned,
                    port,
                    fresh: true,
                    retry_at,
                });
                let (name, interface) = (namespace.name(endpoint), namespace.interface());
                let member = (interface, endpoint);
                self.shared.entry(name).or_default().members.insert(member);
                changed.entry(name).or_default().insert(member);
            }
        }
        for (name, fresh) in changed {
            self.settle_namespace(name, fresh);
        }
    }

    /// Says where the ports of tasks go: one of them makes the namespace, and the others are in it, too.
    fn place_tasks(&mut self) {
        let assignment = self.memory.assignment.as_ref();
        let owned = assignment.into_iter().flat_map(|all| &all.endpoints);
        let owned = owned.filter(|endpoint| endpoint.record.task.is_some());
        let owned: BTreeSet<_> = owned.map(|endpoint| endpoint.record.id).collect();
        let namespaces = &mut self.memory.namespaces;
        if owned.iter().all(|id| namespaces.contains_key(id)) {
            return;
        }
        for task in assignment.into_iter().flat_map(|all| &all.tasks) {
            let Some(first) = task.endpoints.first().copied() else {
                continue;
            };
            for (interface, endpoint) in (1..).zip(task.endpoints.iter().skip(1)) {
                let with = Namespace::Shared {
                    with: first,
                    interface,
                };
                if owned.contains(endpoint) {
                    namespaces.entry(*endpoint).or_insert(with);
                }
            }
        }
        for endpoint in owned {
            let namespace = self.config.task_namespace.clone();
            namespaces.entry(endpoint).or_insert(namespace);
        }
    }

    /// Takes an endpoint away, and returns the name of the namespace that it was in.
    fn remove_port(&mut self, endpoint: EndpointId) -> Option<EndpointId> {
        let local = self.endpoints.remove(&endpoint)?;
        let network = local.assigned.record.network;
        self.wishes.push_back(Wish::DeleteRow(network, endpoint));
        self.wishes.push_back(Wish::RemovePort(endpoint));
        let namespace = self.memory.namespaces.remove(&endpoint)?;
        let name = namespace.name(endpoint);
        if let Some(shared) = self.shared.get_mut(&name) {
            shared.members.remove(&(namespace.interface(), endpoint));
        }
        Some(name)
    }

    /// Tells a namespace, some of whose endpoints are gone or `fresh`, what there is in it now.
    fn settle_namespace(&mut self, name: EndpointId, fresh: BTreeSet<(u8, EndpointId)>) {
        let Some(shared) = self.shared.get(&name) else {
            return;
        };
        let members = shared.members.iter();
        let members = members.filter_map(|(_, endpoint)| self.endpoints.get(endpoint));
        let mut addresses: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut networks = Vec::new();
        for local in members {
            let record = &local.assigned.record;
            let own = record.addresses.iter().map(IpNet::addr);
            addresses.entry(record.network).or_default().extend(own);
            networks.push(record.network);
        }
        let leads_out = networks.iter().any(|network| self.has_way_out(*network));
        let (first, led_out) = (shared.members.first().copied(), shared.leads_out);
        let Some((_, first)) = first else {
            self.shared.remove(&name);
            self.wishes.push_back(Wish::RemoveClient(name));
            return self.close_way_out(name);
        };
        if let Some(shared) = self.shared.get_mut(&name) {
            shared.leads_out = leads_out;
        }
        let named = |network: &NetworkId| self.carried().any(|one| one.id == *network);
        let view = View {
            networks: networks.iter().copied().filter(named).collect(),
            forward: leads_out,
        };
        self.wishes
            .push_back(Wish::SetClient(name, view, addresses));
        if led_out && !leads_out {
            self.close_way_out(name);
            if fresh.is_empty() {
                // A port that is there hears of it.
                self.create_port(first);
            }
        }
        for (_, endpoint) in fresh {
            self.create_port(endpoint);
        }
    }

    pub(super) fn create_port(&mut self, endpoint: EndpointId) {
        let Some(local) = self.endpoints.get_mut(&endpoint) else {
            return;
        };
        local.port = PortState::Creating;
        let record = local.assigned.record.clone();
        let Some(namespace) = self.memory.namespaces.get(&endpoint).cloned() else {
            return;
        };
        let Some(network) = self.network(record.network) else {
            return;
        };
        let mtu = self.mtu(network);
        let path = match self.path(network) {
            Ok(path) => path,
            Err(refused) => {
                // It may be created anew as one that is carried: this is tried again like any other failure.
                self.wishes.push_back(Wish::RefusePort(endpoint, refused));
                return;
            }
        };
        let has = |subnet: &IpNet| {
            let mut addresses = record.addresses.iter();
            addresses.any(|address| subnet.contains(address))
        };
        // Nobody is reached by the network of published ports.
        let subnets = network.subnets.iter().filter(|_| !network.ingress);
        let on_link = subnets.filter(|subnet| !has(subnet)).copied().collect();
        let name = namespace.name(endpoint);
        let leads_out = self.shared.get(&name).is_some_and(|one| one.leads_out);
        let way_out = match &namespace {
            Namespace::Own | Namespace::Shared { .. } if leads_out => self.open_way_out(name),
            _ => None,
        };
        let spec = PortSpec {
            endpoint,
            interface: format!("eth{}", namespace.interface()),
            namespace,
            mac: record.mac,
            addresses: record.addresses,
            on_link,
            gateway: None,
            mtu,
            hostname: record.name,
            way_out,
            path,
        };
        self.wishes.push_back(Wish::CreatePort(Box::new(spec)));
        self.put_row(endpoint);
    }

    fn has_way_out(&self, network: NetworkId) -> bool {
        self.network(network).is_some_and(|one| !one.internal)
    }
}

/// How long the agent waits before it tries again to make a port.
const RETRY: Duration = Duration::from_secs(1);
