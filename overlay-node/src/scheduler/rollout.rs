//! How the tasks of a service are replaced by such of another version.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use overlay_core::{Instant, TaskId};

use super::{
    ledger::{Condition, host_ports},
    restart,
    service::ServicePass,
    slots::SlotWork,
};
use crate::{
    api::{
        DesiredState, FailureAction, RestartCondition, Slot, TaskState, UpdateOrder, UpdatePhase,
        UpdatePolicy,
    },
    state::{ServiceRecord, TaskChange, TaskRecord},
};

/// What is to be done about tasks of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// They are replaced, and it is watched how that goes.
    Forward,
    /// The same, back to the version before.
    Back,
    /// Nothing: it was stopped.
    Halted,
    /// All were replaced; such as come to light afterwards, with a node that was away, are replaced, too.
    Over {
        /// That was back to the version before.
        back: bool,
    },
}

impl Stage {
    pub(super) fn of(record: &ServiceRecord) -> Self {
        match record.update.as_ref().map(|update| update.phase) {
            None | Some(UpdatePhase::Updating) => Self::Forward,
            Some(UpdatePhase::RollbackStarted) => Self::Back,
            Some(UpdatePhase::Paused | UpdatePhase::RollbackPaused) => Self::Halted,
            Some(UpdatePhase::Completed) => Self::Over { back: false },
            Some(UpdatePhase::RollbackCompleted) => Self::Over { back: true },
        }
    }

    fn is_back(self) -> bool {
        matches!(self, Self::Back | Self::Over { back: true })
    }
}

/// What a leader remembers of a replacement.
#[derive(Debug)]
pub(super) struct Rollout {
    spec_version: u64,
    back: bool,
    /// The slots that had a task of another version.
    begun: BTreeSet<Slot>,
    /// Those of them that had one with a node, and so hold others up until the new one runs.
    holding: BTreeSet<Slot>,
    /// Since when a new task of a slot was seen to run, or to have ended.
    settled: BTreeMap<Slot, Instant>,
    /// The slots whose new task failed while it was watched.
    failed: BTreeSet<Slot>,
    /// New tasks that have ended and were looked at.
    examined: BTreeSet<TaskId>,
}

impl Rollout {
    fn new(spec_version: u64, back: bool) -> Self {
        Self {
            spec_version,
            back,
            begun: BTreeSet::new(),
            holding: BTreeSet::new(),
            settled: BTreeMap::new(),
            failed: BTreeSet::new(),
            examined: BTreeSet::new(),
        }
    }

    /// Returns whether a slot that holds others up is neither as it was nor settled.
    fn moves(&self, slot: &SlotWork<'_>, current: impl Fn(&TaskRecord) -> bool) -> bool {
        let away = slot.live.is_empty() && !slot.at_rest;
        self.holding.contains(&slot.slot)
            && !self.settled.contains_key(&slot.slot)
            && (away || slot.made.is_some() || slot.live.iter().any(|task| current(task)))
    }
}

impl<'a> ServicePass<'_, 'a, '_> {
    /// Replaces tasks of another version, so many at a time, and says how far that is.
    pub(super) fn roll(&mut self) {
        let (service, stage) = (self.record.id, self.stage);
        let tasks = self.slots.iter().flat_map(|slot| &slot.tasks);
        let mixed = tasks
            .filter(|task| task.spec_version != self.record.spec_version)
            .any(|task| !self.is_current(task));
        let known = self.pass.memory.rollouts.remove(&service);
        let announced = self.record.update.is_some();
        let idle = match stage {
            Stage::Halted => true,
            Stage::Over { .. } => !mixed,
            Stage::Forward | Stage::Back => !mixed && !announced,
        };
        if idle {
            return;
        }
        let (version, back) = (self.record.spec_version, stage.is_back());
        let known = known.filter(|known| (known.spec_version, known.back) == (version, back));
        let first = known.is_none();
        let mut rollout = known.unwrap_or_else(|| Rollout::new(version, back));
        let watched = announced && matches!(stage, Stage::Forward | Stage::Back);
        self.watch(&mut rollout, watched && !first);
        if first {
            rollout.holding.clone_from(&rollout.begun);
        }
        if !(watched && self.stop_failing(&rollout)) {
            self.go_on(&mut rollout);
        }
        self.pass.memory.rollouts.insert(service, rollout);
    }

