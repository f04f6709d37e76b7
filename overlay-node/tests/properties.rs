//! The cluster state against a naive model, and octets from outside.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use overlay_core::{EndpointId, NetworkId, NodeId};
use overlay_node::{
    api::{NetworkCreate, Role, SubnetSpec},
    identity::JoinToken,
    state::{
        AddNode, AttachEndpoint, ClusterSeed, ClusterState, Command, Outcome, Proposal, RequestId,
        Secret,
    },
    wire,
};
use proptest::prelude::*;

/// What is proposed; small numbers, so that things meet.
#[derive(Clone, Debug)]
enum Op {
    AddNode {
        node: u8,
        manager: bool,
    },
    SetRole {
        node: u8,
        manager: bool,
    },
    RemoveNode {
        node: u8,
    },
    Create {
        network: u8,
        name: u8,
        attachable: bool,
        small: bool,
    },
    Remove {
        network: u8,
    },
    Attach {
        endpoint: u8,
        node: u8,
        network: u8,
        name: u8,
        address: Option<u8>,
    },
    Detach {
        endpoint: u8,
        node: Option<u8>,
    },
    /// The request before comes once more.
    Again,
    Rotate {
        manager: bool,
        secret: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let n = || 0..5_u8;
    prop_oneof![
        2 => (n(), any::<bool>()).prop_map(|(node, manager)| Op::AddNode { node, manager }),
        2 => (n(), any::<bool>()).prop_map(|(node, manager)| Op::SetRole { node, manager }),
        1 => n().prop_map(|node| Op::RemoveNode { node }),
        3 => (n(), n(), prop::bool::weighted(0.9), any::<bool>())
            .prop_map(|(network, name, attachable, small)| Op::Create { network, name, attachable, small }),
        1 => n().prop_map(|network| Op::Remove { network }),
        8 => (0..20_u8, n(), n(), 0..20_u8, prop::option::weighted(0.3, 0..16_u8))
            .prop_map(|(endpoint, node, network, name, address)| Op::Attach { endpoint, node, network, name, address }),
        4 => (0..20_u8, prop::option::of(n())).prop_map(|(endpoint, node)| Op::Detach { endpoint, node }),
        1 => Just(Op::Again),
        1 => (any::<bool>(), any::<u8>()).prop_map(|(manager, secret)| Op::Rotate { manager, secret }),
    ]
}

/// What the state should hold, in the plainest form.
#[derive(Clone, Debug, Default)]
struct Model {
    /// Whether each node is a manager.
    nodes: BTreeMap<u8, bool>,
    /// Name, whether it is attachable, and how many addresses it has.
    networks: BTreeMap<u8, (u8, bool, usize)>,
    /// Node, network and name of each endpoint.
    endpoints: BTreeMap<u8, (u8, u8, u8)>,
}

impl Model {
    fn managers(&self) -> usize {
        self.nodes.values().filter(|manager| **manager).count()
    }

