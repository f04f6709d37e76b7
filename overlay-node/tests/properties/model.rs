//! What the state should hold, in the plainest form.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use overlay_node::{
    api::{Availability, Role},
    state::ClusterState,
};

use crate::{
    command::{availability, network_name, node_address, rule_name, verdict},
    op::Op,
    services::{Service, TaskModel},
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) nodes: BTreeMap<u8, Node>,
    /// Name, whether it is attachable, and how many addresses it has.
    pub(crate) networks: BTreeMap<u8, (u8, bool, usize)>,
    /// Whether a network denies by default, and its rules in order.
    pub(crate) policies: BTreeMap<u8, (bool, Vec<u8>)>,
    /// Node, network and name of each endpoint that stands alone.
    pub(crate) endpoints: BTreeMap<u8, (u8, u8, u8)>,
    pub(crate) services: BTreeMap<u8, Service>,
    pub(crate) tasks: BTreeMap<u8, TaskModel>,
    pub(crate) epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) manager: bool,
    pub(crate) address: IpAddr,
    pub(crate) availability: Availability,
    pub(crate) labels: BTreeSet<String>,
}

impl Node {
    pub(crate) fn new(number: u8, manager: bool) -> Self {
        Self {
            manager,
            address: node_address(number),
            availability: Availability::Active,
            labels: BTreeSet::new(),
        }
    }
}

impl Model {
    pub(crate) fn managers(&self) -> usize {
        self.nodes.values().filter(|node| node.manager).count()
    }

