//! How one version of a service replaces another.

use std::{collections::BTreeSet, time::Duration};

use overlay_core::{ServiceId, TaskId};

use super::world::{World, global, is_live, replicated};
use crate::api::{
    EndpointMode, FailureAction, Protocol, PublishMode, PublishedPort, ServiceMode, ServiceSpec,
    Slot, TaskState, UpdateOrder, UpdatePhase,
};

#[test]
fn what_does_not_concern_tasks_replaces_none() {
    let (mut world, web) = running(3, |_| {});
    let before = live(&world, web);
    world.update_service(web, |spec| {
        spec.labels.insert("a".into(), "b".into());
        spec.restart.delay_ms = 1;
        spec.update.parallelism = 7;
        spec.mode = ServiceMode::Replicated(4);
    });
    world.run_for(Duration::from_secs(60));
    assert!(live(&world, web).is_superset(&before));
    assert_eq!(world.live(web).len(), 4);
    assert_eq!(world.phase(web), None);
}

#[test]
fn only_ports_of_their_hosts_concern_tasks() {
    let port = |published, mode| PublishedPort {
        published,
        target: 80,
        protocol: Protocol::Tcp,
        mode,
        ..PublishedPort::default()
    };
    let (mut world, web) = running(2, |spec| {
        spec.ports = vec![port(8_080, PublishMode::Ingress)]
    });
    let before = live(&world, web);
    world.update_service(web, |spec| {
        spec.ports = vec![port(9_090, PublishMode::Ingress)];
        spec.endpoint_mode = EndpointMode::Dnsrr;
    });
    world.converge();
    assert_eq!(live(&world, web), before);
    world.update_service(web, |spec| {
        spec.ports = vec![port(9_090, PublishMode::Host)]
    });
    world.converge();
    let next = live(&world, web);
    assert!(next.is_disjoint(&before));
    // On no network of its own, it leaves that of published ports with its last port.
    world.update_service(web, |spec| spec.ports.clear());
    world.converge();
    assert!(live(&world, web).is_disjoint(&next));
}

#[test]
fn ports_that_come_and_go_concern_no_task_with_a_network_of_its_own() {
    let (mut world, web) = running(2, |spec| spec.networks = vec!["net".into()]);
    let before = live(&world, web);
    for published in [8_080, 0] {
        world.update_service(web, |spec| {
            let port = PublishedPort {
                published,
                target: 80,
                ..PublishedPort::default()
            };
            spec.ports = (published != 0).then_some(port).into_iter().collect();
        });
        world.converge();
        assert_eq!(live(&world, web), before);
    }
}

#[test]
fn one_after_another_stops_before_its_successor_starts() {
    let (mut world, web) = running(3, |_| {});
    change(&mut world, web, "two");
    let mut replaced = Vec::new();
    for slot in [1, 2, 3] {
        world.settle();
        assert_eq!(world.phase(web), Some(UpdatePhase::Updating));
        // The old one is to stop and nothing else moves until it has.
        let gone: Vec<_> = empty_slots(&world, web, 3);
        assert_eq!(gone, [slot]);
        assert_eq!(world.settle(), 0);
        world.work();
        world.settle();
        assert_eq!(empty_slots(&world, web, 3), Vec::<u32>::new());
        assert_eq!(world.settle(), 0, "the next waits until this one runs");
        world.work();
        replaced.push(world.in_slot(web, Slot::Replica(slot)).id);
    }
    world.settle();
    assert_eq!(world.phase(web), Some(UpdatePhase::Updating));
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.phase(web), Some(UpdatePhase::Completed));
    assert_eq!(live(&world, web), replaced.into_iter().collect());
}

#[test]
fn start_first_keeps_the_old_one_until_the_new_one_runs() {
    let (mut world, web) = running(2, |spec| spec.update.order = UpdateOrder::StartFirst);
    let before = live(&world, web);
    change(&mut world, web, "two");
    world.settle();
    assert_eq!(world.live(web).len(), 3);
    assert!(live(&world, web).is_superset(&before));
    world.work();
    world.settle();
    assert_eq!(world.live(web).len(), 3, "one went and the next came");
    assert!(!live(&world, web).is_superset(&before));
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.phase(web), Some(UpdatePhase::Completed));
    assert!(live(&world, web).is_disjoint(&before));
}

#[test]
fn start_first_finds_room_where_the_old_one_is() {
    let (mut world, web) = running(2, |spec| {
        spec.update.order = UpdateOrder::StartFirst;
        spec.placement.replicas_per_node_max = 1;
    });
    change(&mut world, web, "two");
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.phase(web), Some(UpdatePhase::Completed));
    let spread: Vec<_> = world.spread(web).into_values().collect();
    assert_eq!(spread, [1, 1]);
}

