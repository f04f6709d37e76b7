//! What one service needs: which slots it has, and nodes for their tasks.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use overlay_core::{NodeId, TaskId};

use super::{
    PENDING_MAX,
    constraint::{self, Constraint},
    ledger::{Branches, Condition},
    memory::Gate,
    pass::{Pass, Slots},
    placer::{Placer, labels},
    rollout::Stage,
    slots::SlotWork,
};
use crate::{
    api::{
        Availability, DesiredState, PendingReason, PublishMode, PublishedPort, ServiceMode,
        ServiceSpec, Slot, TaskState,
    },
    state::{NodeRecord, ServiceRecord, TaskChange, TaskRecord},
};

/// The part of a plan that is about one service.
pub(super) struct ServicePass<'p, 'a, 'm> {
    pub(super) pass: &'p mut Pass<'a, 'm>,
    pub(super) record: &'a ServiceRecord,
    pub(super) slots: Vec<SlotWork<'a>>,
    pub(super) stage: Stage,
    found: Slots<'a>,
    versions: BTreeMap<u64, Version>,
}

/// What is to be known of a version of the spec.
struct Version {
    /// Whether its tasks are like those of the present one.
    current: bool,
    constraints: Rc<Constraints>,
}

type Constraints = [(String, Option<Constraint>)];

/// A task that is to get a node.
struct Unplaced<'a> {
    task: TaskId,
    slot: Slot,
    /// The node of the task that it replaces and that still runs.
    instead_of: Option<NodeId>,
    pending: Option<&'a PendingReason>,
}

impl<'p, 'a, 'm> ServicePass<'p, 'a, 'm> {
    pub(super) fn new(
        pass: &'p mut Pass<'a, 'm>,
        record: &'a ServiceRecord,
        found: Slots<'a>,
    ) -> Self {
        let present = record.spec();
        let version = |spec: &ServiceSpec| Version {
            current: runs_alike(spec, present),
            constraints: spec
                .placement
                .constraints
                .iter()
                .map(|text| (text.clone(), constraint::parse(text).ok()))
                .collect(),
        };
        let specs = record.specs.iter();
        Self {
            pass,
            record,
            slots: Vec::new(),
            stage: Stage::of(record),
            found,
            versions: specs.map(|(at, spec)| (*at, version(spec))).collect(),
        }
    }

    pub(super) fn run(mut self) {
        match self.record.spec().mode {
            ServiceMode::Replicated(replicas) => {
                self.sort_replicas();
                self.shrink(replicas);
            }
            ServiceMode::Global => self.sort_nodes(),
        }
        let mut slots = std::mem::take(&mut self.slots);
        for slot in &mut slots {
            if self.pass.full() {
                break;
            }
            self.tend(slot);
        }
        self.slots = slots;
        if !self.pass.full() {
            self.roll();
        }
        self.place();
    }

    /// Returns whether a task is like one of the present spec.
    pub(super) fn is_current(&self, task: &TaskRecord) -> bool {
        let version = self.versions.get(&task.spec_version);
        version.is_some_and(|version| version.current)
    }

    /// Returns whether a node is one for tasks of this version of the spec.
    pub(super) fn suits(&self, spec_version: u64, node: &NodeRecord) -> bool {
        let version = self.versions.get(&spec_version);
        node.availability != Availability::Drain
            && version.is_none_or(|version| {
                version.constraints.iter().all(|(_, read)| {
                    read.as_ref()
                        .is_some_and(|constraint| constraint.holds(node))
                })
            })
    }

    fn sort_replicas(&mut self) {
        for (slot, tasks) in std::mem::take(&mut self.found) {
            let stays = |task: &&TaskRecord| task.desired != DesiredState::Remove;
            if matches!(slot, Slot::Replica(_)) && tasks.iter().any(stays) {
                self.slots.push(SlotWork::new(slot, tasks, false));
            } else {
                self.discard(&tasks);
            }
        }
    }

    fn sort_nodes(&mut self) {
        let mut found = std::mem::take(&mut self.found);
        for at in 0..self.pass.ledger.nodes.len() {
            let node = &self.pass.ledger.nodes[at];
            let (record, condition, open) = (node.record, node.condition, node.is_open());
            let slot = Slot::Node(record.id);
            let suits = self.suits(self.record.spec_version, record);
            let tasks = match found.remove(&slot) {
                Some(tasks) if !suits && condition != Condition::Unknown => {
                    self.discard(&tasks);
                    continue;
                }
                Some(tasks) => tasks,
                None if suits && open => Vec::new(),
                None => continue,
            };
            let frozen = !suits || !open;
            self.slots.push(SlotWork::new(slot, tasks, frozen));
        }
        for tasks in found.into_values() {
            self.discard(&tasks);
        }
    }

