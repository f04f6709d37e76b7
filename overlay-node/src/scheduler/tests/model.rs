//! Random services and troubles, checked against what must be so at any time and after quiet.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use overlay_core::NodeId;
use proptest::prelude::*;

use super::{
    random::{NODES, Op, op},
    world::{World, is_live, node, replicated, service},
};
use crate::{
    api::{
        Availability, DesiredState, PublishedPort, RestartCondition, ServiceMode, ServiceSpec,
        Slot, TaskState, UpdatePhase,
    },
    scheduler::{CHANGES_MAX, HISTORY_MAX, constraint},
    state::{NodeRecord, ServiceRecord, TaskRecord},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_right_tasks_run_in_the_right_places_after_quiet(
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut world = World::new(NODES);
        for number in 1..=NODES {
            world.label(number, if number % 2 == 0 { "a" } else { "b" });
            world.node(number).resources.memory_bytes = 6;
        }
        for op in ops {
            run(&mut world, op);
            check_always(&world);
        }
        // Whoever was not heard of is back or is not.
        for number in 1..=NODES {
            let heard = world.ready.contains(&node(number)) || world.down.contains(&node(number));
            if world.nodes.contains_key(&node(number)) && !heard {
                world.revive_node(number);
            }
        }
        world.run_for(Duration::from_secs(3_600));
        check_always(&world);
        check_quiet(&world);
        prop_assert_eq!(world.settle(), 0);
    }

    #[test]
    fn fresh_services_spread_within_one(
        nodes in 1_u32..12,
        zones in 1_u32..4,
        replicas in 0_u32..40,
        others in 0_u32..10,
    ) {
        let mut world = World::new(nodes);
        for number in 1..=nodes {
            world.label(number, &format!("zone-{}", number % zones));
        }
        world.add_service(1, replicated(others));
        world.converge();
        let plain = world.add_service(2, replicated(replicas));
        let mut spec = replicated(replicas);
        spec.placement.preferences = vec!["spread=node.labels.zone".into()];
        let zoned = world.add_service(3, spec);
        world.converge();
        let by_node = |id| {
            let spread = world.spread(id);
            let on = move |number| spread.get(&node(number)).copied().unwrap_or(0);
            (1..=nodes).map(on).collect::<Vec<_>>()
        };
        prop_assert!(within_one(&by_node(plain)));
        let mut by_zone = BTreeMap::<u32, Vec<usize>>::new();
        for (at, count) in (1..=nodes).zip(by_node(zoned)) {
            by_zone.entry(at % zones).or_default().push(count);
        }
        prop_assert!(by_zone.values().all(|counts| within_one(counts)));
        let sums: Vec<usize> = by_zone.values().map(|counts| counts.iter().sum()).collect();
        prop_assert!(within_one(&sums), "{:?}", sums);
        prop_assert_eq!(sums.iter().sum::<usize>(), replicas as usize);
    }
}

fn run(world: &mut World, op: Op) {
    match op {
        Op::Service(number, spec) => match world.services.get(&service(number)) {
            None => drop(world.add_service(number, *spec)),
            Some(record) if record.removing => {}
            Some(record) => {
                let mut spec = *spec;
                // The mode of a service stays of its kind.
                if !same_kind(record.spec().mode, spec.mode) {
                    spec.mode = record.spec().mode;
                }
                world.update_service(service(number), |present| *present = spec);
            }
        },
        Op::Remove(number) => {
            if world.services.contains_key(&service(number)) {
                world.remove_service(service(number));
            }
        }
        Op::RollBack(number) => {
            if standing(world, number) {
                world.roll_back(service(number));
            }
        }
        Op::Replicas(number, replicas) => {
            if standing(world, number) {
                world.update_service(service(number), |spec| {
                    if spec.mode != ServiceMode::Global {
                        spec.mode = ServiceMode::Replicated(replicas);
                    }
                });
            }
        }
        Op::Leader => world.change_leader(),
        Op::End(at, state) => {
            let ready = |task: &&TaskRecord| {
                !task.status.state.is_terminal()
                    && task.node.is_some_and(|node| world.ready.contains(&node))
            };
            let open: Vec<_> = world.tasks.values().filter(ready).map(|it| it.id).collect();
            if !open.is_empty() {
                world.end(open[at % open.len()], state);
            }
        }
        Op::Advance(ms) => world.advance(Duration::from_millis(ms)),
        Op::Plan => {
            let changes = world.plan();
            assert!(changes.len() < CHANGES_MAX);
        }
        Op::Work => drop(world.work()),
        Op::WorkOne(at) => {
            let open: Vec<_> = world.tasks.keys().copied().collect();
            if !open.is_empty() {
                world.work_on(open[at % open.len()]);
            }
        }
        Op::LosePlan => {
            let (tasks, services) = (world.tasks.clone(), world.services.clone());
            world.plan();
            (world.tasks, world.services) = (tasks, services);
        }
        other => trouble(world, other),
    }
}

