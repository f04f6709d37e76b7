//! What changed of an assignment: the leader sends the whole once, and differences from then on.

use std::{cmp::Ordering, collections::BTreeSet};

use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId, TaskId};
use serde::{Deserialize, Serialize};

use super::{
    AssignedEndpoint, AssignedNetwork, AssignedPort, AssignedService, AssignedTask, Assignment,
    Standing,
};
use crate::api::Protocol;

/// What makes one [`Assignment`] out of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentChange {
    /// The version that it starts from; it fits no other.
    pub base: u64,
    /// The version that it leads to.
    pub version: u64,
    /// The cluster's identity.
    pub cluster: NodeId,
    /// How often the cluster was rebuilt from a survivor.
    pub epoch: u64,
    /// What the node is and whom it talks to, if that changed.
    pub standing: Option<Box<Standing>>,
    /// The networks that the node has endpoints on.
    pub networks: Difference<NetworkId, AssignedNetwork>,
    /// The services on these networks.
    pub services: Difference<ServiceId, AssignedService>,
    /// The endpoints that the node runs.
    pub endpoints: Difference<EndpointId, AssignedEndpoint>,
    /// The tasks that the node runs, and those that it shall stop.
    pub tasks: Difference<TaskId, AssignedTask>,
    /// The ports that services publish on this node.
    pub ports: Difference<(u16, Protocol), AssignedPort>,
}

/// What changed of a list that is kept in the order of its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference<K, V> {
    /// What is new or another, in the order of its keys.
    pub put: Vec<V>,
    /// What is there no more.
    pub removed: Vec<K>,
}

/// A part of an assignment that is found by a key.
pub(crate) trait Keyed {
    type Key: Ord + Copy;

    fn key(&self) -> Self::Key;
}

impl Keyed for AssignedNetwork {
    type Key = NetworkId;

    fn key(&self) -> NetworkId {
        self.id
    }
}

impl Keyed for AssignedService {
    type Key = ServiceId;

    fn key(&self) -> ServiceId {
        self.id
    }
}

impl Keyed for AssignedEndpoint {
    type Key = EndpointId;

    fn key(&self) -> EndpointId {
        self.record.id
    }
}

impl Keyed for AssignedTask {
    type Key = TaskId;

    fn key(&self) -> TaskId {
        self.id
    }
}

impl Keyed for AssignedPort {
    type Key = (u16, Protocol);

    fn key(&self) -> (u16, Protocol) {
        (self.port.published, self.port.protocol)
    }
}

impl Assignment {
    /// Returns what makes `next` out of this one.
    pub fn difference(&self, next: &Self) -> AssignmentChange {
        let standing = (self.standing != next.standing).then(|| Box::new(next.standing.clone()));
        AssignmentChange {
            base: self.version,
            version: next.version,
            cluster: next.cluster,
            epoch: next.epoch,
            standing,
            networks: difference(&self.networks, &next.networks),
            services: difference(&self.services, &next.services),
            endpoints: difference(&self.endpoints, &next.endpoints),
            tasks: difference(&self.tasks, &next.tasks),
            ports: difference(&self.ports, &next.ports),
        }
    }

    /// Returns what `change` makes of this one; `None` if it starts from another.
    pub fn changed(&self, change: AssignmentChange) -> Option<Self> {
        let same = change.cluster == self.cluster && change.epoch == self.epoch;
        if change.base != self.version || !same {
            return None;
        }
        let standing = change.standing.map(|standing| *standing);
        Some(Self {
            version: change.version,
            cluster: self.cluster,
            epoch: self.epoch,
            standing: standing.unwrap_or_else(|| self.standing.clone()),
            networks: changed(&self.networks, change.networks),
            services: changed(&self.services, change.services),
            endpoints: changed(&self.endpoints, change.endpoints),
            tasks: changed(&self.tasks, change.tasks),
            ports: changed(&self.ports, change.ports),
        })
    }
}

/// Compares two lists in one walk; both are in the order of their keys.
fn difference<V: Keyed + Clone + PartialEq>(old: &[V], new: &[V]) -> Difference<V::Key, V> {
    let (mut put, mut removed) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return Difference { put, removed },
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.key().cmp(&new.key()),
        };
        let before = old.next_if(|_| order != Ordering::Greater);
        let after = new.next_if(|_| order != Ordering::Less);
        match (before, after) {
            (Some(before), None) => removed.push(before.key()),
            (before, Some(after)) if before != Some(after) => put.push(after.clone()),
            _ => {}
        }
    }
}

/// Carries a difference out. What came over the wire need not be in order: the outcome is.
fn changed<V: Keyed + Clone>(old: &[V], difference: Difference<V::Key, V>) -> Vec<V> {
    let Difference { put, removed } = difference;
    let put_keys: BTreeSet<_> = put.iter().map(Keyed::key).collect();
    let removed: BTreeSet<_> = removed.into_iter().collect();
    let stays = |value: &&V| !removed.contains(&value.key()) && !put_keys.contains(&value.key());
    let mut all: Vec<_> = old.iter().filter(stays).cloned().chain(put).collect();
    all.sort_by_key(Keyed::key);
    all.dedup_by_key(|value| value.key());
    all
}
