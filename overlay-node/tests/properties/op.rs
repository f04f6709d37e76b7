//! What is proposed; small numbers, so that things meet.

use std::net::IpAddr;

use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId, TaskId};
use overlay_node::{
    api::{
        Availability, DesiredState, EndpointMode, NetworkCreate, NodeUpdate, PendingReason,
        PublishMode, PublishedPort, Role, ServiceSpec, Slot, SubnetSpec, TaskState, TaskStatus,
        UpdatePhase,
    },
    state::{
        AddNode, AttachEndpoint, ClusterSeed, ClusterState, Command, Proposal, RequestId, Secret,
        TaskChange,
    },
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    AddNode {
        node: u8,
        manager: bool,
    },
    SetRole {
        node: u8,
        manager: bool,
    },
    SetAddress {
        node: u8,
        octet: u8,
    },
    UpdateNode {
        node: u8,
        pause: Option<bool>,
        label: u8,
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
    /// Detaches the endpoint of a task on a network.
    DetachTask {
        task: u8,
        network: u8,
        node: Option<u8>,
    },
    CreateService {
        service: u8,
        name: u8,
        spec: Spec,
    },
    UpdateService {
        service: u8,
        spec: Spec,
        stale: bool,
    },
    RollBack {
        service: u8,
    },
    RemoveService {
        service: u8,
    },
    Change(Vec<Task>),
    /// By a node, or by the one that the task was given to.
    Report {
        node: Option<u8>,
        task: u8,
        state: TaskState,
    },
    /// The request before comes once more.
    Again,
    Rotate {
        manager: bool,
        secret: u8,
    },
}

/// What of a service's spec the state looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spec {
    /// The name of its network.
    pub(crate) network: Option<u8>,
    /// Its published port, `Some(None)` for one that is chosen.
    pub(crate) port: Option<Option<u8>>,
    pub(crate) vip: bool,
    pub(crate) environment: u8,
}

#[derive(Clone, Debug)]
pub(crate) enum Task {
    Create {
        task: u8,
        service: u8,
        version: Version,
        ready: bool,
    },
    Place {
        task: u8,
        node: u8,
    },
    Pend {
        task: u8,
    },
    Desire {
        task: u8,
        desired: DesiredState,
    },
    Orphan {
        task: u8,
    },
    Remove {
        task: u8,
    },
    Update {
        service: u8,
        version: Version,
    },
    RollBack {
        service: u8,
        version: Version,
    },
}

/// Which version of a service's spec.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Version {
    Present,
    Previous,
    None,
}

#[rustfmt::skip]
pub(crate) fn op() -> impl Strategy<Value = Op> {
    let n = || 0..5_u8;
    prop_oneof![
        4 => (n(), any::<bool>()).prop_map(|(node, manager)| Op::AddNode { node, manager }),
        2 => (n(), any::<bool>()).prop_map(|(node, manager)| Op::SetRole { node, manager }),
        1 => (n(), 0..9_u8).prop_map(|(node, octet)| Op::SetAddress { node, octet }),
        2 => (n(), prop::option::of(prop::bool::weighted(0.3)), 0..9_u8)
            .prop_map(|(node, pause, label)| Op::UpdateNode { node, pause, label }),
        1 => n().prop_map(|node| Op::RemoveNode { node }),
        5 => (n(), n(), prop::bool::weighted(0.9), any::<bool>())
            .prop_map(|(network, name, attachable, small)| Op::Create { network, name, attachable, small }),
        1 => n().prop_map(|network| Op::Remove { network }),
        8 => (0..20_u8, n(), n(), 0..20_u8, prop::option::weighted(0.3, 0..16_u8))
            .prop_map(|(endpoint, node, network, name, address)| Op::Attach { endpoint, node, network, name, address }),
        4 => (0..20_u8, prop::option::of(n())).prop_map(|(endpoint, node)| Op::Detach { endpoint, node }),
        1 => (0..8_u8, 0..2_u8, prop::option::of(n()))
            .prop_map(|(task, network, node)| Op::DetachTask { task, network, node }),
        5 => (n(), n(), spec()).prop_map(|(service, name, spec)| Op::CreateService { service, name, spec }),
        4 => (n(), spec(), prop::bool::weighted(0.1))
            .prop_map(|(service, spec, stale)| Op::UpdateService { service, spec, stale }),
        2 => n().prop_map(|service| Op::RollBack { service }),
        1 => n().prop_map(|service| Op::RemoveService { service }),
        14 => prop::collection::vec(task(), 1..4).prop_map(Op::Change),
        8 => (prop::option::weighted(0.2, n()), 0..8_u8, state()).prop_map(|(node, task, state)| Op::Report { node, task, state }),
        1 => Just(Op::Again),
        1 => (any::<bool>(), any::<u8>()).prop_map(|(manager, secret)| Op::Rotate { manager, secret }),
    ]
}

