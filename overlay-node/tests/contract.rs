//! The machine contract, line by line, by the checker of `overlay-sim`.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use bytes::Bytes;
use overlay_core::{
    EndpointId, Instant, Machine, NodeId, Rng, Seed,
    plane::{Namespace, PlatformError},
};
use overlay_dns::{QueryToken, Transport};
use overlay_node::{
    Boot, Config, ManagerBoot, Node, Output, Peer, RequestToken,
    agent::{AgentMemory, Assignment},
    api::{self, AttachRequest, NetworkCreate, Request, Role},
    state::{AddNode, ClusterSeed, RequestId},
    wire::{self, Answer, Ask, ManagerAddress, Message},
};
use overlay_raft::{PersistTicket, RaftId, Restored};
use overlay_sim::contract::{self, Acted, Subject};

#[test]
fn a_manager_keeps_the_contract() {
    let summary = contract::assert_holds("a_manager_keeps_the_contract", 12, NodeSubject::manager);
    assert!(summary.refused > 50, "{summary:?}");
    assert!(summary.outputs > 1_000, "{summary:?}");
}

#[test]
fn a_worker_keeps_the_contract() {
    let summary = contract::assert_holds("a_worker_keeps_the_contract", 12, NodeSubject::worker);
    assert!(summary.refused > 50, "{summary:?}");
    assert!(summary.outputs > 1_000, "{summary:?}");
}

/// A node with small limits, and what its driver holds for it.
struct NodeSubject {
    manager: bool,
    tickets: VecDeque<PersistTicket>,
    ports: VecDeque<EndpointId>,
    /// Assignments like those that this cluster's leader would send.
    assignment: Option<Assignment>,
}

impl NodeSubject {
    fn manager() -> Self {
        Self {
            manager: true,
            tickets: VecDeque::new(),
            ports: VecDeque::new(),
            assignment: None,
        }
    }

    fn worker() -> Self {
        Self {
            manager: false,
            ..Self::manager()
        }
    }

    /// Asks the node, acknowledges writes and ports.
    fn command(&mut self, node: &mut Node, now: Instant, rng: &mut Rng) -> Acted {
        let token = RequestToken(rng.next_u64());
        match rng.below(10) {
            0..=2 => match self.tickets.pop_front() {
                Some(ticket) => node.handle_persisted(now, ticket),
                None => node.handle_timeout(now),
            },
            3 => match self.ports.pop_front() {
                Some(endpoint) if rng.chance(700_000) => node.handle_port(now, endpoint, Ok(())),
                Some(endpoint) => {
                    let error = PlatformError::Unsupported {
                        what: "ports",
                        reason: "a test".to_owned(),
                    };
                    node.handle_port(now, endpoint, Err(error));
                }
                None if rng.chance(500_000) => node.handle_plane(now, rng.below(8)),
                None => node.step_aside(now),
            },
            4 => {
                let upstreams = (0..rng.below(3)).map(|_| remote(rng)).collect();
                node.set_upstreams(now, upstreams);
            }
            5 => {
                let (client, query) = (number(rng), octets(rng, 40));
                let transport = Transport::Udp;
                let client = EndpointId::from_bytes([client; 16]);
                let token = QueryToken(rng.next_u64());
                return node
                    .handle_query(now, client, token, transport, &query)
                    .into();
            }
            _ => node.request(now, token, request(rng)),
        }
        Acted::Done
    }

    fn message(&self, rng: &mut Rng) -> Message {
        let id = RequestId::from_bytes([number(rng); 16]);
        let raft = |rng: &mut Rng| RaftId::new(1 + rng.below(4)).unwrap();
        match rng.below(10) {
            0 => Message::Raft {
                from: raft(rng),
                to: raft(rng),
                bytes: Bytes::from(octets(rng, 60)),
            },
            1 | 2 => Message::Ask {
                request: id,
                ask: if rng.chance(800_000) {
                    Ask::Api(request(rng))
                } else {
                    Ask::AddNode(add(number(rng), role(rng)))
                },
            },
            3 => Message::Answer {
                request: id,
                result: Ok(Answer::Api(api::Response::Done)),
            },
            4 => Message::NotLeader {
                request: Some(id),
                leader: Some(node_id(number(rng))),
                managers: managers(rng),
            },
            5 => Message::Heartbeat {
                version: rng.below(20),
                epoch: rng.below(2),
            },
            6 => Message::HeartbeatAck,
            7 => match &self.assignment {
                Some(known) => {
                    let mut assignment = known.clone();
                    assignment.version = rng.below(1_000);
                    assignment.standing.managers = managers(rng);
                    if self.manager && rng.chance(950_000) {
                        // Seldom: it makes a worker of a manager.
                        assignment.standing.role = Role::Manager;
                        assignment.standing.raft = RaftId::new(1);
                    }
                    if rng.chance(300_000) {
                        assignment.endpoints.clear();
                    }
                    if rng.chance(300_000) {
                        assignment.networks.clear();
                    }
                    if rng.chance(500_000) {
                        Message::AssignmentChange(Box::new(known.difference(&assignment)))
                    } else {
                        Message::Assignment(Box::new(assignment))
                    }
                }
                None => Message::HeartbeatAck,
            },
            8 => Message::AssignmentLost,
            _ => Message::Removed,
        }
    }
}

