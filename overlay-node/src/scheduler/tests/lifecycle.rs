//! Scaling, nodes that come and go, removal, history.

use std::{collections::BTreeSet, time::Duration};

use super::world::{World, global, node, replicated};
use crate::{
    api::{Availability, DesiredState, ServiceMode, Slot, TaskState},
    scheduler::{HISTORY_MAX, ORPHANED_AFTER},
};

#[test]
fn fewer_replicas_leave_the_fullest_nodes_and_more_take_the_lowest_free_slots() {
    let mut world = World::new(1);
    let web = world.add_service(1, replicated(4));
    world.converge();
    world.add_node(2);
    scale(&mut world, web, 6);
    world.converge();
    assert_eq!(world.spread(web)[&node(2)], 2);
    scale(&mut world, web, 4);
    world.converge();
    let spread: Vec<_> = world.spread(web).into_values().collect();
    assert_eq!(spread, [2, 2]);
    assert_eq!(slots(&world, web), [1, 2, 5, 6]);
    scale(&mut world, web, 5);
    world.converge();
    assert_eq!(slots(&world, web), [1, 2, 3, 5, 6]);
}

#[test]
fn fewer_replicas_drop_those_that_wait_first() {
    let mut world = World::new(1);
    let mut spec = replicated(3);
    spec.placement.replicas_per_node_max = 1;
    let web = world.add_service(1, spec);
    world.converge();
    scale(&mut world, web, 1);
    world.converge();
    assert!(world.in_slot(web, Slot::Replica(1)).node.is_some());
    assert_eq!(world.tasks.len(), 1);
}

#[test]
fn a_global_service_runs_once_on_each_node_that_suits() {
    let mut world = World::new(4);
    world.node(2).availability = Availability::Drain;
    world.node(3).availability = Availability::Pause;
    let mut spec = global();
    spec.placement.constraints = vec!["node.labels.zone!=b".into()];
    let web = world.add_service(1, spec);
    world.label(4, "b");
    world.converge();
    assert_eq!(on(&world, web), [1]);
    world.node(2).availability = Availability::Active;
    world.node(3).availability = Availability::Active;
    world.label(4, "c");
    world.label(1, "b");
    world.add_node(5);
    world.converge();
    assert_eq!(on(&world, web), [2, 3, 4, 5]);
    // A node that pauses keeps what it has, but gets nothing new.
    world.node(2).availability = Availability::Pause;
    world.converge();
    assert_eq!(on(&world, web), [2, 3, 4, 5]);
    let task = world.in_slot(web, Slot::Node(node(2))).id;
    world.end(task, TaskState::Failed);
    world.run_for(Duration::from_secs(60));
    assert_eq!(on(&world, web), [3, 4, 5]);
    world.node(2).availability = Availability::Active;
    world.run_for(Duration::from_secs(60));
    assert_eq!(on(&world, web), [2, 3, 4, 5]);
}

#[test]
fn a_drained_node_runs_it_again_even_if_the_task_failed_while_it_was_to_stop() {
    let mut world = World::new(1);
    let web = world.add_service(1, global());
    world.converge();
    let task = world.in_slot(web, Slot::Node(node(1))).id;
    world.node(1).availability = Availability::Drain;
    world.settle();
    world.end(task, TaskState::Failed);
    world.converge();
    world.node(1).availability = Availability::Active;
    world.converge();
    assert_eq!(on(&world, web), [1]);
}

#[test]
fn a_global_task_on_a_lost_node_is_still_there_when_the_node_comes_back() {
    let mut world = World::new(2);
    let web = world.add_service(1, global());
    world.converge();
    let task = world.in_slot(web, Slot::Node(node(1))).id;
    world.fail_node(1);
    assert_eq!(world.settle(), 0);
    world.revive_node(1);
    world.converge();
    assert_eq!(world.in_slot(web, Slot::Node(node(1))).id, task);
}

#[test]
fn tasks_of_a_lost_node_are_replaced_at_once_in_their_slots_and_stop_when_it_comes_back() {
    let mut world = World::new(2);
    let web = world.add_service(1, replicated(2));
    world.converge();
    let lost = world.in_slot(web, Slot::Replica(1)).id;
    assert_eq!(world.tasks[&lost].node, Some(node(1)));
    world.fail_node(1);
    world.converge();
    assert_eq!(slots(&world, web), [1, 2]);
    assert_eq!(world.spread(web)[&node(2)], 2);
    assert_eq!(world.tasks[&lost].desired, DesiredState::Shutdown);
    assert!(!world.tasks[&lost].status.state.is_terminal());
    world.revive_node(1);
    world.converge();
    assert_eq!(world.tasks[&lost].status.state, TaskState::Shutdown);
    assert_eq!(world.spread(web)[&node(2)], 2, "nothing moves back");
}

#[test]
fn tasks_on_a_node_that_stays_down_are_given_up_after_a_day() {
    let mut world = World::new(2);
    let web = world.add_service(1, replicated(2));
    world.converge();
    let lost = world.in_slot(web, Slot::Replica(1)).id;
    world.fail_node(1);
    world.settle();
    world.advance(ORPHANED_AFTER - Duration::from_millis(1));
    assert_eq!(world.settle(), 0);
    let due = world.scheduler.poll_timeout();
    assert_eq!(due, Some(world.now + Duration::from_millis(1)));
    world.advance(Duration::from_millis(1));
    world.settle();
    assert_eq!(world.tasks[&lost].status.state, TaskState::Orphaned);
}

