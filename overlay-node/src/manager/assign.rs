//! What each node has to run and to know, computed from the state, and the agents' sessions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ipnet::IpNet;
use overlay_core::{Instant, NetworkId, NodeId, plane::NetworkPolicy};
use overlay_gossip::Lease;

use super::{Action, AgentSession, Manager, Read, TICK, touched::answers};
use crate::{
    agent::{
        AssignedEndpoint, AssignedNetwork, AssignedPort, AssignedService, AssignedTask, Assignment,
        Backend, Keyed, ServiceOnNetwork, Standing,
    },
    api::{ClusterSettings, PublishMode},
    scheduler::constraint,
    state::{EndpointRecord, NetworkRecord, ServiceRecord, TaskRecord},
    wire::{ManagerAddress, Message},
};

impl Manager {
    /// Takes an agent's heartbeat; returns false if nobody of the cluster is known by that identity.
    ///
    /// Whoever is told so forgets the cluster, and this leader may be one that was replaced, or that has not applied what
    /// added the node. It says so only once it knows that it still leads and applied everything up to now.
    pub(crate) fn handle_heartbeat(&mut self, now: Instant, node: NodeId, version: u64) -> bool {
        if !self.state.nodes().contains_key(&node) {
            if self.state.cluster().is_none() || self.is_awaited(node) {
                return true;
            }
            self.read(now, Read::Membership { node });
            self.settle(now);
            return false;
        }
        let (default, chosen) = (
            self.config.timers.heartbeat_interval,
            self.heartbeat_interval(),
        );
        let session = self.sessions.entry(node).or_insert(AgentSession {
            heard_at: now,
            interval: chosen.max(default),
            sent: None,
            compared: 0,
            acknowledged: 0,
            sent_at: now,
            completed_at: None,
        });
        session.heard_at = now;
        session.acknowledged = version;
        if let Some(sent) = session.sent.as_ref().filter(|sent| sent.version == version) {
            session.interval = sent
                .standing
                .heartbeat_ms
                .map_or(default, Duration::from_millis);
        }
        self.assign(now, node);
        true
    }

    /// Takes an agent's word that a change does not start from what it has: it is sent the whole.
    pub(crate) fn handle_assignment_lost(&mut self, now: Instant, node: NodeId) {
        let Some(session) = self.sessions.get_mut(&node) else {
            return;
        };
        // Changes that were under way before the whole are lost too, and say so once more each.
        if session.completed_at.is_none_or(|at| at + TICK <= now) {
            session.sent = None;
            self.assign(now, node);
        }
    }

    /// Returns what was chosen for the cluster.
    pub(super) fn settings(&self) -> ClusterSettings {
        let cluster = self.state.cluster();
        cluster.map_or_else(ClusterSettings::default, |cluster| cluster.settings)
    }

    fn heartbeat_interval(&self) -> Duration {
        let chosen = self.settings().heartbeat_ms.map(Duration::from_millis);
        chosen.unwrap_or(self.config.timers.heartbeat_interval)
    }

    fn patience(&self, interval: Duration) -> Duration {
        interval * self.config.timers.heartbeats_missing_max
    }

    /// Returns whether the agent of `node` was heard within its time.
    pub(super) fn is_heard(&self, now: Instant, node: NodeId) -> bool {
        let session = self.sessions.get(&node);
        session.is_some_and(|session| {
            now.duration_since(session.heard_at) <= self.patience(session.interval)
        })
    }

    /// Returns whether the agent of `node` should have been heard since it was heard last, or since this manager leads.
    pub(super) fn is_late(&self, now: Instant, node: NodeId) -> bool {
        let patience = self.patience(self.heartbeat_interval());
        let settled = || self.led_since.is_some_and(|since| since + patience <= now);
        !self.is_heard(now, node) && (self.sessions.contains_key(&node) || settled())
    }

    /// Sends every agent what changed for it.
    pub(super) fn assign_all(&mut self, now: Instant) {
        let known = self.state.nodes();
        self.sessions.retain(|node, _| known.contains_key(node));
        let before = self.compared.applied();
        let touched = self.touched();
        let applied = self.state.applied();
        let nodes: Vec<_> = self.sessions.keys().copied().collect();
        for node in nodes {
            if !touched.contains(node)
                && let Some(session) = self.sessions.get_mut(&node)
                && session.compared == before
            {
                session.compared = applied;
                debug_assert!(self.is_as_sent(node), "what changed for {node} was missed");
            }
            self.assign(now, node);
        }
    }

    /// Returns whether a node's assignment, made anew, is what the node was sent.
    fn is_as_sent(&mut self, node: NodeId) -> bool {
        let next = self.assignment(node);
        let sent = self
            .sessions
            .get(&node)
            .and_then(|session| session.sent.as_ref());
        match (sent, next) {
            (Some(sent), Some(next)) => {
                let version = sent.version;
                *sent == Assignment { version, ..next }
            }
            _ => true,
        }
    }

