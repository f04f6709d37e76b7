//! What nodes say, and the state that managers keep.

use overlay_core::{EndpointId, NetworkId, NodeId, Seed as Randomness, ServiceId, TaskId};
use overlay_fuzz::{Script, own_member};
use overlay_node::{
    Config,
    api::{
        ClusterUpdate, DesiredState, NetworkCreate, Request, Role, ServiceMode, ServiceSpec, Slot,
        TaskState, TaskStatus,
    },
    identity::JoinToken,
    state::{
        AddNode, AttachEndpoint, ClusterSeed, ClusterState, Command, NodeDescription, Proposal,
        RequestId, Secret, TaskChange,
    },
    wire::{self, Ask, Message},
};
use overlay_raft::RaftId;

use crate::{Seed, seed};

fn config(number: u8) -> Config {
    let node = NodeId::from_bytes([number; 16]);
    Config::new(node, format!("host-{number}"), [192, 0, 2, number].into())
}

fn create() -> NetworkCreate {
    NetworkCreate {
        name: "my-net".into(),
        attachable: true,
        ..NetworkCreate::default()
    }
}

fn commands() -> Vec<(&'static str, Command)> {
    let mut rng = Randomness::from_u64(1).rng();
    let network = NetworkId::from_bytes([7; 16]);
    let (node, endpoint) = (config(2).node, EndpointId::from_bytes([8; 16]));
    let cluster = ClusterSeed::generate(&mut rng, &config(1), "certificate".into(), "key".into());
    let attach = AttachEndpoint {
        id: endpoint,
        node,
        network,
        name: "web".into(),
        aliases: vec!["www".into()],
        addresses: Vec::new(),
    };
    vec![
        ("init", Command::InitCluster(Box::new(cluster))),
        (
            "add",
            Command::AddNode(AddNode::new(&config(2), Role::Worker)),
        ),
        (
            "role",
            Command::SetRole {
                node,
                role: Role::Manager,
            },
        ),
        (
            "create",
            Command::CreateNetwork {
                id: network,
                spec: create(),
            },
        ),
        ("attach", Command::AttachEndpoint(attach)),
        (
            "rotate",
            Command::RotateToken {
                role: Role::Worker,
                secret: Secret::random(&mut rng),
            },
        ),
        (
            "describe",
            Command::DescribeNode {
                node,
                description: NodeDescription::new(&Config {
                    address: [192, 0, 2, 9].into(),
                    ..config(2)
                }),
            },
        ),
        (
            "detach",
            Command::DetachEndpoint {
                endpoint,
                node: None,
            },
        ),
        ("remove-network", Command::RemoveNetwork { network }),
    ]
    .into_iter()
    .chain(of_services(node))
    .chain([
        (
            "update-cluster",
            Command::UpdateCluster {
                change: ClusterUpdate {
                    task_history_limit: Some(2),
                    heartbeat_ms: Some(500),
                    certificate_ms: Some(60_000),
                    key_rotation_ms: Some(60_000),
                },
            },
        ),
        ("remove-node", Command::RemoveNode { node }),
        (
            "recover",
            Command::Recover {
                manager: config(1).node,
                epoch: 1,
            },
        ),
    ])
    .collect()
}

/// Index of the command that creates the service, which is the version of its first spec.
const CREATED_AT: u64 = 10;

/// A service's life, with one task that a node runs.
fn of_services(node: NodeId) -> Vec<(&'static str, Command)> {
    let (id, task) = (ServiceId::from_bytes([5; 16]), TaskId::from_bytes([6; 16]));
    let spec = |replicas| ServiceSpec {
        name: "db".into(),
        mode: ServiceMode::Replicated(replicas),
        ..ServiceSpec::default()
    };
    let desired = DesiredState::Running;
    let create = TaskChange::Create {
        task,
        service: id,
        slot: Slot::Replica(1),
        spec_version: CREATED_AT,
        desired,
    };
    let running = TaskStatus {
        state: TaskState::Running,
        since_unix_ms: 2,
        ..TaskStatus::default()
    };
    vec![
        (
            "create-service",
            Command::CreateService {
                id,
                spec: Box::new(spec(1)),
            },
        ),
        (
            "change-tasks",
            Command::ChangeTasks {
                changes: vec![create, TaskChange::Place { task, node }],
            },
        ),
        (
            "report",
            Command::ReportTasks {
                node,
                reports: vec![(task, running)],
            },
        ),
        (
            "update-service",
            Command::UpdateService {
                id,
                version: Some(CREATED_AT),
                spec: Box::new(spec(3)),
            },
        ),
        ("roll-back", Command::RollBackService { id }),
        ("remove-service", Command::RemoveService { id }),
    ]
}

fn proposal(number: usize, command: Command) -> Proposal {
    let number = u8::try_from(number).expect("few commands");
    Proposal {
        request: RequestId::from_bytes([number; 16]),
        actor: config(1).node,
        at_unix_ms: 1,
        command,
    }
}

