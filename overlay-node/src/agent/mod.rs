//! The part of a node that runs what it was assigned: endpoints, their rows, names and ports.
//!
//! It works from its last assignment alone, so it goes on without any manager. It holds no session and no socket: the
//! [`Node`](crate::Node) that owns it carries its wishes out.

mod assignment;
mod difference;
mod networks;
mod ports;
mod readiness;
mod services;
mod session;
mod tasks;
mod way_out;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use overlay_core::{
    EndpointId, Instant, NetworkId, TaskId,
    plane::{
        Desired, DesiredNetwork, DesiredPort, Namespace, PlatformError, PortSpec, RemoteEndpoint,
        Underlay,
    },
};
use overlay_dns::{Records, View};
use overlay_gossip::{Row, RowState};
use overlay_ipam::Subnet;
use serde::{Deserialize, Serialize};

pub use assignment::{
    AssignedEndpoint, AssignedNetwork, AssignedPort, AssignedService, AssignedTask, Assignment,
    Backend, ServiceOnNetwork, Standing,
};
pub(crate) use difference::Keyed;
pub use difference::{AssignmentChange, Difference};
use ports::{LocalEndpoint, PortState, Shared};
use services::ServiceWords;
pub(crate) use services::{ServiceNames, Zone, changes};
pub(crate) use session::Session;
use tasks::LocalTask;
pub use tasks::{TaskOrder, TaskReport};

use crate::{
    Config,
    api::{EndpointInfo, TaskStatus},
};

/// What a node needs in order to go on after a restart without any manager.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentMemory {
    /// The last assignment.
    pub assignment: Option<Assignment>,
    /// Where the ports of the node's endpoints go.
    pub namespaces: BTreeMap<EndpointId, Namespace>,
    /// Who has which address on the bridge by which endpoints leave this node.
    pub way_out: Option<Subnet>,
}

/// A wish of the agent, carried out by the node that owns it.
#[derive(Debug)]
pub(crate) enum Wish {
    JoinNetwork(NetworkId),
    LeaveNetwork(NetworkId),
    PutRow(NetworkId, Box<Row>),
    DeleteRow(NetworkId, EndpointId),
    SetZone(Box<AssignedNetwork>),
    RemoveZone(NetworkId),
    /// What whoever asks in the namespace that is named after the endpoint sees, and the addresses of the endpoints in there.
    SetClient(EndpointId, View, BTreeMap<NetworkId, Vec<IpAddr>>),
    /// The namespace that is named after the endpoint is gone.
    RemoveClient(EndpointId),
    CreatePort(Box<PortSpec>),
    /// A port is not even asked for: this is why.
    RefusePort(EndpointId, PlatformError),
    RemovePort(EndpointId),
    /// Ask who has flows to an endpoint, and say when none is left or the patience is at its end.
    Drain {
        network: NetworkId,
        endpoint: EndpointId,
        patience: Duration,
    },
    StartTask(Box<TaskOrder>),
    StopTask(TaskId, Duration),
    Publish(Vec<AssignedPort>),
}

#[derive(Debug)]
pub(crate) struct Agent {
    config: Config,
    memory: AgentMemory,
    endpoints: BTreeMap<EndpointId, LocalEndpoint>,
    /// The namespaces of the endpoints, by the endpoint after which each is named.
    shared: BTreeMap<EndpointId, Shared>,
    tasks: BTreeMap<TaskId, LocalTask>,
    /// What the leader was not told yet.
    reports: BTreeMap<TaskId, TaskStatus>,
    joined: BTreeSet<NetworkId>,
    /// The networks whose tables are on their way, and until when that is waited for.
    fetching: BTreeMap<NetworkId, Instant>,
    wishes: VecDeque<Wish>,
    /// Assigned endpoints that nobody here knows of, with the time from which they count as orphans.
    orphans: BTreeMap<EndpointId, Instant>,
    memory_changed: bool,
}

impl Agent {
    pub(crate) fn new(config: Config, memory: AgentMemory, now: Instant) -> Self {
        let mut agent = Self {
            config,
            memory: AgentMemory {
                assignment: None,
                namespaces: memory.namespaces,
                way_out: memory.way_out,
            },
            endpoints: BTreeMap::new(),
            shared: BTreeMap::new(),
            tasks: BTreeMap::new(),
            reports: BTreeMap::new(),
            joined: BTreeSet::new(),
            fetching: BTreeMap::new(),
            wishes: VecDeque::new(),
            orphans: BTreeMap::new(),
            memory_changed: false,
        };
        agent.forget_unassigned(memory.assignment.as_ref());
        let changed = agent.memory_changed;
        if let Some(assignment) = memory.assignment {
            agent.assign(now, assignment);
        }
        agent.take_up();
        agent.memory_changed = changed;
        agent
    }

