//! A cluster without anything but what the scheduler sees.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use overlay_core::{EndpointId, Instant, NodeId, Seed, ServiceId, TaskId};

use crate::{
    api::{
        Availability, DesiredState, PendingReason, Role, ServiceMode, ServiceSpec, Slot, TaskState,
        UpdatePhase, UpdateStatus,
    },
    scheduler::{HISTORY_MAX, Scheduler, View},
    state::{NodeRecord, ServiceRecord, TaskChange, TaskRecord},
};

/// A cluster, its leader's scheduler and its agents.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) scheduler: Scheduler,
    pub(super) services: BTreeMap<ServiceId, ServiceRecord>,
    pub(super) tasks: BTreeMap<TaskId, TaskRecord>,
    pub(super) nodes: BTreeMap<NodeId, NodeRecord>,
    pub(super) ready: BTreeSet<NodeId>,
    pub(super) down: BTreeSet<NodeId>,
    /// How many tasks find an address.
    pub(super) addresses: usize,
    /// Tasks whose command this is fail as soon as they run.
    pub(super) bad: &'static str,
    index: u64,
}

impl World {
    /// A cluster of `nodes` nodes, all ready, numbered from 1.
    pub(super) fn new(nodes: u32) -> Self {
        let mut world = Self {
            now: Instant::from_millis(1_000),
            scheduler: Scheduler::new(Seed::from_u64(1)),
            services: BTreeMap::new(),
            tasks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            ready: BTreeSet::new(),
            down: BTreeSet::new(),
            addresses: usize::MAX,
            bad: "bad",
            index: 0,
        };
        for number in 1..=nodes {
            world.add_node(number);
        }
        world
    }

    pub(super) fn add_node(&mut self, number: u32) {
        let id = node(number);
        let [_, a, b, c] = number.to_be_bytes();
        let record = NodeRecord {
            admitted: 0,
            key: [0; 32],
            issuer: [0; 32],
            id,
            hostname: format!("host-{number}"),
            role: Role::Worker,
            raft: None,
            address: [10, a, b, c].into(),
            management_port: 2377,
            gossip_port: 7946,
            availability: Availability::Active,
            version: String::new(),
            labels: BTreeMap::new(),
            resources: Default::default(),
            routes: Vec::new(),
        };
        self.nodes.insert(id, record);
        self.ready.insert(id);
        self.down.remove(&id);
    }

    pub(super) fn node(&mut self, number: u32) -> &mut NodeRecord {
        self.nodes.get_mut(&node(number)).unwrap()
    }

    pub(super) fn label(&mut self, number: u32, value: &str) {
        let labels = &mut self.node(number).labels;
        labels.insert("zone".to_owned(), value.to_owned());
    }

    pub(super) fn fail_node(&mut self, number: u32) {
        self.ready.remove(&node(number));
        self.down.insert(node(number));
    }

    pub(super) fn revive_node(&mut self, number: u32) {
        self.down.remove(&node(number));
        self.ready.insert(node(number));
    }

    pub(super) fn remove_node(&mut self, number: u32) {
        self.ready.remove(&node(number));
        self.down.remove(&node(number));
        self.nodes.remove(&node(number));
    }

    /// Another manager becomes the leader, and has heard of no node.
    pub(super) fn change_leader(&mut self) {
        self.scheduler = Scheduler::new(Seed::from_u64(self.index + 2));
        self.ready.clear();
        self.down.clear();
    }

    pub(super) fn add_service(&mut self, number: u8, spec: ServiceSpec) -> ServiceId {
        self.index += 1;
        let id = service(number);
        let record = ServiceRecord {
            id,
            ports: spec.ports.clone(),
            specs: [(self.index, spec)].into(),
            spec_version: self.index,
            previous_version: None,
            version: self.index,
            networks: Vec::new(),
            virtual_addresses: BTreeMap::new(),
            update: None,
            removing: false,
            created_unix_ms: 0,
            updated_unix_ms: 0,
        };
        self.services.insert(id, record);
        id
    }