pub(crate) fn states() -> Vec<Seed> {
    let mut state = ClusterState::new();
    let mut all = Script::new().op(&[10]);
    let mut seeds = vec![seed(
        "empty",
        Script::new().op(&[0]).op(&state.snapshot()).done(),
    )];
    for (at, (name, command)) in commands().into_iter().enumerate() {
        let proposal = proposal(at, command);
        let octets = postcard::to_allocvec(&proposal).expect("a command serializes");
        all = all.bytes(&octets);
        let script = Script::new().op(&[1]).bytes(&octets).op(&state.snapshot());
        seeds.push(seed(name, script.done()));
        let index = state.applied() + 1;
        state.apply(index, proposal).expect("a good command");
    }
    seeds.push(seed("all", all.done()));
    seeds
}

fn messages() -> Vec<(&'static str, Message)> {
    let request = RequestId::from_bytes([9; 16]);
    let ask = |ask| Message::Ask { request, ask };
    let raft = |number| RaftId::new(number).expect("not zero");
    vec![
        (
            "heartbeat",
            Message::Heartbeat {
                version: 1,
                epoch: 0,
            },
        ),
        ("ack", Message::HeartbeatAck),
        ("removed", Message::Removed),
        (
            "add",
            ask(Ask::AddNode(AddNode::new(&config(2), Role::Worker))),
        ),
        ("create", ask(Ask::Api(Request::NetworkCreate(create())))),
        ("list", ask(Ask::Api(Request::NetworkList))),
        (
            "inspect",
            ask(Ask::Api(Request::NodeInspect {
                node: "host-1".into(),
            })),
        ),
        (
            "raft",
            Message::Raft {
                from: raft(2),
                to: raft(1),
                bytes: b"\x0b\x01\0\0\0\0".as_slice().into(),
            },
        ),
        (
            "not-leader",
            Message::NotLeader {
                request: Some(request),
                leader: Some(config(2).node),
                managers: Vec::new(),
            },
        ),
    ]
}

pub(crate) fn frames() -> Vec<Seed> {
    let messages = messages().into_iter();
    messages
        .map(|(name, message)| seed(name, wire::encode(&message)))
        .collect()
}

pub(crate) fn conversations() -> Vec<Seed> {
    let mut all = Script::new();
    let mut seeds = Vec::new();
    for (name, message) in messages() {
        let frame = wire::encode(&message);
        let body = &frame[wire::HEADER_BYTES..];
        let script = Script::new()
            .op(&[1, 2])
            .bytes(body)
            .op(&[0, 2])
            .bytes(body);
        seeds.push(seed(name, script.op(&[6, 100]).done()));
        if name != "removed" {
            all = all.op(&[9, 2]).bytes(&frame).op(&[6, 20]);
        }
    }
    seeds.push(seed("all", all.done()));
    seeds
}

pub(crate) fn tokens() -> Vec<Seed> {
    let mut rng = Randomness::from_u64(1).rng();
    let token = JoinToken {
        ca_digest: rng.bytes(),
        secret: Secret::random(&mut rng),
    };
    vec![
        seed("token", token.to_string()),
        seed("spaces", format!(" {token}\n")),
        seed("short", &token.to_string().as_bytes()[..40]),
    ]
}

/// Asks of nodes that have no certificate: whole, with a secret of another length, and with more than there is.
pub(crate) fn joins() -> Vec<Seed> {
    let mut rng = Randomness::from_u64(1).rng();
    let secret: Secret<16> = Secret::random(&mut rng);
    let node = AddNode::new(&config(2), Role::Worker);
    let body = |secret: &[u8], request: &str| {
        let parts = (0_u8, secret, request, &node);
        postcard::to_allocvec(&parts).expect("every part serializes")
    };
    let whole = body(secret.expose(), "-----BEGIN CERTIFICATE REQUEST-----");
    let renew = postcard::to_allocvec(&(1_u8, "request")).expect("every part serializes");
    vec![
        seed("cut", &whole[..whole.len() - 1]),
        seed("long", [&whole[..], &[0xff; 10]].concat()),
        seed("renew", renew),
        seed("secret-15", body(&secret.expose()[..15], "request")),
        seed("whole", whole),
    ]
}

/// What a node says of itself, in its own name and another's, from its own place and elsewhere, changed here and there.
pub(crate) fn members() -> Vec<Seed> {
    let own = own_member();
    let step = |whose: u8, place: u8, said: &[u8]| {
        let script = Script::new().op(&[whose, place]);
        let script = if whose % 3 == 2 {
            script.bytes(b"web")
        } else {
            script
        };
        script.op(&[3]).bytes(said).done()
    };
    let mut seeds = vec![seed("nothing", step(1, 1, b""))];
    for (name, whose, place) in [
        ("own", 0, 0),
        ("moved", 0, 1),
        ("another", 1, 0),
        ("text", 2, 1),
    ] {
        seeds.push(seed(name, step(whose, place, &own)));
    }
    for (name, at) in [
        ("version", 0),
        ("life", 43),
        ("pass", 63),
        ("key", 80),
        ("signature", own.len() - 1),
    ] {
        let mut changed = own.clone();
        changed[at] ^= 1;
        seeds.push(seed(
            name,
            [step(1, 1, &changed), step(0, 1, &changed)].concat(),
        ));
    }
    seeds.push(seed("cut", step(1, 1, &own[..own.len() / 2])));
    seeds
}