impl Subject for NodeSubject {
    type Machine = Node;

    fn build(&mut self, seed: Seed, now: Instant) -> Node {
        let config = config(1);
        let mut rng = Seed::from_u64(1).rng();
        let raft = RaftId::new(1).unwrap();
        let first = ClusterSeed::generate(&mut rng, &config, String::new(), String::new());
        self.assignment = Some(assignment(&first));
        let memory = AgentMemory {
            assignment: self.assignment.clone().filter(|_| !self.manager),
            ..AgentMemory::default()
        };
        let boot = Boot {
            memory,
            manager: self.manager.then(|| ManagerBoot {
                raft,
                cluster: first.id,
                epoch: 0,
                restored: Restored::bootstrap([raft]),
            }),
            seeds: vec![(node_id(2), "192.0.2.2:2377".parse().unwrap())],
        };
        let mut node = Node::new(config, seed, now, boot).unwrap();
        if self.manager {
            node.initialize(now, RequestToken(0), first);
        }
        node
    }

    fn act(&mut self, node: &mut Node, now: Instant, rng: &mut Rng) -> Acted {
        if rng.chance(600_000) {
            return self.command(node, now, rng);
        }
        let bytes = self.sample(rng);
        self.feed(node, now, &bytes, rng)
    }

    fn take(&mut self, output: Output) -> String {
        match output {
            Output::Persist(batch) => {
                let (write, ticket) = batch.into_parts();
                self.tickets.push_back(ticket);
                format!("Persist({write:?})")
            }
            Output::CreatePort(spec) => {
                self.ports.push_back(spec.endpoint);
                format!("{spec:?}")
            }
            other => format!("{other:?}"),
        }
    }

    fn fingerprint(&self, node: &Node) -> String {
        let gossip = node.gossip().map(|gossip| {
            let members: Vec<_> = gossip.members().cloned().collect();
            let tables: Vec<_> = gossip
                .networks()
                .map(|network| (network, gossip.table_digest(network)))
                .collect();
            (members, tables)
        });
        let raft = node
            .raft()
            .map(|raft| (raft.role(), raft.term(), raft.commit(), raft.last_index()));
        format!(
            "{gossip:?} {raft:?} {:?} {:?} {:?} {:?}",
            node.state().map(overlay_node::state::ClusterState::hash),
            node.leader(),
            node.assignment(),
            node.desired(),
        )
    }

    fn footprint(&self, node: &Node) -> usize {
        let members = node.gossip().map_or(0, |gossip| gossip.members().count());
        let state = node.state().map_or(0, |state| {
            state.nodes().len() + state.networks().len() + state.endpoints().len()
        });
        members + state + node.pending()
    }

    fn footprint_max(&self) -> usize {
        // Nodes, networks and endpoints that these requests can name, members, and local requests.
        (IDS + 2) + (IDS + 1) + IDS * IDS + IDS + REQUESTS_MAX
    }

    fn sample(&mut self, rng: &mut Rng) -> Vec<u8> {
        wire::encode(&self.message(rng))
    }

    fn feed(&mut self, node: &mut Node, now: Instant, bytes: &[u8], rng: &mut Rng) -> Acted {
        match rng.below(8) {
            0 => {
                node.handle_gossip_datagram(now, remote(rng), bytes);
                Acted::Done
            }
            1 => {
                let client = EndpointId::from_bytes([number(rng); 16]);
                let token = QueryToken(rng.next_u64());
                node.handle_query(now, client, token, Transport::Udp, bytes)
                    .into()
            }
            2 => {
                let stream = overlay_gossip::StreamId::Accepted(rng.below(4));
                match rng.below(4) {
                    0 => node.handle_stream_opened(now, stream, remote(rng)),
                    1 => node.handle_stream_closed(now, stream),
                    _ => node.handle_stream_data(now, stream, bytes),
                }
                Acted::Done
            }
            _ => {
                let peer = Peer {
                    node: node_id(number(rng)),
                    role: role(rng),
                };
                node.handle_peer(now, peer, bytes).into()
            }
        }
    }
}

