//! Which node a task gets, and why it gets none.

use std::time::Duration;

use super::world::{World, global, node, replicated};
use crate::api::{
    Availability, PendingReason, Protocol, PublishMode, PublishedPort, Resources, ServiceSpec,
    Slot, TaskState,
};

#[test]
fn replicas_get_the_lowest_slots_and_spread_evenly() {
    let mut world = World::new(3);
    let web = world.add_service(1, replicated(7));
    world.converge();
    let slots: Vec<_> = world.live(web).iter().map(|task| task.slot).collect();
    assert_eq!(slots, (1..=7).map(Slot::Replica).collect::<Vec<_>>());
    let spread: Vec<_> = world.spread(web).into_values().collect();
    assert_eq!(spread, [3, 2, 2]);
}

#[test]
fn of_nodes_that_are_alike_for_the_service_the_one_with_fewest_tasks_is_chosen() {
    let mut world = World::new(3);
    let first = world.add_service(1, replicated(2));
    world.converge();
    let second = world.add_service(2, replicated(1));
    world.converge();
    assert!(!world.spread(first).contains_key(&node(3)));
    assert!(world.spread(second).contains_key(&node(3)));
}

#[test]
fn nested_preferences_spread_over_the_outer_label_first() {
    let mut world = World::new(6);
    // Zone a has one rack of four nodes, zone b two racks of one node.
    for (number, zone, rack) in [
        (1, "a", "r1"),
        (2, "a", "r1"),
        (3, "a", "r1"),
        (4, "a", "r1"),
        (5, "b", "r1"),
        (6, "b", "r2"),
    ] {
        world.label(number, zone);
        let labels = &mut world.node(number).labels;
        labels.insert("rack".into(), rack.into());
    }
    let mut spec = replicated(8);
    spec.placement.preferences = vec![
        "spread=node.labels.zone".into(),
        "spread=node.labels.rack".into(),
    ];
    let web = world.add_service(1, spec);
    world.converge();
    let spread: Vec<_> = world.spread(web).into_values().collect();
    assert_eq!(spread, [1, 1, 1, 1, 2, 2]);
}

#[test]
fn nodes_without_the_label_are_a_branch_of_their_own() {
    let mut world = World::new(3);
    world.label(1, "a");
    let mut spec = replicated(4);
    spec.placement.preferences = vec!["spread=node.labels.zone".into()];
    let web = world.add_service(1, spec);
    world.converge();
    let spread: Vec<_> = world.spread(web).into_values().collect();
    assert_eq!(spread, [2, 1, 1]);
}

#[test]
fn a_node_on_which_the_service_failed_five_times_is_chosen_last_for_five_minutes() {
    let mut world = World::new(2);
    let mut spec = replicated(1);
    spec.restart.delay_ms = 0;
    spec.placement.constraints = vec!["node.hostname==host-1".into()];
    let web = world.add_service(1, spec);
    for _ in 0..5 {
        world.converge();
        let task = world.in_slot(web, Slot::Replica(1)).id;
        world.end(task, TaskState::Failed);
        world.run_for(Duration::from_secs(3));
    }
    world.update_service(web, |spec| {
        spec.placement.constraints.clear();
        spec.mode = crate::api::ServiceMode::Replicated(2);
    });
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.spread(web)[&node(2)], 2);
    world.run_for(Duration::from_secs(5 * 60));
    world.update_service(web, |spec| {
        spec.mode = crate::api::ServiceMode::Replicated(3);
    });
    world.converge();
    assert_eq!(world.spread(web)[&node(1)], 1);
}

#[test]
fn failures_that_another_leader_saw_do_not_count() {
    let mut world = World::new(2);
    let mut spec = replicated(5);
    spec.restart.condition = crate::api::RestartCondition::None;
    spec.placement.constraints = vec!["node.hostname==host-1".into()];
    let web = world.add_service(1, spec);
    world.converge();
    let tasks: Vec<_> = world.live(web).iter().map(|task| task.id).collect();
    for task in tasks {
        world.end(task, TaskState::Failed);
    }
    world.change_leader();
    world.revive_node(1);
    world.revive_node(2);
    world.converge();
    world.update_service(web, |spec| {
        spec.placement.constraints.clear();
        spec.mode = crate::api::ServiceMode::Replicated(7);
    });
    world.settle();
    assert_eq!(world.spread(web).len(), 2);
}

#[test]
fn a_limit_for_each_node_is_kept() {
    let mut world = World::new(2);
    let mut spec = replicated(5);
    spec.placement.replicas_per_node_max = 2;
    let web = world.add_service(1, spec);
    world.converge();
    let spread: Vec<_> = world.spread(web).into_values().collect();
    assert_eq!(spread, [2, 2]);
    let reason = reason(&world, web);
    assert_eq!(reason, [PendingReason::NodeLimit { limit: 2 }]);
    world.add_node(3);
    world.converge();
    assert_eq!(world.spread(web).len(), 3);
}

#[test]
fn a_host_port_is_open_once_on_a_node() {
    let mut world = World::new(2);
    let first = world.add_service(1, with_port(replicated(1), Protocol::Tcp));
    world.converge();
    let second = world.add_service(2, with_port(replicated(2), Protocol::Tcp));
    let third = world.add_service(3, with_port(replicated(2), Protocol::Udp));
    world.converge();
    assert_ne!(
        world.spread(first).first_key_value().unwrap().0,
        world.spread(second).first_key_value().unwrap().0
    );
    assert_eq!(
        reason(&world, second),
        [PendingReason::HostPort { port: 80 }]
    );
    assert_eq!(world.spread(third).len(), 2);
    world.remove_service(first);
    world.converge();
    assert_eq!(world.spread(second).len(), 2);
}

