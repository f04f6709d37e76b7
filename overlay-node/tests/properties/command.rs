//! Operations as commands.

use std::net::IpAddr;

use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId, TaskId};
use overlay_node::{
    api::{
        Availability, DesiredState, EndpointMode, NetworkCreate, NodeUpdate, PendingReason,
        PolicyChange, PublishMode, PublishedPort, Resources, Role, RuleSpec, Selector, ServiceSpec,
        Slot, SubnetSpec, TaskStatus, Traffic, TrafficMatch, UpdatePhase, Verdict,
    },
    state::{
        AddNode, AttachEndpoint, ClusterSeed, ClusterState, Command, NodeDescription, Proposal,
        RequestId, Secret, TaskChange,
    },
};

use crate::op::{Op, Spec, Task, Version};

/// Makes the command; what it refers to is looked up in the state, as whoever proposes does.
pub(crate) fn command(op: &Op, state: &ClusterState) -> Command {
    match op {
        Op::Create { .. } | Op::Remove { .. } | Op::Attach { .. } | Op::Detach { .. } => {
            network_command(op, state)
        }
        Op::AddRule { .. } | Op::RemoveRule { .. } | Op::SetDefault { .. } => policy_command(op),
        Op::AddNode { .. }
        | Op::SetRole { .. }
        | Op::SetAddress { .. }
        | Op::UpdateNode { .. }
        | Op::Recover { .. }
        | Op::RemoveNode { .. } => node_command(op),
        Op::DetachTask {
            task,
            network,
            node,
        } => Command::DetachEndpoint {
            endpoint: task_endpoint(*task, *network),
            node: node.map(node_id),
        },
        Op::Change(changes) => Command::ChangeTasks {
            changes: changes.iter().map(|task| change(task, state)).collect(),
        },
        Op::Report {
            node,
            task,
            state: to,
        } => {
            let status = TaskStatus {
                state: *to,
                message: "as it is".to_owned(),
                ..TaskStatus::default()
            };
            let own = state
                .tasks()
                .get(&task_id(*task))
                .and_then(|task| task.node);
            let node = node.map(node_id).or(own);
            Command::ReportTasks {
                node: node.unwrap_or(node_id(0)),
                reports: vec![(task_id(*task), status)],
            }
        }
        Op::Rotate { manager, secret } => Command::RotateToken {
            role: role(*manager),
            secret: Secret::new(vec![*secret; 16]).unwrap(),
        },
        Op::Again => unreachable!("repeats the proposal before"),
        _ => service_command(op, state),
    }
}

fn node_command(op: &Op) -> Command {
    match *op {
        Op::AddNode { node, manager } => Command::AddNode(add(node, role(manager))),
        Op::SetRole { node, manager } => Command::SetRole {
            node: node_id(node),
            role: role(manager),
        },
        Op::SetAddress { node, octet } => {
            let known = add(node, Role::Worker);
            let description = NodeDescription {
                hostname: known.hostname,
                address: [192, 0, 2, 100 + octet].into(),
                management_port: known.management_port,
                gossip_port: known.gossip_port,
                version: known.version,
                resources: Resources::default(),
                routes: Vec::new(),
                issuer: [octet; 32],
            };
            let node = node_id(node);
            Command::DescribeNode { node, description }
        }
        Op::Recover { node, epoch } => Command::Recover {
            manager: node_id(node),
            epoch,
        },
        Op::UpdateNode { node, pause, label } => {
            let mut change = NodeUpdate {
                availability: pause.map(availability),
                ..NodeUpdate::default()
            };
            if label < 5 {
                let value = (format!("label{label}"), "value".to_owned());
                change.labels_add.extend([value]);
            } else {
                change.labels_remove = vec![format!("label{}", label - 5)];
            }
            let node = node_id(node);
            Command::UpdateNode { node, change }
        }
        Op::RemoveNode { node } => Command::RemoveNode {
            node: node_id(node),
        },
        _ => unreachable!("{op:?} is not about nodes"),
    }
}

