//! The part of the model about services and tasks.

use std::collections::{BTreeMap, BTreeSet};

use overlay_node::{
    api::{Availability, DesiredState, TaskState},
    state::ClusterState,
};

use crate::{
    command::{network_id, node_id, published, service_id, service_name, task_endpoint, task_id},
    model::Model,
    op::{Op, Spec, Task, Version},
};

#[derive(Clone, Debug)]
pub(crate) struct Service {
    name: u8,
    specs: BTreeMap<u64, Spec>,
    present: u64,
    previous: Option<u64>,
    version: u64,
    removing: bool,
    port: Option<u16>,
    /// The network that it is on.
    pub(crate) network: Option<u8>,
    /// The network that it has a virtual address of.
    pub(crate) vip: Option<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct TaskModel {
    service: u8,
    version: u64,
    node: Option<u8>,
    desired: DesiredState,
    state: TaskState,
    /// The network that it has an endpoint on.
    endpoint: Option<u8>,
    created: u64,
}

/// The network of published ports.
const INGRESS: u8 = 255;

/// What a spec needs, if it can be had: its network, its port, and the network of its virtual address.
type Needs = (Option<u8>, Option<u16>, Option<u8>);

impl Model {
    /// Returns whether it is carried out.
    pub(crate) fn run_service(&mut self, index: u64, op: &Op) -> bool {
        match op {
            Op::CreateService {
                service,
                name,
                spec,
            } => self.create(index, *service, *name, spec),
            Op::UpdateService {
                service,
                spec,
                stale,
            } => self.live(*service).is_some() && !stale && self.change(index, *service, spec),
            Op::RollBack { service } => self.roll_back(index, *service),
            Op::RemoveService { service } => {
                let Some(known) = self
                    .services
                    .get_mut(service)
                    .filter(|known| !known.removing)
                else {
                    return false;
                };
                (known.removing, known.port) = (true, None);
                let tasks = self
                    .tasks
                    .iter()
                    .filter(|(_, task)| task.service == *service);
                for task in tasks.map(|(task, _)| *task).collect::<Vec<_>>() {
                    self.desire(task, DesiredState::Remove);
                }
                self.sweep(*service);
                true
            }
            Op::Change(changes) => {
                // What a change refers to was looked up before the first one was carried out.
                let before = self.clone();
                for change in changes {
                    self.change_task(index, change, &before);
                }
                true
            }
            Op::Report { node, task, state } => {
                self.report(*node, *task, *state);
                true
            }
            Op::DetachTask {
                task,
                network,
                node,
            } => {
                let known = self.tasks.get_mut(task);
                let known = known.filter(|known| known.endpoint == Some(*network));
                let Some(known) = known.filter(|_| node.is_none()) else {
                    return false;
                };
                known.endpoint = None;
                true
            }
            _ => unreachable!("{op:?} is not about services"),
        }
    }

    fn create(&mut self, index: u64, service: u8, name: u8, spec: &Spec) -> bool {
        let same = |other: &Service| !other.removing && other.name == name;
        if self.services.contains_key(&service) || self.services.values().any(same) {
            return false;
        }
        let Some((network, port, vip)) = self.needs(service, spec) else {
            return false;
        };
        let made = Service {
            name,
            specs: BTreeMap::from([(index, spec.clone())]),
            present: index,
            previous: None,
            version: index,
            removing: false,
            port,
            network,
            vip,
        };
        self.services.insert(service, made);
        true
    }

    pub(crate) fn task_endpoints(&self, network: u8) -> usize {
        let on = |task: &&TaskModel| task.endpoint == Some(network);
        self.tasks.values().filter(on).count()
    }

    /// What a node ran is lost with it.
    pub(crate) fn lose_node(&mut self, node: u8) {
        let on = |(_, task): &(&u8, &TaskModel)| task.node == Some(node);
        let lost: Vec<_> = self
            .tasks
            .iter()
            .filter(on)
            .map(|(task, _)| *task)
            .collect();
        for task in lost {
            self.orphan(task);
        }
    }

    fn live(&self, service: u8) -> Option<&Service> {
        self.services.get(&service).filter(|known| !known.removing)
    }

