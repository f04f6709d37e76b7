//! One plan while it is made.

use std::collections::BTreeMap;

use overlay_core::{Instant, Rng, ServiceId, TaskId};

use super::{
    CHANGES_MAX, ORPHANED_AFTER, View,
    ledger::{Condition, Ledger, is_wanted},
    memory::Memory,
    service::ServicePass,
};
use crate::{
    api::{DesiredState, Slot},
    state::{ServiceRecord, TaskChange, TaskRecord},
};

/// The tasks of a service by slot, the oldest first.
pub(super) type Slots<'a> = BTreeMap<Slot, Vec<&'a TaskRecord>>;

/// One plan while it is made.
pub(super) struct Pass<'a, 'm> {
    pub(super) now: Instant,
    pub(super) view: View<'a>,
    pub(super) ledger: Ledger<'a>,
    pub(super) memory: &'m mut Memory,
    /// How many tasks have addresses.
    pub(super) holders: usize,
    rng: &'m mut Rng,
    changes: Vec<TaskChange>,
    wake: Option<Instant>,
}

impl<'a, 'm> Pass<'a, 'm> {
    pub(super) fn new(
        now: Instant,
        view: View<'a>,
        memory: &'m mut Memory,
        rng: &'m mut Rng,
    ) -> Self {
        Self {
            now,
            view,
            ledger: Ledger::new(&view),
            memory,
            holders: 0,
            rng,
            changes: Vec::new(),
            wake: None,
        }
    }

    /// Plans for all services, beginning with `start`; returns where to begin next time.
    pub(super) fn run(&mut self, start: Option<ServiceId>) -> Option<ServiceId> {
        let mut of: BTreeMap<ServiceId, Slots<'a>> = BTreeMap::new();
        for task in self.view.tasks.values() {
            let service = self.view.services.get(&task.service);
            self.ledger.carry(service, task);
            self.holders += usize::from(!task.endpoints.is_empty());
            let slots = of.entry(task.service).or_default();
            slots.entry(task.slot).or_default().push(task);
        }
        for tasks in of.values_mut().flat_map(BTreeMap::values_mut) {
            tasks.sort_unstable_by_key(|task| (task.created, task.id));
        }
        self.memory.restarts.retain(|(service, slot), _| {
            of.get(service)
                .is_some_and(|slots| slots.contains_key(slot))
        });
        self.orphan_lost();
        for (service, slots) in &of {
            if !self.view.services.contains_key(service) {
                self.retire(slots);
            }
        }
        let first = start.unwrap_or(ServiceId::from_bytes([0; 16]));
        let services = self.view.services;
        for (id, record) in services.range(first..).chain(services.range(..first)) {
            if self.full() {
                return Some(*id);
            }
            let slots = of.remove(id).unwrap_or_default();
            if record.removing {
                self.retire(&slots);
            } else {
                ServicePass::new(self, record, slots).run();
            }
        }
        // The next plan begins with the service during which this one became full.
        self.full().then_some(first)
    }

    pub(super) fn finish(self) -> (Vec<TaskChange>, Option<Instant>) {
        (self.changes, self.wake)
    }

    pub(super) fn full(&self) -> bool {
        self.changes.len() >= CHANGES_MAX
    }

    pub(super) fn change(&mut self, change: TaskChange) {
        self.changes.push(change);
    }

    /// Asks for another plan at `at`. Returns whether that is still to come.
    pub(super) fn wait_until(&mut self, at: Instant) -> bool {
        if at <= self.now {
            return false;
        }
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        true
    }

    /// Makes a task.
    pub(super) fn create(
        &mut self,
        service: &ServiceRecord,
        slot: Slot,
        desired: DesiredState,
    ) -> TaskId {
        let task = TaskId::random(self.rng);
        self.change(TaskChange::Create {
            task,
            service: service.id,
            slot,
            spec_version: service.spec_version,
            desired,
        });
        task
    }

    /// Wants a task to stop, or to be forgotten.
    pub(super) fn stop(&mut self, task: &TaskRecord, desired: DesiredState) {
        if task.desired >= desired {
            return;
        }
        if is_wanted(task)
            && let Some(node) = task.node
        {
            self.ledger.unwant(node);
        }
        let task = task.id;
        self.change(TaskChange::Desire { task, desired });
    }

    /// Does away with a task: forgets it now if it has ended or never had a node, else once it has stopped.
    pub(super) fn remove(&mut self, task: &TaskRecord) {
        if task.status.state.is_terminal() || task.node.is_none() {
            self.change(TaskChange::Remove { task: task.id });
        } else {
            self.stop(task, DesiredState::Remove);
        }
    }

    /// Does away with all tasks of a service.
    fn retire(&mut self, slots: &Slots<'a>) {
        for task in slots.values().flatten() {
            if self.full() {
                return;
            }
            self.remove(task);
        }
    }

    /// Gives up tasks of nodes that are gone, or down for too long.
    fn orphan_lost(&mut self) {
        for task in self.view.tasks.values() {
            let Some(node) = task.node.filter(|_| !task.status.state.is_terminal()) else {
                continue;
            };
            let lost = match self.ledger.condition(node) {
                Condition::Ready | Condition::Unknown => continue,
                Condition::Gone => true,
                Condition::Down => {
                    let since = self.memory.down_since(node).unwrap_or(self.now);
                    !self.wait_until(since + ORPHANED_AFTER)
                }
            };
            if lost && !self.full() {
                self.change(TaskChange::Orphan { task: task.id });
            }
        }
    }
}