    /// Carries an operation out; `None` where the model does not know whether it may succeed.
    fn run(&mut self, op: &Op) -> Option<bool> {
        match *op {
            Op::AddNode { node, manager } => {
                if !manager && self.nodes.get(&node) == Some(&true) {
                    return Some(false);
                }
                self.nodes.insert(node, manager);
            }
            Op::SetRole { node, manager } => {
                let last = self.managers() == 1 && self.nodes.get(&node) == Some(&true);
                if !self.nodes.contains_key(&node) || (last && !manager) {
                    return Some(false);
                }
                self.nodes.insert(node, manager);
            }
            Op::RemoveNode { node } => {
                let last = self.managers() == 1 && self.nodes.get(&node) == Some(&true);
                if last || self.nodes.remove(&node).is_none() {
                    return Some(false);
                }
                self.endpoints.retain(|_, (on, _, _)| *on != node);
            }
            Op::Create {
                network,
                name,
                attachable,
                small,
            } => {
                if self.networks.values().any(|(other, _, _)| *other == name) {
                    return Some(false);
                }
                self.networks
                    .insert(network, (name, attachable, if small { 13 } else { 253 }));
            }
            Op::Remove { network } => {
                let used = self.endpoints.values().any(|(_, on, _)| *on == network);
                if used || self.networks.remove(&network).is_none() {
                    return Some(false);
                }
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
            Op::Again | Op::Rotate { .. } => {}
        }
        Some(true)
    }

    fn may_attach(&self, endpoint: u8, node: u8, network: u8, name: u8) -> bool {
        let Some(&(_, true, size)) = self.networks.get(&network) else {
            return false;
        };
        let same = |(id, (_, on, other)): (&u8, &(u8, u8, u8))| {
            *id == endpoint || (*on == network && *other == name)
        };
        let used = self.endpoints.values().filter(|(_, on, _)| *on == network);
        self.nodes.contains_key(&node) && !self.endpoints.iter().any(same) && used.count() < size
    }

    /// Compares with the state, and checks what must hold of every state.
    fn check(&self, state: &ClusterState) {
        let nodes: BTreeMap<_, _> = state
            .nodes()
            .values()
            .map(|node| (node.id.as_bytes()[0], node.role == Role::Manager))
            .collect();
        assert_eq!(nodes, self.nodes);
        let endpoints: BTreeMap<_, _> = state
            .endpoints()
            .values()
            .map(|record| {
                let name = record.name.trim_start_matches('e').parse().unwrap();
                let (node, network) = (record.node.as_bytes()[0], record.network.as_bytes()[0]);
                (record.id.as_bytes()[0], (node, network, name))
            })
            .collect();
        assert_eq!(endpoints, self.endpoints);
        let networks: BTreeSet<_> = state
            .networks()
            .values()
            .filter(|network| !network.ingress)
            .map(|network| network.id.as_bytes()[0])
            .collect();
        assert_eq!(networks, self.networks.keys().copied().collect());

        let mut addresses = BTreeSet::new();
        for endpoint in state.endpoints().values() {
            let network = &state.networks()[&endpoint.network];
            let address = endpoint.addresses[0];
            let subnet = &network.subnets[0];
            assert!(
                addresses.insert((endpoint.network, address.addr())),
                "{address} twice"
            );
            assert!(
                subnet.prefix.contains(&address.addr()) && Some(address.addr()) != subnet.gateway
            );
            assert!(
                subnet.addresses.owner(address.addr()).is_some(),
                "{address} is not leased"
            );
        }
        for network in state.networks().values() {
            let used: usize = network
                .subnets
                .iter()
                .map(|subnet| subnet.addresses.used())
                .sum();
            assert_eq!(
                used,
                state.endpoints_of(network.id).count(),
                "leases without endpoints"
            );
        }
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
        let rafts: BTreeSet<_> = state.voters().map(|(raft, _)| raft).collect();
        assert_eq!(rafts.len(), self.managers());
    }
}

fn command(op: &Op, state: &ClusterState) -> Command {
    match *op {
        Op::AddNode { node, manager } => Command::AddNode(add(node, role(manager))),
        Op::SetRole { node, manager } => Command::SetRole {
            node: NodeId::from_bytes([node; 16]),
            role: role(manager),
        },
        Op::RemoveNode { node } => Command::RemoveNode {
            node: NodeId::from_bytes([node; 16]),
        },
        Op::Create {
            network,
            name,
            attachable,
            small,
        } => Command::CreateNetwork {
            id: NetworkId::from_bytes([network; 16]),
            spec: NetworkCreate {
                name: format!("n{name}"),
                attachable,
                subnets: small.then(small_subnet).into_iter().collect(),
                ..NetworkCreate::default()
            },
        },
        Op::Remove { network } => Command::RemoveNetwork {
            network: NetworkId::from_bytes([network; 16]),
        },
        Op::Attach {
            endpoint,
            node,
            network,
            name,
            address,
        } => {
            let network = NetworkId::from_bytes([network; 16]);
            let nth = |address: u8| {
                let prefix = state.networks().get(&network)?.subnets[0].prefix;
                match prefix.addr() {
                    IpAddr::V4(base) => {
                        Some(IpAddr::V4((u32::from(base) + u32::from(address)).into()))
                    }
                    IpAddr::V6(_) => None,
                }
            };
            Command::AttachEndpoint(AttachEndpoint {
                id: EndpointId::from_bytes([endpoint; 16]),
                node: NodeId::from_bytes([node; 16]),
                network,
                name: format!("e{name}"),
                aliases: vec!["any".to_owned()],
                address: address
                    .map(|address| nth(address).unwrap_or(IpAddr::from([192, 0, 2, 1]))),
            })
        }
        Op::Detach { endpoint, node } => Command::DetachEndpoint {
            endpoint: EndpointId::from_bytes([endpoint; 16]),
            node: node.map(|node| NodeId::from_bytes([node; 16])),
        },
        Op::Rotate { manager, secret } => Command::RotateToken {
            role: role(manager),
            secret: Secret::new(vec![secret; 16]).unwrap(),
        },
        Op::Again => unreachable!("repeats the proposal before"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_state_is_what_a_naive_model_says(ops in prop::collection::vec(op(), 1..80), cut in 0..80_usize) {
        let mut state = ClusterState::new();
        let mut replica = ClusterState::new();
        let mut model = Model::default();
        let mut last = proposal(0, Command::InitCluster(Box::new(seed())));
        state.apply(1, last.clone()).unwrap();
        replica.apply(1, last.clone()).unwrap();
        model.nodes.insert(0, true);
        let mut last_outcome = state.outcome(last.request).unwrap().clone();
        let mut rafts = BTreeSet::new();
        let mut index = 1;
        for (at, op) in ops.iter().enumerate() {
            index += 2; // gaps are entries of the consensus itself
            // The model is keyed by a small number, and a network's identity is drawn at random in earnest.
            if let Op::Create { network, .. } = op
                && model.networks.contains_key(network)
            {
                continue;
            }
            if matches!(op, Op::Again) {
                let again = state.apply(index, last.clone());
                prop_assert_eq!(&again, &last_outcome);
            } else {
                let before = state.clone();
                let expected = model.run(op);
                last = proposal(index, command(op, &state));
                let outcome = state.apply(index, last.clone());
                match (expected, &outcome, op) {
                    (Some(expected), outcome, _) => {
                        prop_assert_eq!(outcome.is_ok(), expected, "{:?}: {:?}", op, outcome);
                    }
                    (None, Ok(_), Op::Attach { endpoint, node, network, name, .. }) => {
                        model.endpoints.insert(*endpoint, (*node, *network, *name));
                    }
                    (None, _, _) => {}
                }
                if let (Ok(Outcome::Node(node, Some(raft))), Op::SetRole { .. } | Op::AddNode { .. }) = (&outcome, op) {
                    let same = before.nodes().get(node).and_then(|record| record.raft) == Some(*raft);
                    prop_assert!(rafts.insert(*raft) || same, "{} was used before", raft);
                }
                last_outcome = outcome;
            }
            model.check(&state);
            let replayed = replica.apply(index, last.clone());
            prop_assert_eq!(&replayed, &last_outcome);
            prop_assert_eq!(state.hash(), replica.hash());
            if at == cut {
                replica = ClusterState::restore(&replica.snapshot()).unwrap();
                prop_assert_eq!(state.hash(), replica.hash());
            }
        }
    }

    #[test]
    fn octets_from_outside_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = ClusterState::restore(&bytes);
        let _ = wire::decode(&bytes);
        let mut framed = vec![b'S', 1];
        framed.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        framed.extend_from_slice(&bytes);
        let _ = ClusterState::restore(&framed);
        let mut framed = vec![b'M', 1];
        framed.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        framed.extend_from_slice(&bytes);
        let _ = wire::decode(&framed);
    }

    #[test]
    fn text_from_outside_never_panics(text in "(SWMTKN-1-)?[-0-9a-zA-Z\\PC]{0,90}") {
        let _ = text.parse::<JoinToken>();
    }

    #[test]
    fn a_damaged_snapshot_never_panics(
        ops in prop::collection::vec(op(), 1..30),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut state = ClusterState::new();
        state.apply(1, proposal(0, Command::InitCluster(Box::new(seed())))).unwrap();
        let mut index = 1;
        for op in ops.iter().filter(|op| !matches!(op, Op::Again)) {
            index += 1;
            let _ = state.apply(index, proposal(index, command(op, &state)));
        }
        let mut bytes = state.snapshot();
        for (at, value) in damage {
            let at = 10 + at.index(bytes.len() - 10);
            bytes[at] = value;
        }
        // The log's checksum catches damage long before; what gets past it is at least read without a panic.
        let _ = ClusterState::restore(&bytes).map(|state| state.snapshot());
    }
}

/// A /28 of the pools.
fn small_subnet() -> SubnetSpec {
    SubnetSpec {
        subnet: Some("0.0.0.0/28".parse().unwrap()),
        gateway: None,
        ip_range: None,
    }
}

fn proposal(number: u64, command: Command) -> Proposal {
    Proposal {
        request: RequestId::from_bytes(u128::from(number).to_be_bytes()),
        actor: NodeId::from_bytes([0; 16]),
        at_unix_ms: number,
        command,
    }
}

fn seed() -> ClusterSeed {
    let secret = |byte| Secret::new(vec![byte; 16]).unwrap();
    ClusterSeed {
        id: NodeId::from_bytes([200; 16]),
        ca_certificate: String::new(),
        ca_key: Secret::any(Vec::new()),
        lease_key: Secret::new(vec![1; 32]).unwrap(),
        gossip_key: secret(2),
        worker_token: secret(3),
        manager_token: secret(4),
        pools: Vec::new(),
        pool_split: 24,
        ingress: NetworkId::from_bytes([255; 16]),
        manager: add(0, Role::Manager),
    }
}

fn add(number: u8, role: Role) -> AddNode {
    AddNode {
        id: NodeId::from_bytes([number; 16]),
        hostname: format!("host{number}"),
        role,
        address: IpAddr::from([192, 0, 2, number]),
        management_port: 2377,
        gossip_port: 7946,
        version: String::new(),
    }
}

fn role(manager: bool) -> Role {
    if manager { Role::Manager } else { Role::Worker }
}