fn request(rng: &mut Rng) -> Request {
    let name = |rng: &mut Rng| format!("x{}", number(rng));
    match rng.below(12) {
        0..=3 => Request::Attach(AttachRequest {
            network: name(rng),
            name: name(rng),
            aliases: Vec::new(),
            addresses: Vec::new(),
            namespace: Namespace::InProcess,
            endpoint: Some(EndpointId::from_bytes([number(rng); 16])),
        }),
        4 => Request::Detach {
            endpoint: name(rng),
        },
        5 | 6 => Request::NetworkCreate(NetworkCreate {
            name: name(rng),
            attachable: true,
            ..NetworkCreate::default()
        }),
        7 => Request::NetworkRemove { network: name(rng) },
        8 => Request::NodeList,
        9 => Request::NodeSetRole {
            node: name(rng),
            role: role(rng),
        },
        10 => Request::EndpointList,
        _ => Request::JoinToken {
            role: role(rng),
            rotate: rng.chance(500_000),
        },
    }
}

/// What the leader would send to the node when it runs one endpoint.
fn assignment(first: &ClusterSeed) -> Assignment {
    let config = config(1);
    let mut made = Node::new(
        config,
        Seed::from_u64(2),
        Instant::EPOCH,
        Boot {
            memory: AgentMemory::default(),
            manager: Some(ManagerBoot {
                raft: RaftId::new(1).unwrap(),
                cluster: first.id,
                epoch: 0,
                restored: Restored::bootstrap([RaftId::new(1).unwrap()]),
            }),
            seeds: Vec::new(),
        },
    )
    .unwrap();
    let mut now = Instant::EPOCH;
    made.initialize(now, RequestToken(0), first.clone());
    let create = NetworkCreate {
        name: "x0".to_owned(),
        attachable: true,
        ..NetworkCreate::default()
    };
    made.request(now, RequestToken(1), Request::NetworkCreate(create));
    loop {
        while let Some(output) = made.poll_output() {
            match output {
                Output::Persist(batch) => made.handle_persisted(now, batch.into_parts().1),
                Output::CreatePort(spec) => made.handle_port(now, spec.endpoint, Ok(())),
                Output::Plane { number, .. } => made.handle_plane(now, number),
                Output::Reply {
                    token: RequestToken(1),
                    result,
                } => {
                    result.unwrap();
                    let attach = AttachRequest {
                        network: "x0".to_owned(),
                        name: "x0".to_owned(),
                        aliases: Vec::new(),
                        addresses: Vec::new(),
                        namespace: Namespace::InProcess,
                        endpoint: Some(EndpointId::from_bytes([0; 16])),
                    };
                    made.request(now, RequestToken(2), Request::Attach(attach));
                }
                Output::Reply {
                    token: RequestToken(2),
                    result,
                } => {
                    result.unwrap();
                    let mut assignment = made.assignment().unwrap().clone();
                    // A worker's.
                    assignment.standing.role = Role::Worker;
                    assignment.standing.raft = None;
                    return assignment;
                }
                _ => {}
            }
        }
        now = made.poll_timeout().unwrap().max(now);
        made.handle_timeout(now);
    }
}

fn config(number: u8) -> Config {
    let mut config = Config::new(
        node_id(number),
        format!("x{number}"),
        [192, 0, 2, number].into(),
    );
    config.requests_max = REQUESTS_MAX;
    config.snapshot_interval = 8;
    config.timers.orphan_grace = Duration::from_secs(3);
    config
}

fn add(number: u8, role: Role) -> AddNode {
    AddNode::new(&config(number), role)
}

fn managers(rng: &mut Rng) -> Vec<ManagerAddress> {
    (0..rng.below(3))
        .map(|_| {
            let manager = number(rng);
            ManagerAddress {
                node: node_id(manager),
                raft: RaftId::new(1 + u64::from(manager)).unwrap(),
                management: SocketAddr::from(([192, 0, 2, manager], 2377)),
                gossip: SocketAddr::from(([192, 0, 2, manager], 7946)),
            }
        })
        .collect()
}

fn remote(rng: &mut Rng) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number(rng)], 7946))
}

fn role(rng: &mut Rng) -> Role {
    if rng.chance(500_000) {
        Role::Manager
    } else {
        Role::Worker
    }
}

fn number(rng: &mut Rng) -> u8 {
    u8::try_from(rng.index(IDS).unwrap_or_default()).unwrap()
}

fn octets(rng: &mut Rng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.index(most).unwrap_or_default()];
    rng.fill(&mut bytes);
    bytes
}

fn node_id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

/// Identities and names are drawn from so many.
const IDS: usize = 5;
const REQUESTS_MAX: usize = 8;