    fn is_manager(&self, node: u8) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.manager)
    }

    fn is_last(&self, node: u8) -> bool {
        self.managers() == 1 && self.is_manager(node)
    }

    /// Carries an operation out at `index`; `None` where the model does not know whether it may succeed.
    pub(crate) fn run(&mut self, index: u64, op: &Op) -> Option<bool> {
        match *op {
            Op::AddNode { node, manager } => {
                if !manager && self.is_manager(node) {
                    return Some(false);
                }
                self.nodes.insert(node, Node::new(node, manager));
            }
            Op::SetRole { node, manager } => {
                let last = self.is_last(node);
                let Some(known) = self.nodes.get_mut(&node).filter(|_| !last || manager) else {
                    return Some(false);
                };
                known.manager = manager;
            }
            Op::SetAddress { node, octet } => {
                let Some(known) = self.nodes.get_mut(&node) else {
                    return Some(false);
                };
                known.address = [192, 0, 2, 100 + octet].into();
            }
            Op::UpdateNode { node, pause, label } => {
                let Some(known) = self.nodes.get_mut(&node) else {
                    return Some(false);
                };
                known.availability = pause.map_or(known.availability, availability);
                if label < 5 {
                    known.labels.insert(format!("label{label}"));
                } else {
                    known.labels.remove(&format!("label{}", label - 5));
                }
            }
            Op::Recover { node, epoch } => {
                if epoch > self.epoch {
                    if !self.is_manager(node) {
                        return Some(false);
                    }
                    self.epoch = epoch;
                    let others = self.nodes.keys().copied().filter(|other| *other != node);
                    for other in others.collect::<Vec<_>>() {
                        if self.is_manager(other) {
                            self.nodes.remove(&other);
                            self.endpoints.retain(|_, (on, _, _)| *on != other);
                            self.lose_node(other);
                        }
                    }
                }
            }
            Op::RemoveNode { node } => {
                if self.is_last(node) || self.nodes.remove(&node).is_none() {
                    return Some(false);
                }
                self.endpoints.retain(|_, (on, _, _)| *on != node);
                self.lose_node(node);
            }
            Op::Again | Op::Rotate { .. } => {}
            Op::Create { .. } | Op::Remove { .. } | Op::Attach { .. } | Op::Detach { .. } => {
                return self.run_network(op);
            }
            Op::AddRule { network, .. }
            | Op::RemoveRule { network, .. }
            | Op::SetDefault { network, .. } => return Some(self.run_policy(network, op)),
            _ => return Some(self.run_service(index, op)),
        }
        Some(true)
    }

    fn run_policy(&mut self, network: u8, op: &Op) -> bool {
        if !self.networks.contains_key(&network) {
            return false;
        }
        let (denies, rules) = self.policies.entry(network).or_default();
        match *op {
            Op::SetDefault { deny, .. } => *denies = deny,
            Op::RemoveRule { rule, .. } => {
                if !rules.contains(&rule) {
                    return false;
                }
                rules.retain(|other| *other != rule);
            }
            Op::AddRule {
                rule,
                before,
                replace,
                ..
            } => {
                let is_known = rules.contains(&rule);
                let lost = before.is_some_and(|before| !rules.contains(&before));
                if lost || (is_known && !replace) {
                    return false;
                }
                match before.filter(|before| *before != rule) {
                    // It stays where it is.
                    None if is_known => {}
                    None => rules.push(rule),
                    Some(before) => {
                        let others = rules.iter().filter(|other| **other != rule);
                        *rules = others
                            .flat_map(|other| {
                                let first = (*other == before).then_some(rule);
                                first.into_iter().chain([*other])
                            })
                            .collect();
                    }
                }
            }
            _ => unreachable!("{op:?} is not about policies"),
        }
        true
    }

    fn run_network(&mut self, op: &Op) -> Option<bool> {
        match *op {
            Op::Create {
                network,
                name,
                attachable,
                small,
            } => {
                let same = self.networks.values().any(|(other, _, _)| *other == name);
                if same || self.networks.contains_key(&network) {
                    return Some(false);
                }
                self.networks
                    .insert(network, (name, attachable, if small { 5 } else { 253 }));
            }
            Op::Remove { network } => {
                let served = self
                    .services
                    .values()
                    .any(|service| service.network == Some(network));
                let used = self.endpoints.values().any(|(_, on, _)| *on == network);
                if served
                    || used
                    || self.task_endpoints(network) > 0
                    || self.networks.remove(&network).is_none()
                {
                    return Some(false);
                }
                self.policies.remove(&network);
            }
            Op::Attach {
                endpoint,
                node,
                network,
                name,
                address,
            } => {
                if !self.may_attach(endpoint, node, network, name) {
                    return Some(false);
                }
                if address.is_some() {
                    return None;
                }
                self.endpoints.insert(endpoint, (node, network, name));
            }
            Op::Detach { endpoint, node } => {
                let Some(&(owner, _, _)) = self.endpoints.get(&endpoint) else {
                    return Some(false);
                };
                if node.is_some_and(|node| node != owner) {
                    return Some(false);
                }
                self.endpoints.remove(&endpoint);
            }
            _ => unreachable!("{op:?} is not about networks"),
        }
        Some(true)
    }

    /// Returns whether a network has an address left.
    pub(crate) fn has_room(&self, network: u8) -> bool {
        let Some((_, _, size)) = self.networks.get(&network) else {
            return false;
        };
        let alone = self.endpoints.values().filter(|(_, on, _)| *on == network);
        let vips = self
            .services
            .values()
            .filter(|service| service.vip == Some(network));
        alone.count() + vips.count() + self.task_endpoints(network) < *size
    }

    pub(crate) fn network_named(&self, name: u8) -> Option<u8> {
        let mut all = self.networks.iter();
        all.find(|(_, (other, _, _))| *other == name)
            .map(|(network, _)| *network)
    }

    fn may_attach(&self, endpoint: u8, node: u8, network: u8, name: u8) -> bool {
        let attachable = self.networks.get(&network).is_some_and(|network| network.1);
        let same = |(id, (_, on, other)): (&u8, &(u8, u8, u8))| {
            *id == endpoint || (*on == network && *other == name)
        };
        attachable
            && self.nodes.contains_key(&node)
            && !self.endpoints.iter().any(same)
            // One that asks for an address may get one that was never chosen, but not where all are given out.
            && self.has_room(network)
    }

    /// Compares with the state, and checks what must hold of every state.
    pub(crate) fn check(&self, state: &ClusterState) {
        let node = |node: &overlay_node::state::NodeRecord| Node {
            manager: node.role == Role::Manager,
            address: node.address,
            availability: node.availability,
            labels: node.labels.keys().cloned().collect(),
        };
        let nodes = state.nodes().values();
        let nodes: BTreeMap<_, _> = nodes
            .map(|record| (record.id.as_bytes()[0], node(record)))
            .collect();
        assert_eq!(nodes, self.nodes);
        let alone = state
            .endpoints()
            .values()
            .filter(|record| record.task.is_none());
        let endpoints: BTreeMap<_, _> = alone
            .map(|record| {
                let name = record.name.trim_start_matches('e').parse().unwrap();
                let (node, network) = (record.node.as_bytes()[0], record.network.as_bytes()[0]);
                (record.id.as_bytes()[0], (node, network, name))
            })
            .collect();
        assert_eq!(endpoints, self.endpoints);
        let networks: BTreeMap<_, _> = state
            .networks()
            .values()
            .filter(|network| !network.ingress)
            .map(|network| (network.id.as_bytes()[0], network.name.clone()))
            .collect();
        let names = self.networks.iter();
        let names = names.map(|(network, (name, _, _))| (*network, network_name(*name)));
        assert_eq!(networks, names.collect());
        for network in state.networks().values().filter(|network| !network.ingress) {
            let number = network.id.as_bytes()[0];
            let (denies, rules) = self.policies.get(&number).cloned().unwrap_or_default();
            assert_eq!(network.policy_default(), verdict(denies));
            let names = network.rules.iter().map(|rule| rule.name.clone());
            assert!(names.eq(rules.into_iter().map(rule_name)));
        }
        self.check_services(state);
        check_addresses(state);
        check_subnets(state);
        check_queries(state);
        assert_eq!(state.check(), Ok(()));
        let rafts: BTreeSet<_> = state.voters().map(|(raft, _)| raft).collect();
        assert_eq!(rafts.len(), self.managers());
    }
}

