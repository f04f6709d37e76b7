//! Random services and troubles.

use proptest::prelude::*;

use super::world::{global, replicated};
use crate::api::{
    Availability, FailureAction, Protocol, PublishMode, PublishedPort, RestartCondition,
    ServiceSpec, TaskState, UpdateOrder,
};

/// What happens to a [`World`](super::world::World).
#[derive(Clone, Debug)]
pub(super) enum Op {
    Service(u8, Box<ServiceSpec>),
    Remove(u8),
    RollBack(u8),
    Replicas(u8, u32),
    Down(u32),
    Up(u32),
    RemoveNode(u32),
    AddNode(u32),
    Availability(u32, Availability),
    Label(u32, bool),
    Leader,
    End(usize, TaskState),
    Advance(u64),
    Plan,
    Work,
    WorkOne(usize),
    LosePlan,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let number = 1..=NODES;
    let which = 1..=SERVICES;
    let availability = prop_oneof![
        2 => Just(Availability::Active),
        1 => Just(Availability::Pause),
        1 => Just(Availability::Drain),
    ];
    let end = prop_oneof![
        3 => Just(TaskState::Failed),
        1 => Just(TaskState::Complete),
        1 => Just(TaskState::Rejected),
        1 => Just(TaskState::Shutdown),
    ];
    let time = prop_oneof![0_u64..20_000, Just(86_400_000)];
    prop_oneof![
        6 => (which.clone(), spec()).prop_map(|(at, spec)| Op::Service(at, Box::new(spec))),
        1 => which.clone().prop_map(Op::Remove),
        1 => which.clone().prop_map(Op::RollBack),
        2 => (which, 0_u32..7).prop_map(|(at, replicas)| Op::Replicas(at, replicas)),
        2 => number.clone().prop_map(Op::Down),
        3 => number.clone().prop_map(Op::Up),
        1 => number.clone().prop_map(Op::RemoveNode),
        2 => number.clone().prop_map(Op::AddNode),
        2 => (number.clone(), availability).prop_map(|(at, how)| Op::Availability(at, how)),
        2 => (number, any::<bool>()).prop_map(|(at, first)| Op::Label(at, first)),
        1 => Just(Op::Leader),
        5 => (any::<usize>(), end).prop_map(|(at, state)| Op::End(at, state)),
        5 => time.prop_map(Op::Advance),
        12 => Just(Op::Plan),
        6 => Just(Op::Work),
        6 => any::<usize>().prop_map(Op::WorkOne),
        2 => Just(Op::LosePlan),
    ]
}

fn spec() -> impl Strategy<Value = ServiceSpec> {
    let mode = prop_oneof![3 => (0_u32..7).prop_map(Some), 1 => Just(None)];
    let order = || prop_oneof![Just(UpdateOrder::StopFirst), Just(UpdateOrder::StartFirst)];
    let action = || {
        prop_oneof![
            Just(FailureAction::Pause),
            Just(FailureAction::Continue),
            Just(FailureAction::Rollback),
        ]
    };
    let condition = prop_oneof![
        4 => Just(RestartCondition::Any),
        1 => Just(RestartCondition::OnFailure),
        1 => Just(RestartCondition::None),
    ];
    let task = (
        prop_oneof![3 => Just("one"), 3 => Just("two"), 1 => Just("bad")],
        0_u64..3,
        prop::option::weighted(0.2, Just(80_u16)),
    );
    let placement = (
        prop::option::weighted(0.3, any::<bool>()),
        any::<bool>(),
        prop_oneof![3 => Just(0_u32), 1 => 1_u32..3],
    );
    let restart = (
        condition,
        0_u64..6_000,
        prop_oneof![3 => Just(0_u32), 1 => 1_u32..3],
    );
    let update = (order(), action(), 0_u32..3, 0_u64..8_000);
    let back = (order(), action());
    (mode, task, placement, restart, update, back).prop_map(
        |(mode, task, placement, restart, update, back)| {
            let mut spec = mode.map_or_else(global, replicated);
            spec.task.command = vec![task.0.to_owned()];
            spec.task.resources.memory_bytes = task.1;
            spec.ports.extend(task.2.map(|published| PublishedPort {
                published,
                target: 80,
                protocol: Protocol::Tcp,
                mode: PublishMode::Host,
                ..PublishedPort::default()
            }));
            let zone = |first| if first { "a" } else { "b" };
            let constraint = placement
                .0
                .map(|it| format!("node.labels.zone=={}", zone(it)));
            spec.placement.constraints.extend(constraint);
            if placement.1 {
                let preference = "spread=node.labels.zone".to_owned();
                spec.placement.preferences.push(preference);
            }
            spec.placement.replicas_per_node_max = placement.2;
            (spec.restart.condition, spec.restart.delay_ms) = (restart.0, restart.1);
            spec.restart.attempts_max = restart.2;
            (spec.update.order, spec.update.failure_action) = (update.0, update.1);
            (spec.update.parallelism, spec.update.delay_ms) = (update.2, update.3);
            (spec.rollback.order, spec.rollback.failure_action) = back;
            spec
        },
    )
}

/// How many nodes there are at the most.
pub(super) const NODES: u32 = 5;
/// How many services.
const SERVICES: u8 = 3;