#[test]
fn tasks_of_a_node_that_was_removed_are_given_up_at_once() {
    let mut world = World::new(2);
    let web = world.add_service(1, replicated(2));
    let all = world.add_service(2, global());
    world.converge();
    world.remove_node(1);
    world.converge();
    assert_eq!(world.spread(web)[&node(2)], 2);
    assert_eq!(on(&world, all), [2]);
    let open = |node_id| {
        let on = world
            .tasks
            .values()
            .filter(move |it| it.node == Some(node_id));
        on.filter(|task| !task.status.state.is_terminal()).count()
    };
    assert_eq!(open(node(1)), 0);
}

#[test]
fn nothing_moves_and_nothing_new_comes_to_nodes_not_heard_of_yet() {
    let mut world = World::new(2);
    let web = world.add_service(1, replicated(2));
    let all = world.add_service(2, global());
    world.converge();
    world.change_leader();
    world.node(1).availability = Availability::Drain;
    assert_eq!(world.settle(), 0);
    scale(&mut world, web, 3);
    world.settle();
    assert_eq!(world.spread(web).values().sum::<usize>(), 2);
    world.revive_node(2);
    world.converge();
    assert_eq!(world.spread(web)[&node(2)], 2);
    assert_eq!(world.spread(web)[&node(1)], 1);
    world.revive_node(1);
    world.converge();
    assert_eq!(world.spread(web)[&node(2)], 3);
    assert_eq!(on(&world, all), [2]);
}

#[test]
fn a_drained_node_is_left_and_a_paused_one_is_not() {
    let mut world = World::new(3);
    let web = world.add_service(1, replicated(3));
    world.converge();
    world.node(1).availability = Availability::Drain;
    world.node(2).availability = Availability::Pause;
    world.converge();
    let spread: Vec<_> = world.spread(web).into_iter().collect();
    assert_eq!(spread, [(node(2), 1), (node(3), 2)]);
    assert_eq!(slots(&world, web), [1, 2, 3]);
}

#[test]
fn a_task_leaves_a_node_that_does_not_satisfy_its_constraints_any_more() {
    let mut world = World::new(2);
    world.label(1, "a");
    world.label(2, "b");
    let mut spec = replicated(1);
    spec.placement.constraints = vec!["node.labels.zone==a".into()];
    let web = world.add_service(1, spec);
    world.converge();
    assert_eq!(on(&world, web), [1]);
    world.label(1, "b");
    world.label(2, "A");
    world.converge();
    assert_eq!(on(&world, web), [2]);
}

#[test]
fn a_removed_service_goes_with_its_last_task() {
    let mut world = World::new(2);
    let web = world.add_service(1, replicated(3));
    world.converge();
    world.fail_node(1);
    world.converge();
    world.remove_service(web);
    world.converge();
    assert!(world.tasks.values().all(|task| task.node == Some(node(1))));
    assert!(world.services.contains_key(&web));
    world.revive_node(1);
    world.converge();
    assert!(world.tasks.is_empty() && world.services.is_empty());
}

#[test]
fn a_removed_service_goes_with_a_removed_node() {
    let mut world = World::new(1);
    let web = world.add_service(1, replicated(3));
    world.converge();
    world.fail_node(1);
    world.remove_service(web);
    world.settle();
    assert_eq!(world.tasks.len(), 3);
    world.remove_node(1);
    world.settle();
    assert!(world.tasks.is_empty() && world.services.is_empty());
}

#[test]
fn five_ended_tasks_of_a_slot_are_kept() {
    let mut world = World::new(1);
    let mut spec = replicated(2);
    spec.restart.delay_ms = 0;
    let web = world.add_service(1, spec);
    let mut ended = Vec::new();
    for _ in 0..8 {
        world.run_for(Duration::from_secs(60));
        let task = world.in_slot(web, Slot::Replica(1)).id;
        world.end(task, TaskState::Failed);
        ended.push(task);
    }
    world.run_for(Duration::from_secs(60));
    let kept: BTreeSet<_> = world
        .tasks
        .values()
        .filter(|task| task.status.state.is_terminal())
        .map(|task| task.id)
        .collect();
    assert_eq!(kept, ended.split_off(8 - HISTORY_MAX).into_iter().collect());
}

#[test]
fn a_plan_that_got_lost_is_made_again() {
    let mut world = World::new(2);
    let web = world.add_service(1, replicated(2));
    let (tasks, services) = (world.tasks.clone(), world.services.clone());
    let first = world.plan().len();
    (world.tasks, world.services) = (tasks, services);
    assert_eq!(world.plan().len(), first);
    world.converge();
    assert_eq!(world.live(web).len(), 2);
}

fn scale(world: &mut World, id: overlay_core::ServiceId, replicas: u32) {
    world.update_service(id, |spec| spec.mode = ServiceMode::Replicated(replicas));
}

fn slots(world: &World, id: overlay_core::ServiceId) -> Vec<u32> {
    let number = |slot| match slot {
        Slot::Replica(number) => number,
        Slot::Node(_) => 0,
    };
    let live = world.live(id).into_iter();
    live.map(|task| number(task.slot)).collect()
}

/// The numbers of the nodes with live tasks.
fn on(world: &World, id: overlay_core::ServiceId) -> Vec<u32> {
    let nodes = world.spread(id).into_keys();
    nodes
        .map(|node| {
            let bytes = node.as_bytes();
            u32::from_be_bytes([bytes[12], bytes[13], bytes[14], bytes[15]])
        })
        .collect()
}
