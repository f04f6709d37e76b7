//! Chooses nodes for the tasks of one service.

use std::cmp::Ordering;

use overlay_core::{NodeId, ServiceId};

use super::{
    constraint::Constraint,
    ledger::{Branches, Ledger, host_ports},
    preference,
};
use crate::{
    api::{PendingReason, Protocol, Resources},
    state::ServiceRecord,
};

/// Chooses nodes for the tasks of one service.
#[derive(Debug)]
pub(super) struct Placer<'c> {
    service: ServiceId,
    constraints: &'c [(String, Option<Constraint>)],
    branches: Branches,
    /// Open nodes that satisfy the constraints.
    candidates: Vec<usize>,
    /// Whether tasks of the service failed there again and again.
    failing: Vec<bool>,
    resources: Resources,
    ports: Vec<(u16, Protocol)>,
    limit: u32,
    /// Why no node fits; while a plan is made, it only gets tighter.
    stuck: Option<PendingReason>,
}

impl<'c> Placer<'c> {
    /// Starts with the nodes of the service's tasks that shall run.
    pub(super) fn new(
        ledger: &Ledger<'_>,
        record: &ServiceRecord,
        constraints: &'c [(String, Option<Constraint>)],
        on: impl Iterator<Item = NodeId>,
        failing: impl Fn(NodeId) -> bool,
    ) -> Self {
        let spec = record.spec();
        let mut branches = Branches::new(ledger, &labels(record));
        for node in on.filter_map(|node| ledger.index_of(node)) {
            branches.add(node);
        }
        let nodes = ledger.nodes.iter().enumerate();
        let fits = |at: &usize| {
            let node = &ledger.nodes[*at];
            node.is_open() && constraints.iter().all(|one| holds(one, ledger, *at))
        };
        Self {
            service: record.id,
            constraints,
            branches,
            candidates: nodes.map(|(at, _)| at).filter(fits).collect(),
            failing: ledger
                .nodes
                .iter()
                .map(|node| failing(node.record.id))
                .collect(),
            resources: spec.task.resources,
            ports: host_ports(&record.ports).collect(),
            limit: spec.placement.replicas_per_node_max,
            stuck: None,
        }
    }

    /// Chooses the best node and counts the task there. `instead_of` is the node of the task that this one replaces and
    /// that is still wanted: it is as good as away.
    pub(super) fn place(
        &mut self,
        ledger: &mut Ledger<'_>,
        instead_of: Option<NodeId>,
    ) -> Result<NodeId, PendingReason> {
        let instead_of = instead_of.and_then(|node| ledger.index_of(node));
        if let Some(reason) = self.stuck.as_ref().filter(|_| instead_of.is_none()) {
            return Err(reason.clone());
        }
        if let Some(node) = instead_of {
            self.branches.subtract(node);
        }
        let fitting = self.candidates.iter().copied();
        let best = fitting
            .filter(|at| self.fits(ledger, *at))
            .min_by(|one, other| self.compare(ledger, *one, *other));
        let chosen = match best {
            Some(node) => Ok(self.take(ledger, node)),
            None => {
                let all = (0..ledger.nodes.len()).collect();
                Err(self.reason(ledger, all))
            }
        };
        if let Some(node) = instead_of {
            self.branches.add(node);
        } else if let Err(reason) = &chosen {
            self.stuck = Some(reason.clone());
        }
        chosen
    }

    /// Counts a task on the one node that it is for, if it fits there.
    pub(super) fn place_on(
        &mut self,
        ledger: &mut Ledger<'_>,
        node: NodeId,
        instead_of: bool,
    ) -> Result<NodeId, PendingReason> {
        let at = ledger.index_of(node).ok_or(PendingReason::NoNode)?;
        if instead_of {
            self.branches.subtract(at);
        }
        let chosen = if self.candidates.binary_search(&at).is_ok() && self.fits(ledger, at) {
            Ok(self.take(ledger, at))
        } else {
            Err(self.reason(ledger, vec![at]))
        };
        if instead_of {
            self.branches.add(at);
        }
        chosen
    }

    fn fits(&self, ledger: &Ledger<'_>, at: usize) -> bool {
        let node = &ledger.nodes[at];
        (self.limit == 0 || self.branches.on[at] < self.limit)
            && node.has_left(self.resources)
            && !self.ports.iter().any(|port| node.has_port(*port))
    }

    /// The better node is the lesser one.
    fn compare(&self, ledger: &Ledger<'_>, one: usize, other: usize) -> Ordering {
        let rest = |at: usize| (self.branches.on[at], ledger.nodes[at].wanted, at);
        self.failing[one]
            .cmp(&self.failing[other])
            .then_with(|| self.branches.counts(one).cmp(self.branches.counts(other)))
            .then_with(|| rest(one).cmp(&rest(other)))
    }

    fn take(&mut self, ledger: &mut Ledger<'_>, at: usize) -> NodeId {
        self.branches.add(at);
        let node = &mut ledger.nodes[at];
        node.wanted += 1;
        node.take(self.resources, self.ports.iter().copied());
        node.record.id
    }

    /// Returns at which condition the last of `nodes` drops out.
    fn reason(&self, ledger: &Ledger<'_>, mut nodes: Vec<usize>) -> PendingReason {
        nodes.retain(|at| ledger.nodes[*at].is_open());
        if nodes.is_empty() {
            return PendingReason::NoNode;
        }
        for constraint in self.constraints {
            nodes.retain(|at| holds(constraint, ledger, *at));
            if nodes.is_empty() {
                let constraint = constraint.0.clone();
                return PendingReason::Constraint { constraint };
            }
        }
        for port in &self.ports {
            nodes.retain(|at| !ledger.nodes[*at].has_port(*port));
            if nodes.is_empty() {
                return PendingReason::HostPort { port: port.0 };
            }
        }
        nodes.retain(|at| ledger.nodes[*at].has_left(self.resources));
        if nodes.is_empty() {
            let wanted = self.resources;
            return PendingReason::Resources { wanted };
        }
        debug_assert!(
            self.limit > 0,
            "a node fits service {} and was not chosen",
            self.service
        );
        PendingReason::NodeLimit { limit: self.limit }
    }
}

/// Returns the labels that a service's tasks are spread over, outermost first.
pub(super) fn labels(record: &ServiceRecord) -> Vec<String> {
    let preferences = &record.spec().placement.preferences;
    preferences
        .iter()
        .filter_map(|text| preference::parse(text).ok())
        .collect()
}

/// A constraint that cannot be read is one that nothing satisfies.
fn holds(constraint: &(String, Option<Constraint>), ledger: &Ledger<'_>, at: usize) -> bool {
    let read = constraint.1.as_ref();
    read.is_some_and(|constraint| constraint.holds(ledger.nodes[at].record))
}