    fn discard(&mut self, tasks: &[&TaskRecord]) {
        if !self.pass.full() {
            for task in tasks {
                self.pass.remove(task);
            }
        }
    }

    /// Drops slots until there are no more than `replicas`: first those that do not run, then those on the branch and the
    /// node that have most tasks of the service, the higher ones first.
    fn shrink(&mut self, replicas: u32) {
        let replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
        let mut excess = self.slots.len().saturating_sub(replicas);
        if excess == 0 {
            return;
        }
        let mut branches = Branches::new(&self.pass.ledger, &labels(self.record));
        let mut idle = BTreeSet::new();
        let mut on: BTreeMap<usize, BTreeSet<(bool, Reverse<Slot>)>> = BTreeMap::new();
        for slot in &self.slots {
            let ledger = &self.pass.ledger;
            let nodes = slot.live.iter().filter_map(|task| {
                let at = ledger.index_of(task.node?)?;
                let answers = ledger.nodes[at].condition != Condition::Down;
                answers.then_some((at, task.status.state))
            });
            if let Some((at, state)) = nodes.max_by_key(|(_, state)| *state) {
                branches.add(at);
                let runs = state == TaskState::Running;
                on.entry(at).or_default().insert((runs, Reverse(slot.slot)));
            } else {
                idle.insert((!slot.live.is_empty(), Reverse(slot.slot)));
            }
        }
        let mut dropped = BTreeSet::new();
        while excess > 0 {
            if let Some((_, Reverse(slot))) = idle.pop_first() {
                dropped.insert(slot);
            } else {
                let weight = |at: usize| (branches.counts(at).collect::<Vec<_>>(), branches.on[at]);
                let fullest = on
                    .iter()
                    .max_by_key(|(at, slots)| (weight(**at), Reverse(slots.first().copied())));
                let Some(at) = fullest.map(|(at, _)| *at) else {
                    break;
                };
                branches.subtract(at);
                if let Some(slots) = on.get_mut(&at) {
                    dropped.extend(slots.pop_first().map(|(_, Reverse(slot))| slot));
                    if slots.is_empty() {
                        on.remove(&at);
                    }
                }
            }
            excess -= 1;
            // What is left over is dropped next time.
            if dropped.len() >= super::CHANGES_MAX {
                break;
            }
        }
        for slot in std::mem::take(&mut self.slots) {
            if dropped.contains(&slot.slot) {
                self.discard(&slot.tasks);
            } else {
                self.slots.push(slot);
            }
        }
    }

    /// Chooses nodes for the tasks that wait for one, and makes those that are missing.
    fn place(&mut self) {
        let unplaced = self.unplaced();
        let replicas = match self.record.spec().mode {
            ServiceMode::Replicated(replicas) => replicas,
            ServiceMode::Global => 0,
        };
        let missing = usize::try_from(replicas).is_ok_and(|replicas| self.slots.len() < replicas);
        if unplaced.is_empty() && !missing {
            return;
        }
        let present = &self.versions[&self.record.spec_version];
        let constraints = Rc::clone(&present.constraints);
        let live = self.slots.iter().flat_map(|slot| &slot.live);
        let (memory, service) = (&*self.pass.memory, self.record.id);
        let mut placer = Placer::new(
            &self.pass.ledger,
            self.record,
            &constraints,
            live.filter_map(|task| task.node),
            |node| memory.fails_on(service, node),
        );
        let mut waiting = 0;
        for one in unplaced {
            waiting += usize::from(!self.place_one(&mut placer, &one));
        }
        if missing {
            self.grow(&mut placer, replicas, waiting);
        }
    }

    /// Makes tasks for the lowest slots that are free.
    fn grow(&mut self, placer: &mut Placer<'_>, replicas: u32, mut waiting: usize) {
        let taken: BTreeSet<Slot> = self.slots.iter().map(|slot| slot.slot).collect();
        let free = (1..=replicas).map(Slot::Replica);
        let mut missing = usize::try_from(replicas)
            .unwrap_or(usize::MAX)
            .saturating_sub(taken.len());
        for slot in free.filter(|slot| !taken.contains(slot)) {
            if missing == 0 || waiting >= PENDING_MAX || self.pass.full() {
                return;
            }
            missing -= 1;
            let task = self.pass.create(self.record, slot, DesiredState::Running);
            let one = Unplaced {
                task,
                slot,
                instead_of: None,
                pending: None,
            };
            waiting += usize::from(!self.place_one(placer, &one));
        }
    }