fn trouble(world: &mut World, op: Op) {
    match op {
        Op::Down(number) => {
            if world.nodes.contains_key(&node(number)) {
                world.fail_node(number);
            }
        }
        Op::Up(number) => {
            if world.nodes.contains_key(&node(number)) {
                world.revive_node(number);
            }
        }
        Op::RemoveNode(number) => world.remove_node(number),
        Op::AddNode(number) => {
            if !world.nodes.contains_key(&node(number)) {
                world.add_node(number);
            }
        }
        Op::Availability(number, availability) => {
            if let Some(node) = world.nodes.get_mut(&node(number)) {
                node.availability = availability;
            }
        }
        Op::Label(number, first) => {
            if world.nodes.contains_key(&node(number)) {
                world.label(number, if first { "a" } else { "b" });
            }
        }
        other => unreachable!("{other:?}"),
    }
}

/// What must be so at any time; beside what [`World`] checks of each change.
fn check_always(world: &World) {
    for (id, record) in &world.nodes {
        let on = || world.tasks.values().filter(|task| task.node == Some(*id));
        let open = || on().filter(|task| !task.status.state.is_terminal());
        let specs = || open().filter_map(|task| spec_of(world, task));
        let memory: u64 = specs().map(|spec| spec.task.resources.memory_bytes).sum();
        let has = record.resources.memory_bytes;
        assert!(has == 0 || memory <= has, "{id}: {memory} of {has}");
        let ports: Vec<_> = specs().flat_map(|spec| &spec.ports).collect();
        let distinct: BTreeSet<_> = ports.iter().collect();
        assert_eq!(ports.len(), distinct.len(), "{id}: {ports:?}");
    }
    let mut ended: BTreeMap<_, usize> = BTreeMap::new();
    for task in world.tasks.values() {
        if task.status.state.is_terminal() {
            *ended.entry((task.service, task.slot)).or_default() += 1;
        }
    }
    // The last one was not looked at yet, or several while no plan was made.
    let most = ended.into_values().max().unwrap_or(0);
    assert!(most <= HISTORY_MAX + 60, "{most}");
}

/// What must be so when nothing is due any more.
fn check_quiet(world: &World) {
    for task in world.tasks.values() {
        let record = world.services.get(&task.service).expect("its service");
        let at = task.node.map(|node| world.ready.contains(&node));
        let stops = task.desired >= DesiredState::Shutdown && !task.status.state.is_terminal();
        assert!(!(stops && at == Some(true)), "{task:?} stopped");
        let bad = spec_of(world, task).is_some_and(is_bad);
        let waits = bad || is_frozen(world, task.slot);
        assert!(
            waits || task.desired != DesiredState::Ready,
            "{task:?} is due"
        );
        if record.removing {
            assert!(stops && at == Some(false), "{task:?} of a removed service");
        }
        if is_live(task) && task.node.is_none() {
            assert!(task.status.pending.is_some(), "{task:?} says why");
        }
    }
    for record in world.services.values().filter(|record| !record.removing) {
        check_service(world, record);
    }
}

fn check_service(world: &World, record: &ServiceRecord) {
    let spec = record.spec();
    let phase = world.phase(record.id);
    let halted = matches!(
        phase,
        Some(UpdatePhase::Paused | UpdatePhase::RollbackPaused)
    );
    let live = world.live(record.id);
    let waits = live.iter().any(|task| task.node.is_none());
    if is_bad(spec) {
        return; // it fails for ever
    }
    if !halted && !waits {
        assert!(
            !matches!(
                phase,
                Some(UpdatePhase::Updating | UpdatePhase::RollbackStarted)
            ),
            "{phase:?} {live:?}"
        );
    }
    let mut by_slot: BTreeMap<Slot, Vec<&TaskRecord>> = BTreeMap::new();
    for task in world.tasks.values().filter(|it| it.service == record.id) {
        by_slot.entry(task.slot).or_default().push(task);
    }
    for tasks in by_slot.values_mut() {
        tasks.sort_by_key(|task| (task.created, task.id));
        let ended = tasks.iter().filter(|it| it.status.state.is_terminal());
        assert!(ended.count() <= HISTORY_MAX);
    }
    match spec.mode {
        ServiceMode::Replicated(replicas) => {
            by_slot.retain(|_, tasks| tasks.iter().any(|it| it.desired != DesiredState::Remove));
            assert_eq!(by_slot.len(), replicas as usize, "{by_slot:?}");
        }
        ServiceMode::Global => {
            for (id, node) in &world.nodes {
                let open = world.ready.contains(id) && node.availability == Availability::Active;
                let slot = by_slot.get(&Slot::Node(*id));
                if open && suits(spec, node) {
                    assert!(slot.is_some(), "{id} has none");
                } else if world.ready.contains(id) && !suits(spec, node) {
                    assert!(slot.is_none(), "{id}: {slot:?}");
                }
            }
        }
    }
    for (slot, tasks) in &by_slot {
        check_slot(world, record, *slot, tasks, halted);
    }
}