    /// Sends the node what changed of its assignment, or the whole: at first, and again if it did not acknowledge it.
    fn assign(&mut self, now: Instant, node: NodeId) {
        if self.is_awaited(node) {
            return;
        }
        let (applied, retry) = (self.state.applied(), self.heartbeat_interval());
        let Some(mut session) = self.sessions.remove(&node) else {
            return;
        };
        let version = session.sent.as_ref().map_or(0, |sent| sent.version);
        let lost = session.acknowledged != version && now.duration_since(session.sent_at) >= retry;
        let mut message = None;
        if session.sent.is_none() || session.compared != applied {
            let Some(mut next) = self.assignment(node) else {
                self.sessions.insert(node, session);
                return;
            };
            session.compared = applied;
            // The version alone is no difference.
            let current = std::mem::replace(&mut next.version, version);
            if session.sent.as_ref() != Some(&next) {
                next.version = current;
                let change = session.sent.as_ref().map(|sent| sent.difference(&next));
                message = change.map(|change| Message::AssignmentChange(Box::new(change)));
                session.sent = Some(next);
            }
        }
        let complete = lost || version == 0;
        if complete && let Some(sent) = &session.sent {
            message = Some(Message::Assignment(Box::new(sent.clone())));
            session.completed_at = Some(now);
        }
        if let Some(message) = message {
            session.sent_at = now;
            // It may speak as seldom as it will be told, or as it was told before.
            session.interval = session.interval.max(retry);
            self.actions.push_back(Action::Send { to: node, message });
        }
        self.sessions.insert(node, session);
    }

    /// Computes the assignment of a node, `None` if it is none of the cluster.
    pub(super) fn assignment(&mut self, node: NodeId) -> Option<Assignment> {
        let endpoints = self.state.endpoints();
        if self.leases.len() > endpoints.len() {
            self.leases
                .retain(|endpoint, _| endpoints.contains_key(endpoint));
        }
        if self.passes.len() > self.state.nodes().len() {
            let nodes = self.state.nodes();
            self.passes.retain(|node, _| nodes.contains_key(node));
        }
        let own = self.state.endpoints_on(node);
        let on: BTreeSet<_> = own.map(|endpoint| endpoint.network).collect();
        let networks = self.assigned_networks(&on);
        let (signer, own) = (self.signer.as_ref()?, self.state.endpoints_on(node));
        let services = self.assigned_services(&on);
        let endpoints = own
            .map(|record| {
                let known = self.leases.get(&record.id);
                let known = known.filter(|lease| lease.generation == record.generation);
                let lease = known.cloned().unwrap_or_else(|| {
                    let mut lease = lease(record);
                    signer.sign(&mut lease);
                    self.leases.insert(record.id, lease.clone());
                    lease
                });
                AssignedEndpoint {
                    record: record.clone(),
                    lease,
                }
            })
            .collect();
        let tasks = self.assigned_tasks(node);
        let ports = self.assigned_ports(node);
        let (cluster, record) = (self.state.cluster()?, self.state.nodes().get(&node)?);
        let signer = self.signer.as_ref()?;
        let known = self.passes.get(&node);
        let known = known.filter(|pass| pass.number == record.admitted);
        let pass = known.cloned().unwrap_or_else(|| {
            let pass = signer.pass(cluster.id, node, record.admitted, record.key);
            self.passes.insert(node, pass.clone());
            pass
        });
        Some(Assignment {
            version: self.state.applied(),
            cluster: cluster.id,
            epoch: cluster.epoch,
            standing: Standing {
                heartbeat_ms: cluster.settings.heartbeat_ms,
                role: record.role,
                zone: record.labels.get(ZONE).cloned().unwrap_or_default(),
                raft: record.raft,
                managers: self.managers(),
                keys: cluster.keys.clone(),
                authorities: self.state.authorities().map(str::to_owned).collect(),
                issuer: self.state.issuer(),
                certificate_ms: cluster.settings.certificate_ms,
                lease_key: signer.public_key(),
                pass,
            },
            networks,
            services,
            endpoints,
            tasks,
            ports,
        })
    }

    fn assigned_networks(&mut self, on: &BTreeSet<NetworkId>) -> Vec<AssignedNetwork> {
        let networks = on.iter().filter_map(|network| {
            let policy = self.policy(*network);
            assigned_network(self.state.networks().get(network)?, policy)
        });
        networks.collect()
    }

    /// Returns the services on any of these networks.
    fn assigned_services(&self, on: &BTreeSet<NetworkId>) -> Vec<AssignedService> {
        let services = self.state.services().values();
        let services = services.filter(|service| !service.removing);
        services
            .filter_map(|service| {
                let networks: BTreeMap<_, _> = named_networks(service)
                    .filter(|(network, _)| on.contains(network))
                    .collect();
                let spec = service.spec();
                (!networks.is_empty()).then(|| AssignedService {
                    id: service.id,
                    name: spec.name.clone(),
                    networks,
                    ports: spec.named_ports.clone(),
                    texts: spec.texts.clone(),
                    balance: spec.balance,
                })
            })
            .collect()
    }