fn service_command(op: &Op, state: &ClusterState) -> Command {
    match op {
        Op::CreateService {
            service,
            name,
            spec,
        } => Command::CreateService {
            id: service_id(*service),
            spec: Box::new(service_spec(&service_name(*name), spec)),
        },
        Op::UpdateService {
            service,
            spec,
            stale,
        } => {
            let id = service_id(*service);
            let known = state.services().get(&id);
            let name = known.map_or_else(String::new, |known| known.spec().name.clone());
            Command::UpdateService {
                id,
                version: stale.then_some(1),
                spec: Box::new(service_spec(&name, spec)),
            }
        }
        Op::RollBack { service } => Command::RollBackService {
            id: service_id(*service),
        },
        Op::RemoveService { service } => Command::RemoveService {
            id: service_id(*service),
        },
        _ => unreachable!("{op:?} is not about services"),
    }
}

fn network_command(op: &Op, state: &ClusterState) -> Command {
    match *op {
        Op::Create {
            network,
            name,
            attachable,
            small,
        } => Command::CreateNetwork {
            id: network_id(network),
            spec: NetworkCreate {
                name: network_name(name),
                attachable,
                subnets: small.then(small_subnet).into_iter().collect(),
                ..NetworkCreate::default()
            },
        },
        Op::Remove { network } => Command::RemoveNetwork {
            network: network_id(network),
        },
        Op::Attach {
            endpoint,
            node,
            network,
            name,
            address,
        } => {
            let network = network_id(network);
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
                id: endpoint_id(endpoint),
                node: node_id(node),
                network,
                name: format!("e{name}"),
                aliases: vec!["any".to_owned()],
                addresses: address
                    .map(|address| nth(address).unwrap_or(IpAddr::from([192, 0, 2, 1])))
                    .into_iter()
                    .collect(),
            })
        }
        Op::Detach { endpoint, node } => Command::DetachEndpoint {
            endpoint: endpoint_id(endpoint),
            node: node.map(node_id),
        },
        _ => unreachable!("{op:?} is not about networks"),
    }
}

fn policy_command(op: &Op) -> Command {
    let (network, change) = match *op {
        Op::AddRule {
            network,
            rule,
            before,
            replace,
        } => {
            let rule = RuleSpec {
                name: rule_name(rule),
                from: Selector::Any,
                to: Selector::Service(service_name(rule)),
                traffic: vec![Traffic(TrafficMatch::Any)],
                verdict: Verdict::Allow,
            };
            let before = before.map(rule_name);
            let add = PolicyChange::Add {
                rule,
                before,
                replace,
            };
            (network, add)
        }
        Op::RemoveRule { network, rule } => {
            let name = rule_name(rule);
            (network, PolicyChange::Remove { name })
        }
        Op::SetDefault { network, deny } => {
            let verdict = verdict(deny);
            (network, PolicyChange::Default { verdict })
        }
        _ => unreachable!("{op:?} is not about policies"),
    };
    Command::ChangePolicy {
        network: network_id(network),
        change: Box::new(change),
    }
}

pub(crate) fn verdict(deny: bool) -> Verdict {
    if deny { Verdict::Deny } else { Verdict::Allow }
}

pub(crate) fn rule_name(number: u8) -> String {
    format!("r{number}")
}

fn change(task: &Task, state: &ClusterState) -> TaskChange {
    let of = |service: u8, version: Version| {
        let known = state.services().get(&service_id(service));
        known
            .and_then(|known| match version {
                Version::Present => Some(known.spec_version),
                Version::Previous => known.previous_version,
                Version::None => None,
            })
            .unwrap_or_default()
    };
    match *task {
        Task::Create {
            task,
            service,
            version,
            ready,
        } => TaskChange::Create {
            task: task_id(task),
            service: service_id(service),
            slot: Slot::Replica(task.into()),
            spec_version: of(service, version),
            desired: if ready {
                DesiredState::Ready
            } else {
                DesiredState::Running
            },
        },
        Task::Place { task, node } => TaskChange::Place {
            task: task_id(task),
            node: node_id(node),
        },
        Task::Pend { task } => TaskChange::Pend {
            task: task_id(task),
            reason: PendingReason::NoNode,
        },
        Task::Desire { task, desired } => TaskChange::Desire {
            task: task_id(task),
            desired,
        },
        Task::Orphan { task } => TaskChange::Orphan {
            task: task_id(task),
        },
        Task::Remove { task } => TaskChange::Remove {
            task: task_id(task),
        },
        Task::Update { service, version } => TaskChange::Update {
            service: service_id(service),
            spec_version: of(service, version),
            phase: UpdatePhase::Completed,
            message: "update completed".to_owned(),
        },
        Task::RollBack { service, version } => TaskChange::RollBack {
            service: service_id(service),
            spec_version: of(service, version),
        },
    }
}