    fn needs(&self, service: u8, spec: &Spec) -> Option<Needs> {
        let network = match spec.network {
            Some(name) => Some(self.network_named(name)?),
            None => spec.port.map(|_| INGRESS),
        };
        if spec.port.is_some() && !spec.vip {
            return None;
        }
        let others = self.services.iter().filter(|(other, _)| **other != service);
        let taken: BTreeSet<_> = others.filter_map(|(_, other)| other.port).collect();
        let port = match spec.port {
            None => None,
            Some(Some(port)) => Some(published(port)).filter(|port| !taken.contains(port)),
            Some(None) => {
                let held = self.services.get(&service).and_then(|known| known.port);
                let held = held.filter(|port| !taken.contains(port));
                held.or_else(|| (30_000..32_768).find(|port| !taken.contains(port)))
            }
        };
        if spec.port.is_some() && port.is_none() {
            return None;
        }
        let vip = network.filter(|network| spec.vip && *network != INGRESS);
        let held = self.services.get(&service).and_then(|known| known.vip);
        if vip.is_some_and(|network| held != Some(network) && !self.has_room(network)) {
            return None;
        }
        Some((network, port, vip))
    }

    fn change(&mut self, index: u64, service: u8, spec: &Spec) -> bool {
        let Some((network, port, vip)) = self.needs(service, spec) else {
            return false;
        };
        let known = self.services.get_mut(&service).unwrap();
        if known.specs[&known.present] != *spec {
            known.previous = Some(known.present);
            known.present = index;
            known.specs.insert(index, spec.clone());
        }
        known.version = index;
        (known.network, known.port, known.vip) = (network, port, vip);
        self.sweep(service);
        true
    }

    fn roll_back(&mut self, index: u64, service: u8) -> bool {
        let spec = self
            .live(service)
            .and_then(|known| known.specs.get(&known.previous?).cloned());
        spec.is_some_and(|spec| self.change(index, service, &spec))
    }

    fn sweep(&mut self, service: u8) {
        let tasks = self.tasks.values().filter(|task| task.service == service);
        let used: BTreeSet<_> = tasks.map(|task| task.version).collect();
        let Some(known) = self.services.get_mut(&service) else {
            return;
        };
        let (present, previous) = (known.present, known.previous);
        known.specs.retain(|version, _| {
            *version == present || Some(*version) == previous || used.contains(version)
        });
        if known.removing && used.is_empty() {
            self.services.remove(&service);
        }
    }

    fn change_task(&mut self, index: u64, change: &Task, before: &Self) {
        let of = |service: u8, version: Version| {
            let known = before.services.get(&service);
            let version = known.and_then(|known| match version {
                Version::Present => Some(known.present),
                Version::Previous => known.previous,
                Version::None => None,
            });
            version.unwrap_or_default()
        };
        match *change {
            Task::Create {
                task,
                service,
                version,
                ready,
            } => {
                let version = of(service, version);
                let known = self.live(service);
                let fits = known.is_some_and(|known| known.specs.contains_key(&version));
                if fits && !self.tasks.contains_key(&task) {
                    let desired = if ready {
                        DesiredState::Ready
                    } else {
                        DesiredState::Running
                    };
                    let made = TaskModel {
                        service,
                        version,
                        node: None,
                        desired,
                        state: TaskState::Pending,
                        endpoint: None,
                        created: index,
                    };
                    self.tasks.insert(task, made);
                }
            }
            Task::Place { task, node } => self.place(task, node),
            Task::Desire { task, desired } => self.desire(task, desired),
            Task::Orphan { task } => self.orphan(task),
            Task::Remove { task } => self.forget(task),
            Task::RollBack { service, version } => {
                let version = of(service, version);
                if self
                    .live(service)
                    .is_some_and(|known| known.present == version)
                {
                    self.roll_back(index, service);
                }
            }
            Task::Pend { .. } | Task::Update { .. } => {}
        }
    }

    fn place(&mut self, task: u8, node: u8) {
        let active = |node: &crate::model::Node| node.availability == Availability::Active;
        let active = self.nodes.get(&node).is_some_and(active);
        let Some(known) = self.tasks.get(&task) else {
            return;
        };
        let open = known.node.is_none() && known.state == TaskState::Pending;
        if !active || !open || known.desired > DesiredState::Running {
            return;
        }
        let spec = &self.services[&known.service].specs[&known.version];
        let network = match spec.network {
            // There are more addresses than tasks.
            None => spec.port.map(|_| INGRESS),
            Some(name) => match self.network_named(name) {
                Some(network) if self.has_room(network) => Some(network),
                _ => return,
            },
        };
        let known = self.tasks.get_mut(&task).unwrap();
        (known.node, known.endpoint) = (Some(node), network);
        known.state = TaskState::Assigned;
    }

    fn desire(&mut self, task: u8, desired: DesiredState) {
        let Some(known) = self.tasks.get_mut(&task) else {
            return;
        };
        known.desired = known.desired.max(desired);
        if known.desired >= DesiredState::Shutdown && known.node.is_none() {
            known.state = known.state.max(TaskState::Shutdown);
        }
        if known.desired >= DesiredState::Shutdown {
            self.settle(task);
        }
    }