#[test]
fn resources_are_not_given_twice() {
    let mut world = World::new(3);
    let some = |nano_cpus, memory_bytes| Resources {
        nano_cpus,
        memory_bytes,
    };
    world.node(1).resources = some(4, 100);
    world.node(2).resources = some(2, 100);
    world.node(3).resources = some(100, 9);
    let mut spec = replicated(4);
    spec.task.resources = some(2, 10);
    let web = world.add_service(1, spec);
    world.converge();
    let spread: Vec<_> = world.spread(web).into_iter().collect();
    assert_eq!(spread, [(node(1), 2), (node(2), 1)]);
    let wanted = some(2, 10);
    assert_eq!(reason(&world, web), [PendingReason::Resources { wanted }]);
    // What is not known is no obstacle.
    world.add_node(4);
    world.converge();
    assert_eq!(world.spread(web)[&node(4)], 1);
}

#[test]
fn the_reason_names_the_condition_at_which_the_last_node_drops_out() {
    let mut world = World::new(2);
    let mut spec = replicated(1);
    spec.placement.constraints = vec![
        "node.role==worker".into(),
        "node.labels.zone==a".into(),
        "node.hostname==host-2".into(),
    ];
    world.label(1, "a");
    let web = world.add_service(1, spec);
    world.converge();
    let constraint = "node.hostname==host-2".to_owned();
    let found = reason(&world, web);
    assert_eq!(found, [PendingReason::Constraint { constraint }]);
    world.node(1).availability = Availability::Pause;
    world.converge();
    let constraint = "node.labels.zone==a".to_owned();
    let found = reason(&world, web);
    assert_eq!(found, [PendingReason::Constraint { constraint }]);
    world.node(2).availability = Availability::Drain;
    world.converge();
    assert_eq!(reason(&world, web), [PendingReason::NoNode]);
    assert_eq!(world.settle(), 0);
}

#[test]
fn a_reason_outlives_a_leader_that_has_heard_of_nobody() {
    let mut world = World::new(1);
    let mut spec = replicated(1);
    spec.placement.constraints = vec!["node.role==manager".into()];
    let web = world.add_service(1, spec);
    world.converge();
    world.change_leader();
    assert_eq!(world.settle(), 0);
    assert!(matches!(
        reason(&world, web)[..],
        [PendingReason::Constraint { .. }]
    ));
}

#[test]
fn tasks_without_an_address_are_tried_now_and_then_and_follow_the_first_that_gets_one() {
    let mut world = World::new(1);
    world.addresses = 2;
    let web = world.add_service(1, replicated(6));
    world.converge();
    assert_eq!(world.spread(web)[&node(1)], 2);
    let mut tries = 0;
    for _ in 0..600 {
        world.advance(Duration::from_secs(1));
        tries += world.plan().len();
    }
    assert!((5..=20).contains(&tries), "{tries} tries in ten minutes");
    world.addresses = 5;
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.spread(web)[&node(1)], 5);
    // An address that comes back is used at once.
    let first = world.in_slot(web, Slot::Replica(1)).id;
    world.end(first, TaskState::Failed);
    world.converge();
    assert_eq!(world.spread(web)[&node(1)], 5);
}

#[test]
fn a_huge_service_waits_in_a_bounded_queue() {
    let mut world = World::new(1);
    let mut spec = replicated(u32::MAX);
    spec.placement.replicas_per_node_max = 3;
    let web = world.add_service(1, spec);
    world.converge();
    assert_eq!(world.live(web).len(), 3 + crate::scheduler::PENDING_MAX);
    world.update_service(web, |spec| {
        spec.mode = crate::api::ServiceMode::Replicated(2)
    });
    world.converge();
    assert_eq!(world.live(web).len(), 2);
    assert!(world.live(web).iter().all(|task| task.node.is_some()));
}

#[test]
fn a_plan_is_bounded_and_no_service_waits_for_another() {
    let mut world = World::new(2);
    let first = world.add_service(1, replicated(u32::MAX));
    let second = world.add_service(2, replicated(1));
    assert!(world.plan().len() <= crate::scheduler::CHANGES_MAX + 10);
    world.plan();
    assert_eq!(world.live(second).len(), 1);
    assert!(world.live(first).len() >= 500);
}

#[test]
fn a_global_service_says_why_a_node_cannot_run_it() {
    let mut world = World::new(2);
    world.node(1).resources.memory_bytes = 5;
    let mut spec = global();
    spec.task.resources.memory_bytes = 6;
    let web = world.add_service(1, spec);
    world.converge();
    assert_eq!(world.spread(web).len(), 1);
    assert!(matches!(
        reason(&world, web)[..],
        [PendingReason::Resources { .. }]
    ));
}

fn reason(world: &World, id: overlay_core::ServiceId) -> Vec<PendingReason> {
    let live = world.live(id).into_iter();
    let waiting = live.filter(|task| task.node.is_none());
    waiting
        .map(|task| task.status.pending.clone().unwrap())
        .collect()
}

fn with_port(spec: ServiceSpec, protocol: Protocol) -> ServiceSpec {
    let port = PublishedPort {
        published: 80,
        target: 8080,
        protocol,
        mode: PublishMode::Host,
        ..PublishedPort::default()
    };
    ServiceSpec {
        ports: vec![port],
        ..spec
    }
}