    /// Returns the ports that are published on a node, each with the tasks that run and shall run.
    fn assigned_ports(&mut self, node: NodeId) -> Vec<AssignedPort> {
        let applied = self.state.applied();
        if self.published.0 != applied {
            self.published = (applied, self.published_ports());
        }
        let local = |backend: &&Backend| backend.node == node;
        let record = self.state.nodes().get(&node);
        let open = |published: &AssignedPort| {
            let conditions = published.port.nodes.iter();
            let mut conditions = conditions.filter_map(|text| constraint::parse(text).ok());
            record.is_some_and(|record| conditions.all(|condition| condition.holds(record)))
        };
        let published = self.published.1.iter();
        published
            .filter_map(|published| {
                let own = published.backends.iter().filter(local);
                let leads_here = own.clone().next().is_some();
                let mut assigned = AssignedPort {
                    open: open(published),
                    ..published.clone()
                };
                if published.port.mode == PublishMode::Host {
                    assigned.backends = own.cloned().collect();
                    assigned.open &= leads_here;
                }
                (assigned.open || leads_here).then_some(assigned)
            })
            .collect()
    }

    /// Returns all ports that services publish, each with the tasks on all nodes.
    fn published_ports(&self) -> Vec<AssignedPort> {
        let mut ports = Vec::new();
        let services = self.state.services().values();
        for service in services.filter(|service| !service.ports.is_empty()) {
            let backends: Vec<_> = self
                .state
                .tasks_of(service.id)
                .filter(|task| answers(task))
                .filter_map(|task| self.backend(task))
                .collect();
            ports.extend(service.ports.iter().map(|port| AssignedPort {
                port: port.clone(),
                service_name: service.spec().name.clone(),
                open: true,
                backends: backends.clone(),
            }));
        }
        ports.sort_by_key(Keyed::key);
        ports
    }

    fn backend(&self, task: &TaskRecord) -> Option<Backend> {
        let node = self.state.nodes().get(&task.node?)?;
        let endpoint = self.state.answering(task)?;
        Some(Backend {
            node: node.id,
            role: node.role,
            management: node.management(),
            endpoint: endpoint.id,
            addresses: endpoint.addresses.iter().map(IpNet::addr).collect(),
        })
    }

    fn assigned_tasks(&self, node: NodeId) -> Vec<AssignedTask> {
        let tasks = self.state.tasks_on(node);
        tasks
            .filter(|task| !task.status.state.is_terminal())
            .filter_map(|task| {
                let service = self.state.services().get(&task.service)?;
                let spec = service.specs.get(&task.spec_version)?;
                Some(AssignedTask {
                    id: task.id,
                    service_name: spec.name.clone(),
                    slot: task.slot,
                    spec: spec.task.clone(),
                    desired: task.desired,
                    endpoints: task.endpoints.clone(),
                })
            })
            .collect()
    }

    /// Returns where the managers are reached, those among them that shall be none but still count.
    pub(crate) fn managers(&self) -> Vec<ManagerAddress> {
        let present = self.state.voters().map(|(raft, node)| ManagerAddress {
            node: node.id,
            raft,
            management: node.management(),
            gossip: node.gossip(),
        });
        let former = self
            .state
            .former()
            .iter()
            .map(|(raft, part)| ManagerAddress {
                node: part.node,
                raft: *raft,
                management: part.management,
                gossip: part.gossip,
            });
        present.chain(former).collect()
    }
}

/// Returns what a service has on each of its networks where it has names: not on that of published ports.
pub(super) fn named_networks(
    service: &ServiceRecord,
) -> impl Iterator<Item = (NetworkId, ServiceOnNetwork)> {
    // Those of the spec are in its order; one without any is on the network of published ports alone.
    let named = service.networks.iter().zip(&service.spec().networks);
    named.map(|(network, named)| {
        let addresses = service.virtual_addresses.get(network);
        let addresses = addresses.into_iter().flatten();
        let on = ServiceOnNetwork {
            addresses: addresses.map(IpNet::addr).collect(),
            aliases: named.aliases.clone(),
        };
        (*network, on)
    })
}

fn assigned_network(network: &NetworkRecord, policy: NetworkPolicy) -> Option<AssignedNetwork> {
    // One VNI carries all subnets of a network: they share one broadcast domain.
    let vni = network.subnets.first()?.vni;
    Some(AssignedNetwork {
        id: network.id,
        name: network.name.clone(),
        vni,
        subnets: network.subnets.iter().map(|subnet| subnet.prefix).collect(),
        mtu: network.mtu,
        path: network.data_path(),
        vlan_tags: network.carries_vlans(),
        encrypted: network.is_encrypted(),
        internal: network.internal,
        ingress: network.ingress,
        policy,
        hides_names: network.hides_names(),
    })
}

fn lease(record: &EndpointRecord) -> Lease {
    Lease {
        network: record.network,
        endpoint: record.id,
        node: record.node,
        addresses: record.addresses.iter().map(IpNet::addr).collect(),
        mac: record.mac,
        generation: record.generation,
        signature: Vec::new().into(),
    }
}

/// The label of a node that says its zone.
const ZONE: &str = "zone";