fn service_spec(name: &str, spec: &Spec) -> ServiceSpec {
    let port = spec.port.map(|port| PublishedPort {
        published: port.map_or(0, published),
        target: 80,
        protocol: Default::default(),
        mode: PublishMode::Ingress,
        ..PublishedPort::default()
    });
    let mut made = ServiceSpec {
        name: name.to_owned(),
        networks: spec
            .network
            .map(|number| network_name(number).as_str().into())
            .into_iter()
            .collect(),
        ports: port.into_iter().collect(),
        endpoint_mode: if spec.vip {
            EndpointMode::Vip
        } else {
            EndpointMode::Dnsrr
        },
        ..ServiceSpec::default()
    };
    made.task.environment = vec![format!("N={}", spec.environment)];
    made
}

/// Ports asked for are among those that are chosen, so that they meet.
pub(crate) fn published(port: u8) -> u16 {
    30_000 + u16::from(port)
}

pub(crate) fn availability(pause: bool) -> Availability {
    if pause {
        Availability::Pause
    } else {
        Availability::Active
    }
}

/// A /29 of the pools: five addresses beside the gateway's.
fn small_subnet() -> SubnetSpec {
    SubnetSpec {
        subnet: Some("0.0.0.0/29".parse().unwrap()),
        gateway: None,
        ip_range: None,
        ..SubnetSpec::default()
    }
}

pub(crate) fn proposal(number: u64, command: Command) -> Proposal {
    Proposal {
        request: RequestId::from_bytes(u128::from(number).to_be_bytes()),
        actor: actor(number),
        at_unix_ms: number,
        command,
    }
}

/// On whose behalf the numbered proposal is.
pub(crate) fn actor(number: u64) -> NodeId {
    NodeId::from_bytes([u8::try_from(number % 7).unwrap(); 16])
}

pub(crate) fn seed() -> ClusterSeed {
    let secret = |byte| Secret::new(vec![byte; 16]).unwrap();
    ClusterSeed {
        id: NodeId::from_bytes([200; 16]),
        ca_certificate: String::new(),
        ca_key: Secret::any(Vec::new()),
        lease_key: Secret::new(vec![1; 32]).unwrap(),
        gossip_keys: [secret(2), secret(12), secret(22)],
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
        id: node_id(number),
        hostname: format!("host{number}"),
        role,
        address: node_address(number),
        management_port: 2377,
        gossip_port: 7946,
        version: String::new(),
        key: [0; 32],
    }
}

pub(crate) fn node_address(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

fn role(manager: bool) -> Role {
    if manager { Role::Manager } else { Role::Worker }
}

pub(crate) fn node_id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

pub(crate) fn network_id(number: u8) -> NetworkId {
    NetworkId::from_bytes([number; 16])
}

pub(crate) fn network_name(number: u8) -> String {
    format!("n{number}")
}

fn endpoint_id(number: u8) -> EndpointId {
    EndpointId::from_bytes([number; 16])
}

pub(crate) fn service_id(number: u8) -> ServiceId {
    ServiceId::from_bytes([0xa0 + number; 16])
}

pub(crate) fn service_name(number: u8) -> String {
    format!("s{number}")
}

/// Its second half is no number, so that endpoints of different tasks on different networks never have one identity.
pub(crate) fn task_id(number: u8) -> TaskId {
    let mut id = [0x80; 16];
    id[..8].fill(0x40 + number);
    TaskId::from_bytes(id)
}

/// The endpoint that a task has on a network.
pub(crate) fn task_endpoint(task: u8, network: u8) -> EndpointId {
    let mut id = *task_id(task).as_bytes();
    id.iter_mut().for_each(|octet| *octet ^= network);
    EndpointId::from_bytes(id)
}
