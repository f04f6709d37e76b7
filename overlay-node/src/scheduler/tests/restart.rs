//! What follows the end of a task.

use std::time::Duration;

use overlay_core::{Instant, ServiceId};

use super::world::{World, replicated};
use crate::api::{
    DesiredState, PendingReason, RestartCondition, ServiceSpec, Slot, TaskState, UpdatePhase,
};

#[test]
fn another_task_waits_for_the_delay_and_says_so() {
    let (mut world, web) = one(|_| {});
    let first = fail(&mut world, web);
    world.converge();
    let task = world.in_slot(web, SLOT);
    assert_eq!(task.desired, DesiredState::Ready);
    let reason = PendingReason::RestartDelay { attempt: 1 };
    assert_eq!(task.status.pending, Some(reason));
    assert_eq!(world.tasks[&first].desired, DesiredState::Shutdown);
    let due = world.now + Duration::from_secs(5);
    assert_eq!(world.scheduler.poll_timeout(), Some(due));
    world.now = due - Duration::from_nanos(1);
    assert_eq!(world.settle(), 0);
    world.now = due;
    world.converge();
    assert_eq!(
        world.in_slot(web, SLOT).status.state,
        TaskState::Running,
        "due at {due}"
    );
}

#[test]
fn the_delay_doubles_with_each_failure_up_to_a_minute() {
    let (mut world, web) = one(|_| {});
    let waits: Vec<_> = (0..7).map(|_| wait(&mut world, web)).collect();
    assert_eq!(waits, [5, 10, 20, 40, 60, 60, 60]);
}

#[test]
fn failures_before_the_window_do_not_count() {
    let (mut world, web) = one(|spec| {
        spec.restart.window_ms = 60_000;
        spec.restart.attempts_max = 2;
    });
    let waits: Vec<_> = (0..2).map(|_| wait(&mut world, web)).collect();
    assert_eq!(waits, [5, 10]);
    world.advance(Duration::from_secs(60));
    let waits: Vec<_> = (0..2).map(|_| wait(&mut world, web)).collect();
    assert_eq!(waits, [5, 10]);
    fail(&mut world, web);
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.live(web), Vec::<&_>::new());
}

#[test]
fn what_fails_without_a_delay_is_not_restarted_in_a_tight_loop() {
    let (mut world, web) = one(|spec| {
        spec.restart.delay_ms = 0;
        spec.task.command = vec!["bad".into()];
    });
    world.run_for(Duration::from_secs(60));
    let created = world.tasks.values().map(|task| task.created).max().unwrap();
    assert!(created < 150, "{created} plans");
    assert!(!world.live(web).is_empty());
}

#[test]
fn a_long_delay_is_kept_as_it_is() {
    let (mut world, web) = one(|spec| spec.restart.delay_ms = 120_000);
    let waits: Vec<_> = (0..3).map(|_| wait(&mut world, web)).collect();
    assert_eq!(waits, [120, 120, 120]);
}

#[test]
fn a_slot_whose_attempts_are_used_up_stays_ended_whoever_leads() {
    let (mut world, web) = one(|spec| spec.restart.attempts_max = 2);
    wait(&mut world, web);
    wait(&mut world, web);
    let last = fail(&mut world, web);
    world.run_for(Duration::from_secs(3_600));
    assert!(world.live(web).is_empty());
    assert_eq!(world.tasks[&last].status.state, TaskState::Failed);
    world.change_leader();
    world.revive_node(1);
    world.run_for(Duration::from_secs(3_600));
    assert!(world.live(web).is_empty());
    // Whoever changes the policy gets another try.
    world.update_service(web, |spec| spec.restart.attempts_max = 3);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.live(web).len(), 1);
}

#[test]
fn the_condition_decides_which_ends_count() {
    use RestartCondition as C;
    use TaskState as S;
    for (condition, state, again) in [
        (C::None, S::Complete, false),
        (C::None, S::Failed, false),
        (C::OnFailure, S::Complete, false),
        (C::OnFailure, S::Failed, true),
        (C::OnFailure, S::Rejected, true),
        (C::Any, S::Complete, true),
        (C::Any, S::Failed, true),
        // Nobody wanted it to stop.
        (C::None, S::Shutdown, true),
    ] {
        let (mut world, web) = one(|spec| spec.restart.condition = condition);
        let task = world.in_slot(web, SLOT).id;
        world.end(task, state);
        world.run_for(Duration::from_secs(10));
        let live = world.live(web).len();
        assert_eq!(live, usize::from(again), "{condition:?} {state:?}");
    }
}

#[test]
fn what_ends_well_does_not_double_the_delay() {
    let (mut world, web) = one(|_| {});
    for _ in 0..3 {
        let task = world.in_slot(web, SLOT).id;
        world.end(task, TaskState::Complete);
        world.converge();
        world.run_for(Duration::from_secs(5));
        assert_eq!(world.in_slot(web, SLOT).status.state, TaskState::Running);
    }
}

#[test]
fn a_delay_starts_again_with_another_leader() {
    let (mut world, web) = one(|_| {});
    fail(&mut world, web);
    world.converge();
    world.advance(Duration::from_secs(4));
    world.change_leader();
    world.revive_node(1);
    world.settle();
    let due = world.now + Duration::from_secs(5);
    assert_eq!(world.scheduler.poll_timeout(), Some(due));
    world.now = due;
    world.converge();
    assert_eq!(world.in_slot(web, SLOT).status.state, TaskState::Running);
}

#[test]
fn slots_that_ended_for_good_still_count_and_go_first() {
    let mut world = World::new(1);
    let mut spec = replicated(3);
    spec.restart.condition = RestartCondition::OnFailure;
    let web = world.add_service(1, spec);
    world.converge();
    let task = world.in_slot(web, Slot::Replica(1)).id;
    world.end(task, TaskState::Complete);
    world.converge();
    assert_eq!(world.live(web).len(), 2);
    world.update_service(web, |spec| {
        spec.mode = crate::api::ServiceMode::Replicated(2)
    });
    world.converge();
    assert_eq!(world.live(web).len(), 2);
    assert!(!world.tasks.contains_key(&task));
    assert_eq!(world.phase(web), None::<UpdatePhase>);
}

fn one(change: impl FnOnce(&mut ServiceSpec)) -> (World, ServiceId) {
    let mut world = World::new(1);
    let mut spec = replicated(1);
    change(&mut spec);
    let web = world.add_service(1, spec);
    world.converge();
    (world, web)
}

fn fail(world: &mut World, id: ServiceId) -> overlay_core::TaskId {
    let task = world.in_slot(id, SLOT).id;
    world.end(task, TaskState::Failed);
    task
}

/// Fails the task and returns how many seconds the next one waits.
fn wait(world: &mut World, id: ServiceId) -> u64 {
    fail(world, id);
    let since: Instant = world.now;
    world.converge();
    let due = world.scheduler.poll_timeout().unwrap();
    world.now = due;
    world.converge();
    assert_eq!(world.in_slot(id, SLOT).status.state, TaskState::Running);
    due.duration_since(since).as_secs()
}

const SLOT: Slot = Slot::Replica(1);
