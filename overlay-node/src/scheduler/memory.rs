//! What a leader remembers of what it saw and when. None of it is replicated: another leader starts anew.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    time::Duration,
};

use overlay_core::{Instant, NodeId, ServiceId, TaskId};

use super::{View, ledger::OnNode, restart::RestartLog, rollout::Rollout};
use crate::{
    api::{DesiredState, Slot, TaskState},
    state::TaskRecord,
};

/// What a leader remembers.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Whether it saw the state before: what it finds at first did not happen just now.
    primed: bool,
    /// Since when a task has ended.
    ended: BTreeMap<TaskId, Instant>,
    /// Since when a task is to stop.
    stopping: BTreeMap<TaskId, Instant>,
    /// Since when a node is down.
    down: BTreeMap<NodeId, Instant>,
    /// The last failures of a service on a node.
    failures: BTreeMap<OnNode, VecDeque<Instant>>,
    /// When a task that waits is due.
    pub(super) due: BTreeMap<TaskId, Instant>,
    pub(super) restarts: BTreeMap<(ServiceId, Slot), RestartLog>,
    pub(super) rollouts: BTreeMap<ServiceId, Rollout>,
    pub(super) gates: BTreeMap<ServiceId, Gate>,
}

impl Memory {
    /// Looks at everything once.
    pub(super) fn observe(&mut self, now: Instant, view: &View<'_>) {
        let (mut ended, mut stopping) = (0, 0);
        for task in view.tasks.values() {
            if task.status.state.is_terminal() {
                ended += 1;
                if let Entry::Vacant(entry) = self.ended.entry(task.id) {
                    entry.insert(now);
                    self.note_failure(now, task);
                }
            } else if task.desired >= DesiredState::Shutdown {
                stopping += 1;
                self.stopping.entry(task.id).or_insert(now);
            }
        }
        if self.ended.len() > ended {
            self.ended.retain(|task, _| view.tasks.contains_key(task));
        }
        if self.stopping.len() > stopping {
            let stops = |task: &TaskRecord| !task.status.state.is_terminal();
            self.stopping
                .retain(|task, _| view.tasks.get(task).is_some_and(stops));
        }
        self.down.retain(|node, _| view.down.contains(node));
        for node in view.down {
            self.down.entry(*node).or_insert(now);
        }
        self.failures.retain(|(service, node), times| {
            times.retain(|at| now.duration_since(*at) < FAILURES_WINDOW);
            !times.is_empty()
                && view.services.contains_key(service)
                && view.nodes.contains_key(node)
        });
        let waits = |task: &TaskRecord| task.desired == DesiredState::Ready;
        self.due
            .retain(|task, _| view.tasks.get(task).is_some_and(waits));
        self.rollouts
            .retain(|service, _| view.services.contains_key(service));
        self.gates
            .retain(|service, _| view.services.contains_key(service));
        self.primed = true;
    }

    /// Returns since when a task has ended.
    pub(super) fn ended_at(&self, task: TaskId) -> Option<Instant> {
        self.ended.get(&task).copied()
    }

    /// Returns since when a task is to stop.
    pub(super) fn stopping_since(&self, task: TaskId) -> Option<Instant> {
        self.stopping.get(&task).copied()
    }

    /// Returns since when a node is down.
    pub(super) fn down_since(&self, node: NodeId) -> Option<Instant> {
        self.down.get(&node).copied()
    }

    /// Returns whether a service failed on a node again and again of late.
    pub(super) fn fails_on(&self, service: ServiceId, node: NodeId) -> bool {
        let times = self.failures.get(&(service, node));
        times.is_some_and(|times| times.len() >= FAILURES_MAX)
    }

    fn note_failure(&mut self, now: Instant, task: &TaskRecord) {
        let failed = matches!(task.status.state, TaskState::Failed | TaskState::Rejected);
        let Some(node) = task.node else {
            return;
        };
        if !self.primed || !failed || task.desired > DesiredState::Running {
            return;
        }
        let times = self.failures.entry((task.service, node)).or_default();
        if times.len() == FAILURES_MAX {
            times.pop_front();
        }
        times.push_back(now);
    }
}

/// Holds back tasks for which there was no address, so that they are not tried again and again: one is tried now and
/// then, and if it gets one the others follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    /// The one that was tried.
    pub(super) probe: Option<TaskId>,
    pub(super) retry_at: Instant,
    pub(super) wait: Duration,
    /// How many tasks had addresses then; fewer is a reason to try at once.
    pub(super) holders: usize,
}

impl Gate {
    pub(super) fn new(now: Instant, holders: usize) -> Self {
        Self {
            probe: None,
            retry_at: now + Self::WAIT_MIN,
            wait: Self::WAIT_MIN,
            holders,
        }
    }

    pub(super) fn try_one(&mut self, now: Instant, task: TaskId, holders: usize) {
        self.probe = Some(task);
        self.wait = (self.wait * 2).min(Self::WAIT_MAX);
        self.retry_at = now + self.wait;
        self.holders = holders;
    }

    const WAIT_MIN: Duration = Duration::from_secs(1);
    const WAIT_MAX: Duration = Duration::from_secs(60);
}

/// A node on which a service failed so often is chosen last,
const FAILURES_MAX: usize = 5;
/// if it was within this time.
pub(super) const FAILURES_WINDOW: Duration = Duration::from_secs(5 * 60);
