//! What is proposed; small numbers, so that things meet.

use overlay_node::api::{DesiredState, TaskState};
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
    Recover {
        node: u8,
        epoch: u64,
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
    AddRule {
        network: u8,
        rule: u8,
        before: Option<u8>,
        replace: bool,
    },
    RemoveRule {
        network: u8,
        rule: u8,
    },
    SetDefault {
        network: u8,
        deny: bool,
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
        1 => (n(), 0..4_u64).prop_map(|(node, epoch)| Op::Recover { node, epoch }),
        1 => n().prop_map(|node| Op::RemoveNode { node }),
        5 => (n(), n(), prop::bool::weighted(0.9), any::<bool>())
            .prop_map(|(network, name, attachable, small)| Op::Create { network, name, attachable, small }),
        1 => n().prop_map(|network| Op::Remove { network }),
        8 => (0..20_u8, n(), n(), 0..20_u8, prop::option::weighted(0.3, 0..16_u8))
            .prop_map(|(endpoint, node, network, name, address)| Op::Attach { endpoint, node, network, name, address }),
        4 => (0..20_u8, prop::option::of(n())).prop_map(|(endpoint, node)| Op::Detach { endpoint, node }),
        4 => (n(), n(), prop::option::of(n()), any::<bool>())
            .prop_map(|(network, rule, before, replace)| Op::AddRule { network, rule, before, replace }),
        2 => (n(), n()).prop_map(|(network, rule)| Op::RemoveRule { network, rule }),
        1 => (n(), any::<bool>()).prop_map(|(network, deny)| Op::SetDefault { network, deny }),
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