fn check_slot(
    world: &World,
    record: &ServiceRecord,
    slot: Slot,
    tasks: &[&TaskRecord],
    halted: bool,
) {
    let live: Vec<_> = tasks.iter().copied().filter(|it| is_live(it)).collect();
    if is_frozen(world, slot) {
        assert!(live.len() <= 2);
        return;
    }
    let last = tasks.last().unwrap();
    let policy = &record.spec().restart;
    if live.is_empty() {
        let may_rest = policy.attempts_max > 0 || policy.condition != RestartCondition::Any;
        assert!(may_rest && last.status.state.is_terminal(), "{tasks:?}");
        assert!(last.desired <= DesiredState::Running, "{tasks:?}");
        return;
    }
    // Two are left if the newer one waits for a node or an update was stopped between them.
    let waits = live.iter().any(|task| task.node.is_none());
    assert!(live.len() == 1 || waits || halted, "{live:?}");
    for task in &live {
        let spec = spec_of(world, task).unwrap();
        let Some(id) = task.node else {
            assert!(
                !fits_anywhere(world, record, task, slot),
                "{task:?} has room"
            );
            continue;
        };
        if !is_bad(spec) {
            assert_eq!(task.status.state, TaskState::Running, "{task:?}");
        }
        assert!(world.ready.contains(&id), "{task:?} on a lost node");
        if matches!(slot, Slot::Replica(_)) {
            assert!(suits(spec, &world.nodes[&id]), "{task:?} misplaced");
        }
    }
    let replaced = last.status.state.is_terminal() && last.desired <= DesiredState::Running;
    if !halted && live.len() == 1 && !replaced && !stuck(world, record) {
        let spec = spec_of(world, live[0]).unwrap();
        assert!(
            alike(spec, record.spec()),
            "{:?} is outdated: {:?}",
            live[0],
            record.update
        );
    }
}

/// Whether a slot is one of a node that gets nothing new.
fn is_frozen(world: &World, slot: Slot) -> bool {
    match slot {
        Slot::Node(id) => !world.nodes.get(&id).is_some_and(|node| {
            world.ready.contains(&id) && node.availability == Availability::Active
        }),
        Slot::Replica(_) => false,
    }
}

/// Whether an update cannot go on because a new task finds no node.
fn stuck(world: &World, record: &ServiceRecord) -> bool {
    let live = world.live(record.id);
    live.iter().any(|task| task.node.is_none())
}

/// Whether some open node could take a task.
fn fits_anywhere(world: &World, record: &ServiceRecord, task: &TaskRecord, slot: Slot) -> bool {
    let spec = record.spec();
    let fits = |id: &NodeId, node: &NodeRecord| {
        let on = || {
            let all = world.tasks.values().filter(|it| it.node == Some(*id));
            all.filter(|it| !it.status.state.is_terminal())
        };
        let mine = on().filter(|it| {
            is_live(it) && it.service == record.id && (it.slot != slot || it.id == task.id)
        });
        let limit = spec.placement.replicas_per_node_max as usize;
        let of = |it: &TaskRecord| spec_of(world, it).cloned().unwrap_or_default();
        let memory: u64 = on().map(|it| of(it).task.resources.memory_bytes).sum();
        let wanted = spec.task.resources.memory_bytes;
        let has = node.resources.memory_bytes;
        let taken = |port: &PublishedPort| on().any(|it| of(it).ports.contains(port));
        world.ready.contains(id)
            && node.availability == Availability::Active
            && suits(spec, node)
            && (limit == 0 || mine.count() < limit)
            && (wanted == 0 || has == 0 || memory + wanted <= has)
            && !spec.ports.iter().any(taken)
    };
    match slot {
        Slot::Replica(_) => world.nodes.iter().any(|(id, node)| fits(id, node)),
        Slot::Node(id) => fits(&id, &world.nodes[&id]),
    }
}

fn spec_of<'a>(world: &'a World, task: &TaskRecord) -> Option<&'a ServiceSpec> {
    let record = world.services.get(&task.service)?;
    record.specs.get(&task.spec_version)
}

fn suits(spec: &ServiceSpec, node: &NodeRecord) -> bool {
    let mut constraints = spec.placement.constraints.iter();
    node.availability != Availability::Drain
        && constraints.all(|text| constraint::parse(text).unwrap().holds(node))
}

fn alike(one: &ServiceSpec, other: &ServiceSpec) -> bool {
    (&one.task, &one.placement, &one.ports) == (&other.task, &other.placement, &other.ports)
}

fn is_bad(spec: &ServiceSpec) -> bool {
    spec.task.command == ["bad"]
}

fn standing(world: &World, number: u8) -> bool {
    let record = world.services.get(&service(number));
    record.is_some_and(|record| !record.removing)
}

fn same_kind(one: ServiceMode, other: ServiceMode) -> bool {
    (one == ServiceMode::Global) == (other == ServiceMode::Global)
}

fn within_one(counts: &[usize]) -> bool {
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0) <= 1
}
