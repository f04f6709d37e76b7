//! What each node has to carry, kept up while a plan is made.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::{NodeId, ServiceId};

use super::{View, service::takes_alike};
use crate::{
    api::{Availability, Protocol, PublishMode, PublishedPort, Resources},
    state::{NodeRecord, ServiceRecord, TaskRecord},
};

/// All nodes and what they carry.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    pub(super) nodes: Vec<Carrier<'a>>,
    index: BTreeMap<NodeId, usize>,
    /// Whether there is a node of which nothing is known yet.
    pub(super) unknown: bool,
}

/// A node and what it carries.
#[derive(Debug)]
pub(super) struct Carrier<'a> {
    pub(super) record: &'a NodeRecord,
    pub(super) condition: Condition,
    /// Tasks that shall run on it.
    pub(super) wanted: u32,
    used: Resources,
    ports: BTreeSet<(u16, Protocol)>,
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It answers.
    Ready,
    /// It was not heard of yet: what it runs stays, and it gets nothing new.
    Unknown,
    /// It does not answer any more.
    Down,
    /// It is not of the cluster any more.
    Gone,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(view: &View<'a>) -> Self {
        let carrier = |record: &'a NodeRecord| Carrier {
            record,
            condition: if view.down.contains(&record.id) {
                Condition::Down
            } else if view.ready.contains(&record.id) {
                Condition::Ready
            } else {
                Condition::Unknown
            },
            wanted: 0,
            used: Resources::default(),
            ports: BTreeSet::new(),
        };
        let nodes: Vec<_> = view.nodes.values().map(carrier).collect();
        let index = nodes.iter().enumerate();
        Self {
            index: index.map(|(at, node)| (node.record.id, at)).collect(),
            unknown: nodes
                .iter()
                .any(|node| node.condition == Condition::Unknown),
            nodes,
        }
    }

    /// Puts on its node what a task takes there.
    pub(super) fn carry(&mut self, service: Option<&ServiceRecord>, task: &TaskRecord) {
        if task.status.state.is_terminal() {
            return;
        }
        let Some(at) = task.node.and_then(|node| self.index_of(node)) else {
            return;
        };
        if is_wanted(task) {
            self.nodes[at].wanted += 1;
        }
        if let Some((service, spec)) =
            service.and_then(|service| Some((service, service.specs.get(&task.spec_version)?)))
        {
            let ports = if takes_alike(&spec.ports, &service.spec().ports) {
                &service.ports
            } else {
                &spec.ports
            };
            self.nodes[at].take(spec.task.resources, host_ports(ports));
        }
    }

    pub(super) fn index_of(&self, node: NodeId) -> Option<usize> {
        self.index.get(&node).copied()
    }

    pub(super) fn condition(&self, node: NodeId) -> Condition {
        self.index_of(node)
            .map_or(Condition::Gone, |at| self.nodes[at].condition)
    }

    /// Says that a task on `node` shall not run any more.
    pub(super) fn unwant(&mut self, node: NodeId) {
        if let Some(at) = self.index_of(node) {
            self.nodes[at].wanted = self.nodes[at].wanted.saturating_sub(1);
        }
    }
}

impl Carrier<'_> {
    /// Returns whether it gets new tasks.
    pub(super) fn is_open(&self) -> bool {
        self.condition == Condition::Ready && self.record.availability == Availability::Active
    }

    pub(super) fn take(
        &mut self,
        resources: Resources,
        ports: impl Iterator<Item = (u16, Protocol)>,
    ) {
        self.used.nano_cpus = self.used.nano_cpus.saturating_add(resources.nano_cpus);
        self.used.memory_bytes = self
            .used
            .memory_bytes
            .saturating_add(resources.memory_bytes);
        self.ports.extend(ports);
    }

    pub(super) fn has_port(&self, port: (u16, Protocol)) -> bool {
        self.ports.contains(&port)
    }

    /// Returns whether so much is left. Of a node that does not say what it has, there is always enough.
    pub(super) fn has_left(&self, wanted: Resources) -> bool {
        let fits = |has: u64, used: u64, wanted: u64| {
            has == 0 || wanted == 0 || used.saturating_add(wanted) <= has
        };
        let has = self.record.resources;
        fits(has.nano_cpus, self.used.nano_cpus, wanted.nano_cpus)
            && fits(
                has.memory_bytes,
                self.used.memory_bytes,
                wanted.memory_bytes,
            )
    }
}

/// Returns the ports that a task opens on its node.
pub(super) fn host_ports(ports: &[PublishedPort]) -> impl Iterator<Item = (u16, Protocol)> {
    let host = |port: &&PublishedPort| port.mode == PublishMode::Host && port.published != 0;
    ports
        .iter()
        .filter(host)
        .map(|port| (port.published, port.protocol))
}

/// Returns whether a task shall run and has not ended.
pub(super) fn is_wanted(task: &TaskRecord) -> bool {
    task.desired <= crate::api::DesiredState::Running && !task.status.state.is_terminal()
}

/// The branches of nodes that a service's preferences make, and how many of its tasks each has.
#[derive(Debug)]
pub(super) struct Branches {
    /// For each level, outermost first, the branch of each node.
    of: Vec<Vec<usize>>,
    /// For each level, how many tasks of the service its branches have.
    tasks: Vec<Vec<u32>>,
    /// How many tasks of the service each node has.
    pub(super) on: Vec<u32>,
}

impl Branches {
    /// Sorts the nodes by the values of `labels`; a branch of a level lies within one of the level before.
    pub(super) fn new(ledger: &Ledger<'_>, labels: &[String]) -> Self {
        let mut outer = vec![0; ledger.nodes.len()];
        let (mut of, mut tasks) = (Vec::new(), Vec::new());
        for label in labels {
            let mut known = BTreeMap::new();
            for (at, node) in ledger.nodes.iter().enumerate() {
                let value = node.record.labels.get(label).map(String::as_str);
                let next = known.len();
                outer[at] = *known.entry((outer[at], value)).or_insert(next);
            }
            tasks.push(vec![0; known.len()]);
            of.push(outer.clone());
        }
        Self {
            of,
            tasks,
            on: vec![0; ledger.nodes.len()],
        }
    }

    pub(super) fn add(&mut self, node: usize) {
        self.on[node] += 1;
        for (of, tasks) in self.of.iter().zip(&mut self.tasks) {
            tasks[of[node]] += 1;
        }
    }

    pub(super) fn subtract(&mut self, node: usize) {
        self.on[node] = self.on[node].saturating_sub(1);
        for (of, tasks) in self.of.iter().zip(&mut self.tasks) {
            tasks[of[node]] = tasks[of[node]].saturating_sub(1);
        }
    }

    /// Returns how many tasks the branches of a node have, outermost first.
    pub(super) fn counts(&self, node: usize) -> impl Iterator<Item = u32> {
        let levels = self.of.iter().zip(&self.tasks);
        levels.map(move |(of, tasks)| tasks[of[node]])
    }
}

/// The key of what is remembered of a service on a node.
pub(super) type OnNode = (ServiceId, NodeId);