    fn policy(&self) -> &'a UpdatePolicy {
        let spec = self.record.spec();
        if self.stage.is_back() {
            &spec.rollback
        } else {
            &spec.update
        }
    }

    /// Notes which new tasks run and which have ended; with `count`, which of these failed.
    fn watch(&self, rollout: &mut Rollout, count: bool) {
        let now = self.pass.now;
        let monitor = Duration::from_millis(self.policy().monitor_ms);
        let any = self.record.spec().restart.condition == RestartCondition::Any;
        for slot in self.slots.iter().filter(|slot| !slot.frozen) {
            if slot.tasks.iter().any(|task| !self.is_current(task)) {
                rollout.begun.insert(slot.slot);
            }
            if !rollout.begun.contains(&slot.slot) {
                continue;
            }
            for task in slot.tasks.iter().filter(|task| self.is_current(task)) {
                let state = task.status.state;
                if !state.is_terminal() {
                    if state == TaskState::Running && task.desired == DesiredState::Running {
                        rollout.settled.entry(slot.slot).or_insert(now);
                    }
                    continue;
                }
                let bad = restart::is_failure(state) || (any && state == TaskState::Complete);
                let own = task.desired <= DesiredState::Running;
                if rollout.examined.insert(task.id) && own && restart::ended_by_itself(state) {
                    let since = *rollout.settled.entry(slot.slot).or_insert(now);
                    if bad && count && now <= since + monitor {
                        rollout.failed.insert(slot.slot);
                    }
                }
            }
        }
    }

    /// Does what is to be done if too many failed; returns whether anything is.
    fn stop_failing(&mut self, rollout: &Rollout) -> bool {
        let policy = self.policy();
        let slots = self.slots.iter().filter(|slot| !slot.frozen).count();
        let (failed, slots) = (rollout.failed.len() as u64, slots.max(1) as u64);
        if failed * 1_000 <= u64::from(policy.failures_max_permille) * slots {
            return false;
        }
        let (service, spec_version) = (self.record.id, self.record.spec_version);
        let back = self.stage.is_back();
        let change = match policy.failure_action {
            FailureAction::Continue => return false,
            FailureAction::Rollback if !back && self.record.previous_version.is_some() => {
                TaskChange::RollBack {
                    service,
                    spec_version,
                }
            }
            FailureAction::Pause | FailureAction::Rollback => TaskChange::Update {
                service,
                spec_version,
                phase: if back {
                    UpdatePhase::RollbackPaused
                } else {
                    UpdatePhase::Paused
                },
                message: format!("{failed} of {slots} tasks failed soon after they were replaced"),
            },
        };
        self.pass.change(change);
        true
    }

    /// Replaces the next tasks, or says that all are.
    fn go_on(&mut self, rollout: &mut Rollout) {
        let policy = self.policy();
        let mut slots = std::mem::take(&mut self.slots);
        let moving = slots
            .iter()
            .filter(|slot| !slot.frozen && rollout.moves(slot, |task| self.is_current(task)))
            .count();
        let mut todo: Vec<_> = slots
            .iter_mut()
            .filter(|slot| self.is_to_be_replaced(slot))
            .collect();
        // What does not run anyway comes first.
        todo.sort_by_key(|slot| {
            let state = slot.live.iter().map(|task| task.status.state).max();
            (state == Some(TaskState::Running), slot.slot)
        });
        let left = todo.len();
        if left > 0 && self.record.update.is_none() {
            let message = format!("{left} tasks are to be replaced");
            self.report(UpdatePhase::Updating, message);
        }
        let width = match policy.parallelism {
            0 => usize::MAX,
            number => usize::try_from(number).unwrap_or(usize::MAX),
        };
        let pause = Duration::from_millis(policy.delay_ms);
        let mut busy = moving;
        for since in rollout.settled.values().take_while(|_| left > 0) {
            busy += usize::from(self.pass.wait_until(*since + pause));
        }
        for slot in todo.into_iter().take(width.saturating_sub(busy)) {
            if self.pass.full() {
                break;
            }
            if !slot.live.is_empty() {
                rollout.holding.insert(slot.slot);
            }
            self.replace(slot);
        }
        self.slots = slots;
        if left == 0 && moving == 0 {
            self.complete(rollout);
        }
    }

    /// Says that all are replaced, once the new tasks were watched for long enough.
    fn complete(&mut self, rollout: &Rollout) {
        let phase = match self.record.update.as_ref().map(|update| update.phase) {
            Some(UpdatePhase::Updating) => UpdatePhase::Completed,
            Some(UpdatePhase::RollbackStarted) => UpdatePhase::RollbackCompleted,
            _ => return,
        };
        let kept = |slot: &SlotWork<'_>| {
            let replaced = slot
                .newest_ended()
                .is_some_and(|task| self.is_current(task));
            let new = slot.live.iter().any(|task| self.is_current(task));
            !slot.frozen && !slot.live.is_empty() && !new && !replaced
        };
        if self.slots.iter().any(kept) {
            return;
        }
        let monitor = Duration::from_millis(self.policy().monitor_ms);
        let watched = rollout.settled.iter();
        let last = watched
            .filter(|(slot, _)| !rollout.failed.contains(slot))
            .map(|(_, since)| *since + monitor)
            .max();
        if last.is_some_and(|last| self.pass.wait_until(last)) {
            return;
        }
        let failed = rollout.failed.len();
        let message = match failed {
            0 => "all tasks are replaced".to_owned(),
            _ => format!("all tasks are replaced; {failed} failed soon after"),
        };
        self.report(phase, message);
    }

    fn report(&mut self, phase: UpdatePhase, message: String) {
        let (service, spec_version) = (self.record.id, self.record.spec_version);
        self.pass.change(TaskChange::Update {
            service,
            spec_version,
            phase,
            message,
        });
    }

    /// Returns whether a slot has a task of another version that nothing replaces yet.
    fn is_to_be_replaced(&self, slot: &SlotWork<'_>) -> bool {
        if slot.frozen || slot.made.is_some() || slot.delayed {
            return false;
        }
        let replaced = slot
            .newest_ended()
            .is_some_and(|task| self.is_current(task));
        let unheard = |task: &&TaskRecord| {
            let unknown = |node| self.pass.ledger.condition(node) == Condition::Unknown;
            task.node.is_some_and(unknown)
        };
        let old = !slot.live.iter().any(|task| self.is_current(task));
        match slot.live.is_empty() {
            true => slot.at_rest && !replaced,
            false => old && !replaced && !slot.live.iter().any(unheard),
        }
    }

    /// Replaces the tasks of a slot. What opens a port of its node has to stop first, whatever was asked for.
    fn replace(&mut self, slot: &mut SlotWork<'a>) {
        let ports = host_ports(&self.record.ports).next().is_some();
        let stop_first = ports || self.policy().order == UpdateOrder::StopFirst;
        if stop_first && !slot.live.is_empty() {
            for task in std::mem::take(&mut slot.live) {
                self.away(task);
            }
        } else {
            self.make(slot);
        }
    }
}