    fn orphan(&mut self, task: u8) {
        let open = |known: &&mut TaskModel| !known.state.is_terminal();
        if let Some(known) = self.tasks.get_mut(&task).filter(open) {
            known.state = TaskState::Orphaned;
            self.settle(task);
        }
    }

    fn report(&mut self, node: Option<u8>, task: u8, state: TaskState) {
        let Some(known) = self.tasks.get_mut(&task) else {
            return;
        };
        let counts = known.node.is_some()
            && node.is_none_or(|node| known.node == Some(node))
            && !known.state.is_terminal()
            && state >= known.state;
        if counts && state >= TaskState::Preparing {
            known.state = state;
            self.settle(task);
        }
    }

    /// A task that has ended gives its address back, and goes if that is wanted.
    fn settle(&mut self, task: u8) {
        let ended = |known: &&mut TaskModel| known.state.is_terminal();
        if let Some(known) = self.tasks.get_mut(&task).filter(ended) {
            known.endpoint = None;
            if known.desired == DesiredState::Remove {
                self.forget(task);
            }
        }
    }

    fn forget(&mut self, task: u8) {
        let Some(known) = self.tasks.get(&task) else {
            return;
        };
        let gone = known
            .node
            .is_none_or(|node| !self.nodes.contains_key(&node));
        if known.state.is_terminal() || gone {
            let service = known.service;
            self.tasks.remove(&task);
            self.sweep(service);
        }
    }

    /// Compares services and tasks with the state.
    pub(crate) fn check_services(&self, state: &ClusterState) {
        let services: BTreeSet<_> = self.services.keys().map(|id| service_id(*id)).collect();
        assert!(
            state.services().keys().eq(&services),
            "{:?}",
            state.services()
        );
        let mut ports = BTreeSet::new();
        for (id, known) in &self.services {
            let record = &state.services()[&service_id(*id)];
            assert_eq!(record.spec().name, service_name(known.name));
            assert!(record.specs.keys().eq(known.specs.keys()), "{record:?}");
            let numbers = (record.spec_version, record.previous_version, record.version);
            assert_eq!(numbers, (known.present, known.previous, known.version));
            assert_eq!(record.removing, known.removing);
            assert!(record.networks.iter().eq(&known.network.map(network_id)));
            let vips = record.virtual_addresses.keys();
            assert!(vips.eq(&known.vip.map(network_id)), "{record:?}");
            let found: Vec<_> = record.ports.iter().map(|port| port.published).collect();
            assert!(found.iter().eq(&known.port), "{found:?}, {:?}", known.port);
            assert!(
                found.iter().all(|port| ports.insert(*port)),
                "{found:?} twice"
            );
        }
        let tasks: BTreeSet<_> = self.tasks.keys().map(|id| task_id(*id)).collect();
        assert!(state.tasks().keys().eq(&tasks), "{:?}", state.tasks());
        let mut endpoints = 0;
        for (id, known) in &self.tasks {
            let record = &state.tasks()[&task_id(*id)];
            assert_eq!(record.service, service_id(known.service));
            let numbers = (record.spec_version, record.created);
            assert_eq!(numbers, (known.version, known.created));
            assert_eq!(record.node, known.node.map(node_id));
            assert_eq!(
                (record.desired, record.status.state),
                (known.desired, known.state)
            );
            if let Some(network) = known.endpoint {
                let endpoint = &state.endpoints()[&task_endpoint(*id, network)];
                assert_eq!(
                    (Some(endpoint.node), endpoint.network),
                    (record.node, network_id(network))
                );
                assert_eq!(record.endpoints, [endpoint.id]);
                endpoints += 1;
            }
        }
        let of_tasks = state
            .endpoints()
            .values()
            .filter(|record| record.task.is_some());
        assert_eq!(of_tasks.count(), endpoints, "endpoints without a task");
    }
}

/// What never goes back.
pub(crate) fn check_progress(before: &ClusterState, after: &ClusterState) {
    for (id, task) in after.tasks() {
        // One command may forget a task and make another one with its identity, here where identities are few.
        let known = before.tasks().get(id);
        if let Some(known) = known.filter(|known| known.created == task.created) {
            assert!(task.desired >= known.desired && task.status.state >= known.status.state);
            assert_eq!(task.service, known.service);
            assert!(
                known.node.is_none() || task.node == known.node,
                "{task:?} moved"
            );
        }
    }
    for (id, service) in after.services() {
        if let Some(known) = before.services().get(id) {
            assert!(service.version >= known.version && service.removing >= known.removing);
            assert!(service.spec_version >= known.spec_version);
        }
    }
}
