//! Whose assignments a change of the state may be another for.

use std::collections::BTreeSet;

use overlay_core::{NetworkId, NodeId, ServiceId};

use super::{Manager, assign::named_networks};
use crate::{
    api::{DesiredState, TaskState},
    state::{Changed, ClusterState, NodeRecord, ServiceRecord, TaskRecord},
    wire::ManagerAddress,
};

/// How many changes a manager keeps for itself at the least: more than one command makes, but for the largest.
pub(super) const CHANGES_MIN: usize = 256;

/// The nodes whose assignments may be others than they were.
#[derive(Debug, Default)]
pub(super) struct Touched {
    all: bool,
    nodes: BTreeSet<NodeId>,
}

/// What of the state assignments were compared with last.
#[derive(Debug, Default)]
pub(super) struct Compared {
    applied: u64,
    managers: Vec<ManagerAddress>,
}

impl Compared {
    pub(super) fn applied(&self) -> u64 {
        self.applied
    }
}

impl Touched {
    pub(super) fn contains(&self, node: NodeId) -> bool {
        self.all || self.nodes.contains(&node)
    }

    fn note(&mut self, state: &ClusterState, object: &Changed) {
        match object {
            Changed::Node { previous, new } => match (previous, new) {
                (Some(previous), Some(new)) => {
                    self.all |= reached(previous) != reached(new);
                    // Its zone, and the ports that are open on it.
                    self.nodes.insert(new.id);
                }
                (None, Some(new)) => drop(self.nodes.insert(new.id)),
                // Its tasks and endpoints went with it, and are told of.
                _ => {}
            },
            // Nobody is on a network that is new, or gone.
            Changed::Network { previous, new } => self.all |= previous.is_some() && new.is_some(),
            Changed::Endpoint { previous, new } => {
                for endpoint in previous.iter().chain(new) {
                    self.nodes.insert(endpoint.node);
                    self.note_policy(state, endpoint.network);
                    let owner = endpoint.task.as_ref();
                    self.all |= owner.is_some_and(|owner| publishes(state, owner.service));
                }
            }
            Changed::Service { previous, new } => {
                self.all |= reached_by(previous.as_deref()) != reached_by(new.as_deref());
                if labels(previous.as_deref()) != labels(new.as_deref()) {
                    let records = previous.iter().chain(new);
                    let networks = records.flat_map(|service| &service.networks);
                    networks.for_each(|network| self.note_policy(state, *network));
                }
            }
            Changed::Task { previous, new } => {
                for task in previous.iter().chain(new) {
                    self.nodes.extend(task.node);
                    let answered = previous.as_deref().is_some_and(answers);
                    self.all |= answered != new.as_deref().is_some_and(answers)
                        && publishes(state, task.service);
                }
            }
            _ => self.all = true,
        }
    }

    /// Notes that other addresses fit the rules of a network: if it has any, all its nodes are told.
    fn note_policy(&mut self, state: &ClusterState, network: NetworkId) {
        let record = state.networks().get(&network);
        if record.is_some_and(|record| !record.rules.is_empty()) {
            let endpoints = state.endpoints_of(network);
            self.nodes.extend(endpoints.map(|endpoint| endpoint.node));
        }
    }
}

impl Manager {
    /// Returns whose assignments may have changed since this was asked last.
    pub(super) fn touched(&mut self) -> Touched {
        let applied = self.state.applied();
        let mut touched = Touched::default();
        if self.compared.applied == applied {
            return touched;
        }
        match self.state.changes_after(self.compared.applied) {
            Ok(changes) => changes.for_each(|change| touched.note(&self.state, &change.object)),
            Err(_) => touched.all = true,
        }
        let managers = self.managers();
        touched.all |= managers != self.compared.managers;
        self.compared = Compared { applied, managers };
        touched
    }
}

fn reached(node: &NodeRecord) -> impl PartialEq {
    (node.role, node.raft, node.management(), node.gossip())
}

/// Returns what nodes that run none of a service's tasks have to know of it.
fn reached_by(service: Option<&ServiceRecord>) -> impl PartialEq {
    service.filter(|service| !service.removing).map(|service| {
        let spec = service.spec();
        let named = (
            spec.name.clone(),
            spec.named_ports.clone(),
            spec.texts.clone(),
            spec.balance,
        );
        let networks: Vec<_> = named_networks(service).collect();
        (service.ports.clone(), networks, named)
    })
}

fn labels(service: Option<&ServiceRecord>) -> impl PartialEq + '_ {
    service.map(|service| &service.spec().labels)
}

fn publishes(state: &ClusterState, service: ServiceId) -> bool {
    let service = state.services().get(&service);
    service.is_none_or(|service| !service.ports.is_empty())
}

/// Returns whether published ports lead to the task.
pub(super) fn answers(task: &TaskRecord) -> bool {
    task.status.state == TaskState::Running && task.desired == DesiredState::Running
}