#[test]
fn what_opens_a_port_of_its_node_stops_first() {
    let (mut world, web) = running(0, |spec| {
        *spec = global();
        spec.update.order = UpdateOrder::StartFirst;
        spec.ports = vec![PublishedPort {
            published: 80,
            target: 80,
            protocol: Default::default(),
            mode: PublishMode::Host,
            ..PublishedPort::default()
        }];
    });
    change(&mut world, web, "two");
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.phase(web), Some(UpdatePhase::Completed));
    assert_eq!(world.live(web).len(), 2);
}

#[test]
fn as_many_as_allowed_go_at_a_time() {
    for (parallelism, expected) in [(2, 2), (0, 6), (9, 6)] {
        let (mut world, web) = running(6, |spec| spec.update.parallelism = parallelism);
        change(&mut world, web, "two");
        world.settle();
        assert_eq!(empty_slots(&world, web, 6).len(), expected);
    }
}

#[test]
fn rounds_are_a_delay_apart_for_a_second_leader_too() {
    let (mut world, web) = running(2, |spec| spec.update.delay_ms = 10_000);
    change(&mut world, web, "two");
    world.converge();
    assert_eq!(outdated(&world, web), 1);
    world.advance(Duration::from_secs(9));
    world.change_leader();
    world.revive_node(1);
    world.revive_node(2);
    world.converge();
    world.run_for(Duration::from_millis(9_999));
    assert_eq!(outdated(&world, web), 1);
    world.run_for(Duration::from_millis(1));
    assert_eq!(outdated(&world, web), 0);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.phase(web), Some(UpdatePhase::Completed));
}

#[test]
fn a_failure_pauses_the_update_and_leaves_the_rest_alone() {
    let (mut world, web) = running(3, |_| {});
    change(&mut world, web, "bad");
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.phase(web), Some(UpdatePhase::Paused));
    assert_eq!(outdated(&world, web), 2);
    // Another change goes on.
    change(&mut world, web, "good");
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.phase(web), Some(UpdatePhase::Completed));
    assert_eq!(outdated(&world, web), 0);
    assert_eq!(world.live(web).len(), 3);
}

#[test]
fn a_failure_after_the_monitor_time_is_none_of_the_update() {
    for (after_ms, phase) in [(5_000, UpdatePhase::Paused), (5_001, UpdatePhase::Updating)] {
        let (mut world, web) = running(2, |spec| spec.update.delay_ms = 60_000);
        change(&mut world, web, "two");
        world.converge();
        world.run_for(Duration::from_millis(after_ms));
        let task = world.in_slot(web, Slot::Replica(1)).id;
        world.end(task, TaskState::Failed);
        world.settle();
        assert_eq!(world.phase(web), Some(phase), "{after_ms}");
    }
}

#[test]
fn the_share_of_failures_that_is_allowed_is_exact() {
    for (permille, phase) in [(499, UpdatePhase::Paused), (500, UpdatePhase::Completed)] {
        let (mut world, web) = running(2, |spec| {
            spec.update.failures_max_permille = permille;
            spec.restart.delay_ms = 1_000;
        });
        change(&mut world, web, "two");
        world.converge();
        let task = world.in_slot(web, Slot::Replica(2)).id;
        world.end(task, TaskState::Failed);
        world.run_for(Duration::from_secs(60));
        assert_eq!(world.phase(web), Some(phase), "{permille}");
    }
}

#[test]
fn going_on_replaces_all_whatever_fails() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let (mut world, web) = running(3, |spec| {
            spec.update.failure_action = FailureAction::Continue;
            spec.update.order = order;
        });
        change(&mut world, web, "bad");
        world.run_for(Duration::from_secs(600));
        assert_eq!(world.phase(web), Some(UpdatePhase::Completed));
        let old = match order {
            UpdateOrder::StopFirst => 0,
            // What never ran does not replace what does.
            UpdateOrder::StartFirst => 3,
        };
        assert_eq!(outdated(&world, web), old);
    }
}

#[test]
fn a_failure_rolls_back_to_the_version_before() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let (mut world, web) = running(3, |spec| {
            spec.update.failure_action = FailureAction::Rollback;
            spec.update.parallelism = 2;
            (spec.update.order, spec.rollback.order) = (order, order);
        });
        change(&mut world, web, "bad");
        world.run_for(Duration::from_secs(600));
        assert_eq!(world.phase(web), Some(UpdatePhase::RollbackCompleted));
        assert_eq!(world.services[&web].spec().task.command, ["one"]);
        assert_eq!(world.live(web).len(), 3);
        let runs = |id: &TaskId| world.tasks[id].status.state == TaskState::Running;
        assert!(live(&world, web).iter().all(runs));
        assert_eq!(outdated(&world, web), 0);
    }
}

