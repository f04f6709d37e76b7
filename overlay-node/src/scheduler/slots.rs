//! What one slot of a service needs.

use std::time::Duration;

use overlay_core::{Instant, TaskId};

use super::{
    STOP_OVERTIME_MAX,
    ledger::{Condition, is_wanted},
    restart::{self, Decision, RestartLog},
    rollout::Stage,
    service::ServicePass,
};
use crate::{
    api::{DesiredState, PendingReason, Slot, TaskState},
    state::{TaskChange, TaskRecord},
};

/// One slot and what was decided about it.
#[derive(Debug)]
pub(super) struct SlotWork<'a> {
    pub(super) slot: Slot,
    /// Its tasks, the oldest first.
    pub(super) tasks: Vec<&'a TaskRecord>,
    /// Those that shall run and have not ended.
    pub(super) live: Vec<&'a TaskRecord>,
    /// It is one of a node that gets nothing new.
    pub(super) frozen: bool,
    /// The task that was made for it and is to get a node.
    pub(super) made: Option<TaskId>,
    /// A task that waits was made for it.
    pub(super) delayed: bool,
    /// Its last task has ended, and there is to be no other.
    pub(super) at_rest: bool,
}

impl<'a> SlotWork<'a> {
    pub(super) fn new(slot: Slot, tasks: Vec<&'a TaskRecord>, frozen: bool) -> Self {
        Self {
            slot,
            live: tasks
                .iter()
                .copied()
                .filter(|task| is_wanted(task))
                .collect(),
            tasks,
            frozen,
            made: None,
            delayed: false,
            at_rest: false,
        }
    }

    /// Returns whether its last task is one of several that started beside an old one, and has ended by itself.
    pub(super) fn newest_ended(&self) -> Option<&'a TaskRecord> {
        let newest = self.tasks.last()?;
        let own = newest.status.state.is_terminal() && newest.desired <= DesiredState::Running;
        own.then_some(newest)
    }
}

impl<'a> ServicePass<'_, 'a, '_> {
    /// Stops what shall not run in a slot, and makes what is missing.
    pub(super) fn tend(&mut self, slot: &mut SlotWork<'a>) {
        self.forget_old(slot);
        self.finish(slot);
        if slot.frozen {
            return;
        }
        self.drop_outdated(slot);
        let moved = self.leave_lost(slot);
        if slot.live.is_empty() {
            if moved {
                self.make(slot);
            } else {
                self.refill(slot);
            }
        } else if self.stage != Stage::Halted
            && let Some(ended) = slot.newest_ended()
            && self.is_current(ended)
            && !slot.live.iter().any(|task| self.is_current(task))
        {
            // It was to replace the one that still runs.
            self.restart(slot, ended);
        }
    }

    /// Makes a task that is to run at once.
    pub(super) fn make(&mut self, slot: &mut SlotWork<'a>) {
        let desired = DesiredState::Running;
        slot.made = Some(self.pass.create(self.record, slot.slot, desired));
    }

    /// Returns whether the delay of a task is over, which then is wanted to run.
    pub(super) fn is_due(&mut self, task: &TaskRecord) -> bool {
        let now = self.pass.now;
        let attempt = match &task.status.pending {
            Some(PendingReason::RestartDelay { attempt }) => *attempt,
            _ => 1,
        };
        let policy = &self.record.spec().restart;
        let due = self.pass.memory.due.entry(task.id);
        let due = *due.or_insert_with(|| now + restart::delay(policy, attempt));
        if self.pass.wait_until(due) {
            return false;
        }
        let (task, desired) = (task.id, DesiredState::Running);
        self.pass.change(TaskChange::Desire { task, desired });
        true
    }

    /// Forgets tasks that have ended and are more than are kept.
    fn forget_old(&mut self, slot: &SlotWork<'a>) {
        let ended = |task: &&&TaskRecord| task.status.state.is_terminal();
        let kept = |task: &&&TaskRecord| ended(task) && task.desired != DesiredState::Remove;
        let mut surplus = slot
            .tasks
            .iter()
            .filter(kept)
            .count()
            .saturating_sub(self.pass.view.history_max);
        for task in slot.tasks.iter().filter(ended) {
            if task.desired == DesiredState::Remove {
                self.pass.remove(task);
            } else if surplus > 0 {
                surplus -= 1;
                self.pass.remove(task);
            }
        }
    }

    /// Forgets tasks of another version that have no node yet: they would be placed as the present spec says, and nothing
    /// is lost with them.
    fn drop_outdated(&mut self, slot: &mut SlotWork<'a>) {
        let kept = |task: &TaskRecord| task.node.is_some() || self.is_current(task);
        let (live, outdated): (_, Vec<&TaskRecord>) = slot.live.iter().partition(|task| kept(task));
        slot.live = live;
        for task in outdated {
            slot.tasks.retain(|other| other.id != task.id);
            self.pass.remove(task);
        }
    }