    /// Says where the port of an endpoint will go, before it is asked for.
    pub(crate) fn expect(&mut self, endpoint: EndpointId, namespace: Namespace) {
        self.memory.namespaces.insert(endpoint, namespace);
        self.memory_changed = true;
    }

    /// Takes back what [`expect`](Self::expect) said.
    pub(crate) fn forget(&mut self, endpoint: EndpointId) {
        if !self.endpoints.contains_key(&endpoint) {
            self.memory.namespaces.remove(&endpoint);
            self.memory_changed = true;
        }
    }

    /// Takes a new assignment; one that is out of date is ignored.
    pub(crate) fn assign(&mut self, now: Instant, assignment: Assignment) {
        let present = self.memory.assignment.as_ref();
        if present.is_some_and(|present| present.is_newer(&assignment)) {
            return;
        }
        if present == Some(&assignment) {
            return;
        }
        let published = present.map_or(&[][..], |present| &present.ports);
        if published != assignment.ports {
            self.wishes
                .push_back(Wish::Publish(assignment.ports.clone()));
        }
        let before = self.memory.assignment.replace(assignment);
        let (before, networks) = before.map_or_else(Default::default, |before| {
            (before.services, before.networks)
        });
        self.memory_changed = true;
        self.settle_networks(now);
        self.grow_networks(&networks);
        self.stop_tasks();
        self.settle_endpoints(now);
        self.retell_services(&before);
        self.settle_tasks();
    }

    /// Lets go of everything that was assigned.
    pub(crate) fn disband(&mut self, now: Instant) {
        if let Some(present) = self.memory.assignment.clone() {
            let nothing = Assignment {
                version: present.version + 1,
                networks: Vec::new(),
                services: Vec::new(),
                endpoints: Vec::new(),
                tasks: Vec::new(),
                ports: Vec::new(),
                ..present
            };
            self.assign(now, nothing);
        }
    }