#[rustfmt::skip]
fn task() -> impl Strategy<Value = Task> {
    let n = || 0..5_u8;
    let t = || 0..8_u8;
    prop_oneof![
        6 => (t(), n(), version(), prop::bool::weighted(0.2))
            .prop_map(|(task, service, version, ready)| Task::Create { task, service, version, ready }),
        8 => (t(), n()).prop_map(|(task, node)| Task::Place { task, node }),
        1 => t().prop_map(|task| Task::Pend { task }),
        3 => (t(), desired()).prop_map(|(task, desired)| Task::Desire { task, desired }),
        1 => t().prop_map(|task| Task::Orphan { task }),
        2 => t().prop_map(|task| Task::Remove { task }),
        1 => (n(), version()).prop_map(|(service, version)| Task::Update { service, version }),
        1 => (n(), version()).prop_map(|(service, version)| Task::RollBack { service, version }),
    ]
}

/// Two networks, three nodes and a service on each network, so that there is something to begin with.
pub(crate) fn prelude() -> Vec<Op> {
    let add = |node| Op::AddNode {
        node,
        manager: false,
    };
    let create = |network| Op::Create {
        network,
        name: network,
        attachable: true,
        small: network == 0,
    };
    let serve = |service| Op::CreateService {
        service,
        name: service,
        spec: Spec {
            network: Some(service),
            port: Some(None),
            vip: true,
            environment: 0,
        },
    };
    vec![add(1), add(2), create(0), create(1), serve(0), serve(1)]
}

fn spec() -> impl Strategy<Value = Spec> {
    let network = prop::option::weighted(0.7, 0..5_u8);
    let port = prop::option::weighted(0.4, prop::option::of(0..4_u8));
    let vip = prop::bool::weighted(0.8);
    (network, port, vip, 0..3_u8).prop_map(|(network, port, vip, environment)| Spec {
        network,
        port,
        vip,
        environment,
    })
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![
        8 => Just(Version::Present),
        2 => Just(Version::Previous),
        1 => Just(Version::None),
    ]
}

fn desired() -> impl Strategy<Value = DesiredState> {
    prop::sample::select(vec![
        DesiredState::Ready,
        DesiredState::Running,
        DesiredState::Shutdown,
        DesiredState::Remove,
    ])
}

fn state() -> impl Strategy<Value = TaskState> {
    prop::sample::select(vec![
        TaskState::Assigned,
        TaskState::Preparing,
        TaskState::Running,
        TaskState::Running,
        TaskState::Complete,
        TaskState::Failed,
    ])
}

/// Makes the command; what it refers to is looked up in the state, as whoever proposes does.
pub(crate) fn command(op: &Op, state: &ClusterState) -> Command {
    match op {
        Op::Create { .. } | Op::Remove { .. } | Op::Attach { .. } | Op::Detach { .. } => {
            network_command(op, state)
        }
        Op::AddNode { node, manager } => Command::AddNode(add(*node, role(*manager))),
        Op::SetRole { node, manager } => Command::SetRole {
            node: node_id(*node),
            role: role(*manager),
        },
        Op::SetAddress { node, octet } => Command::SetAddress {
            node: node_id(*node),
            address: [192, 0, 2, 100 + octet].into(),
        },
        Op::UpdateNode { node, pause, label } => {
            let mut change = NodeUpdate::default();
            change.availability = pause.map(availability);
            if *label < 5 {
                let value = (format!("label{label}"), "value".to_owned());
                change.labels_add.extend([value]);
            } else {
                change.labels_remove = vec![format!("label{}", label - 5)];
            }
            let node = node_id(*node);
            Command::UpdateNode { node, change }
        }
        Op::RemoveNode { node } => Command::RemoveNode {
            node: node_id(*node),
        },
        Op::DetachTask {
            task,
            network,
            node,
        } => Command::DetachEndpoint {
            endpoint: task_endpoint(*task, *network),
            node: node.map(node_id),
        },
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
                address: address
                    .map(|address| nth(address).unwrap_or(IpAddr::from([192, 0, 2, 1]))),
            })
        }
        Op::Detach { endpoint, node } => Command::DetachEndpoint {
            endpoint: endpoint_id(endpoint),
            node: node.map(node_id),
        },
        _ => unreachable!("{op:?} is not about networks"),
    }
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
    });
    let mut made = ServiceSpec {
        name: name.to_owned(),
        networks: spec.network.map(network_name).into_iter().collect(),
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
        id: node_id(number),
        hostname: format!("host{number}"),
        role,
        address: node_address(number),
        management_port: 2377,
        gossip_port: 7946,
        version: String::new(),
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