#[test]
fn a_rollback_that_fails_pauses() {
    let (mut world, web) = running(2, |spec| {
        spec.rollback.failure_action = FailureAction::Rollback;
    });
    change(&mut world, web, "two");
    world.run_for(Duration::from_secs(60));
    world.bad = "one";
    world.roll_back(web);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.phase(web), Some(UpdatePhase::RollbackPaused));
    assert_eq!(outdated(&world, web), 1);
}

#[test]
fn what_waits_is_replaced_at_once_and_holds_nothing_up() {
    let (mut world, web) = running(3, |spec| spec.placement.replicas_per_node_max = 1);
    assert!(world.in_slot(web, Slot::Replica(3)).node.is_none());
    world.update_service(web, |spec| {
        spec.task.command = vec!["two".into()];
        spec.placement.replicas_per_node_max = 2;
    });
    world.settle();
    let slot = world.in_slot(web, Slot::Replica(3));
    assert_eq!(slot.spec_version, world.services[&web].spec_version);
    assert_eq!(outdated(&world, web), 1);
}

#[test]
fn an_update_that_makes_room_is_not_held_up_by_what_waits_for_room() {
    let mut world = World::new(2);
    for number in [1, 2] {
        world.node(number).resources.memory_bytes = 6;
    }
    let mut spec = replicated(4);
    spec.task.resources.memory_bytes = 6;
    let web = world.add_service(1, spec);
    world.converge();
    assert_eq!(world.spread(web).len(), 2);
    world.update_service(web, |spec| spec.task.resources.memory_bytes = 3);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.phase(web), Some(UpdatePhase::Completed));
    assert_eq!(world.spread(web).values().sum::<usize>(), 4);
}

#[test]
fn a_stopping_task_that_never_ends_is_not_waited_for_for_ever() {
    let (mut world, web) = running(1, |_| {});
    change(&mut world, web, "two");
    world.settle();
    assert_eq!(empty_slots(&world, web, 1), [1]);
    world.advance(Duration::from_secs(69));
    assert_eq!(world.settle(), 0);
    world.advance(Duration::from_secs(1));
    world.settle();
    assert_eq!(empty_slots(&world, web, 1), Vec::<u32>::new());
}

#[test]
fn a_node_that_is_lost_during_an_update_gets_no_old_tasks_back() {
    let (mut world, web) = running(4, |spec| spec.update.delay_ms = 60_000);
    change(&mut world, web, "two");
    world.converge();
    world.fail_node(2);
    world.converge();
    assert_eq!(world.live(web).len(), 4);
    let lost = world
        .live(web)
        .iter()
        .all(|it| it.node == Some(super::world::node(1)));
    assert!(lost);
    world.run_for(Duration::from_secs(600));
    assert_eq!(outdated(&world, web), 0);
    assert_eq!(world.phase(web), Some(UpdatePhase::Completed));
}

#[test]
fn a_global_task_of_a_node_that_was_away_is_replaced_when_it_is_back() {
    let (mut world, web) = running(0, |spec| *spec = global());
    world.fail_node(1);
    change(&mut world, web, "two");
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.phase(web), Some(UpdatePhase::Completed));
    assert_eq!(outdated(&world, web), 1);
    world.revive_node(1);
    world.run_for(Duration::from_secs(60));
    assert_eq!(outdated(&world, web), 0);
    assert_eq!(world.live(web).len(), 2);
}

fn running(replicas: u32, shape: impl FnOnce(&mut ServiceSpec)) -> (World, ServiceId) {
    let mut world = World::new(2);
    let mut spec = replicated(replicas);
    shape(&mut spec);
    spec.task.command = vec!["one".into()];
    let web = world.add_service(1, spec);
    world.converge();
    (world, web)
}

fn change(world: &mut World, id: ServiceId, command: &str) {
    world.update_service(id, |spec| spec.task.command = vec![command.into()]);
}

fn live(world: &World, id: ServiceId) -> BTreeSet<TaskId> {
    world.live(id).iter().map(|task| task.id).collect()
}

/// How many live tasks are of another version.
fn outdated(world: &World, id: ServiceId) -> usize {
    let record = &world.services[&id];
    let live = world.live(id).into_iter();
    live.filter(|task| record.specs[&task.spec_version].task != record.spec().task)
        .count()
}

fn empty_slots(world: &World, id: ServiceId, replicas: u32) -> Vec<u32> {
    let taken = |slot: &u32| {
        let of = world.tasks.values().filter(|task| task.service == id);
        of.filter(|task| is_live(task))
            .any(|task| task.slot == Slot::Replica(*slot))
    };
    (1..=replicas).filter(|slot| !taken(slot)).collect()
}