    /// Tells the network of an endpoint: of one that is new while its port is being made, so that the others are prepared
    /// for it by the time that it is ready.
    fn put_row(&mut self, endpoint: EndpointId) {
        let Some(local) = self.endpoints.get(&endpoint) else {
            return;
        };
        let record = &local.assigned.record;
        let told = self.carried().any(|network| network.id == record.network);
        let there = match local.port {
            PortState::Made { .. } | PortState::Ready => true,
            PortState::Creating => local.fresh && !self.fetching.contains_key(&record.network),
            PortState::Failed(_) => false,
        };
        if told && there {
            let state = match &record.task {
                Some(owner) => self.row_state(owner.task),
                None => RowState::Live,
            };
            let service = record
                .task
                .as_ref()
                .map(|owner| self.service_words(record.network, owner));
            let row = row(&local.assigned, self.config.address, state, service);
            self.wishes
                .push_back(Wish::PutRow(record.network, Box::new(row)));
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.stop_fetching(now);
        let due: Vec<_> = self
            .endpoints
            .iter()
            .filter(|(_, local)| {
                matches!(local.port, PortState::Failed(_)) && local.retry_at <= now
            })
            .map(|(endpoint, _)| *endpoint)
            .collect();
        for endpoint in due {
            self.create_port(endpoint);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let failed = |local: &&LocalEndpoint| matches!(local.port, PortState::Failed(_));
        let retries = self
            .endpoints
            .values()
            .filter(failed)
            .map(|local| local.retry_at);
        let fetching = self.fetching.values();
        let waiting = fetching.chain(self.orphans.values());
        retries.chain(waiting.copied()).min()
    }

    pub(crate) fn poll_wish(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    /// Returns what has to be written down, if it changed since the last call.
    pub(crate) fn poll_memory(&mut self) -> Option<AgentMemory> {
        std::mem::take(&mut self.memory_changed).then(|| self.memory.clone())
    }

    /// Returns the endpoints that the managers keep for this node but nobody here knows of; each is due once.
    pub(crate) fn take_orphans(&mut self, now: Instant) -> Vec<EndpointId> {
        let due: Vec<_> = self
            .orphans
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(id, _)| *id)
            .collect();
        for endpoint in &due {
            self.orphans
                .insert(*endpoint, now + self.config.timers.orphan_grace);
        }
        due
    }

    pub(crate) fn assignment(&self) -> Option<&Assignment> {
        self.memory.assignment.as_ref()
    }

    /// Returns how the port of an endpoint is: `None` while it is being made or unknown.
    pub(crate) fn port(&self, endpoint: EndpointId) -> Option<Result<(), PlatformError>> {
        match &self.endpoints.get(&endpoint)?.port {
            PortState::Creating | PortState::Made { .. } => None,
            PortState::Ready => Some(Ok(())),
            PortState::Failed(error) => Some(Err(error.clone())),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Describes the endpoints that run here.
    pub(crate) fn endpoints(&self) -> Vec<EndpointInfo> {
        let describe = |local: &LocalEndpoint| {
            let record = &local.assigned.record;
            let network = self.network(record.network);
            EndpointInfo {
                id: record.id,
                name: record.name.clone(),
                aliases: record.aliases.clone(),
                network: record.network,
                network_name: network
                    .map(|network| network.name.clone())
                    .unwrap_or_default(),
                node: record.node,
                mac: record.mac,
                addresses: record.addresses.clone(),
                namespace: self.memory.namespaces.get(&record.id).cloned(),
                ready: matches!(local.port, PortState::Ready),
            }
        };
        self.endpoints.values().map(describe).collect()
    }

    /// Computes the data plane from the assignment and the rows of the tables.
    pub(crate) fn desired<'a>(
        &self,
        rows: impl Fn(NetworkId) -> Vec<&'a Row>,
        members: impl Fn(NetworkId) -> BTreeMap<IpAddr, Zone>,
    ) -> Desired {
        let mut desired = Desired {
            underlay: Some(Underlay {
                address: self.config.address,
                port: self.config.data_port,
                esp_port: self.config.esp_port,
                mtu: self.config.underlay_mtu,
            }),
            ..Desired::default()
        };
        for network in self.carried() {
            let Ok(path) = self.path(network) else {
                continue;
            };
            let ports: BTreeMap<_, _> = self
                .endpoints
                .values()
                .map(|local| &local.assigned.record)
                .filter(|record| record.network == network.id)
                .map(|record| {
                    let (mac, addresses) = (record.mac, record.addresses.clone());
                    (record.id, DesiredPort { mac, addresses })
                })
                .collect();
            let remotes: BTreeMap<_, _> = rows(network.id)
                .into_iter()
                .filter(|row| !ports.contains_key(&row.endpoint))
                .filter(|row| row.vtep != self.config.address)
                .map(|row| {
                    let (mac, addresses, vtep) = (row.mac, row.addresses.clone(), row.vtep);
                    (
                        row.endpoint,
                        RemoteEndpoint {
                            mac,
                            addresses,
                            vtep,
                        },
                    )
                })
                .collect();
            let zones = members(network.id);
            let services = self.services_of(network.id, &rows(network.id), &ports, &zones);
            let mut vteps: BTreeSet<_> = zones.into_keys().collect();
            vteps.extend(remotes.values().map(|remote| remote.vtep));
            vteps.remove(&self.config.address);
            let (vni, subnets, mtu) = (network.vni, network.subnets.clone(), self.mtu(network));
            let network_plane = DesiredNetwork {
                vlan_tags: network.vlan_tags,
                encrypted: network.encrypted,
                policy: network.policy.clone(),
                vni,
                path,
                subnets,
                mtu,
                ports,
                remotes,
                vteps,
                services,
            };
            desired.networks.insert(network.id, network_plane);
        }
        desired
    }
}

/// Makes the row that tells the network's members of an endpoint.
fn row(
    assigned: &AssignedEndpoint,
    vtep: IpAddr,
    state: RowState,
    service: Option<ServiceWords>,
) -> Row {
    let AssignedEndpoint { record, lease } = assigned;
    let mut names = vec![record.name.clone()];
    names.extend(record.aliases.iter().cloned());
    names.push(record.id.short());
    let ServiceWords {
        names: service_names,
        ports,
    } = service.unwrap_or_default();
    Row {
        endpoint: record.id,
        mac: record.mac,
        addresses: record.addresses.iter().map(IpNet::addr).collect(),
        vtep,
        names,
        service: record.task.as_ref().map(|owner| owner.service),
        service_names,
        ports,
        weight: 1,
        state,
        lease: lease.clone(),
    }
}

/// Makes the DNS records of a row.
pub(crate) fn records(row: &Row) -> Records {
    let serves = row.state == RowState::Live;
    Records {
        names: row.names.clone(),
        addresses: row.addresses.clone(),
        services: if serves {
            row.service_names.clone()
        } else {
            Vec::new()
        },
        ports: row
            .ports
            .iter()
            .filter_map(services::found_by_name)
            .collect(),
        ..Records::default()
    }
}