    pub(super) fn update_service(&mut self, id: ServiceId, change: impl FnOnce(&mut ServiceSpec)) {
        let mut spec = self.services[&id].spec().clone();
        change(&mut spec);
        self.set_spec(id, spec, None);
    }

    pub(super) fn roll_back(&mut self, id: ServiceId) {
        let Some(spec) = self.services[&id].previous().cloned() else {
            return;
        };
        self.set_spec(id, spec, Some(UpdatePhase::RollbackStarted));
    }

    fn set_spec(&mut self, id: ServiceId, spec: ServiceSpec, phase: Option<UpdatePhase>) {
        self.index += 1;
        let record = self.services.get_mut(&id).unwrap();
        record.ports.clone_from(&spec.ports);
        record.specs.insert(self.index, spec);
        record.previous_version = Some(record.spec_version);
        record.spec_version = self.index;
        record.update = phase.map(status);
        self.sweep(id);
    }

    pub(super) fn remove_service(&mut self, id: ServiceId) {
        self.services.get_mut(&id).unwrap().removing = true;
        self.sweep(id);
    }

    fn sweep(&mut self, id: ServiceId) {
        let of = self.tasks.values().filter(|task| task.service == id);
        let used: BTreeSet<u64> = of.map(|task| task.spec_version).collect();
        let Some(record) = self.services.get_mut(&id) else {
            return;
        };
        let kept = [Some(record.spec_version), record.previous_version];
        record
            .specs
            .retain(|version, _| kept.contains(&Some(*version)) || used.contains(version));
        if record.removing && used.is_empty() {
            self.services.remove(&id);
        }
    }

    /// Plans once and applies that.
    pub(super) fn plan(&mut self) -> Vec<TaskChange> {
        let view = View {
            services: &self.services,
            tasks: &self.tasks,
            nodes: &self.nodes,
            ready: &self.ready,
            down: &self.down,
            history_max: HISTORY_MAX,
        };
        let changes = self.scheduler.plan(self.now, &view);
        self.apply_all(&changes);
        changes
    }

    /// Applies a plan.
    pub(super) fn apply_all(&mut self, changes: &[TaskChange]) {
        self.index += 1;
        for change in changes {
            self.apply(change);
        }
        self.forget_ended();
        self.check_slots();
    }

    /// Plans until there is nothing more to change; returns how many changes there were.
    pub(super) fn settle(&mut self) -> usize {
        let mut sum = 0;
        for _ in 0..ROUNDS_MAX {
            let changes = self.plan().len();
            sum += changes;
            if changes == 0 {
                return sum;
            }
        }
        panic!("no fixed point: {:?}", self.plan());
    }

    /// Lets the agents that answer do all that they are to do; returns whether there was anything.
    pub(super) fn work(&mut self) -> bool {
        let tasks: Vec<_> = self.tasks.keys().copied().collect();
        let worked = tasks.into_iter().filter(|task| self.work_task(*task));
        let changed = worked.count() > 0;
        self.forget_ended();
        changed
    }

    /// Lets its agent do what is to be done about one task.
    pub(super) fn work_on(&mut self, task: TaskId) {
        self.work_task(task);
        self.forget_ended();
    }

    fn work_task(&mut self, task: TaskId) -> bool {
        let Some(task) = self.tasks.get_mut(&task) else {
            return false;
        };
        let answers = task.node.is_some_and(|node| self.ready.contains(&node));
        if !answers || task.status.state.is_terminal() {
            return false;
        }
        let spec = self.services[&task.service].specs.get(&task.spec_version);
        let bad = spec.is_some_and(|spec| spec.task.command.iter().any(|it| it == self.bad));
        let state = match task.desired {
            DesiredState::Ready => return false,
            DesiredState::Running if bad => TaskState::Failed,
            DesiredState::Running => TaskState::Running,
            DesiredState::Shutdown | DesiredState::Remove => TaskState::Shutdown,
        };
        std::mem::replace(&mut task.status.state, state) != state
    }

