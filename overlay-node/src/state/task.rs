//! Commands about tasks: the scheduler's decisions and the nodes' reports.

use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId, TaskId};

use super::{
    ClusterState, CommandError, EndpointRecord, NetworkRecord, Outcome, TaskChange, TaskEndpoint,
    TaskRecord, addresses::mac_of,
};
use crate::api::{
    Availability, DesiredState, PendingReason, TaskState, TaskStatus, UpdatePhase, UpdateStatus,
};

impl ClusterState {
    pub(super) fn change_tasks(
        &mut self,
        index: u64,
        changes: Vec<TaskChange>,
        at_unix_ms: u64,
    ) -> Result<Outcome, CommandError> {
        for change in changes {
            self.change_task(index, change, at_unix_ms);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn report_tasks(
        &mut self,
        index: u64,
        node: NodeId,
        reports: Vec<(TaskId, TaskStatus)>,
        at_unix_ms: u64,
    ) -> Result<Outcome, CommandError> {
        for (task, status) in reports {
            let take = |record: &mut TaskRecord| take_report(record, node, status, at_unix_ms);
            let taken = self.tasks.modify(&mut self.journal, task, take);
            let Some((before, now)) = taken.flatten() else {
                continue;
            };
            if now != before {
                self.note_task(task);
            }
            if now.is_terminal() {
                self.settle_ended(index, task);
            }
        }
        Ok(Outcome::Taken)
    }

    /// Returns the tasks of a service.
    pub fn tasks_of(&self, service: ServiceId) -> impl Iterator<Item = &TaskRecord> {
        let tasks = self.tasks.index().of_service.of(&service);
        tasks.filter_map(|task| self.tasks.get(task))
    }

    /// Returns the tasks that were given to a node, those that have ended among them.
    pub fn tasks_on(&self, node: NodeId) -> impl Iterator<Item = &TaskRecord> {
        let tasks = self.tasks.index().on_node.of(&node);
        tasks.filter_map(|task| self.tasks.get(task))
    }

    /// Returns the endpoint of a task to which its published ports lead: the first whose network has a way out, in the order
    /// in which the service names its networks; the first of all if none has.
    pub fn answering(&self, task: &TaskRecord) -> Option<&EndpointRecord> {
        let mut all = task
            .endpoints
            .iter()
            .filter_map(|id| self.endpoints.get(*id));
        let first = all.clone().next();
        let is_open = |endpoint: &&EndpointRecord| {
            let network = self.networks.get(endpoint.network);
            network.is_some_and(|network| !network.internal)
        };
        all.find(is_open).or(first)
    }

    /// Wants something of a task; never goes back.
    pub(super) fn desire(&mut self, index: u64, task: TaskId, desired: DesiredState) {
        let stopped = self.tasks.modify(&mut self.journal, task, |record| {
            record.desired = record.desired.max(desired);
            if record.desired < DesiredState::Shutdown {
                return false;
            }
            if record.node.is_none() {
                // It never ran, and nobody will say so.
                record.status.state = record.status.state.max(TaskState::Shutdown);
                record.status.pending = None;
            }
            record.status.state.is_terminal()
        });
        if stopped == Some(true) {
            self.settle_ended(index, task);
        }
    }

    /// Gives up the tasks of a node that is removed from the cluster.
    pub(super) fn orphan_tasks(&mut self, index: u64, node: NodeId, at_unix_ms: u64) {
        let tasks: Vec<_> = self.tasks.index().on_node.of(&node).collect();
        for task in tasks {
            self.orphan(index, task, at_unix_ms);
        }
    }

    fn change_task(&mut self, index: u64, change: TaskChange, at_unix_ms: u64) {
        match change {
            TaskChange::Create {
                task,
                service,
                slot,
                spec_version,
                desired,
            } => {
                let known = self.service(service);
                let known = known.is_ok_and(|service| service.specs.contains_key(&spec_version));
                if known && !self.tasks.contains(task) {
                    let status = TaskStatus {
                        since_unix_ms: at_unix_ms,
                        ..TaskStatus::default()
                    };
                    let record = TaskRecord {
                        id: task,
                        service,
                        slot,
                        spec_version,
                        node: None,
                        desired,
                        status,
                        endpoints: Vec::new(),
                        created: index,
                    };
                    self.tasks.insert(&mut self.journal, task, record);
                }
            }
            TaskChange::Place { task, node } => self.place(index, task, node, at_unix_ms),
            TaskChange::Pend { task, reason } => self.pend(task, reason),
            TaskChange::Desire { task, desired } => self.desire(index, task, desired),
            TaskChange::Orphan { task } => self.orphan(index, task, at_unix_ms),
            TaskChange::Remove { task } => self.forget(index, task),
            TaskChange::Update {
                service,
                spec_version,
                phase,
                message,
            } => {
                let record = self.services.get(service);
                if record.is_some_and(|record| record.spec_version == spec_version) {
                    self.set_update(service, phase, at_unix_ms, message);
                }
            }
            TaskChange::RollBack {
                service,
                spec_version,
            } => {
                let same = self.service(service);
                if same.is_ok_and(|record| record.spec_version == spec_version)
                    && let Err(error) = self.roll_back_service(index, service, at_unix_ms)
                {
                    let message = format!("no rollback: {error}");
                    self.set_update(service, UpdatePhase::Paused, at_unix_ms, message);
                }
            }
        }
    }

    fn set_update(
        &mut self,
        service: ServiceId,
        phase: UpdatePhase,
        since_unix_ms: u64,
        message: String,
    ) {
        self.services.modify(&mut self.journal, service, |record| {
            record.update = Some(UpdateStatus {
                phase,
                since_unix_ms,
                message,
            });
        });
    }

    fn note_task(&mut self, task: TaskId) {
        let Some(record) = self.tasks.get(task) else {
            return;
        };
        let service = self.services.get(record.service);
        let name = service.map_or("", |service| &service.spec().name);
        let name = format!("{name}.{}", record.slot);
        let action = record.status.state.to_string();
        self.audit.note("task", action, task.as_bytes(), name);
    }

    fn place(&mut self, index: u64, task: TaskId, node: NodeId, at_unix_ms: u64) {
        let Some(record) = self.tasks.get(task) else {
            return;
        };
        let active = self
            .nodes
            .get(node)
            .is_some_and(|node| node.availability == Availability::Active);
        let open = record.node.is_none() && !record.status.state.is_terminal();
        if !active || !open || record.desired > DesiredState::Running {
            return;
        }
        match self.attach_task(index, task, node) {
            Ok(endpoints) => {
                self.tasks.modify(&mut self.journal, task, |record| {
                    record.node = Some(node);
                    record.endpoints = endpoints;
                    record.status = TaskStatus {
                        state: TaskState::Assigned,
                        since_unix_ms: at_unix_ms,
                        ..TaskStatus::default()
                    };
                });
                self.note_task(task);
            }
            Err(network) => self.pend(task, PendingReason::Address { network }),
        }
    }

    /// Gives a task an endpoint on each of its networks; the name of the one that cannot be had otherwise, and nothing then.
    fn attach_task(
        &mut self,
        index: u64,
        task: TaskId,
        node: NodeId,
    ) -> Result<Vec<EndpointId>, String> {
        let Some((record, service)) = self.tasks.get(task).and_then(|record| {
            let service = self.services.get(record.service)?;
            Some((record, service))
        }) else {
            return Ok(Vec::new());
        };
        let spec = &service.specs[&record.spec_version];
        let name = format!("{}.{}.{}", spec.name, record.slot, task.short());
        let owner = TaskEndpoint {
            task,
            service: service.id,
            service_name: spec.name.clone(),
        };
        let mut wanted = Vec::new();
        for network in self.networks_of(spec).map_err(|name| name.to_owned())? {
            let id = endpoint_of(task, network.id);
            if network.check(id.as_bytes(), &[]).is_err() || self.endpoints.contains(id) {
                return Err(network.name.clone());
            }
            wanted.push((id, network.id));
        }
        for (id, network) in &wanted {
            let (id, network) = (*id, *network);
            let take = |record: &mut NetworkRecord| record.take(id.as_bytes(), &[], index);
            let taken = self.networks.modify_part(network, take);
            let addresses = taken.expect("the network is there");
            let endpoint = EndpointRecord {
                id,
                node,
                network,
                name: name.clone(),
                aliases: Vec::new(),
                mac: mac_of(id, &addresses),
                addresses,
                generation: self.generation(index),
                task: Some(owner.clone()),
            };
            self.endpoints.insert(&mut self.journal, id, endpoint);
        }
        Ok(wanted.into_iter().map(|(id, _)| id).collect())
    }

    fn pend(&mut self, task: TaskId, reason: PendingReason) {
        self.tasks.modify(&mut self.journal, task, |record| {
            if record.status.state == TaskState::Pending {
                record.status.message = reason.to_string();
                record.status.pending = Some(reason);
            }
        });
    }

    fn orphan(&mut self, index: u64, task: TaskId, at_unix_ms: u64) {
        let record = self.tasks.get(task);
        if record.is_some_and(|record| !record.status.state.is_terminal()) {
            self.tasks.modify(&mut self.journal, task, |record| {
                record.status = TaskStatus {
                    state: TaskState::Orphaned,
                    since_unix_ms: at_unix_ms,
                    message: "its node was lost".to_owned(),
                    ..TaskStatus::default()
                };
            });
            self.note_task(task);
            self.settle_ended(index, task);
        }
    }

    /// Takes the addresses of a task that has ended, and forgets it if that is wanted.
    fn settle_ended(&mut self, index: u64, task: TaskId) {
        let Some(record) = self.tasks.get(task) else {
            return;
        };
        let forget = record.desired == DesiredState::Remove;
        if !record.endpoints.is_empty() {
            let take = |record: &mut TaskRecord| std::mem::take(&mut record.endpoints);
            let endpoints = self.tasks.modify(&mut self.journal, task, take);
            for endpoint in endpoints.into_iter().flatten() {
                // One that went with its node is fine.
                self.remove_endpoint(index, endpoint);
            }
        }
        if forget {
            self.forget(index, task);
        }
    }

    fn forget(&mut self, index: u64, task: TaskId) {
        let Some(record) = self.tasks.get(task) else {
            return;
        };
        let gone = record.node.is_none_or(|node| !self.nodes.contains(node));
        if !record.status.state.is_terminal() && !gone {
            return;
        }
        let (service, endpoints) = (record.service, record.endpoints.clone());
        for endpoint in endpoints {
            self.remove_endpoint(index, endpoint);
        }
        self.tasks.remove(&mut self.journal, task);
        self.sweep_service(index, service);
    }
}

/// Takes a node's word on a task; returns its states before and after, `None` if the word does not count.
fn take_report(
    record: &mut TaskRecord,
    node: NodeId,
    status: TaskStatus,
    at_unix_ms: u64,
) -> Option<(TaskState, TaskState)> {
    let (before, now) = (record.status.state, status.state);
    // Only its own node's word counts, and nothing goes back.
    let counts = record.node == Some(node) && !before.is_terminal() && now >= before;
    if !counts || now < TaskState::Preparing {
        return None;
    }
    // A daemon that restarted says again what it said.
    let since_unix_ms = if now == before {
        record.status.since_unix_ms
    } else {
        at_unix_ms
    };
    record.status = TaskStatus {
        state: now,
        since_unix_ms,
        message: shorten(status.message),
        pending: None,
        exit_code: status.exit_code,
    };
    Some((before, now))
}

/// Returns the endpoint of a task on a network.
fn endpoint_of(task: TaskId, network: NetworkId) -> EndpointId {
    let mut id = *task.as_bytes();
    for (octet, other) in id.iter_mut().zip(network.as_bytes()) {
        *octet ^= other;
    }
    EndpointId::from_bytes(id)
}

/// Cuts the words of a report.
fn shorten(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MESSAGE_MAX) {
        message.truncate(end);
        message.shrink_to_fit();
    }
    message
}

/// How long the words of a report are at the most, in characters.
const MESSAGE_MAX: usize = 256;