    /// Stops the old task once the new one runs, and what is there twice.
    fn finish(&mut self, slot: &mut SlotWork<'a>) {
        if slot.live.len() < 2 {
            return;
        }
        let best = |current: bool| {
            let alike = slot.live.iter().copied();
            alike
                .filter(|task| self.is_current(task) == current)
                .max_by_key(|task| (task.status.state, task.created, task.id))
        };
        let (new, old) = (best(true), best(false));
        let old = old.filter(|_| new.is_none_or(|new| new.status.state < TaskState::Running));
        let kept = |task: &TaskRecord| {
            let is = |other: Option<&TaskRecord>| other.is_some_and(|other| other.id == task.id);
            is(new) || is(old)
        };
        let (live, surplus) = slot.live.iter().partition(|task| kept(task));
        slot.live = live;
        for task in surplus {
            self.away(task);
        }
    }

    /// Gives up tasks on nodes that are lost, that are to be empty, or that do not satisfy the constraints any more.
    fn leave_lost(&mut self, slot: &mut SlotWork<'a>) -> bool {
        let lost = |task: &TaskRecord| {
            let Some(node) = task.node else { return false };
            match (self.pass.ledger.condition(node), task.slot) {
                (Condition::Unknown, _) => false,
                // What a node has for itself is kept until it comes back.
                (Condition::Down, Slot::Node(_)) => false,
                (Condition::Down | Condition::Gone, _) => true,
                (Condition::Ready, Slot::Node(_)) => false,
                (Condition::Ready, Slot::Replica(_)) => {
                    let record = self.pass.view.nodes.get(&node);
                    record.is_some_and(|record| !self.suits(task.spec_version, record))
                }
            }
        };
        let (lost, live): (Vec<_>, _) = slot.live.iter().partition(|task| lost(task));
        slot.live = live;
        for task in &lost {
            self.pass.stop(task, DesiredState::Shutdown);
        }
        !lost.is_empty()
    }

    /// Sees to a slot in which nothing runs.
    fn refill(&mut self, slot: &mut SlotWork<'a>) {
        if let Some(ended) = slot.newest_ended() {
            self.restart(slot, ended);
        } else if !self.awaits_stop(slot) {
            self.make(slot);
        }
    }

    /// Lets the restart policy decide what follows the end of a task.
    fn restart(&mut self, slot: &mut SlotWork<'a>, ended: &'a TaskRecord) {
        let (task, desired) = (ended.id, DesiredState::Shutdown);
        let decision = if ended.status.state == TaskState::Orphaned {
            let (due, attempt) = (self.pass.now, 0);
            Decision::Restart { due, attempt }
        } else {
            self.decide(slot, ended)
        };
        match decision {
            Decision::Rest => {
                slot.at_rest = true;
                return;
            }
            Decision::Restart { due, attempt } if due > self.pass.now => {
                let made = self
                    .pass
                    .create(self.record, slot.slot, DesiredState::Ready);
                let reason = PendingReason::RestartDelay { attempt };
                let pend = TaskChange::Pend { task: made, reason };
                self.pass.change(pend);
                self.pass.memory.due.insert(made, due);
                self.pass.wait_until(due);
                slot.delayed = true;
            }
            Decision::Restart { .. } => self.make(slot),
        }
        self.pass.change(TaskChange::Desire { task, desired });
    }

    fn decide(&mut self, slot: &SlotWork<'a>, ended: &TaskRecord) -> Decision {
        let (now, version) = (self.pass.now, self.record.spec_version);
        let history = slot.tasks.iter().copied();
        let before = history.filter(|task| task.status.state.is_terminal() && task.id != ended.id);
        let ended_at = self.pass.memory.ended_at(ended.id).unwrap_or(now);
        let logs = &mut self.pass.memory.restarts;
        let log = logs
            .entry((self.record.id, slot.slot))
            .and_modify(|log| {
                if log.spec_version() != version {
                    *log = RestartLog::new(now, version, std::iter::empty());
                }
            })
            .or_insert_with(|| RestartLog::new(now, version, before));
        log.decide(now, ended_at, &self.record.spec().restart, ended)
    }

    /// Returns whether a task of the slot is still to stop before another one starts.
    fn awaits_stop(&mut self, slot: &SlotWork<'a>) -> bool {
        let grace = |task: &TaskRecord| {
            let spec = self.record.specs.get(&task.spec_version);
            Duration::from_millis(spec.map_or(0, |spec| spec.task.stop_grace_ms))
        };
        let ends = |task: &&&TaskRecord| {
            let answers = |node| {
                matches!(
                    self.pass.ledger.condition(node),
                    Condition::Ready | Condition::Unknown
                )
            };
            !task.status.state.is_terminal()
                && task.desired >= DesiredState::Shutdown
                && task.node.is_some_and(answers)
        };
        let stopping = slot.tasks.iter().filter(ends);
        let until = |task: &&TaskRecord| {
            let since = self.pass.memory.stopping_since(task.id);
            since.unwrap_or(self.pass.now) + grace(task) + STOP_OVERTIME_MAX
        };
        let latest: Option<Instant> = stopping.map(until).max();
        latest.is_some_and(|at| self.pass.wait_until(at))
    }

    /// Stops a task, or forgets it if it never had a node.
    pub(super) fn away(&mut self, task: &TaskRecord) {
        if task.node.is_none() {
            self.pass.remove(task);
        } else {
            self.pass.stop(task, DesiredState::Shutdown);
        }
    }
}