    /// Plans and works until both have nothing to do.
    pub(super) fn converge(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let planned = self.settle();
            if !self.work() && planned == 0 {
                return;
            }
        }
        panic!("agents and scheduler never agree");
    }

    pub(super) fn advance(&mut self, time: Duration) {
        self.now += time;
    }

    /// Goes on until nothing is due within the time; returns whether that is so.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.converge();
            match self.scheduler.poll_timeout().filter(|at| *at <= end) {
                Some(at) => {
                    assert!(at > self.now, "a deadline moves on: {at}");
                    self.now = at;
                }
                None => break,
            }
        }
        self.now = end;
        self.converge();
    }

    /// Ends a task as if by itself.
    pub(super) fn end(&mut self, task: TaskId, state: TaskState) {
        let task = self.tasks.get_mut(&task).unwrap();
        assert!(!task.status.state.is_terminal(), "{task:?} has ended");
        task.status.state = state;
        self.forget_ended();
    }

    /// The tasks of a service that shall run and have not ended.
    pub(super) fn live(&self, id: ServiceId) -> Vec<&TaskRecord> {
        let of = self.tasks.values().filter(|task| task.service == id);
        let mut live: Vec<_> = of.filter(|task| is_live(task)).collect();
        live.sort_by_key(|task| (task.slot, task.created, task.id));
        live
    }

    /// The one live task of a slot.
    pub(super) fn in_slot(&self, id: ServiceId, slot: Slot) -> &TaskRecord {
        let mut live = self.live(id);
        live.retain(|task| task.slot == slot);
        assert_eq!(live.len(), 1, "{slot:?}: {live:?}");
        live[0]
    }

    /// How many live tasks of a service each node has.
    pub(super) fn spread(&self, id: ServiceId) -> BTreeMap<NodeId, usize> {
        let mut on = BTreeMap::new();
        for node in self.live(id).iter().filter_map(|task| task.node) {
            *on.entry(node).or_default() += 1;
        }
        on
    }

    pub(super) fn phase(&self, id: ServiceId) -> Option<UpdatePhase> {
        self.services[&id].update.as_ref().map(|it| it.phase)
    }

    fn apply(&mut self, change: &TaskChange) {
        match change.clone() {
            TaskChange::Create {
                task,
                service,
                slot,
                spec_version,
                desired,
            } => {
                let record = &self.services[&service];
                assert!(!record.removing && record.specs.contains_key(&spec_version));
                let record = TaskRecord {
                    id: task,
                    service,
                    slot,
                    spec_version,
                    node: None,
                    desired,
                    status: Default::default(),
                    endpoints: Vec::new(),
                    created: self.index,
                };
                assert!(self.tasks.insert(task, record).is_none(), "created twice");
            }
            TaskChange::Place { task, node } => self.place(task, node),
            TaskChange::Pend { task, reason } => {
                let status = &mut self.tasks.get_mut(&task).unwrap().status;
                assert_eq!(status.state, TaskState::Pending);
                assert_ne!(status.pending.as_ref(), Some(&reason), "said before");
                status.pending = Some(reason);
            }
            TaskChange::Desire { task, desired } => {
                let task = self.tasks.get_mut(&task).unwrap();
                assert!(task.desired < desired, "{task:?} to {desired:?}");
                task.desired = desired;
            }
            TaskChange::Orphan { task } => {
                let task = self.tasks.get_mut(&task).unwrap();
                assert!(!task.status.state.is_terminal());
                assert!(!task.node.is_some_and(|node| self.ready.contains(&node)));
                task.status.state = TaskState::Orphaned;
            }
            TaskChange::Remove { task } => {
                let task = self.tasks.remove(&task).expect("forgotten twice");
                assert!(task.status.state.is_terminal() || task.node.is_none());
            }
            TaskChange::Update {
                service,
                spec_version,
                phase,
                message: _,
            } => {
                let record = self.services.get_mut(&service).unwrap();
                assert_eq!(record.spec_version, spec_version);
                assert_ne!(record.update.as_ref().map(|it| it.phase), Some(phase));
                record.update = Some(status(phase));
            }
            TaskChange::RollBack {
                service,
                spec_version,
            } => {
                assert_eq!(self.services[&service].spec_version, spec_version);
                self.roll_back(service);
            }
        }
    }

    fn place(&mut self, task: TaskId, node: NodeId) {
        let with = self
            .tasks
            .values()
            .filter(|task| !task.endpoints.is_empty());
        let full = with.count() >= self.addresses;
        assert!(self.ready.contains(&node));
        assert_eq!(self.nodes[&node].availability, Availability::Active);
        let record = self.tasks.get_mut(&task).unwrap();
        assert!(record.node.is_none() && is_live(record));
        assert_eq!(record.desired, DesiredState::Running);
        if full {
            let network = "net".to_owned();
            record.status.pending = Some(PendingReason::Address { network });
            return;
        }
        record.node = Some(node);
        record.status.state = TaskState::Assigned;
        record.status.pending = None;
        record.endpoints = vec![EndpointId::from_bytes(*task.as_bytes())];
    }

    /// What the state does with tasks that have ended, or will never begin.
    fn forget_ended(&mut self) {
        for task in self.tasks.values_mut() {
            if task.desired >= DesiredState::Shutdown && task.node.is_none() {
                task.status.state = task.status.state.max(TaskState::Shutdown);
                task.status.pending = None;
            }
            if task.status.state.is_terminal() {
                task.endpoints.clear();
            }
        }
        let gone = |task: &TaskRecord| {
            task.status.state.is_terminal() && task.desired == DesiredState::Remove
        };
        let services: Vec<_> = self.services.keys().copied().collect();
        self.tasks.retain(|_, task| !gone(task));
        for service in services {
            self.sweep(service);
        }
    }

    /// What must hold at any time: one task for each slot, or two while the new one is to run before the old one stops.
    fn check_slots(&self) {
        let mut counts: BTreeMap<_, u32> = BTreeMap::new();
        for task in self.tasks.values().filter(|task| is_live(task)) {
            *counts.entry((task.service, task.slot)).or_default() += 1;
        }
        for ((service, slot), count) in counts {
            let record = &self.services[&service];
            let start_first = record.specs.values().any(|spec| {
                [spec.update.order, spec.rollback.order]
                    .contains(&crate::api::UpdateOrder::StartFirst)
            });
            let allowed = if start_first { 2 } else { 1 };
            assert!(count <= allowed, "{count} tasks in {slot:?} of {record:?}");
        }
    }
}

pub(super) fn is_live(task: &TaskRecord) -> bool {
    task.desired <= DesiredState::Running && !task.status.state.is_terminal()
}

pub(super) fn node(number: u32) -> NodeId {
    let mut bytes = [0; 16];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}

pub(super) fn service(number: u8) -> ServiceId {
    ServiceId::from_bytes([number; 16])
}

/// A replicated service.
pub(super) fn replicated(replicas: u32) -> ServiceSpec {
    ServiceSpec {
        name: "web".to_owned(),
        mode: ServiceMode::Replicated(replicas),
        ..ServiceSpec::default()
    }
}

/// A global one.
pub(super) fn global() -> ServiceSpec {
    ServiceSpec {
        mode: ServiceMode::Global,
        ..replicated(0)
    }
}

fn status(phase: UpdatePhase) -> UpdateStatus {
    UpdateStatus {
        phase,
        since_unix_ms: 0,
        message: String::new(),
    }
}

/// How many rounds a fixed point takes at the most.
const ROUNDS_MAX: usize = 64;