    fn place_one(&mut self, placer: &mut Placer<'_>, one: &Unplaced<'_>) -> bool {
        let ledger = &mut self.pass.ledger;
        let chosen = match one.slot {
            Slot::Replica(_) => placer.place(ledger, one.instead_of),
            Slot::Node(node) => placer.place_on(ledger, node, one.instead_of == Some(node)),
        };
        let task = one.task;
        match chosen {
            Ok(node) => {
                self.pass.change(TaskChange::Place { task, node });
                true
            }
            Err(reason) => {
                // As long as not all nodes were heard of, a reason that was found before is as good.
                let known = match one.pending {
                    None | Some(PendingReason::RestartDelay { .. }) => false,
                    Some(known) => *known == reason || self.pass.ledger.unknown,
                };
                if !known {
                    self.pass.change(TaskChange::Pend { task, reason });
                }
                false
            }
        }
    }

    /// Returns the tasks that are to get a node: those that were just made, then those that wait for one.
    fn unplaced(&mut self) -> Vec<Unplaced<'a>> {
        let mut slots = std::mem::take(&mut self.slots);
        let (mut waiting, mut made, mut barred) = (Vec::new(), Vec::new(), Vec::new());
        for slot in &mut slots {
            let old = slot.live.iter().find(|task| !self.is_current(task));
            let instead_of = old.and_then(|task| task.node);
            if let Some(task) = slot.made {
                made.push(Unplaced {
                    task,
                    slot: slot.slot,
                    instead_of,
                    pending: None,
                });
            }
            let open = slot.live.iter().filter(|task| {
                task.node.is_none() && task.status.state == TaskState::Pending && !slot.frozen
            });
            for task in open {
                if task.desired == DesiredState::Ready && !self.is_due(task) {
                    continue;
                }
                let pending = task.status.pending.as_ref();
                let one = Unplaced {
                    task: task.id,
                    slot: slot.slot,
                    instead_of,
                    pending,
                };
                match pending {
                    Some(PendingReason::Address { .. }) => barred.push(one),
                    _ => waiting.push(one),
                }
            }
        }
        self.slots = slots;
        self.pass_gate(&mut barred);
        // What ran until now comes before what waits for room already, or an update that makes room could not go on.
        made.append(&mut waiting);
        made.append(&mut barred);
        made
    }

    /// Leaves those of the tasks that found no address which are to be tried once more.
    fn pass_gate(&mut self, barred: &mut Vec<Unplaced<'a>>) {
        let (now, holders, service) = (self.pass.now, self.pass.holders, self.record.id);
        let Some(first) = barred.first().map(|one| one.task) else {
            self.pass.memory.gates.remove(&service);
            return;
        };
        let gates = &mut self.pass.memory.gates;
        let fresh = Gate::new(now, holders);
        let gate = gates.entry(service).or_insert(fresh);
        let tasks = self.pass.view.tasks;
        let found = |task: TaskId| tasks.get(&task).is_some_and(|task| task.node.is_some());
        if gate.probe.is_some_and(found) {
            *gate = fresh;
        } else if now >= gate.retry_at || holders < gate.holders {
            gate.try_one(now, first, holders);
            barred.truncate(1);
        } else {
            barred.clear();
        }
        let retry_at = gate.retry_at;
        self.pass.wait_until(retry_at);
    }
}

/// Returns whether tasks of two specs need not be replaced by one another. How a service is reached is no matter of its
/// tasks, but for ports of the hosts that they run on.
fn runs_alike(one: &ServiceSpec, other: &ServiceSpec) -> bool {
    one.task == other.task
        && one.networks == other.networks
        && one.placement == other.placement
        // Without a network, whoever publishes ports is on that of published ports.
        && (!one.networks.is_empty() || one.ports.is_empty() == other.ports.is_empty())
        && takes_alike(&one.ports, &other.ports)
}

/// Returns whether tasks of both take the same ports of their hosts.
pub(super) fn takes_alike(one: &[PublishedPort], other: &[PublishedPort]) -> bool {
    let of_host = |port: &&PublishedPort| port.mode == PublishMode::Host;
    one.iter().filter(of_host).eq(other.iter().filter(of_host))
}