/// No address twice, none that is the gateway's, and each leased to whoever has it.
fn check_addresses(state: &ClusterState) {
    let endpoints = state.endpoints().values();
    let endpoints = endpoints.flat_map(|record| {
        let owner = record.id.into();
        let addresses = record.addresses.iter();
        addresses.map(move |address| (record.network, *address, owner))
    });
    let services = state.services().values();
    let vips = services.flat_map(|service| {
        let owner = service.id.into();
        let addresses = service.virtual_addresses.iter();
        let each = addresses.flat_map(|(network, all)| all.iter().map(move |one| (*network, *one)));
        each.map(move |(network, address)| (network, address, owner))
    });
    let mut addresses = BTreeSet::new();
    for (network, address, owner) in endpoints.chain(vips) {
        let mut subnets = state.networks()[&network].subnets.iter();
        let subnet = subnets.find(|subnet| subnet.prefix.contains(&address));
        let subnet = subnet.expect("each address is in a subnet of its network");
        assert!(
            addresses.insert((network, address.addr())),
            "{address} twice"
        );
        assert_ne!(Some(address.addr()), subnet.gateway);
        assert_eq!(
            state.networks()[&network].addresses.owner(address.addr()),
            Some(owner),
            "{address}"
        );
    }
    let networks = state.networks().values();
    let leases: usize = networks
        .map(|network| network.addresses.leases().count())
        .sum();
    assert_eq!(leases, addresses.len(), "leases of nobody");
}

/// No VNI twice, and no subnets that overlap.
fn check_subnets(state: &ClusterState) {
    let subnets: Vec<_> = state
        .networks()
        .values()
        .flat_map(|network| &network.subnets)
        .collect();
    for (at, one) in subnets.iter().enumerate() {
        for two in &subnets[at + 1..] {
            assert_ne!(one.vni, two.vni);
            assert!(!one.prefix.contains(&two.prefix) && !two.prefix.contains(&one.prefix));
        }
    }
}

/// What an index finds is what a search finds.
fn check_queries(state: &ClusterState) {
    let (endpoints, tasks) = (state.endpoints(), state.tasks());
    for network in state.networks().values() {
        let scan = endpoints
            .values()
            .filter(|record| record.network == network.id);
        assert!(state.endpoints_of(network.id).eq(scan));
        let named = state.network_named(&network.name).unwrap();
        assert_eq!(named.id, network.id);
    }
    for node in (0..6).map(crate::command::node_id) {
        let scan = endpoints.values().filter(|record| record.node == node);
        assert!(state.endpoints_on(node).eq(scan));
        let scan = tasks.values().filter(|task| task.node == Some(node));
        assert!(state.tasks_on(node).eq(scan));
    }
    let managers = state.nodes().values();
    let managers = managers.filter_map(|node| Some((node.raft?, node)));
    assert!(state.voters().eq(managers));
    for service in state.services().values() {
        let scan = tasks.values().filter(|task| task.service == service.id);
        assert!(state.tasks_of(service.id).eq(scan));
    }
    for name in (0..5).map(crate::command::service_name) {
        let mut live = state
            .services()
            .values()
            .filter(|service| !service.removing);
        let scan = live.find(|service| service.spec().name == name);
        assert_eq!(state.service_named(&name), scan);
    }
    for name in (0..5).map(network_name) {
        let scan = state
            .networks()
            .values()
            .find(|network| network.name == name);
        let found = state.network_named(&name);
        assert_eq!(
            found.map(|network| network.id),
            scan.map(|network| network.id)
        );
    }
}
